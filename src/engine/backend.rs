//! A backend: one device, ready to load models.

use std::sync::Arc;

use crate::Result;
use crate::device::{Device, DeviceInfo};

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

/// A device in use. Cheap to clone (shared), callable from many threads.
#[derive(Clone)]
pub struct Backend {
    _device: Arc<dyn Device>,
}

impl Backend {
    pub fn new(_params: &BackendParams) -> Result<Self> {
        todo!()
    }
    pub fn info(&self) -> DeviceInfo {
        todo!()
    }
    pub fn device(&self) -> &Arc<dyn Device> {
        todo!()
    }
    pub fn kind(&self) -> DeviceKind {
        todo!()
    }
}
