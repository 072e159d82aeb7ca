//! The GPU runtime: its functions, found at run time in AMD's HIP library or NVIDIA's driver.
//!
//! ```text
//! mod        Driver: the opened runtime; opened once for the process
//!   library  which files are tried, and what their refusals come to
//!   table    the functions: one table, a column of symbol names for each vendor
//! ```

mod library;
mod table;

use std::ffi::c_int;

use hip_sys::hiprt::{hipDeviceAttribute_t, hipError_t};
use once_cell::sync::OnceCell;

pub use library::Search;
pub use table::{Api, PropertiesLayout};

use crate::fork::OnceEpoch;
use crate::{Error, Result};

/// Whose runtime: decides the symbols' names and the few calls that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// AMD: libamdhip64.
    Hip,
    /// NVIDIA: libcuda, the driver's own interface.
    Cuda,
}

/// What a call into the runtime came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The runtime's own name of the function: "hipMalloc", "cuMemAlloc_v2".
    pub call: &'static str,
    pub code: c_int,
}

impl Outcome {
    pub fn is_ok(self) -> bool {
        self.code == code::SUCCESS
    }
}

/// The error numbers that the engine tells apart; HIP and CUDA use the same ones.
pub mod code {
    use super::{c_int, hipError_t};

    pub const SUCCESS: c_int = hipError_t::hipSuccess as c_int;
    pub const INVALID_VALUE: c_int = hipError_t::hipErrorInvalidValue as c_int;
    pub const OUT_OF_MEMORY: c_int = hipError_t::hipErrorOutOfMemory as c_int;
    pub const INSUFFICIENT_DRIVER: c_int = hipError_t::hipErrorInsufficientDriver as c_int;
    pub const NO_DEVICE: c_int = hipError_t::hipErrorNoDevice as c_int;
    pub const INVALID_DEVICE: c_int = hipError_t::hipErrorInvalidDevice as c_int;
    /// Asked again later: the work is not done yet.
    pub const NOT_READY: c_int = hipError_t::hipErrorNotReady as c_int;
    /// CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: libcuda and the kernel's driver are of different versions.
    pub const DRIVER_MISMATCH: c_int = 803;

    /// After these the runtime answers every further call on the device with an error: the device is gone, or a
    /// kernel's fault ended its context.
    pub fn loses_device(code: c_int) -> bool {
        const GONE: [c_int; 5] = [
            hipError_t::hipErrorDeinitialized as c_int,
            46, // CUDA_ERROR_DEVICE_UNAVAILABLE
            NO_DEVICE,
            hipError_t::hipErrorECCNotCorrectable as c_int,
            hipError_t::hipErrorContextIsDestroyed as c_int,
        ];
        const FAULTS: [c_int; 5] = [
            220, // CUDA_ERROR_NVLINK_UNCORRECTABLE
            hipError_t::hipErrorIllegalAddress as c_int,
            hipError_t::hipErrorLaunchTimeOut as c_int,
            hipError_t::hipErrorAssert as c_int,
            hipError_t::hipErrorLaunchFailure as c_int,
        ];
        // CUDA's other faults of a kernel: hardware stack, illegal instruction, misaligned address, address space, pc
        GONE.contains(&code) || FAULTS.contains(&code) || (714..=718).contains(&code)
    }
}

/// What can be asked of a device by number. HIP's numbers are the same from 5.0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    MaxThreadsPerBlock,
    MaxBlockX,
    MaxBlockY,
    MaxBlockZ,
    MaxGridX,
    MaxGridY,
    MaxGridZ,
    WarpSize,
    SharedBytesPerBlock,
    ComputeUnits,
    Integrated,
    /// kHz.
    ClockRate,
    /// kHz.
    MemoryClockRate,
    /// Bits.
    MemoryBusWidth,
    L2Bytes,
    CapabilityMajor,
    CapabilityMinor,
}

impl Attribute {
    /// The runtime's number; CUDA's are those of `CUdevice_attribute`.
    fn id(self, platform: Platform) -> c_int {
        use hipDeviceAttribute_t::*;
        let (hip, cuda) = match self {
            Attribute::MaxThreadsPerBlock => (hipDeviceAttributeMaxThreadsPerBlock, 1),
            Attribute::MaxBlockX => (hipDeviceAttributeMaxBlockDimX, 2),
            Attribute::MaxBlockY => (hipDeviceAttributeMaxBlockDimY, 3),
            Attribute::MaxBlockZ => (hipDeviceAttributeMaxBlockDimZ, 4),
            Attribute::MaxGridX => (hipDeviceAttributeMaxGridDimX, 5),
            Attribute::MaxGridY => (hipDeviceAttributeMaxGridDimY, 6),
            Attribute::MaxGridZ => (hipDeviceAttributeMaxGridDimZ, 7),
            Attribute::SharedBytesPerBlock => (hipDeviceAttributeMaxSharedMemoryPerBlock, 8),
            Attribute::WarpSize => (hipDeviceAttributeWarpSize, 10),
            Attribute::ClockRate => (hipDeviceAttributeClockRate, 13),
            Attribute::ComputeUnits => (hipDeviceAttributeMultiprocessorCount, 16),
            Attribute::Integrated => (hipDeviceAttributeIntegrated, 18),
            Attribute::MemoryClockRate => (hipDeviceAttributeMemoryClockRate, 36),
            Attribute::MemoryBusWidth => (hipDeviceAttributeMemoryBusWidth, 37),
            Attribute::L2Bytes => (hipDeviceAttributeL2CacheSize, 38),
            Attribute::CapabilityMajor => (hipDeviceAttributeComputeCapabilityMajor, 75),
            Attribute::CapabilityMinor => (hipDeviceAttributeComputeCapabilityMinor, 76),
        };
        match platform {
            Platform::Hip => hip as c_int,
            Platform::Cuda => cuda,
        }
    }
}

/// An opened runtime that has at least one GPU. Its library is never unloaded: runtimes start threads and
/// register handlers for the process's end that would then run in unmapped code.
#[derive(Debug)]
pub struct Driver {
    api: Api,
    /// As it was opened: "libamdhip64.so.6", "/opt/rocm/lib/libamdhip64.so.7".
    library: String,
    /// As the runtime states it; see [`Driver::version_text`].
    version: c_int,
    n_devices: c_int,
}

/// The first that reads code objects of version 5; every call of the table is older.
const OLDEST_HIP: c_int = 50_300_000;
/// The first whose driver takes PTX 8.0, that of the kernels for sm_90.
const OLDEST_CUDA: c_int = 12_000;

impl Driver {
    /// The process's runtime, opened by the first call. A failure is not kept: the next call tries again.
    ///
    /// Error::NoRuntime: no library could be opened. Error::NoGpu: none of those opened has a GPU.
    /// Error::RuntimeTooOld: one that lacks what this library calls.
    /// Error::Forked: the parent of this process had opened one, which does not work in the child.
    pub fn get() -> Result<&'static Driver> {
        static DRIVER: OnceCell<Driver> = OnceCell::new();
        static OPENED: OnceEpoch = OnceEpoch::new();
        // before the cell, which a thread of the parent may have been about to fill
        if OPENED.get()?.is_past() {
            return Err(Error::Forked {
                what: "GPU runtime",
                instead: "use GPUs in processes that are started (exec), or fork before their first use",
            });
        }
        let opened = DRIVER.get_or_try_init(|| Driver::open(&Search::from_environment()));
        opened.inspect_err(|_| OPENED.forget())
    }

    /// Opens the first of the libraries that has a GPU. The library stays loaded.
    pub fn open(search: &Search) -> Result<Driver> {
        let driver = library::open(search)?;
        tracing::info!(
            library = driver.library,
            version = driver.version_text(),
            devices = driver.n_devices,
            "GPU runtime"
        );
        Ok(driver)
    }

    /// Initializes the runtime behind `api`; counts its devices and checks its age.
    fn start(api: Api, library: String) -> Result<Driver> {
        let mut driver = Driver { api, library, version: 0, n_devices: 0 };
        // SAFETY: the first call into the runtime; 0 is the only flag there is.
        driver.expect(unsafe { driver.api.init(0) })?;
        let (mut n_devices, mut version) = (0, 0);
        // SAFETY: writes an int.
        driver.expect(unsafe { driver.api.get_device_count(&mut n_devices) })?;
        if n_devices < 1 {
            return Err(Error::NoGpu(format!("{}: it counts {n_devices} devices", driver.library)));
        }
        // SAFETY: writes an int.
        driver.expect(unsafe { driver.api.get_version(&mut version) })?;
        (driver.n_devices, driver.version) = (n_devices, version);
        let (oldest, name) = match driver.platform() {
            Platform::Hip => (OLDEST_HIP, "HIP 5.3"),
            Platform::Cuda => (OLDEST_CUDA, "a driver for CUDA 12.0"),
        };
        if version < oldest {
            return Err(Error::RuntimeTooOld {
                why: format!("it is version {}; {name} is needed", driver.version_text()),
                library: driver.library,
            });
        }
        Ok(driver)
    }

    /// Before there is a device, every failure means that there is none to use.
    fn expect(&self, outcome: Outcome) -> Result<()> {
        if outcome.is_ok() {
            return Ok(());
        }
        let Outcome { call, code } = outcome;
        let why = format!("{call}: {} ({code})", self.api.error_name(code));
        Err(match code {
            code::INSUFFICIENT_DRIVER | code::DRIVER_MISMATCH => Error::RuntimeTooOld {
                library: self.library.clone(),
                why: format!("{why}: the kernel's GPU driver and this library do not go together"),
            },
            // what HIP says without a device, or without the right to open one
            code::NO_DEVICE | code::INVALID_DEVICE if self.platform() == Platform::Hip => {
                Error::NoGpu(format!(
                    "{}: {why}: no AMD GPU that this process may open (/dev/kfd, /dev/dri)",
                    self.library
                ))
            }
            _ => Error::NoGpu(format!("{}: {why}", self.library)),
        })
    }

    pub fn api(&self) -> &Api {
        &self.api
    }

    pub fn platform(&self) -> Platform {
        self.api.platform()
    }

    pub fn library(&self) -> &str {
        &self.library
    }

    pub fn n_devices(&self) -> i32 {
        self.n_devices
    }

    /// "6.3.42131" (HIP), "12.4" (CUDA).
    pub fn version_text(&self) -> String {
        let v = self.version;
        match self.platform() {
            Platform::Hip => format!("{}.{}.{}", v / 10_000_000, v / 100_000 % 100, v % 100_000),
            Platform::Cuda => format!("{}.{}", v / 1000, v % 1000 / 10),
        }
    }

    /// One attribute of the device with that handle.
    pub fn attribute(&self, handle: c_int, attribute: Attribute) -> std::result::Result<c_int, Outcome> {
        let mut value = 0;
        // SAFETY: writes an int.
        let outcome =
            unsafe { self.api.device_get_attribute(&mut value, attribute.id(self.platform()), handle) };
        if outcome.is_ok() { Ok(value) } else { Err(outcome) }
    }

    /// The device's own name: "AMD Radeon RX 7900 XTX".
    pub fn device_name(&self, handle: c_int) -> std::result::Result<String, Outcome> {
        let mut name = [0u8; 256];
        // SAFETY: writes at most the length given, NUL-terminated.
        let outcome =
            unsafe { self.api.device_get_name(name.as_mut_ptr().cast(), name.len() as c_int - 1, handle) };
        if !outcome.is_ok() {
            return Err(outcome);
        }
        let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
        Ok(String::from_utf8_lossy(&name[..end]).trim().to_owned())
    }

    /// Bytes of the device's memory.
    pub fn device_memory(&self, handle: c_int) -> std::result::Result<u64, Outcome> {
        let mut bytes = 0usize;
        // SAFETY: writes a size_t.
        let outcome = unsafe { self.api.device_total_memory(&mut bytes, handle) };
        if outcome.is_ok() { Ok(bytes as u64) } else { Err(outcome) }
    }

    /// The handle of the device with that ordinal: what the calls about one device take.
    pub fn handle(&self, device: c_int) -> std::result::Result<c_int, Outcome> {
        let mut handle = 0;
        // SAFETY: writes an int.
        let outcome = unsafe { self.api.device_get(&mut handle, device) };
        if outcome.is_ok() { Ok(handle) } else { Err(outcome) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_lose_the_device_and_refusals_do_not() {
        for lost in [4, 46, 100, 214, 700, 702, 709, 710, 714, 716, 718, 719] {
            assert!(code::loses_device(lost), "{lost}");
        }
        for kept in [0, 1, 2, 3, 9, 98, 101, 209, 400, 600, 701, 801, 999] {
            assert!(!code::loses_device(kept), "{kept}");
        }
    }

    #[test]
    fn attributes_have_the_numbers_of_both_headers() {
        // hip_runtime_api.h 6.2 counts from hipDeviceAttributeCudaCompatibleBegin = 0; cuda.h states its own.
        let numbers = [
            (Attribute::MaxThreadsPerBlock, 56, 1),
            (Attribute::MaxBlockX, 26, 2),
            (Attribute::MaxBlockZ, 28, 4),
            (Attribute::MaxGridX, 29, 5),
            (Attribute::MaxGridZ, 31, 7),
            (Attribute::SharedBytesPerBlock, 74, 8),
            (Attribute::WarpSize, 87, 10),
            (Attribute::ComputeUnits, 63, 16),
            (Attribute::Integrated, 16, 18),
            (Attribute::ClockRate, 5, 13),
            (Attribute::MemoryClockRate, 60, 36),
            (Attribute::MemoryBusWidth, 59, 37),
            (Attribute::L2Bytes, 19, 38),
            (Attribute::CapabilityMajor, 23, 75),
            (Attribute::CapabilityMinor, 61, 76),
        ];
        for (attribute, hip, cuda) in numbers {
            assert_eq!(attribute.id(Platform::Hip), hip, "{attribute:?}");
            assert_eq!(attribute.id(Platform::Cuda), cuda, "{attribute:?}");
        }
    }
}
