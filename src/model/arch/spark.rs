//! spark2_5: gated heads, and windows in some layers, which may rotate less of a head and by another base.

use super::Model;
use super::attention::{Attention, Gate, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::{RopePairs, Unary};

pub fn spark2_5(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read_flags(hyper)?.required(hyper)?;
    let all = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = Turns { n_rot: hyper.near_n_rot()?, ..all.near(hyper)? };
    let ropes = [Some(b.rope(all.table()?)), Some(b.rope(near.table()?))];
    let heads = Attention { gate: Gate::OwnOfHeads(Unary::Sigmoid), ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward::gated(Unary::Gelu));
    let norm = NormOf::rms(hyper)?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| (windows.heads(layer, heads, ropes), feed))
}
