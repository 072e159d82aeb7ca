//! Kullback-Leibler divergence of a model from stored log-probabilities: the file that
//! `llama-perplexity --kl-divergence-base` writes, and the figures that `--kl-divergence` prints.
//!
//! The file, little-endian: `_logits_`; u32 n_ctx; i32 n_vocab; i32 n_chunk; i32 tokens `[n_chunk][n_ctx]`; then per
//! chunk, for each of the positions `n_ctx/2 .. n_ctx - 1`, a row: f32 scale, f32 min, u16 q `[n_vocab]` (one more
//! if n_vocab is odd). The log-probability of token i is `scale * q[i] + min`; all that lie 16 or more below the most
//! likely one share q = 0.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};

use crate::stats::{Sums, percentile};

/// Log-probabilities of the base at or below this are left out of the sum: they are where the stored range ends.
const LOWEST_LOG_PROB: f64 = -16.0;

pub struct Base {
    file: BufReader<File>,
    name: String,
    pub n_ctx: usize,
    pub n_vocab: usize,
    pub n_chunk: usize,
    /// n_chunk x n_ctx
    pub tokens: Vec<u32>,
}

/// The base's distribution at one position.
pub struct BaseRow {
    scale: f32,
    min: f32,
    q: Vec<u16>,
}

impl BaseRow {
    fn log_prob(&self, i: usize) -> f64 {
        f64::from(self.scale) * f64::from(self.q[i]) + f64::from(self.min)
    }
}

impl Base {
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let len = file.metadata().with_context(|| format!("cannot read {name}"))?.len();
        let mut file = BufReader::new(file);
        let mut header = [0u8; 20];
        let is_whole = file.read_exact(&mut header).is_ok();
        if !is_whole || &header[..8] != b"_logits_" {
            bail!(
                "{name}: not a file of log-probabilities (llama-perplexity --kl-divergence-base writes them)"
            );
        }
        let number = |at: usize| -> Result<usize> {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            match i32::from_le_bytes(bytes) {
                n @ 1.. => Ok(n as usize),
                n => bail!("{name}: {n} at byte {at} where a count is due"),
            }
        };
        let (n_ctx, n_vocab, n_chunk) = (number(8)?, number(12)?, number(16)?);
        let mut base = Base { file, name, n_ctx, n_vocab, n_chunk, tokens: Vec::new() };
        // each factor is below 2^31 and the products of two below 2^62
        let token_bytes = (n_ctx * n_chunk) as u128 * 4;
        let row_bytes = (base.scored() * n_chunk) as u128 * base.row_bytes() as u128;
        if 20 + token_bytes + row_bytes != u128::from(len) {
            bail!(
                "{}: {len} bytes, but {n_chunk} chunks of {n_ctx} tokens over {n_vocab} make {}",
                base.name,
                20 + token_bytes + row_bytes
            );
        }
        let mut bytes = vec![0; n_ctx * n_chunk * 4];
        base.read(&mut bytes)?;
        for b in bytes.chunks_exact(4) {
            let id = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if id as usize >= n_vocab {
                bail!("{}: token {id} of a vocabulary of {n_vocab}", base.name);
            }
            base.tokens.push(id);
        }
        Ok(base)
    }

    /// Rows per chunk: the predictions of the second half.
    pub fn scored(&self) -> usize {
        (self.n_ctx - 1).saturating_sub(self.n_ctx / 2)
    }

    fn row_bytes(&self) -> usize {
        8 + 2 * self.n_vocab.next_multiple_of(2)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).with_context(|| format!("cannot read {}", self.name))
    }

    /// The next position's row.
    pub fn next_row(&mut self) -> Result<BaseRow> {
        let mut bytes = vec![0; self.row_bytes()];
        self.read(&mut bytes)?;
        let float = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (scale, min) = (float(0), float(4));
        if !(scale.is_finite() && min.is_finite()) {
            bail!("{}: a row with scale {scale} and minimum {min}", self.name);
        }
        let q =
            bytes[8..].chunks_exact(2).take(self.n_vocab).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        Ok(BaseRow { scale, min, q })
    }
}

/// ln(sum(exp(logits))) and the index of the largest (the first of equals).
pub fn log_sum_exp(logits: &[f32]) -> (f64, usize) {
    let mut top = 0;
    for (i, &v) in logits.iter().enumerate() {
        if v > logits[top] {
            top = i;
        }
    }
    let max = logits[top];
    let sum: f64 = logits.iter().map(|&v| f64::from((v - max).exp())).sum();
    (f64::from(max) + sum.ln(), top)
}

/// One position compared.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// Divergence of the model from the base, nats.
    kld: f64,
    /// -ln p of the token that came, by the model and by the base.
    nll: f64,
    nll_base: f64,
    same_top: bool,
}

/// Compares the model's logits with the base's row where `token` came next.
pub fn score(logits: &[f32], base: &BaseRow, token: usize) -> Score {
    let (log_z, top) = log_sum_exp(logits);
    let mut kld = 0.0;
    let mut top_base = 0;
    for (i, &logit) in logits.iter().enumerate() {
        let log_base = base.log_prob(i);
        if base.q[i] > base.q[top_base] {
            top_base = i;
        }
        if log_base > LOWEST_LOG_PROB {
            kld += log_base.exp() * (log_base - f64::from(logit) + log_z);
        }
    }
    Score {
        kld,
        nll: log_z - f64::from(logits[token]),
        nll_base: -base.log_prob(token),
        same_top: top == top_base,
    }
}

/// All positions so far.
#[derive(Default)]
pub struct Divergence {
    nll: Sums,
    nll_base: Sums,
    /// Sum of nll * nll_base
    nll_product: f64,
    kld: Sums,
    p_diff: Sums,
    /// Of p_diff squared
    p_diff2: Sums,
    same_top: u64,
    klds: Vec<f64>,
    p_diffs: Vec<f64>,
}

const PERCENTILES: [f64; 11] = [1.0, 0.999, 0.99, 0.95, 0.90, 0.5, 0.10, 0.05, 0.01, 0.001, 0.0];

impl Divergence {
    pub fn add(&mut self, s: Score) {
        self.nll.add(s.nll);
        self.nll_base.add(s.nll_base);
        self.nll_product += s.nll * s.nll_base;
        self.kld.add(s.kld);
        let p_diff = (-s.nll).exp() - (-s.nll_base).exp();
        self.p_diff.add(p_diff);
        self.p_diff2.add(p_diff * p_diff);
        self.same_top += u64::from(s.same_top);
        self.klds.push(s.kld);
        self.p_diffs.push(p_diff);
    }

    pub fn mean_kld(&self) -> f64 {
        self.kld.mean()
    }

    /// Each figure with its standard error where it has one.
    pub fn summary(&self) -> Summary {
        let n = self.kld.count as f64;
        let (ln_ppl, ln_error) = (self.nll.mean(), self.nll.error());
        let (ln_base, ln_base_error) = (self.nll_base.mean(), self.nll_base.error());
        let covariance = match self.kld.count {
            0 | 1 => 0.0,
            _ => (self.nll_product / n - ln_ppl * ln_base) / (n - 1.0),
        };
        let ln_ratio_error =
            (ln_error * ln_error + ln_base_error * ln_base_error - 2.0 * covariance).max(0.0).sqrt();
        let same_top = if n > 0.0 { self.same_top as f64 / n } else { 0.0 };
        let rms = self.p_diff2.mean().sqrt();
        let sorted = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(f64::total_cmp);
            PERCENTILES.map(|p| (p, percentile(&values, p)))
        };
        Summary {
            count: self.kld.count,
            ppl: (ln_ppl.exp(), ln_ppl.exp() * ln_error),
            ppl_base: (ln_base.exp(), ln_base.exp() * ln_base_error),
            ln_ppl_ratio: (ln_ppl - ln_base, ln_ratio_error),
            kld: (self.kld.mean(), self.kld.error()),
            same_top: (same_top, (same_top * (1.0 - same_top) / (n - 1.0).max(1.0)).sqrt()),
            p_diff: (self.p_diff.mean(), self.p_diff.error()),
            p_diff_rms: (rms, if rms > 0.0 { 0.5 / rms * self.p_diff2.error() } else { 0.0 }),
            kld_percentiles: sorted(&self.klds),
            p_diff_percentiles: sorted(&self.p_diffs),
        }
    }
}

/// Pairs are (value, standard error).
pub struct Summary {
    count: u64,
    ppl: (f64, f64),
    ppl_base: (f64, f64),
    ln_ppl_ratio: (f64, f64),
    kld: (f64, f64),
    same_top: (f64, f64),
    p_diff: (f64, f64),
    p_diff_rms: (f64, f64),
    kld_percentiles: [(f64, f64); 11],
    p_diff_percentiles: [(f64, f64); 11],
}

impl Summary {
    pub fn json(&self) -> Json {
        let pair = |(value, error): (f64, f64)| json!({ "value": value, "error": error });
        let percentiles = |list: &[(f64, f64)]| -> Json {
            list.iter().map(|(p, v)| json!({ "percent": (p * 1000.0).round() / 10.0, "value": v })).collect()
        };
        json!({
            "count": self.count,
            "ppl": pair(self.ppl),
            "ppl_base": pair(self.ppl_base),
            "ln_ppl_ratio": pair(self.ln_ppl_ratio),
            "kld": pair(self.kld),
            "kld_percentiles": percentiles(&self.kld_percentiles),
            "p_diff": pair(self.p_diff),
            "p_diff_rms": pair(self.p_diff_rms),
            "p_diff_percentiles": percentiles(&self.p_diff_percentiles),
            "same_top": pair(self.same_top),
        })
    }
}

fn percent_name(p: f64) -> String {
    match p {
        1.0 => "maximum".into(),
        0.5 => "median".into(),
        0.0 => "minimum".into(),
        _ => format!("{:.1}%", 100.0 * p),
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pair = |f: &mut std::fmt::Formatter<'_>, name: &str, (value, error): (f64, f64), unit: &str| {
            writeln!(f, "{name:<24} {value:>12.6} ± {error:>9.6}{unit}")
        };
        let percent = |(value, error): (f64, f64)| (100.0 * value, 100.0 * error);
        writeln!(f, "{:<24} {:>12}", "tokens scored", self.count)?;
        pair(f, "mean PPL", self.ppl, "")?;
        pair(f, "mean PPL of the base", self.ppl_base, "")?;
        pair(f, "mean ln(PPL / PPL base)", self.ln_ppl_ratio, "")?;
        // below 1e-6 for an exact device: more digits than the peer prints
        writeln!(f, "{:<24} {:>12.9} ± {:>9.9}", "mean KLD", self.kld.0, self.kld.1)?;
        for (p, v) in &self.kld_percentiles {
            writeln!(f, "{:<24} {v:>12.9}", format!("{} KLD", percent_name(*p)))?;
        }
        pair(f, "mean Δp", percent(self.p_diff), " %")?;
        for (p, v) in &self.p_diff_percentiles {
            writeln!(f, "{:<24} {:>12.6} %", format!("{} Δp", percent_name(*p)), 100.0 * v)?;
        }
        pair(f, "RMS Δp", percent(self.p_diff_rms), " %")?;
        pair(f, "same top token", percent(self.same_top), " %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that stores `log_probs` (16 wide at most) as well as 16 bits can.
    fn row(log_probs: &[f32]) -> BaseRow {
        let max = log_probs.iter().copied().fold(f32::MIN, f32::max);
        let min = log_probs.iter().copied().fold(f32::MAX, f32::min).max(max - 16.0);
        let scale = (max - min) / 65535.0;
        let q = log_probs.iter().map(|v| ((v - min).max(0.0) / scale).round() as u16).collect();
        BaseRow { scale, min, q }
    }

    #[test]
    fn log_sum_exp_of_large_logits() {
        let (z, top) = log_sum_exp(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(top, 0);
        assert!((z - (1000.0 + 2f64.ln())).abs() < 1e-9);
    }

    #[test]
    fn divergence_of_two_known_distributions() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL(p||q) = 1/2 ln 2 - 1/4 ln 2
        let base = row(&[0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()]);
        let logits = [0.25f32.ln() + 3.0, 0.25f32.ln() + 3.0, 0.5f32.ln() + 3.0];
        let s = score(&logits, &base, 2);
        assert!((s.kld - 0.25 * 2f64.ln()).abs() < 1e-6, "{}", s.kld);
        assert!((s.nll - 2f64.ln()).abs() < 1e-6);
        assert!((s.nll_base - 4f64.ln()).abs() < 1e-4);
        assert!(!s.same_top);
    }

    #[test]
    fn no_divergence_from_oneself() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let (z, _) = log_sum_exp(&logits);
        let log_probs: Vec<f32> = logits.iter().map(|v| v - z as f32).collect();
        let s = score(&logits, &row(&log_probs), 3);
        // half a step of the 16 bits is 1e-4 and averages out; the f32 scale is good to 1e-6 at the top
        assert!(s.kld.abs() < 5e-6, "{}", s.kld);
        assert!(s.same_top);
    }
}
