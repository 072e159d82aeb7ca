//! muse-glimmer: norms before and behind both halves of a layer, gated heads with norms, and windows in most layers, which
//! alone rotate.

use super::Model;
use super::attention::{Attention, Gate, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, decoder, embed};
use super::rope::{Scaling, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::{RopePairs, Unary};

/// Under the root of the norms behind a layer's halves.
const EPS_BEHIND: f32 = 1e-8;

pub fn muse_glimmer(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let keys = &hyper.keys;
    let (mut b, embedded) = embed(hyper, file)?;
    let norm = NormOf::rms(hyper)?;
    let x = norm.bare().row(&mut b, "embd_norm", embedded)?;
    let windows = Windows::read(hyper, 4)?.required(hyper)?;
    let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?;
    let near = Turns { scaling: Scaling::None, ..turns.near(hyper)? };
    let rope = b.rope(near.table()?);
    let heads =
        Attention { norm: QkNorm::Heads(norm), gate: Gate::Own(Unary::Sigmoid), ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward::gated(Unary::Silu));
    let block = Block { behind: NormOf { eps: EPS_BEHIND, ..norm }, ..Block::sandwich(norm) };
    let end = Head {
        output: Output::Own,
        scale: keys.float("logit_scale")?,
        cap: keys.float_or("final_logit_softcapping", 30.0)?,
        ..Head::of(norm)
    };
    decoder(b, hyper, x, block, end, |layer| (windows.heads(layer, heads, [None, Some(rope)]), feed))
}
