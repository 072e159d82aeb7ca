//! ernie4_5 and paddleocr, whose pairs follow coordinates of a position.

use super::Model;
use super::plain::Plain;
use super::rope::{Sections, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::Presence;

pub fn ernie4_5(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    plain.heads.output_bias = Presence::Unused;
    plain.build(hyper)
}

pub fn paddleocr(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let sections = Some(Sections::Ranges(Sections::lengths(&hyper.keys)?));
    let mut plain =
        Plain::turned(hyper, file, |b| Ok(Turns { sections, ..Turns::read(b, hyper, RopePairs::Halves)? }))?;
    plain.heads.output_bias = Presence::Optional;
    plain.build(hyper)
}
