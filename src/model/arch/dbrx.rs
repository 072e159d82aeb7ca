//! dbrx: blocks with LayerNorms, bounds on queries, keys and values, and a mixture of experts.

use super::Model;
use super::attention::Attention;
use super::blocks::{Block, Feed, Head, NormOf, Output, decoder, embed};
use super::mixture::Mixture;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::Presence;

pub fn dbrx(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let clamp = hyper.keys.float("attention.clamp_kqv")?;
    let heads = Attention { rope, bias: Presence::Never, clamp, ..Attention::of(hyper) };
    let feed = Feed::Mixture(Mixture { scales: false, ..Mixture::required(hyper, hyper.n_ff[0])? });
    let norm = NormOf { bias: Presence::Never, ..NormOf::layer(hyper)? };
    let block = Block::pre(norm).feed_norm("attn_output_norm");
    decoder(b, hyper, x, block, Head { output: Output::Own, ..Head::of(norm) }, |_| (heads, feed))
}
