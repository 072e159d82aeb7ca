//! rf_last_error: the calling thread's last failure, as text and field by field.

#![allow(non_camel_case_types)]

use std::ffi::c_char;
use std::ptr;

use super::failure::{Last, with_last};
use super::guard::always;
use super::sized;
use super::status::{RF_OK, rf_status};

/// The message of this thread's last call that did not come to RF_OK; "" if there was none. Never NULL.
///
/// Calls that succeed leave it as it is. The text stays valid until this thread's next call that does not
/// come to RF_OK.
///
/// Where the next call may run on another thread (Go without runtime.LockOSThread, asynchronous calls of Node) this is
/// another call's message, or none. Use rf_context_error there and, of functions that take no context, those with `_e`:
/// they put the error into an rf_error of the caller's.
#[unsafe(no_mangle)]
pub extern "C" fn rf_last_error() -> *const c_char {
    with_last(|last| last.map_or(c"".as_ptr(), |failure| failure.message.as_ptr()))
}

/// The last error, field by field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_error_info {
    /// sizeof(rf_error_info), set by the caller.
    pub size: usize,
    /// RF_OK if there was no error yet.
    pub status: rf_status,
    /// Failed calls into a GPU's runtime only, else 0: the number that the runtime gave (HIP's, or CUDA's for NVIDIA);
    /// 0 also for a launch that was refused before the call.
    pub hip_code: i32,
    /// What rf_last_error returns. Never NULL; valid as long.
    pub message: *const c_char,
    /// The kernel of the launch that failed, or of the last one before a failed synchronization; NULL if there is none.
    /// Valid as `message` is.
    pub kernel: *const c_char,
    /// The name of `hip_code`: "hipErrorInvalidValue". NULL where `hip_code` is 0. Valid as `message` is.
    pub hip_name: *const c_char,
    /// Where there is a kernel: the launch's blocks and threads of a block along each axis, UINT32_MAX where they were
    /// more, and the block's shared memory in bytes.
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u64,
    /// The GPU's number; -1 if it was no GPU's failure.
    pub device: i32,
    /// The runtime's function that failed, or was not called for a refused launch: "hipModuleLaunchKernel"; NULL if it
    /// was no GPU's failure. Valid as `message` is.
    pub hip_call: *const c_char,
}

// SAFETY: repr(C), `size` first, null pointers and zeros are valid.
unsafe impl sized::Sized for rf_error_info {
    const NAME: &'static str = "rf_error_info";
}

/// Describes this thread's last call that did not come to RF_OK. The call itself changes the last error only when
/// `info` is NULL or of a wrong size (RF_ERROR_PARAM).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_last_error_info(info: *mut rf_error_info) -> rf_status {
    always(|| {
        // SAFETY: the caller passes NULL or a struct of the size it states.
        let out = unsafe { sized::Out::new(info) }?;
        out.set(with_last(describe));
        Ok(())
    })
}

pub(super) fn describe(last: Option<&Last>) -> rf_error_info {
    let mut info = rf_error_info {
        size: 0,
        status: RF_OK,
        hip_code: 0,
        message: c"".as_ptr(),
        kernel: ptr::null(),
        hip_name: ptr::null(),
        grid: [0; 3],
        block: [0; 3],
        shared_bytes: 0,
        device: -1,
        hip_call: ptr::null(),
    };
    let Some(last) = last else { return info };
    (info.status, info.message) = (last.status, last.message.as_ptr());
    let Some(gpu) = &last.gpu else { return info };
    info.hip_call = gpu.call.as_ptr();
    info.hip_code = gpu.code;
    info.device = gpu.device;
    if gpu.code != 0 {
        info.hip_name = gpu.name.as_ptr();
    }
    if let Some(launch) = &gpu.launch {
        info.kernel = launch.kernel.as_ptr();
        (info.grid, info.block) = (launch.grid, launch.block);
        info.shared_bytes = launch.shared_bytes;
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::error::{GpuFailure, LaunchShape};
    use crate::ffi::failure::Failure;
    use crate::ffi::status;
    use std::ffi::CStr;

    fn text(p: *const c_char) -> String {
        // SAFETY: the fields tried are texts of a failure that lives.
        unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_gpu_failure_is_told_field_by_field() {
        let launch = LaunchShape {
            kernel: "transpose_f32".into(),
            grid: [4748, 28, 1 << 40],
            block: [64, 64, 1],
            shared_bytes: 4224,
        };
        let failure = GpuFailure {
            call: "hipModuleLaunchKernel",
            code: 1,
            name: "hipErrorInvalidValue".into(),
            device: 2,
            arch: "gfx1100".into(),
            launch: Some(launch),
            detail: String::new(),
        };
        let last = |error: Error| Last::from(&Failure::from(error));
        let error = last(Error::Gpu(Box::new(failure.clone())));
        let info = describe(Some(&error));
        assert_eq!(
            text(info.message),
            "hipModuleLaunchKernel: hipErrorInvalidValue (1); kernel transpose_f32, grid (4748,28,1099511627776), \
             block (64,64,1), 4224 shared bytes; device 2 (gfx1100)"
        );
        assert_eq!((info.status, info.hip_code, info.device), (status::RF_ERROR_GPU, 1, 2));
        assert_eq!(
            (text(info.kernel), text(info.hip_name)),
            ("transpose_f32".into(), "hipErrorInvalidValue".into())
        );
        assert_eq!(text(info.hip_call), "hipModuleLaunchKernel");
        assert_eq!((info.grid, info.block), ([4748, 28, u32::MAX], [64, 64, 1]));
        assert_eq!(info.shared_bytes, 4224);

        let refused = GpuFailure { code: 0, name: String::new(), ..failure.clone() };
        let error = last(Error::Gpu(Box::new(refused)));
        assert!(describe(Some(&error)).hip_name.is_null());

        let lost = GpuFailure { launch: None, ..failure };
        let error = last(Error::DeviceLost { device: 2, failure: Box::new(lost) });
        let info = describe(Some(&error));
        assert_eq!((info.status, info.hip_code), (status::RF_ERROR_DEVICE_LOST, 1));
        assert!(info.kernel.is_null() && !info.hip_call.is_null());
    }
}
