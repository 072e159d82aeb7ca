//! Pre-norm blocks with norms of q's and k's heads and a mixture of experts beside one that every token has: hunyuan-moe,
//! and its successor hy_v3, which may have dense layers.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::mixtures_where_routed;
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed, embed_without_nextn};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{Gating, RopePairs, Unary};

pub fn hunyuan_moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::HeadsBehindRope(norm), ..Attention::of(hyper) };
    let n_ff = hyper.n_ff[0];
    let shared = Shared::of(hyper.keys.number_or("expert_shared_feed_forward_length", n_ff)?);
    let feed = Feed::Mixture(Mixture { scales: false, shared, ..Mixture::required(hyper, n_ff)? });
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |_| (heads, feed))
}

pub fn hy_v3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (hyper, mut b, x) = embed_without_nextn(hyper, file)?;
    let (hyper, keys) = (&hyper, &hyper.keys);
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let n_ff = keys.dim("expert_feed_forward_length")?;
    let shared = Shared::of(keys.number_or("expert_shared_feed_forward_length", n_ff)?);
    let experts = Mixture::required(hyper, n_ff)?.by_keys(hyper, Some(Gating::Sigmoid))?;
    let experts = Mixture { choice_bias: Presence::Optional, merged: true, shared, ..experts };
    let dense = FeedForward { scales: true, ..FeedForward::gated(Unary::Silu) };
    let feeds = mixtures_where_routed(&mut b, hyper, dense, experts)?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| (heads, feeds[layer]))
}
