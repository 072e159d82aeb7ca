//! Decoders of pre-norm layers with RMS norms, rotated heads and a feed-forward gated by silu: what most architectures
//! are, but for an option or two.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Output, UnitGate, decoder, embed};
use super::rope::{FACTORS, Turns};
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{RopePairs, Unary, ValueId};

/// What such a decoder is made of; x are the embedded tokens.
pub struct Plain<'a> {
    pub b: Builder<'a>,
    pub x: ValueId,
    pub norm: NormOf,
    pub heads: Attention,
    pub feed: FeedForward,
    pub block: Block,
    pub end: Head,
}

impl<'a> Plain<'a> {
    /// Without an option: optional biases on q, k, v, none elsewhere, and an output matrix that may be the embedding.
    pub fn read(hyper: &Hyper<'_>, file: &'a Gguf, pairs: RopePairs) -> Result<Plain<'a>> {
        Plain::turned(hyper, file, |b| Turns::read(b, hyper, pairs))
    }

    /// The same, where heads rotate as `turns` says.
    pub fn turned(
        hyper: &Hyper<'_>,
        file: &'a Gguf,
        turns: impl FnOnce(&mut Builder<'_>) -> Result<Turns>,
    ) -> Result<Plain<'a>> {
        let (mut b, x) = embed(hyper, file)?;
        let table = turns(&mut b)?.table()?;
        let heads = Attention { rope: Some(b.rope(table)), ..Attention::of(hyper) };
        let norm = NormOf::rms(hyper)?;
        let feed = FeedForward::gated(Unary::Silu);
        Ok(Plain { b, x, norm, heads, feed, block: Block::pre(norm), end: Head::of(norm) })
    }

    pub fn build(self, hyper: &Hyper<'_>) -> Result<Model> {
        let heads = self.heads;
        self.layers(hyper, |_| heads)
    }

    /// The same, where layers differ in their attention.
    pub fn layers(self, hyper: &Hyper<'_>, heads: impl Fn(usize) -> Attention) -> Result<Model> {
        let feed = Feed::Dense(self.feed);
        decoder(self.b, hyper, self.x, self.block, self.end, |layer| (heads(layer), feed))
    }
}

/// internlm2 and xverse: an output matrix of their own.
pub fn with_output(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    plain.end.output = Output::Own;
    plain.build(hyper)
}

/// baichuan: heads rotate in the model of 32 layers, scores fall with the distance in that of 40.
pub fn baichuan(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    plain.end.output = Output::Own;
    plain.heads.rope = plain.heads.rope.filter(|_| hyper.n_layer == 32);
    if hyper.n_layer == 40 {
        plain.heads.scores.alibi = 8.0;
    }
    plain.build(hyper)
}

/// smollm3: no rotation in every fourth layer.
pub fn smollm3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    let heads = plain.heads;
    let rope = |layer: usize| heads.rope.filter(|_| !(layer + 1).is_multiple_of(4));
    plain.layers(hyper, |layer| Attention { rope: rope(layer), ..heads })
}

/// seed_oss: the norm before the feed-forward by another name.
pub fn seed_oss(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.block = plain.block.feed_norm("post_attention_norm");
    plain.build(hyper)
}

/// arcee: no gate; what goes up is cut at 0 and squared.
pub fn arcee(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let turns = |b: &mut Builder<'_>| Turns::read(b, hyper, RopePairs::Consecutive)?.factored(b, hyper, file);
    let mut plain = Plain::turned(hyper, file, turns)?;
    plain.feed = FeedForward { bias: Presence::Never, ..FeedForward::plain(Unary::Relu2) };
    plain.build(hyper)
}

/// pangu-embedded: a bias on what attention leaves.
pub fn pangu(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.b.ignore(FACTORS, "a file may have it, and heads rotate without")?;
    plain.heads.output_bias = Presence::Required;
    plain.build(hyper)
}

/// maincoder: norms of q's and k's heads behind the rotation.
pub fn maincoder(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    plain.heads.norm = QkNorm::HeadsBehindRope(plain.norm);
    plain.build(hyper)
}

/// chatglm: part of a head rotates; gate and up in one matrix.
pub fn chatglm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Consecutive)?;
    plain.feed.gate = UnitGate::InUp;
    plain.build(hyper)
}

/// phi3: gate and up in one matrix; factors of rotations by a session's length.
pub fn phi3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let turns =
        |b: &mut Builder<'_>| Turns::read(b, hyper, RopePairs::Halves)?.factored_by_length(b, hyper, file);
    let mut plain = Plain::turned(hyper, file, turns)?;
    plain.feed.gate = UnitGate::InUp;
    plain.build(hyper)
}

/// gemma: embeddings times the root of their length, and a feed-forward gated by gelu.
pub fn gemma(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.x = plain.b.unary("embd_scale", Unary::Scale((hyper.n_embd as f32).sqrt()), plain.x);
    plain.feed = FeedForward::gated(Unary::Gelu);
    plain.end.output = Output::Embedding;
    plain.build(hyper)
}

/// plamo: attention and feed-forward side by side behind one norm; heads rotate as a whole.
pub fn plamo(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let hyper = &Hyper { n_rot: hyper.k, ..hyper.clone() };
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.block = Block::parallel(plain.norm);
    plain.end.output = Output::Own;
    plain.build(hyper)
}

/// openelm: layers of several widths; norms of q's and k's heads.
pub fn openelm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Plain::read(hyper, file, RopePairs::Halves)?;
    plain.heads =
        Attention { bias: Presence::Never, scales: false, norm: QkNorm::Heads(plain.norm), ..plain.heads };
    plain.end.output = Output::Embedding;
    plain.build(hyper)
}
