//! The process's allocations, counted: this file's malloc family stands before the C library's. For tests that assert
//! what is allocated; a test file takes it in by `#[path = "common/counting.rs"] mod counting`.
#![allow(dead_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Allocations, and changes of an allocation's size, of all threads since the start.
pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Bytes of the thread's largest allocation since it was set to 0.
    pub static LARGEST: Cell<usize> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(n: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(at: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
}

fn note(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    LARGEST.set(LARGEST.get().max(size));
}

// SAFETY of all: every call is passed on to the C library unchanged; `note` does not allocate.

#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    note(size);
    // SAFETY: any size.
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
extern "C" fn calloc(n: usize, size: usize) -> *mut c_void {
    note(n.saturating_mul(size));
    // SAFETY: any sizes.
    unsafe { __libc_calloc(n, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(at: *mut c_void, size: usize) -> *mut c_void {
    note(size);
    // SAFETY: the caller's promise.
    unsafe { __libc_realloc(at, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    const ENOMEM: c_int = 12;
    note(size);
    // SAFETY: an alignment by the caller's promise.
    let block = unsafe { __libc_memalign(align, size) };
    if block.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller's promise.
    unsafe { *out = block };
    0
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    note(size);
    // SAFETY: an alignment by the caller's promise.
    unsafe { __libc_memalign(align, size) }
}
