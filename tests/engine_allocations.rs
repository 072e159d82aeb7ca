//! A token in steady state allocates nothing: not in the engine, not in the CPU device, on no thread.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::sync::atomic::Ordering;

use common::backends::{context, load};
use common::tiny_model::TinyModel;
use counting::ALLOCATIONS;
use rocmforge::device::BLOCK_LEN;
use rocmforge::engine::{Batch, DeviceKind, Sampler, SamplerParams};
use rocmforge::gguf::TensorType;

/// The only test of this file: what other tests allocate meanwhile would count.
#[test]
fn a_token_allocates_nothing() {
    let tiny = TinyModel::new("llama").types(&[TensorType::Q4_K, TensorType::Q6_K]);
    let model = load(DeviceKind::Cpu, 2, &tiny);
    let mut context = context(&model, 4 * BLOCK_LEN, 32, 2);
    let params = SamplerParams {
        top_k: 40,
        repeat_penalty: 1.1,
        penalty_last_n: 16,
        seed: 3,
        ..SamplerParams::default()
    };
    let mut sampler = Sampler::new(params).unwrap();

    let prompt: Vec<u32> = (0..50).collect();
    for sequence in [0, 1] {
        let sequences = vec![sequence; prompt.len()];
        let batch = Batch { tokens: &prompt, positions: None, sequences: Some(&sequences), want: None };
        context.decode(&batch).unwrap();
    }
    let mut token = sampler.sample(context.logits(0).unwrap()).unwrap();
    let mut step = |sequence: u32| {
        let batch = Batch { tokens: &[token], positions: None, sequences: Some(&[sequence]), want: None };
        context.decode(&batch).unwrap();
        token = sampler.sample(context.logits(0).unwrap()).unwrap();
        sampler.accept(token).unwrap();
    };
    step(0);
    step(1);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "the counter counts");
    // far enough to take a new block in each sequence
    for i in 0..40 {
        step(i % 2);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "allocations in 40 tokens");
}
