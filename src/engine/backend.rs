//! A backend: one device, ready to load models.

use std::sync::Arc;

use crate::device::cpu::CpuDevice;
use crate::device::reference::ReferenceDevice;
use crate::device::{Device, DeviceChoice, DeviceInfo};
use crate::{Error, Result};

/// Which kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu,
    /// Plain f32 from the definitions: slow, for checking.
    Reference,
    /// A GPU: AMD's through the HIP runtime or NVIDIA's through its driver, found at run time. It transposes; models
    /// are refused (Error::Unsupported) until every operation of a plan is there.
    Hip,
}

#[derive(Clone, Debug)]
pub struct BackendParams {
    pub device: DeviceKind,
    /// Which GPU; of the other kinds there is one.
    pub choice: DeviceChoice,
    /// Threads the CPU computes with, the caller's included; 0: one per core this process may use.
    pub threads: usize,
}

impl Default for BackendParams {
    fn default() -> Self {
        BackendParams { device: DeviceKind::Cpu, choice: DeviceChoice::Best, threads: 0 }
    }
}

/// A device in use. Cheap to clone (shared), callable from many threads.
#[derive(Clone)]
pub struct Backend {
    device: Arc<dyn Device>,
    kind: DeviceKind,
}

impl Backend {
    /// Takes a device into use. Calls that a GPU serves make it the calling thread's current one (hipSetDevice,
    /// cuCtxSetCurrent); a program that uses the runtime itself sets its own again afterwards.
    ///
    /// # Errors
    /// Error::Param: more than [`MAX_THREADS`](Self::MAX_THREADS) threads, or a choice among devices of which there
    /// is one. For a GPU also Error::NoRuntime, NoGpu, RuntimeTooOld, NoKernels, Kernels and Gpu; nothing is kept of
    /// such a failure: other kinds work as ever, and a later attempt starts anew.
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
            return Err(Error::param(format!("{:?} of the one device that is no GPU", params.choice)));
        }
        let device: Arc<dyn Device> = match params.device {
            DeviceKind::Cpu => Arc::new(CpuDevice::new(params.threads)?),
            DeviceKind::Reference => Arc::new(ReferenceDevice::new(params.threads)),
            DeviceKind::Hip => gpu::open(&params.choice)?,
        };
        Ok(Backend { device, kind: params.device })
    }

    pub const MAX_THREADS: usize = 1024;

    /// Describes every device of the kind, by number, without taking it into use; an entry is an error where a GPU
    /// cannot be told about. Never empty: no GPU is an error that says why, as in [`new`](Self::new).
    pub fn devices(kind: DeviceKind) -> Result<Vec<Result<DeviceInfo>>> {
        match kind {
            DeviceKind::Cpu | DeviceKind::Reference => {
                let params = BackendParams { device: kind, ..BackendParams::default() };
                Ok(vec![Ok(Backend::new(&params)?.info())])
            }
            DeviceKind::Hip => gpu::list(),
        }
    }

    pub fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    pub fn kind(&self) -> DeviceKind {
        self.kind
    }
}

#[cfg(feature = "hip")]
mod gpu {
    use super::*;
    use crate::device::hip;

    pub fn open(choice: &DeviceChoice) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(hip::device::HipDevice::open(choice)?))
    }

    pub fn list() -> Result<Vec<Result<DeviceInfo>>> {
        hip::device::list()
    }
}

/// The library without GPUs.
#[cfg(not(feature = "hip"))]
mod gpu {
    use super::*;

    pub fn open(_: &DeviceChoice) -> Result<Arc<dyn Device>> {
        Err(absent())
    }

    pub fn list() -> Result<Vec<Result<DeviceInfo>>> {
        Err(absent())
    }

    fn absent() -> Error {
        Error::Unsupported {
            what: "device",
            name: "GPU (this library was built without the feature 'hip')".into(),
            supported: "CPU, reference".into(),
        }
    }
}
