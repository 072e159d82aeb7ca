//! granite, granitemoe, granite_swa (sinks and windows) and minicpm: llama's layers with factors on embeddings, on what
//! each half of a layer adds, and on logits; experts beside one that every token has.

use super::Model;
use super::attention::{Attention, Windows};
use super::blocks::{Feed, UnitGate, decoder};
use super::mixture::{Mixture, Shared};
use super::plain::Plain;
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{RopePairs, Unary};

/// 0 of those that may be left out: none.
struct Factors {
    embedding: f32,
    /// On what a half of a layer adds.
    residual: f32,
    /// Logits are divided by it.
    logits: f32,
    /// On q.k, in place of what a head's length says.
    attention: f32,
}

impl Factors {
    fn read(hyper: &Hyper<'_>) -> Result<Factors> {
        let keys = &hyper.keys;
        Ok(Factors {
            embedding: keys.float_or("embedding_scale", 0.0)?,
            residual: keys.float_or("residual_scale", 0.0)?,
            logits: keys.positive("logit_scale")?,
            attention: keys.float_or("attention.scale", 0.0)?,
        })
    }

    /// A decoder with them.
    fn plain<'a>(&self, hyper: &Hyper<'_>, file: &'a Gguf) -> Result<Plain<'a>> {
        let turns =
            |b: &mut Builder<'_>| Turns::read(b, hyper, RopePairs::Consecutive)?.factored(b, hyper, file);
        let mut plain = Plain::turned(hyper, file, turns)?;
        if self.embedding != 0.0 {
            plain.x = plain.b.unary("embd_scale", Unary::Scale(self.embedding), plain.x);
        }
        if self.residual != 0.0 {
            plain.block.residual = self.residual;
        }
        if self.attention != 0.0 {
            plain.heads.scores.scale = self.attention;
        }
        plain.heads.output_bias = Presence::Optional;
        plain.feed.bias = Presence::Optional;
        plain.end.scale = 1.0 / self.logits;
        Ok(plain)
    }
}

pub fn granite(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut plain = Factors::read(hyper)?.plain(hyper, file)?;
    // what the key means here is whether heads rotate at all
    let rotates = hyper.keys.bool_or("rope.scaling.finetuned", true)?;
    plain.heads.rope = plain.heads.rope.filter(|_| rotates);
    layers(plain, hyper, shared(hyper)?)
}

pub fn granitemoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    layers(Factors::read(hyper)?.plain(hyper, file)?, hyper, shared(hyper)?)
}

pub fn granite_swa(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let windows = Windows::read_flags(hyper)?.required(hyper)?;
    let rotated = hyper.keys.find_flags("attention.rope_pattern", hyper.n_layer)?;
    let plain = Factors::read(hyper)?.plain(hyper, file)?;
    let shared = shared(hyper)?.map(|shared| Shared { gate: UnitGate::InUp, ..shared });
    let feed = match Mixture::read(hyper, hyper.n_ff[0])? {
        Some(experts) => Feed::Mixture(Mixture { scales: false, merged: true, shared, ..experts }),
        None => Feed::Dense(plain.feed),
    };
    let heads = Attention { sinks: Presence::Required, ..plain.heads };
    decoder(plain.b, hyper, plain.x, plain.block, plain.end, |layer| {
        let rope = heads.rope.filter(|_| rotated.as_ref().is_none_or(|rotated| rotated[layer]));
        (windows.heads(layer, heads, [rope; 2]), feed)
    })
}

pub fn minicpm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let factors = Factors {
        embedding: keys.float_or("embedding_scale", 12.0)?,
        residual: keys.float_or("residual_scale", 1.4 / (hyper.n_layer as f32).sqrt())?,
        logits: keys.positive_or("logit_scale", 256.0 / hyper.n_embd as f32)?,
        attention: 0.0,
    };
    layers(factors.plain(hyper, file)?, hyper, None)
}

/// The expert that every token has, as long as the file says.
fn shared(hyper: &Hyper<'_>) -> Result<Option<Shared>> {
    Ok(Shared::of(hyper.keys.number("expert_shared_feed_forward_length")?))
}

fn layers(plain: Plain<'_>, hyper: &Hyper<'_>, shared: Option<Shared>) -> Result<Model> {
    let Plain { b, x, heads, feed, block, end, .. } = plain;
    let feed = match Mixture::read(hyper, hyper.n_ff[0])? {
        Some(experts) => Feed::Mixture(Mixture { scales: false, shared, ..experts }),
        None => Feed::Dense(feed),
    };
    decoder(b, hyper, x, block, end, |_| (heads, feed))
}
