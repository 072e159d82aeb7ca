//! Logging to the host: the library's tracing events go to the callback that the backend was created with.

#![allow(non_camel_case_types)]

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::fmt::{self, Write};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher, span};

use super::failure::{Failure, Outcome, c_string};
use super::guard;

/// Log levels, each with those before it: nothing.
pub const RF_LOG_OFF: i32 = 0;
/// What failed.
pub const RF_LOG_ERROR: i32 = 1;
/// What may surprise.
pub const RF_LOG_WARN: i32 = 2;
/// What was loaded and created.
pub const RF_LOG_INFO: i32 = 3;
/// Choices and sizes.
pub const RF_LOG_DEBUG: i32 = 4;
/// Each step.
pub const RF_LOG_TRACE: i32 = 5;

/// Takes one line of log, without a line break; `message` is valid during the call. It runs on the thread that
/// called the library, several at once if several threads call, and must not unwind.
pub type rf_log_callback =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, level: i32, message: *const c_char)>;

/// Where a backend's handles log to. Without a callback the library logs nothing.
#[derive(Clone, Copy)]
pub(super) struct Log(Option<Target>);

#[derive(Clone, Copy)]
struct Target {
    max: LevelFilter,
    callback: unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char),
    user: *mut c_void,
}

// SAFETY: the callback takes calls from any thread, with `user` (documented at rf_backend_params).
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

thread_local! {
    /// Where the thread's events go. (Without a destructor: registering one takes memory.)
    static TARGET: Cell<Option<Target>> = const { Cell::new(None) };
}

/// While it lives the thread's events go to a callback; then to the one before, if any.
pub(super) struct Entered(Option<Target>);

impl Drop for Entered {
    fn drop(&mut self) {
        TARGET.set(self.0);
    }
}

impl Log {
    pub fn new(callback: rf_log_callback, level: i32, user: *mut c_void) -> Outcome<Self> {
        let max = match level {
            RF_LOG_OFF => LevelFilter::OFF,
            RF_LOG_ERROR => LevelFilter::ERROR,
            RF_LOG_WARN => LevelFilter::WARN,
            RF_LOG_INFO => LevelFilter::INFO,
            RF_LOG_DEBUG => LevelFilter::DEBUG,
            RF_LOG_TRACE => LevelFilter::TRACE,
            _ => {
                return Err(Failure::param(format!("log_level is {level}; levels are 0 (off) to 5 (trace)")));
            }
        };
        let target = callback.filter(|_| level != RF_LOG_OFF).map(|callback| Target { max, callback, user });
        if target.is_some() {
            static ONCE: Once = Once::new();
            // A Rust program that has set a subscriber of its own gets the events there.
            ONCE.call_once(|| drop(dispatcher::set_global_default(Dispatch::new(Forward))));
        }
        Ok(Log(target))
    }

    /// Until dropped, this thread's events go to the callback.
    pub fn enter(&self) -> Option<Entered> {
        self.0.map(|target| Entered(TARGET.replace(Some(target))))
    }
}

/// Hands events to the thread's target.
struct Forward;

impl Subscriber for Forward {
    /// Which events are wanted differs from thread to thread.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && TARGET.get().is_some_and(|target| *metadata.level() <= target.max)
            && metadata.target().starts_with("rocmforge")
    }

    fn event(&self, event: &Event<'_>) {
        let Some(target) = TARGET.get() else { return };
        let mut line = Line(String::new());
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => RF_LOG_ERROR,
            Level::WARN => RF_LOG_WARN,
            Level::INFO => RF_LOG_INFO,
            Level::DEBUG => RF_LOG_DEBUG,
            Level::TRACE => RF_LOG_TRACE,
        };
        let message = c_string(line.0);
        // SAFETY: the host's callback, with the arguments it was declared with.
        guard::outside(|| unsafe { (target.callback)(target.user, level, message.as_ptr()) });
    }

    // Spans are not logged (`enabled` refuses them), so that their ids never matter.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// "message key=value key=value".
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            let rest = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{rest}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::sync::Mutex;

    unsafe extern "C-unwind" fn collect(user: *mut c_void, level: i32, message: *const c_char) {
        // SAFETY: `user` is the test's Mutex, `message` is NUL-terminated.
        let (lines, message) =
            unsafe { (&*user.cast::<Mutex<Vec<(i32, String)>>>(), CStr::from_ptr(message)) };
        lines.lock().unwrap().push((level, message.to_str().unwrap().to_owned()));
    }

    #[test]
    fn events_up_to_the_level_reach_the_callback_while_entered() {
        let lines: Mutex<Vec<(i32, String)>> = Mutex::default();
        let log = Log::new(Some(collect), RF_LOG_INFO, (&raw const lines).cast_mut().cast()).unwrap();
        tracing::info!("before");
        {
            let _entered = log.enter();
            tracing::info!(bytes = 12, "loaded");
            tracing::debug!("too fine");
            tracing::error!("bad");
        }
        tracing::info!("after");
        let want = [(RF_LOG_INFO, "loaded bytes=12".to_owned()), (RF_LOG_ERROR, "bad".to_owned())];
        assert_eq!(*lines.lock().unwrap(), want);
    }

    #[test]
    fn levels_are_checked() {
        assert!(Log::new(None, 6, std::ptr::null_mut()).is_err());
        assert!(Log::new(None, -1, std::ptr::null_mut()).is_err());
        assert!(Log::new(None, RF_LOG_TRACE, std::ptr::null_mut()).unwrap().enter().is_none());
    }
}
