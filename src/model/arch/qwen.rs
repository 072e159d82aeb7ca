//! The first qwen, and those that see: qwen2vl, qwen3vl and qwen3tts, whose pairs follow coordinates of a position.

use super::Model;
use super::attention::QkNorm;
use super::blocks::Output;
use super::plain::Plain;
use super::rope::{Sections, Turns};
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::{Builder, Presence};
use crate::{Result, memory};

pub fn qwen(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    // files count the elements of gate and up together
    let n_ff = memory::collect(hyper.n_ff.iter().map(|n| n / 2), "hyper-parameters")?;
    let hyper = &Hyper { n_ff, ..hyper.clone() };
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.heads.bias = Presence::Required;
    plain.end.output = Output::Own;
    plain.build(hyper)
}

pub fn qwen2vl(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let sections = Sections::Ranges(Sections::lengths(&hyper.keys)?);
    let mut plain = Plain::turned(hyper, file, |b| turns(b, hyper, sections))?;
    plain.b.ignore("output.bias", "a file may have it, and logits are without")?;
    plain.build(hyper)
}

pub fn qwen3vl(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    seeing_qwen3(hyper, file, None)
}

/// qwen3tts: logits of its last tokens, the codes of sounds, alone.
pub fn qwen3tts(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    seeing_qwen3(hyper, file, Some(3072))
}

fn seeing_qwen3(hyper: &Hyper<'_>, file: &Gguf, last: Option<usize>) -> Result<Model> {
    let sections = Sections::Turns(Sections::lengths(&hyper.keys)?);
    let mut plain = Plain::turned(hyper, file, |b| turns(b, hyper, sections))?;
    plain.b.ignore("cls.output.weight", "a reranker's head")?;
    plain.heads.norm = QkNorm::Heads(plain.norm);
    plain.end.last = last;
    plain.build(hyper)
}

fn turns(b: &Builder<'_>, hyper: &Hyper<'_>, sections: Sections) -> Result<Turns> {
    Ok(Turns { sections: Some(sections), ..Turns::read(b, hyper, RopePairs::Halves)? })
}
