//! The two real models on the emulated gfx1100.
#![cfg(feature = "hip")]

use crate::common;

use std::ops::ControlFlow;
use std::time::Instant;

use common::emulated::on_emulator;
use common::golden::Golden;
use common::logits::{Sequence, evaluate, kl_divergence};
use common::models;
use rocmforge::device::DeviceChoice;
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::hip::device::HipDevice;
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::engine::{
    Backend, BackendParams, Context, ContextParams, DeviceKind, GenerateParams, Model, ModelParams, Sampler,
    SamplerParams, generate,
};

const CARD: [(&str, &str); 1] = [("CARD", "gfx1100")];

fn device() -> HipDevice {
    HipDevice::open(&DeviceChoice::Best).unwrap()
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// Most likely token, and by how much its logit is above the next one's.
fn top(logits: &[f32]) -> (usize, f32) {
    let top = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    let others = logits.iter().enumerate().filter(|(id, _)| *id != top);
    (top, logits[top] - others.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max))
}

/// A prompt in one step, and then single tokens behind what that left in the cache.
#[test]
fn smollm2_is_as_near_the_truth_as_the_cpu() {
    on_emulator("smollm2_is_as_near_the_truth_as_the_cpu", &CARD, || {
        let golden = Golden::open("smollm2");
        let tokens = &golden.tokens[..];
        let n = tokens.len();
        let cpu = evaluate(&CpuDevice::new(2).unwrap(), golden.file(), tokens, n);
        let n_vocab = cpu.len() / n;
        let row = |position: usize| position * n_vocab..(position + 1) * n_vocab;
        let cpu = golden.distance("CPU", n, |position| &cpu[row(position)]);

        let device = device();
        let mut sequence = timed("load", || Sequence::new(&device, golden.file(), n, n));
        let prompt = timed("a step of many tokens", || sequence.step(0, tokens).to_vec());
        let many = golden.distance("many tokens", n, |position| &prompt[row(position)]);
        let mut single = vec![0f32; n * n_vocab];
        timed("steps of one token", || {
            for position in golden.positions(n) {
                single[row(position)].copy_from_slice(sequence.step(position, &tokens[position..][..1]));
            }
        });
        let one = golden.distance("one token", n, |position| &single[row(position)]);
        for (what, d) in [("many tokens", many), ("one token", one)] {
            assert!(d.kl <= 1.05 * cpu.kl, "{what}: mean KL {:.2e}, the CPU's {:.2e}", d.kl, cpu.kl);
        }
    });
}

#[test]
fn smollm2_generates() {
    on_emulator("smollm2_generates", &CARD, || {
        let params = BackendParams { device: DeviceKind::Hip, ..BackendParams::default() };
        let backend = Backend::new(&params).unwrap();
        let model = Model::load(&backend, models::path(models::SMOLLM2), ModelParams::default()).unwrap();
        let mut context = Context::new(
            &model,
            &ContextParams { n_ctx: 64, n_batch: 16, n_seq_max: 1, checkpoint_interval: 0 },
        )
        .unwrap();
        let greedy = SamplerParams { temperature: 0.0, ..SamplerParams::default() };
        let mut sampler = Sampler::new(greedy).unwrap();
        let prompt = model.vocab().tokenize("The capital of France is", true, true).unwrap();
        let params = GenerateParams { max_tokens: Some(8), ignore_eog: true, ..GenerateParams::default() };
        let generation = timed("5 tokens and 8 more", || {
            generate(&mut context, &mut sampler, &prompt, &params, &mut |_| ControlFlow::Continue(()))
                .unwrap()
        });
        println!("{:?}", generation.text);
        assert_eq!(generation.tokens.len(), 8);
        let last = context.logits(context.n_logits() - 1).unwrap();
        assert!(last.iter().all(|logit| logit.is_finite()));

        // each token is the most likely one in truth, or as good as that
        let tokens = [&prompt[..], &generation.tokens].concat();
        let truth = evaluate(&ReferenceDevice::new(0), model.file().clone(), &tokens, tokens.len());
        let n_vocab = last.len();
        for (i, token) in generation.tokens.iter().enumerate() {
            let logits = &truth[(prompt.len() + i - 1) * n_vocab..][..n_vocab];
            let (best, _) = top(logits);
            let behind = logits[best] - logits[*token as usize];
            println!("token {token}: {behind:.2} behind the most likely");
            assert!(behind < CLEAR, "token {i} is {token}, {behind:.2} behind {best}");
        }
    });
}

/// Between two logits, where rounding activations to 8 bits shall not change their order: the largest error of one
/// logit that the first test sees is 0.5.
const CLEAR: f32 = 0.5;

/// At one position. Over many, 8-bit activations are at a mean of 3e-3 (tests/model/logits.rs has the bound), with
/// single ones several times that.
const MAX_KL: f64 = 2e-2;

/// A file of five types: Q4_K, Q6_K, Q5_0, Q8_0 and F32.
#[test]
fn qwen25_follows_the_reference() {
    on_emulator("qwen25_follows_the_reference", &CARD, || {
        let golden = Golden::open("qwen25");
        let prompt = 785; // "The", the golden text's first token
        assert_eq!(golden.tokens[0], prompt);
        let device = device();
        let mut gpu = timed("load", || Sequence::new(&device, golden.file(), 4, 1));
        let mut truth = Sequence::new(&ReferenceDevice::new(0), golden.file(), 4, 1);
        let mut token = prompt;
        for position in 0..4 {
            let want = timed("reference", || truth.step(position, &[token]).to_vec());
            let got = timed("a step of one token", || gpu.step(position, &[token]).to_vec());
            assert!(got.iter().all(|logit| logit.is_finite()));
            let kl = kl_divergence(&want, &got);
            let ((best, margin), (chosen, _)) = (top(&want), top(&got));
            println!("position {position}: KL {kl:.2e}; {best} by {margin:.2}, here {chosen}");
            assert!(kl < MAX_KL, "position {position}: KL {kl:.2e}");
            assert!(best == chosen || margin < CLEAR, "{chosen} for {best}, which is ahead by {margin:.2}");
            token = best as u32;
        }
    });
}
