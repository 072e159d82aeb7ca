//! Status codes, and which of the engine's errors gets which.

#![allow(non_camel_case_types)]

use std::ffi::{CStr, c_char};

use crate::Error;

/// What a call came to: RF_OK (0), an outcome (positive) or an error (negative). New codes may be added:
/// judge unknown ones by their sign.
pub type rf_status = i32;

/// Done.
pub const RF_OK: i32 = 0;
/// Outcome: stopped by a callback, by rf_context_cancel or by a flag of the caller's.
pub const RF_CANCELLED: i32 = 1;
/// Outcome: the context's cache has no room for the step.
pub const RF_CACHE_FULL: i32 = 2;
/// Outcome: there is nothing of that name, or no call to cancel.
pub const RF_NOT_FOUND: i32 = 3;
/// An argument is wrong: NULL, out of range, of a wrong size, not UTF-8.
pub const RF_ERROR_PARAM: i32 = -1;
/// The buffer is too short; the size that suffices is in *n.
pub const RF_ERROR_BUFFER: i32 = -2;
/// The handle is in use by another call, from another thread or from inside a callback.
pub const RF_ERROR_BUSY: i32 = -3;
/// The operating system refused.
pub const RF_ERROR_IO: i32 = -4;
/// The file is not a well-formed GGUF file.
pub const RF_ERROR_FORMAT: i32 = -5;
/// The file is well formed, but no model can be run from it.
pub const RF_ERROR_MODEL: i32 = -6;
/// An architecture, type or tokenizer that this library does not know.
pub const RF_ERROR_UNSUPPORTED: i32 = -7;
/// Text could not be turned into tokens or back.
pub const RF_ERROR_TOKENIZER: i32 = -8;
/// The model's chat template failed, ran too long or printed too much; or the model has none.
pub const RF_ERROR_TEMPLATE: i32 = -9;
/// Memory could not be had.
pub const RF_ERROR_MEMORY: i32 = -10;
/// A bug in this library, or a panic in a callback. A context in which it happened only takes rf_context_release.
pub const RF_ERROR_INTERNAL: i32 = -11;
/// No GPU runtime (libamdhip64.so, libcuda.so.1) can be opened here.
pub const RF_ERROR_NO_RUNTIME: i32 = -12;
/// A GPU runtime is there, but no GPU, or not the one asked for.
pub const RF_ERROR_NO_DEVICE: i32 = -13;
/// The GPU's runtime is too old for this library.
pub const RF_ERROR_RUNTIME_TOO_OLD: i32 = -14;
/// This library carries no kernels for the GPU, or the ones it was pointed to are missing or damaged.
pub const RF_ERROR_KERNELS: i32 = -15;
/// The GPU fell out of use; its backend must be released.
pub const RF_ERROR_DEVICE_LOST: i32 = -16;
/// A call into the GPU's runtime failed; rf_last_error_info tells which.
pub const RF_ERROR_GPU: i32 = -17;
/// This process was forked after the handle, or the GPU's runtime, came into use: they stay with the parent. In the child
/// make a new backend.
pub const RF_ERROR_FORKED: i32 = -18;

const NAMES: [(rf_status, &CStr); 22] = [
    (RF_OK, c"RF_OK"),
    (RF_CANCELLED, c"RF_CANCELLED"),
    (RF_CACHE_FULL, c"RF_CACHE_FULL"),
    (RF_NOT_FOUND, c"RF_NOT_FOUND"),
    (RF_ERROR_PARAM, c"RF_ERROR_PARAM"),
    (RF_ERROR_BUFFER, c"RF_ERROR_BUFFER"),
    (RF_ERROR_BUSY, c"RF_ERROR_BUSY"),
    (RF_ERROR_IO, c"RF_ERROR_IO"),
    (RF_ERROR_FORMAT, c"RF_ERROR_FORMAT"),
    (RF_ERROR_MODEL, c"RF_ERROR_MODEL"),
    (RF_ERROR_UNSUPPORTED, c"RF_ERROR_UNSUPPORTED"),
    (RF_ERROR_TOKENIZER, c"RF_ERROR_TOKENIZER"),
    (RF_ERROR_TEMPLATE, c"RF_ERROR_TEMPLATE"),
    (RF_ERROR_MEMORY, c"RF_ERROR_MEMORY"),
    (RF_ERROR_INTERNAL, c"RF_ERROR_INTERNAL"),
    (RF_ERROR_NO_RUNTIME, c"RF_ERROR_NO_RUNTIME"),
    (RF_ERROR_NO_DEVICE, c"RF_ERROR_NO_DEVICE"),
    (RF_ERROR_RUNTIME_TOO_OLD, c"RF_ERROR_RUNTIME_TOO_OLD"),
    (RF_ERROR_KERNELS, c"RF_ERROR_KERNELS"),
    (RF_ERROR_DEVICE_LOST, c"RF_ERROR_DEVICE_LOST"),
    (RF_ERROR_GPU, c"RF_ERROR_GPU"),
    (RF_ERROR_FORKED, c"RF_ERROR_FORKED"),
];

/// The status's name, "RF_ERROR_PARAM"; "RF_UNKNOWN" for a number that is none. Static, any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rf_status_name(status: rf_status) -> *const c_char {
    let known = NAMES.iter().find(|(code, _)| *code == status);
    known.map_or(c"RF_UNKNOWN", |(_, name)| name).as_ptr()
}

pub(super) fn of(error: &Error) -> rf_status {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::OutOfMemory => RF_ERROR_MEMORY,
        Error::Io { .. } => RF_ERROR_IO,
        Error::Format { .. } => RF_ERROR_FORMAT,
        Error::Model(_) => RF_ERROR_MODEL,
        Error::UnknownArchitecture { .. } | Error::Unsupported { .. } => RF_ERROR_UNSUPPORTED,
        Error::Param(_) | Error::NotKept { .. } => RF_ERROR_PARAM,
        Error::Tokenizer(_) => RF_ERROR_TOKENIZER,
        Error::Template(_) => RF_ERROR_TEMPLATE,
        Error::CacheFull { .. } => RF_CACHE_FULL,
        Error::OutOfMemory { .. } => RF_ERROR_MEMORY,
        Error::NoRuntime { .. } => RF_ERROR_NO_RUNTIME,
        Error::NoGpu(_) => RF_ERROR_NO_DEVICE,
        Error::RuntimeTooOld { .. } => RF_ERROR_RUNTIME_TOO_OLD,
        Error::NoKernels { .. } | Error::Kernels(_) => RF_ERROR_KERNELS,
        Error::DeviceLost { .. } => RF_ERROR_DEVICE_LOST,
        Error::Gpu(_) => RF_ERROR_GPU,
        Error::Cancelled => RF_CANCELLED,
        Error::Forked { .. } => RF_ERROR_FORKED,
        Error::Internal(_) => RF_ERROR_INTERNAL,
    }
}
