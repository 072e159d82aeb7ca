//! Logits of a device, driven without an engine, and how far two rows of logits are apart.

use std::sync::Arc;

use rocmforge::device::{BLOCK_LEN, Cancel, Device, Session, SessionLimits, Step};
use rocmforge::gguf::Gguf;
use rocmforge::model::arch;

/// One sequence on a device, over a cache whose blocks lie in reverse order.
pub struct Sequence {
    session: Box<dyn Session>,
    table: Vec<u32>,
    n_pools: usize,
}

impl Sequence {
    /// Of so many positions, in steps of at most so many tokens.
    pub fn new(device: &dyn Device, file: Arc<Gguf>, n_positions: usize, max_tokens: usize) -> Self {
        let (_, plan) = arch::plan(&file).unwrap();
        let n_pools = plan.pools().len();
        let program = device.load(Arc::new(plan), file, &mut |_, _| true).unwrap();
        let n_blocks = n_positions.div_ceil(BLOCK_LEN);
        let limits =
            SessionLimits { max_tokens, max_outputs: max_tokens, n_blocks, n_sequences: 8, n_states: 0 };
        let session = program.session(limits).unwrap();
        Sequence { session, table: (0..n_blocks as u32).rev().collect(), n_pools }
    }

    /// Logits of each of the tokens, computed in one step, from position `first` on.
    pub fn step(&mut self, first: usize, tokens: &[u32]) -> &[f32] {
        let (first, n) = (first as u32, tokens.len() as u32);
        let step = Step {
            tokens,
            positions: &(first..first + n).collect::<Vec<_>>(),
            sequences: &vec![0; tokens.len()],
            tables: &vec![&self.table[..]; self.n_pools],
            outputs: &(0..n).collect::<Vec<_>>(),
            inputs: &[],
            states: &[],
        };
        self.session.run(&step, &Cancel::default()).unwrap();
        self.session.output(0).unwrap()
    }
}

/// Logits of every position of one sequence (`tokens.len() x n_vocab`), computed `chunk` tokens at a time.
pub fn evaluate(device: &dyn Device, file: Arc<Gguf>, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = Sequence::new(device, file, tokens.len(), chunk);
    let mut logits = Vec::new();
    for (i, tokens) in tokens.chunks(chunk).enumerate() {
        logits.extend_from_slice(sequence.step(i * chunk, tokens));
    }
    logits
}

/// Sum of squared differences over sum of squares. Equal infinities do not differ.
pub fn nmse(want: &[f32], got: &[f32]) -> f64 {
    assert_eq!(want.len(), got.len());
    let square = |x: f64| x * x;
    let pairs = || want.iter().zip(got).filter(|(w, g)| w.is_finite() || w != g);
    let error: f64 = pairs().map(|(w, g)| square(f64::from(*w) - f64::from(*g))).sum();
    error / pairs().map(|(w, _)| square(f64::from(*w))).sum::<f64>().max(f64::MIN_POSITIVE)
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
