//! exaone, and exaone4: norms behind both halves of a layer and of q's and k's heads, and in the largest model windows.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::Block;
use super::plain::Plain;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::Builder;

/// Layers of the model with windows, in whose other layers nothing rotates.
const LAYERS_OF_32B: usize = 64;

pub fn exaone(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    Plain::turned(hyper, file, |b| turns(b, hyper, file))?.build(hyper)
}

pub fn exaone4(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let n_blocks = hyper.n_layer;
    let hyper = &hyper.without_nextn()?;
    let mut plain = Plain::turned(hyper, file, |b| turns(b, hyper, file))?;
    plain.b.ignore_layers(hyper.n_layer..n_blocks, "they predict tokens behind the next")?;
    plain.block = Block::post(plain.norm);
    plain.heads.norm = QkNorm::Heads(plain.norm);
    if hyper.n_layer != LAYERS_OF_32B {
        return plain.build(hyper);
    }
    let (windows, heads) = (Windows::read_or(hyper, 4096, 4)?, plain.heads);
    plain.layers(hyper, |layer| {
        let window = windows.of(layer);
        Attention { window, rope: heads.rope.filter(|_| window.is_some()), ..heads }
    })
}

fn turns(b: &mut Builder<'_>, hyper: &Hyper<'_>, file: &Gguf) -> Result<Turns> {
    Turns::read(b, hyper, RopePairs::Halves)?.factored(b, hyper, file)
}
