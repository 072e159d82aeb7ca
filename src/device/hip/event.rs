//! A point in a stream's order: waited for, or timed.

use std::sync::Arc;

use hip_sys::hiprt::{hipEvent_t, hipStream_t};

use super::card::Card;
use super::stream::Stream;
use crate::Result;

#[derive(Debug)]
pub struct Event {
    card: Arc<Card>,
    raw: hipEvent_t,
}

// SAFETY: the runtime's events may be used from any thread, by several at once.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

const DISABLE_TIMING: u32 = 2;

impl Event {
    pub fn new(card: &Arc<Card>) -> Result<Self> {
        Self::with_flags(card, 0)
    }

    /// Cheaper; cannot be asked for times.
    pub fn without_timing(card: &Arc<Card>) -> Result<Self> {
        Self::with_flags(card, DISABLE_TIMING)
    }

    fn with_flags(card: &Arc<Card>, flags: u32) -> Result<Self> {
        card.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the address of a handle to fill.
        card.check(unsafe { card.api().event_create(&mut raw, flags) })?;
        Ok(Event { card: Arc::clone(card), raw })
    }

    /// Puts the event behind all that was given to the stream.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.card.enter()?;
        // SAFETY: live handles of the thread's device.
        self.card.check(unsafe { self.card.api().event_record(self.raw, stream.raw()) })
    }

    /// Lets what is given to `stream` from now on wait for the event as last recorded, on any stream of the device.
    pub fn hold(&self, stream: &Stream) -> Result<()> {
        self.card.enter()?;
        // SAFETY: live handles of the thread's device.
        self.card.check(unsafe { self.card.api().stream_wait_event(stream.raw(), self.raw, 0) })
    }

    /// Waits until the device has passed the event; at once where it was never recorded.
    pub fn synchronize(&self) -> Result<()> {
        self.card.enter()?;
        // SAFETY: a live event of the thread's device.
        let outcome = unsafe { self.card.api().event_synchronize(self.raw) };
        // success tells nothing of what was launched behind the event, on whichever stream
        if outcome.is_ok() {
            Ok(())
        } else {
            self.card.check_waited(outcome, (std::ptr::null_mut() as hipStream_t).into())
        }
    }

    /// Seconds from `start` to this event; both are recorded with timing and passed.
    pub fn seconds_since(&self, start: &Event) -> Result<f64> {
        self.card.enter()?;
        let mut ms = 0.0;
        // SAFETY: live events; the address of a float to fill.
        self.card.check(unsafe { self.card.api().event_elapsed_ms(&mut ms, start.raw, self.raw) })?;
        Ok(f64::from(ms) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `with_flags`, destroyed once.
        self.card.release(|api| unsafe { api.event_destroy(self.raw) });
    }
}
