//! Pre-norm blocks with norms of q's and k's heads, windows in most layers and mixtures of experts: mellum,
//! maple and exaone-moe.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, decoder, embed, embed_without_nextn};
use super::mixture::{Mixture, Shared};
use super::rope::{Scaling, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};

pub fn mellum(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read(hyper, 4)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = Turns { scaling: Scaling::None, attn_factor: 1.0, ..turns.clone() };
    let [all, near] = [b.rope(turns.table()?), b.rope(near.table()?)];
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let feed = Feed::Mixture(Mixture::required(hyper, Mixture::width(hyper)?)?);
    let end = Head { output: Output::Own, ..Head::of(norm) };
    let ropes = [Some(all), Some(near)];
    decoder(b, hyper, x, Block::pre(norm), end, |layer| (windows.heads(layer, heads, ropes), feed))
}

/// Layers that see all positions do not rotate; experts have bounds on what goes into their units.
pub fn maple(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read_flags(hyper)?.required(hyper)?;
    let near = b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.near(hyper)?.table()?);
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let limits = keys.floats("swiglu_clamp_exp", hyper.n_layer)?;
    let experts = Mixture::required(hyper, keys.dim("expert_feed_forward_length")?)?;
    let experts = Mixture { scales: false, ..experts };
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |layer| {
        let feed = Feed::Mixture(Mixture { limit: limits[layer], ..experts });
        (windows.heads(layer, heads, [None, Some(near)]), feed)
    })
}

/// Layers that see all positions do not rotate.
pub fn exaone_moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (hyper, mut b, x) = embed_without_nextn(hyper, file)?;
    let (hyper, keys) = (&hyper, &hyper.keys);
    let windows = Windows::read(hyper, 4)?.required(hyper)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?.factored(&mut b, hyper, file)?;
    let near = b.rope(turns.table()?);
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let n_ff = keys.dim("expert_feed_forward_length")?;
    let experts = Mixture::required(hyper, n_ff)?.by_keys(hyper, None)?;
    let shared = Shared::of(keys.number_or("expert_shared_feed_forward_length", n_ff)?);
    let experts = Mixture { choice_bias: Presence::Optional, scales: false, shared, ..experts };
    let [dense, experts] = [Feed::Dense(FeedForward::gated(Unary::Silu)), Feed::Mixture(experts)];
    let n_dense = keys.number("leading_dense_block_count")?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| {
        let heads = windows.heads(layer, heads, [None, Some(near)]);
        (heads, if layer < n_dense { dense } else { experts })
    })
}
