//! The panic boundary: nothing unwinds into C, and nothing is printed on the way.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use super::failure::{Failure, Outcome, set_last};
use super::status::{RF_ERROR_INTERNAL, RF_OK, rf_status};
use crate::memory::Call;
use crate::{panics, worker};

// Without destructors: registering one takes memory.
thread_local! {
    /// Whether this thread is inside the library (and not in a callback it called).
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs an exported function's body; its failure, or panic, becomes the thread's last error. RF_ERROR_MEMORY where the
/// memory that is set aside is used up.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> rf_status {
    end(Call::begin().map_err(Failure::from).and_then(|_call| catch(body)))
}

/// The same for what must be done whatever memory there is: releases, errors.
pub(super) fn always(body: impl FnOnce() -> Outcome) -> rf_status {
    let _call = Call::begin_anyway();
    end(catch(body))
}

fn end(outcome: Outcome) -> rf_status {
    match outcome {
        Ok(()) => RF_OK,
        Err(failure) => set_last(&failure),
    }
}

/// Runs `body`; a panic becomes RF_ERROR_INTERNAL with its message and place.
pub(super) fn catch<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    silence_panics();
    let was_inside = INSIDE.replace(true);
    // What a panic may leave half-done lies behind a mutex, which it poisons (contexts, samplers), or is immutable.
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(was_inside);
    result.unwrap_or_else(|payload| {
        Err(Failure::new(RF_ERROR_INTERNAL, format!("internal error: {}", panics::text_of(payload))))
    })
}

/// Runs a callback of the host: its panics are the host's to print. They unwind through `catch` all the same.
pub(super) fn outside<T>(callback: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            INSIDE.set(self.0);
        }
    }
    let _back = Back(INSIDE.replace(false));
    callback()
}

/// Rust's default hook prints to stderr before the unwinding starts. Ours keeps the place instead, for threads inside
/// the library and for its workers, and passes all other panics (of a host written in Rust) on to the hook before it.
fn silence_panics() {
    static ONCE: Once = Once::new();
    // A hook cannot be set while panicking; the next call will do it.
    if ONCE.is_completed() || std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if worker::is_ours() || INSIDE.get() {
                panics::keep_place(info);
            } else {
                before(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::team::Team;
    use crate::ffi::error::rf_last_error;
    use std::ffi::CStr;

    fn last_error() -> String {
        // SAFETY: rf_last_error returns a NUL-terminated text that lives until the next failure.
        unsafe { CStr::from_ptr(rf_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_with_its_message_and_place() {
        let status = guard(|| panic!("the number is {}", 7));
        assert_eq!(status, RF_ERROR_INTERNAL);
        let message = last_error();
        assert!(message.starts_with("internal error: the number is 7 (src/ffi/guard.rs:"), "{message}");
    }

    /// On a thread of a team, and on all of them at once.
    #[test]
    fn a_compute_threads_panic_keeps_its_message_and_place() {
        let team = Team::new(3).unwrap();
        for who in [Some(0), Some(1), Some(2), None] {
            let status = guard(|| {
                Ok(team.run(&|worker| {
                    let mut phase = worker.phase(3);
                    if who.is_none_or(|who| who == worker.index()) && phase.take().is_some() {
                        panic!("chunk of thread {}", worker.index());
                    }
                    phase.finish()
                })?)
            });
            assert_eq!(status, RF_ERROR_INTERNAL);
            let message = last_error();
            let (text, place) = message.split_once(" (src/ffi/guard.rs:").expect(&message);
            let text = text.strip_prefix("internal error: a compute thread panicked: chunk of thread ");
            let number: usize = text.expect(&message).parse().expect(&message);
            assert!(who.is_none_or(|who| who == number), "{message}");
            assert!(place.ends_with(')') && place.contains(':'), "{message}");
        }
        assert_eq!(guard(|| Ok(team.run(&|worker| worker.for_each(9, |_| ()))?)), RF_OK);
    }

    #[test]
    fn success_leaves_the_last_error_alone() {
        guard(|| Err(Failure::param("kept")));
        assert_eq!(guard(|| Ok(())), RF_OK);
        assert_eq!(last_error(), "kept");
    }

    #[test]
    fn a_panic_of_a_callback_is_caught_too() {
        // The hook in place prints this one; that is the host's affair.
        let status = guard(|| outside(|| panic!("from the host")));
        assert_eq!(status, RF_ERROR_INTERNAL);
        assert_eq!(last_error(), "internal error: from the host");
    }

    #[test]
    fn panics_outside_reach_the_hosts_hook() {
        guard(|| Ok(()));
        assert!(!INSIDE.get());
        guard(|| panic!("inside"));
        assert!(!INSIDE.get());
    }
}
