//! Plain arguments: out-pointers, arrays, text, and buffers that results are copied to.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::atomic::AtomicI32;

use super::failure::{Failure, Outcome};
use super::status::{RF_ERROR_BUFFER, RF_ERROR_IO};
use crate::memory;

/// Where a plain result goes, checked before the work and written only on success.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `p` is NULL or writable for as long as the `Out` lives.
    pub unsafe fn new(p: *mut T, name: &str) -> Outcome<Self> {
        check_pointer(p, name)?;
        Ok(Out(p))
    }

    pub fn set(&self, value: T) {
        // SAFETY: promised to `new`; the old bytes are plain data that C owns.
        unsafe { ptr::write(self.0, value) };
    }
}

fn check_pointer<T>(p: *const T, name: &str) -> Outcome {
    if p.is_null() {
        return Err(Failure::param(format!("{name} is NULL")));
    }
    if !p.is_aligned() {
        return Err(Failure::param(format!("{name} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

pub(super) fn check_length<T>(n: usize, name: &str) -> Outcome {
    match n.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Failure::param(format!("the length of {name}, {n}, is more than memory can hold"))),
    }
}

/// An array of `n`; it may be NULL when `n` is 0.
///
/// # Safety
/// `p` is NULL or points to `n` readable values that do not change during the call.
pub(super) unsafe fn array<'a, T: Copy>(p: *const T, n: usize, name: &str) -> Outcome<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    check_pointer(p, name)?;
    check_length::<T>(n, name)?;
    // SAFETY: not null, aligned, of a possible length; the rest is the caller's promise.
    Ok(unsafe { slice::from_raw_parts(p, n) })
}

/// As `array`, to be written.
///
/// # Safety
/// `p` is NULL or points to `n` initialized values that nobody else touches during the call.
pub(super) unsafe fn array_mut<'a, T: Copy>(p: *mut T, n: usize, name: &str) -> Outcome<&'a mut [T]> {
    if n == 0 {
        return Ok(&mut []);
    }
    check_pointer(p, name)?;
    check_length::<T>(n, name)?;
    // SAFETY: as in `array`.
    Ok(unsafe { slice::from_raw_parts_mut(p, n) })
}

/// An array that may be left out.
///
/// # Safety
/// As `array`.
pub(super) unsafe fn optional_array<'a, T: Copy>(
    p: *const T,
    n: usize,
    name: &str,
) -> Outcome<Option<&'a [T]>> {
    if p.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { array(p, n, name) }.map(Some)
}

/// A flag of the caller's that may change at any time; NULL for none.
pub(super) fn flag(p: *const i32, name: &str) -> Outcome<*const AtomicI32> {
    if !p.is_null() {
        check_pointer(p, name)?;
    }
    Ok(p.cast())
}

/// UTF-8 text of `len` bytes; it may be NULL when `len` is 0.
///
/// # Safety
/// As `array`.
pub(super) unsafe fn text<'a>(p: *const c_char, len: usize, name: &str) -> Outcome<&'a str> {
    // SAFETY: the caller's promise; c_char and u8 are alike in size and alignment.
    let bytes = unsafe { array(p.cast::<u8>(), len, name) }?;
    utf8(bytes, name)
}

/// NUL-terminated UTF-8 text.
///
/// # Safety
/// `p` is NULL or NUL-terminated.
pub(super) unsafe fn c_text<'a>(p: *const c_char, name: &str) -> Outcome<&'a str> {
    check_pointer(p, name)?;
    // SAFETY: not null, and terminated by the caller's promise.
    utf8(unsafe { CStr::from_ptr(p) }.to_bytes(), name)
}

/// As `c_text`, NULL for none.
///
/// # Safety
/// As `c_text`.
pub(super) unsafe fn optional_c_text<'a>(p: *const c_char, name: &str) -> Outcome<Option<&'a str>> {
    // SAFETY: the caller's promise.
    if p.is_null() { Ok(None) } else { unsafe { c_text(p, name) }.map(Some) }
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Outcome<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|e| Failure::param(format!("{name} is not UTF-8 from byte {} on", e.valid_up_to())))
}

/// Bytes of a path that Linux takes.
const MAX_PATH: usize = 4095;

/// A file's path: any bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// As `c_text`.
pub(super) unsafe fn path<'a>(p: *const c_char, name: &str) -> Outcome<&'a Path> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        check_pointer(p, name)?;
        // SAFETY: not null, and terminated by the caller's promise.
        let bytes = unsafe { CStr::from_ptr(p) }.to_bytes();
        if bytes.len() > MAX_PATH {
            let message = format!("{name} has {} bytes; the most is {MAX_PATH}", bytes.len());
            return Err(Failure::new(RF_ERROR_IO, message));
        }
        Ok(Path::new(std::ffi::OsStr::from_bytes(bytes)))
    }
    #[cfg(not(unix))]
    {
        // SAFETY: the caller's promise.
        unsafe { c_text(p, name) }.map(Path::new)
    }
}

/// A caller's buffer for a result of variable size, and where the needed size goes.
pub(super) struct Buffer<T> {
    p: *mut T,
    capacity: usize,
    n: Out<usize>,
}

impl<T: Copy> Buffer<T> {
    /// # Safety
    /// `p` is NULL or points to `capacity` writable values; `n` is NULL or writable.
    pub unsafe fn new(p: *mut T, capacity: usize, n: *mut usize) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let n = unsafe { Out::new(n, "n") }?;
        if capacity > 0 {
            check_pointer(p, "the buffer")?;
            check_length::<T>(capacity, "the buffer")?;
        }
        Ok(Buffer { p, capacity, n })
    }

    /// Copies the result, or says how much room it needs.
    pub fn fill(self, result: &[T]) -> Outcome {
        self.fill_parts(result, &[])
    }

    fn fill_parts(self, first: &[T], second: &[T]) -> Outcome {
        let needed = first.len() + second.len();
        self.n.set(needed);
        if self.capacity < needed {
            return Err(Failure::new(
                RF_ERROR_BUFFER,
                format!("the buffer holds {}, the result has {needed}", self.capacity),
            ));
        }
        if needed > 0 {
            // SAFETY: not null since capacity >= needed > 0; `needed` values fit.
            unsafe {
                ptr::copy_nonoverlapping(first.as_ptr(), self.p, first.len());
                ptr::copy_nonoverlapping(second.as_ptr(), self.p.add(first.len()), second.len());
            }
        }
        Ok(())
    }
}

impl Buffer<u8> {
    /// # Safety
    /// As `new`.
    pub unsafe fn text(p: *mut c_char, capacity: usize, n: *mut usize) -> Outcome<Self> {
        // SAFETY: the caller's promise; c_char and u8 are alike in size and alignment.
        unsafe { Buffer::new(p.cast::<u8>(), capacity, n) }
    }

    /// Copies text and a NUL, which counts.
    pub fn fill_text(self, text: &str) -> Outcome {
        self.fill_parts(text.as_bytes(), &[0])
    }
}

/// NUL-terminated, cut between characters.
pub(super) fn c_array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().zip(memory::beginning(text, N - 1).bytes()) {
        *to = from as c_char;
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(c_array::<4>("abcdef").map(|c| c as u8), *b"abc\0");
        assert_eq!(c_array::<4>("abé").map(|c| c as u8), *b"ab\0\0");
        assert_eq!(c_array::<4>("").map(|c| c as u8), *b"\0\0\0\0");
    }
}
