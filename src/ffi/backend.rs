//! rf_backend: a device in use.

#![allow(non_camel_case_types)]

use std::ffi::c_void;

use super::args::{Out, array, array_mut};
use super::device::{kind_of, rf_device_details};
use super::failure::{Failure, Outcome};
use super::guard::{always, guard};
use super::handle::{self, Handle};
use super::log::{Log, RF_LOG_INFO, rf_log_callback};
use super::sized::{self, Sized};
use super::status::rf_status;
use crate::engine::{Backend, BackendParams, DeviceChoice};

/// A device in use: what models are loaded on. Callable from many threads at once.
pub struct rf_backend {
    pub(super) backend: Backend,
    pub(super) log: Log,
}

impl Handle for rf_backend {
    const NAME: &'static str = "rf_backend";
}

/// How to create a backend. Fill it with rf_backend_params_init first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_backend_params {
    /// sizeof(rf_backend_params), set by rf_backend_params_init.
    pub size: usize,
    /// RF_DEVICE_AUTO (default), RF_DEVICE_CPU, RF_DEVICE_REFERENCE or RF_DEVICE_HIP.
    pub kind: i32,
    /// Threads the CPU computes with, the calling one included; 0 (default): one per core this process may use.
    pub threads: u32,
    /// Takes log lines; NULL (default): nothing is logged. It may be called, with `log_user`, until the backend and
    /// all that was made from it are released.
    pub log: rf_log_callback,
    pub log_user: *mut c_void,
    /// Lines up to this level are logged: RF_LOG_ERROR to RF_LOG_TRACE, RF_LOG_OFF for none; default RF_LOG_INFO.
    pub log_level: i32,
    /// Which device of the kind, by its number in rf_device_info; -1 (default): the best, of GPUs that this library has
    /// kernels for the one with the most memory (an integrated one only where there is no other).
    pub device_index: i32,
    /// RF_DEVICE_HIP: several GPUs, bit i for number i; the model's layers go through them in order of number.
    /// RF_DEVICES_ALL: each that there are kernels for. 0 (default): device_index alone counts.
    pub device_mask: u64,
}

/// Every GPU that this library has kernels for; integrated ones only where there is no other.
pub const RF_DEVICES_ALL: u64 = 0xFFFF_FFFF_FFFF_FFFF;

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_backend_params {
    const NAME: &'static str = "rf_backend_params";
}

/// Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_params_init(params: *mut rf_backend_params, size: usize) -> rf_status {
    guard(|| {
        let default = rf_backend_params {
            size,
            kind: super::device::RF_DEVICE_AUTO,
            threads: 0,
            log: None,
            log_user: std::ptr::null_mut(),
            log_level: RF_LOG_INFO,
            device_index: -1,
            device_mask: 0,
        };
        // SAFETY: the caller passes NULL or `size` writable bytes.
        unsafe { sized::init(params, size, default) }
    })
}

/// Takes a device into use. On RF_OK *backend is a new handle, to be given to rf_backend_release. Any thread.
///
/// RF_ERROR_PARAM: a NULL, an unknown kind or log level, an index or mask where there is one device, both of them, or
/// ROCMFORGE_CPU_ISA names instructions that the processor lacks. RF_ERROR_MEMORY, RF_ERROR_IO: threads could not be had.
///
/// RF_DEVICE_HIP: RF_ERROR_NO_RUNTIME, RF_ERROR_NO_DEVICE (none, or not that one), RF_ERROR_RUNTIME_TOO_OLD,
/// RF_ERROR_KERNELS (this library carries none for it), RF_ERROR_GPU, RF_ERROR_DEVICE_LOST, RF_ERROR_UNSUPPORTED (built
/// without GPUs), RF_ERROR_FORKED (the parent process uses one). After each of them the other kinds work as ever, and a later attempt starts anew. RF_DEVICE_AUTO logs
/// such a failure and takes the CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_create(
    params: *const rf_backend_params,
    backend: *mut *mut rf_backend,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (params, out) = unsafe { (sized::read(params)?, Out::new(backend, "backend")?) };
        let log = Log::new(params.log, params.log_level, params.log_user)?;
        let _entered = log.enter();
        let device = kind_of(params.kind)?;
        let choice = choice(params.device_index, params.device_mask)?;
        let backend = Backend::new(&BackendParams { device, choice, threads: params.threads as usize })?;
        drop(_entered);
        out.set(handle::into_raw(rf_backend { backend, log })?);
        Ok(())
    })
}

fn choice(index: i32, mask: u64) -> Outcome<DeviceChoice> {
    match (u32::try_from(index), mask) {
        (Ok(index), 0) => Ok(DeviceChoice::Index(index)),
        (Ok(index), _) => Err(Failure::param(format!(
            "device_index is {index} and device_mask {mask:#x}: one of them counts"
        ))),
        (Err(_), _) if index != -1 => Err(Failure::param(format!("device_index is {index}"))),
        (Err(_), 0) => Ok(DeviceChoice::Best),
        (Err(_), RF_DEVICES_ALL) => Ok(DeviceChoice::All),
        (Err(_), _) => Ok(DeviceChoice::Indices((0..u64::BITS).filter(|i| mask >> i & 1 == 1).collect())),
    }
}

/// Describes the backend's device, of several GPUs the first; `compute_units` is the number of threads that the CPU
/// computes with, or the GPU's compute units. Set info->size first. RF_ERROR_PARAM: a NULL or a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_info(
    backend: *const rf_backend,
    info: *mut rf_device_details,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (backend, out) = unsafe { (handle::share(backend)?, sized::Out::new(info)?) };
        out.set(rf_device_details::new(backend.backend.kind(), &backend.backend.info()));
        Ok(())
    })
}

/// The memory of rf_backend_info's device in bytes, now: free and in all (of the machine, for CPU devices); 0 where unknown.
/// RF_ERROR_PARAM: a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_memory(
    backend: *const rf_backend,
    free: *mut u64,
    total: *mut u64,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (backend, free, total) =
            unsafe { (handle::share(backend)?, Out::new(free, "free")?, Out::new(total, "total")?) };
        let info = backend.backend.info();
        free.set(info.memory_free);
        total.set(info.memory_total);
        Ok(())
    })
}

/// Gives the handle back; NULL is fine. Models and contexts made from it stay usable. Any thread, once; no
/// other call may be using the handle, except one that is in a callback on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_backend_release(backend: *mut rf_backend) {
    always(|| {
        // SAFETY: the caller passes NULL or a handle that it does not use again.
        unsafe { handle::release(backend) };
        Ok(())
    });
}

/// dst (cols x rows) = transpose of src (rows x cols), both row-major, in host memory, computed on the device.
///
/// RF_ERROR_PARAM: a NULL, or `rows * cols` floats are more than memory can hold, or src and dst overlap. On a GPU also
/// RF_ERROR_MEMORY, RF_ERROR_GPU and RF_ERROR_DEVICE_LOST; dst is undefined then. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_op_transpose(
    backend: *const rf_backend,
    src: *const f32,
    dst: *mut f32,
    rows: usize,
    cols: usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let backend = unsafe { handle::share(backend) }?;
        let _log = backend.log.enter();
        let n =
            rows.checked_mul(cols).ok_or_else(|| Failure::param(format!("{rows} x {cols} is too much")))?;
        check_apart(src, dst, n)?;
        // SAFETY: the caller passes `rows * cols` floats each, and they lie apart.
        let (src, dst) = unsafe { (array(src, n, "src")?, array_mut(dst, n, "dst")?) };
        if n > 0 {
            backend.backend.device().transpose(src, dst, rows, cols)?;
        }
        Ok(())
    })
}

fn check_apart(src: *const f32, dst: *const f32, n: usize) -> Outcome {
    let distance = src.addr().abs_diff(dst.addr());
    if n > 0 && !src.is_null() && !dst.is_null() && distance / size_of::<f32>() < n {
        return Err(Failure::param("src and dst overlap"));
    }
    Ok(())
}
