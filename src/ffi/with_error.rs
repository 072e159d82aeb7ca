//! Twins of the calls that no rf_context keeps the error of: each puts its error into a struct of the caller's.
//!
//! They are for callers that cannot say which thread a call ran on (Go, asynchronous calls of Node). tests/ffi/header.rs
//! compares the list with the header.

#![allow(non_camel_case_types)]

use std::ffi::c_char;

use super::args::c_array;
use super::backend::*;
use super::context::*;
use super::device::*;
use super::error::{describe, rf_error_info};
use super::failure::{Last, with_last};
use super::guard::always;
use super::meta::*;
use super::model::*;
use super::sampler::*;
use super::sized::{self, Sized};
use super::status::{RF_OK, rf_status};
use super::text::*;
use super::token::rf_token;

/// What a call came to, in memory of the caller's: for the functions with `_e` at the end of their names. Such a call
/// writes the whole struct, also when it comes to RF_OK: `status` is then RF_OK and the rest is empty.
///
/// Set `size` to sizeof(rf_error) once. The struct belongs to one call at a time. It is plain memory without pointers:
/// copy it, keep it, hand it to another thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_error {
    /// sizeof(rf_error), set by the caller.
    pub size: usize,
    /// What the call returned.
    pub status: rf_status,
    /// Failed calls into a GPU's runtime only, else 0: as in rf_error_info.
    pub hip_code: i32,
    /// The GPU's number; -1 if it was no GPU's failure.
    pub device: i32,
    /// The launch's blocks and threads of a block, as in rf_error_info; 0 where there is no kernel.
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of the message as rf_last_error has it, without its NUL; from 1024 on `message` is cut.
    pub message_len: u32,
    /// Shared memory of the launch's blocks in bytes.
    pub shared_bytes: u64,
    /// Texts, NUL-terminated UTF-8, cut between characters where they do not fit; "" where rf_error_info has NULL.
    pub message: [c_char; 1024],
    pub kernel: [c_char; 128],
    pub hip_name: [c_char; 64],
    pub hip_call: [c_char; 64],
}

// SAFETY: repr(C), `size` first, integers only.
unsafe impl Sized for rf_error {
    const NAME: &'static str = "rf_error";
}

impl rf_error {
    fn new(status: rf_status, last: Option<&Last>) -> Self {
        let rf_error_info { hip_code, device, grid, block, shared_bytes, .. } = describe(last);
        let message = last.map_or("", |last| last.message.as_str());
        let gpu = last.and_then(|last| last.gpu.as_ref());
        let launch = gpu.and_then(|gpu| gpu.launch.as_ref());
        rf_error {
            size: 0,
            status,
            hip_code,
            device,
            grid,
            block,
            message_len: u32::try_from(message.len()).unwrap_or(u32::MAX),
            shared_bytes,
            message: c_array(message),
            kernel: c_array(launch.map_or("", |launch| launch.kernel.as_str())),
            hip_name: c_array(gpu.map_or("", |gpu| gpu.name.as_str())),
            hip_call: c_array(gpu.map_or("", |gpu| gpu.call.as_str())),
        }
    }
}

/// Calls `call` and tells in *error what it came to. Both happen in one call of the host's, so on one thread, whose last
/// failure is the call's. With an `error` of a wrong size nothing is called.
///
/// # Safety
/// `error` is NULL or points to as many writable bytes as its `size` says.
unsafe fn with_error(error: *mut rf_error, call: impl FnOnce() -> rf_status) -> rf_status {
    if error.is_null() {
        return call();
    }
    let mut out = None;
    // always: where the call cannot begin, *error is to say so
    let checked = always(|| {
        // SAFETY: the caller's promise.
        out = Some(unsafe { sized::Out::new(error) }?);
        Ok(())
    });
    let Some(out) = out else { return checked };
    let status = call();
    out.set(match status {
        RF_OK => rf_error::new(RF_OK, None),
        status => with_last(|last| rf_error::new(status, last.filter(|last| last.status == status))),
    });
    status
}

/// As rf_backend_create, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_create_e(
    params: *const rf_backend_params,
    backend: *mut *mut rf_backend,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_backend_create(params, backend)) }
}

/// As rf_backend_info, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_info_e(
    backend: *const rf_backend,
    info: *mut rf_device_details,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_backend_info(backend, info)) }
}

/// As rf_backend_memory, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_memory_e(
    backend: *const rf_backend,
    free: *mut u64,
    total: *mut u64,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_backend_memory(backend, free, total)) }
}

/// As rf_op_transpose, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_op_transpose_e(
    backend: *const rf_backend,
    src: *const f32,
    dst: *mut f32,
    rows: usize,
    cols: usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_op_transpose(backend, src, dst, rows, cols)) }
}

/// As rf_device_count, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_device_count_e(kind: i32, n: *mut u32, error: *mut rf_error) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_device_count(kind, n)) }
}

/// As rf_device_info, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_device_info_e(
    kind: i32,
    index: u32,
    info: *mut rf_device_details,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_device_info(kind, index, info)) }
}

/// As rf_model_load, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_load_e(
    backend: *const rf_backend,
    path: *const c_char,
    params: *const rf_model_params,
    model: *mut *mut rf_model,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_load(backend, path, params, model)) }
}

/// As rf_model_info, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_info_e(
    model: *const rf_model,
    info: *mut rf_model_details,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_info(model, info)) }
}

/// As rf_model_tensor_count, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_tensor_count_e(
    model: *const rf_model,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_tensor_count(model, n)) }
}

/// As rf_model_tensor_at, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_tensor_at_e(
    model: *const rf_model,
    index: usize,
    info: *mut rf_tensor_details,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_tensor_at(model, index, info)) }
}

/// As rf_model_tensor_find, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_tensor_find_e(
    model: *const rf_model,
    name: *const c_char,
    index: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_tensor_find(model, name, index)) }
}

/// As rf_model_meta_count, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_count_e(
    model: *const rf_model,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_count(model, n)) }
}

/// As rf_model_meta_at, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_at_e(
    model: *const rf_model,
    index: usize,
    info: *mut rf_meta_details,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_at(model, index, info)) }
}

/// As rf_model_meta_find, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_find_e(
    model: *const rf_model,
    key: *const c_char,
    index: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_find(model, key, index)) }
}

/// As rf_model_meta_text, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_text_e(
    model: *const rf_model,
    index: usize,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_text(model, index, buffer, capacity, n)) }
}

/// As rf_model_meta_string, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_string_e(
    model: *const rf_model,
    index: usize,
    element: usize,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_string(model, index, element, buffer, capacity, n)) }
}

/// As rf_model_meta_u64, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_u64_e(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut u64,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_u64(model, index, element, number)) }
}

/// As rf_model_meta_i64, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_i64_e(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut i64,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_i64(model, index, element, number)) }
}

/// As rf_model_meta_f64, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_f64_e(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut f64,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_model_meta_f64(model, index, element, number)) }
}

/// As rf_tokenize, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_tokenize_e(
    model: *const rf_model,
    text: *const c_char,
    text_len: usize,
    flags: u32,
    tokens: *mut rf_token,
    capacity: usize,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_tokenize(model, text, text_len, flags, tokens, capacity, n)) }
}

/// As rf_detokenize, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_detokenize_e(
    model: *const rf_model,
    tokens: *const rf_token,
    n_tokens: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_detokenize(model, tokens, n_tokens, flags, buffer, capacity, n)) }
}

/// As rf_token_info, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_token_info_e(
    model: *const rf_model,
    token: rf_token,
    info: *mut rf_token_details,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_token_info(model, token, info)) }
}

/// As rf_chat_apply, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_chat_apply_e(
    model: *const rf_model,
    params: *const rf_chat_params,
    tokens: *mut rf_token,
    capacity: usize,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_chat_apply(model, params, tokens, capacity, n)) }
}

/// As rf_chat_text, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_chat_text_e(
    model: *const rf_model,
    params: *const rf_chat_params,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_chat_text(model, params, buffer, capacity, n)) }
}

/// As rf_context_create, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_context_create_e(
    model: *const rf_model,
    params: *const rf_context_params,
    ctx: *mut *mut rf_context,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_context_create(model, params, ctx)) }
}

/// As rf_sampler_create, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_create_e(
    params: *const rf_sampler_params,
    sampler: *mut *mut rf_sampler,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_sampler_create(params, sampler)) }
}

/// As rf_sampler_accept, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_accept_e(
    sampler: *mut rf_sampler,
    token: rf_token,
    error: *mut rf_error,
) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_sampler_accept(sampler, token)) }
}

/// As rf_sampler_reset, with the error in *error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_sampler_reset_e(sampler: *mut rf_sampler, error: *mut rf_error) -> rf_status {
    // SAFETY: the caller's promises.
    unsafe { with_error(error, || rf_sampler_reset(sampler)) }
}
