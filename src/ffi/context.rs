//! rf_context: the caches of one or more sequences over a model, and the steps that fill them.

#![allow(non_camel_case_types)]

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError, TryLockError};

use super::args::{self, Out, flag, optional_array};
use super::failure::{Failure, Outcome};
use super::guard::{always, catch, guard};
use super::handle::{self, Handle, Shared};
use super::log::Log;
use super::model::rf_model;
use super::sized::{self, Sized};
use super::status::{
    RF_ERROR_BUSY, RF_ERROR_FORKED, RF_ERROR_INTERNAL, RF_ERROR_PARAM, RF_NOT_FOUND, RF_OK, rf_status,
};
use super::token::{rf_token, token_ids};
use crate::engine::{Batch, CancelHandle, Context, ContextParams};
use crate::memory;

/// A user's caches. One thread at a time: a call that finds the context in use by another returns RF_ERROR_BUSY.
/// rf_context_cancel comes from any thread. Keeps its model alive.
pub struct rf_context {
    state: Mutex<State>,
    cancel: CancelHandle,
    log: Log,
    error: Mutex<Option<Failure>>,
}

/// What a call has to itself.
pub(super) struct State {
    pub context: Context,
    /// What the last rf_generate gave out: ids, and text with a NUL behind it.
    pub tokens: Vec<u32>,
    pub text: Vec<u8>,
    /// Of a batch, kept for its memory.
    want: Vec<bool>,
}

impl State {
    /// RF_CACHE_FULL where so many tokens never fit: for numbers from C, before as many are read.
    pub fn check_fits(&self, n: usize, name: &str) -> Outcome {
        args::check_length::<rf_token>(n, name)?;
        Ok(self.context.check_fits(n)?)
    }
}

impl Handle for rf_context {
    const NAME: &'static str = "rf_context";
}

/// Runs `body` with the context to itself; keeps a copy of its failure for rf_context_error.
///
/// # Safety
/// `ctx` is NULL or a live handle.
pub(super) unsafe fn enter(ctx: *mut rf_context, body: impl FnOnce(&mut State) -> Outcome) -> rf_status {
    // SAFETY: the caller's promise.
    unsafe { enter_with(ctx, |_, state| body(state)) }
}

/// As [`enter`]; `body` also gets the handle.
///
/// # Safety
/// As `enter`.
pub(super) unsafe fn enter_with(
    ctx: *mut rf_context,
    body: impl FnOnce(&Shared<rf_context>, &mut State) -> Outcome,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let ctx = unsafe { handle::share(ctx) }?;
        let _log = ctx.log.enter();
        // The lock lies inside `catch`, so that a panic poisons it.
        let outcome = catch(|| match ctx.state.try_lock() {
            Ok(mut state) => body(&ctx, &mut state),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(RF_ERROR_BUSY, "the rf_context is in use by another call"))
            }
            Err(TryLockError::Poisoned(_)) => Err(Failure::new(
                RF_ERROR_INTERNAL,
                "an earlier internal error left this rf_context unusable; release it",
            )),
        });
        if let Err(failure) = &outcome {
            // Of a busy context the copy belongs to the call that is in it.
            if failure.status != RF_ERROR_BUSY {
                ctx.error.lock().unwrap_or_else(PoisonError::into_inner).replace(failure.clone());
            }
        }
        outcome
    })
}

/// How to create a context. Fill it with rf_context_params_init first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_context_params {
    /// sizeof(rf_context_params), set by rf_context_params_init.
    pub size: usize,
    /// Positions of cache in all, shared by the sequences, rounded up to whole blocks; 0 (default): what the model was
    /// trained on, at most 4096. A model with a table of positions has no more of them in a sequence.
    pub n_ctx: u32,
    /// Most tokens computed in one step; longer batches are cut into several. 0 (default): 512.
    pub n_batch: u32,
    /// Most sequences at once, numbered from 0. 0 (default): 1.
    pub n_seq_max: u32,
    /// Positions between checkpoints of a model with recurrent state, to which rf_kv_remove and rf_kv_copy can go back
    /// (rf_kv_reachable). Each of the last 3 takes the state's memory. 0 (default): 512. Other models keep none.
    pub checkpoint_interval: u32,
}

// SAFETY: repr(C), `size` first, numbers only.
unsafe impl Sized for rf_context_params {
    const NAME: &'static str = "rf_context_params";
}

/// Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_params_init(params: *mut rf_context_params, size: usize) -> rf_status {
    guard(|| {
        let default = rf_context_params { size, n_ctx: 0, n_batch: 0, n_seq_max: 0, checkpoint_interval: 0 };
        // SAFETY: the caller passes NULL or `size` writable bytes.
        unsafe { sized::init(params, size, default) }
    })
}

/// Makes a context over a model. On RF_OK *ctx is a new handle, to be given to rf_context_release; the model's own
/// handle may be released before it. RF_ERROR_MEMORY: the cache does not fit into what the machine has. RF_ERROR_PARAM: a NULL, a wrong size,
/// counts out of range. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_create(
    model: *const rf_model,
    params: *const rf_context_params,
    ctx: *mut *mut rf_context,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, params, out) =
            unsafe { (handle::share(model)?, sized::read(params)?, Out::new(ctx, "ctx")?) };
        let _log = model.log.enter();
        let params = ContextParams {
            n_ctx: params.n_ctx as usize,
            n_batch: params.n_batch as usize,
            n_seq_max: params.n_seq_max as usize,
            checkpoint_interval: params.checkpoint_interval as usize,
        };
        let context = Context::new(&model.model, &params)?;
        let handle = rf_context {
            cancel: context.cancel_handle(),
            state: Mutex::new(State { context, tokens: Vec::new(), text: vec![0], want: Vec::new() }),
            log: model.log,
            error: Mutex::new(None),
        };
        out.set(handle::into_raw(handle)?);
        Ok(())
    })
}

/// A context's sizes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_context_details {
    /// sizeof(rf_context_details), set by the caller.
    pub size: usize,
    pub n_ctx: u32,
    pub n_batch: u32,
    pub n_seq_max: u32,
    /// Positions in use, over all sequences; those that sequences share are counted once.
    pub n_used: u32,
    /// Bytes of cache, and of working memory. The CPU's part is reserved, and takes memory as it is first used.
    pub cache_bytes: u64,
    pub scratch_bytes: u64,
}

// SAFETY: repr(C), `size` first, numbers only.
unsafe impl Sized for rf_context_details {
    const NAME: &'static str = "rf_context_details";
}

/// Describes the context. Set info->size first. RF_ERROR_PARAM: a NULL or a wrong size. RF_ERROR_BUSY: the context is
/// in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_info(ctx: *mut rf_context, info: *mut rf_context_details) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe {
        enter(ctx, |state| {
            let out = sized::Out::new(info)?;
            let info = state.context.info();
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            out.set(rf_context_details {
                size: 0,
                n_ctx: count(info.n_ctx),
                n_batch: count(info.n_batch),
                n_seq_max: count(info.n_seq_max),
                n_used: count(info.n_used),
                cache_bytes: info.cache_bytes,
                scratch_bytes: info.scratch_bytes,
            });
            Ok(())
        })
    }
}

/// The message of the last call on this context that did not come to RF_OK, whichever thread made it (RF_ERROR_BUSY
/// excepted); "" if there was none, or for NULL. Never NULL. Valid until the next such call or rf_context_release. One thread
/// at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_error(ctx: *mut rf_context) -> *const c_char {
    let mut message = c"".as_ptr();
    always(|| {
        if !ctx.is_null() {
            // SAFETY: the caller passes NULL or a live handle.
            let ctx = unsafe { handle::share(ctx) }?;
            if let Some(failure) = &*ctx.error.lock().unwrap_or_else(PoisonError::into_inner) {
                message = failure.message.as_ptr();
            }
        }
        Ok(())
    });
    message
}

/// Stops the rf_decode or rf_generate in progress on the context: it returns RF_CANCELLED after the operation under way
/// (on a GPU: the layers under way), or as it would have if it is about to. Also while it waits for another context's step.
///
/// RF_OK: a call is in progress, and asked. RF_NOT_FOUND: none is; later ones are not affected (for a request that may come
/// before its call set `cancel` of rf_batch or rf_generate_params). RF_ERROR_PARAM: NULL. RF_ERROR_FORKED.
///
/// Any thread, also from a callback or a signal handler. It leaves rf_last_error as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_cancel(ctx: *mut rf_context) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe { cancelling(ctx, CancelHandle::cancel) }
}

/// Takes an rf_context_cancel back that has not taken effect: the call in progress goes on. RF_NOT_FOUND: nothing to take
/// back. RF_ERROR_PARAM: NULL. RF_ERROR_FORKED. Any thread, as rf_context_cancel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_uncancel(ctx: *mut rf_context) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe { cancelling(ctx, CancelHandle::withdraw) }
}

/// Neither locks nor allocates: a signal handler may have interrupted whatever does.
///
/// # Safety
/// `ctx` is NULL or a live handle.
unsafe fn cancelling(ctx: *mut rf_context, ask: impl FnOnce(&CancelHandle) -> bool) -> rf_status {
    // SAFETY: the caller's promise.
    match unsafe { handle::borrow(ctx) } {
        Some(Ok(ctx)) if ask(&ctx.cancel) => RF_OK,
        Some(Ok(_)) => RF_NOT_FOUND,
        Some(Err(_)) => RF_ERROR_FORKED,
        None => RF_ERROR_PARAM,
    }
}

/// Gives the handle back; NULL is fine. Any thread, once; no other call may be using the handle, except one that is in a
/// callback on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_release(ctx: *mut rf_context) {
    always(|| {
        // SAFETY: the caller passes NULL or a handle that it does not use again.
        unsafe { handle::release(ctx) };
        Ok(())
    });
}

/// Tokens to evaluate, of any number of sequences. All arrays have `n` entries; each optional one may be NULL. Set `size`, zero the
/// rest, then fill in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_batch {
    /// sizeof(rf_batch), set by the caller.
    pub size: usize,
    pub n: usize,
    pub tokens: *const rf_token,
    /// Position of each token in its sequence, which must go on exactly where the sequence ends; NULL: there.
    pub pos: *const u32,
    /// Sequence of each token, below n_seq_max; NULL: all 0.
    pub seq: *const u32,
    /// Nonzero where the token's logits are wanted; NULL: the last token's only.
    pub want: *const u8,
    /// A flag of the caller's; the call returns RF_CANCELLED once it is not 0, also if it is so from the beginning. Any
    /// thread may set it meanwhile; the library only reads it. NULL: none.
    pub cancel: *const i32,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_batch {
    const NAME: &'static str = "rf_batch";
}

/// Evaluates a batch: appends it to its sequences and computes the logits that are wanted. All of it, or on any status
/// but RF_OK nothing.
///
/// RF_CANCELLED: rf_context_cancel or batch->cancel. RF_CACHE_FULL: more positions than are free; the message has the
/// numbers.
/// RF_ERROR_PARAM: an empty batch, an id that is no token, a sequence or position out of place, a NULL, a wrong size.
/// RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_decode(ctx: *mut rf_context, batch: *const rf_batch) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers of the lengths it states.
    unsafe {
        enter(ctx, |state| {
            let batch = sized::read(batch)?;
            if batch.n == 0 {
                return Err(Failure::param("the batch is empty"));
            }
            // Before anything is read: a number that was never set is larger than any cache.
            state.check_fits(batch.n, "tokens")?;
            let _call = state.context.begin_watching(flag(batch.cancel, "cancel")?);
            state.want.clear();
            let want = optional_array(batch.want, batch.n, "want")?;
            memory::reserve(&mut state.want, batch.n, "a batch")?;
            state.want.extend(want.iter().copied().flatten().map(|flag| *flag != 0));
            state.context.decode(&Batch {
                tokens: token_ids(batch.tokens, batch.n, "tokens")?,
                positions: optional_array(batch.pos, batch.n, "pos")?,
                sequences: optional_array(batch.seq, batch.n, "seq")?,
                want: want.map(|_| &*state.want),
            })?;
            Ok(())
        })
    }
}

/// Row `row` (from 0, in batch order) of the logits that the last rf_decode left: *n = n_vocab numbers at *logits,
/// owned by the context and valid until the next call on it that evaluates or changes the cache.
/// RF_ERROR_PARAM: no such row, a NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_logits(
    ctx: *mut rf_context,
    row: usize,
    logits: *mut *const f32,
    n: *mut usize,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe {
        enter(ctx, |state| {
            let (out, out_n) = (Out::new(logits, "logits")?, Out::new(n, "n")?);
            let logits = state.context.logits(row)?;
            out.set(logits.as_ptr());
            out_n.set(logits.len());
            Ok(())
        })
    }
}

/// Forgets all sequences. RF_ERROR_PARAM: NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_kv_clear(ctx: *mut rf_context) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe {
        enter(ctx, |state| {
            state.context.kv_clear();
            Ok(())
        })
    }
}

/// Forgets the sequence's positions from `from` to its end; 0: the whole sequence; the end itself: nothing.
/// A model with a recurrent state (qwen35) or with windows (gemma3, gpt-oss) goes back only to some positions: see
/// rf_kv_reachable.
/// RF_ERROR_PARAM: no such sequence, `from` beyond its end or where the model cannot go back to, NULL. RF_ERROR_BUSY: the context
/// is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_kv_remove(ctx: *mut rf_context, seq: u32, from: u32) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe { enter(ctx, |state| Ok(state.context.kv_truncate(seq, from as usize)?)) }
}

/// Makes sequence `to` (emptied first) a copy of the first `len` positions of sequence `from`. Whole blocks of positions are
/// shared until one of the two changes them: a common prefix takes its room once.
///
/// RF_CACHE_FULL: no room for the part that cannot be shared. RF_ERROR_PARAM: no such sequence or length, a length that
/// rf_kv_reachable would not give, NULL.
/// RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_kv_copy(ctx: *mut rf_context, from: u32, to: u32, len: u32) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe { enter(ctx, |state| Ok(state.context.kv_copy(from, to, len as usize)?)) }
}

/// The longest beginning of the sequence, up to `most` positions, that rf_kv_remove can leave and rf_kv_copy can copy: `most`
/// or all that the sequence holds; of a model with a recurrent state perhaps less, which is kept at the sequence's end and,
/// the last 3 times, where its length is a multiple of rf_context_params.checkpoint_interval; of one with windows 0 where
/// `most` is before what they still hold.
/// RF_ERROR_PARAM: no such sequence, a NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_kv_reachable(
    ctx: *mut rf_context,
    seq: u32,
    most: u32,
    len: *mut u32,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe {
        enter(ctx, |state| {
            let out = Out::new(len, "len")?;
            let len = state.context.kv_reachable(seq, most as usize)?;
            out.set(u32::try_from(len).unwrap_or(u32::MAX));
            Ok(())
        })
    }
}

/// The positions that the sequence holds: from *first up to, not including, *end (equal: none).
/// RF_ERROR_PARAM: no such sequence, a NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_kv_range(
    ctx: *mut rf_context,
    seq: u32,
    first: *mut u32,
    end: *mut u32,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe {
        enter(ctx, |state| {
            let (first, end) = (Out::new(first, "first")?, Out::new(end, "end")?);
            let len = state.context.kv_len(seq)?;
            first.set(0);
            end.set(u32::try_from(len).unwrap_or(u32::MAX));
            Ok(())
        })
    }
}

/// What a context has done since its creation or rf_perf_reset.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_perf_counters {
    /// sizeof(rf_perf_counters), set by the caller.
    pub size: usize,
    /// Tokens evaluated in batches with several tokens of a sequence, and the time those took, microseconds.
    pub prefill_tokens: u64,
    pub prefill_us: u64,
    /// The same for batches of one token of each of their sequences.
    pub decode_tokens: u64,
    pub decode_us: u64,
    /// Tokens chosen by rf_sample, rf_sample_rows and rf_generate, and the time that took.
    pub sampled_tokens: u64,
    pub sample_us: u64,
}

// SAFETY: repr(C), `size` first, numbers only.
unsafe impl Sized for rf_perf_counters {
    const NAME: &'static str = "rf_perf_counters";
}

/// Reads the context's counters. Set counters->size first. RF_ERROR_PARAM: a NULL or a wrong size. RF_ERROR_BUSY: the context
/// is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_perf(ctx: *mut rf_context, counters: *mut rf_perf_counters) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe {
        enter(ctx, |state| {
            let out = sized::Out::new(counters)?;
            let perf = state.context.perf();
            out.set(rf_perf_counters {
                size: 0,
                prefill_tokens: perf.prefill_tokens,
                prefill_us: perf.prefill_us,
                decode_tokens: perf.decode_tokens,
                decode_us: perf.decode_us,
                sampled_tokens: perf.sampled_tokens,
                sample_us: perf.sample_us,
            });
            Ok(())
        })
    }
}

/// Sets the context's counters to 0. RF_ERROR_PARAM: NULL. RF_ERROR_BUSY: the context is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_perf_reset(ctx: *mut rf_context) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe {
        enter(ctx, |state| {
            state.context.perf_reset();
            Ok(())
        })
    }
}
