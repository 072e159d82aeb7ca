//! olmo2: norms behind both halves of a layer and over the rows of q and k; windows, whose layers rotate unscaled.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Output};
use super::plain::Plain;
use super::rope::{Scaling, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;

pub fn olmo2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let windows = Windows::read(hyper, 4)?;
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.block = Block::post(plain.norm);
    plain.heads.norm = QkNorm::Row(plain.norm);
    plain.end.output = Output::Own;
    let turns = Turns {
        scaling: Scaling::None,
        attn_factor: 1.0,
        ..Turns::read(&plain.b, hyper, RopePairs::Halves)?
    };
    let (near, heads) = (Some(plain.b.rope(turns.table()?)), plain.heads);
    plain.layers(hyper, |layer| match windows.of(layer) {
        Some(window) => Attention { window: Some(window), rope: near, ..heads },
        None => heads,
    })
}
