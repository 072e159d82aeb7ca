//! deepseek2: attention over latent rows, from which keys and values of all heads are made, and behind the first layers a
//! mixture of experts beside one that every token has.

use super::Model;
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, embed_without_nextn, head};
use super::mixture::{Mixture, Shared};
use super::rope::{Scaling, Turns, yarn_magnitude};
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Part, Presence, ScaleOrder};
use crate::plan::{Cache, Gating, RopeId, RopePairs, Scores, Unary, ValueId, Values};
use crate::{Error, Result};

pub fn deepseek2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (hyper, mut b, mut x) = embed_without_nextn(hyper, file)?;
    let hyper = &hyper;
    let norm = NormOf::rms(hyper)?;
    let heads = Latent::read(&mut b, hyper, norm)?;
    let n_dense = keys.number("leading_dense_block_count")?;
    let dense = Feed::Dense(FeedForward::gated(Unary::Silu));
    let experts = experts(hyper)?.map_or(dense, Feed::Mixture);
    let block = Block::pre(norm);
    for layer in 0..hyper.n_layer {
        let feed = if layer < n_dense { dense } else { experts };
        x = b.layer(layer, |b| {
            let attend = |b: &mut Builder<'_>, x| heads.attention(b, hyper, layer, x);
            block.over(b, x, attend, |b, x| feed.over(b, hyper, layer, x))
        })?;
    }
    head(b, hyper, x, Head::of(norm))
}

fn experts(hyper: &Hyper<'_>) -> Result<Option<Mixture>> {
    let keys = &hyper.keys;
    let Some(n_ff) = keys.find_per_layer("expert_feed_forward_length", hyper.n_layer, 1)? else {
        return Ok(None);
    };
    let (n_ff, n_shared) = (n_ff[0], keys.number("expert_shared_count")?);
    let Some(experts) = Mixture::read(hyper, n_ff)? else {
        return Ok(None);
    };
    // GLM 4.7 Flash, whose first files did not say
    let is_flash = matches!(hyper.n_layer, 47 | 48) && hyper.n_vocab == 154_880;
    let experts = experts.by_keys(hyper, Some(if is_flash { Gating::Sigmoid } else { Gating::Softmax }))?;
    let choice_bias = Presence::Optional;
    Ok(Some(Mixture {
        choice_bias,
        scales: false,
        merged: true,
        shared: Shared::of(n_shared * n_ff),
        ..experts
    }))
}

/// Latent attention (DeepSeek-V2, section 2.1): a row of `rank` elements stands for keys and values of all heads, and
/// `n_rot` rotated ones of all keys. A file with a matrix for each head (`attn_k_b`, `attn_v_b`) has queries multiplied in
/// place of keys, and results in place of values, so that the cache holds the row alone; one with `attn_kv_b` has keys
/// and values of each head.
struct Latent {
    rank: usize,
    /// Elements of a head's query and of its result: `n` that are not rotated, then `n_rot`; `v`.
    n: usize,
    n_rot: usize,
    v: usize,
    in_rows: bool,
    norm: NormOf,
    rope: RopeId,
    /// Factor on q.k.
    scale: f32,
    /// Of queries by position: scale and length.
    temper: Option<(f32, usize)>,
}

impl Latent {
    fn read(b: &mut Builder<'_>, hyper: &Hyper<'_>, norm: NormOf) -> Result<Latent> {
        let keys = &hyper.keys;
        let (rank, n_rot) = (keys.dim("attention.kv_lora_rank")?, hyper.n_rot);
        let lengths = [keys.number("attention.key_length_mla")?, keys.number("attention.value_length_mla")?];
        let in_rows = lengths != [0, 0];
        let [k, v] = if in_rows { lengths } else { [hyper.k, hyper.v] };
        let n = k.checked_sub(n_rot).filter(|n| *n > 0 && v > 0);
        let n = n.ok_or_else(|| {
            Error::model(format!("heads of {k} elements, {n_rot} of them rotated, and values of {v}"))
        })?;
        b.expect("blk.0.attn_kv_a_mqa.weight", hyper.n_embd, rank + n_rot)?;
        let mut turns = Turns::of(hyper, RopePairs::Consecutive)?;
        // converters multiply it by 0.1
        let multiplier = f64::from(keys.float_or("rope.scaling.yarn_log_multiplier", 0.0)?) / 0.1;
        let attn_factor = f64::from(turns.attn_factor);
        // scores are sharpened here; where the file says by how much, the rotation is not
        let (factor, magnitude) = match turns.scaling {
            Scaling::None => (1.0, attn_factor),
            Scaling::Linear { factor } => (factor, attn_factor * (1.0 + 0.1 * f64::from(factor).ln())),
            Scaling::Yarn { factor, .. } if multiplier == 0.0 => {
                (factor, attn_factor * yarn_magnitude(factor, 1.0))
            }
            Scaling::Yarn { factor, .. } => {
                turns.yarn_magnitude = Some(1.0);
                (factor, attn_factor)
            }
        };
        let sharpness = magnitude * (1.0 + 0.1 * multiplier * f64::from(factor).ln());
        let scale = (sharpness * sharpness / (k as f64).sqrt()) as f32;
        if !scale.is_finite() {
            let key = keys.key("rope.scaling.yarn_log_multiplier");
            return Err(Error::model(format!("{key} makes a factor of {scale} on scores")));
        }
        let temper = match keys.float_or("attention.temperature_scale", 0.0)? {
            0.0 => None,
            scale => Some((scale, keys.dim("attention.temperature_length")?)),
        };
        let rope = b.rope(turns.table()?);
        Ok(Latent { rank, n, n_rot, v, in_rows, norm, rope, scale, temper })
    }

    /// Attention of layer `layer` over x, its output product included.
    fn attention(&self, b: &mut Builder<'_>, hyper: &Hyper<'_>, layer: usize, x: ValueId) -> Result<ValueId> {
        let Latent { rank, n, n_rot, v, norm, .. } = *self;
        let (k, n_head) = (n + n_rot, hyper.n_head[layer]);
        let plain = Linear { bias: Presence::Never, scale: ScaleOrder::Ignored };
        let q = if b.has("attn_q_a.weight") {
            let low = b.linear("attn_q_a", x, hyper.keys.dim("attention.q_lora_rank")?, plain)?;
            let low = norm.row(b, "attn_q_a_norm", low)?;
            b.linear("attn_q_b", low, n_head * k, plain)?
        } else {
            b.linear("attn_q", x, n_head * k, plain)?
        };
        let mut q = b.rotate("rope_q", q, k, n, self.rope);
        if let Some((scale, length)) = self.temper {
            q = b.temper(q, scale, length);
        }
        let part = |first, len| Part { first, len, of: rank + n_rot };
        let row = b.linear_part("attn_kv_a", "attn_kv_a_mqa", x, part(0, rank), plain)?;
        let turned = b.linear_part("attn_k_pe", "attn_kv_a_mqa", x, part(rank, n_rot), plain)?;
        let row = norm.row(b, "attn_kv_a_norm", row)?;
        let turned = b.rotate("rope_k", turned, n_rot, 0, self.rope);

        let heads = if self.in_rows {
            let still = b.columns("q_nope", q, k, 0, n);
            let turned_q = b.columns("q_pe", q, k, n, n_rot);
            let still = b.mat_mul_heads("attn_k_b", still, rank, n_head)?;
            let q = b.join("q", [still, turned_q], n_head, rank + n_rot);
            let row = b.join("k", [row, turned], 1, rank + n_rot);
            let values = Values::InKeys(rank);
            let cache = b.cache(Cache { n_head_kv: 1, k: rank + n_rot, values, window: None })?;
            b.append(cache, row, None);
            let heads = b.attention(cache, q, Scores::scaled(self.scale), None);
            b.mat_mul_heads("attn_v_b", heads, v, n_head)?
        } else {
            let both = b.linear("attn_kv_b", row, n_head * (n + v), plain)?;
            let still = b.columns("k_nope", both, n + v, 0, n);
            let values = b.columns("v", both, n + v, n, v);
            let keys = b.join("k", [still, turned], n_head, k);
            let cache = b.cache(Cache { n_head_kv: n_head, k, values: Values::Own(v), window: None })?;
            b.append(cache, keys, Some(values));
            b.attention(cache, q, Scores::scaled(self.scale), None)
        };
        b.linear("attn_output", heads, hyper.n_embd, Linear { scale: ScaleOrder::BeforeBias, ..plain })
    }
}
