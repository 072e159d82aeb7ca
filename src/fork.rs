//! Forks: of a process's threads only the one that forks goes on in the child, where locks that others held stay
//! locked and a GPU's runtime is unusable.

#[cfg(feature = "hip")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::{Error, Result, memory};

/// Forks between this process and the one that first called [`watch`].
static COUNT: AtomicU32 = AtomicU32::new(0);
static WATCHING: AtomicBool = AtomicBool::new(false);
/// Somebody sees to it that forks wait for the reserve's lock, which no other thread gives back in a child.
static HOLDING: AtomicBool = AtomicBool::new(false);

/// Counts forks from now on.
pub fn watch() -> Result<()> {
    #[cfg(unix)]
    {
        extern "C" fn in_child() {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        if WATCHING.load(Ordering::Acquire) {
            return Ok(());
        }
        // Of two threads that come here at once both register: a fork then counts twice, which is as good as once.
        // SAFETY: the handler only touches an atomic.
        let mut refused = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        // once: a second handler would wait for the first
        if refused == 0 && !HOLDING.swap(true, Ordering::Relaxed) {
            // SAFETY: each fork calls the first, then in either process the second.
            refused = unsafe {
                libc::pthread_atfork(Some(memory::hold), Some(memory::let_go), Some(memory::let_go))
            };
            HOLDING.store(refused == 0, Ordering::Relaxed);
        }
        if refused != 0 {
            return Err(Error::OutOfMemory { what: "a fork handler".into(), wanted: 0, free: 0, total: 0 });
        }
    }
    WATCHING.store(true, Ordering::Release);
    Ok(())
}

/// When something was made, counted in forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u32);

impl Epoch {
    /// The current one. What is to be told from a child's is made after [`watch`].
    pub fn now() -> Self {
        Epoch(COUNT.load(Ordering::Relaxed))
    }

    /// The process has forked since, and this is the child.
    pub fn is_past(self) -> bool {
        self != Epoch::now()
    }

    /// Err in the child for a handle, which stayed with the parent.
    pub fn check(self, what: &'static str) -> Result<()> {
        if self.is_past() {
            return Err(Error::Forked {
                what,
                instead: "make a new backend, and what it takes, in the child",
            });
        }
        Ok(())
    }
}

/// The epoch of a first use, without a lock that a fork could leave held.
#[cfg(feature = "hip")]
pub struct OnceEpoch(AtomicU64);

#[cfg(feature = "hip")]
impl OnceEpoch {
    pub const fn new() -> Self {
        OnceEpoch(AtomicU64::new(0))
    }

    /// As if there had been none.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Of the first call.
    pub fn get(&self) -> Result<Epoch> {
        watch()?;
        let Epoch(now) = Epoch::now();
        // 0 is none yet
        match self.0.compare_exchange(0, u64::from(now) + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(Epoch(now)),
            Err(first) => Ok(Epoch((first - 1) as u32)),
        }
    }
}
