//! Models on every device.

use rocmforge::engine::{
    Backend, BackendParams, Context, ContextParams, DeviceKind, GpuLayers, Model, ModelParams,
};

#[cfg(feature = "hip")]
use super::emulated;
use super::tiny_model::TinyModel;

/// Runs `body` on every device that computes: the GPU is the emulated gfx1100, in a process of its own. `name` is the
/// calling test's in its file.
#[cfg_attr(feature = "hip", track_caller)]
pub fn on_every_device(name: &str, body: impl Fn(DeviceKind)) {
    #[cfg(feature = "hip")]
    {
        emulated::on_emulator(name, &[("CARD", "gfx1100")], || body(DeviceKind::Hip));
        if emulated::is_child() {
            return;
        }
    }
    #[cfg(not(feature = "hip"))]
    let _ = name;
    for device in [DeviceKind::Reference, DeviceKind::Cpu] {
        body(device);
    }
}

/// A GPU has all layers.
pub fn load(device: DeviceKind, threads: usize, model: &TinyModel) -> Model {
    let backend = Backend::new(&BackendParams { device, threads, ..BackendParams::default() }).unwrap();
    let gpu_layers = if device == DeviceKind::Hip { GpuLayers::All } else { GpuLayers::Auto };
    Model::from_gguf(&backend, model.gguf(), ModelParams { gpu_layers, ..ModelParams::default() }).unwrap()
}

/// A context of `n_ctx` positions for `n_seq_max` sequences, in steps of `n_batch` tokens.
pub fn context(model: &Model, n_ctx: usize, n_batch: usize, n_seq_max: usize) -> Context {
    Context::new(model, &ContextParams { n_ctx, n_batch, n_seq_max, checkpoint_interval: 0 }).unwrap()
}
