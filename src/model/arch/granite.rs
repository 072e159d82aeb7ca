//! granite, granitemoe and minicpm: llama's layers with factors on embeddings, on what each half of a layer adds, and on
//! logits; experts beside one that every token has.

use super::Model;
use super::attention::Attention;
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};

/// Factors and options by which they differ.
struct Granite {
    /// On embeddings, and on what a half of a layer adds. 0: none.
    embedding: f32,
    residual: f32,
    /// Logits are divided by it.
    logits: f32,
    /// On q.k; 0: what the head's length says.
    attention: f32,
    rotates: bool,
    /// Elements between the matrices of the shared expert.
    n_ff_shared: usize,
}

impl Granite {
    fn read(hyper: &Hyper<'_>) -> Result<Granite> {
        let keys = &hyper.keys;
        Ok(Granite {
            embedding: keys.float_or("embedding_scale", 0.0)?,
            residual: keys.float_or("residual_scale", 0.0)?,
            logits: keys.positive("logit_scale")?,
            attention: keys.float_or("attention.scale", 0.0)?,
            rotates: true,
            n_ff_shared: keys.number("expert_shared_feed_forward_length")?,
        })
    }

    fn build(self, hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
        let (mut b, mut x) = embed(hyper, file)?;
        if self.embedding != 0.0 {
            x = b.unary("embd_scale", Unary::Scale(self.embedding), x);
        }
        let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?.factored(&mut b, hyper, file)?;
        let rope = if self.rotates { Some(b.rope(turns.table()?)) } else { None };
        let mut heads = Attention { rope, output_bias: Presence::Optional, ..Attention::of(hyper) };
        if self.attention != 0.0 {
            heads.scores.scale = self.attention;
        }
        let shared = Shared::of(self.n_ff_shared);
        let feed = match Mixture::read(hyper, hyper.n_ff[0])? {
            Some(experts) => Feed::Mixture(Mixture { scales: false, shared, ..experts }),
            None => Feed::Dense(FeedForward { bias: Presence::Optional, ..FeedForward::gated(Unary::Silu) }),
        };
        let norm = NormOf::rms(hyper)?;
        let mut block = Block::pre(norm);
        if self.residual != 0.0 {
            block.residual = self.residual;
        }
        let end = Head { scale: 1.0 / self.logits, ..Head::of(norm) };
        decoder(b, hyper, x, block, end, |_| (heads, feed))
    }
}

pub fn granite(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    // what the key means here is whether heads rotate at all
    let rotates = hyper.keys.bool_or("rope.scaling.finetuned", true)?;
    Granite { rotates, ..Granite::read(hyper)? }.build(hyper, file)
}

pub fn granitemoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    Granite::read(hyper)?.build(hyper, file)
}

pub fn minicpm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let minicpm = Granite {
        embedding: keys.float_or("embedding_scale", 12.0)?,
        residual: keys.float_or("residual_scale", 1.4 / (hyper.n_layer as f32).sqrt())?,
        logits: keys.positive_or("logit_scale", 256.0 / hyper.n_embd as f32)?,
        attention: 0.0,
        rotates: true,
        n_ff_shared: 0,
    };
    minicpm.build(hyper, file)
}
