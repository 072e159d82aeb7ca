//! Logits of a device, driven without an engine, and how far two rows of logits are apart.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rocmforge::device::{BLOCK_LEN, Device, SessionLimits, Step};
use rocmforge::gguf::Gguf;
use rocmforge::model::arch;

/// Logits of every position of one sequence (`tokens.len() x n_vocab`), computed `chunk` tokens at a time over a
/// cache whose blocks lie in reverse order.
pub fn evaluate(device: &dyn Device, file: Arc<Gguf>, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let (_, plan) = arch::plan(&file).unwrap();
    let program = device.load(Arc::new(plan), file, &mut |_, _| true).unwrap();
    let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
    let limits = SessionLimits { max_tokens: chunk, max_outputs: chunk, n_blocks };
    let mut session = program.session(limits).unwrap();
    let table: Vec<u32> = (0..n_blocks as u32).rev().collect();
    let mut logits = Vec::new();
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        let n = tokens.len() as u32;
        let first = (i * chunk) as u32;
        let step = Step {
            tokens,
            positions: &(first..first + n).collect::<Vec<_>>(),
            sequences: &vec![0; tokens.len()],
            tables: &[&table],
            outputs: &(0..n).collect::<Vec<_>>(),
            input: &[],
        };
        session.run(&step, &AtomicBool::new(false)).unwrap();
        logits.extend_from_slice(session.output().unwrap());
    }
    logits
}

/// ln(sum(exp(x)))
pub fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + x.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

/// KL divergence of the distribution that `got` gives from that of `want`, in nats.
pub fn kl_divergence(want: &[f32], got: &[f32]) -> f64 {
    let (want_sum, got_sum) = (log_sum_exp(want), log_sum_exp(got));
    let terms = want.iter().zip(got).map(|(want, got)| {
        let (p, q) = (f64::from(*want) - want_sum, f64::from(*got) - got_sum);
        p.exp() * (p - q)
    });
    terms.sum()
}
