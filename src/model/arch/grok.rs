//! grok: norms before and behind both halves of a layer, capped scores, and a mixture of experts beside a dense
//! feed-forward.

use super::Model;
use super::attention::Attention;
use super::blocks::{Block, DENSE, Feed, Head, NormOf, Norms, Unit, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::{Binary, RopePairs, Scores, Unary};

pub fn grok(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, embedded) = embed(hyper, file)?;
    let scale = keys.float_or("embedding_scale", 78.383_67)?;
    let x = b.unary("embd_scale", Unary::Scale(scale), embedded);
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let heads = Attention {
        rope,
        scores: Scores {
            cap: keys.positive_or("attn_logit_softcapping", 30.0)?,
            // in place of the root of a head's length
            ..Scores::scaled(keys.float_or("attention.output_scale", 0.088_388_35)?)
        },
        ..Attention::of(hyper)
    };
    let beside = Shared::of(hyper.n_ff[0]).map(|shared| Shared {
        names: DENSE,
        sum: std::f32::consts::FRAC_1_SQRT_2,
        ..shared
    });
    let feed = Feed::Mixture(Mixture {
        unit: Unit::Gated(Binary::Glu(Unary::Gelu)),
        scales: false,
        shared: beside.filter(|_| b.has("blk.0.ffn_up.weight")),
        ..Mixture::required(hyper, keys.number_or("expert_feed_forward_length", hyper.n_ff[0])?)?
    });
    let norm = NormOf::rms(hyper)?;
    let behind = if b.has("blk.0.layer_output_norm.weight") { "layer_output_norm" } else { "post_ffw_norm" };
    let norms = Norms {
        attention: [Some("attn_norm"), Some("attn_output_norm")],
        feed: [Some("ffn_norm"), Some(behind)],
    };
    let end = Head {
        scale: keys.float_or("logit_scale", 0.577_350_26)?,
        cap: keys.float_or("final_logit_softcapping", 0.0)?,
        ..Head::of(norm)
    };
    decoder(b, hyper, x, Block { norms, ..Block::pre(norm) }, end, |_| (heads, feed))
}
