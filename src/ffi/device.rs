//! What devices there are.

#![allow(non_camel_case_types)]

use std::ffi::c_char;

use super::args::Out;
use super::failure::{Failure, Outcome};
use super::guard::guard;
use super::sized::{self, Sized};
use super::status::rf_status;
use crate::device::DeviceInfo;
use crate::engine::{Backend, BackendParams, DeviceKind};

/// The best device there is; in this version the CPU.
pub const RF_DEVICE_AUTO: i32 = 0;
/// The CPU, with the widest instructions it has.
pub const RF_DEVICE_CPU: i32 = 1;
/// The CPU, every operation in plain f32 from its definition: slow, for checking other devices.
pub const RF_DEVICE_REFERENCE: i32 = 2;

pub(super) fn kind_of(kind: i32) -> Outcome<DeviceKind> {
    match kind {
        RF_DEVICE_AUTO | RF_DEVICE_CPU => Ok(DeviceKind::Cpu),
        RF_DEVICE_REFERENCE => Ok(DeviceKind::Reference),
        _ => Err(Failure::param(format!(
            "device kind {kind}; there are RF_DEVICE_AUTO (0), RF_DEVICE_CPU (1), RF_DEVICE_REFERENCE (2)"
        ))),
    }
}

/// What there is to know of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_device_details {
    /// sizeof(rf_device_details), set by the caller.
    pub size: usize,
    /// RF_DEVICE_CPU or RF_DEVICE_REFERENCE.
    pub kind: i32,
    /// CPU: the threads it computes with.
    pub compute_units: u32,
    /// Bytes of memory in all and free now; 0 where unknown.
    pub memory_total: u64,
    pub memory_free: u64,
    /// The processor's own name, cut where it does not fit.
    pub name: [c_char; 128],
    /// The instructions in use: "avx512vnni", "avx2", "scalar".
    pub arch: [c_char; 64],
}

// SAFETY: repr(C), `size` first, integers only.
unsafe impl Sized for rf_device_details {
    const NAME: &'static str = "rf_device_details";
}

impl rf_device_details {
    pub(super) fn new(kind: DeviceKind, info: &DeviceInfo) -> Self {
        rf_device_details {
            size: 0,
            kind: match kind {
                DeviceKind::Cpu => RF_DEVICE_CPU,
                DeviceKind::Reference => RF_DEVICE_REFERENCE,
            },
            compute_units: info.compute_units.try_into().unwrap_or(u32::MAX),
            memory_total: info.memory_total,
            memory_free: info.memory_free,
            name: c_array(&info.name),
            arch: c_array(&info.arch),
        }
    }
}

/// NUL-terminated, cut between characters.
fn c_array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in array.iter_mut().zip(text[..end].bytes()) {
        *to = from as c_char;
    }
    array
}

/// How many devices of the kind there are. RF_ERROR_PARAM: an unknown kind, a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_device_count(kind: i32, n: *mut u32) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a valid pointer.
        let out = unsafe { Out::new(n, "n") }?;
        kind_of(kind)?;
        // Either device is this process's processor.
        out.set(1);
        Ok(())
    })
}

/// Describes device `index` (from 0) of the kind as a backend with default parameters would use it. Set info->size
/// first. RF_ERROR_PARAM: an unknown kind, an index beyond the last, a NULL or a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_device_info(kind: i32, index: u32, info: *mut rf_device_details) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it states.
        let out = unsafe { sized::Out::new(info) }?;
        let device = kind_of(kind)?;
        if index >= 1 {
            return Err(Failure::param(format!("device {index} of 1")));
        }
        let backend = Backend::new(&BackendParams { device, threads: 0 })?;
        out.set(rf_device_details::new(device, &backend.info()));
        Ok(())
    })
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
