//! Every architecture, scaling of RoPE and weight type on small random models, against llama.cpp's f32 logits
//! (tests/data/logits, made by make.py there).

use crate::common;

use std::path::Path;

use common::logits::{evaluate, kl_divergence};
use common::tiny_model::{Rng, TinyModel, random_tensor};
use rocmforge::device::Device;
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::gguf::{TensorType, Value, dequant};
use sha2::{Digest, Sha256};

const N_TOKENS: usize = 40;

/// Positions whose logits are kept in the golden files.
fn kept() -> impl Iterator<Item = usize> {
    (4..N_TOKENS).step_by(5)
}

fn tokens(model: &TinyModel) -> Vec<u32> {
    let mut rng = Rng(model.seed ^ 0xABCD);
    (0..N_TOKENS).map(|_| rng.below(model.n_vocab) as u32).collect()
}

fn cases() -> Vec<(&'static str, TinyModel)> {
    use TensorType::*;
    let yarn = |model: TinyModel, factor: f32| {
        model
            .meta("{}.rope.scaling.type", Value::String("yarn".into()))
            .meta("{}.rope.scaling.factor", Value::F32(factor))
            .meta("{}.rope.scaling.original_context_length", Value::U32(64))
    };
    let llama = TinyModel::new("llama");
    let freqs = TinyModel {
        n_embd: 160,
        n_ff: 224,
        n_head: 5,
        n_head_kv: 1,
        head_dim: 32,
        n_layer: 3,
        tied: true,
        rope_freqs: true,
        ..llama.clone()
    };
    let linear = llama
        .clone()
        .meta("{}.rope.scaling.type", Value::String("linear".into()))
        .meta("{}.rope.scaling.factor", Value::F32(4.0))
        .meta("{}.rope.scaling.attn_factor", Value::F32(1.2));
    let qwen2 = TinyModel { n_embd: 320, n_ff: 160, head_dim: 80, rope_base: 1e6, ..TinyModel::new("qwen2") };
    let qwen3 = TinyModel { n_head: 6, head_dim: 128, rope_base: 1e6, ..TinyModel::new("qwen3") };
    vec![
        ("llama", llama.clone()),
        ("llama_freqs", freqs.types(&[Q8_0, Q4_0, Q5_0, Q4_1, Q5_1])),
        ("llama_linear", linear.types(&[Q4_K, Q6_K])),
        ("llama_yarn", yarn(llama.types(&[Q5_K, Q3_K]), 8.0)),
        ("qwen2", qwen2.types(&[Q5_1, F16, BF16])),
        ("qwen3", qwen3.clone().types(&[Q2_K, Q6_K])),
        ("qwen3_yarn", yarn(qwen3, 4.0).meta("{}.rope.scaling.attn_factor", Value::F32(0.9))),
    ]
}

fn golden(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/logits/tiny_{name}.f32"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Largest difference over all kept logits, in units of their standard deviation, and mean KL divergence.
fn distance(device: &dyn Device, name: &str, model: &TinyModel) -> (f64, f64) {
    let all = evaluate(device, model.gguf(), &tokens(model), N_TOKENS);
    let golden = golden(name);
    let rows: Vec<_> = golden.chunks_exact(model.n_vocab).collect();
    assert_eq!(rows.len(), kept().count(), "{name}");

    let mean = golden.iter().map(|x| f64::from(*x)).sum::<f64>() / golden.len() as f64;
    let variance = golden.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / golden.len() as f64;
    assert!(variance.sqrt() > 0.3, "{name}: logits this flat ({variance}) would show no mistake");
    let (mut most, mut kl) = (0.0f64, 0.0);
    for (want, position) in rows.iter().zip(kept()) {
        let got = &all[position * model.n_vocab..][..model.n_vocab];
        for (want, got) in want.iter().zip(got) {
            most = most.max(f64::from((want - got).abs()));
        }
        kl += kl_divergence(want, got);
    }
    (most / variance.sqrt(), kl / rows.len() as f64)
}

/// Measured: at most 7e-6 standard deviations, a mean KL below 1e-11.
#[test]
fn the_reference_device_computes_what_llama_cpp_does_in_f32() {
    let device = ReferenceDevice::new(1);
    for (name, model) in cases() {
        let (most, kl) = distance(&device, name, &model);
        println!("{name}: {most:.1e} standard deviations, mean KL {kl:.1e}");
        assert!(most < 1e-4 && kl < 1e-8, "{name}: {most:.1e} standard deviations, mean KL {kl:.1e}");
    }
}

/// The CPU device rounds activations to 8 bits, and its cache to f16: measured up to 0.13 deviations, a mean KL of 7e-4.
#[test]
fn the_cpu_device_stays_near() {
    let device = CpuDevice::new(2).unwrap();
    for (name, model) in cases() {
        let (most, kl) = distance(&device, name, &model);
        println!("{name} on the CPU: {most:.1e} standard deviations, mean KL {kl:.1e}");
        assert!(most < 0.2 && kl < 2e-3, "{name}: {most:.1e} standard deviations, mean KL {kl:.1e}");
    }
}

/// What the goldens test is what was meant: a wrong pairing or scaling of RoPE is far outside the bounds above.
#[test]
fn the_goldens_tell_the_variants_apart() {
    let device = ReferenceDevice::new(1);
    let cases = cases();
    let find = |name: &str| cases.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    let plain = |name: &str| TinyModel { meta: Vec::new(), ..find(name) };
    for (name, other) in [
        ("llama_freqs", TinyModel { rope_freqs: false, ..find("llama_freqs") }),
        ("llama_linear", plain("llama_linear")),
        ("llama_yarn", plain("llama_yarn")),
        ("qwen3_yarn", plain("qwen3_yarn")),
        ("llama", TinyModel { seed: 2, ..find("llama") }),
    ] {
        let (most, kl) = distance(&device, name, &other);
        assert!(most > 1e-2 && kl > 1e-5, "{name}: {most:.1e} standard deviations, mean KL {kl:.1e}");
    }
}

#[test]
fn random_tensors_have_the_deviation_asked_for() {
    use TensorType::*;
    let mut rng = Rng(7);
    for ty in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K] {
        let mut values = vec![0.0; 256 * 64];
        dequant::row(ty, &random_tensor(&mut rng, ty, values.len(), 0.1), &mut values).unwrap();
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let sigma = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        println!("{ty}: mean {mean:.4} sigma {sigma:.4}");
        assert!((0.05..0.2).contains(&sigma), "{ty}: {sigma}");
        assert!(mean.abs() < 0.1, "{ty}: mean {mean}");
    }
}

/// Writes them to target/tmp/tiny-models on the way, with the tokens and the positions to keep: make.py takes them
/// from there, and the sums it leaves here tie its logits to these very files.
#[test]
fn the_models_are_those_that_llama_cpp_was_given() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-models");
    std::fs::create_dir_all(&folder).unwrap();
    let mut sums = String::new();
    for (name, model) in cases() {
        let list = |numbers: Vec<String>| numbers.join(",");
        let ids = list(tokens(&model).iter().map(u32::to_string).collect());
        let positions = list(kept().map(|p| p.to_string()).collect());
        let bytes = model.bytes();
        for (suffix, bytes) in [("gguf", &bytes[..]), ("ids", ids.as_bytes()), ("kept", positions.as_bytes())]
        {
            std::fs::write(folder.join(format!("{name}.{suffix}")), bytes).unwrap();
        }
        let digest =
            Sha256::new().chain_update(&bytes).chain_update(&ids).chain_update(&positions).finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        sums += &format!("{hex}  {name}\n");
    }
    std::fs::write(folder.join("sums"), &sums).unwrap();
    assert_eq!(sums, include_str!("../data/logits/tiny.sha256"), "run tests/data/logits/make.py");
}
