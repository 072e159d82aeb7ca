//! gemma3: norms before and behind both halves of a layer, norms of q's and k's heads, and windows in most layers, with
//! rotations of their own.

use super::Model;
use super::blocks::{Attention, FeedForward, Head, NormOf, Windows, attention, feed_forward, head};
use super::rope::{Scaling, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Binary, RopePairs, Scores, Unary};

/// Layers of the model whose scores are divided by the root of a head's share of the embedding.
const LAYERS_OF_27B: usize = 62;

/// x += norm(attention(norm(x))), x += norm(ffn(norm(x)))
pub fn gemma3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let keys = &hyper.keys;
    let mut b = Builder::new(file);
    for name in ["dense_2.weight", "dense_3.weight"] {
        b.ignore(name, "heads of embedding models")?;
    }
    let embedded = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let mut x = b.unary("embd_scale", Unary::Scale((hyper.n_embd as f32).sqrt()), embedded);

    let windows = Windows::read(hyper, 6)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = Turns {
        base: keys.positive_or("rope.freq_base_swa", 10_000.0)?,
        scaling: Scaling::None,
        ..turns.clone()
    };
    let [all, near] = [b.rope(turns.table()?), b.rope(near.table()?)];
    let norm = NormOf::rms(hyper)?;
    let head_dim =
        if hyper.n_layer == LAYERS_OF_27B { hyper.n_embd / hyper.n_head[0].max(1) } else { hyper.k };
    let heads = Attention {
        head_norm: Some(norm),
        scores: Scores::scaled(1.0 / (head_dim as f32).sqrt()),
        ..Attention::of(hyper)
    };
    let unit = FeedForward { f: Unary::Gelu, gated: true, bias: Presence::Never, scales: false };
    for layer in 0..hyper.n_layer {
        let window = windows.of(layer);
        let heads = Attention { window, rope: Some(if window.is_some() { near } else { all }), ..heads };
        x = b.layer(layer, |b| {
            let normed = norm.row(b, "attn_norm", x)?;
            let attended = attention(b, hyper, layer, normed, heads)?;
            let attended = norm.row(b, "post_attention_norm", attended)?;
            let x = b.binary("attn_residual", Binary::Add, x, attended);
            let normed = norm.row(b, "ffn_norm", x)?;
            let fed = feed_forward(b, hyper, layer, normed, unit)?;
            let fed = norm.row(b, "post_ffw_norm", fed)?;
            Ok(b.binary("ffn_residual", Binary::Add, x, fed))
        })?;
    }
    let cap = keys.float_or("final_logit_softcapping", 0.0)?;
    let f = (cap != 0.0).then_some(Unary::SoftCap(cap));
    head(b, hyper, x, Head { norm, tied: true, bias: Presence::Never, f })
}
