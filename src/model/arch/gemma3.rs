//! gemma2 and gemma3: norms before and behind both halves of a layer, and windows in some layers, with rotations of their
//! own. gemma2 caps scores; gemma3 has norms of q's and k's heads.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, decoder, embed};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Builder;
use crate::plan::{RopePairs, Scores, Unary, ValueId};

/// Layers of the models of 27 billion parameters, whose scores are divided by the root of a head's share of the embedding.
const GEMMA2_27B: usize = 46;
const GEMMA3_27B: usize = 62;

pub fn gemma2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (b, x) = embed(hyper, file)?;
    let windows = Windows::read_or(hyper, 4096, 2)?;
    let all = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = all.near(hyper)?;
    let cap = keys.float_or("attn_logit_softcapping", 50.0)?;
    let heads = Attention { scores: Scores { cap, ..scores(hyper, GEMMA2_27B) }, ..Attention::of(hyper) };
    let end = Head {
        output: Output::Embedding,
        cap: keys.float_or("final_logit_softcapping", 30.0)?,
        ..Head::of(NormOf::rms(hyper)?)
    };
    layers(b, hyper, x, windows, [all, near], heads, end)
}

pub fn gemma3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, x) = embed(hyper, file)?;
    for name in ["dense_2.weight", "dense_3.weight"] {
        b.ignore(name, "heads of embedding models")?;
    }
    let windows = Windows::read(hyper, 6)?;
    let all = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = all.near_unscaled(hyper)?;
    let norm = NormOf::rms(hyper)?;
    let heads =
        Attention { norm: QkNorm::Heads(norm), scores: scores(hyper, GEMMA3_27B), ..Attention::of(hyper) };
    let end = Head { cap: keys.float_or("final_logit_softcapping", 0.0)?, ..Head::of(norm) };
    layers(b, hyper, x, windows, [all, near], heads, end)
}

fn scores(hyper: &Hyper<'_>, layers_of_27b: usize) -> Scores {
    let head_dim =
        if hyper.n_layer == layers_of_27b { hyper.n_embd / hyper.n_head[0].max(1) } else { hyper.k };
    Scores::scaled(1.0 / (head_dim as f32).sqrt())
}

/// `turns` are those of layers without and with a window.
fn layers(
    mut b: Builder<'_>,
    hyper: &Hyper<'_>,
    embedded: ValueId,
    windows: Windows,
    turns: [Turns; 2],
    heads: Attention,
    end: Head,
) -> Result<Model> {
    hyper.without_experts()?;
    let x = b.unary("embd_scale", Unary::Scale((hyper.n_embd as f32).sqrt()), embedded);
    let ropes = [Some(b.rope(turns[0].table()?)), Some(b.rope(turns[1].table()?))];
    let feed = Feed::Dense(FeedForward::gated(Unary::Gelu));
    let block = Block::sandwich(NormOf::rms(hyper)?);
    decoder(b, hyper, x, block, end, |layer| (windows.heads(layer, heads, ropes), feed))
}
