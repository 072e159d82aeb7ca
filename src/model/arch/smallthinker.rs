//! smallthinker: pre-norm blocks whose experts are chosen by the input of the layer; every fourth layer sees all positions and
//! does not rotate.

use super::Model;
use super::attention::{Attention, Windows, attention};
use super::blocks::{Block, Head, NormOf, Unit, embed, head};
use super::mixture::{Mixture, routed_by};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::Builder;
use crate::plan::{Binary, RopePairs, Unary, Window};

/// Positions in a window, whatever the file says.
const WINDOW: u32 = 4096;
/// Of so many layers one does not rotate, in models with windows.
const STEP: usize = 4;

pub fn smallthinker(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, mut x) = embed(hyper, file)?;
    let windows = Windows::read_but_first(hyper, STEP as u64)?;
    let turns = Turns::read(&b, hyper, RopePairs::Halves)?;
    let [all, near] = [b.rope(turns.table()?), b.rope(turns.near(hyper)?.table()?)];
    let all_rotate = keys.positions_or("attention.sliding_window", 0)? == 0 || hyper.n_layer == STEP;
    let heads = |layer: usize| {
        let window = windows.of(layer).map(|_| Window::Sliding(WINDOW));
        let rope = if window.is_some() { near } else { all };
        let rope = (all_rotate || !layer.is_multiple_of(STEP)).then_some(rope);
        Attention { window, rope, ..Attention::of(hyper) }
    };
    let experts = Mixture::required(hyper, keys.dim("expert_feed_forward_length")?)?;
    let unit = Unit::Gated(Binary::Glu(Unary::Relu));
    let experts = Mixture { unit, scales: false, ..experts.gating_by_key(hyper, None)? };
    let norm = NormOf::rms(hyper)?;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, n| attention(b, hyper, layer, n, heads(layer));
            Block::pre(norm).over(b, x, attend, |b, n| routed_by(b, hyper, x, n, experts))
        })?;
    }
    head(b, hyper, x, Head::of(norm))
}
