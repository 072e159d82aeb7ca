//! cohere2moe: attention and a mixture of experts side by side behind one norm, with windows in most layers.

use super::Model;
use super::attention::{Attention, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed_without_nextn};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{Gating, RopePairs, Unary};

pub fn cohere2moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (hyper, mut b, x) = embed_without_nextn(hyper, file)?;
    let (hyper, keys) = (&hyper, &hyper.keys);
    let windows = Windows::read_but_first(hyper, 4)?.required(hyper)?;
    let rope = b.rope(Turns::read(&b, hyper, RopePairs::Consecutive)?.table()?);
    let norm = match keys.float_or("attention.layer_norm_rms_epsilon", 0.0)? {
        0.0 => NormOf { bias: Presence::Never, ..NormOf::layer(hyper)? },
        _ => NormOf::rms(hyper)?,
    };
    let n_ff = keys.number_or("expert_feed_forward_length", hyper.n_ff[0])?;
    let experts = Mixture::required(hyper, n_ff)?.by_keys(hyper, Some(Gating::Sigmoid))?;
    let shared = match keys.number("expert_shared_count")? {
        0 => None,
        n => Shared::of(keys.number_or("expert_shared_feed_forward_length", n * n_ff)?),
    };
    let shared = shared.map(|shared| Shared { sum: 0.5, ..shared });
    let experts = Feed::Mixture(Mixture { merged: true, shared, ..experts });
    let dense = Feed::Dense(FeedForward { scales: true, ..FeedForward::gated(Unary::Silu) });
    let n_dense = keys.number("leading_dense_block_count")?;
    let end = Head { scale: keys.float("logit_scale")?, ..Head::of(norm) };
    decoder(b, hyper, x, Block::parallel(norm), end, |layer| {
        let (window, is_dense) = (windows.of(layer), layer < n_dense);
        let rope = (window.is_some() || is_dense).then_some(rope);
        (Attention { window, rope, ..Attention::of(hyper) }, if is_dense { dense } else { experts })
    })
}
