//! Failures on their way to C: the thread's last error, and a context's own copy.

#![allow(non_camel_case_types)]

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::ptr;

use super::status::{self, RF_ERROR_PARAM, RF_OK, rf_status};
use super::{guard, sized};
use crate::Error;

/// Why a call did not come to RF_OK.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub status: rf_status,
    pub message: CString,
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: rf_status, message: impl Into<String>) -> Self {
        Failure { status, message: c_string(message) }
    }

    pub fn param(message: impl Into<String>) -> Self {
        Failure::new(RF_ERROR_PARAM, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(status::of(&error), error.to_string())
    }
}

/// Text as C takes it; NUL inside (a hostile file's names) becomes U+FFFD.
pub(super) fn c_string(text: impl Into<String>) -> CString {
    let text: String = text.into();
    CString::new(text).unwrap_or_else(|nul| {
        let text = String::from_utf8_lossy(&nul.into_vec()).replace('\0', "\u{fffd}");
        CString::new(text).unwrap_or_default()
    })
}

thread_local! {
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Remembers the failure as the calling thread's last; gives its status back.
pub(super) fn set_last(failure: Failure) -> rf_status {
    let status = failure.status;
    // A thread that is ending has no last error any more; its status still tells.
    let _ = LAST.try_with(|last| last.replace(Some(failure)));
    status
}

/// The message of this thread's last call that did not come to RF_OK; "" if there was none. Never NULL.
///
/// Calls that succeed leave it as it is. The text stays valid until this thread's next call that does not
/// come to RF_OK. Where calls move between threads (Go), ask right after the call or use rf_context_error.
#[unsafe(no_mangle)]
pub extern "C" fn rf_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ref().map_or(c"".as_ptr(), |failure| failure.message.as_ptr()))
        .unwrap_or(c"".as_ptr())
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
    guard::guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it states.
        let out = unsafe { sized::Out::new(info) }?;
        let (status, message) = LAST.with_borrow(|last| match last {
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
