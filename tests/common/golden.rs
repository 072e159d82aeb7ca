//! The truth about the real models: llama.cpp's logits with everything in f32 (tests/data/logits, made by make.py
//! there).

use std::path::Path;
use std::sync::Arc;

use super::logits::log_sum_exp;
use super::models;
use rocmforge::gguf::Gguf;

#[derive(serde::Deserialize)]
pub struct Golden {
    model: String,
    /// Forced tokens from position 0 on.
    pub tokens: Vec<u32>,
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

pub struct Distance {
    /// Largest difference between two logits.
    pub most: f64,
    /// KL divergence over the ids kept and one bucket for all others, averaged over positions.
    pub kl: f64,
    /// Share of positions with the same most likely token.
    pub same_top: f64,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/logits/{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    pub fn file(&self) -> Arc<Gguf> {
        Arc::new(Gguf::open(models::path(&self.model)).unwrap())
    }

    /// Positions below `n` that the truth is known of.
    pub fn positions(&self, n: usize) -> Vec<usize> {
        self.rows.iter().map(|row| row.position).filter(|position| *position < n).collect()
    }

    /// Of logits that `of` has for each position in `positions(n)`. Log probabilities are compared: a constant added to
    /// all logits changes nothing.
    pub fn distance<'a>(&self, what: &str, n: usize, of: impl Fn(usize) -> &'a [f32]) -> Distance {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.position < n).collect();
        assert!(rows.len() >= n / 4);
        let (mut most, mut kl, mut same_top) = (0.0f64, 0.0, 0.0);
        for row in &rows {
            let got = of(row.position);
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
            let top = (0..got.len()).max_by(|a, b| got[*a].total_cmp(&got[*b])).unwrap();
            same_top += f64::from(u8::from(top == row.ids[0]));
        }
        let n = rows.len() as f64;
        let distance = Distance { most, kl: kl / n, same_top: same_top / n };
        println!(
            "{what}: difference {most:.1e}, mean KL {:.2e}, same top {}",
            distance.kl, distance.same_top
        );
        distance
    }
}
