//! glm4: norms before and behind both halves of a layer, gate and up in one matrix, and pairs that follow coordinates of
//! a position in models that see.

use super::Model;
use super::blocks::{Block, UnitGate};
use super::plain::Plain;
use super::rope::{Sections, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;

pub fn glm4(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let n_blocks = hyper.n_layer;
    let hyper = &hyper.without_nextn()?;
    let sections = Sections::find(&hyper.keys)?;
    let pairs = if sections.is_some() { RopePairs::Halves } else { RopePairs::Consecutive };
    let mut plain = Plain::turned(hyper, file, |b| Ok(Turns { sections, ..Turns::read(b, hyper, pairs)? }))?;
    plain.b.ignore_layers(hyper.n_layer..n_blocks, "they predict tokens behind the next")?;
    plain.block = Block::sandwich(plain.norm);
    plain.feed.gate = UnitGate::InUp;
    plain.build(hyper)
}
