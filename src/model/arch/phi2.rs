//! phi2: attention and feed-forward side by side behind one LayerNorm, with biases throughout.

use super::Model;
use super::blocks::{Attention, FeedForward, Head, NormOf, attention, feed_forward, head};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Binary, RopePairs, Unary};

/// x += attention(n) + ffn(n), n = norm(x)
pub fn phi2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let mut b = Builder::new(file);
    let mut x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let heads = Attention { rope, output_bias: Presence::Required, ..Attention::of(hyper) };
    let unit = FeedForward { f: Unary::Gelu, gated: false, bias: Presence::Required, scales: false };
    let norm = NormOf::layer(hyper)?;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let normed = norm.row(b, "attn_norm", x)?;
            let attended = attention(b, hyper, layer, normed, heads)?;
            let fed = feed_forward(b, hyper, layer, normed, unit)?;
            let both = b.binary("parallel", Binary::Add, attended, fed);
            Ok(b.binary("residual", Binary::Add, x, both))
        })?;
    }
    head(b, hyper, x, Head { norm, tied: false, bias: Presence::Required, f: None })
}
