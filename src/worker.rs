//! The library's own threads: no signal meant for the host reaches them, a panic becomes an error, and so does memory that
//! their start lacks. (The standard library's threads take some that cannot be refused, past the allocator.)

use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, Result, memory, panics};

/// Bytes of stack where no more are asked for.
pub const STACK: usize = 2 << 20;

thread_local! {
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is one of the library's.
pub fn is_ours() -> bool {
    IS_OURS.get()
}

/// A thread of the library's. Dropping waits for its end.
pub struct Thread(libc::pthread_t);

// SAFETY: a thread's number means the same on every thread.
unsafe impl Send for Thread {}
// SAFETY: as above.
unsafe impl Sync for Thread {}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: started joinable, and joined only here.
        unsafe { libc::pthread_join(self.0, std::ptr::null_mut()) };
    }
}

struct Start<F> {
    work: F,
    name: [u8; 16],
}

/// Starts a thread "rocmforge-`name`"; its users see 15 bytes of that. `work` must see to its panics: what comes through is
/// dropped.
///
/// # Errors
/// Error::Io or OutOfMemory: the system gives no thread.
pub fn spawn<F: FnOnce() + Send + 'static>(name: &str, work: F) -> Result<Thread> {
    // SAFETY: `work` refers to nothing that ends.
    unsafe { start(name, STACK, work) }
}

/// # Safety
/// The thread is dropped before what `work` refers to.
unsafe fn start<F: FnOnce() + Send>(name: &str, stack: usize, work: F) -> Result<Thread> {
    extern "C" fn run<F: FnOnce() + Send>(start: *mut c_void) -> *mut c_void {
        IS_OURS.set(true);
        // SAFETY: the box that the starter gave away.
        let start = unsafe { Box::from_raw(start.cast::<Start<F>>()) };
        #[cfg(target_os = "linux")]
        // SAFETY: NUL-terminated.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, start.name.as_ptr())
        };
        // a panic must not unwind into C; its payload's drop may panic too
        if let Err(payload) = catch_unwind(AssertUnwindSafe(start.work)) {
            std::mem::forget(payload);
        }
        std::ptr::null_mut()
    }

    let name = format!("rocmforge-{name}");
    let mut short = [0; 16];
    let name = memory::beginning(&name, 15);
    short[..name.len()].copy_from_slice(name.as_bytes());
    let start = Box::into_raw(Box::new(Start { work, name: short }));
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are initialized first and destroyed last; `run` takes the box where the thread starts, for
    // which `work` is Send and lives long enough by the caller's promise.
    let code = unsafe {
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack);
        let _blocked = signals::Blocked::new();
        #[cfg(target_os = "linux")]
        {
            // glibc asserts it where its calloc fails, which one that the host put in its place may not have set
            *libc::__errno_location() = libc::ENOMEM;
        }
        let code = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run::<F>, start.cast());
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        code
    };
    match code {
        // SAFETY: pthread_create wrote it.
        0 => Ok(Thread(unsafe { thread.assume_init() })),
        code => {
            // SAFETY: no thread has it.
            drop(unsafe { Box::from_raw(start) });
            Err(match code {
                // what a C library makes of memory that it lacks
                libc::EAGAIN | libc::ENOMEM => memory::exhausted(&format!("the thread {name}"), 0),
                code => Error::Io {
                    what: "start",
                    path: format!("thread {name}").into(),
                    source: io::Error::from_raw_os_error(code),
                },
            })
        }
    }
}

/// Runs each of `works` on a thread of its own; what they give, in order, when all have ended. `stack`: bytes.
///
/// # Errors
/// As [`spawn`]; Error::Internal where one panicked; Error::OutOfMemory where one needed of the memory set aside.
pub fn each<T: Send, F: FnOnce() -> T + Send>(
    name: &str,
    stack: usize,
    works: impl IntoIterator<Item = F>,
) -> Result<Vec<T>> {
    let works = memory::collect(works, "threads")?;
    let mut results = memory::collect(works.iter().map(|_| None), "threads")?;
    let mut threads = memory::vec(works.len(), "threads")?;
    for (work, result) in works.into_iter().zip(&mut results) {
        let work = move || {
            // a part of the starter's call, which cannot see what other threads were served
            let _call = memory::Call::begin_anyway();
            let work = || (work(), memory::check());
            *result = Some(catch_unwind(AssertUnwindSafe(work)).map_err(panics::text_of));
        };
        // SAFETY: `threads`, declared last, is dropped first, here or where an error returns.
        threads.push(unsafe { start(name, stack, work) }?);
    }
    drop(threads);
    let all = results.into_iter().map(|result| match result {
        Some(Ok((value, checked))) => checked.map(|()| value),
        Some(Err(panic)) => Err(Error::Internal(panic)),
        None => Err(Error::Internal(format!("the thread {name} left no result"))),
    });
    memory::try_collect(all, "threads")
}

#[cfg(unix)]
mod signals {
    use std::mem::MaybeUninit;

    /// While it lives, the thread takes no signal that is sent; threads that it starts never do. Signals that a thread
    /// brings upon itself stay with the host's handlers: blocked, they would end the process without them.
    pub struct Blocked(libc::sigset_t);

    const FAULTS: [libc::c_int; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

    impl Blocked {
        pub fn new() -> Self {
            let (mut block, mut before) = (MaybeUninit::uninit(), MaybeUninit::zeroed());
            // SAFETY: sigfillset initializes the set that the other calls read; pthread_sigmask writes the old mask,
            // and fails only for an unknown first argument.
            unsafe {
                libc::sigfillset(block.as_mut_ptr());
                for signal in FAULTS {
                    libc::sigdelset(block.as_mut_ptr(), signal);
                }
                libc::pthread_sigmask(libc::SIG_BLOCK, block.as_ptr(), before.as_mut_ptr());
                Blocked(before.assume_init())
            }
        }
    }

    impl Drop for Blocked {
        fn drop(&mut self) {
            // SAFETY: the mask that was in place before.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
        }
    }
}

#[cfg(not(unix))]
mod signals {
    pub struct Blocked;

    impl Blocked {
        pub fn new() -> Self {
            Blocked
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{GlobalAlloc, Layout};

    #[test]
    fn threads_give_their_results_in_order() {
        let text = String::from("borrowed");
        let lengths = each(
            "test",
            STACK,
            (0..3).map(|i| {
                let text = &text;
                move || text.len() + i
            }),
        )
        .unwrap();
        assert_eq!(lengths, [8, 9, 10]);
    }

    #[test]
    fn a_panic_is_an_error_and_others_finish() {
        let works: [fn(); 2] = [|| std::panic::resume_unwind(Box::new("thrown")), || ()];
        assert!(matches!(each("test", STACK, works), Err(Error::Internal(_))));
    }

    #[test]
    fn memory_that_was_set_aside_is_not_for_results() {
        struct Nothing;
        // SAFETY: it gives nothing out, and takes nothing back.
        unsafe impl GlobalAlloc for Nothing {
            unsafe fn alloc(&self, _: Layout) -> *mut u8 {
                std::ptr::null_mut()
            }
            unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
        }
        let _alone = memory::tests::alone();
        let layout = Layout::new::<[u64; 8]>();
        // SAFETY: a size above zero, and a block that is given back once.
        let work = || unsafe {
            let memory = memory::Reserve(Nothing);
            memory.dealloc(memory.alloc(layout), layout);
        };
        let none = each("test", STACK, [work]);
        assert!(matches!(none, Err(Error::OutOfMemory { .. })), "{none:?}");
    }

    #[test]
    fn a_stack_that_cannot_be_had_is_an_error() {
        let none = each("test", usize::MAX / 4096 * 4096, [|| ()]);
        assert!(matches!(none, Err(Error::OutOfMemory { .. } | Error::Io { .. })), "{none:?}");
    }
}
