//! gpt-oss: attention with sinks and windows in every other layer, and a mixture of experts with biases throughout.

use super::Model;
use super::attention::{Attention, Windows};
use super::blocks::{Block, Feed, Head, NormOf, Output, Unit, decoder, embed};
use super::mixture::Mixture;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{Binary, Gating, RopePairs, Routing};

pub fn gpt_oss(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    // a head is as long as what rotates of it, whatever the file says of keys and values
    let hyper = &Hyper { k: hyper.n_rot, v: hyper.n_rot, ..hyper.clone() };
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read(hyper, 2)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let ropes = [Some(b.rope(turns.table()?)), Some(b.rope(turns.near(hyper)?.table()?))];
    let norm = NormOf::rms(hyper)?;
    let heads =
        Attention { output_bias: Presence::Required, sinks: Presence::Required, ..Attention::of(hyper) };
    let experts = Mixture::required(hyper, keys.dim("expert_feed_forward_length")?)?;
    let routing = Routing { gating: Gating::SoftmaxOfChosen, least_sum: 0.0, ..experts.routing };
    let unit = Unit::Gated(Binary::ClampedGlu);
    let feed = Feed::Mixture(Mixture { routing, unit, bias: Presence::Required, scales: false, ..experts });
    let block = Block::pre(norm).feed_norm("post_attention_norm");
    decoder(b, hyper, x, block, Head { output: Output::Own, ..Head::of(norm) }, |layer| {
        (windows.heads(layer, heads, ropes), feed)
    })
}
