//! phi2: attention and feed-forward side by side behind one LayerNorm, with biases throughout.

use super::Model;
use super::attention::Attention;
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, decoder, embed};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};

pub fn phi2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let heads = Attention { rope, output_bias: Presence::Required, ..Attention::of(hyper) };
    let feed = Feed::Dense(FeedForward::plain(Unary::Gelu));
    let norm = NormOf::layer(hyper)?;
    let end = Head { output: Output::Own, bias: Presence::Required, ..Head::of(norm) };
    decoder(b, hyper, x, Block::parallel(norm), end, |_| (heads, feed))
}
