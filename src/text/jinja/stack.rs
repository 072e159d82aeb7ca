//! The stack that a template's recursion takes: its parser's, its macros', its values'.

use std::cell::Cell;

use super::fault::{Fault, Result, limit_error};
use crate::{Error, memory, worker};

/// Stack that parsing or rendering may take below the frame where it begins.
const STACK_BYTES: usize = 144 << 10;
/// What one call that recurses no further takes at most: a regular expression is compiled in it.
const LEAF_BYTES: usize = 56 << 10;
/// Of a thread of our own.
const THREAD_BYTES: usize = 256 << 10;

/// Where recursion began.
#[derive(Debug)]
pub(super) struct Stack {
    base: usize,
}

impl Stack {
    /// The caller's frame is where counting begins.
    #[inline(never)]
    pub fn new() -> Self {
        Self { base: here() }
    }

    /// # Errors
    /// The recursion has used its stack, or the host's memory has run out.
    pub fn check(&self) -> Result<()> {
        memory::check().map_err(Fault::from_memory)?;
        if self.base.abs_diff(here()) > STACK_BYTES {
            return Err(limit_error(format!(
                "it nests too deep: its recursion may take {} KiB of stack",
                STACK_BYTES >> 10
            )));
        }
        Ok(())
    }
}

#[inline(never)]
fn here() -> usize {
    let mark = 0u8;
    std::ptr::from_ref(std::hint::black_box(&mark)).addr()
}

/// Runs `run` on the caller's stack, or on a thread of its own where too little of that is left, or it is not known how
/// much (a coroutine's stack).
///
/// # Errors
/// The system gives no thread.
pub(super) fn with_stack<T: Send>(run: impl FnOnce() -> T + Send) -> crate::Result<T> {
    if left() >= STACK_BYTES + LEAF_BYTES {
        return Ok(run());
    }
    let done = worker::each("template", THREAD_BYTES, [run])?.pop();
    done.ok_or_else(|| Error::Internal("the template's thread left no result".to_owned()))
}

/// Bytes of the thread's stack below here; 0 where they are not known.
fn left() -> usize {
    thread_local! {
        /// The stack's lowest address and its length, once asked for.
        static BOUNDS: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    }
    let (lowest, len) = BOUNDS.get().unwrap_or_else(|| {
        let bounds = bounds();
        BOUNDS.set(Some(bounds));
        bounds
    });
    here().checked_sub(lowest).filter(|&left| left < len).unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn bounds() -> (usize, usize) {
    let mut attributes = std::mem::MaybeUninit::uninit();
    let (mut lowest, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are read and destroyed only where the first call has initialized them.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return (0, 0);
        }
        let code = libc::pthread_attr_getstack(attributes.as_ptr(), &mut lowest, &mut len);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if code == 0 { (lowest.addr(), len) } else { (0, 0) }
    }
}

#[cfg(not(target_os = "linux"))]
fn bounds() -> (usize, usize) {
    (0, 0)
}
