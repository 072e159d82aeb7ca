//! Address space of one allocation: pages that read as [`POISON`] until written, between pages that nothing owns.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::OnceLock;

/// Fresh memory, by 16-bit words: NaN as f16, bf16, f32 and f64, and out of bounds as an index.
pub const POISON: u16 = 0x7fff;

/// Bytes after each allocation that belong to none, so that a stray index does not meet a neighbour.
const GAP: usize = 256 << 20;

/// Bytes of the file that all fresh pages are private copies of.
const POISON_FILE: usize = 16 << 20;

/// Readable and writable bytes at a fixed place.
pub struct Mapping {
    start: *mut libc::c_void,
    reserved: usize,
}

// SAFETY: owns address space, which is not bound to a thread; whoever accesses it does so by raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above; the methods with &self only tell the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Page-aligned; `bytes` > 0. Physical memory is taken page by page at the first write.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let page = 4096;
        let usable = bytes.checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let reserved = usable.checked_add(GAP).ok_or(io::ErrorKind::OutOfMemory)?;
        let poison = poison_file()?;
        // SAFETY: a fresh anonymous mapping at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserved,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Mapping { start, reserved };
        for offset in (0..usable).step_by(POISON_FILE) {
            // SAFETY: replaces pages inside the mapping just made, which nothing else knows yet.
            let part = unsafe {
                libc::mmap(
                    start.byte_add(offset),
                    POISON_FILE.min(usable - offset),
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    poison.as_raw_fd(),
                    0,
                )
            };
            if part == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(mapping)
    }

    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Gives the pages back but keeps their addresses from ever being used again: a stale pointer stays wrong.
    pub fn retire(self) {
        // SAFETY: replaces the whole mapping, which self owns, by one without access.
        unsafe {
            libc::mmap(
                self.start,
                self.reserved,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            );
        }
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped.
        unsafe { libc::munmap(self.start, self.reserved) };
    }
}

fn poison_file() -> io::Result<&'static File> {
    static FILE: OnceLock<File> = OnceLock::new();
    if let Some(file) = FILE.get() {
        return Ok(file);
    }
    // SAFETY: the name is a C string; the descriptor is ours alone.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"poison".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    file.write_all(&POISON.to_le_bytes().repeat(POISON_FILE / 2))?;
    Ok(FILE.get_or_init(|| file))
}
