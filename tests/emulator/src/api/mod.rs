//! The functions of libamdhip64.so, each with the signature of hip_runtime_api.h.
//!
//! All calls take one lock, so that they are served one after another, as the real runtime's are for most part.

#![allow(non_snake_case)]

mod control;
mod device;
mod graph;
mod memory;
mod module;
mod properties;
mod stream;

pub use control::*;
pub use device::*;
pub use graph::*;
pub use memory::*;
pub use module::*;
pub use properties::*;
pub use stream::*;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::{self, Code};
use crate::config::Config;
use crate::runtime::{Result, Runtime};

/// Of a stream, an event, a module...: a number that only looks like an address.
type Handle = *mut c_void;

/// None before the first call.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

thread_local! {
    /// hipGetLastError's, and the device that hipSetDevice chose.
    static LAST_ERROR: Cell<Code> = const { Cell::new(code::SUCCESS) };
    static DEVICE: Cell<usize> = const { Cell::new(0) };
}

fn lock() -> MutexGuard<'static, Option<Runtime>> {
    RUNTIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` on the runtime, which the first call makes.
fn with_runtime(body: impl FnOnce(&mut Runtime) -> Result<()>) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = lock();
        if guard.is_none() {
            let config = Config::read("").map_err(|why| {
                eprintln!("rocmforge-emulator: {why}");
                code::NOT_INITIALIZED
            })?;
            *guard = Some(Runtime::new(config));
        }
        body(guard.as_mut().ok_or(code::NOT_INITIALIZED)?)
    }));
    match outcome {
        Ok(Ok(())) => code::SUCCESS,
        Ok(Err(code)) => code,
        // The panic's message is on stderr.
        Err(_) => code::UNKNOWN,
    }
}

/// One call of the API: counted, failed if so ordered, its error kept for hipGetLastError.
fn call(name: &'static str, body: impl FnOnce(&mut Runtime) -> Result<()>) -> c_int {
    let code = with_runtime(|runtime| {
        runtime.count_call(name)?;
        body(runtime)
    });
    if code != code::SUCCESS && code != code::NOT_READY {
        LAST_ERROR.set(code);
    }
    code
}

/// The thread's device. Err: there is none, or it is lost.
fn current(runtime: &Runtime) -> Result<usize> {
    let device = DEVICE.get();
    if device >= runtime.devices.len() {
        return Err(code::NO_DEVICE);
    }
    runtime.alive(device)?;
    Ok(device)
}

/// Writes a result.
///
/// # Safety
/// `to` is null or points to writable memory for a T.
unsafe fn put<T>(to: *mut T, value: T) -> Result<()> {
    if to.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { to.write(value) };
    Ok(())
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str> {
    if text.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| code::INVALID_VALUE)
}

/// Defines exported functions. The body sees the runtime; its Err is what the function returns.
macro_rules! hip {
    ($($(#[$doc:meta])* fn $name:ident($runtime:ident $(, $arg:ident: $ty:ty)* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// Pointers are null or valid for what hip_runtime_api.h says is read and written through them.
            #[allow(clippy::too_many_arguments)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> std::ffi::c_int {
                $crate::api::call(stringify!($name), |$runtime| $body)
            }
        )*
    };
}
use hip;
