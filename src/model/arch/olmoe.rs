//! olmoe: pre-norm blocks with norms of the rows of q and k and a mixture of experts.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, Head, NormOf, Output, decoder, embed};
use super::mixture::Mixture;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;

pub fn olmoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Row(norm), ..Attention::of(hyper) };
    let experts = Mixture::required(hyper, hyper.n_ff[0])?.without_norm();
    let feed = Feed::Mixture(Mixture { scales: false, ..experts });
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |_| (heads, feed))
}
