//! Pre-norm blocks of grouped-query attention and a gated feed-forward: llama, qwen2 (biases on q, k, v) and qwen3
//! (norms on the heads of q and k).

use super::Model;
use super::blocks::{Attention, FeedForward, Head, NormOf, attention, feed_forward, head};
use super::rope::{self, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Binary, RopePairs, Unary, ValueId};

pub fn llama(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let mut turns = Turns::read(&b, hyper, RopePairs::Consecutive)?;
    turns.factors = rope::factors(file, hyper.n_rot / 2)?;
    b.ignore(rope::FACTORS, "it went into the table of rotations")?;
    let rope = Some(b.rope(turns.table()?));
    let heads = Attention { rope, output_bias: Presence::Optional, ..Attention::of(hyper) };
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Optional, scales: true };
    pre_norm(b, hyper, x, heads, unit, Presence::Never)
}

pub fn qwen2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Never, scales: false };
    pre_norm(b, hyper, x, Attention { rope, ..Attention::of(hyper) }, unit, Presence::Optional)
}

pub fn qwen3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    for name in ["cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"] {
        b.ignore(name, "a reranker's head")?;
    }
    let heads = Attention { rope, head_norm: Some(NormOf::rms(hyper)?), ..Attention::of(hyper) };
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Never, scales: true };
    pre_norm(b, hyper, x, heads, unit, Presence::Never)
}

/// x += attention(norm(x)), x += ffn(norm(x)), with RMS norms.
fn pre_norm(
    mut b: Builder<'_>,
    hyper: &Hyper<'_>,
    mut x: ValueId,
    heads: Attention,
    unit: FeedForward,
    output_bias: Presence,
) -> Result<Model> {
    hyper.without_experts()?;
    let norm = NormOf::rms(hyper)?;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let normed = norm.row(b, "attn_norm", x)?;
            let attended = attention(b, hyper, layer, normed, heads)?;
            let x = b.binary("attn_residual", Binary::Add, x, attended);
            let normed = norm.row(b, "ffn_norm", x)?;
            let fed = feed_forward(b, hyper, layer, normed, unit)?;
            Ok(b.binary("ffn_residual", Binary::Add, x, fed))
        })?;
    }
    head(b, hyper, x, Head { norm, tied: true, bias: output_bias, f: None })
}
