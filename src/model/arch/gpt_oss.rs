//! gpt-oss: attention with sinks and windows in every other layer, and a mixture of experts with biases throughout.

use super::Model;
use super::blocks::{Attention, Head, Mixture, NormOf, Windows, attention, head, mixture};
use super::rope::Turns;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Binary, Gating, RopePairs, Routing};
use crate::{Error, Result};

/// x += attention(norm(x)), x += mixture(norm(x))
pub fn gpt_oss(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    // a head is as long as what rotates of it, whatever the file says of keys and values
    let hyper = &Hyper { k: hyper.n_rot, v: hyper.n_rot, ..hyper.clone() };
    let mut b = Builder::new(file);
    let mut x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let windows = Windows::read(hyper, 2)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = Turns { base: keys.positive_or("rope.freq_base_swa", turns.base)?, ..turns.clone() };
    let [all, near] = [b.rope(turns.table()?), b.rope(near.table()?)];
    let norm = NormOf::rms(hyper)?;
    let heads =
        Attention { output_bias: Presence::Required, sinks: Presence::Required, ..Attention::of(hyper) };
    let experts = Mixture::read(hyper, keys.dim("expert_feed_forward_length")?)?;
    let experts = experts.ok_or_else(|| Error::model(format!("{} is 0", keys.key("expert_count"))))?;
    let routing = Routing { gating: Gating::SoftmaxOfChosen, least_sum: 0.0, ..experts.routing };
    let experts =
        Mixture { routing, f: Binary::ClampedGlu, bias: Presence::Required, scales: false, ..experts };
    for layer in 0..hyper.n_layer {
        let window = windows.of(layer);
        let heads = Attention { window, rope: Some(if window.is_some() { near } else { all }), ..heads };
        x = b.layer(layer, |b| {
            let normed = norm.row(b, "attn_norm", x)?;
            let attended = attention(b, hyper, layer, normed, heads)?;
            let x = b.binary("attn_residual", Binary::Add, x, attended);
            let normed = norm.row(b, "post_attention_norm", x)?;
            let fed = mixture(b, hyper, normed, experts)?;
            Ok(b.binary("ffn_residual", Binary::Add, x, fed))
        })?;
    }
    head(b, hyper, x, Head { norm, tied: false, bias: Presence::Never, f: None })
}
