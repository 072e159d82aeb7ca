//! Every architecture on every device against llama.cpp's logits (tests/common/archs.rs): four tests for each fixture
//! of tests/data/archs.
//!
//! In f32 two implementations differ by rounding alone: a normalized mean squared error of 1e-8 at most. The CPU and
//! the GPU keep keys and values in f16: 1e-5. On a real GPU with ROCMFORGE_TEST_GPU=1.

#[path = "common/mod.rs"]
mod common;

use std::process::ExitCode;

use common::archs::{self, Cut, Fixture, SEEDS, evaluate, kept};
use libtest_mimic::{Arguments, Trial};
use rocmforge::engine::{DeviceKind, Model};

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for file in archs::names() {
        let mut add = |what: &str, is_long: bool, run: fn(&str)| {
            let name = file.clone();
            let trial = Trial::test(format!("{file}::{what}"), move || {
                run(&name);
                Ok(())
            });
            trials.push(trial.with_ignored_flag(is_long));
        };
        add("reference", false, |file| follows(file, DeviceKind::Reference, &SEEDS, archs::cuts(file), 1e-8));
        add("cpu", false, |file| follows(file, DeviceKind::Cpu, &SEEDS, archs::cuts(file), in_f16(file)));
        add("a_mistake_shows", false, shows_a_mistake);
        #[cfg(feature = "hip")]
        {
            add("gpu", gpu::is_long(&file), gpu::follows);
            if gpu::MIXED.contains(&&file[..]) {
                add("mixed", false, gpu::follows_mixed);
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Variants of 32 to 64 layers, in which the rounding of keys and values to f16 adds up. Their bound where it is above
/// 1e-5; on the reference they keep to 1e-8.
const DEEP: [(&str, f64); 3] = [("baichuan-7b", 4e-5), ("baichuan-13b", 4e-5), ("command-r-plus", 4e-5)];

fn in_f16(file: &str) -> f64 {
    DEEP.iter().find(|(of, _)| *of == file).map_or(1e-5, |(_, most)| *most)
}

fn load(device: DeviceKind, fixture: &Fixture, seed: u64) -> rocmforge::Result<Model> {
    archs::load(device, fixture.model(seed))
}

/// Normalized mean squared error at the kept positions from `first` on. Equal infinities do not differ.
fn distance(fixture: &Fixture, seed: u64, sequence: usize, got: &[f32], first: usize) -> f64 {
    let n_vocab = fixture.n_logits(seed, sequence);
    let want = fixture.logits[seed as usize - 1][sequence].chunks_exact(n_vocab);
    let positions = kept(seed, fixture.tokens[sequence].len());
    assert_eq!(want.len(), positions.clone().count());
    let (mut error, mut square) = (0.0, 0.0);
    for (want, position) in want.zip(positions).filter(|(_, position)| *position >= first) {
        let pairs = want.iter().zip(&got[position * n_vocab..][..n_vocab]);
        for (want, got) in pairs.filter(|(want, got)| want.is_finite() || want != got) {
            error += (f64::from(*want) - f64::from(*got)).powi(2);
            square += f64::from(*want).powi(2);
        }
    }
    error / square
}

fn follows(file: &str, device: DeviceKind, seeds: &[u64], cuts: &[(&str, Cut)], most: f64) {
    follows_by(file, seeds, cuts, most, |fixture, seed| load(device, fixture, seed));
}

fn follows_by(
    file: &str,
    seeds: &[u64],
    cuts: &[(&str, Cut)],
    most: f64,
    load: impl Fn(&Fixture, u64) -> rocmforge::Result<Model>,
) {
    let fixture = Fixture::open(file);
    for seed in seeds.iter().copied() {
        let model = load(&fixture, seed).unwrap_or_else(|e| panic!("{file}: {e}"));
        let [first, second] = fixture.tokens.each_ref().map(Vec::as_slice);
        for (what, cut) in cuts {
            let is_one = cut(1)[1] == 0;
            let sequences = [first, if is_one { &[] } else { second }];
            let logits = evaluate(&model, sequences, (0..).map(*cut));
            for (s, logits) in logits.iter().enumerate().filter(|(_, logits)| !logits.is_empty()) {
                let error = distance(&fixture, seed, s, logits, 0);
                println!("{file} seed {seed} sequence {s} {what}: NMSE {error:.1e}");
                assert!(
                    error <= most,
                    "{file} seed {seed} sequence {s} {what}: NMSE {error:.1e} of at most {most:.0e}"
                );
            }
        }
    }
}

/// Two tokens swapped near the start move the logits behind them: attention, positions and all that follow are seen.
fn shows_a_mistake(file: &str) {
    let fixture = Fixture::open(file);
    for seed in SEEDS {
        let model = load(DeviceKind::Reference, &fixture, seed).unwrap();
        let tokens = archs::swapped(&fixture.tokens[0]);
        let logits = evaluate(&model, [&tokens, &[]], [[tokens.len(), 0]].into_iter());
        let error = distance(&fixture, seed, 0, &logits[0], 3);
        println!("{file} seed {seed}, two tokens swapped: NMSE {error:.1e}");
        assert!(
            error >= 1e-4,
            "{file} seed {seed}: a mistake moves the logits by an NMSE of {error:.1e} only"
        );
    }
}

#[cfg(feature = "hip")]
mod gpu {
    use super::*;
    use common::archs::{CUTS, SEEDS};
    use common::emulated::{self, Emulator};
    use rocmforge::engine::{
        Backend, BackendParams, Batch, Context, ContextParams, CpuExperts, GpuLayers, ModelParams, Target,
    };
    use rocmforge::gguf::Gguf;
    use std::sync::Arc;

    /// One of each kind: all cuts, both seeds. Of the others one seed, in the cut that has steps of one token and of
    /// several; `make conformance DEVICE=hip` has all.
    const WHOLE: [&str; 12] = [
        "llama-dense",
        "qwen2-dense",
        "qwen3-dense",
        "gemma3-dense",
        "phi2-dense",
        "deepseek2-expanded",
        "deepseek2-moe",
        "deepseek2-heads",
        "llama-moe",
        "qwen3moe-moe",
        "gpt-oss-moe",
        "qwen35-dense",
    ];

    /// In steps of many tokens products round weights and activations to f16. Their bound, where that is above 1e-5.
    const IN_MANY: [(&str, f64); 2] = [("deepseek2-moe", 3e-5), ("deepseek2-heads", 3e-5)];

    /// Steps of at most eight tokens.
    const FEW: [(&str, Cut); 2] = [
        CUTS[1],
        ("two sequences, few tokens", |step| [[3, 0], [1, 1], [5, 2], [1, 4], [0, 1], [4, 4]][step % 6]),
    ];

    /// Launches of a step of one token, by fixture: what falls off a fused path is seen. A layer of a dense model should
    /// take 8 at most, one of a mixture 12, beside 5 for embedding, norm and output.
    const LAUNCHES: &str = include_str!("data/archs/launches.txt");

    /// Variants are of the same operations as what they vary: `make emulate-full` runs them.
    pub fn is_long(file: &str) -> bool {
        let is_variant = !(file.ends_with("-dense") || file.ends_with("-moe"));
        is_variant && !WHOLE.contains(&file) && !is_real()
    }

    /// Runs `body` on an emulated gfx1100, or here where there is a real GPU to test.
    fn on_gpu(name: &str, body: impl FnOnce()) {
        match is_real() {
            true => body(),
            false => emulated::on_emulator(name, &[("CARD", "gfx1100")], body),
        }
    }

    fn is_real() -> bool {
        std::env::var_os("ROCMFORGE_TEST_GPU").is_some()
    }

    pub fn follows(file: &str) {
        on_gpu(&format!("{file}::gpu"), || {
            let in_many = IN_MANY.iter().find(|(of, _)| *of == file).map_or(in_f16(file), |(_, most)| *most);
            let is_whole = is_real() || WHOLE.contains(&file);
            if in_many > in_f16(file) {
                super::follows(file, DeviceKind::Hip, &SEEDS, &FEW, in_f16(file));
            }
            let cuts = archs::cuts(file);
            let (seeds, cuts) =
                if is_whole { (&SEEDS[..], cuts) } else { (&SEEDS[..1], &cuts[cuts.len() - 1..]) };
            super::follows(file, DeviceKind::Hip, seeds, cuts, in_many);
            if !is_real() {
                keeps_to_its_launches(file);
            }
        });
    }

    /// Mixtures whose experts are tried on the processor, too.
    pub const MIXED: [&str; 4] = ["llama-moe", "qwen3moe-moe", "gpt-oss-moe", "deepseek2-moe"];

    /// A mixture on a GPU, with experts of one layer and of all on the processor.
    pub fn follows_mixed(file: &str) {
        on_gpu(&format!("{file}::mixed"), || {
            let most = IN_MANY.iter().find(|(of, _)| *of == file).map_or(1e-5, |(_, most)| *most);
            for experts in [1, usize::MAX] {
                follows_by(file, &SEEDS, &CUTS, most, |fixture, seed| load_mixed(fixture, seed, experts));
            }
        });
    }

    fn load_mixed(fixture: &Fixture, seed: u64, experts: usize) -> rocmforge::Result<Model> {
        let device = DeviceKind::Hip;
        let backend = Backend::new(&BackendParams { device, threads: 1, ..BackendParams::default() })?;
        let (gpu_layers, cpu_experts) = (GpuLayers::All, CpuExperts::First(experts));
        let params = ModelParams { gpu_layers, cpu_experts, ..ModelParams::default() };
        let model = Model::from_gguf(&backend, fixture.model(seed), params)?;
        assert_eq!(model.placement().targets(), [Target::Gpu(0), Target::Host]);
        Ok(model)
    }

    fn keeps_to_its_launches(file: &str) {
        let mut fixture = Fixture::open(file);
        // files of NVFP4 alone have them, and the generator's
        fixture.tensors.retain(|tensor| !tensor.name.ends_with(".scale"));
        let bytes = Gguf::from_bytes(fixture.bytes(1), file).unwrap();
        let model = archs::load(DeviceKind::Hip, Arc::new(bytes)).unwrap();
        let params = ContextParams { n_ctx: 64, n_batch: 1, ..ContextParams::default() };
        let mut context = Context::new(&model, &params).unwrap();
        let emulator = Emulator::open();
        let launches = (0..3).map(|_| {
            let before = emulator.calls("hipModuleLaunchKernel");
            let token = Batch { tokens: &[1], positions: None, sequences: None, want: None };
            context.decode(&token).unwrap();
            emulator.calls("hipModuleLaunchKernel") - before
        });
        let launches = launches.max().unwrap();
        let most = LAUNCHES.lines().find_map(|line| line.strip_prefix(file)?.strip_prefix(' '));
        println!("{file} {launches}");
        let most: u64 =
            most.unwrap_or_else(|| panic!("launches.txt lacks {file} {launches}")).parse().unwrap();
        assert!(launches <= most, "{file}: {launches} launches, {most} before");
    }
}
