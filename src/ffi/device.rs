//! What devices there are.

#![allow(non_camel_case_types)]

use std::ffi::c_char;

use super::args::{Out, c_array};
use super::failure::{Failure, Outcome};
use super::guard::guard;
use super::sized::{self, Sized};
use super::status::rf_status;
use crate::engine::{Backend, DeviceInfo, DeviceKind, GpuInfo};

/// The best GPU that this library has kernels for, or else the CPU; rf_backend_info tells which it became, the log why.
pub const RF_DEVICE_AUTO: i32 = 0;
/// The CPU, with the widest instructions it has.
pub const RF_DEVICE_CPU: i32 = 1;
/// The CPU, every operation in plain f32 from its definition: slow, for checking other devices.
pub const RF_DEVICE_REFERENCE: i32 = 2;
/// GPUs: AMD's through libamdhip64.so, or else NVIDIA's through libcuda.so.1, looked for when first asked for. What they
/// have no room for the CPU computes (gpu_layers of rf_model_params).
///
/// Calls that use a GPU make it the calling thread's current one (hipSetDevice, cuCtxSetCurrent); a program that uses
/// the runtime itself sets its own again afterwards.
pub const RF_DEVICE_HIP: i32 = 3;

pub(super) fn kind_of(kind: i32) -> Outcome<DeviceKind> {
    match kind {
        RF_DEVICE_AUTO => Ok(DeviceKind::Auto),
        RF_DEVICE_CPU => Ok(DeviceKind::Cpu),
        RF_DEVICE_REFERENCE => Ok(DeviceKind::Reference),
        RF_DEVICE_HIP => Ok(DeviceKind::Hip),
        _ => Err(Failure::param(format!(
            "device kind {kind}; there are RF_DEVICE_AUTO (0), RF_DEVICE_CPU (1), RF_DEVICE_REFERENCE (2), \
             RF_DEVICE_HIP (3)"
        ))),
    }
}

/// What there is to know of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_device_details {
    /// sizeof(rf_device_details), set by the caller.
    pub size: usize,
    /// RF_DEVICE_CPU, RF_DEVICE_REFERENCE or RF_DEVICE_HIP.
    pub kind: i32,
    /// CPU: the threads it computes with. GPU: its compute units as its runtime counts them, on RDNA in pairs.
    pub compute_units: u32,
    /// Bytes of memory in all and free now; 0 where unknown.
    pub memory_total: u64,
    pub memory_free: u64,
    /// The device's own name, cut where it does not fit.
    pub name: [c_char; 128],
    /// The instructions in use, "avx512vnni", "avx2", "scalar"; the GPU's architecture, "gfx1100", "sm_90".
    pub arch: [c_char; 64],
    /// GPUs only, from here on; else 0. What the runtime states, read once: threads of a block in all and along each
    /// axis, blocks of a grid along each axis (UINT32_MAX where more), shared memory of a block in bytes, threads in
    /// lockstep (32 or 64).
    pub max_threads_per_block: u32,
    pub max_block: [u32; 3],
    pub max_grid: [u32; 3],
    pub warp_size: u32,
    pub shared_bytes_per_block: u64,
    /// 1: it shares the processor's memory.
    pub integrated: i32,
    /// 1: this library carries kernels for it. 0: rf_backend_create would fail with RF_ERROR_KERNELS.
    pub has_kernels: i32,
    /// The runtime's library and version: "libamdhip64.so.6 6.3.42131".
    pub runtime: [c_char; 128],
}

// SAFETY: repr(C), `size` first, integers only.
unsafe impl Sized for rf_device_details {
    const NAME: &'static str = "rf_device_details";
}

impl rf_device_details {
    pub(super) fn new(kind: DeviceKind, info: &DeviceInfo) -> Self {
        let none = GpuInfo::default();
        let gpu = info.gpu.as_ref().unwrap_or(&none);
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        rf_device_details {
            size: 0,
            kind: match kind {
                DeviceKind::Auto if info.gpu.is_none() => RF_DEVICE_CPU,
                DeviceKind::Cpu => RF_DEVICE_CPU,
                DeviceKind::Reference => RF_DEVICE_REFERENCE,
                DeviceKind::Hip | DeviceKind::Auto => RF_DEVICE_HIP,
            },
            compute_units: info.compute_units.try_into().unwrap_or(u32::MAX),
            memory_total: info.memory_total,
            memory_free: info.memory_free,
            name: c_array(&info.name),
            arch: c_array(&info.arch),
            max_threads_per_block: narrow(gpu.max_threads_per_block),
            max_block: gpu.max_block.map(narrow),
            max_grid: gpu.max_grid.map(narrow),
            warp_size: gpu.warp_size,
            shared_bytes_per_block: gpu.shared_bytes_per_block,
            integrated: gpu.integrated.into(),
            has_kernels: gpu.has_kernels.into(),
            runtime: c_array(&gpu.runtime),
        }
    }
}

/// How many devices of the kind there are, at least 1; of RF_DEVICE_AUTO the one that it would become. Any thread.
///
/// RF_ERROR_PARAM: an unknown kind, a NULL. No GPU is a failure that says why: RF_ERROR_NO_RUNTIME, no runtime's library
/// can be opened; RF_ERROR_NO_DEVICE, it shows no GPU; RF_ERROR_RUNTIME_TOO_OLD; RF_ERROR_UNSUPPORTED, this library was
/// built without GPUs. The other devices are there all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_device_count(kind: i32, n: *mut u32) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a valid pointer.
        let out = unsafe { Out::new(n, "n") }?;
        let count = match kind_of(kind)? {
            // These are this process's processor; that is the one it would become.
            DeviceKind::Cpu | DeviceKind::Reference | DeviceKind::Auto => 1,
            gpu @ DeviceKind::Hip => Backend::devices(gpu)?.len(),
        };
        out.set(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(())
    })
}

/// Describes device `index` (from 0) of the kind as a backend with default parameters would use it. Set info->size
/// first. Any thread.
///
/// RF_ERROR_PARAM: an unknown kind, an index beyond the last, a NULL or a wrong size. For a GPU also the failures of
/// rf_device_count, and RF_ERROR_GPU or RF_ERROR_NO_DEVICE where the runtime does not tell of it, or nothing sensible.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_device_info(kind: i32, index: u32, info: *mut rf_device_details) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a struct of the size it states.
        let out = unsafe { sized::Out::new(info) }?;
        let device = kind_of(kind)?;
        let mut devices = Backend::devices(device)?;
        if index as usize >= devices.len() {
            return Err(Failure::param(format!("device {index} of {}, from 0", devices.len())));
        }
        out.set(rf_device_details::new(device, &devices.swap_remove(index as usize)?));
        Ok(())
    })
}
