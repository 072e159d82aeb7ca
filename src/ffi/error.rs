//! rf_last_error: the calling thread's last failure, as text and field by field.

#![allow(non_camel_case_types)]

use std::ffi::c_char;
use std::ptr;

use super::failure::with_last;
use super::guard::guard;
use super::sized;
use super::status::{RF_OK, rf_status};

/// The message of this thread's last call that did not come to RF_OK; "" if there was none. Never NULL.
///
/// Calls that succeed leave it as it is. The text stays valid until this thread's next call that does not
/// come to RF_OK. Where calls move between threads (Go), ask right after the call or use rf_context_error.
#[unsafe(no_mangle)]
pub extern "C" fn rf_last_error() -> *const c_char {
    with_last(|last| last.map_or(c"".as_ptr(), |failure| failure.message.as_ptr()))
}

/// The last error, field by field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_error_info {
    /// sizeof(rf_error_info), set by the caller.
    pub size: usize,
    /// RF_OK if there was no error yet.
    pub status: rf_status,
    /// GPU launches only: the number that HIP returned, else 0.
    pub hip_code: i32,
    /// What rf_last_error returns. Never NULL; valid as long.
    pub message: *const c_char,
    /// GPU launches only, else NULL: the kernel's name and the name of `hip_code`. Valid as `message` is.
    pub kernel: *const c_char,
    pub hip_name: *const c_char,
    /// GPU launches only: the launch's grid and block, the shared memory it asked for in bytes, and the
    /// device's index (else -1).
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u64,
    pub device: i32,
}

// SAFETY: repr(C), `size` first, null pointers and zeros are valid.
unsafe impl sized::Sized for rf_error_info {
    const NAME: &'static str = "rf_error_info";
}

/// Describes this thread's last call that did not come to RF_OK. The call itself changes the last error only when
/// `info` is NULL or of a wrong size (RF_ERROR_PARAM).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_last_error_info(info: *mut rf_error_info) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it states.
        let out = unsafe { sized::Out::new(info) }?;
        let (status, message) = with_last(|last| match last {
            None => (RF_OK, c"".as_ptr()),
            Some(failure) => (failure.status, failure.message.as_ptr()),
        });
        out.set(rf_error_info {
            size: 0,
            status,
            hip_code: 0,
            message,
            kernel: ptr::null(),
            hip_name: ptr::null(),
            grid: [0; 3],
            block: [0; 3],
            shared_bytes: 0,
            device: -1,
        });
        Ok(())
    })
}
