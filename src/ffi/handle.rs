//! Handles: an `Arc` behind an opaque pointer.
//!
//! C owns one reference, from `into_raw` to `release`. Every call takes another for its own duration, so that a handle
//! released inside a callback lives until the call that called back has ended.
//!
//! A handle belongs to the process that made it. In a child that forked from it the threads behind it are gone and its
//! locks may be held for ever: calls are refused before they touch anything, and a release leaves it as it is.

use std::ops::Deref;
use std::sync::Arc;

use super::failure::{Failure, Outcome};
use crate::fork::{self, Epoch};
use crate::memory;

/// What C holds a pointer to. `Sync`, since any thread may call with it.
pub(super) trait Handle: Send + Sync {
    /// The C type's name, for messages.
    const NAME: &'static str;
}

/// What the pointer points to.
struct Made<T> {
    when: Epoch,
    value: T,
}

/// A handle in use by a call.
pub(super) struct Shared<T>(Arc<Made<T>>);

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Shared<T> {
    /// C has given its reference back, inside a callback of this call.
    pub fn is_released(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

pub(super) fn into_raw<T: Handle>(value: T) -> Outcome<*mut T> {
    fork::watch()?;
    // what lasts must not keep the reserve from others
    memory::check()?;
    Ok(Arc::into_raw(Arc::new(Made { when: Epoch::now(), value })).cast_mut().cast())
}

/// # Safety
/// `raw` is NULL or came from `into_raw` and has not been released.
pub(super) unsafe fn share<T: Handle>(raw: *const T) -> Outcome<Shared<T>> {
    if raw.is_null() {
        return Err(Failure::param(format!("the {} is NULL", T::NAME)));
    }
    let made = raw.cast::<Made<T>>();
    // SAFETY: the pointer came from `Arc::into_raw`, and C's reference keeps the count above zero.
    unsafe {
        (*made).when.check(T::NAME)?;
        Arc::increment_strong_count(made);
        Ok(Shared(Arc::from_raw(made)))
    }
}

/// As `share`, for one that does not outlive a look: without counting. None: NULL.
///
/// # Safety
/// As `share`; nobody releases the handle meanwhile.
pub(super) unsafe fn borrow<'a, T: Handle>(raw: *const T) -> Option<crate::Result<&'a T>> {
    // SAFETY: the pointer came from `Arc::into_raw` and C's reference stays.
    let made = unsafe { raw.cast::<Made<T>>().as_ref() }?;
    Some(made.when.check(T::NAME).map(|()| &made.value))
}

/// Gives C's reference back; NULL is fine.
///
/// # Safety
/// As `share`; the pointer is not used again.
pub(super) unsafe fn release<T: Handle>(raw: *mut T) {
    let made = raw.cast_const().cast::<Made<T>>();
    // SAFETY: this is the reference that `into_raw` gave away.
    unsafe {
        if !made.is_null() && !(*made).when.is_past() {
            drop(Arc::from_raw(made));
        }
    }
}
