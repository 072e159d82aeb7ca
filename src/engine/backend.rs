//! A backend: the devices that models are loaded on.

use std::sync::{Arc, OnceLock};

use crate::device::cpu::CpuDevice;
use crate::device::reference::ReferenceDevice;
use crate::device::{Device, DeviceChoice, DeviceInfo};
use crate::{Error, Result};

/// Which kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// The best GPU that this library has kernels for, or else the CPU: the backend's kind tells which it became.
    #[default]
    Auto,
    Cpu,
    /// Plain f32 from the definitions: slow, for checking.
    Reference,
    /// GPUs: AMD's through the HIP runtime or NVIDIA's through its driver, found at run time. Layers that they have no
    /// room for are computed by the CPU.
    Hip,
}

#[derive(Clone, Debug, Default)]
pub struct BackendParams {
    pub device: DeviceKind,
    /// Which GPU, or several; of the other kinds there is one.
    pub choice: DeviceChoice,
    /// Threads the CPU computes with, the caller's included; 0: one per core this process may use.
    pub threads: usize,
}

/// Devices in use: one, or several GPUs, and beside GPUs the CPU when something is to be computed there. Cheap to
/// clone (shared), callable from many threads.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
}

struct Shared {
    kind: DeviceKind,
    /// At least one; of GPUs, those that layers go to, in order.
    devices: Vec<Arc<dyn Device>>,
    /// Of a backend with GPUs.
    host: OnceLock<Arc<dyn Device>>,
    threads: usize,
}

impl Backend {
    /// Takes devices into use. Calls that a GPU serves make it the calling thread's current one (hipSetDevice,
    /// cuCtxSetCurrent); a program that uses the runtime itself sets its own again afterwards.
    ///
    /// # Errors
    /// Error::Param: more than [`MAX_THREADS`](Self::MAX_THREADS) threads, or a choice among devices of which there
    /// is one. For GPUs also Error::NoRuntime, NoGpu, RuntimeTooOld, NoKernels, Kernels and Gpu; nothing is kept of
    /// such a failure: other kinds work as ever, and a later attempt starts anew. Of DeviceKind::Auto the reason why
    /// no GPU serves is logged instead.
    pub fn new(params: &BackendParams) -> Result<Self> {
        if params.threads > Self::MAX_THREADS {
            return Err(Error::param(format!(
                "{} threads; the most is {}",
                params.threads,
                Self::MAX_THREADS
            )));
        }
        if params.device != DeviceKind::Hip
            && !matches!(params.choice, DeviceChoice::Best | DeviceChoice::Index(0))
        {
            return Err(Error::param(format!("{:?} of devices of which there is one", params.choice)));
        }
        let cpu = || -> Result<Self> {
            Ok(Self::of_one(DeviceKind::Cpu, Arc::new(CpuDevice::new(params.threads)?), params.threads))
        };
        match params.device {
            DeviceKind::Cpu => cpu(),
            DeviceKind::Reference => {
                let device = Arc::new(ReferenceDevice::new(params.threads));
                Ok(Self::of_one(DeviceKind::Reference, device, params.threads))
            }
            DeviceKind::Hip => Self::with_gpus(gpu::open(&params.choice)?, params.threads),
            DeviceKind::Auto => match gpu::open_best() {
                Ok(gpus) => Self::with_gpus(gpus, params.threads),
                Err(error) => {
                    tell_why(&error);
                    cpu()
                }
            },
        }
    }

    fn of_one(kind: DeviceKind, device: Arc<dyn Device>, threads: usize) -> Self {
        let shared = Shared { kind, devices: vec![device], host: OnceLock::new(), threads };
        Backend { shared: Arc::new(shared) }
    }

    /// Of devices that the caller opened, in the order that layers go through them, each with memory of its own; the
    /// CPU, with `threads`, computes what they have no room for. Error::Param: there are none.
    pub fn with_gpus(devices: Vec<Arc<dyn Device>>, threads: usize) -> Result<Self> {
        if devices.is_empty() {
            return Err(Error::param("a backend of no devices"));
        }
        let shared = Shared { kind: DeviceKind::Hip, devices, host: OnceLock::new(), threads };
        Ok(Backend { shared: Arc::new(shared) })
    }

    pub const MAX_THREADS: usize = 1024;

    /// Describes every device of the kind, by number, without taking it into use; an entry is an error where a GPU
    /// cannot be told about. Never empty: no GPU is an error that says why, as in [`new`](Self::new). Of
    /// DeviceKind::Auto the one that it would become.
    pub fn devices(kind: DeviceKind) -> Result<Vec<Result<DeviceInfo>>> {
        match kind {
            DeviceKind::Cpu => Ok(vec![CpuDevice::describe()]),
            DeviceKind::Reference => Ok(vec![Ok(ReferenceDevice::new(0).info())]),
            DeviceKind::Hip => gpu::list(),
            DeviceKind::Auto => match gpu::describe_best() {
                Some(info) => Ok(vec![Ok(info)]),
                None => Self::devices(DeviceKind::Cpu),
            },
        }
    }

    /// Describes the device; of several GPUs the first.
    pub fn info(&self) -> DeviceInfo {
        self.device().info()
    }

    /// The device; of several GPUs the first.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.devices[0] // there is one: see `of_one` and `with_gpus`
    }

    /// The GPUs that layers can go to.
    pub fn gpus(&self) -> &[Arc<dyn Device>] {
        match self.shared.kind {
            DeviceKind::Hip => &self.shared.devices,
            _ => &[],
        }
    }

    /// What computes everything that GPUs do not: of a backend with GPUs the CPU, taken into use when first asked
    /// for; else the device itself.
    pub fn host(&self) -> Result<&Arc<dyn Device>> {
        if self.shared.kind != DeviceKind::Hip {
            return Ok(self.device());
        }
        if let Some(host) = self.shared.host.get() {
            return Ok(host);
        }
        // of two threads that come here at once one throws its own away
        let host: Arc<dyn Device> = Arc::new(CpuDevice::new(self.shared.threads)?);
        Ok(self.shared.host.get_or_init(|| host))
    }

    /// Never DeviceKind::Auto.
    pub fn kind(&self) -> DeviceKind {
        self.shared.kind
    }
}

/// Logs why DeviceKind::Auto is the CPU: a machine without a GPU is nothing to warn about.
fn tell_why(error: &Error) {
    match error {
        Error::NoRuntime { .. } | Error::NoGpu(_) | Error::Unsupported { .. } => {
            tracing::info!(why = %error, "no GPU: the CPU computes");
        }
        _ => tracing::warn!(why = %error, "no GPU is usable: the CPU computes"),
    }
}

#[cfg(feature = "hip")]
mod gpu {
    use super::*;
    use crate::device::hip::device::{self, HipDevice};
    use crate::device::hip::driver::Search;

    pub fn open(choice: &DeviceChoice) -> Result<Vec<Arc<dyn Device>>> {
        let devices = HipDevice::open_all(choice)?.into_iter();
        Ok(devices.map(|device| -> Arc<dyn Device> { Arc::new(device) }).collect())
    }

    /// As DeviceKind::Auto does: no runtime is opened where the system shows no GPU.
    pub fn open_best() -> Result<Vec<Arc<dyn Device>>> {
        if !Search::from_environment().is_promising() {
            return Err(Error::NoGpu("the system shows none to this process".into()));
        }
        open(&DeviceChoice::Best)
    }

    pub fn list() -> Result<Vec<Result<DeviceInfo>>> {
        device::list()
    }

    pub fn describe_best() -> Option<DeviceInfo> {
        let listed = Search::from_environment().is_promising().then(device::list)?;
        device::best(listed.ok()?)
    }
}

/// The library without GPUs.
#[cfg(not(feature = "hip"))]
mod gpu {
    use super::*;

    pub fn open(_: &DeviceChoice) -> Result<Vec<Arc<dyn Device>>> {
        Err(absent())
    }

    pub fn open_best() -> Result<Vec<Arc<dyn Device>>> {
        Err(absent())
    }

    pub fn list() -> Result<Vec<Result<DeviceInfo>>> {
        Err(absent())
    }

    pub fn describe_best() -> Option<DeviceInfo> {
        None
    }

    fn absent() -> Error {
        Error::Unsupported {
            what: "device",
            name: "GPU (this library was built without the feature 'hip')".into(),
            supported: "CPU, reference".into(),
        }
    }
}
