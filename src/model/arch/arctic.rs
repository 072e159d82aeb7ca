//! arctic: pre-norm blocks whose small dense feed-forward has a mixture of experts beside it, which sees the input of the
//! layer.

use super::Model;
use super::attention::{Attention, attention};
use super::blocks::{Block, DENSE, FeedForward, Head, NormOf, embed, feed_forward_of, head};
use super::mixture::{Mixture, mixture};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Builder;
use crate::plan::{Binary, RopePairs, Unary, ValueId};

pub fn arctic(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, mut x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?));
    let heads = Attention { rope, ..Attention::of(hyper) };
    let dense = FeedForward::gated(Unary::Silu);
    let experts = Mixture { scales: false, ..Mixture::required(hyper, hyper.n_ff[0])? };
    let norm = NormOf::rms(hyper)?;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, n| attention(b, hyper, layer, n, heads);
            let feed = |b: &mut Builder<'_>, n: ValueId| {
                let fed = feed_forward_of(b, hyper, DENSE, hyper.n_embd, n, dense)?;
                let normed = norm.row(b, "ffn_norm_exps", x)?;
                let mixed = mixture(b, hyper, normed, experts)?;
                Ok(b.binary("ffn_sum", Binary::Add, fed, mixed))
            };
            Block::pre(norm).over(b, x, attend, feed)
        })?;
    }
    head(b, hyper, x, Head::of(norm))
}
