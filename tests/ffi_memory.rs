//! The C functions while the memory that is set aside is in use. One test: what it uses of that, all threads lack.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::zeroed;

use rocmforge::ffi::*;
use rocmforge::memory::Reserve;

/// Has no memory.
struct Nothing;

// SAFETY: it gives nothing out, and takes nothing back.
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        std::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[test]
fn a_call_that_cannot_begin_says_so_in_its_error() {
    let count = |error: &mut rf_error| {
        let mut n = 0;
        // SAFETY: pointers to this frame.
        unsafe { rf_device_count_e(RF_DEVICE_CPU, &mut n, error) }
    };
    // SAFETY: integers.
    let mut error = rf_error { size: size_of::<rf_error>(), ..unsafe { zeroed() } };
    assert_eq!((count(&mut error), error.status), (RF_OK, RF_OK));

    let (memory, layout) = (Reserve(Nothing), Layout::new::<[u64; 1 << 20]>());
    // SAFETY: a size above zero.
    let block = unsafe { memory.alloc(layout) };
    assert!(!block.is_null());
    assert_eq!((count(&mut error), error.status), (RF_ERROR_MEMORY, RF_ERROR_MEMORY));
    assert!(error.message_len > 0 && error.message[0] != 0);

    // SAFETY: given back once.
    unsafe { memory.dealloc(block, layout) };
    assert_eq!((count(&mut error), error.status), (RF_OK, RF_OK));
}
