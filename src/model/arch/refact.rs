//! refact: pre-norm blocks whose scores fall with the distance.

use super::Model;
use super::attention::{Attention, attention};
use super::blocks::{Block, FeedForward, Head, NormOf, embed, feed_forward, head};
use super::rope;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Scores, Unary, ValueId};

/// llama.cpp reads experts and computes the activation of a feed-forward alone in their place; so does this.
pub fn refact(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, mut x) = embed(hyper, file)?;
    b.ignore(rope::FACTORS, "nothing rotates")?;
    let norm = NormOf::rms(hyper)?;
    let heads = Attention::of(hyper);
    let scores = Scores { alibi: 8.0, ..heads.scores };
    let heads = Attention { output_bias: Presence::Unused, scores, ..heads };
    let dense = FeedForward { bias: Presence::Unused, ..FeedForward::gated(Unary::Silu) };
    let has_experts = hyper.keys.number("expert_count")? > 0;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, x| attention(b, hyper, layer, x, heads);
            Block::pre(norm).over(b, x, attend, |b, x| match has_experts {
                true => activation(b, x),
                false => feed_forward(b, hyper, layer, x, dense),
            })
        })?;
    }
    head(b, hyper, x, Head::of(norm))
}

fn activation(b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
    b.ignore("ffn_gate_inp.weight", "nothing is routed")?;
    for name in ["ffn_gate", "ffn_up", "ffn_down"] {
        for part in ["exps.weight", "exps.scale", "shexp.weight", "shexp.scale"] {
            b.ignore(&format!("{name}_{part}"), "experts are not computed")?;
        }
    }
    Ok(b.unary("ffn_act", Unary::Silu, x))
}
