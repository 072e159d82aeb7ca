//! Logging to the host: the library's tracing events go to the callback that the backend was created with.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_void};
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
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
#[derive(Clone)]
pub(super) struct Log(Option<Dispatch>);

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
        Ok(Log(match callback {
            Some(callback) if level != RF_LOG_OFF => {
                Some(Dispatch::new(CallbackSubscriber { max, callback, user }))
            }
            _ => None,
        }))
    }

    /// Until dropped, this thread's events go to the callback.
    pub fn enter(&self) -> Option<dispatcher::DefaultGuard> {
        self.0.as_ref().map(dispatcher::set_default)
    }
}

struct CallbackSubscriber {
    max: LevelFilter,
    callback: unsafe extern "C-unwind" fn(*mut c_void, i32, *const c_char),
    user: *mut c_void,
}

// SAFETY: the callback takes calls from any thread, with `user` (documented at rf_backend_params).
unsafe impl Send for CallbackSubscriber {}
// SAFETY: as above.
unsafe impl Sync for CallbackSubscriber {}

impl Subscriber for CallbackSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.max && metadata.target().starts_with("rocmforge")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.max)
    }

    fn event(&self, event: &Event<'_>) {
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
        guard::outside(|| unsafe { (self.callback)(self.user, level, message.as_ptr()) });
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
