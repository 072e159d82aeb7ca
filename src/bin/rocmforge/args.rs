//! Flags that several commands share, spelled as llama.cpp's users know them.

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use rocmforge::engine::{
    Backend, BackendParams, Context, ContextParams, DeviceChoice, DeviceKind, GpuLayers, Model, ModelParams,
    SamplerParams,
};

use crate::terminal::LoadBar;
use crate::{interrupt, terminal};

/// llama.cpp has short flags of several letters; each is turned into its long form.
pub fn spell_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    args.map(|arg| match arg.to_str() {
        Some("-sys") => "--system-prompt".into(),
        Some("-ngl") => "--gpu-layers".into(),
        _ => arg,
    })
    .collect()
}

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

/// What `--gpu-layers` takes.
pub fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text {
        "auto" => Ok(GpuLayers::Auto),
        "all" => Ok(GpuLayers::All),
        "none" => Ok(GpuLayers::Last(0)),
        _ => text.parse().map(GpuLayers::Last).map_err(|_| "must be auto, all, none or a number".into()),
    }
}

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on: auto, the best GPU or else the CPU; cpu; reference (plain f32 from the definitions: slow,
    /// for checking); hip, a GPU, also by its number or a part of its name, or several: hip:1, hip:7900, hip:0,1, hip:all
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,
    /// Threads to compute with; 0: one per core
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
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
        load(&backend, &self.model, self.layers.gpu_layers, n_ctx, n_batch)
    }
}

#[derive(clap::Args)]
pub struct LayerArgs {
    /// Layers on the GPU: auto, as many as its memory holds; all; none; or the last N (more than the model has: the
    /// output too). The CPU computes the others. -ngl for short
    #[arg(long, alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = gpu_layers)]
    pub gpu_layers: GpuLayers,
}

/// Loads with a progress bar; Ctrl-C stops it.
pub fn load(
    backend: &Backend,
    path: &PathBuf,
    gpu_layers: GpuLayers,
    n_ctx: usize,
    n_batch: usize,
) -> Result<Model> {
    let mut bar = LoadBar::new();
    let mut progress = |done, total| {
        bar.set(done, total);
        !interrupt::is_set()
    };
    Ok(Model::load(backend, path, ModelParams { progress: Some(&mut progress), gpu_layers, n_ctx, n_batch })?)
}

#[derive(clap::Args)]
pub struct ContextArgs {
    /// Positions of context; 0: what the model was trained for, at most 4096
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    pub ctx_size: usize,
    /// Most tokens computed in one step
    #[arg(short, long, default_value_t = 512)]
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

/// A context of one sequence that Ctrl-C cancels.
pub fn context(model: &Model, n_ctx: usize, n_batch: usize) -> Result<Context> {
    let mut context = Context::new(model, &ContextParams { n_ctx, n_batch, n_seq_max: 1 })?;
    interrupt::watch(&mut context);
    Ok(context)
}

#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Temperature; 0: always the most likely token
    #[arg(long, default_value_t = 0.8)]
    temp: f32,
    /// Keep the k most likely tokens; 0: all
    #[arg(long, default_value_t = 40)]
    top_k: u32,
    /// Keep the fewest tokens whose probability reaches p; 1: all
    #[arg(long, default_value_t = 0.95, value_parser = probability)]
    top_p: f32,
    /// Drop tokens less likely than p times the most likely; 0: none
    #[arg(long, default_value_t = 0.05, value_parser = probability)]
    min_p: f32,
    /// Tokens that the penalties look back over; 0: none, -1: the whole context
    #[arg(long, default_value_t = 64, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    repeat_last_n: i64,
    /// Penalty on repeated tokens: divides their logits; 1: off
    #[arg(long, default_value_t = 1.0)]
    repeat_penalty: f32,
    /// Penalty per occurrence of a token; 0: off
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Penalty on tokens that occurred at all; 0: off
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Seed of the random draws; -1: a new one each time
    #[arg(short, long, default_value_t = -1, allow_negative_numbers = true)]
    seed: i64,
}

impl SamplingArgs {
    /// `n_ctx` is what `--repeat-last-n -1` looks back over.
    pub fn params(&self, n_ctx: usize) -> SamplerParams {
        SamplerParams {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            penalty_last_n: usize::try_from(self.repeat_last_n).unwrap_or(n_ctx),
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: u64::try_from(self.seed).unwrap_or_else(|_| random_seed()),
        }
    }
}

/// 32 bits, so that it is easily typed again.
fn random_seed() -> u64 {
    let seed = std::hash::RandomState::new().build_hasher().finish() >> 32;
    tracing::info!(seed, "sampling");
    seed
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err("must be a number from 0 to 1".into()),
    }
}

#[derive(clap::Args)]
pub struct GenerationArgs {
    /// Most tokens to generate; -1: until the model ends or the context is full
    #[arg(short = 'n', long = "predict", alias = "n-predict", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    predict: i64,
    /// Text that ends the generation (may be given several times); it is not printed
    #[arg(short, long = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    reverse_prompt: Vec<String>,
    /// Go on past the end-of-generation token
    #[arg(long)]
    ignore_eos: bool,
    /// Print control tokens too
    #[arg(long)]
    special: bool,
}

impl GenerationArgs {
    pub fn params(&self) -> rocmforge::engine::GenerateParams {
        rocmforge::engine::GenerateParams {
            max_tokens: usize::try_from(self.predict).ok(),
            stop: self.reverse_prompt.iter().filter(|s| !s.is_empty()).cloned().collect(),
            ignore_eog: self.ignore_eos,
            special: self.special,
            sequence: 0,
        }
    }
}

/// What a generation did and how fast, on standard error.
pub fn report(generation: &rocmforge::engine::Generation) {
    use rocmforge::engine::StopReason::*;
    let g = generation;
    let stop = match g.stop {
        Eog => "end of generation",
        StopText => "stop text",
        Length => "token limit",
        CacheFull => "context full",
        Cancelled => "interrupted",
    };
    // the first token comes out of the prompt's step
    let decoded = g.tokens.len().saturating_sub(1);
    terminal::note(format_args!(
        "prompt: {} tokens, {:.2} s, {:.1} tok/s | decode: {} tokens, {:.2} s, {:.1} tok/s | stop: {stop}{}",
        g.prompt_tokens,
        g.prompt_us as f64 / 1e6,
        terminal::rate(g.prompt_tokens, g.prompt_us),
        g.tokens.len(),
        g.decode_us as f64 / 1e6,
        terminal::rate(decoded, g.decode_us),
        terminal::peak_memory()
            .map(|b| format!(" | peak memory: {}", terminal::bytes(b)))
            .unwrap_or_default(),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_short_flags() {
        let args = ["chat", "-sys", "be brief"].map(OsString::from);
        assert_eq!(spell_out(args.into_iter()), ["chat", "--system-prompt", "be brief"]);
        let args = ["load", "-ngl", "99"].map(OsString::from);
        assert_eq!(spell_out(args.into_iter()), ["load", "--gpu-layers", "99"]);
    }

    #[test]
    fn numbers_of_layers() {
        assert_eq!(gpu_layers("auto"), Ok(GpuLayers::Auto));
        assert_eq!(gpu_layers("all"), Ok(GpuLayers::All));
        assert_eq!(gpu_layers("none"), Ok(GpuLayers::Last(0)));
        assert_eq!(gpu_layers("99"), Ok(GpuLayers::Last(99)));
        for bad in ["", "-1", "most", "1.5"] {
            assert!(gpu_layers(bad).is_err(), "{bad}");
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
    fn probabilities() {
        assert_eq!(probability("0.95"), Ok(0.95));
        for bad in ["-0.1", "1.01", "nan", "x", ""] {
            assert!(probability(bad).is_err(), "{bad}");
        }
    }
}
