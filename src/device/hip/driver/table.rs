//! The runtime's functions as pointers. HIP's and CUDA's columns name functions of one and the same signature; every
//! one returns a plain integer, since an enum that held a number unknown to its definition would be undefined.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use hip_sys::hiprt::{
    hipCtx_t, hipEvent_t, hipFunction_t, hipGraph_t, hipGraphExec_t, hipModule_t, hipStream_t,
};
use libloading::Library;

use super::{Outcome, Platform};

// Device addresses are pointers to HIP and 64-bit integers to CUDA: one register either way.
const _: () = assert!(size_of::<usize>() == 8, "GPU runtimes exist for 64-bit processes only");

macro_rules! api {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $hip:literal | $cuda:literal;)*) => {
        /// The functions that both vendors have, and a few of one vendor.
        #[derive(Debug)]
        pub struct Api {
            $($name: (unsafe extern "C" fn($($ty),*) -> c_int, &'static str),)*
            vendor: Vendor,
        }

        impl Api {
            /// Looks all symbols up; Err is the first that `library` lacks.
            pub(super) fn load(library: &Library, platform: Platform) -> Result<Api, &'static str> {
                Ok(Api {
                    $($name: {
                        let symbol = match platform {
                            Platform::Hip => $hip,
                            Platform::Cuda => $cuda,
                        };
                        // SAFETY: the signature is that of the vendor's header.
                        (unsafe { find(library, symbol) }.ok_or(symbol)?, symbol)
                    },)*
                    vendor: Vendor::load(library, platform)?,
                })
            }

            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// Pointers are valid for what the runtime reads and writes, handles alive, and the device that they
                /// belong to is the calling thread's.
                #[allow(clippy::too_many_arguments)]
                #[inline]
                pub unsafe fn $name(&self $(, $arg: $ty)*) -> Outcome {
                    let (function, call) = self.$name;
                    // SAFETY: the caller's promise.
                    Outcome { call, code: unsafe { function($($arg),*) } }
                }
            )*
        }
    };
}

api! {
    /// To be called before all else; flags 0.
    init(flags: c_uint) = "hipInit" | "cuInit";
    /// HIP: major * 10^7 + minor * 10^5 + patch. CUDA: major * 1000 + minor * 10.
    get_version(version: *mut c_int) = "hipRuntimeGetVersion" | "cuDriverGetVersion";

    get_device_count(count: *mut c_int) = "hipGetDeviceCount" | "cuDeviceGetCount";
    device_get(device: *mut c_int, ordinal: c_int) = "hipDeviceGet" | "cuDeviceGet";
    device_get_attribute(value: *mut c_int, attribute: c_int, device: c_int)
        = "hipDeviceGetAttribute" | "cuDeviceGetAttribute";
    device_get_name(name: *mut c_char, len: c_int, device: c_int) = "hipDeviceGetName" | "cuDeviceGetName";
    device_total_memory(bytes: *mut usize, device: c_int) = "hipDeviceTotalMem" | "cuDeviceTotalMem_v2";

    /// Bytes free and in all on the thread's device.
    mem_get_info(free: *mut usize, total: *mut usize) = "hipMemGetInfo" | "cuMemGetInfo_v2";
    malloc(address: *mut u64, bytes: usize) = "hipMalloc" | "cuMemAlloc_v2";
    free(address: u64) = "hipFree" | "cuMemFree_v2";
    /// Pinned host memory; flags 0.
    host_malloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) = "hipHostMalloc" | "cuMemHostAlloc";
    host_free(pointer: *mut c_void) = "hipHostFree" | "cuMemFreeHost";
    memcpy_to_device(dst: u64, src: *const c_void, bytes: usize, stream: hipStream_t)
        = "hipMemcpyHtoDAsync" | "cuMemcpyHtoDAsync_v2";
    memcpy_to_host(dst: *mut c_void, src: u64, bytes: usize, stream: hipStream_t)
        = "hipMemcpyDtoHAsync" | "cuMemcpyDtoHAsync_v2";
    memcpy_on_device(dst: u64, src: u64, bytes: usize, stream: hipStream_t)
        = "hipMemcpyDtoDAsync" | "cuMemcpyDtoDAsync_v2";
    /// Sets `bytes` bytes to the low 8 bits of `value`.
    memset(dst: u64, value: u8, bytes: usize, stream: hipStream_t) = "hipMemsetD8Async" | "cuMemsetD8Async";

    /// Flag 1: does not wait for the null stream.
    stream_create(stream: *mut hipStream_t, flags: c_uint) = "hipStreamCreateWithFlags" | "cuStreamCreate";
    stream_destroy(stream: hipStream_t) = "hipStreamDestroy" | "cuStreamDestroy_v2";
    stream_synchronize(stream: hipStream_t) = "hipStreamSynchronize" | "cuStreamSynchronize";
    /// Flags 0.
    stream_wait_event(stream: hipStream_t, event: hipEvent_t, flags: c_uint)
        = "hipStreamWaitEvent" | "cuStreamWaitEvent";
    /// Mode 0: global, 1: of this thread, 2: relaxed.
    stream_begin_capture(stream: hipStream_t, mode: c_int)
        = "hipStreamBeginCapture" | "cuStreamBeginCapture_v2";
    stream_end_capture(stream: hipStream_t, graph: *mut hipGraph_t)
        = "hipStreamEndCapture" | "cuStreamEndCapture";

    /// Flag 1: waiting threads sleep; 2: no timing.
    event_create(event: *mut hipEvent_t, flags: c_uint) = "hipEventCreateWithFlags" | "cuEventCreate";
    event_destroy(event: hipEvent_t) = "hipEventDestroy" | "cuEventDestroy_v2";
    event_record(event: hipEvent_t, stream: hipStream_t) = "hipEventRecord" | "cuEventRecord";
    event_synchronize(event: hipEvent_t) = "hipEventSynchronize" | "cuEventSynchronize";
    event_elapsed_ms(ms: *mut f32, start: hipEvent_t, end: hipEvent_t)
        = "hipEventElapsedTime" | "cuEventElapsedTime";

    graph_instantiate(exec: *mut hipGraphExec_t, graph: hipGraph_t, flags: c_ulonglong)
        = "hipGraphInstantiateWithFlags" | "cuGraphInstantiateWithFlags";
    graph_launch(exec: hipGraphExec_t, stream: hipStream_t) = "hipGraphLaunch" | "cuGraphLaunch";
    graph_exec_destroy(exec: hipGraphExec_t) = "hipGraphExecDestroy" | "cuGraphExecDestroy";
    graph_destroy(graph: hipGraph_t) = "hipGraphDestroy" | "cuGraphDestroy";

    /// `image`: an ELF code object (HIP), a NUL-terminated PTX text (CUDA).
    module_load(module: *mut hipModule_t, image: *const c_void) = "hipModuleLoadData" | "cuModuleLoadData";
    module_unload(module: hipModule_t) = "hipModuleUnload" | "cuModuleUnload";
    module_get_function(function: *mut hipFunction_t, module: hipModule_t, name: *const c_char)
        = "hipModuleGetFunction" | "cuModuleGetFunction";
    /// `args`: the address of each argument; `extra` NULL.
    launch_kernel(
        function: hipFunction_t,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: hipStream_t,
        args: *mut *mut c_void,
        extra: *mut *mut c_void
    ) = "hipModuleLaunchKernel" | "cuLaunchKernel";
}

/// What one vendor has alone, or each in its own way.
#[derive(Debug)]
enum Vendor {
    Hip(Hip),
    Cuda(Cuda),
}

#[derive(Debug)]
struct Hip {
    set_device: unsafe extern "C" fn(c_int) -> c_int,
    last_error: unsafe extern "C" fn() -> c_int,
    error_name: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Fills the layout of ROCm 6 and later; older runtimes lack it.
    properties_r0600: Option<unsafe extern "C" fn(*mut c_void, c_int) -> c_int>,
    /// Fills the layout from before ROCm 6, to this day.
    properties: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
}

#[derive(Debug)]
struct Cuda {
    retain_context: unsafe extern "C" fn(*mut hipCtx_t, c_int) -> c_int,
    release_context: unsafe extern "C" fn(c_int) -> c_int,
    set_context: unsafe extern "C" fn(hipCtx_t) -> c_int,
    error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    load_with_options:
        unsafe extern "C" fn(*mut hipModule_t, *const c_void, c_uint, *mut c_int, *mut *mut c_void) -> c_int,
}

impl Vendor {
    fn load(library: &Library, platform: Platform) -> Result<Self, &'static str> {
        macro_rules! need {
            ($symbol:literal) => {
                // SAFETY: the signature is that of the vendor's header.
                unsafe { find(library, $symbol) }.ok_or($symbol)?
            };
        }
        Ok(match platform {
            Platform::Hip => Vendor::Hip(Hip {
                set_device: need!("hipSetDevice"),
                last_error: need!("hipGetLastError"),
                error_name: need!("hipGetErrorName"),
                // SAFETY: the signature is that of hip_runtime_api.h.
                properties_r0600: unsafe { find(library, "hipGetDevicePropertiesR0600") },
                properties: need!("hipGetDeviceProperties"),
            }),
            Platform::Cuda => Vendor::Cuda(Cuda {
                retain_context: need!("cuDevicePrimaryCtxRetain"),
                release_context: need!("cuDevicePrimaryCtxRelease_v2"),
                set_context: need!("cuCtxSetCurrent"),
                error_name: need!("cuGetErrorName"),
                load_with_options: need!("cuModuleLoadDataEx"),
            }),
        })
    }
}

/// Which struct a device's properties were written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertiesLayout {
    /// hipDeviceProp_t before ROCm 6: 792 bytes.
    Old,
    /// hipDeviceProp_tR0600: 1472 bytes.
    R0600,
}

impl Api {
    pub fn platform(&self) -> Platform {
        match self.vendor {
            Vendor::Hip(_) => Platform::Hip,
            Vendor::Cuda(_) => Platform::Cuda,
        }
    }

    /// The runtime's own name of `launch_kernel`.
    pub fn launch_call(&self) -> &'static str {
        self.launch_kernel.1
    }

    /// The runtime's name of an error number: "hipErrorInvalidValue"; "unknown error" where it has none.
    pub fn error_name(&self, code: c_int) -> String {
        let name = match &self.vendor {
            // SAFETY: any number may be asked for; the answer is a constant of the library.
            Vendor::Hip(hip) => unsafe { (hip.error_name)(code) },
            Vendor::Cuda(cuda) => {
                let mut name = std::ptr::null();
                // SAFETY: as above; an unknown number leaves NULL.
                unsafe { (cuda.error_name)(code, &mut name) };
                name
            }
        };
        if name.is_null() {
            return "unknown error".into();
        }
        // SAFETY: NUL-terminated, and the library is never unloaded.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// The calling thread's pending error, which this clears. CUDA keeps none.
    #[inline]
    pub fn take_last_error(&self) -> Outcome {
        match &self.vendor {
            // SAFETY: touches nothing but the thread's error.
            Vendor::Hip(hip) => Outcome { call: "hipGetLastError", code: unsafe { (hip.last_error)() } },
            Vendor::Cuda(_) => Outcome { call: "", code: 0 },
        }
    }

    /// Takes part in the device's context; null where contexts are the runtime's own affair.
    pub fn retain_context(&self, device: c_int) -> Result<hipCtx_t, Outcome> {
        let Vendor::Cuda(cuda) = &self.vendor else { return Ok(std::ptr::null_mut()) };
        let mut context = std::ptr::null_mut();
        // SAFETY: writes a handle.
        match unsafe { (cuda.retain_context)(&mut context, device) } {
            0 => Ok(context),
            code => Err(Outcome { call: "cuDevicePrimaryCtxRetain", code }),
        }
    }

    /// Ends what `retain_context` began.
    pub fn release_context(&self, device: c_int) {
        if let Vendor::Cuda(cuda) = &self.vendor {
            // SAFETY: any device number may be given; one that was lost is refused, which changes nothing.
            unsafe { (cuda.release_context)(device) };
        }
    }

    /// Makes the device the calling thread's.
    ///
    /// # Safety
    /// `context` is from `retain_context` for `device` and not released.
    #[inline]
    pub unsafe fn set_current(&self, device: c_int, context: hipCtx_t) -> Outcome {
        match &self.vendor {
            // SAFETY: any number may be given.
            Vendor::Hip(hip) => Outcome { call: "hipSetDevice", code: unsafe { (hip.set_device)(device) } },
            // SAFETY: the caller's promise.
            Vendor::Cuda(cuda) => {
                Outcome { call: "cuCtxSetCurrent", code: unsafe { (cuda.set_context)(context) } }
            }
        }
    }

    /// The bytes of HIP's property struct, and how they lie: in the newest layout that the runtime knows. None: CUDA.
    pub fn properties(&self, device: c_int) -> Option<Result<(PropertiesLayout, Vec<u8>), Outcome>> {
        let Vendor::Hip(hip) = &self.vendor else { return None };
        let (layout, call, get) = match hip.properties_r0600 {
            Some(get) => (PropertiesLayout::R0600, "hipGetDevicePropertiesR0600", get),
            None => (PropertiesLayout::Old, "hipGetDeviceProperties", hip.properties),
        };
        // Larger than either layout, for a runtime that appends to it; u64 for its alignment.
        let mut buffer = [0u64; 1024];
        // SAFETY: the buffer is several times the size of what is written.
        let code = unsafe { get(buffer.as_mut_ptr().cast(), device) };
        if code != 0 {
            return Some(Err(Outcome { call, code }));
        }
        Some(Ok((layout, buffer.iter().flat_map(|word| word.to_ne_bytes()).collect())))
    }

    /// Loads PTX, a NUL-terminated text, and gives the compiler's log where that fails; a code object on HIP.
    ///
    /// # Safety
    /// `image` is a whole code object for the calling thread's device, or such a text.
    pub unsafe fn module_load_logged(&self, module: &mut hipModule_t, image: &[u8]) -> (Outcome, String) {
        let Vendor::Cuda(cuda) = &self.vendor else {
            // SAFETY: the caller's promise.
            return (unsafe { self.module_load(module, image.as_ptr().cast()) }, String::new());
        };
        const ERROR_LOG_BUFFER: c_int = 5; // CU_JIT_ERROR_LOG_BUFFER
        const ERROR_LOG_BUFFER_SIZE: c_int = 6; // CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
        let mut log = vec![0u8; 8192];
        let mut options = [ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE];
        let mut values: [*mut c_void; 2] =
            [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
        // SAFETY: the caller's promise; as many options as values, the log's buffer of the size stated.
        let code = unsafe {
            (cuda.load_with_options)(
                module,
                image.as_ptr().cast(),
                options.len() as c_uint,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        let text = log.split(|&b| b == 0).next().unwrap_or_default();
        let outcome = Outcome { call: "cuModuleLoadDataEx", code };
        (outcome, String::from_utf8_lossy(text).trim().to_owned())
    }
}

/// # Safety
/// `F` is a pointer to a function of the symbol's signature; the library is not unloaded while it is used.
unsafe fn find<F: Copy>(library: &Library, symbol: &str) -> Option<F> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<F>(symbol) }.ok().map(|found| *found)
}
