//! cohere: attention and feed-forward side by side behind a LayerNorm without a bias, logits by the embedding and a
//! factor. command-r rotates in all layers, cohere2 where there is a window.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, decoder, embed};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};

/// Layers from which on command-r's heads have norms.
const LAYERS_OF_PLUS: usize = 64;

pub fn command_r(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?));
    let norm = norm(hyper)?;
    let of_heads = if hyper.n_layer >= LAYERS_OF_PLUS { QkNorm::EachHead(norm) } else { QkNorm::None };
    let heads = Attention { rope, norm: of_heads, ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward::gated(Unary::Silu));
    let end = head(norm, hyper.keys.float_or("logit_scale", 0.0)?);
    decoder(b, hyper, x, Block::parallel(norm), end, |_| (heads, feed))
}

pub fn cohere2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read(hyper, 4)?.required(hyper)?;
    let rope = b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?);
    let norm = norm(hyper)?;
    let heads = Attention::of(hyper);
    let feed = Feed::Dense(FeedForward { scales: true, ..FeedForward::gated(Unary::Silu) });
    let end = head(norm, hyper.keys.float("logit_scale")?);
    decoder(b, hyper, x, Block::parallel(norm), end, |layer| {
        (windows.heads(layer, heads, [None, Some(rope)]), feed)
    })
}

fn norm(hyper: &Hyper<'_>) -> Result<NormOf> {
    Ok(NormOf { bias: Presence::Never, ..NormOf::layer(hyper)? })
}

/// A factor of 0 is none.
fn head(norm: NormOf, scale: f32) -> Head {
    let scale = if scale == 0.0 { 1.0 } else { scale };
    Head { output: Output::Embedding, scale, ..Head::of(norm) }
}
