//! Models on every device.

use rocmforge::engine::{Backend, BackendParams, Context, ContextParams, DeviceKind, Model, ModelParams};

use super::tiny_model::TinyModel;

/// Every device that computes.
pub const DEVICES: [DeviceKind; 2] = [DeviceKind::Reference, DeviceKind::Cpu];

pub fn load(device: DeviceKind, threads: usize, model: &TinyModel) -> Model {
    let backend = Backend::new(&BackendParams { device, threads, ..BackendParams::default() }).unwrap();
    Model::from_gguf(&backend, model.gguf(), ModelParams::default()).unwrap()
}

/// A context of `n_ctx` positions for `n_seq_max` sequences, in steps of `n_batch` tokens.
pub fn context(model: &Model, n_ctx: usize, n_batch: usize, n_seq_max: usize) -> Context {
    Context::new(model, &ContextParams { n_ctx, n_batch, n_seq_max }).unwrap()
}
