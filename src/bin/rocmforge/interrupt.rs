//! Ctrl-C (and SIGTERM, SIGHUP): the first stops the work cleanly, the second ends the process.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context as _, Result};
use rocmforge::Error;
use rocmforge::engine::Context;

/// 1: Ctrl-C came.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);
/// Nothing is being computed: the first Ctrl-C already ends the process.
static IDLE: AtomicBool = AtomicBool::new(false);

pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if IDLE.load(Ordering::SeqCst) || INTERRUPTED.swap(1, Ordering::SeqCst) != 0 {
            super::terminal::restore();
            std::process::exit(i32::from(super::exit::INTERRUPTED));
        }
    })
    .context("cannot handle Ctrl-C")
}

/// From now on Ctrl-C cancels this context's steps.
pub fn watch(context: &mut Context) {
    context.stop_on(&INTERRUPTED);
}

pub fn is_set() -> bool {
    INTERRUPTED.load(Ordering::SeqCst) != 0
}

/// Whether it was set; the next Ctrl-C is then the first again.
pub fn take() -> bool {
    INTERRUPTED.swap(0, Ordering::SeqCst) != 0
}

/// Runs `wait` (for input, say) with Ctrl-C ending the process at once. Err(Cancelled): it came just before.
pub fn while_idle<T>(wait: impl FnOnce() -> T) -> rocmforge::Result<T> {
    IDLE.store(true, Ordering::SeqCst);
    let result = check().map(|()| wait());
    IDLE.store(false, Ordering::SeqCst);
    result
}

/// What was waited for is there: from now on Ctrl-C stops the work on it.
pub fn begin_work() {
    IDLE.store(false, Ordering::SeqCst);
}

/// As if Ctrl-C had come: for one that was read as a key.
pub fn set() {
    INTERRUPTED.store(1, Ordering::SeqCst);
}

/// Err(Cancelled) once Ctrl-C came: for loops that have no context to stop.
pub fn check() -> rocmforge::Result<()> {
    if is_set() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Whether the error is nothing but the answer to Ctrl-C.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    is_set() && matches!(error.downcast_ref::<Error>(), Some(Error::Cancelled))
}
