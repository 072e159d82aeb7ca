//! Pre-norm blocks with mixtures of experts: qwen2moe, with an expert beside them whose part each token weighs, and
//! qwen3vlmoe, with norms of q's and k's heads.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, Head, NormOf, Output, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::{Sections, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;

pub fn qwen2moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let heads = Attention { rope, ..Attention::of(hyper) };
    let shared = Shared::of(hyper.keys.number_or("expert_shared_feed_forward_length", hyper.n_ff[0])?);
    let shared = shared.map(|shared| Shared { weighed: true, ..shared });
    let experts = Mixture::required(hyper, Mixture::width(hyper)?)?.without_norm();
    let feed = Feed::Mixture(Mixture { scales: false, shared, ..experts });
    let norm = NormOf::rms(hyper)?;
    let end = Head { output: Output::Own, ..Head::of(norm) };
    decoder(b, hyper, x, Block::pre(norm), end, |_| (heads, feed))
}

pub fn qwen3vlmoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, x) = embed(hyper, file)?;
    let sections = Some(Sections::Turns(Sections::lengths(&hyper.keys)?));
    let turns = Turns { sections, ..Turns::read(&b, hyper, RopePairs::Halves)? };
    let rope = Some(b.rope(turns.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let experts = Mixture::required(hyper, Mixture::width(hyper)?)?;
    let feed = Feed::Mixture(Mixture { scales: false, ..experts });
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |_| (heads, feed))
}
