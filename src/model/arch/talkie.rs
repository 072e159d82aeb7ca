//! talkie: norms without weights, those of heads behind the rotation, and the embedding added again behind each layer.

use super::Model;
use super::attention::{QkNorm, attention};
use super::blocks::{Block, Output, feed_forward, head};
use super::plain::Plain;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Part, Presence};
use crate::plan::{Binary, RopePairs};

pub fn talkie(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let Plain { mut b, x, norm, mut heads, feed, mut end, .. } = Plain::read(hyper, file, RopePairs::Halves)?;
    let norm = norm.bare();
    heads.norm = QkNorm::ScaledBehindRope(norm);
    let block = Block::pre(norm);
    let embedded = norm.row(&mut b, "embd_norm", x)?;
    let mut x = embedded;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, x| attention(b, hyper, layer, x, heads);
            let feed = |b: &mut Builder<'_>, x| {
                let fed = feed_forward(b, hyper, layer, x, feed)?;
                // of the three products' scales this one alone applies
                let scale = b.vector_if("ffn_down.scale", Part::all(1), Presence::Optional)?;
                Ok(if scale.is_some() { b.affine("ffn_scaled", fed, scale, None) } else { fed })
            };
            let x = block.over(b, x, attend, feed)?;
            let scale = b.vector("layer_output_scale.weight", Part::all(1))?;
            let again = b.affine("embd_scaled", embedded, Some(scale), None);
            Ok(b.binary("embd_residual", Binary::Add, x, again))
        })?;
    }
    end.norm = Some(norm);
    end.output = Output::Own;
    end.scale = hyper.keys.float("logit_scale")?;
    head(b, hyper, x, end)
}
