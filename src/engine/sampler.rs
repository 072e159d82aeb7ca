//! From logits to a token: penalties, temperature, top-k, top-p, min-p, and a seeded draw.

use crate::Result;

#[derive(Clone, Debug)]
pub struct SamplerParams {
    /// 0 (or below): greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0: all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches p; 1: all.
    pub top_p: f32,
    /// Drop tokens less likely than min_p times the most likely; 0: none.
    pub min_p: f32,
    /// Last tokens the penalties look at; 0: none.
    pub penalty_last_n: usize,
    /// Divides positive, multiplies negative logits of seen tokens; 1: off.
    pub repeat_penalty: f32,
    /// Subtracted once per occurrence; 0: off.
    pub frequency_penalty: f32,
    /// Subtracted once if seen at all; 0: off.
    pub presence_penalty: f32,
    /// Same seed, same logits: same tokens.
    pub seed: u64,
}

/// One stream's sampling state. One thread at a time.
#[derive(Clone, Debug)]
pub struct Sampler {}

impl Sampler {
    /// Out-of-range parameters (NaN, top_p outside 0..=1, ...) are Error::Param.
    pub fn new(_params: SamplerParams) -> Result<Self> {
        todo!()
    }
    pub fn params(&self) -> &SamplerParams {
        todo!()
    }
    /// Chooses a token; does not remember it (see `accept`). NaN logits are an error.
    pub fn sample(&mut self, _logits: &[f32]) -> Result<u32> {
        todo!()
    }
    /// Remembers a token for the penalties (prompt tokens too, if they shall count).
    pub fn accept(&mut self, _token: u32) {
        todo!()
    }
    /// Forgets accepted tokens and starts the seed's sequence anew.
    pub fn reset(&mut self) {
        todo!()
    }
}
