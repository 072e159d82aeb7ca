//! A context: caches of one or more sequences over a model, and the steps that fill them.

use super::Model;
use crate::Result;
use crate::device::Observer;

#[derive(Clone, Debug)]
pub struct ContextParams {
    /// Positions of cache in all, shared by the sequences; 0: min(the model's training context, 4096).
    /// Rounded up to whole blocks.
    pub n_ctx: usize,
    /// Most tokens computed in one device step; longer batches are cut into several. 0: 512.
    pub n_batch: usize,
    /// Most sequences at once. 0: 1.
    pub n_seq_max: usize,
}

#[derive(Clone, Debug)]
pub struct ContextInfo {
    pub n_ctx: usize,
    pub n_batch: usize,
    pub n_seq_max: usize,
    /// Positions in use, over all sequences (shared blocks counted once).
    pub n_used: usize,
    pub cache_bytes: u64,
    pub scratch_bytes: u64,
}

/// Tokens to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub tokens: &'a [u32],
    /// Position of each token in its sequence; None: each sequence goes on where it ends. A given position must
    /// be exactly where the sequence ends (a gap or overlap is Error::Param).
    pub positions: Option<&'a [u32]>,
    /// Sequence id of each token, below n_seq_max; None: all 0.
    pub sequences: Option<&'a [u32]>,
    /// Whether the token's logits are wanted; None: the last token's only.
    pub want: Option<&'a [bool]>,
}

#[derive(Clone, Debug, Default)]
pub struct PerfCounters {
    /// Tokens evaluated in steps of several tokens, and the time those took, microseconds.
    pub prefill_tokens: u64,
    pub prefill_us: u64,
    /// The same for steps of one token.
    pub decode_tokens: u64,
    pub decode_us: u64,
    pub sampled_tokens: u64,
    pub sample_us: u64,
}

/// Sets a context's cancel flag from any thread.
#[derive(Clone, Debug)]
pub struct CancelHandle(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl CancelHandle {
    /// The step in progress (or, if none is, the next) ends with Error::Cancelled; the flag is then clear again.
    pub fn cancel(&self) {
        todo!()
    }
}

/// One user's caches. One thread at a time; keeps its model alive.
pub struct Context {}

impl Context {
    pub fn new(_model: &Model, _params: &ContextParams) -> Result<Self> {
        todo!()
    }
    pub fn model(&self) -> &Model {
        todo!()
    }
    pub fn info(&self) -> ContextInfo {
        todo!()
    }
    pub fn cancel_handle(&self) -> CancelHandle {
        todo!()
    }
    /// Evaluates the batch: all of it, or on any error none (the caches are as before; a batch longer than n_batch that is
    /// cancelled or fails half-way is rolled back).
    pub fn decode(&mut self, _batch: &Batch<'_>) -> Result<()> {
        todo!()
    }
    /// Rows of logits the last decode left.
    pub fn n_logits(&self) -> usize {
        todo!()
    }
    /// Row `row` of the wanted logits of the last decode, in batch order; n_vocab long.
    pub fn logits(&self, _row: usize) -> Result<&[f32]> {
        todo!()
    }
    /// Positions held by the sequence: 0..len.
    pub fn kv_len(&self, _seq: u32) -> Result<usize> {
        todo!()
    }
    /// Forgets all sequences.
    pub fn kv_clear(&mut self) {
        todo!()
    }
    /// Forgets positions from `from` on (0: the whole sequence).
    pub fn kv_truncate(&mut self, _seq: u32, _from: usize) -> Result<()> {
        todo!()
    }
    /// Makes `to` (emptied first) a copy of the first `len` positions of `from`; whole blocks are shared, not copied.
    pub fn kv_copy(&mut self, _from: u32, _to: u32, _len: usize) -> Result<()> {
        todo!()
    }
    pub fn perf(&self) -> PerfCounters {
        todo!()
    }
    pub fn perf_reset(&mut self) {
        todo!()
    }
    /// For `Sampler` users to account sampling time into `perf`.
    pub fn count_sampling(&mut self, _tokens: u64, _time: std::time::Duration) {
        todo!()
    }
    /// See [`Session::observe`](crate::device::Session::observe).
    pub fn observe(&mut self, _observer: Option<Observer>) {
        todo!()
    }
}
