//! The engine: backends, models, contexts with their caches, sampling and generation.

mod backend;
mod cache;
mod context;
mod generate;
mod model;
mod placement;
mod pool;
mod sampler;
mod states;
mod text_only;

pub use crate::device::{DeviceChoice, DeviceInfo, GpuInfo, Memory, Needs, OpTime, StepTimes};
pub use crate::plan::split::Slice;
pub use backend::{Backend, BackendParams, DeviceKind};
pub use context::{
    Batch, CancelHandle, Context, ContextInfo, ContextParams, MAX_BATCH, MAX_CONTEXT, PerfCounters,
};
pub use generate::{GenerateParams, Generation, Piece, StopReason, generate};
pub use model::{LoadTimes, Model, ModelInfo, ModelParams};
pub use placement::{Alternative, CpuExperts, GpuLayers, PlacedPart, Placement, Target};
pub use sampler::{Sampler, SamplerParams};
