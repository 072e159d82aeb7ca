//! The two real models against the truth: llama.cpp's logits with everything in f32
//! (tests/data/logits, made by make.py there).

mod common;

use std::path::Path;
use std::sync::Arc;

use common::logits::{evaluate, log_sum_exp};
use common::models;
use rocmforge::device::Device;
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::gguf::Gguf;

#[derive(serde::Deserialize)]
struct Golden {
    model: String,
    /// Forced tokens from position 0 on.
    tokens: Vec<u32>,
    rows: Vec<Row>,
}

/// Logits of the highest ids and of some spread over the rest.
#[derive(serde::Deserialize)]
struct Row {
    position: usize,
    /// Over the whole vocabulary.
    log_sum_exp: f64,
    ids: Vec<usize>,
    logits: Vec<f32>,
}

struct Distance {
    /// Largest difference between two logits.
    most: f64,
    /// KL divergence over the ids kept and one bucket for all others, averaged over positions.
    kl: f64,
    /// Share of positions with the same most likely token.
    same_top: f64,
}

/// Evaluates the first `n` tokens. Log probabilities are compared: a constant added to all logits changes nothing.
fn distance(device: &dyn Device, name: &str, n: usize, chunk: usize) -> Distance {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/logits/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let file = Arc::new(Gguf::open(models::path(&golden.model)).unwrap());
    let logits = evaluate(device, file, &golden.tokens[..n], chunk);
    let n_vocab = logits.len() / n;

    let rows: Vec<&Row> = golden.rows.iter().filter(|row| row.position < n).collect();
    assert!(rows.len() >= n / 4);
    let (mut most, mut kl, mut same_top) = (0.0f64, 0.0, 0.0);
    for row in &rows {
        let got = &logits[row.position * n_vocab..][..n_vocab];
        let got_sum = log_sum_exp(got);
        let (mut p_others, mut q_others) = (1.0, 1.0);
        for (&id, &want) in row.ids.iter().zip(&row.logits) {
            most = most.max(f64::from((want - got[id]).abs()));
            let (p, q) = (f64::from(want) - row.log_sum_exp, f64::from(got[id]) - got_sum);
            kl += p.exp() * (p - q);
            p_others -= p.exp();
            q_others -= q.exp();
        }
        kl += p_others * (p_others / q_others).ln();
        let top = (0..n_vocab).max_by(|a, b| got[*a].total_cmp(&got[*b])).unwrap();
        same_top += f64::from(u8::from(top == row.ids[0]));
    }
    let n = rows.len() as f64;
    let distance = Distance { most, kl: kl / n, same_top: same_top / n };
    println!("{name}: difference {most:.1e}, mean KL {:.1e}, same top {}", distance.kl, distance.same_top);
    distance
}

/// The golden logits are rounded to 1e-5 and the two f32 computations add up in different orders; over 1,100 tokens
/// of other text the whole distribution was at a mean KL of 4e-11, with differences of up to 4e-4.
fn assert_reference(d: &Distance) {
    assert!(d.most < 1e-3, "a logit differs by {:.1e}", d.most);
    assert!(d.kl.abs() < 1e-5, "mean KL {:.1e}", d.kl);
    assert_eq!(d.same_top, 1.0);
}

#[test]
fn reference_device_on_smollm2_q4_1() {
    assert_reference(&distance(&ReferenceDevice::new(0), "smollm2", 64, 64));
}

#[test]
fn reference_device_on_qwen25_q4_k_m() {
    assert_reference(&distance(&ReferenceDevice::new(0), "qwen25", 32, 32));
}

/// 8-bit activations: the peer's own fast path is at a mean KL of 0.003 on SmolLM2 over long texts; 16 positions
/// scatter around that.
fn assert_near(d: &Distance) {
    assert!(d.kl < 6e-3, "mean KL {:.1e}", d.kl);
    assert!(d.same_top >= 0.8, "the same most likely token at {} of the positions", d.same_top);
}

#[test]
fn cpu_device_on_smollm2_q4_1() {
    assert_near(&distance(&CpuDevice::new(2).unwrap(), "smollm2", 64, 64));
}

#[test]
fn cpu_device_on_qwen25_q4_k_m() {
    assert_near(&distance(&CpuDevice::new(2).unwrap(), "qwen25", 64, 64));
}
