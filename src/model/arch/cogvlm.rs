//! cogvlm, over text: twins of its matrices, for images alone, are left out.

use super::Model;
use super::plain::Plain;
use super::rope::{FACTORS, Scaling, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::Presence;

/// Matrices of a layer's images.
const TWINS: [&str; 5] = ["vis_attn_qkv", "vis_attn_output", "vis_gate", "vis_down", "vis_up"];

pub fn cogvlm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    // whatever the file says of rotation
    let hyper = &Hyper { n_rot: hyper.k, ..hyper.clone() };
    let mut plain = Plain::turned(hyper, file, |b| {
        let turns = Turns::read(b, hyper, RopePairs::Halves)?;
        Ok(Turns { base: 10_000.0, scaling: Scaling::None, attn_factor: 1.0, ..turns })
    })?;
    plain.b.ignore(FACTORS, "a file may have it, and heads rotate without")?;
    for layer in 0..hyper.n_layer {
        for twin in TWINS {
            plain.b.ignore(&format!("blk.{layer}.{twin}.weight"), "images alone use it")?;
        }
    }
    plain.heads.bias = Presence::Never;
    plain.heads.scales = false;
    plain.build(hyper)
}
