//! An order of work on a device.

use std::sync::Arc;

use hip_sys::hiprt::hipStream_t;

use super::card::Card;
use super::memory::Span;
use crate::{Error, Result};

/// Work in the order it was given; streams do not wait for one another. Callable from any thread.
#[derive(Debug)]
pub struct Stream {
    card: Arc<Card>,
    raw: hipStream_t,
}

// SAFETY: the runtime's streams may be used from any thread, by several at once.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// Does not wait for the null stream, which this library never uses.
const NON_BLOCKING: u32 = 1;

impl Stream {
    pub fn new(card: &Arc<Card>) -> Result<Self> {
        card.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the address of a handle to fill.
        card.check(unsafe { card.api().stream_create(&mut raw, NON_BLOCKING) })?;
        Ok(Stream { card: Arc::clone(card), raw })
    }

    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    pub fn raw(&self) -> hipStream_t {
        self.raw
    }

    /// Waits until all work given so far is done. A fault of it is reported here, with the launches that it may be of.
    pub fn synchronize(&self) -> Result<()> {
        self.card.enter()?;
        // SAFETY: a live stream of the thread's device.
        let outcome = unsafe { self.card.api().stream_synchronize(self.raw) };
        self.card.check_waited(outcome, self.raw.into())
    }

    /// Copies `src` to `dst`, of the same length.
    pub fn copy(&self, src: Span<'_>, dst: Span<'_>) -> Result<()> {
        if src.bytes() != dst.bytes() {
            return Err(Error::param(format!("a copy of {} bytes to {}", src.bytes(), dst.bytes())));
        }
        if src.bytes() == 0 {
            return Ok(());
        }
        self.card.enter()?;
        // SAFETY: both lie in live buffers.
        self.card.check(unsafe {
            self.card.api().memcpy_on_device(dst.ptr().0, src.ptr().0, src.bytes() as usize, self.raw)
        })
    }

    /// Sets every byte.
    pub fn fill(&self, dst: Span<'_>, value: u8) -> Result<()> {
        if dst.bytes() == 0 {
            return Ok(());
        }
        self.card.enter()?;
        // SAFETY: `dst` lies in a live buffer.
        self.card.check(unsafe { self.card.api().memset(dst.ptr().0, value, dst.bytes() as usize, self.raw) })
    }
}

impl Drop for Stream {
    /// Work under way goes on.
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        self.card.release(|api| unsafe { api.stream_destroy(self.raw) });
    }
}
