//! Pre-norm blocks of grouped-query attention and a gated feed-forward or a mixture of them: llama, mistral3 (queries that
//! grow with the position), qwen2 (biases on q, k, v), qwen3 and qwen3moe (norms on the heads of q and k).

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed};
use super::mixture::Mixture;
use super::rope::{Scaling, Turns, original_context, yarn_magnitude};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{RopePairs, Unary, ValueId};

pub fn llama(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (b, x) = embed(hyper, file)?;
    let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?;
    layers((b, x), hyper, file, turns, None)
}

pub fn mistral3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (b, x) = embed(hyper, file)?;
    let mut turns = Turns::read(&b, hyper, RopePairs::Consecutive)?;
    if let Scaling::Yarn { factor, beta_fast, beta_slow, .. } = &mut turns.scaling {
        *beta_fast = keys.positive_or("rope.scaling.yarn_beta_fast", *beta_fast)?;
        *beta_slow = keys.positive_or("rope.scaling.yarn_beta_slow", *beta_slow)?;
        let multiplier = f64::from(keys.float_or("rope.scaling.yarn_log_multiplier", 0.0)?);
        turns.yarn_magnitude = Some(yarn_magnitude(*factor, 1.0) / yarn_magnitude(*factor, multiplier));
    }
    let temper = match keys.float_or("attention.temperature_scale", 0.0)? {
        0.0 => None,
        scale => Some((scale, original_context(keys)?)),
    };
    layers((b, x), hyper, file, turns, temper)
}

fn layers(
    (mut b, x): (Builder<'_>, ValueId),
    hyper: &Hyper<'_>,
    file: &Gguf,
    turns: Turns,
    temper: Option<(f32, usize)>,
) -> Result<Model> {
    let turns = turns.factored(&mut b, hyper, file)?;
    let rope = Some(b.rope(turns.table()?));
    let heads = Attention { rope, temper, output_bias: Presence::Optional, ..Attention::of(hyper) };
    let dense = FeedForward { bias: Presence::Optional, scales: true, ..FeedForward::gated(Unary::Silu) };
    let feed = Mixture::read(hyper, hyper.n_ff[0])?.map_or(Feed::Dense(dense), Feed::Mixture);
    let norm = NormOf::rms(hyper)?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |_| (heads, feed))
}

pub fn qwen2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let heads = Attention { rope, ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward::gated(Unary::Silu));
    let norm = NormOf::rms(hyper)?;
    let end = Head { bias: Presence::Optional, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |_| (heads, feed))
}

pub fn qwen3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let dense = FeedForward { scales: true, ..FeedForward::gated(Unary::Silu) };
    let rerankers = ["cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"];
    head_norms(hyper, file, &rerankers, Feed::Dense(dense))
}

pub fn qwen3moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    head_norms(hyper, file, &[], Feed::Mixture(Mixture::required(hyper, Mixture::width(hyper)?)?))
}

fn head_norms(hyper: &Hyper<'_>, file: &Gguf, rerankers: &[&str], feed: Feed) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    for name in rerankers {
        b.ignore(name, "a reranker's head")?;
    }
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |_| (heads, feed))
}
