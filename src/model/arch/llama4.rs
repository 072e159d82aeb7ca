//! llama4: pre-norm blocks, most of which rotate and see the positions of their chunk; every fourth sees all and does not
//! rotate. Experts take what their weights are multiplied with.

use super::Model;
use super::attention::{Attention, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::{Gating, RopePairs, Routing, Unary, Window};
use crate::{Error, Result};

/// Positions in a chunk, whatever the file says.
const CHUNK: usize = 8192;
/// Of so many layers one does not rotate, in models with chunks.
const STEP: usize = 4;
/// Experts of the model without norms of q's and k's heads.
const EXPERTS_OF_MAVERICK: usize = 128;

pub fn llama4(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    if keys.positions_or("attention.sliding_window", CHUNK)? == 0 {
        return Err(Error::Unsupported {
            what: "attention",
            name: format!("without chunks ({} is 0)", keys.key("attention.sliding_window")),
            supported: format!("chunks of {CHUNK} positions"),
        });
    }
    let (mut b, x) = embed(hyper, file)?;
    let chunks = Windows::read_or(hyper, CHUNK, STEP as u64)?;
    let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?.factored(&mut b, hyper, file)?;
    let [all, near] = [b.rope(turns.table()?), b.rope(turns.near(hyper)?.table()?)];
    let norm = NormOf::rms(hyper)?;
    let n_ff = keys.dim("expert_feed_forward_length")?;
    let experts = Mixture::required(hyper, n_ff)?.without_norm();
    let norm_of_heads = match experts.n_experts {
        EXPERTS_OF_MAVERICK => QkNorm::None,
        _ => QkNorm::HeadsBehindRope(norm.bare()),
    };
    let routing = Routing { gating: Gating::Sigmoid, ..experts.routing };
    let shared = Shared::of(n_ff);
    let experts = Mixture { routing, on_input: true, scales: false, shared, ..experts };
    let step = keys.dim("interleave_moe_layer_step")?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| {
        let window = chunks.of(layer).map(|_| Window::Chunks(CHUNK as u32));
        let rope = Some(if window.is_some() { near } else { all });
        let heads = match (layer + 1).is_multiple_of(STEP) {
            true => Attention { window, temper: Some((0.1, CHUNK)), ..Attention::of(hyper) },
            false => Attention { window, rope, norm: norm_of_heads, ..Attention::of(hyper) },
        };
        let feed = match (layer + 1).is_multiple_of(step) {
            true => Feed::Mixture(experts),
            false => Feed::Dense(FeedForward::gated(Unary::Silu)),
        };
        (heads, feed)
    })
}
