//! rf_sampler: from logits to a token.

#![allow(non_camel_case_types)]

use std::sync::{Mutex, MutexGuard, TryLockError};

use super::args::{Out, array, array_mut};
use super::context::{self, rf_context};
use super::failure::{Failure, Outcome};
use super::guard::{always, guard};
use super::handle::{self, Handle};
use super::sized::{self, Sized};
use super::status::{RF_ERROR_BUSY, RF_ERROR_INTERNAL, rf_status};
use super::token::rf_token;
use crate::engine::{Sampler, SamplerParams};
use crate::memory;

/// One stream's way of choosing tokens. One thread at a time (RF_ERROR_BUSY otherwise).
pub struct rf_sampler {
    sampler: Mutex<Sampler>,
}

impl Handle for rf_sampler {
    const NAME: &'static str = "rf_sampler";
}

impl rf_sampler {
    pub(super) fn lock(&self) -> Outcome<MutexGuard<'_, Sampler>> {
        self.sampler.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Failure::new(RF_ERROR_BUSY, "the rf_sampler is in use by another call")
            }
            TryLockError::Poisoned(_) => {
                Failure::new(RF_ERROR_INTERNAL, "an earlier internal error left this rf_sampler unusable")
            }
        })
    }
}

/// How to choose tokens. Fill it with rf_sampler_params_init first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_sampler_params {
    /// sizeof(rf_sampler_params), set by rf_sampler_params_init.
    pub size: usize,
    /// 0 or below: greedy, always the most likely token. Default 0.8.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0: all. Default 40.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches p; 1: all. Default 0.95.
    pub top_p: f32,
    /// Drop tokens less likely than min_p times the most likely; 0: none. Default 0.05.
    pub min_p: f32,
    /// Accepted tokens that the penalties look back at; 0: none. Default 64.
    pub penalty_last_n: u32,
    /// Divides positive and multiplies negative logits of tokens seen there; 1 (default): off.
    pub repeat_penalty: f32,
    /// Subtracted from a token's logit once for each time it was seen; 0 (default): off.
    pub frequency_penalty: f32,
    /// Subtracted once if it was seen at all; 0 (default): off.
    pub presence_penalty: f32,
    /// Same seed, same logits: same tokens. Default 0.
    pub seed: u64,
}

// SAFETY: repr(C), `size` first, numbers only.
unsafe impl Sized for rf_sampler_params {
    const NAME: &'static str = "rf_sampler_params";
}

/// Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_params_init(params: *mut rf_sampler_params, size: usize) -> rf_status {
    guard(|| {
        let engine = SamplerParams::default();
        let default = rf_sampler_params {
            size,
            temperature: engine.temperature,
            top_k: engine.top_k,
            top_p: engine.top_p,
            min_p: engine.min_p,
            penalty_last_n: u32::try_from(engine.penalty_last_n).unwrap_or(u32::MAX),
            repeat_penalty: engine.repeat_penalty,
            frequency_penalty: engine.frequency_penalty,
            presence_penalty: engine.presence_penalty,
            seed: engine.seed,
        };
        // SAFETY: the caller passes NULL or `size` writable bytes.
        unsafe { sized::init(params, size, default) }
    })
}

/// Makes a sampler. On RF_OK *sampler is a new handle, to be given to rf_sampler_release; it belongs to no model.
/// RF_ERROR_PARAM: a parameter out of range (the message names it), a NULL, a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_create(
    params: *const rf_sampler_params,
    sampler: *mut *mut rf_sampler,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (params, out) = unsafe { (sized::read(params)?, Out::new(sampler, "sampler")?) };
        let sampler = Sampler::new(SamplerParams {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            penalty_last_n: params.penalty_last_n as usize,
            repeat_penalty: params.repeat_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            seed: params.seed,
        })?;
        out.set(handle::into_raw(rf_sampler { sampler: Mutex::new(sampler) })?);
        Ok(())
    })
}

/// Chooses a token from row `row` of the logits that the context's last rf_decode left. The sampler does not remember it: see
/// rf_sampler_accept.
///
/// RF_ERROR_MODEL: a logit is NaN or plus infinity, or none is above minus infinity; the file's weights are damaged, or beyond
/// what f16 holds. RF_ERROR_PARAM: no such row, a NULL. RF_ERROR_BUSY: either handle is in use. One thread at a time for both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sample(
    sampler: *mut rf_sampler,
    ctx: *mut rf_context,
    row: usize,
    token: *mut rf_token,
) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe {
        context::enter(ctx, |state| {
            // SAFETY: the caller passes NULL or valid pointers.
            let (sampler, out) = (handle::share(sampler)?, Out::new(token, "token")?);
            let mut sampler = sampler.lock()?;
            let id = state.context.sample(row, &mut sampler)?;
            out.set(id as rf_token);
            Ok(())
        })
    }
}

/// Chooses a token from each of `n` rows of the logits that the context's last rf_decode left, as rf_sample does: for each index
/// of `tokens` from the row and by the sampler of the same index. A GPU chooses all of them before it is waited for. A row may be named several times, a
/// sampler once. After an error no sampler has gone on, and what `tokens` holds is of no use.
///
/// Errors as rf_sample; RF_ERROR_PARAM also: an array is NULL and n is not 0. RF_ERROR_BUSY also: a sampler is named twice. One
/// thread at a time for all handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sample_rows(
    samplers: *const *mut rf_sampler,
    ctx: *mut rf_context,
    rows: *const usize,
    n: usize,
    tokens: *mut rf_token,
) -> rf_status {
    // SAFETY: the caller passes NULL or a live handle.
    unsafe {
        context::enter(ctx, |state| {
            // SAFETY: the caller passes NULL, or arrays of n, and in the first live handles or NULL.
            let (samplers, rows, tokens) =
                (array(samplers, n, "samplers")?, array(rows, n, "rows")?, array_mut(tokens, n, "tokens")?);
            let mut shared = memory::vec(n, SAMPLERS)?;
            for sampler in samplers {
                shared.push(handle::share(*sampler)?);
            }
            let mut guards = memory::vec(n, SAMPLERS)?;
            for sampler in &shared {
                guards.push(sampler.lock()?);
            }
            let mut samplers = memory::vec(n, SAMPLERS)?;
            samplers.extend(guards.iter_mut().map(|guard| &mut **guard));
            let mut ids = memory::filled(0, n, "tokens")?;
            state.context.sample_rows(rows, &mut samplers, &mut ids)?;
            tokens.iter_mut().zip(ids).for_each(|(token, id)| *token = id as rf_token);
            Ok(())
        })
    }
}

/// For messages.
const SAMPLERS: &str = "the samplers of a call";

/// Remembers a token for the penalties: each one chosen, and those of the prompt if they shall count.
/// RF_ERROR_PARAM: a negative id, a NULL. RF_ERROR_BUSY: the handle is in use. One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_accept(sampler: *mut rf_sampler, token: rf_token) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let sampler = unsafe { handle::share(sampler) }?;
        let id = u32::try_from(token).map_err(|_| Failure::param(format!("the token is {token}")))?;
        sampler.lock()?.accept(id)?;
        Ok(())
    })
}

/// Forgets the tokens and starts the seed's sequence anew. RF_ERROR_PARAM: NULL. RF_ERROR_BUSY: the handle is in use. One thread
/// at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_reset(sampler: *mut rf_sampler) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        unsafe { handle::share(sampler) }?.lock()?.reset();
        Ok(())
    })
}

/// Gives the handle back; NULL is fine. Any thread, once; no other call may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_release(sampler: *mut rf_sampler) {
    always(|| {
        // SAFETY: the caller passes NULL or a handle that it does not use again.
        unsafe { handle::release(sampler) };
        Ok(())
    });
}
