//! Pre-norm blocks with mixtures of experts: minimax-m2, with norms of the rows of q and k, and minimax-m3, with norms of
//! their heads, dense layers in front and an expert that every token has.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, Unit, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{Binary, RopePairs, Unary};

pub fn minimax_m2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Row(norm), ..Attention::of(hyper) };
    let experts = Mixture::required(hyper, hyper.n_ff[0])?.gating_by_key(hyper, None)?;
    let feed = Feed::Mixture(Mixture { choice_bias: Presence::Required, scales: false, ..experts });
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |_| (heads, feed))
}

/// Behind its dense layers a token sees the blocks of positions that an indexer chooses. Here it sees all, which is the same
/// where the context has no more blocks than are chosen.
pub fn minimax_m3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, x) = embed(hyper, file)?;
    let chosen =
        keys.dim("attention.indexer.top_k")?.saturating_mul(keys.dim("attention.indexer.block_size")?);
    if chosen < keys.context_length()? {
        tracing::warn!("from position {chosen} on more is attended to than the model's indexer would choose");
    }
    for layer in 0..hyper.n_layer {
        for part in ["q_proj", "k_proj", "q_norm", "k_norm"] {
            b.ignore(&format!("blk.{layer}.indexer.{part}.weight"), "all blocks of positions are chosen")?;
        }
    }
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let n_ff = keys.dim("expert_feed_forward_length")?;
    let experts = Mixture::required(hyper, n_ff)?.by_keys(hyper, None)?;
    let unit = Unit::Gated(Binary::ClampedGlu);
    let shared = Shared::of(n_ff * keys.number("expert_shared_count")?);
    let experts = Mixture { unit, choice_bias: Presence::Required, scales: false, shared, ..experts };
    let dense = Feed::Dense(FeedForward { unit, ..FeedForward::gated(Unary::Silu) });
    let n_dense = keys.number("leading_dense_block_count")?;
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |layer| {
        (heads, if layer < n_dense { dense } else { Feed::Mixture(experts) })
    })
}
