//! Versions, devices, attributes, errors.

use std::ffi::{c_char, c_int, c_uint};

use super::{DEVICE, LAST_ERROR, call, current, hip, put};
use crate::card::{self, Card};
use crate::code;
use crate::runtime::{Result, Runtime};

hip! {
    fn hipInit(runtime, flags: c_uint) {
        match (flags, runtime.devices.len()) {
            // As libamdhip64.so.5 was seen to answer.
            (0, 0) => Err(code::INVALID_DEVICE),
            (0, _) => Ok(()),
            _ => Err(code::INVALID_VALUE),
        }
    }

    fn hipDriverGetVersion(runtime, version: *mut c_int) {
        // SAFETY: the caller's.
        unsafe { put(version, runtime.config.version) }
    }

    fn hipRuntimeGetVersion(runtime, version: *mut c_int) {
        // SAFETY: the caller's.
        unsafe { put(version, runtime.config.version) }
    }

    fn hipGetDeviceCount(runtime, count: *mut c_int) {
        let n = runtime.devices.len();
        // SAFETY: the caller's.
        unsafe { put(count, n as c_int) }?;
        if n == 0 { Err(code::NO_DEVICE) } else { Ok(()) }
    }

    fn hipSetDevice(runtime, device: c_int) {
        DEVICE.set(ordinal(runtime, device)?);
        Ok(())
    }

    fn hipGetDevice(runtime, device: *mut c_int) {
        if runtime.devices.is_empty() {
            return Err(code::NO_DEVICE);
        }
        // SAFETY: the caller's.
        unsafe { put(device, DEVICE.get() as c_int) }
    }

    /// Handles of devices are their ordinals.
    fn hipDeviceGet(runtime, device: *mut c_int, number: c_int) {
        ordinal(runtime, number)?;
        // SAFETY: the caller's.
        unsafe { put(device, number) }
    }

    /// NUL-terminated, shortened to `len` bytes.
    fn hipDeviceGetName(runtime, name: *mut c_char, len: c_int, device: c_int) {
        let text = runtime.devices[ordinal(runtime, device)?].card.name;
        if name.is_null() || len <= 0 {
            return Err(code::INVALID_VALUE);
        }
        let n = text.len().min(len as usize - 1);
        // SAFETY: the caller's: len > n bytes.
        unsafe {
            name.copy_from_nonoverlapping(text.as_ptr().cast(), n);
            name.add(n).write(0);
        }
        Ok(())
    }

    fn hipDeviceTotalMem(runtime, bytes: *mut usize, device: c_int) {
        let memory = runtime.devices[ordinal(runtime, device)?].card.memory;
        // SAFETY: the caller's.
        unsafe { put(bytes, memory as usize) }
    }

    fn hipDeviceGetAttribute(runtime, value: *mut c_int, attribute: c_int, device: c_int) {
        let number = attribute_of(&runtime.devices[ordinal(runtime, device)?].card, attribute)?;
        // SAFETY: the caller's.
        unsafe { put(value, number) }
    }

    fn hipDeviceComputeCapability(runtime, major: *mut c_int, minor: *mut c_int, device: c_int) {
        let (a, b) = runtime.devices[ordinal(runtime, device)?].card.capability;
        // SAFETY: the caller's.
        unsafe { put(major, a).and(put(minor, b)) }
    }

    fn hipDeviceSynchronize(runtime) {
        let device = current(runtime)?;
        runtime.not_while_capturing()?;
        runtime.synchronize_device(device)
    }

    /// The device as it was at the start: nothing allocated, nothing loaded.
    fn hipDeviceReset(runtime) {
        let device = DEVICE.get();
        if device >= runtime.devices.len() {
            return Err(code::NO_DEVICE);
        }
        runtime.reset_device(device);
        Ok(())
    }
}

/// The calling thread's last error, which is forgotten; a lost device's stays.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetLastError() -> c_int {
    let ordered = call("hipGetLastError", |_| Ok(()));
    let last = LAST_ERROR.replace(code::SUCCESS);
    if ordered != code::SUCCESS { ordered } else { last }
}

#[unsafe(no_mangle)]
pub extern "C" fn hipPeekAtLastError() -> c_int {
    LAST_ERROR.get()
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorName(error: c_int) -> *const c_char {
    code::texts(error).0.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorString(error: c_int) -> *const c_char {
    code::texts(error).1.as_ptr()
}

/// The driver interface's form of the two above.
///
/// # Safety
/// `text` is null or points to writable memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDrvGetErrorName(error: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe { put(text, code::texts(error).0.as_ptr()) }.err().unwrap_or(code::SUCCESS)
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDrvGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe { put(text, code::texts(error).1.as_ptr()) }.err().unwrap_or(code::SUCCESS)
}

pub(super) fn ordinal(runtime: &Runtime, device: c_int) -> Result<usize> {
    let device = usize::try_from(device).map_err(|_| code::INVALID_DEVICE)?;
    match runtime.devices.len() {
        0 => Err(code::NO_DEVICE),
        n if device < n => Ok(device),
        _ => Err(code::INVALID_DEVICE),
    }
}

/// hipDeviceAttribute_t's numbers are those of hip_runtime_api.h from 5.0 on.
fn attribute_of(card: &Card, attribute: c_int) -> Result<c_int> {
    Ok(match attribute {
        0 => 0,                                              // EccEnabled
        2 => 2,                                              // AsyncEngineCount
        3 | 4 => 1,                   // CanMapHostMemory, CanUseHostPointerForRegisteredMem
        5 => card.clock_khz,          // ClockRate
        6 => 0,                       // ComputeMode
        8 => 1,                       // ConcurrentKernels
        10 | 11 => 0,                 // CooperativeLaunch, ...MultiDeviceLaunch
        16 => card.integrated.into(), // Integrated
        17 | 18 => 0,                 // IsMultiGpuBoard, KernelExecTimeout
        19 => card.l2_bytes,          // L2CacheSize
        23 => card.capability.0,      // ComputeCapabilityMajor
        24 => 0,                      // ManagedMemory
        26..=28 => card::MAX_BLOCK[attribute as usize - 26], // MaxBlockDimX..Z
        29..=31 => card::MAX_GRID[attribute as usize - 29], // MaxGridDimX..Z
        56 => card::MAX_THREADS as c_int, // MaxThreadsPerBlock
        57 => card::MAX_THREADS_PER_UNIT, // MaxThreadsPerMultiProcessor
        58 => c_int::MAX,             // MaxPitch
        59 => card.bus_bits,          // MemoryBusWidth
        60 => card.memory_clock_khz,  // MemoryClockRate
        61 => card.capability.1,      // ComputeCapabilityMinor
        63 => card.units,             // MultiprocessorCount
        71 | 72 => 65536,             // MaxRegistersPerBlock, ...PerMultiprocessor
        73 => 0,                      // ReservedSharedMemPerBlock
        74..=76 => card::LDS as c_int, // MaxSharedMemoryPerBlock, ...Optin, ...PerMultiprocessor
        83 => c_int::MAX,             // TotalConstantMemory
        85 => 1,                      // UnifiedAddressing
        87 => card.warp,              // WarpSize
        88 | 89 => 0,                 // MemoryPoolsSupported, VirtualMemoryManagementSupported
        10002 => card::LDS as c_int,  // MaxSharedMemoryPerMultiprocessor
        10011 => 0,                   // IsLargeBar
        10017 => 100_000,             // WallClockRate
        _ => return Err(code::INVALID_VALUE),
    })
}
