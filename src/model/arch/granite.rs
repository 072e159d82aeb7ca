//! granite, granitemoe, granite_swa and minicpm: llama's layers with factors on embeddings, on what each half of a layer
//! adds, and on logits; experts beside one that every token has. granite_swa has windows and sinks.

use super::Model;
use super::attention::{Attention, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, UnitGate, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};
use crate::{Result, memory};

/// Factors and options by which they differ.
struct Granite {
    /// On embeddings, and on what a half of a layer adds. 0: none.
    embedding: f32,
    residual: f32,
    /// Logits are divided by it.
    logits: f32,
    /// On q.k; 0: what the head's length says.
    attention: f32,
    /// Layers that rotate; None: all.
    rotated: Option<Vec<bool>>,
    windows: Windows,
    sinks: Presence,
    /// Whether a file may have gate and up of the experts in one tensor.
    merged: bool,
    shared: Option<Shared>,
}

impl Granite {
    fn read(hyper: &Hyper<'_>) -> Result<Granite> {
        let keys = &hyper.keys;
        Ok(Granite {
            embedding: keys.float_or("embedding_scale", 0.0)?,
            residual: keys.float_or("residual_scale", 0.0)?,
            logits: keys.positive("logit_scale")?,
            attention: keys.float_or("attention.scale", 0.0)?,
            rotated: None,
            windows: Windows::none(),
            sinks: Presence::Never,
            merged: false,
            shared: Shared::of(keys.number("expert_shared_feed_forward_length")?),
        })
    }

    fn build(self, hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
        let (mut b, mut x) = embed(hyper, file)?;
        if self.embedding != 0.0 {
            x = b.unary("embd_scale", Unary::Scale(self.embedding), x);
        }
        let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?.factored(&mut b, hyper, file)?;
        let rope = b.rope(turns.table()?);
        let mut heads =
            Attention { output_bias: Presence::Optional, sinks: self.sinks, ..Attention::of(hyper) };
        if self.attention != 0.0 {
            heads.scores.scale = self.attention;
        }
        let Granite { merged, shared, .. } = self;
        let feed = match Mixture::read(hyper, hyper.n_ff[0])? {
            Some(experts) => Feed::Mixture(Mixture { scales: false, merged, shared, ..experts }),
            None => Feed::Dense(FeedForward { bias: Presence::Optional, ..FeedForward::gated(Unary::Silu) }),
        };
        let norm = NormOf::rms(hyper)?;
        let mut block = Block::pre(norm);
        if self.residual != 0.0 {
            block.residual = self.residual;
        }
        let end = Head { scale: 1.0 / self.logits, ..Head::of(norm) };
        decoder(b, hyper, x, block, end, |layer| {
            let rope = self.rotated.as_ref().is_none_or(|rotated| rotated[layer]).then_some(rope);
            (self.windows.heads(layer, heads, [rope; 2]), feed)
        })
    }
}

pub fn granite(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    // what the key means here is whether heads rotate at all
    let rotated = match hyper.keys.bool_or("rope.scaling.finetuned", true)? {
        true => None,
        false => Some(memory::filled(false, hyper.n_layer, "hyper-parameters")?),
    };
    Granite { rotated, ..Granite::read(hyper)? }.build(hyper, file)
}

pub fn granitemoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    Granite::read(hyper)?.build(hyper, file)
}

/// Gate and up of the shared expert are one matrix.
pub fn granite_swa(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let granite = Granite::read(hyper)?;
    let granite = Granite {
        rotated: hyper.keys.find_flags("attention.rope_pattern", hyper.n_layer)?,
        windows: Windows::read_flags(hyper)?.required(hyper)?,
        sinks: Presence::Required,
        merged: true,
        shared: granite.shared.map(|shared| Shared { gate: UnitGate::InUp, ..shared }),
        ..granite
    };
    granite.build(hyper, file)
}

pub fn minicpm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let minicpm = Granite {
        embedding: keys.float_or("embedding_scale", 12.0)?,
        residual: keys.float_or("residual_scale", 1.4 / (hyper.n_layer as f32).sqrt())?,
        logits: keys.positive_or("logit_scale", 256.0 / hyper.n_embd as f32)?,
        attention: 0.0,
        rotated: None,
        windows: Windows::none(),
        sinks: Presence::Never,
        merged: false,
        shared: None,
    };
    minicpm.build(hyper, file)
}
