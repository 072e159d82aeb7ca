//! gemma3: norms before and behind both halves of a layer, norms of q's and k's heads, and windows in most layers, with
//! rotations of their own.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed};
use super::rope::{Scaling, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::{RopePairs, Scores, Unary};

/// Layers of the model whose scores are divided by the root of a head's share of the embedding.
const LAYERS_OF_27B: usize = 62;

pub fn gemma3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let keys = &hyper.keys;
    let (mut b, embedded) = embed(hyper, file)?;
    for name in ["dense_2.weight", "dense_3.weight"] {
        b.ignore(name, "heads of embedding models")?;
    }
    let x = b.unary("embd_scale", Unary::Scale((hyper.n_embd as f32).sqrt()), embedded);

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
    let scores = Scores::scaled(1.0 / (head_dim as f32).sqrt());
    let heads = Attention { norm: QkNorm::Heads(norm), scores, ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward::gated(Unary::Gelu));
    let end = Head { cap: keys.float_or("final_logit_softcapping", 0.0)?, ..Head::of(norm) };
    decoder(b, hyper, x, Block::sandwich(norm), end, |layer| {
        let window = windows.of(layer);
        (Attention { window, rope: Some(if window.is_some() { near } else { all }), ..heads }, feed)
    })
}
