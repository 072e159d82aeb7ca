//! Aligned memory that is asked for, not demanded: exhaustion is an error.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::{Error, Result, memory};

pub(super) const CACHE_LINE: usize = 64;
/// Where Linux has huge pages, one entry of the TLB covers this much.
const HUGE_PAGE: usize = 2 << 20;

/// One allocation, aligned to a cache line at least.
pub(super) struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: Memory is an owned allocation; it hands out a raw pointer only, whose users state their own rules.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Uninitialized. Large allocations ask for huge pages; they cost no time until touched.
    pub(super) fn new(bytes: usize, what: &str) -> Result<Self> {
        let huge = bytes >= HUGE_PAGE;
        let layout = layout(bytes, if huge { HUGE_PAGE } else { CACHE_LINE }, what)?;
        // SAFETY: `layout` has a size above zero.
        let start = memory::asking(|| unsafe { alloc(layout) });
        let memory = Self { start: NonNull::new(start).ok_or_else(|| exhausted(bytes, what))?, layout };
        #[cfg(target_os = "linux")]
        if huge {
            // SAFETY: the range is this allocation; the call is advice, a refusal changes nothing.
            unsafe { libc::madvise(start.cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        Ok(memory)
    }

    pub(super) fn zeroed(bytes: usize, what: &str) -> Result<Self> {
        let layout = layout(bytes, CACHE_LINE, what)?;
        // SAFETY: `layout` has a size above zero.
        let start = memory::asking(|| unsafe { alloc_zeroed(layout) });
        Ok(Self { start: NonNull::new(start).ok_or_else(|| exhausted(bytes, what))?, layout })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(super) fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `start` came from the allocator with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

fn layout(bytes: usize, align: usize, what: &str) -> Result<Layout> {
    Layout::from_size_align(bytes.max(1), align).map_err(|_| exhausted(bytes, what))
}

fn exhausted(bytes: usize, what: &str) -> Error {
    memory::exhausted(what, bytes)
}
