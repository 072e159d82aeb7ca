//! Flags of device, model and context that several commands share, spelled as llama.cpp's users know them.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use rocmforge::Error;
use rocmforge::engine::{
    Backend, BackendParams, Context, ContextParams, CpuExperts, DeviceChoice, DeviceKind, GpuLayers,
    MAX_BATCH, MAX_CONTEXT, Model, ModelParams,
};

use crate::interrupt;
use crate::terminal::LoadBar;

/// A device as `--device` names it: "auto", "cpu", "reference", "hip", "hip:1", "hip:0,1", "hip:all", "hip:7900".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    pub kind: DeviceKind,
    pub choice: DeviceChoice,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of_kind = |kind| DeviceName { kind, choice: DeviceChoice::Best };
        match text {
            "auto" => return Ok(of_kind(DeviceKind::Auto)),
            "cpu" => return Ok(of_kind(DeviceKind::Cpu)),
            "reference" => return Ok(of_kind(DeviceKind::Reference)),
            "hip" => return Ok(of_kind(DeviceKind::Hip)),
            _ => {}
        }
        let which = text.strip_prefix("hip:").filter(|which| !which.is_empty());
        let which = which.ok_or(
            "must be auto, cpu, reference, hip, hip:NUMBER, hip:NUMBER,NUMBER..., hip:all or hip:NAME",
        )?;
        let numbers: Result<Vec<u32>, _> = which.split(',').map(str::parse).collect();
        let choice = match numbers.as_deref() {
            _ if which == "all" => DeviceChoice::All,
            Ok(&[number]) => DeviceChoice::Index(number),
            Ok(numbers) => DeviceChoice::Indices(numbers.to_vec()),
            Err(_) => DeviceChoice::Name(which.to_owned()),
        };
        Ok(DeviceName { kind: DeviceKind::Hip, choice })
    }
}

fn count(text: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
    }
}

/// What `--threads` takes; llama.cpp's -1 is 0 here.
pub fn threads(text: &str) -> Result<usize, String> {
    if text == "-1" { Ok(0) } else { count(text, 0..=Backend::MAX_THREADS) }
}

/// Positions of a context, or tokens of a prompt.
pub fn positions(text: &str) -> Result<usize, String> {
    count(text, 0..=MAX_CONTEXT)
}

/// What `--batch-size` takes.
pub fn batch_size(text: &str) -> Result<usize, String> {
    count(text, 1..=MAX_BATCH)
}

/// What `--gpu-layers` takes.
pub fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text {
        "auto" | "-1" => Ok(GpuLayers::Auto),
        "all" => Ok(GpuLayers::All),
        "none" => Ok(GpuLayers::Last(0)),
        _ => text.parse().map(GpuLayers::Last).map_err(|_| "must be auto, all, none or a number".into()),
    }
}

/// What `--cpu-experts` takes.
pub fn cpu_experts(text: &str) -> Result<CpuExperts, String> {
    match text {
        "auto" => Ok(CpuExperts::Auto),
        "all" => Ok(CpuExperts::First(usize::MAX)),
        "none" => Ok(CpuExperts::First(0)),
        _ => text.parse().map(CpuExperts::First).map_err(|_| "must be auto, all, none or a number".into()),
    }
}

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on: auto, the best GPU or else the CPU; cpu; reference (plain f32 from the definitions: slow,
    /// for checking); hip, a GPU, also by its number or a part of its name, or several: hip:1, hip:7900, hip:0,1, hip:all
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,
    /// Threads to compute with; 0: one per core
    #[arg(short, long, default_value = "0", hide_default_value = true, value_parser = threads)]
    pub threads: usize,
}

impl DeviceArgs {
    pub fn backend(&self) -> Result<Backend> {
        let DeviceName { kind, choice } = self.device.clone();
        Ok(Backend::new(&BackendParams { device: kind, choice, threads: self.threads })?)
    }
}

#[derive(clap::Args)]
pub struct ModelArgs {
    /// Model file (GGUF; a split model by its first part)
    #[arg(short, long)]
    pub model: PathBuf,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub layers: LayerArgs,
}

impl ModelArgs {
    /// For a context of so many positions and steps of so many tokens.
    pub fn load(&self, n_ctx: usize, n_batch: usize) -> Result<Model> {
        let backend = self.device.backend()?;
        load(&backend, &self.model, &self.layers, n_ctx, n_batch)
    }
}

#[derive(clap::Args)]
pub struct LayerArgs {
    /// Layers on the GPU: auto, as many as its memory holds; all; none; or the last N (more than the model has: the
    /// output too). The CPU computes the others. -ngl for short
    #[arg(long, alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = gpu_layers)]
    pub gpu_layers: GpuLayers,
    /// Layers on the GPU whose experts the CPU keeps and computes: auto, as few as make the rest fit, where that is
    /// better than fewer layers; all; none; or the model's first N with experts
    #[arg(long, alias = "n-cpu-moe", value_name = "N", default_value = "auto", value_parser = cpu_experts)]
    pub cpu_experts: CpuExperts,
}

/// Loads with a progress bar; Ctrl-C stops it.
pub fn load(
    backend: &Backend,
    path: &PathBuf,
    layers: &LayerArgs,
    n_ctx: usize,
    n_batch: usize,
) -> Result<Model> {
    let mut bar = LoadBar::new();
    let mut progress = |done, total| {
        bar.set(done, total);
        !interrupt::is_set()
    };
    let LayerArgs { gpu_layers, cpu_experts } = *layers;
    let params = ModelParams { progress: Some(&mut progress), gpu_layers, cpu_experts, n_ctx, n_batch };
    Model::load(backend, path, params)
        .map_err(|error| with_advice(error, "--gpu-layers, --ctx-size or --batch-size"))
}

/// Says which flags to lower where memory is short.
fn with_advice(error: Error, flags: &str) -> anyhow::Error {
    match error {
        Error::OutOfMemory { .. } => anyhow!("{error}; a smaller {flags} needs less"),
        error => error.into(),
    }
}

#[derive(clap::Args)]
pub struct ContextArgs {
    /// Positions of context; 0: what the model was trained for, at most 4096
    #[arg(short, long, default_value = "0", hide_default_value = true, value_parser = positions)]
    pub ctx_size: usize,
    /// Most tokens computed in one step
    #[arg(short, long, default_value = "512", value_parser = batch_size)]
    pub batch_size: usize,
}

impl ContextArgs {
    pub fn load(&self, model: &ModelArgs) -> Result<Model> {
        model.load(self.ctx_size, self.batch_size)
    }

    pub fn create(&self, model: &Model) -> Result<Context> {
        context(model, self.ctx_size, self.batch_size)
    }
}

/// A context of one sequence, whose steps Ctrl-C cancels.
pub fn context(model: &Model, n_ctx: usize, n_batch: usize) -> Result<Context> {
    let mut context = Context::new(model, &ContextParams { n_ctx, n_batch, ..ContextParams::default() })
        .map_err(|error| with_advice(error, "--ctx-size or --batch-size"))?;
    interrupt::watch(&mut context);
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_layers() {
        assert_eq!(gpu_layers("auto"), Ok(GpuLayers::Auto));
        assert_eq!(gpu_layers("-1"), Ok(GpuLayers::Auto));
        assert_eq!(gpu_layers("all"), Ok(GpuLayers::All));
        assert_eq!(gpu_layers("none"), Ok(GpuLayers::Last(0)));
        assert_eq!(gpu_layers("99"), Ok(GpuLayers::Last(99)));
        for bad in ["", "-3", "most", "1.5"] {
            assert!(gpu_layers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_of_layers_with_experts() {
        assert_eq!(cpu_experts("auto"), Ok(CpuExperts::Auto));
        assert_eq!(cpu_experts("all"), Ok(CpuExperts::First(usize::MAX)));
        assert_eq!(cpu_experts("none"), Ok(CpuExperts::First(0)));
        assert_eq!(cpu_experts("7"), Ok(CpuExperts::First(7)));
        for bad in ["", "-1", "most", "1.5"] {
            assert!(cpu_experts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_names() {
        let name = |kind, choice| Ok(DeviceName { kind, choice });
        assert_eq!("auto".parse(), name(DeviceKind::Auto, DeviceChoice::Best));
        assert_eq!("cpu".parse(), name(DeviceKind::Cpu, DeviceChoice::Best));
        assert_eq!("reference".parse(), name(DeviceKind::Reference, DeviceChoice::Best));
        assert_eq!("hip".parse(), name(DeviceKind::Hip, DeviceChoice::Best));
        assert_eq!("hip:1".parse(), name(DeviceKind::Hip, DeviceChoice::Index(1)));
        assert_eq!("hip:rx 7900".parse(), name(DeviceKind::Hip, DeviceChoice::Name("rx 7900".into())));
        assert_eq!("hip:all".parse(), name(DeviceKind::Hip, DeviceChoice::All));
        assert_eq!("hip:2,0".parse(), name(DeviceKind::Hip, DeviceChoice::Indices(vec![2, 0])));
        assert_eq!("hip:gfx1100,x".parse(), name(DeviceKind::Hip, DeviceChoice::Name("gfx1100,x".into())));
        for bad in ["", "CPU", "cpu:0", "auto:0", "hip:", "cuda", "hip1"] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn counts() {
        assert_eq!((threads("-1"), threads("0"), threads("1024")), (Ok(0), Ok(0), Ok(1024)));
        assert_eq!((positions("0"), positions("268435456")), (Ok(0), Ok(MAX_CONTEXT)));
        assert_eq!(batch_size("1"), Ok(1));
        for bad in ["-2", "1025", "", "x"] {
            assert!(threads(bad).is_err(), "{bad}");
        }
        assert!(positions("268435457").is_err() && positions("-1").is_err());
        assert!(batch_size("0").is_err() && batch_size("1048577").is_err());
    }
}
