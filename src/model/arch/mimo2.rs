//! mimo2: pre-norm blocks with windows and rotations of their own in some layers, sinks, and dense layers among mixtures of
//! experts.

use super::Model;
use super::attention::{Attention, Windows, attention};
use super::blocks::mixtures_where_routed;
use super::blocks::{Block, FeedForward, Head, NormOf, Output, embed_without_nextn, head};
use super::mixture::Mixture;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Gating, RopePairs, Routing, Unary};

pub fn mimo2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (hyper, mut b, mut x) = embed_without_nextn(hyper, file)?;
    let (hyper, keys) = (&hyper, &hyper.keys);
    let windows = Windows::read_flags(hyper)?.required(hyper)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let ropes = [turns.table()?, turns.near_unscaled(hyper)?.table()?].map(|table| Some(b.rope(table)));
    let heads = Attention {
        bias: Presence::Unused,
        scales: false,
        sinks: Presence::Optional,
        ..Attention::of(hyper)
    };
    let experts = Mixture::required(hyper, keys.dim("expert_feed_forward_length")?)?;
    let routing = Routing { gating: Gating::Sigmoid, ..experts.routing };
    let experts = Mixture { routing, choice_bias: Presence::Optional, scales: false, ..experts };
    let feeds = mixtures_where_routed(&mut b, hyper, FeedForward::gated(Unary::Silu), experts)?;
    let norm = NormOf::rms(hyper)?;
    let scale = match keys.float_or("attention.value_scale", 0.0)? {
        0.0 => 1.0,
        scale => scale,
    };
    for layer in 0..hyper.n_layer {
        let heads = windows.heads(layer, heads, ropes);
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, n| {
                let attended = attention(b, hyper, layer, n, heads)?;
                Ok(if scale == 1.0 { attended } else { b.unary("attn_scale", Unary::Scale(scale), attended) })
            };
            Block::pre(norm).over(b, x, attend, |b, n| feeds[layer].over(b, hyper, layer, n))
        })?;
    }
    head(b, hyper, x, Head { output: Output::Own, ..Head::of(norm) })
}
