//! Every architecture on every device against llama.cpp's logits (tests/common/archs.rs).
//!
//! In f32 two implementations differ by rounding alone: a normalized mean squared error of 1e-8 at most. The CPU and
//! the GPU keep keys and values in f16: 1e-5.

use crate::common;

use common::archs::{self, CUTS, Cut, Fixture, SEEDS, evaluate, kept};
use rocmforge::engine::{DeviceKind, Model};

/// A module of tests for each fixture. Behind the file: the bound of GPUs in steps of many tokens, whose products round weights
/// and activations to f16, where that is above 1e-5.
macro_rules! fixtures {
    ($($name:ident = $file:literal $(, $bound:literal)?)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn reference() {
                follows($file, DeviceKind::Reference, 1e-8);
            }

            #[test]
            fn cpu() {
                follows($file, DeviceKind::Cpu, 1e-5);
            }

            #[cfg(feature = "hip")]
            #[test]
            fn gpu() {
                let name = concat!(stringify!($name), "::gpu");
                common::emulated::on_emulator(name, &[("CARD", "gfx1100")], || {
                    let in_many = [$($bound,)? 1e-5][0];
                    if in_many > 1e-5 {
                        follows_in(&FEW, $file, DeviceKind::Hip, 1e-5);
                    }
                    follows_in(&CUTS, $file, DeviceKind::Hip, in_many);
                });
            }

            #[test]
            fn a_mistake_shows() {
                shows_a_mistake($file);
            }
        })*

        const FILES: &[&str] = &[$($file,)*];
    };
}

fixtures! {
    llama = "llama-dense"
    qwen2 = "qwen2-dense"
    qwen3 = "qwen3-dense"
    gemma3 = "gemma3-dense"
    phi2 = "phi2-dense"
    deepseek2_expanded = "deepseek2-expanded"
    deepseek2 = "deepseek2-moe", 3e-5
    deepseek2_heads = "deepseek2-heads", 3e-5
    llama_moe = "llama-moe"
    qwen3moe = "qwen3moe-moe"
    gpt_oss = "gpt-oss-moe"
    qwen35 = "qwen35-dense"
}

/// Mixtures on a GPU, with experts of layers on the processor.
#[cfg(feature = "hip")]
mod mixed {
    use super::*;
    use rocmforge::engine::{Backend, BackendParams, CpuExperts, GpuLayers, ModelParams, Target};

    macro_rules! mixtures {
        ($($name:ident = $file:literal, $bound:literal)*) => {
            $(#[test]
            fn $name() {
                let name = concat!("mixed::", stringify!($name));
                common::emulated::on_emulator(name, &[("CARD", "gfx1100")], || {
                    for experts in [1, usize::MAX] {
                        follows_by(&CUTS, $file, $bound, |fixture, seed| load(fixture, seed, experts));
                    }
                });
            })*
        };
    }

    mixtures! {
        llama_moe = "llama-moe", 1e-5
        qwen3moe = "qwen3moe-moe", 1e-5
        gpt_oss = "gpt-oss-moe", 1e-5
        deepseek2 = "deepseek2-moe", 3e-5
    }

    fn load(fixture: &Fixture, seed: u64, experts: usize) -> rocmforge::Result<Model> {
        let device = DeviceKind::Hip;
        let backend = Backend::new(&BackendParams { device, threads: 1, ..BackendParams::default() })?;
        let (gpu_layers, cpu_experts) = (GpuLayers::All, CpuExperts::First(experts));
        let params = ModelParams { gpu_layers, cpu_experts, ..ModelParams::default() };
        let model = Model::from_gguf(&backend, fixture.model(seed), params)?;
        assert_eq!(model.placement().targets(), [Target::Gpu(0), Target::Host]);
        Ok(model)
    }
}

#[test]
fn each_fixture_is_listed() {
    let mut listed = FILES.to_vec();
    listed.sort_unstable();
    assert_eq!(listed, archs::names());
}

fn load(device: DeviceKind, fixture: &Fixture, seed: u64) -> rocmforge::Result<Model> {
    archs::load(device, fixture.model(seed))
}

/// Normalized mean squared error at the kept positions from `first` on.
fn distance(fixture: &Fixture, seed: u64, sequence: usize, got: &[f32], first: usize) -> f64 {
    let n_vocab = fixture.n_vocab();
    let want = fixture.logits[seed as usize - 1][sequence].chunks_exact(n_vocab);
    let positions = kept(seed, fixture.tokens[sequence].len());
    assert_eq!(want.len(), positions.clone().count());
    let (mut error, mut square) = (0.0, 0.0);
    for (want, position) in want.zip(positions).filter(|(_, position)| *position >= first) {
        for (want, got) in want.iter().zip(&got[position * n_vocab..][..n_vocab]) {
            error += (f64::from(*want) - f64::from(*got)).powi(2);
            square += f64::from(*want).powi(2);
        }
    }
    error / square
}

/// Steps of at most eight tokens.
const FEW: [(&str, Cut); 2] = [
    CUTS[1],
    ("two sequences, few tokens", |step| [[3, 0], [1, 1], [5, 2], [1, 4], [0, 1], [4, 4]][step % 6]),
];

fn follows(file: &str, device: DeviceKind, most: f64) {
    follows_in(&CUTS, file, device, most);
}

fn follows_in(cuts: &[(&str, Cut)], file: &str, device: DeviceKind, most: f64) {
    follows_by(cuts, file, most, |fixture, seed| load(device, fixture, seed));
}

fn follows_by(
    cuts: &[(&str, Cut)],
    file: &str,
    most: f64,
    load: impl Fn(&Fixture, u64) -> rocmforge::Result<Model>,
) {
    let fixture = Fixture::open(file);
    for seed in SEEDS {
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
