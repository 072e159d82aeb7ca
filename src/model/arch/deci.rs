//! deci: llama's layers as a search left them: some without attention, with a product in place of it, or left out.

use super::Model;
use super::attention::attention;
use super::blocks::{feed_forward, head};
use super::plain::Plain;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Presence};
use crate::plan::{Binary, RopePairs};

pub fn deci(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let turns = |b: &mut Builder<'_>| Turns::read(b, hyper, RopePairs::Consecutive)?.factored(b, hyper, file);
    let Plain { mut b, mut x, norm, mut heads, mut feed, end, .. } = Plain::turned(hyper, file, turns)?;
    heads.output_bias = Presence::Optional;
    feed.bias = Presence::Optional;
    let product = Linear { bias: Presence::Unused, ..Linear::default() };
    for layer in 0..hyper.n_layer {
        if hyper.n_ff[layer] == 0 {
            b.ignore_layers(layer..layer + 1, "a layer without a feed-forward is none")?;
            continue;
        }
        x = b.layer(layer, |b| {
            let mut x = x;
            if hyper.n_head[layer] == 0 {
                b.ignore("attn_output.bias", "there is no attention")?;
            } else {
                let normed = norm.row(b, "attn_norm", x)?;
                let attended = match hyper.n_head_kv[layer] {
                    0 => b.linear("attn_output", normed, hyper.n_embd, product)?,
                    _ => attention(b, hyper, layer, normed, heads)?,
                };
                x = b.binary("attn_residual", Binary::Add, x, attended);
            }
            let normed = norm.row(b, "ffn_norm", x)?;
            let fed = feed_forward(b, hyper, layer, normed, feed)?;
            Ok(b.binary("ffn_residual", Binary::Add, x, fed))
        })?;
    }
    head(b, hyper, x, end)
}
