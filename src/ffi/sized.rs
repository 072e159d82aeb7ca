//! Structs that start with their own size, so that they can grow.
//!
//! A caller compiled against an older header passes a shorter struct: what it lacks reads as zero, and is not written.
//! One compiled against a newer header passes a longer struct: what this library does not know must be zero on the
//! way in, and is set to zero on the way out.

use std::mem::{MaybeUninit, size_of};
use std::ptr;

use super::failure::{Failure, Outcome};

/// No struct will ever be this long: a larger `size` was never set.
const MAX_SIZE: usize = 4096;

/// # Safety
/// repr(C); the first field is `size: usize`; every byte pattern that a C caller can write, and all zeros, is valid.
pub(super) unsafe trait Sized: Copy {
    /// The C type's name, for messages.
    const NAME: &'static str;
}

/// Whatever version of the struct: sizeof is a multiple of the alignment, which is that of `size`. So no size that is
/// allowed cuts a field in two.
fn check_size<T: Sized>(size: usize) -> Outcome {
    const { assert!(align_of::<T>() == align_of::<usize>()) };
    if (size_of::<usize>()..=MAX_SIZE).contains(&size) && size.is_multiple_of(align_of::<T>()) {
        return Ok(());
    }
    let name = T::NAME;
    Err(Failure::param(format!("{name}.size is {size}; set it to sizeof({name}), here {}", size_of::<T>())))
}

/// The size that the struct states, if it is sensible.
unsafe fn stated_size<T: Sized>(p: *const T) -> Outcome<usize> {
    if p.is_null() {
        return Err(Failure::param(format!("the pointer to {} is NULL", T::NAME)));
    }
    // SAFETY: the struct starts with its size.
    let size = unsafe { p.cast::<usize>().read_unaligned() };
    check_size::<T>(size).map(|()| size)
}

/// # Safety
/// `p` is NULL or points to as many readable bytes as its `size` says.
pub(super) unsafe fn read<T: Sized>(p: *const T) -> Outcome<T> {
    // SAFETY: the caller's promise covers at least `size` itself.
    let size = unsafe { stated_size(p) }?;
    let known = size.min(size_of::<T>());
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable at `p` and fit `value`, which is valid whatever they are (Sized's promise).
    let value = unsafe {
        ptr::copy_nonoverlapping(p.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
        value.assume_init()
    };
    for at in known..size {
        // SAFETY: below `size`.
        if unsafe { *p.cast::<u8>().add(at) } != 0 {
            return Err(Failure::param(format!(
                "{}: byte {at} is set, but this library (version {}) knows only the first {known}",
                T::NAME,
                env!("CARGO_PKG_VERSION")
            )));
        }
    }
    Ok(value)
}

/// Fills a parameter struct of `size` bytes with defaults, `size` included.
///
/// # Safety
/// `p` is NULL or points to `size` writable bytes.
pub(super) unsafe fn init<T: Sized>(p: *mut T, size: usize, default: T) -> Outcome {
    if p.is_null() {
        return Err(Failure::param(format!("the pointer to {} is NULL", T::NAME)));
    }
    check_size::<T>(size)?;
    // SAFETY: `size` bytes are writable.
    unsafe { write(p, size, default) };
    Ok(())
}

/// # Safety
/// `p` points to `size` writable bytes, at least a usize.
unsafe fn write<T: Sized>(p: *mut T, size: usize, value: T) {
    let known = size.min(size_of::<T>());
    let p = p.cast::<u8>();
    // SAFETY: `known` is within both; the tail is within the caller's; no alignment is assumed.
    unsafe {
        ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), p, known);
        ptr::write_bytes(p.add(known), 0, size - known);
        p.cast::<usize>().write_unaligned(size);
    }
}

/// Where a struct goes, checked before the work whose result it takes.
pub(super) struct Out<T> {
    p: *mut T,
    size: usize,
}

impl<T: Sized> Out<T> {
    /// # Safety
    /// `p` is NULL or points to as many writable bytes as its `size` says, for as long as the `Out` lives.
    pub unsafe fn new(p: *mut T) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let size = unsafe { stated_size(p) }?;
        Ok(Out { p, size })
    }

    /// Writes what the caller's struct has room for. `value.size` does not matter.
    pub fn set(self, value: T) {
        // SAFETY: promised to `new`.
        unsafe { write(self.p, self.size, value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Old {
        size: usize,
        a: u32,
        b: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct New {
        size: usize,
        a: u32,
        b: u32,
        c: u64,
    }

    // SAFETY: repr(C), size first, integers only.
    unsafe impl Sized for Old {
        const NAME: &'static str = "Old";
    }
    // SAFETY: as above.
    unsafe impl Sized for New {
        const NAME: &'static str = "New";
    }

    const OLD: Old = Old { size: size_of::<Old>(), a: 1, b: 2 };
    const NEW: New = New { size: size_of::<New>(), a: 1, b: 2, c: 3 };

    #[test]
    fn a_shorter_struct_is_extended_with_zeros() {
        let old = OLD;
        // SAFETY: Old is as long as it says.
        let read = unsafe { read((&raw const old).cast::<New>()) }.unwrap();
        assert_eq!(read, New { size: size_of::<Old>(), a: 1, b: 2, c: 0 });
    }

    #[test]
    fn a_longer_struct_must_end_in_zeros() {
        let new = NEW;
        // SAFETY: New is as long as it says.
        let failure = unsafe { read((&raw const new).cast::<Old>()) }.unwrap_err();
        assert!(failure.message.to_str().unwrap().starts_with("Old: byte 16 is set"), "{failure:?}");
        let zero_tail = New { c: 0, ..NEW };
        // SAFETY: as above.
        let read = unsafe { read((&raw const zero_tail).cast::<Old>()) }.unwrap();
        assert_eq!((read.a, read.b), (1, 2));
    }

    #[test]
    fn sizes_that_were_never_set_are_refused() {
        for size in [0, 7, 9, 23, MAX_SIZE + 1, MAX_SIZE + 8, usize::MAX] {
            let old = Old { size, ..OLD };
            // SAFETY: the size is refused before anything else is read.
            let failure = unsafe { read(&raw const old) }.unwrap_err();
            assert_eq!(failure.status, crate::ffi::RF_ERROR_PARAM, "size {size}");
        }
    }

    #[test]
    fn init_and_out_write_what_there_is_room_for() {
        let mut new = New { size: 9, a: 9, b: 9, c: 9 };
        // SAFETY: New has room for its size.
        unsafe { init((&raw mut new).cast::<Old>(), size_of::<New>(), OLD) }.unwrap();
        assert_eq!(new, New { size: size_of::<New>(), a: 1, b: 2, c: 0 });

        let mut pair = [OLD, Old { size: 7, a: 7, b: 7 }];
        // SAFETY: Old states its own size, which fits.
        unsafe { Out::new(pair.as_mut_ptr().cast::<New>()) }.unwrap().set(New { a: 5, ..NEW });
        assert_eq!(pair, [Old { a: 5, ..OLD }, Old { size: 7, a: 7, b: 7 }]);
    }
}
