//! Models whose layers run more than once, with cells of their own in the cache each time: nanbeige and hrm_text.

use super::Model;
use super::attention::{Attention, Gate, attention};
use super::blocks::{Block, FeedForward, Head, NormOf, embed, feed_forward, head};
use super::plain::Plain;
use super::rope::Turns;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Part};
use crate::plan::{Binary, RopePairs, Unary, ValueId};
use crate::{Error, Result};

/// The most that layers run, all of them together.
const MOST: usize = 512;

/// nanbeige: llama's layers, all of them `num_loops` times.
pub fn nanbeige(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (keys, n) = (&hyper.keys, hyper.n_layer);
    let loops = keys.find_dim("num_loops")?.unwrap_or(1);
    if loops.saturating_mul(n) > MOST {
        return Err(Error::model(format!("{} is {loops} of {n} layers", keys.key("num_loops"))));
    }
    let ends_with_norm = !keys.bool_or("skip_loop_final_norm", false)?;
    let turns = |b: &mut Builder<'_>| Turns::read(b, hyper, RopePairs::Consecutive)?.factored(b, hyper, file);
    let Plain { mut b, mut x, norm, heads, mut feed, block, end } = Plain::turned(hyper, file, turns)?;
    feed.scales = true;
    for place in 0..loops * n {
        let layer = place % n;
        if ends_with_norm && layer == 0 && place > 0 {
            x = norm.row(&mut b, "output_norm", x)?;
        }
        x = b.layer_again(place, layer, |b| over(b, hyper, layer, x, (block, heads, feed)))?;
    }
    head(b, hyper, x, end)
}

/// hrm_text (Wang et al. 2025, "Hierarchical Reasoning Model"): a stack of layers that runs `l_cycles` times over what it
/// left, then one that runs once over the result; that `h_cycles` times.
pub fn hrm_text(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let [n, high_cycles, low_cycles] =
        ["hrm.layers_per_stack", "hrm.h_cycles", "hrm.l_cycles"].map(|name| keys.dim(name));
    let (n, high_cycles, low_cycles) = (n?, high_cycles?, low_cycles?);
    let places = n.checked_mul(high_cycles).and_then(|n| n.checked_mul(low_cycles + 1));
    if places != Some(hyper.n_layer) || hyper.n_layer > MOST {
        return Err(Error::model(format!(
            "{} layers do not hold {high_cycles} times {low_cycles} + 1 stacks of {n}",
            hyper.n_layer
        )));
    }
    let (mut b, mut high) = embed(hyper, file)?;
    let scale = keys.float_or("embedding_scale", 0.0)?;
    if scale != 0.0 {
        high = b.unary("embd_scale", Unary::Scale(scale), high);
    }
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?.bare();
    let heads = Attention { rope, gate: Gate::Own(Unary::Sigmoid), ..Attention::of(hyper) };
    let parts = (Block::pre(norm), heads, FeedForward::gated(Unary::Silu));
    let stack = |b: &mut Builder<'_>, first_place, first_layer, mut x: ValueId| {
        for i in 0..n {
            let layer = first_layer + i;
            x = b.layer_again(first_place + i, layer, |b| over(b, hyper, layer, x, parts))?;
        }
        norm.row(b, "stack_norm", x)
    };
    let start = b.vector("hrm.z_l_init", Part::all(hyper.n_embd))?;
    let (mut low, mut place) = (None, 0);
    for cycle in 0..high_cycles * (low_cycles + 1) {
        let is_high = cycle % (low_cycles + 1) == low_cycles;
        let both = match low {
            Some(low) => b.binary("stacks", Binary::Add, high, low),
            None => b.affine("stacks", high, None, Some(start)),
        };
        let left = stack(&mut b, place, if is_high { n } else { 0 }, both)?;
        place += n;
        if is_high {
            high = left;
        } else {
            low = Some(left);
        }
    }
    head(b, hyper, high, Head { norm: None, ..Head::of(norm) })
}

/// Layer `layer` over x.
fn over(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    layer: usize,
    x: ValueId,
    (block, heads, feed): (Block, Attention, FeedForward),
) -> Result<ValueId> {
    let attend = |b: &mut Builder<'_>, x| attention(b, hyper, layer, x, heads);
    block.over(b, x, attend, |b, x| feed_forward(b, hyper, layer, x, feed))
}
