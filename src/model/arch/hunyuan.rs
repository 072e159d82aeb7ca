//! hunyuan's dense models: norms of q's and k's heads behind the rotation, and a base that grows with a factor.

use super::Model;
use super::attention::QkNorm;
use super::plain::Plain;
use super::rope::{Sections, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;

pub fn hunyuan_dense(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    build(hyper, file, None)
}

pub fn hunyuan_vl(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    build(hyper, file, Sections::find(&hyper.keys)?)
}

fn build(hyper: &Hyper<'_>, file: &Gguf, sections: Option<Sections>) -> Result<Model> {
    let alpha = hyper.keys.float_or("rope.scaling.alpha", 0.0)?;
    let mut plain = Plain::turned(hyper, file, |b| {
        let mut turns = Turns { sections, ..Turns::read(b, hyper, RopePairs::Halves)? };
        if alpha > 0.0 {
            turns.base *= alpha.powf(hyper.k as f32 / (hyper.k as f32 - 2.0));
        }
        Ok(turns)
    })?;
    plain.heads.norm = QkNorm::HeadsBehindRope(plain.norm);
    plain.build(hyper)
}
