//! granite_swa: granite's layers with factors on embeddings, on what each half of a layer adds, and on logits, and with
//! sinks and windows.

use super::Model;
use super::attention::{Attention, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, UnitGate, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{RopePairs, Unary};

pub fn granite_swa(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, mut x) = embed(hyper, file)?;
    // a factor of 0 is none
    let factor = |name: &str| Ok::<_, crate::Error>(Some(keys.float_or(name, 0.0)?).filter(|f| *f != 0.0));
    if let Some(factor) = factor("embedding_scale")? {
        x = b.unary("embd_scale", Unary::Scale(factor), x);
    }
    let windows = Windows::read_flags(hyper)?.required(hyper)?;
    let rotated = keys.find_flags("attention.rope_pattern", hyper.n_layer)?;
    let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?.factored(&mut b, hyper, file)?;
    let rope = b.rope(turns.table()?);
    let mut heads =
        Attention { output_bias: Presence::Optional, sinks: Presence::Required, ..Attention::of(hyper) };
    heads.scores.scale = factor("attention.scale")?.unwrap_or(heads.scores.scale);
    let dense = FeedForward { bias: Presence::Optional, ..FeedForward::gated(Unary::Silu) };
    let shared = Shared::of(keys.number("expert_shared_feed_forward_length")?);
    let shared = shared.map(|shared| Shared { gate: UnitGate::InUp, ..shared });
    let feed = Mixture::read(hyper, hyper.n_ff[0])?.map_or(Feed::Dense(dense), |experts| {
        Feed::Mixture(Mixture { scales: false, merged: true, shared, ..experts })
    });
    let norm = NormOf::rms(hyper)?;
    let block = Block { residual: factor("residual_scale")?.unwrap_or(1.0), ..Block::pre(norm) };
    let end = Head { scale: 1.0 / keys.positive("logit_scale")?, ..Head::of(norm) };
    decoder(b, hyper, x, block, end, |layer| {
        let rope = rotated.as_ref().is_none_or(|rotated| rotated[layer]).then_some(rope);
        (windows.heads(layer, heads, [rope; 2]), feed)
    })
}
