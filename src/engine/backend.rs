//! A backend: one device, ready to load models.

use std::sync::Arc;

use crate::device::cpu::CpuDevice;
use crate::device::reference::ReferenceDevice;
use crate::device::{Device, DeviceInfo};
use crate::{Error, Result};

/// Which kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu,
    /// Plain f32 from the definitions: slow, for checking.
    Reference,
}

#[derive(Clone, Debug)]
pub struct BackendParams {
    pub device: DeviceKind,
    /// Threads the CPU computes with, the caller's included; 0: one per core this process may use.
    pub threads: usize,
}

impl Default for BackendParams {
    fn default() -> Self {
        BackendParams { device: DeviceKind::Cpu, threads: 0 }
    }
}

/// A device in use. Cheap to clone (shared), callable from many threads.
#[derive(Clone)]
pub struct Backend {
    device: Arc<dyn Device>,
    kind: DeviceKind,
}

impl Backend {
    /// More than [`MAX_THREADS`](Self::MAX_THREADS) threads are Error::Param.
    pub fn new(params: &BackendParams) -> Result<Self> {
        if params.threads > Self::MAX_THREADS {
            return Err(Error::param(format!(
                "{} threads; the most is {}",
                params.threads,
                Self::MAX_THREADS
            )));
        }
        let device: Arc<dyn Device> = match params.device {
            DeviceKind::Cpu => Arc::new(CpuDevice::new(params.threads)?),
            DeviceKind::Reference => Arc::new(ReferenceDevice::new(params.threads)),
        };
        Ok(Backend { device, kind: params.device })
    }

    pub const MAX_THREADS: usize = 1024;

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
