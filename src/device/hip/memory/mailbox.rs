//! Parameters to the device and a result back, for work that is done many times.

use super::pool::Span;
use super::staging::Pinned;
use crate::device::hip::card::Card;
use crate::device::hip::event::Event;
use crate::device::hip::stream::Stream;
use crate::{Error, Result};
use std::sync::Arc;

/// Pinned memory for one message each way. One exchange at a time: [`send`](Self::send), the work,
/// [`receive`](Self::receive), [`wait`](Self::wait).
#[derive(Debug)]
pub struct Mailbox {
    sent: Pinned,
    received: Pinned,
    /// Recorded behind the last copy.
    done: Event,
    /// A copy may be in flight.
    is_busy: bool,
}

impl Mailbox {
    /// For messages of at most so many bytes.
    pub fn new(card: &Arc<Card>, sent: usize, received: usize) -> Result<Self> {
        Ok(Mailbox {
            sent: Pinned::new(card, sent)?,
            received: Pinned::new(card, received)?,
            done: Event::without_timing(card)?,
            is_busy: false,
        })
    }

    /// Copies what `write` leaves in the message to `dst`, of the same length, in the stream's order. An exchange that
    /// nobody waited for is waited for first.
    pub fn send(&mut self, stream: &Stream, dst: Span<'_>, write: impl FnOnce(&mut [u8])) -> Result<()> {
        self.settle()?;
        let bytes = message(dst, self.sent.bytes().len())?;
        write(&mut self.sent.bytes_mut()[..bytes]);
        let memory = self.sent.bytes().as_ptr().cast_mut().cast();
        stream.card().enter()?;
        self.is_busy = true;
        // SAFETY: pinned memory that nobody writes or frees until `done`; `dst` lies in a live buffer.
        let outcome =
            unsafe { stream.card().api().memcpy_to_device(dst.ptr().0, memory, bytes, stream.raw()) };
        let queued = stream.card().check(outcome);
        self.record(stream, queued)
    }

    /// Copies `src` to the result, in the stream's order.
    pub fn receive(&mut self, stream: &Stream, src: Span<'_>) -> Result<()> {
        let bytes = message(src, self.received.bytes().len())?;
        let memory = self.received.bytes_mut().as_mut_ptr().cast();
        stream.card().enter()?;
        self.is_busy = true;
        // SAFETY: pinned memory that nobody reads or frees until `done`; `src` lies in a live buffer.
        let outcome = unsafe { stream.card().api().memcpy_to_host(memory, src.ptr().0, bytes, stream.raw()) };
        let queued = stream.card().check(outcome);
        self.record(stream, queued)
    }

    /// Waits for the stream; the result as it was received last.
    pub fn wait(&mut self, stream: &Stream) -> Result<&[u8]> {
        // and not for the event: so a fault is reported with what was launched
        stream.synchronize()?;
        self.settle()?;
        Ok(self.received.bytes())
    }

    fn record(&mut self, stream: &Stream, queued: Result<()>) -> Result<()> {
        queued.and_then(|()| self.done.record(stream)).inspect_err(|_| {
            // whether a copy is under way is unknown, and no event tells: wait for the stream
            self.is_busy = stream.synchronize().is_err();
        })
    }

    fn settle(&mut self) -> Result<()> {
        if self.is_busy {
            self.done.synchronize()?;
            self.is_busy = false;
        }
        Ok(())
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        // a failure means that the device is lost and touches nothing any more
        let _ = self.settle();
    }
}

fn message(span: Span<'_>, most: usize) -> Result<usize> {
    usize::try_from(span.bytes())
        .ok()
        .filter(|bytes| *bytes <= most)
        .ok_or_else(|| Error::param(format!("a message of {} bytes; at most {most} are meant", span.bytes())))
}
