//! A panic as text: its message and its place.

use std::any::Any;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::panic::PanicHookInfo;

use crate::memory;

/// A place in the sources, cut where it is longer.
#[derive(Clone, Copy)]
struct Place {
    bytes: [u8; 128],
    len: usize,
}

impl Write for Place {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = memory::beginning(text, self.bytes.len() - self.len);
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

thread_local! {
    /// Where this thread's last panic happened: "src/engine/context.rs:120:9". Without a destructor: registering one takes
    /// memory.
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
}

/// For a panic hook: keeps the place for [`text_of`] on this thread.
pub fn keep_place(info: &PanicHookInfo<'_>) {
    PLACE.set(info.location().map(|location| {
        let mut place = Place { bytes: [0; 128], len: 0 };
        let _ = write!(place, "{location}"); // it never fails
        place
    }));
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
    match PLACE.take() {
        Some(Place { bytes, len }) => format!("{text} ({})", String::from_utf8_lossy(&bytes[..len])),
        None => text,
    }
}
