//! The library's own threads: no signal meant for the host reaches them, and a panic becomes an error.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::{Error, Result, panics};

/// How the threads' names begin; by it the C boundary knows that their panics are not to be printed.
pub const NAME: &str = "rocmforge";

/// Starts a thread "rocmforge-`name`".
///
/// # Errors
/// Error::Io or OutOfMemory: the system gives no thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    start(name, None, |builder| builder.spawn(work))
}

/// As [`spawn`], with a stack of `stack` bytes (None: 2 MiB), to be joined within `scope`.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    stack: Option<usize>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<Scoped<'scope, T>> {
    let work = move || catch_unwind(AssertUnwindSafe(work)).map_err(panics::text_of);
    start(name, stack, |builder| builder.spawn_scoped(scope, work)).map(Scoped)
}

/// A thread that gives a value.
pub struct Scoped<'scope, T>(ScopedJoinHandle<'scope, Result<T, String>>);

impl<T> Scoped<'_, T> {
    /// Waits for the value. Error::Internal: the thread panicked.
    pub fn join(self) -> Result<T> {
        self.0.join().unwrap_or_else(|panic| Err(panics::text_of(panic))).map_err(Error::Internal)
    }
}

fn start<H>(name: &str, stack: Option<usize>, spawn: impl FnOnce(Builder) -> io::Result<H>) -> Result<H> {
    let mut builder = Builder::new().name(format!("{NAME}-{name}"));
    if let Some(bytes) = stack {
        builder = builder.stack_size(bytes);
    }
    let started = {
        let _blocked = signals::Blocked::new();
        spawn(builder)
    };
    started.map_err(|source| match source.kind() {
        io::ErrorKind::OutOfMemory => {
            Error::OutOfMemory { what: format!("thread {NAME}-{name}"), wanted: 0, free: 0, total: 0 }
        }
        _ => Error::Io { what: "start", path: PathBuf::from(format!("thread {NAME}-{name}")), source },
    })
}

#[cfg(unix)]
mod signals {
    use std::mem::MaybeUninit;

    /// While it lives, the thread takes no signal that is sent; threads that it starts never do. Signals that a thread
    /// brings upon itself stay with the host's handlers: blocked, they would end the process without them.
    pub struct Blocked(libc::sigset_t);

    const FAULTS: [libc::c_int; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

    impl Blocked {
        pub fn new() -> Self {
            let (mut block, mut before) = (MaybeUninit::uninit(), MaybeUninit::zeroed());
            // SAFETY: sigfillset initializes the set that the other calls read; pthread_sigmask writes the old mask,
            // and fails only for an unknown first argument.
            unsafe {
                libc::sigfillset(block.as_mut_ptr());
                for signal in FAULTS {
                    libc::sigdelset(block.as_mut_ptr(), signal);
                }
                libc::pthread_sigmask(libc::SIG_BLOCK, block.as_ptr(), before.as_mut_ptr());
                Blocked(before.assume_init())
            }
        }
    }

    impl Drop for Blocked {
        fn drop(&mut self) {
            // SAFETY: the mask that was in place before.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
        }
    }
}

#[cfg(not(unix))]
mod signals {
    pub struct Blocked;

    impl Blocked {
        pub fn new() -> Self {
            Blocked
        }
    }
}
