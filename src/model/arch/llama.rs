//! Pre-norm blocks of grouped-query attention and a gated feed-forward or a mixture of them: llama, qwen2 (biases on q,
//! k, v), qwen3 and qwen3moe (norms on the heads of q and k).

use super::Model;
use super::blocks::{Attention, FeedForward, Head, Mixture, NormOf, attention, feed_forward, head, mixture};
use super::rope::Turns;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Binary, RopePairs, Unary, ValueId};
use crate::{Error, Result};

pub fn llama(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let turns = Turns::read(&b, hyper, RopePairs::Consecutive)?.factored(&mut b, hyper, file)?;
    let rope = Some(b.rope(turns.table()?));
    let heads = Attention { rope, output_bias: Presence::Optional, ..Attention::of(hyper) };
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Optional, scales: true };
    let unit = Mixture::read(hyper, hyper.n_ff[0])?.map_or(Feed::Dense(unit), Feed::Mixture);
    pre_norm(b, hyper, x, heads, unit, Presence::Never)
}

pub fn qwen2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    hyper.without_experts()?;
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Never, scales: false };
    pre_norm(b, hyper, x, Attention { rope, ..Attention::of(hyper) }, Feed::Dense(unit), Presence::Optional)
}

pub fn qwen3(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    hyper.without_experts()?;
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Never, scales: true };
    head_norms(
        hyper,
        file,
        &["cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"],
        Feed::Dense(unit),
    )
}

pub fn qwen3moe(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let used = hyper.keys.dim("expert_used_count")?;
    let n_ff = match hyper.keys.number("expert_feed_forward_length")? {
        0 => hyper.n_ff[0] / used,
        n_ff => n_ff,
    };
    let missing = || Error::model(format!("{} is 0", hyper.keys.key("expert_count")));
    head_norms(hyper, file, &[], Feed::Mixture(Mixture::read(hyper, n_ff)?.ok_or_else(missing)?))
}

fn head_norms(hyper: &Hyper<'_>, file: &Gguf, rerankers: &[&str], unit: Feed) -> Result<Model> {
    let mut b = Builder::new(file);
    let x = b.embed("token_embd", hyper.n_embd, hyper.n_vocab)?;
    let rope = Some(b.rope(Turns::read(&b, hyper, RopePairs::Halves)?.table()?));
    for name in rerankers {
        b.ignore(name, "a reranker's head")?;
    }
    let heads = Attention { rope, head_norm: Some(NormOf::rms(hyper)?), ..Attention::of(hyper) };
    pre_norm(b, hyper, x, heads, unit, Presence::Never)
}

#[derive(Clone, Copy)]
enum Feed {
    Dense(FeedForward),
    Mixture(Mixture),
}

/// x += attention(norm(x)), x += ffn(norm(x)), with RMS norms.
fn pre_norm(
    mut b: Builder<'_>,
    hyper: &Hyper<'_>,
    mut x: ValueId,
    heads: Attention,
    unit: Feed,
    output_bias: Presence,
) -> Result<Model> {
    let norm = NormOf::rms(hyper)?;
    for layer in 0..hyper.n_layer {
        x = b.layer(layer, |b| {
            let normed = norm.row(b, "attn_norm", x)?;
            let attended = attention(b, hyper, layer, normed, heads)?;
            let x = b.binary("attn_residual", Binary::Add, x, attended);
            let normed = norm.row(b, "ffn_norm", x)?;
            let fed = match unit {
                Feed::Dense(unit) => feed_forward(b, hyper, layer, normed, unit)?,
                Feed::Mixture(experts) => mixture(b, hyper, normed, experts)?,
            };
            Ok(b.binary("ffn_residual", Binary::Add, x, fed))
        })?;
    }
    head(b, hyper, x, Head { norm, tied: true, bias: output_bias, f: None })
}
