//! What the emulator offers beyond HIP, for tests in the same process.

use std::ffi::{c_char, c_int};
use std::panic::catch_unwind;

use super::{lock, text, with_runtime};
use crate::code;
use crate::config::{Config, Order};
use crate::runtime::Runtime;

/// Starts anew with lines KEY=VALUE, named as the environment's variables without ROCMFORGE_EMULATOR_; what they
/// leave out the environment says. All handles and memory from before are gone. 1: a line is wrong.
///
/// # Safety
/// `settings` is null (as "") or a C string; nothing of before is used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rocmforge_emulator_configure(settings: *const c_char) -> c_int {
    // SAFETY: the caller's.
    let settings = if settings.is_null() { Ok("") } else { unsafe { text(settings) } };
    guarded(|| match settings.map(Config::read) {
        Ok(Ok(config)) => {
            *lock() = Some(Runtime::new(config));
            code::SUCCESS
        }
        _ => code::INVALID_VALUE,
    })
}

/// Replaces the orders to fail (see ROCMFORGE_EMULATOR_FAIL) and counts calls anew. 1: an order is wrong.
///
/// # Safety
/// `orders` is null (as "") or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rocmforge_emulator_fail(orders: *const c_char) -> c_int {
    // SAFETY: the caller's.
    let orders = if orders.is_null() { Ok("") } else { unsafe { text(orders) } };
    guarded(|| match orders.map(Order::parse_all) {
        Ok(Ok(orders)) => with_runtime(|runtime| {
            runtime.config.fail = orders;
            runtime.reset_calls();
            Ok(())
        }),
        _ => code::INVALID_VALUE,
    })
}

/// Calls since the start, or since calls were counted anew: of one function, or of all (null or "").
///
/// # Safety
/// `name` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rocmforge_emulator_calls(name: *const c_char) -> u64 {
    // SAFETY: the caller's.
    let name = if name.is_null() { Ok("") } else { unsafe { text(name) } };
    lock().as_ref().map_or(0, |runtime| runtime.calls(name.unwrap_or("")))
}

/// What the last stopped kernel was stopped for. The text's length, also where the buffer is smaller; 0: none was.
///
/// # Safety
/// `buffer` points to `bytes` writable bytes; a NUL ends what is written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rocmforge_emulator_last_stop(buffer: *mut c_char, bytes: usize) -> usize {
    let stop = lock().as_ref().map_or(String::new(), |runtime| runtime.last_stop.clone());
    // SAFETY: the caller's.
    unsafe { copy_text(&stop, buffer, bytes) }
}

/// The last launch's counters as a line of JSON, like those of ROCMFORGE_EMULATOR_COUNTERS.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rocmforge_emulator_last_launch(buffer: *mut c_char, bytes: usize) -> usize {
    let launch = lock().as_ref().map_or(String::new(), |runtime| runtime.last_launch.clone());
    // SAFETY: the caller's.
    unsafe { copy_text(&launch, buffer, bytes) }
}

/// # Safety
/// `buffer` points to `bytes` writable bytes.
unsafe fn copy_text(text: &str, buffer: *mut c_char, bytes: usize) -> usize {
    if !buffer.is_null() && bytes > 0 {
        let n = text.len().min(bytes - 1);
        // SAFETY: the caller's: n < bytes.
        unsafe {
            buffer.copy_from_nonoverlapping(text.as_ptr().cast(), n);
            buffer.add(n).write(0);
        }
    }
    text.len()
}

fn guarded(body: impl FnOnce() -> c_int + std::panic::UnwindSafe) -> c_int {
    catch_unwind(body).unwrap_or(code::UNKNOWN)
}
