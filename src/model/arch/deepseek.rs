//! Pre-norm blocks, the first of them dense, the others with a mixture of experts beside one that every token has:
//! deepseek, dots1, bailingmoe, bailingmoe2, glm4moe and ernie4_5-moe.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, decoder, embed, embed_without_nextn};
use super::mixture::{Mixture, Shared};
use super::rope::{Sections, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{Gating, RopePairs, Unary};

pub fn deepseek(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?));
    let heads = Attention { rope, ..Attention::of(hyper) };
    let experts = experts(hyper, width(hyper)?)?.without_norm().scale_by_key(hyper)?;
    let feed = behind_dense(hyper, experts)?;
    let norm = NormOf::rms(hyper)?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| (heads, feed(layer)))
}

pub fn dots1(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let experts =
        Mixture { choice_bias: Presence::Optional, ..experts(hyper, width(hyper)?)?.by_keys(hyper, None)? };
    let feed = behind_dense(hyper, experts)?;
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |layer| (heads, feed(layer)))
}

pub fn bailingmoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    // a head is as long as what rotates of it
    let hyper = &Hyper { k: hyper.n_rot, v: hyper.n_rot, ..hyper.clone() };
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?));
    let heads = Attention { rope, ..Attention::of(hyper) };
    let feed = Feed::Mixture(experts(hyper, width(hyper)?)?.norm_by_key(hyper)?.scale_by_key(hyper)?);
    let norm = NormOf::rms(hyper)?;
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |_| (heads, feed))
}

pub fn bailingmoe2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (hyper, mut b, x) = embed_without_nextn(hyper, file)?;
    let (hyper, keys) = (&hyper, &hyper.keys);
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, bias: Presence::Never, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let experts = experts(hyper, width(hyper)?)?.by_keys(hyper, None)?;
    let width = keys.number_or("expert_shared_feed_forward_length", experts.n_ff)?;
    let shared = Shared::of(width * keys.number("expert_shared_count")?);
    let feed = behind_dense(hyper, Mixture { choice_bias: Presence::Optional, shared, ..experts })?;
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |layer| (heads, feed(layer)))
}

pub fn glm4moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (hyper, mut b, x) = embed_without_nextn(hyper, file)?;
    let hyper = &hyper;
    let sections = Sections::find(&hyper.keys)?;
    let turns = Turns { sections, ..Turns::read(&b, hyper, RopePairs::Halves)? };
    let rope = Some(b.rope(turns.table()?));
    let norm = NormOf::rms(hyper)?;
    let norm_of_heads = if b.has("blk.0.attn_q_norm.weight") { QkNorm::Heads(norm) } else { QkNorm::None };
    let heads = Attention { rope, norm: norm_of_heads, ..Attention::of(hyper) };
    let experts = experts(hyper, Mixture::width(hyper)?)?.by_keys(hyper, Some(Gating::Sigmoid))?;
    let feed = behind_dense(hyper, Mixture { choice_bias: Presence::Required, ..experts })?;
    let block = Block::pre(norm).feed_norm("post_attention_norm");
    decoder(b, hyper, x, block, Head::of(norm), |layer| (heads, feed(layer)))
}

pub fn ernie4_5_moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?));
    let heads = Attention { rope, output_bias: Presence::Unused, ..Attention::of(hyper) };
    let shared = Shared::of(keys.number("expert_shared_feed_forward_length")?);
    let experts = Mixture { choice_bias: Presence::Optional, shared, ..experts(hyper, width(hyper)?)? };
    let (n_dense, step) = (keys.number("leading_dense_block_count")?, keys.dim("interleave_moe_layer_step")?);
    let [dense, experts] = [dense(), Feed::Mixture(experts)];
    let norm = NormOf::rms(hyper)?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| {
        (heads, if layer >= n_dense && (layer + 1).is_multiple_of(step) { experts } else { dense })
    })
}

fn width(hyper: &Hyper<'_>) -> Result<usize> {
    hyper.keys.dim("expert_feed_forward_length")
}

/// Experts of `n_ff` elements beside `expert_shared_count` of them that every token has.
fn experts(hyper: &Hyper<'_>, n_ff: usize) -> Result<Mixture> {
    let shared = Shared::of(n_ff * hyper.keys.number("expert_shared_count")?);
    Ok(Mixture { scales: false, shared, ..Mixture::required(hyper, n_ff)? })
}

/// The experts of all layers but the first, `leading_dense_block_count` of them.
fn behind_dense(hyper: &Hyper<'_>, experts: Mixture) -> Result<impl Fn(usize) -> Feed + use<>> {
    let n_dense = hyper.keys.number("leading_dense_block_count")?;
    Ok(move |layer| if layer < n_dense { dense() } else { Feed::Mixture(experts) })
}

fn dense() -> Feed {
    Feed::Dense(FeedForward::gated(Unary::Silu))
}
