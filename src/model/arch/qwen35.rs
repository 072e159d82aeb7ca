//! qwen35: layers of a gated delta net and, every fourth, of attention with gated heads; each with a feed-forward behind it.

use super::Model;
use super::attention::{Attention, Gate, QkNorm, attention};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, embed_without_nextn, head};
use super::rope::{Sections, Turns};
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Part, Presence, ScaleOrder};
use crate::plan::{Binary, KeyHeads, Norm, NormKind, RopePairs, Unary, ValueId};
use crate::{Error, Result};

pub fn qwen35(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let keys = &hyper.keys;
    let interval = keys.find_dim("full_attention_interval")?.unwrap_or(4);
    let recurrent = keys.pattern("attention.recurrent_layers", hyper.n_layer, interval as u64)?;
    let (hyper, mut b, mut x) = embed_without_nextn(hyper, file)?;
    let hyper = &hyper;
    let sections = Some(Sections::Turns(Sections::lengths(keys)?));
    let turns = Turns { sections, ..Turns::read(&b, hyper, RopePairs::Halves)? };
    let rope = Some(b.rope(turns.table()?));
    let norm = NormOf::rms(hyper)?;
    let heads = Attention { rope, norm: QkNorm::Heads(norm), gate: Gate::InQueries, ..Attention::of(hyper) };
    let net = DeltaNet::read(hyper, norm)?;
    let feed = Feed::Dense(FeedForward { scales: true, ..FeedForward::gated(Unary::Silu) });
    let block = Block::pre(norm).feed_norm("post_attention_norm");
    for (layer, is_recurrent) in recurrent.into_iter().enumerate().take(hyper.n_layer) {
        x = b.layer(layer, |b| {
            let mix = |b: &mut Builder<'_>, x| match is_recurrent {
                true => net.over(b, hyper, x),
                false => attention(b, hyper, layer, x, heads),
            };
            block.over(b, x, mix, |b, x| feed.over(b, hyper, layer, x))
        })?;
    }
    head(b, hyper, x, Head::of(norm))
}

/// A gated delta net behind a convolution of its queries, keys and values.
struct DeltaNet {
    /// Heads of queries and keys, and of values; all of `size` elements.
    n_k: usize,
    n_v: usize,
    size: usize,
    /// Inputs of the convolution.
    kernel: usize,
    /// Over the heads of the result; its epsilon serves those of q and k, too.
    norm: NormOf,
}

impl DeltaNet {
    fn read(hyper: &Hyper<'_>, norm: NormOf) -> Result<DeltaNet> {
        let keys = &hyper.keys;
        let (n_k, n_v) = (keys.dim("ssm.group_count")?, keys.dim("ssm.time_step_rank")?);
        if !n_v.is_multiple_of(n_k) {
            return Err(Error::model(format!("{n_v} value heads do not divide among {n_k} key heads")));
        }
        let (size, kernel) = (keys.dim("ssm.state_size")?, keys.dim("ssm.conv_kernel")?);
        Ok(DeltaNet { n_k, n_v, size, kernel, norm })
    }

    fn over(&self, b: &mut Builder<'_>, hyper: &Hyper<'_>, x: ValueId) -> Result<ValueId> {
        let DeltaNet { n_k, n_v, size, kernel, norm } = *self;
        let (keys, values) = (n_k * size, n_v * size);
        let scaled = Linear { bias: Presence::Never, scale: ScaleOrder::BeforeBias };
        let part = |first, len| Part { first, len, of: 2 * keys + values };
        let parts = [part(0, keys), part(keys, keys), part(2 * keys, values)];
        let mut qkv = [x; 3];
        for ((out, name), part) in qkv.iter_mut().zip(["ssm_q", "ssm_k", "ssm_v"]).zip(parts) {
            *out = b.linear_part(name, "attn_qkv", x, part, scaled)?;
        }
        let gate = b.linear("attn_gate", x, values, scaled)?;
        let beta = b.linear("ssm_beta", x, n_v, scaled)?;
        let alpha = b.linear("ssm_alpha", x, n_v, scaled)?;
        for ((out, name), part) in qkv.iter_mut().zip(["conv_q", "conv_k", "conv_v"]).zip(parts) {
            *out = b.conv(name, "ssm_conv1d", *out, (kernel, part), Presence::Never, true)?;
        }
        let [q, k, v] = qkv;
        let unit = Norm { kind: NormKind::L2, weight: None, bias: None, eps: norm.eps };
        let [q, k] = [("unit_q", q), ("unit_k", k)].map(|(name, x)| b.norm(name, x, unit, size));
        let beta = b.unary("ssm_beta_sigmoid", Unary::Sigmoid, beta);
        // g = a * softplus(alpha + dt)
        let [dt, a] = ["ssm_dt.bias", "ssm_a"].map(|name| b.vector(name, Part::all(n_v)));
        let (dt, a) = (Some(dt?), Some(a?));
        let alpha = b.affine("ssm_dt", alpha, None, dt);
        let step = b.unary("ssm_softplus", Unary::Softplus, alpha);
        let g = b.affine("ssm_decay", step, a, None);
        let heads = b.delta_net([q, k, v, g, beta], n_k, KeyHeads::Turns, 1.0 / (size as f32).sqrt())?;
        let normed = norm.over(b, "ssm_norm", heads, size)?;
        let gated = b.binary("ssm_gated", Binary::Glu(Unary::Silu), gate, normed);
        b.linear("ssm_out", gated, hyper.n_embd, scaled)
    }
}
