//! Handles: an `Arc` behind an opaque pointer.
//!
//! C owns one reference, from `into_raw` to `release`. Every call takes another for its own duration, so that a handle
//! released inside a callback lives until the call that called back has ended.

use std::sync::Arc;

use super::failure::{Failure, Outcome};

/// What C holds a pointer to. `Sync`, since any thread may call with it.
pub(super) trait Handle: Send + Sync {
    /// The C type's name, for messages.
    const NAME: &'static str;
}

pub(super) fn into_raw<T: Handle>(value: T) -> *mut T {
    Arc::into_raw(Arc::new(value)).cast_mut()
}

/// # Safety
/// `raw` is NULL or came from `into_raw` and has not been released.
pub(super) unsafe fn share<T: Handle>(raw: *const T) -> Outcome<Arc<T>> {
    if raw.is_null() {
        return Err(Failure::param(format!("the {} is NULL", T::NAME)));
    }
    // SAFETY: the pointer came from `Arc::into_raw`, and C's reference keeps the count above zero.
    Ok(unsafe {
        Arc::increment_strong_count(raw);
        Arc::from_raw(raw)
    })
}

/// Gives C's reference back; NULL is fine.
///
/// # Safety
/// As `share`; the pointer is not used again.
pub(super) unsafe fn release<T: Handle>(raw: *mut T) {
    if !raw.is_null() {
        // SAFETY: this is the reference that `into_raw` gave away.
        drop(unsafe { Arc::from_raw(raw.cast_const()) });
    }
}
