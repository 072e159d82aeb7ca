//! rf_generate: prompt in, text out, in one call.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::ptr;

use super::args::{array, c_text, flag};
use super::context::{self, State, rf_context};
use super::failure::{Failure, Outcome};
use super::guard::{guard, outside};
use super::handle::{self, Shared};
use super::sampler::rf_sampler;
use super::sized::{self, Sized};
use super::status::{RF_CACHE_FULL, RF_CANCELLED, rf_status};
use super::token::{rf_token, token_ids};
use crate::engine::{GenerateParams, Generation, Piece, StopReason, generate};
use crate::{Error, memory};

/// Why a generation ended: an end-of-generation token.
pub const RF_STOP_EOG: i32 = 1;
/// Why a generation ended: one of the stop texts.
pub const RF_STOP_TEXT: i32 = 2;
/// Why a generation ended: max_tokens.
pub const RF_STOP_LENGTH: i32 = 3;
/// Why a generation ended: no room left in the cache.
pub const RF_STOP_CACHE_FULL: i32 = 4;
/// Why a generation ended: the callback, or rf_context_cancel.
pub const RF_STOP_CANCELLED: i32 = 5;

/// More stop texts than anyone has: a larger number was never set.
const MAX_STOPS: usize = 1 << 16;

/// How to generate. Fill it with rf_generate_params_init first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_generate_params {
    /// sizeof(rf_generate_params), set by rf_generate_params_init.
    pub size: usize,
    /// Most tokens to generate; 0 (default): until something else ends it.
    pub max_tokens: u32,
    /// The sequence to go on with; default 0.
    pub seq: u32,
    /// Texts that end the generation, NUL-terminated UTF-8, not empty; they are not part of the text given out. They are
    /// looked for in all that is generated, control tokens too, given out or not. Default none.
    pub stop: *const *const c_char,
    pub n_stop: usize,
    /// 1: go on past end-of-generation tokens. Default 0.
    pub ignore_eog: i32,
    /// 1: give out the text of control tokens too. Default 0.
    pub special: i32,
    /// A flag of the caller's; the call stops as by rf_context_cancel once it is not 0, also if it is so from the
    /// beginning. Any thread may set it meanwhile; the library only reads it. Default NULL: none.
    pub cancel: *const i32,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_generate_params {
    const NAME: &'static str = "rf_generate_params";
}

/// Takes each token as it is generated, with the text it completed: whole characters, `text_len` bytes of UTF-8 and a NUL, often none. Text
/// that might become a stop text is held back until it is clear. Return 0 to go on, anything else to stop.
///
/// It runs on the thread that called rf_generate; `text` is valid during the call. It must not unwind. Calls on the same context
/// return RF_ERROR_BUSY, except rf_context_cancel and rf_context_uncancel. Handles may be released, also the context.
pub type rf_token_callback = Option<
    unsafe extern "C-unwind" fn(
        user: *mut c_void,
        token: rf_token,
        text: *const c_char,
        text_len: usize,
    ) -> i32,
>;

/// What a generation came to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_generation {
    /// sizeof(rf_generation), set by the caller.
    pub size: usize,
    /// RF_STOP_EOG, RF_STOP_TEXT, ...
    pub stop: i32,
    /// The generated tokens, the one that ended it included. Owned by the context, valid until its next rf_generate or
    /// its release; none, and no text either, if the context was released in the callback.
    pub tokens: *const rf_token,
    pub n_tokens: usize,
    /// Their text, `text_len` bytes of UTF-8 and a NUL. Valid as `tokens` is.
    pub text: *const c_char,
    pub text_len: usize,
    /// Tokens of the prompt, the time they took, and the time of the rest, microseconds.
    pub prompt_tokens: usize,
    pub prompt_us: u64,
    pub decode_us: u64,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_generation {
    const NAME: &'static str = "rf_generation";
}

/// Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_generate_params_init(params: *mut rf_generate_params, size: usize) -> rf_status {
    guard(|| {
        let default = rf_generate_params {
            size,
            max_tokens: 0,
            seq: 0,
            stop: ptr::null(),
            n_stop: 0,
            ignore_eog: 0,
            special: 0,
            cancel: ptr::null(),
        };
        // SAFETY: the caller passes NULL or `size` writable bytes.
        unsafe { sized::init(params, size, default) }
    })
}

/// Evaluates the prompt after what the sequence holds, then chooses and evaluates token after token until something
/// says stop. `on_token` may be NULL: `result` has the whole text. Set result->size first.
///
/// RF_OK: ended by a token, a stop text or max_tokens. RF_CANCELLED: by the callback, rf_context_cancel or params->cancel.
/// RF_CACHE_FULL: the cache has no room for more, or not for the prompt. In all three cases *result is written, with what there is.
/// RF_ERROR_MODEL: the logits are no numbers, as in rf_sample. RF_ERROR_PARAM: an empty prompt, an id that is no token, parameters out of range, a NULL, a wrong size. RF_ERROR_BUSY: either handle
/// is in use. One thread at a time for both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_generate(
    ctx: *mut rf_context,
    sampler: *mut rf_sampler,
    prompt: *const rf_token,
    n_prompt: usize,
    params: *const rf_generate_params,
    on_token: rf_token_callback,
    user: *mut c_void,
    result: *mut rf_generation,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers of the lengths it states.
    unsafe {
        context::enter_with(ctx, |ctx, state| {
            let (sampler, params, out) =
                (handle::share(sampler)?, sized::read(params)?, sized::Out::new(result)?);
            if n_prompt == 0 {
                return Err(Failure::param("the prompt is empty"));
            }
            let host_flag = flag(params.cancel, "cancel")?;
            let params = read_params(&params)?;
            let mut sampler = sampler.lock()?;
            if let Err(failure) = state.check_fits(n_prompt, "prompt") {
                if failure.status == RF_CACHE_FULL {
                    out.set(hand_out(state, ctx, nothing(StopReason::CacheFull))?);
                }
                return Err(failure);
            }
            let prompt = token_ids(prompt, n_prompt, "prompt")?;
            let _call = state.context.begin_watching(host_flag);
            let mut text = Vec::new();
            let mut refused = None;
            let mut on_piece = |piece: Piece<'_>| {
                let Some(callback) = on_token else { return ControlFlow::Continue(()) };
                text.clear();
                if let Err(error) = memory::reserve(&mut text, piece.text.len() + 1, "a piece of text") {
                    refused = Some(error);
                    return ControlFlow::Break(());
                }
                text.extend_from_slice(piece.text.as_bytes());
                text.push(0);
                // SAFETY: the host's callback, with the arguments it was declared with.
                let go_on = outside(|| {
                    callback(user, piece.token as rf_token, text.as_ptr().cast(), piece.text.len())
                });
                if go_on == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            let outcome = generate(&mut state.context, &mut sampler, prompt, &params, &mut on_piece);
            match refused {
                Some(error) => Err(error.into()),
                None => finish(state, ctx, outcome, out),
            }
        })
    }
}

/// # Safety
/// `stop` is NULL or `n_stop` NUL-terminated texts.
unsafe fn read_params(params: &rf_generate_params) -> Outcome<GenerateParams> {
    if params.n_stop > MAX_STOPS {
        return Err(Failure::param(format!("n_stop is {}; the most is {MAX_STOPS}", params.n_stop)));
    }
    // SAFETY: the caller's promise.
    let stop = unsafe { array(params.stop, params.n_stop, "stop") }?;
    let mut stops = memory::vec(stop.len(), "stop texts")?;
    for (at, text) in stop.iter().enumerate() {
        // SAFETY: the caller's promise.
        match unsafe { c_text(*text, &format!("stop[{at}]")) }? {
            "" => return Err(Failure::param(format!("stop[{at}] is empty"))),
            text => stops.push(memory::text(text, "stop texts")?),
        }
    }
    Ok(GenerateParams {
        max_tokens: (params.max_tokens != 0).then_some(params.max_tokens as usize),
        stop: stops,
        ignore_eog: params.ignore_eog != 0,
        special: params.special != 0,
        sequence: params.seq,
    })
}

fn nothing(stop: StopReason) -> Generation {
    Generation { tokens: Vec::new(), text: String::new(), stop, prompt_tokens: 0, prompt_us: 0, decode_us: 0 }
}

/// Hands the result over; the two endings that are outcomes become failures, with their messages.
fn finish(
    state: &mut State,
    ctx: &Shared<rf_context>,
    outcome: crate::Result<Generation>,
    out: sized::Out<rf_generation>,
) -> Outcome {
    let (generation, ending) = match outcome {
        Ok(generation) => {
            let ending = match generation.stop {
                StopReason::Eog | StopReason::StopText | StopReason::Length => Ok(()),
                StopReason::CacheFull => Err(Failure::new(
                    RF_CACHE_FULL,
                    format!("the cache was full after {} tokens", generation.tokens.len()),
                )),
                StopReason::Cancelled => Err(Failure::new(
                    RF_CANCELLED,
                    format!("cancelled after {} tokens", generation.tokens.len()),
                )),
            };
            (generation, ending)
        }
        Err(error @ Error::CacheFull { .. }) => (nothing(StopReason::CacheFull), Err(error.into())),
        Err(error @ Error::Cancelled) => (nothing(StopReason::Cancelled), Err(error.into())),
        Err(error) => return Err(error.into()),
    };
    out.set(hand_out(state, ctx, generation)?);
    ending
}

/// The result as C takes it. Its tokens and text live in the context; of one that was released in the callback, and ends
/// with this call, nothing is left to point to.
fn hand_out(state: &mut State, ctx: &Shared<rf_context>, generation: Generation) -> Outcome<rf_generation> {
    let text_len = generation.text.len();
    state.tokens = generation.tokens;
    state.text = generation.text.into_bytes();
    memory::push(&mut state.text, 0, "the generated text")?;
    let kept = !ctx.is_released();
    Ok(rf_generation {
        size: 0,
        stop: match generation.stop {
            StopReason::Eog => RF_STOP_EOG,
            StopReason::StopText => RF_STOP_TEXT,
            StopReason::Length => RF_STOP_LENGTH,
            StopReason::CacheFull => RF_STOP_CACHE_FULL,
            StopReason::Cancelled => RF_STOP_CANCELLED,
        },
        tokens: if kept { state.tokens.as_ptr().cast() } else { ptr::null() },
        n_tokens: if kept { state.tokens.len() } else { 0 },
        text: if kept { state.text.as_ptr().cast() } else { c"".as_ptr() },
        text_len: if kept { text_len } else { 0 },
        prompt_tokens: generation.prompt_tokens,
        prompt_us: generation.prompt_us,
        decode_us: generation.decode_us,
    })
}
