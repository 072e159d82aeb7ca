//! Memory of a session: zeroed when first touched, an error instead of an abort when there is none,
//! and views of it that several threads write disjoint parts of.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::system;
use crate::{Error, Result, memory};

/// A zeroed, cache-line aligned array of plain numbers that threads share by pointer.
pub struct Zeroed<T> {
    ptr: NonNull<T>,
    len: usize,
}

/// Types for which all bits zero is the number zero.
///
/// # Safety
/// The implementor is such a type and needs no drop.
pub unsafe trait Number: Copy + Send + Sync {}
// SAFETY: 0.0
unsafe impl Number for f32 {}
// SAFETY: 0.0
unsafe impl Number for half::f16 {}

// SAFETY: owns its memory like a Vec of numbers.
unsafe impl<T: Number> Send for Zeroed<T> {}
// SAFETY: as above; writing through the shared pointer is the writer's unsafe business.
unsafe impl<T: Number> Sync for Zeroed<T> {}

impl<T: Number> Zeroed<T> {
    const ALIGN: usize = 64;

    /// `len` None: the product of sizes overflowed.
    pub fn new(len: Option<usize>, what: &str) -> Result<Self> {
        let bytes = len.and_then(|n| n.checked_mul(size_of::<T>()));
        let layout = bytes.and_then(|n| Layout::from_size_align(n.max(1), Self::ALIGN).ok());
        // SAFETY: the layout's size is not 0.
        let ptr = layout.and_then(|layout| NonNull::new(memory::asking(|| unsafe { alloc_zeroed(layout) })));
        match (ptr, len) {
            (Some(ptr), Some(len)) => Ok(Zeroed { ptr: ptr.cast(), len }),
            _ => {
                let (total, free) = system::memory();
                let wanted = bytes.map_or(u64::MAX, |n| n as u64);
                Err(Error::OutOfMemory { what: what.to_owned(), wanted, free, total })
            }
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    /// Bytes that so many elements take; u64::MAX where the product of sizes overflowed.
    pub fn bytes_of(len: Option<usize>) -> u64 {
        len.map_or(u64::MAX, |n| (n as u64).saturating_mul(size_of::<T>() as u64))
    }

    /// The start; for writing, where the caller sees to it that nobody else uses the elements.
    pub fn ptr(&self) -> *mut T {
        self.ptr.as_ptr()
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe {
            let layout = Layout::from_size_align_unchecked((self.len * size_of::<T>()).max(1), 64);
            dealloc(self.ptr.as_ptr().cast(), layout);
        }
    }
}

/// A row-major f32 matrix that threads share. Each method's caller sees to it that no thread writes what
/// another uses: within a phase of the team, chunks touch disjoint outputs and no output is an input.
#[derive(Clone, Copy)]
pub struct Matrix {
    ptr: *mut f32,
    pub rows: usize,
    pub width: usize,
}

// SAFETY: plain memory; see the type's rule.
unsafe impl Send for Matrix {}
// SAFETY: plain memory; see the type's rule.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// `ptr` must stay valid for `rows * width` elements while the matrix is used.
    pub fn new(ptr: *mut f32, rows: usize, width: usize) -> Self {
        Matrix { ptr, rows, width }
    }

    pub fn ptr(&self) -> *mut f32 {
        self.ptr
    }

    fn at(&self, row: usize, from: usize, len: usize) -> *mut f32 {
        assert!(row < self.rows && from <= self.width && len <= self.width - from);
        // SAFETY: inside the matrix, as just checked.
        unsafe { self.ptr.add(row * self.width + from) }
    }

    /// # Safety
    /// Nobody writes the row while the slice lives.
    pub unsafe fn row<'a>(&self, row: usize) -> &'a [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(row, 0, self.width), self.width) }
    }

    /// # Safety
    /// Nobody else uses the row while the slice lives.
    pub unsafe fn row_mut<'a>(&self, row: usize) -> &'a mut [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, 0, self.width), self.width) }
    }

    /// # Safety
    /// Nobody writes these elements while the slice lives.
    pub unsafe fn part<'a>(&self, row: usize, from: usize, len: usize) -> &'a [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(row, from, len), len) }
    }

    /// # Safety
    /// Nobody else uses these elements while the slice lives.
    pub unsafe fn part_mut<'a>(&self, row: usize, from: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: inside the matrix; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, from, len), len) }
    }
}
