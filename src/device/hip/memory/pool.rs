//! One pool per device over few large allocations, and the buffers it hands out.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::{self, Arena};
use crate::device::hip::card::Card;
use crate::device::hip::driver::code;
use crate::device::hip::kernels::Ptr;
use crate::{Error, Result};

/// What the pool asks of the runtime at a time, unless a buffer is larger: a buffer then has a chunk of its size.
pub const CHUNK_BYTES: u64 = 256 << 20;

/// A device's memory. Shared by `Arc`, callable from any thread.
#[derive(Debug)]
pub struct Pool {
    card: Arc<Card>,
    chunk_bytes: u64,
    chunks: Mutex<Vec<Chunk>>,
}

/// One allocation of the runtime.
#[derive(Debug)]
struct Chunk {
    base: Ptr,
    arena: Arena,
}

/// Bytes that a pool holds of the device, and how much of that its buffers take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    pub chunks: usize,
    pub held: u64,
    pub taken: u64,
}

impl Pool {
    pub fn new(card: Arc<Card>) -> Arc<Self> {
        Self::with_chunks(card, CHUNK_BYTES)
    }

    /// A pool that asks the runtime for `chunk_bytes` at a time.
    pub fn with_chunks(card: Arc<Card>, chunk_bytes: u64) -> Arc<Self> {
        let chunk_bytes = arena::aligned(chunk_bytes).unwrap_or(CHUNK_BYTES);
        Arc::new(Pool { card, chunk_bytes, chunks: Mutex::default() })
    }

    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// A buffer of `bytes`, its content undefined. `what` names its use in the error.
    ///
    /// # Errors
    /// `Error::OutOfMemory` with what the device has free; the pool and its buffers stay as they are.
    pub fn alloc(self: &Arc<Self>, bytes: u64, what: &str) -> Result<Buffer> {
        let Some(size) = arena::aligned(bytes) else { return Err(self.exhausted(bytes, what)) };
        let mut chunks = self.lock();
        let ptr = match chunks.iter_mut().find_map(Chunk::take(size)) {
            Some(ptr) => ptr,
            None => self.grow(&mut chunks, size, size.max(self.chunk_bytes), bytes, what)?,
        };
        Ok(Buffer { pool: Arc::clone(self), ptr, bytes })
    }

    /// Asks the runtime now for one chunk in which buffers of `bytes` in all fit, alignment included: what follows
    /// cannot fail half-way. Does nothing where a chunk has as much in one piece.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn reserve(self: &Arc<Self>, bytes: u64, what: &str) -> Result<()> {
        let Some(size) = arena::aligned(bytes) else { return Err(self.exhausted(bytes, what)) };
        let mut chunks = self.lock();
        if chunks.iter().any(|chunk| chunk.arena.free().1 >= size) {
            return Ok(());
        }
        let ptr = self.grow(&mut chunks, size, size, bytes, what)?;
        Self::give(&mut chunks, ptr, size);
        Ok(())
    }

    pub fn in_use(&self) -> PoolUse {
        let chunks = self.lock();
        let mut total = PoolUse { chunks: chunks.len(), ..PoolUse::default() };
        for chunk in chunks.iter() {
            total.held += chunk.arena.size();
            total.taken += chunk.arena.size() - chunk.arena.free().0;
        }
        total
    }

    /// Returns chunks that no buffer lies in to the runtime.
    pub fn trim(&self) -> Result<()> {
        self.release_empty(&mut self.lock())
    }

    /// A new chunk of `wanted` bytes, of `size` where the device has no more, and `size` bytes taken from it.
    fn grow(&self, chunks: &mut Vec<Chunk>, size: u64, wanted: u64, bytes: u64, what: &str) -> Result<Ptr> {
        let mut held = wanted;
        let mut attempt = self.ask(held)?;
        if attempt.is_none() && wanted > size {
            held = size;
            attempt = self.ask(held)?;
        }
        // last, for an empty chunk may be one that was reserved
        if attempt.is_none() {
            self.release_empty(chunks)?;
            attempt = self.ask(held)?;
        }
        let Some(base) = attempt else { return Err(self.exhausted(bytes, what)) };
        let mut chunk = Chunk { base, arena: Arena::new(held) };
        let offset = chunk.arena.take(size).expect("a fresh chunk holds what it was made for");
        tracing::debug!(device = self.card.index(), bytes = held, what, "device memory");
        chunks.push(chunk);
        Ok(Ptr(base.0 + offset))
    }

    /// An allocation of the runtime; None where it has no such memory.
    fn ask(&self, bytes: u64) -> Result<Option<Ptr>> {
        self.card.enter()?;
        if bytes > self.card.limits().memory_total {
            return Ok(None);
        }
        let mut address = 0;
        // SAFETY: the address of an integer to fill.
        let outcome = unsafe { self.card.api().malloc(&mut address, bytes as usize) };
        if outcome.code == code::OUT_OF_MEMORY {
            // HIP keeps it as the thread's last error, where the next launch would find it
            let _ = self.card.api().take_last_error();
            return Ok(None);
        }
        self.card.check(outcome)?;
        Ok(Some(Ptr(address)))
    }

    /// The card is the thread's.
    fn give_back(&self, base: Ptr) -> Result<()> {
        // SAFETY: from `ask`, and no buffer lies in it.
        self.card.check(unsafe { self.card.api().free(base.0) })
    }

    fn give(chunks: &mut [Chunk], ptr: Ptr, size: u64) {
        let holds = |chunk: &&mut Chunk| (chunk.base.0..chunk.base.0 + chunk.arena.size()).contains(&ptr.0);
        if let Some(chunk) = chunks.iter_mut().find(holds) {
            chunk.arena.give(ptr.0 - chunk.base.0, size);
        }
    }

    /// A chunk that the runtime fails to free is lost: whether it is free is then unknown.
    fn release_empty(&self, chunks: &mut Vec<Chunk>) -> Result<()> {
        // before any is given up
        self.card.enter()?;
        let mut result = Ok(());
        chunks.retain(|chunk| {
            let keep = !chunk.arena.is_empty();
            if !keep {
                result = self.give_back(chunk.base).and(std::mem::replace(&mut result, Ok(())));
            }
            keep
        });
        result
    }

    fn exhausted(&self, wanted: u64, what: &str) -> Error {
        let (free, total) = self.card.memory().unwrap_or((0, 0));
        Error::OutOfMemory { what: format!("{what} on device {}", self.card.index()), wanted, free, total }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    /// Buffers hold the pool: none is left.
    fn drop(&mut self) {
        if let Err(error) = self.trim() {
            tracing::warn!(%error, "device memory could not be returned");
        }
    }
}

impl Chunk {
    fn take(size: u64) -> impl FnMut(&mut Chunk) -> Option<Ptr> {
        move |chunk| Some(Ptr(chunk.base.0 + chunk.arena.take(size)?))
    }
}

/// Memory of a device; returned to its pool when dropped, for whoever asks next. The runtime does not wait for work
/// that still uses it: drop it after that work's synchronization, or use it again on the same stream only.
#[derive(Debug)]
pub struct Buffer {
    pool: Arc<Pool>,
    ptr: Ptr,
    bytes: u64,
}

impl Buffer {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The whole buffer.
    pub fn span(&self) -> Span<'_> {
        Span { ptr: self.ptr, bytes: self.bytes, buffer: std::marker::PhantomData }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(size) = arena::aligned(self.bytes) {
            Pool::give(&mut self.pool.lock(), self.ptr, size);
        }
    }
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    ptr: Ptr,
    bytes: u64,
    buffer: std::marker::PhantomData<&'a Buffer>,
}

impl<'a> Span<'a> {
    pub fn ptr(self) -> Ptr {
        self.ptr
    }

    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Bytes `range` of it. `Error::Param` where they are not all in it.
    pub fn part(self, range: Range<u64>) -> Result<Span<'a>> {
        if range.start > range.end || range.end > self.bytes {
            return Err(Error::param(format!(
                "bytes {}..{} of a buffer of {}",
                range.start, range.end, self.bytes
            )));
        }
        Ok(Span { ptr: Ptr(self.ptr.0 + range.start), bytes: range.end - range.start, buffer: self.buffer })
    }

    /// The first `bytes` of it.
    pub fn first(self, bytes: u64) -> Result<Span<'a>> {
        self.part(0..bytes)
    }
}
