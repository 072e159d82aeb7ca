//! grovemoe: pre-norm blocks with norms of q's and k's heads, whose mixtures of experts have smaller ones behind them that
//! neighbouring experts share.

use super::Model;
use super::attention::{Attention, QkNorm, attention};
use super::blocks::{Block, Head, NormOf, embed, head};
use super::mixture::{EXPERTS, ExpertNames, Mixture, experts};
use super::rope::Turns;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Presence};
use crate::plan::{Binary, RopePairs, Routing, Unary, ValueId};
use crate::{Error, Result};

const CHUNKS: ExpertNames = ["ffn_gate_chexps", "ffn_up_chexps", "ffn_down_chexps"];

pub fn grovemoe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, mut x) = embed(hyper, file)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), ..Attention::of(hyper) };
    let own = Mixture { scales: false, ..Mixture::required(hyper, Mixture::width(hyper)?)? };
    let per_id = keys.dim("experts_per_group")?;
    let n_chunks = own.n_experts / per_id;
    if n_chunks * per_id != own.n_experts {
        let key = keys.key("experts_per_group");
        return Err(Error::model(format!("{key} is {per_id} of {} experts", own.n_experts)));
    }
    let chunks = Mixture {
        n_experts: n_chunks,
        n_ff: keys.number_or("expert_chunk_feed_forward_length", hyper.k)?,
        routing: Routing { n_used: own.routing.n_used.min(n_chunks), per_id, ..own.routing },
        ..own
    };
    let scale = Unary::Scale(keys.float("expert_group_scale")?);
    let router = Linear { bias: Presence::Never, ..Linear::default() };
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, n| attention(b, hyper, layer, n, heads);
            let feed = |b: &mut Builder<'_>, n: ValueId| {
                let logits = b.linear("ffn_gate_inp", n, own.n_experts, router)?;
                let mixed = experts(b, hyper, EXPERTS, logits, n, own)?;
                // the same choice of experts, for what they leave
                let shared = experts(b, hyper, CHUNKS, logits, mixed, chunks)?;
                let shared = b.unary("ffn_chunks_scale", scale, shared);
                Ok(b.binary("ffn_sum", Binary::Add, mixed, shared))
            };
            Block::pre(norm).over(b, x, attend, feed)
        })?;
    }
    head(b, hyper, x, Head::of(norm))
}
