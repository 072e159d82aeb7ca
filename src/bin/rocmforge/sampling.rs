//! Flags of the draw and of the generation, and the line that says how one went.

use std::hash::{BuildHasher, Hasher};

use rocmforge::engine::{GenerateParams, Generation, Sampler, SamplerParams, StopReason};

use crate::prompt::EscapeArgs;
use crate::terminal;

#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Temperature; 0 or below: always the most likely token
    #[arg(long, alias = "temperature", default_value_t = 0.8, value_parser = finite)]
    temp: f32,
    /// Keep the k most likely tokens; 0 or below: all
    #[arg(long, default_value_t = 40)]
    top_k: i32,
    /// Keep the fewest tokens whose probability reaches p; 1: all
    #[arg(long, default_value_t = 0.95, value_parser = probability)]
    top_p: f32,
    /// Drop tokens less likely than p times the most likely; 0: none
    #[arg(long, default_value_t = 0.05, value_parser = probability)]
    min_p: f32,
    /// Tokens that the penalties look back over; 0: none, -1: the whole context
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(i64).range(-1..))]
    repeat_last_n: i64,
    /// Penalty on repeated tokens: divides their logits; 1: off
    #[arg(long, default_value_t = 1.0, value_parser = divisor)]
    repeat_penalty: f32,
    /// Penalty per occurrence of a token; 0: off
    #[arg(long, default_value_t = 0.0, value_parser = finite)]
    frequency_penalty: f32,
    /// Penalty on tokens that occurred at all; 0: off
    #[arg(long, default_value_t = 0.0, value_parser = finite)]
    presence_penalty: f32,
    /// Seed of the random draws; -1: a new one each time, which is printed
    #[arg(short, long, default_value_t = -1, value_parser = clap::value_parser!(i64).range(-1..))]
    seed: i64,
}

impl SamplingArgs {
    /// `n_ctx` is what `--repeat-last-n -1` looks back over.
    pub fn sampler(&self, n_ctx: usize) -> rocmforge::Result<Sampler> {
        Sampler::new(SamplerParams {
            temperature: self.temp.max(0.0),
            top_k: u32::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            penalty_last_n: usize::try_from(self.repeat_last_n).unwrap_or(n_ctx),
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: u64::try_from(self.seed).unwrap_or_else(|_| random_seed()),
        })
    }

    /// Says the seed that was drawn, so that the run can be repeated. Greedy choices depend on none.
    pub fn note_seed(&self, sampler: &Sampler) {
        let SamplerParams { seed, temperature, .. } = sampler.params();
        if self.seed < 0 && *temperature > 0.0 {
            terminal::dim_note(format_args!("seed: {seed} (--seed {seed} repeats this run)"));
        }
    }
}

/// 32 bits, so that it is easily typed again.
fn random_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

fn number(text: &str, range: &str, is_within: impl Fn(f32) -> bool) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && is_within(value) => Ok(value),
        _ => Err(format!("must be a number{range}")),
    }
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, "", |_| true)
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, " from 0 to 1", |p| (0.0..=1.0).contains(&p))
}

fn divisor(text: &str) -> Result<f32, String> {
    number(text, " above 0", |value| value > 0.0)
}

#[derive(clap::Args)]
pub struct GenerationArgs {
    /// Most tokens to generate; -1 or -2: until the model ends or the context is full
    #[arg(short = 'n', long = "predict", alias = "n-predict", default_value_t = -1, value_parser = clap::value_parser!(i64).range(-2..))]
    predict: i64,
    /// Text that ends the generation (may be given several times); it is not printed
    #[arg(short, long = "reverse-prompt", value_name = "TEXT", allow_hyphen_values = true)]
    reverse_prompt: Vec<String>,
    /// Go on past the end-of-generation token
    #[arg(long)]
    ignore_eos: bool,
    /// Print control tokens too (-sp)
    #[arg(long)]
    special: bool,
}

impl GenerationArgs {
    pub fn params(&self, escapes: &EscapeArgs) -> GenerateParams {
        GenerateParams {
            max_tokens: usize::try_from(self.predict).ok(),
            stop: self
                .reverse_prompt
                .iter()
                .filter(|s| !s.is_empty())
                .map(|s| escapes.of_argument(s.clone()))
                .collect(),
            ignore_eog: self.ignore_eos,
            special: self.special,
            sequence: 0,
        }
    }
}

/// What a generation did and how fast, on standard error.
pub fn report(generation: &Generation) {
    let g = generation;
    let stop = match g.stop {
        StopReason::Eog => "end of generation",
        StopReason::StopText => "stop text",
        StopReason::Length => "token limit",
        StopReason::CacheFull => "context full (--ctx-size)",
        StopReason::Cancelled => "interrupted",
    };
    // the first token comes out of the prompt's step
    let decoded = g.tokens.len().saturating_sub(1);
    terminal::note(format_args!(
        "prompt: {} tokens, {:.2} s, {:.1} tok/s | decode: {} tokens, {:.2} s, {:.1} tok/s | stop: {stop}{}",
        g.prompt_tokens,
        g.prompt_us as f64 / 1e6,
        terminal::rate(g.prompt_tokens, g.prompt_us),
        g.tokens.len(),
        g.decode_us as f64 / 1e6,
        terminal::rate(decoded, g.decode_us),
        terminal::peak_memory()
            .map(|b| format!(" | peak memory: {}", terminal::bytes(b)))
            .unwrap_or_default(),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_within_bounds() {
        assert_eq!(probability("0.95"), Ok(0.95));
        assert_eq!(finite("-1"), Ok(-1.0));
        assert_eq!(divisor("1.1"), Ok(1.1));
        for bad in ["-0.1", "1.01", "nan", "x", ""] {
            assert!(probability(bad).is_err(), "{bad}");
        }
        for bad in ["nan", "inf", "-inf", "1e39", "warm"] {
            assert!(finite(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "nan"] {
            assert!(divisor(bad).is_err(), "{bad}");
        }
    }
}
