//! Memory of the CPU device: asked for, not demanded, and zeroed when first touched; and views of it that several threads
//! write disjoint parts of.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

use memmap2::MmapMut;

use super::system;
use crate::{Error, Result, memory};

pub const CACHE_LINE: usize = 64;
/// Where Linux has huge pages, one entry of the TLB covers this much.
const HUGE_PAGE: usize = 2 << 20;
/// From so many bytes on zeros are mapped, which costs nothing until they are touched.
const MAPPED: usize = 128 << 10;

/// One allocation, aligned to a cache line at least.
pub struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    source: Source,
}

enum Source {
    Allocator(Layout),
    /// Owned for its drop.
    System(#[expect(dead_code)] MmapMut),
}

// SAFETY: Memory is an owned allocation; it hands out a raw pointer only, whose users state their own rules.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Uninitialized. Large allocations ask for huge pages; they cost no time until touched.
    pub fn new(bytes: usize, what: &str) -> Result<Self> {
        let huge = bytes >= HUGE_PAGE;
        let layout = layout(bytes, if huge { HUGE_PAGE } else { CACHE_LINE }, what)?;
        // SAFETY: `layout` has a size above zero.
        let start = memory::asking(|| unsafe { alloc(layout) });
        let start = NonNull::new(start).ok_or_else(|| exhausted(bytes, what))?;
        #[cfg(target_os = "linux")]
        if huge {
            // SAFETY: the range is this allocation; the call is advice, a refusal changes nothing.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        Ok(Memory { start, bytes: layout.size(), source: Source::Allocator(layout) })
    }

    /// Zeros. Large ones take no memory, and no time, until touched; where the system then has none, it may end the
    /// process.
    pub fn zeroed(bytes: usize, what: &str) -> Result<Self> {
        if bytes >= MAPPED {
            let mut map = MmapMut::map_anon(bytes).map_err(|_| exhausted(bytes, what))?;
            let start = NonNull::from(&mut map[..]).cast();
            return Ok(Memory { start, bytes, source: Source::System(map) });
        }
        let layout = layout(bytes, CACHE_LINE, what)?;
        // SAFETY: `layout` has a size above zero.
        let start = memory::asking(|| unsafe { alloc_zeroed(layout) });
        let start = NonNull::new(start).ok_or_else(|| exhausted(bytes, what))?;
        Ok(Memory { start, bytes: layout.size(), source: Source::Allocator(layout) })
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Source::Allocator(layout) = self.source {
            // SAFETY: `start` came from the allocator with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

fn layout(bytes: usize, align: usize, what: &str) -> Result<Layout> {
    Layout::from_size_align(bytes.max(1), align).map_err(|_| exhausted(bytes, what))
}

fn exhausted(bytes: usize, what: &str) -> Error {
    let (total, free) = system::memory();
    Error::OutOfMemory { what: what.to_owned(), wanted: bytes as u64, free, total }
}

/// A zeroed, cache-line aligned array of plain numbers that threads share by pointer.
pub struct Zeroed<T> {
    memory: Memory,
    len: usize,
    of: PhantomData<T>,
}

/// Types for which all bits zero is the number zero.
///
/// # Safety
/// The implementor is such a type and needs no drop.
pub unsafe trait Number: Copy + Send + Sync {}
// SAFETY: 0.0
unsafe impl Number for f32 {}
// SAFETY: 0.0
unsafe impl Number for half::f16 {}

impl<T: Number> Zeroed<T> {
    /// `len` None: the product of sizes overflowed.
    pub fn new(len: Option<usize>, what: &str) -> Result<Self> {
        let bytes = len.and_then(|n| n.checked_mul(size_of::<T>()));
        let (Some(len), Some(bytes)) = (len, bytes) else { return Err(exhausted(usize::MAX, what)) };
        Ok(Zeroed { memory: Memory::zeroed(bytes, what)?, len, of: PhantomData })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    /// Bytes that so many elements take; u64::MAX where the product of sizes overflowed.
    pub fn bytes_of(len: Option<usize>) -> u64 {
        len.map_or(u64::MAX, |n| (n as u64).saturating_mul(size_of::<T>() as u64))
    }

    /// The start; for writing, where the caller sees to it that nobody else uses the elements.
    pub fn ptr(&self) -> *mut T {
        self.memory.as_ptr().cast()
    }
}

/// A row-major f32 matrix that threads share. Each method's caller sees to it that no thread writes what
/// another uses: within a phase of the team, chunks touch disjoint outputs and no output is an input.
#[derive(Clone, Copy)]
pub struct Matrix {
    ptr: *mut f32,
    pub rows: usize,
    pub width: usize,
}

// SAFETY: plain memory; see the type's rule.
unsafe impl Send for Matrix {}
// SAFETY: plain memory; see the type's rule.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// `ptr` must stay valid for `rows * width` elements while the matrix is used.
    pub fn new(ptr: *mut f32, rows: usize, width: usize) -> Self {
        Matrix { ptr, rows, width }
    }

    pub fn ptr(&self) -> *mut f32 {
        self.ptr
    }

    /// Where a row begins; it is `width` long.
    pub fn start(&self, row: usize) -> *mut f32 {
        self.at(row, 0, self.width)
    }

    fn at(&self, row: usize, from: usize, len: usize) -> *mut f32 {
        assert!(row < self.rows && from <= self.width && len <= self.width - from);
        // SAFETY: inside the matrix, as just checked.
        unsafe { self.ptr.add(row * self.width + from) }
    }

    /// # Safety
    /// Nobody writes the row while the slice lives.
    pub unsafe fn row<'a>(&self, row: usize) -> &'a [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(row, 0, self.width), self.width) }
    }

    /// # Safety
    /// Nobody else uses the row while the slice lives.
    pub unsafe fn row_mut<'a>(&self, row: usize) -> &'a mut [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, 0, self.width), self.width) }
    }

    /// # Safety
    /// Nobody writes these elements while the slice lives.
    pub unsafe fn part<'a>(&self, row: usize, from: usize, len: usize) -> &'a [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(row, from, len), len) }
    }

    /// # Safety
    /// Nobody else uses these elements while the slice lives.
    pub unsafe fn part_mut<'a>(&self, row: usize, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, from, len), len) }
    }
}
