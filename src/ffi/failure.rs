//! Why calls fail, on the way to C: the thread's last failure is kept here.

use std::cell::RefCell;
use std::ffi::CString;
use std::sync::Arc;

use super::status::{self, RF_ERROR_PARAM, rf_status};
use crate::Error;
use crate::error::GpuFailure;

/// Why a call did not come to RF_OK.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub status: rf_status,
    pub message: CString,
    /// What rf_last_error_info tells of a failed call into a GPU's runtime.
    pub gpu: Option<Arc<GpuFields>>,
}

/// A [`GpuFailure`] as C takes it.
#[derive(Debug)]
pub(super) struct GpuFields {
    pub failure: GpuFailure,
    pub call: CString,
    pub name: CString,
    pub kernel: Option<CString>,
}

impl From<&GpuFailure> for GpuFields {
    fn from(failure: &GpuFailure) -> Self {
        GpuFields {
            failure: failure.clone(),
            call: c_string(failure.call),
            name: c_string(failure.name.as_str()),
            kernel: failure.launch.as_ref().map(|launch| c_string(launch.kernel.as_str())),
        }
    }
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: rf_status, message: impl Into<String>) -> Self {
        Failure { status, message: c_string(message), gpu: None }
    }

    pub fn param(message: impl Into<String>) -> Self {
        Failure::new(RF_ERROR_PARAM, message)
    }

    pub fn message(&self) -> &str {
        self.message.to_str().unwrap_or("") // made from a String
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let gpu = match &error {
            Error::Gpu(failure) | Error::DeviceLost { failure, .. } => {
                Some(Arc::new(GpuFields::from(&**failure)))
            }
            _ => None,
        };
        Failure { gpu, ..Failure::new(status::of(&error), error.to_string()) }
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

/// Calls `f` with the calling thread's last failure; None where there was none, or the thread is ending.
pub(super) fn with_last<T>(f: impl Fn(Option<&Failure>) -> T) -> T {
    LAST.try_with(|last| f(last.borrow().as_ref())).unwrap_or_else(|_| f(None))
}
