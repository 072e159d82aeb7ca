//! phimoe: pre-norm blocks with biases on norms and attention, rotations by the length of a session, and a mixture of
//! experts.

use super::Model;
use super::attention::Attention;
use super::blocks::{Block, Feed, Head, NormOf, Output, decoder, embed};
use super::mixture::Mixture;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::Presence;

pub fn phimoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?.factored_by_length(&mut b, hyper, file)?;
    let rope = Some(b.rope(turns.table()?));
    let heads = Attention { rope, output_bias: Presence::Required, ..Attention::of(hyper) };
    let feed = Feed::Mixture(Mixture { scales: false, ..Mixture::required(hyper, hyper.n_ff[0])? });
    let norm = NormOf { bias: Presence::Required, ..NormOf::rms(hyper)? };
    let end = Head { output: Output::Own, bias: Presence::Required, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |_| (heads, feed))
}
