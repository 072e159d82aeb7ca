//! Gated heads, windows in most layers, and dense layers in front of mixtures of experts beside one that every token has:
//! afmoe and laguna.

use super::Model;
use super::attention::{Attention, Gate, QkNorm, Windows};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, decoder, embed};
use super::mixture::{Mixture, Shared};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Presence;
use crate::plan::{Gating, RopePairs, Unary};

pub fn afmoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, embedded) = embed(hyper, file)?;
    let x = b.unary("embd_scale", Unary::Scale((hyper.n_embd as f32).sqrt()), embedded);
    let windows = Windows::read(hyper, 4)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let [all, near] = [b.rope(turns.table()?), b.rope(turns.near(hyper)?.table()?)];
    let norm = NormOf::rms(hyper)?;
    let heads =
        Attention { norm: QkNorm::Heads(norm), gate: Gate::Own(Unary::Sigmoid), ..Attention::of(hyper) };
    let n_ff = keys.dim("expert_feed_forward_length")?;
    let experts = experts(hyper, n_ff, n_ff * keys.number("expert_shared_count")?)?;
    let n_dense = keys.number("leading_dense_block_count")?;
    decoder(b, hyper, x, Block::sandwich(norm), Head::of(norm), |layer| {
        let window = windows.of(layer);
        // every fourth layer does not rotate, whether or not it has a window
        let rope = if window.is_some() { near } else { all };
        let rope = (!(layer + 1).is_multiple_of(4)).then_some(rope);
        (Attention { window, rope, ..heads }, if layer < n_dense { DENSE } else { experts })
    })
}

pub fn laguna(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, x) = embed(hyper, file)?;
    let windows = Windows::read_but_first(hyper, 4)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let near = Turns { n_rot: hyper.near_n_rot()?, attn_factor: 1.0, ..turns.near_unscaled(hyper)? };
    let ropes = [turns.table()?, near.table()?].map(|table| Some(b.rope(table)));
    let norm = NormOf::rms(hyper)?;
    // one number for each head, or for each element
    let of_heads = b.tensor("blk.0.attn_gate.weight").is_some_and(|gate| gate.rows() == hyper.n_head[0]);
    let gate = if of_heads { Gate::OwnOfHeads(Unary::Softplus) } else { Gate::Own(Unary::Softplus) };
    let heads = Attention { norm: QkNorm::Heads(norm), gate, ..Attention::of(hyper) };
    let n_ff = keys.dim("expert_feed_forward_length")?;
    let shared = n_ff * keys.number_or("expert_shared_count", 1)?;
    let shared = keys.number_or("expert_shared_feed_forward_length", shared)?;
    let experts = experts(hyper, n_ff, shared)?;
    let n_dense = keys.number("leading_dense_block_count")?;
    decoder(b, hyper, x, Block::pre(norm), Head::of(norm), |layer| {
        (windows.heads(layer, heads, ropes), if layer < n_dense { DENSE } else { experts })
    })
}

const DENSE: Feed = Feed::Dense(FeedForward::gated(Unary::Silu));

fn experts(hyper: &Hyper<'_>, n_ff: usize, n_shared: usize) -> Result<Feed> {
    let experts = Mixture::required(hyper, n_ff)?.by_keys(hyper, Some(Gating::Sigmoid))?;
    let (choice_bias, shared) = (Presence::Required, Shared::of(n_shared));
    Ok(Feed::Mixture(Mixture { choice_bias, scales: false, shared, ..experts }))
}
