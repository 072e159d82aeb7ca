//! Every architecture on every device against llama.cpp's logits (tests/common/archs.rs).
//!
//! In f32 two implementations differ by rounding alone: a normalized mean squared error of 1e-8 at most. The CPU and
//! the GPU keep keys and values in f16: 1e-5.

use crate::common;

use common::archs::{self, Fixture, SEEDS, kept};
use rocmforge::engine::{
    Backend, BackendParams, Batch, Context, ContextParams, DeviceKind, Model, ModelParams,
};

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

#[test]
fn each_fixture_is_listed() {
    let mut listed = FILES.to_vec();
    listed.sort_unstable();
    assert_eq!(listed, archs::names());
}

fn load(device: DeviceKind, fixture: &Fixture, seed: u64) -> rocmforge::Result<Model> {
    let backend = Backend::new(&BackendParams { device, threads: 2, ..BackendParams::default() }).unwrap();
    Model::from_gguf(&backend, fixture.model(seed), ModelParams::default())
}

/// Logits of all positions of both sequences.
type Logits = [Vec<f32>; 2];

/// Evaluates the sequences together, step by step: each step takes the next tokens of each, as many as it says.
fn evaluate(model: &Model, sequences: [&[u32]; 2], steps: impl Iterator<Item = [usize; 2]>) -> Logits {
    let n = sequences[0].len() + sequences[1].len();
    let params = ContextParams {
        n_ctx: n.next_multiple_of(64) + 64,
        n_batch: n,
        n_seq_max: 2,
        checkpoint_interval: 0,
    };
    let mut context = Context::new(model, &params).unwrap();
    let mut at = [0, 0];
    let mut logits = [Vec::new(), Vec::new()];
    for step in steps {
        if at == sequences.map(<[u32]>::len) {
            break;
        }
        let takes = [0, 1].map(|s| step[s].min(sequences[s].len() - at[s]));
        // tokens of the two alternate within a step
        let mut batch: Vec<(usize, u32)> = Vec::new();
        for i in 0..takes[0].max(takes[1]) {
            for s in (0..2).filter(|s| i < takes[*s]) {
                batch.push((s, sequences[s][at[s]]));
                at[s] += 1;
            }
        }
        if batch.is_empty() {
            continue;
        }
        let tokens: Vec<u32> = batch.iter().map(|(_, token)| *token).collect();
        let owners: Vec<u32> = batch.iter().map(|(s, _)| *s as u32).collect();
        let want = vec![true; batch.len()];
        let of = Batch { tokens: &tokens, positions: None, sequences: Some(&owners), want: Some(&want) };
        context.decode(&of).unwrap();
        for (row, (s, _)) in batch.iter().enumerate() {
            logits[*s].extend_from_slice(context.logits(row).unwrap());
        }
    }
    logits
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

/// A way to cut two sequences into steps: the number of the next tokens of each, by the step's number.
type Cut = fn(usize) -> [usize; 2];

const CUTS: [(&str, Cut); 3] = [
    ("in one batch", |_| [usize::MAX, 0]),
    ("token by token", |_| [1, 0]),
    // the second begins later, ends earlier, and pauses; both alone and together, one token and several
    ("two sequences", |step| [[3, 0], [1, 1], [5, 2], [1, 4], [0, 1], [9, 7]][step % 6]),
];

/// Steps of at most eight tokens.
const FEW: [(&str, Cut); 2] = [
    CUTS[1],
    ("two sequences, few tokens", |step| [[3, 0], [1, 1], [5, 2], [1, 4], [0, 1], [4, 4]][step % 6]),
];

fn follows(file: &str, device: DeviceKind, most: f64) {
    follows_in(&CUTS, file, device, most);
}

fn follows_in(cuts: &[(&str, Cut)], file: &str, device: DeviceKind, most: f64) {
    let fixture = Fixture::open(file);
    for seed in SEEDS {
        let model = load(device, &fixture, seed).unwrap_or_else(|e| panic!("{file}: {e}"));
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
        let mut tokens = fixture.tokens[0].clone();
        assert_ne!(tokens[1], tokens[2]);
        tokens.swap(1, 2);
        let logits = evaluate(&model, [&tokens, &[]], [[tokens.len(), 0]].into_iter());
        let error = distance(&fixture, seed, 0, &logits[0], 3);
        println!("{file} seed {seed}, two tokens swapped: NMSE {error:.1e}");
        assert!(
            error >= 1e-4,
            "{file} seed {seed}: a mistake moves the logits by an NMSE of {error:.1e} only"
        );
    }
}
