//! Cancelling: a request that addresses the call in progress, and the host's own flag.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering};

const IDLE: u8 = 0;
const IN_PROGRESS: u8 = 1;
const REQUESTED: u8 = 2;

/// What a call in progress looks at between two ops. Requests come from any thread, and from a signal handler: nothing
/// here waits or allocates.
#[derive(Debug, Default)]
pub struct Cancel {
    /// IDLE, IN_PROGRESS or REQUESTED.
    state: AtomicU8,
    /// The host's flag for the call in progress, or null.
    flag: AtomicPtr<AtomicI32>,
}

impl Cancel {
    pub const fn new() -> Self {
        Cancel { state: AtomicU8::new(IDLE), flag: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Asks the call in progress to stop. False: there is none.
    pub fn request(&self) -> bool {
        let asked = self.state.compare_exchange(IN_PROGRESS, REQUESTED, Ordering::AcqRel, Ordering::Acquire);
        asked.map_or_else(|state| state == REQUESTED, |_| true)
    }

    /// Takes a request back that the call has not answered yet. False: there is none.
    pub fn withdraw(&self) -> bool {
        self.state.compare_exchange(REQUESTED, IN_PROGRESS, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether the call in progress is to stop. For the threads of that call.
    pub fn is_requested(&self) -> bool {
        if self.state.load(Ordering::Relaxed) == REQUESTED {
            return true;
        }
        let flag = self.flag.load(Ordering::Relaxed);
        // SAFETY: `Call::watching`'s caller promised that the flag lives as long as the call, which is in progress.
        !flag.is_null() && unsafe { (*flag).load(Ordering::Relaxed) } != 0
    }
}

/// A call in progress, until dropped. A call inside another belongs to that one.
#[derive(Debug)]
pub struct Call(Option<Arc<Cancel>>);

impl Call {
    /// The user of `cancel` makes one call at a time.
    pub fn begin(cancel: &Arc<Cancel>) -> Self {
        let begun =
            cancel.state.compare_exchange(IDLE, IN_PROGRESS, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        Call(begun.then(|| Arc::clone(cancel)))
    }

    /// Begins a call that is also to stop once `flag`, which may be null, is not 0.
    ///
    /// # Safety
    /// `flag` is null or stays valid until the `Call` is dropped.
    pub unsafe fn watching(cancel: &Arc<Cancel>, flag: *const AtomicI32) -> Self {
        let call = Call::begin(cancel);
        if let Some(cancel) = &call.0 {
            cancel.flag.store(flag.cast_mut(), Ordering::Relaxed);
        }
        call
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.flag.store(ptr::null_mut(), Ordering::Relaxed);
            cancel.state.store(IDLE, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_addresses_the_call_in_progress() {
        let cancel = Arc::new(Cancel::default());
        assert!(!cancel.request() && !cancel.withdraw() && !cancel.is_requested());
        let call = Call::begin(&cancel);
        assert!(!cancel.is_requested() && !cancel.withdraw());
        assert!(cancel.request() && cancel.request() && cancel.is_requested());
        assert!(cancel.withdraw() && !cancel.withdraw() && !cancel.is_requested());
        assert!(cancel.request());
        drop(call);
        assert!(!cancel.is_requested() && !cancel.withdraw());
    }

    #[test]
    fn an_inner_call_ends_nothing() {
        let cancel = Arc::new(Cancel::default());
        let outer = Call::begin(&cancel);
        drop(Call::begin(&cancel));
        assert!(cancel.request());
        drop(Call::begin(&cancel));
        assert!(cancel.is_requested());
        drop(outer);
        assert!(!cancel.request());
    }

    #[test]
    fn the_hosts_flag_counts_while_the_call_lasts() {
        let (cancel, flag) = (Arc::new(Cancel::default()), AtomicI32::new(0));
        // SAFETY: the flag outlives the call.
        let call = unsafe { Call::watching(&cancel, &flag) };
        assert!(!cancel.is_requested());
        flag.store(-1, Ordering::Relaxed);
        assert!(cancel.is_requested() && !cancel.withdraw());
        drop(call);
        assert!(!cancel.is_requested());
    }
}
