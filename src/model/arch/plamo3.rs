//! plamo3: norms before and behind both halves of a layer, norms of q's and k's heads, and windows in most layers, with
//! rotations of their own.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, UnitGate, decoder, embed};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};

pub fn plamo3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read(hyper, 8)?;
    let all = Turns::read(&b, hyper, RopePairs::Halves)?;
    let ropes = [Some(b.rope(all.table()?)), Some(b.rope(all.near_unscaled(hyper)?.table()?))];
    let norm = NormOf::rms(hyper)?;
    let heads =
        Attention { bias: Presence::Never, scales: false, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward { gate: UnitGate::InUp, ..FeedForward::gated(Unary::Silu) });
    decoder(b, hyper, x, Block::sandwich(norm), Head::of(norm), |layer| {
        (windows.heads(layer, heads, ropes), feed)
    })
}
