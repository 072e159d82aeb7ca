//! Ctrl-C (and SIGTERM, SIGHUP): the first stops the work cleanly, the second ends the process.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use rocmforge::Error;
use rocmforge::engine::CancelHandle;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Nothing is being computed: the first Ctrl-C already ends the process.
static IDLE: AtomicBool = AtomicBool::new(false);
/// The context whose step is to be cancelled.
static CONTEXT: Mutex<Option<CancelHandle>> = Mutex::new(None);

pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if IDLE.load(Ordering::SeqCst) || INTERRUPTED.swap(true, Ordering::SeqCst) {
            super::terminal::restore();
            std::process::exit(i32::from(super::exit::INTERRUPTED));
        }
        if let Ok(context) = CONTEXT.lock()
            && let Some(handle) = context.as_ref()
        {
            handle.cancel();
        }
    })
    .context("cannot handle Ctrl-C")
}

/// From now on Ctrl-C cancels the step that this context is in. One that comes between two steps is for the caller to
/// see ([`check`]).
pub fn watch(handle: CancelHandle) {
    if let Ok(mut context) = CONTEXT.lock() {
        *context = Some(handle);
    }
}

pub fn is_set() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Whether it was set; the next Ctrl-C is then the first again.
pub fn take() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Runs `wait` (for input, say) with Ctrl-C ending the process at once.
pub fn while_idle<T>(wait: impl FnOnce() -> T) -> T {
    IDLE.store(true, Ordering::SeqCst);
    let result = wait();
    IDLE.store(false, Ordering::SeqCst);
    result
}

/// As if Ctrl-C had come: for one that was read as a key.
pub fn set() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Err(Cancelled) once Ctrl-C came: for loops, before each step.
pub fn check() -> rocmforge::Result<()> {
    if is_set() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Whether the error is nothing but the answer to Ctrl-C.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    is_set() && matches!(error.downcast_ref::<Error>(), Some(Error::Cancelled))
}
