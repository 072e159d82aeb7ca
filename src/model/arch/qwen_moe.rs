//! Pre-norm blocks with mixtures of experts: qwen3vlmoe.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, Head, NormOf, decoder, embed};
use super::mixture::Mixture;
use super::rope::{Sections, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;

pub fn qwen3vlmoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let sections = Some(Sections::Interleaved(Sections::lengths(&hyper.keys)?));
    let turns = Turns { sections, ..Turns::read(&b, hyper, RopePairs::Halves)? };
    let rope = Some(b.rope(turns.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let experts = Mixture::required(hyper, Mixture::width(hyper)?)?;
    let feed = Feed::Mixture(Mixture { scales: false, ..experts });
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |_| (heads, feed))
}
