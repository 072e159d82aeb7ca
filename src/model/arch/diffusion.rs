//! Models of masked diffusion, whose positions see later ones, too: dream, llada, llada-moe and rnd1. A sequence is one
//! step.

use super::Model;
use super::attention::QkNorm;
use super::blocks::{Feed, Head, Output, decoder};
use super::mixture::Mixture;
use super::plain::Plain;
use super::rope::FACTORS;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::RopePairs;
use crate::plan::builder::Presence;

pub fn dream(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.b.ignore("output.bias", "a file may have it, and logits are without")?;
    plain.heads.scores.causal = false;
    plain.build(hyper)
}

pub fn llada(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    plain.b.ignore(FACTORS, "a file may have it, and heads rotate without")?;
    plain.heads.scores.causal = false;
    plain.heads.output_bias = Presence::Unused;
    plain.feed.bias = Presence::Unused;
    plain.build(hyper)
}

pub fn llada_moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let experts = Mixture::required(hyper, Mixture::width(hyper)?)?.without_norm();
    mixed(hyper, file, experts, Output::Own)
}

pub fn rnd1(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let experts = Mixture::required(hyper, Mixture::width(hyper)?)?;
    mixed(hyper, file, experts, Output::OwnOrEmbedding)
}

/// Norms of q's and k's heads, and experts.
fn mixed(hyper: &Hyper<'_>, file: &Gguf, experts: Mixture, output: Output) -> Result<Model> {
    let Plain { b, x, norm, mut heads, block, end, .. } = Plain::read(hyper, file, RopePairs::Halves)?;
    heads.norm = QkNorm::Heads(norm);
    heads.scores.causal = false;
    let feed = Feed::Mixture(Mixture { scales: false, ..experts });
    decoder(b, hyper, x, block, Head { output, ..end }, |_| (heads, feed))
}
