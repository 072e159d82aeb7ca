//! Why calls fail, on the way to C: the thread's last failure is kept here.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use super::status::{self, RF_ERROR_PARAM, RF_OK, rf_status};
use crate::Error;
use crate::error::GpuFailure;
use crate::memory;

/// Why a call did not come to RF_OK.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub status: rf_status,
    pub message: CString,
    /// Of a failed call into a GPU's runtime.
    pub gpu: Option<Box<GpuFailure>>,
}

pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: rf_status, message: impl Into<String>) -> Self {
        Failure { status, message: c_string(message), gpu: None }
    }

    pub fn param(message: impl Into<String>) -> Self {
        Failure::new(RF_ERROR_PARAM, message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Failure::new(status::of(&error), error.to_string());
        let gpu = match error {
            Error::Gpu(gpu) | Error::DeviceLost { failure: gpu, .. } => Some(gpu),
            _ => None,
        };
        Failure { gpu, ..failure }
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

/// The same, of a text whose length a file has chosen.
pub(super) fn long_c_string(text: &str, what: &str) -> crate::Result<CString> {
    if text.contains('\0') {
        return memory::with_room(8 * text.len(), what, || c_string(text));
    }
    let mut bytes = memory::vec(text.len() + 1, what)?;
    bytes.extend_from_slice(text.as_bytes());
    // in the room that there is
    Ok(CString::new(bytes).unwrap_or_default())
}

/// A NUL-terminated copy, cut between characters where it does not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    const EMPTY: Self = Text([0; N]);

    fn new(text: &str) -> Self {
        let mut copy = Self::EMPTY;
        let text = memory::beginning(text, N - 1);
        copy.0[..text.len()].copy_from_slice(text.as_bytes());
        copy
    }

    pub fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }

    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(N);
        std::str::from_utf8(&self.0[..end]).unwrap_or("") // made from a str
    }
}

/// A thread's last failure. It lies in the thread's own memory, without a destructor: to keep a failure takes none,
/// which may be what failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub status: rf_status,
    pub message: Text<2048>,
    pub gpu: Option<LastGpu>,
}

/// A [`GpuFailure`] as C takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastGpu {
    pub code: i32,
    pub device: i32,
    pub call: Text<64>,
    pub name: Text<64>,
    pub launch: Option<LastLaunch>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct LastLaunch {
    pub kernel: Text<128>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u64,
}

impl From<&Failure> for Last {
    fn from(failure: &Failure) -> Self {
        let narrow = |sides: [u64; 3]| sides.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let gpu = failure.gpu.as_ref().map(|gpu| LastGpu {
            code: gpu.code,
            device: gpu.device,
            call: Text::new(gpu.call),
            name: Text::new(&gpu.name),
            launch: gpu.launch.as_ref().map(|launch| LastLaunch {
                kernel: Text::new(&launch.kernel),
                grid: narrow(launch.grid),
                block: narrow(launch.block),
                shared_bytes: launch.shared_bytes,
            }),
        });
        // a message was made from a String
        Last { status: failure.status, message: Text::new(failure.message.to_str().unwrap_or("")), gpu }
    }
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last { status: RF_OK, message: Text::EMPTY, gpu: None }) };
}

/// Remembers the failure as the calling thread's last; gives its status back.
pub(super) fn set_last(failure: &Failure) -> rf_status {
    LAST.with_borrow_mut(|last| *last = Last::from(failure));
    failure.status
}

/// Calls `f` with the calling thread's last failure, whose texts stay in place until the next; None if there was none.
pub(super) fn with_last<T>(f: impl FnOnce(Option<&Last>) -> T) -> T {
    LAST.with_borrow(|last| f((last.status != RF_OK).then_some(last)))
}
