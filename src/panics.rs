//! A panic as text: its message and its place.

use std::any::Any;
use std::cell::RefCell;
use std::panic::PanicHookInfo;

thread_local! {
    /// Where this thread's last panic happened: "src/engine/context.rs:120:9".
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// For a panic hook: keeps the place for [`text_of`] on this thread.
pub fn keep_place(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string);
    let _ = PLACE.try_with(|slot| slot.replace(place));
}

/// "index out of bounds (src/engine/context.rs:120:9)", on the thread that panicked; the place only where a hook kept it.
pub fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    };
    // A payload's own drop may panic; what the host threw is not worth that risk.
    std::mem::forget(payload);
    match PLACE.try_with(RefCell::take).ok().flatten() {
        Some(place) => format!("{text} ({place})"),
        None => text,
    }
}
