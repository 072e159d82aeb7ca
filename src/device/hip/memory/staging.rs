//! Host memory to the device and back. A runtime that is handed pageable memory, a file's map above all, copies
//! slowly; so bytes pass through two pinned buffers, one filled or emptied while the other is in flight.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use super::pool::Span;
use crate::device::hip::card::Card;
use crate::device::hip::driver::{Api, Outcome, code};
use crate::device::hip::event::Event;
use crate::device::hip::stream::Stream;
use crate::{Error, Result};

/// Bytes of each of the two buffers, where nothing else is asked for.
pub const HALF_BYTES: usize = 16 << 20;

/// Host memory that the device reads and writes directly.
#[derive(Debug)]
pub struct Pinned {
    card: Arc<Card>,
    memory: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory with one owner; what it borrows out follows Rust's rules.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` > 0 zero bytes.
    pub fn new(card: &Arc<Card>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1);
        card.enter()?;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: the address of a pointer to fill.
        let outcome = unsafe { card.api().host_malloc(&mut memory, bytes, 0) };
        if outcome.code == code::OUT_OF_MEMORY {
            let what = "pinned host memory".to_owned();
            return Err(Error::OutOfMemory { what, wanted: bytes as u64, free: 0, total: 0 });
        }
        card.check(outcome)?;
        let memory = NonNull::new(memory.cast::<u8>())
            .ok_or_else(|| Error::Internal(format!("{} gave no memory", outcome.call)))?;
        // SAFETY: `bytes` bytes were just allocated there.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Pinned { card: Arc::clone(card), memory, bytes })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and written by `new`; the device writes it only in this file, under `&mut Staging`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: from host_malloc, given back once; whoever let the device use it has waited for that.
        self.card.release(|api| unsafe { api.host_free(self.memory.as_ptr().cast()) });
    }
}

/// Two pinned buffers. One user at a time.
#[derive(Debug)]
pub struct Staging {
    halves: [Half; 2],
    /// The half that is used next.
    next: usize,
}

#[derive(Debug)]
struct Half {
    memory: Pinned,
    /// Recorded behind the half's last copy.
    done: Event,
    /// A copy may still be in flight.
    busy: bool,
}

impl Staging {
    pub fn new(card: &Arc<Card>) -> Result<Self> {
        Self::with_halves(card, HALF_BYTES)
    }

    /// Buffers of `bytes` each.
    pub fn with_halves(card: &Arc<Card>, bytes: usize) -> Result<Self> {
        let half = || {
            Ok(Half { memory: Pinned::new(card, bytes)?, done: Event::without_timing(card)?, busy: false })
        };
        Ok(Staging { halves: [half()?, half()?], next: 0 })
    }

    /// Bytes that one copy moves at most.
    pub fn half_bytes(&self) -> usize {
        self.halves[0].memory.bytes
    }

    /// Copies `src` to `dst`, of the same length, in the stream's order. When it returns, `src` has been read; the
    /// device's memory holds it for whatever follows on the stream. Not while the stream is captured.
    pub fn upload(&mut self, stream: &Stream, src: &[u8], dst: Span<'_>) -> Result<()> {
        same_length(src.len(), dst)?;
        let mut at = 0;
        for piece in src.chunks(self.half_bytes()) {
            let half = self.claim()?;
            half.memory.bytes_mut()[..piece.len()].copy_from_slice(piece);
            let dst = dst.part(at..at + piece.len() as u64)?;
            // SAFETY: pinned memory that stays until `done`; `dst` lies in a live buffer.
            half.copy(stream, |api, memory| unsafe {
                api.memcpy_to_device(dst.ptr().0, memory, piece.len(), stream.raw())
            })?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Copies `src` to `dst`, of the same length, after all that stands before on the stream, and waits for it. Not
    /// while the stream is captured.
    pub fn download(&mut self, stream: &Stream, src: Span<'_>, dst: &mut [u8]) -> Result<()> {
        same_length(dst.len(), src)?;
        let mut at = 0;
        let mut in_flight: Option<(usize, &mut [u8])> = None;
        for piece in dst.chunks_mut(self.half_bytes()) {
            let index = self.next;
            let part = src.part(at..at + piece.len() as u64)?;
            // SAFETY: pinned memory that stays until `done`; `part` lies in a live buffer.
            self.claim()?.copy(stream, |api, memory| unsafe {
                api.memcpy_to_host(memory, part.ptr().0, piece.len(), stream.raw())
            })?;
            at += piece.len() as u64;
            if let Some((index, piece)) = in_flight.replace((index, piece)) {
                self.take(index, piece)?;
            }
        }
        in_flight.map_or(Ok(()), |(index, piece)| self.take(index, piece))
    }

    /// The next half, free to use.
    fn claim(&mut self) -> Result<&mut Half> {
        let half = &mut self.halves[self.next];
        half.wait()?;
        self.next = 1 - self.next;
        Ok(half)
    }

    fn take(&mut self, half: usize, dst: &mut [u8]) -> Result<()> {
        let half = &mut self.halves[half];
        half.wait()?;
        dst.copy_from_slice(&half.memory.bytes()[..dst.len()]);
        Ok(())
    }
}

impl Half {
    fn copy(&mut self, stream: &Stream, copy: impl FnOnce(&Api, *mut c_void) -> Outcome) -> Result<()> {
        let card = stream.card();
        card.enter()?;
        self.busy = true;
        let queued = card.check(copy(card.api(), self.memory.memory.as_ptr().cast()));
        queued.and_then(|()| self.done.record(stream)).inspect_err(|_| {
            // whether a copy is under way is unknown, and no event tells: wait for the stream
            self.busy = stream.synchronize().is_err();
        })
    }

    fn wait(&mut self) -> Result<()> {
        if self.busy {
            self.done.synchronize()?;
            self.busy = false;
        }
        Ok(())
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if self.busy {
            // a failure means that the device is lost and reads nothing any more
            let _ = self.done.synchronize();
        }
    }
}

fn same_length(host: usize, device: Span<'_>) -> Result<()> {
    if host as u64 == device.bytes() {
        return Ok(());
    }
    Err(Error::param(format!("a copy between {host} bytes of the host and {} of the device", device.bytes())))
}
