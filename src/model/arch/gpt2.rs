//! Decoders of LayerNorms and one feed-forward a layer. gpt2 and starcoder have embeddings of positions; bloom, jais and mpt
//! scores that fall with the distance; gptneox, falcon, stablelm, starcoder2, codeshell, nemotron, jais2, orion, olmo and
//! pockettts rotations.

use super::Model;
use super::attention::{Attention, QkNorm};
use super::blocks::{Block, Feed, FeedForward, Head, NormOf, Norms, Output, decoder, embed};
use super::rope::Turns;
use crate::Result;
use crate::gguf::Gguf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Presence};
use crate::plan::{Binary, RopePairs, Scores, Unary, ValueId};

/// What differs between them.
struct Layers {
    /// None: nothing rotates.
    pairs: Option<RopePairs>,
    block: Block,
    heads: Attention,
    unit: FeedForward,
    output: Output,
}

impl Layers {
    /// Pre-norm blocks, halves of heads that are rotated, GELU without a gate, and biases throughout.
    fn of(hyper: &Hyper<'_>) -> Result<Layers> {
        Ok(Layers {
            pairs: Some(RopePairs::Halves),
            block: Block::pre(NormOf::layer(hyper)?),
            heads: Attention { output_bias: Presence::Required, ..Attention::of(hyper) },
            unit: FeedForward::plain(Unary::Gelu),
            output: Output::OwnOrEmbedding,
        })
    }

    /// The same, with biases on q, k and v at most.
    fn unbiased(hyper: &Hyper<'_>, unit: FeedForward) -> Result<Layers> {
        let unit = FeedForward { bias: Presence::Never, ..unit };
        Ok(Layers { heads: Attention::of(hyper), unit, ..Layers::of(hyper)? })
    }

    fn model(self, hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
        let (b, x) = embed(hyper, file)?;
        self.over(hyper, b, x)
    }

    fn over(self, hyper: &Hyper<'_>, mut b: Builder<'_>, x: ValueId) -> Result<Model> {
        hyper.without_experts()?;
        let rope = match self.pairs {
            Some(pairs) => Some(b.rope(Turns::read(&b, hyper, pairs)?.table()?)),
            None => None,
        };
        let heads = Attention { rope, ..self.heads };
        let end = Head { output: self.output, ..Head::of(self.block.norm) };
        decoder(b, hyper, x, self.block, end, |_| (heads, Feed::Dense(self.unit)))
    }
}

pub fn gpt2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, tokens) = embed(hyper, file)?;
    let x = with_positions(&mut b, hyper, tokens)?;
    let layers = Layers::of(hyper)?;
    let heads = Attention { bias: Presence::Required, ..layers.heads };
    Layers { pairs: None, heads, ..layers }.over(hyper, b, x)
}

/// x + the embedding of each token's position
fn with_positions(b: &mut Builder<'_>, hyper: &Hyper<'_>, x: ValueId) -> Result<ValueId> {
    let positions = b.embed_positions("position_embd", hyper.n_embd, hyper.keys.context_length()?)?;
    Ok(b.binary("embd", Binary::Add, x, positions))
}

pub fn bloom(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let (mut b, tokens) = embed(hyper, file)?;
    let layers = Layers::of(hyper)?;
    let x = layers.block.norm.row(&mut b, "token_embd_norm", tokens)?;
    let scores = Scores { alibi: 8.0, ..layers.heads.scores };
    let heads = Attention { bias: Presence::Required, scores, ..layers.heads };
    Layers { pairs: None, heads, ..layers }.over(hyper, b, x)
}

/// Scores are divided by a head's length instead of its root.
pub fn jais(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::of(hyper)?;
    let alibi = hyper.keys.float_or("attention.max_alibi_bias", 0.0)?.max(0.0);
    let scores = Scores { alibi, ..Scores::scaled(1.0 / hyper.k as f32) };
    let heads = Attention { bias: Presence::Required, scores, ..layers.heads };
    let unit = FeedForward { bias: Presence::Required, ..FeedForward::gated(Unary::Silu) };
    Layers { pairs: None, heads, unit, output: Output::Own, ..layers }.model(hyper, file)
}

/// Biases, embeddings of positions, bounds of queries, keys and values, and divisors of what GELU makes are where a file has
/// them. Norms of queries are not computed: llama.cpp fails on them. Without them one of keys is not used.
pub fn mpt(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let keys = &hyper.keys;
    let (mut b, mut x) = embed(hyper, file)?;
    if b.has("position_embd.weight") {
        x = with_positions(&mut b, hyper, x)?;
    }
    for (layer, part) in (0..hyper.n_layer).flat_map(|layer| [(layer, "weight"), (layer, "bias")]) {
        b.ignore(&format!("blk.{layer}.attn_k_norm.{part}"), "queries have no norm")?;
    }
    let layers = Layers::of(hyper)?;
    let alibi = keys.float_or("attention.max_alibi_bias", 0.0)?.max(0.0);
    let heads = Attention {
        output_bias: Presence::Optional,
        clamp: keys.float_or("attention.clamp_kqv", 0.0)?,
        scores: Scores { alibi, ..layers.heads.scores },
        ..layers.heads
    };
    let block = Block::pre(NormOf { bias: Presence::Optional, ..layers.block.norm });
    let (bias, divisors) = (Presence::Optional, Presence::Optional);
    let unit = FeedForward { bias, divisors, ..layers.unit };
    Layers { pairs: None, block, heads, unit, ..layers }.over(hyper, b, x)
}

pub fn starcoder2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    Layers::of(hyper)?.model(hyper, file)
}

pub fn jais2(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    Layers { unit: FeedForward::plain(Unary::Relu2), ..Layers::of(hyper)? }.model(hyper, file)
}

pub fn nemotron(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let heads = Attention { output_bias: Presence::Optional, ..Attention::of(hyper) };
    let unit = FeedForward { bias: Presence::Optional, ..FeedForward::plain(Unary::Relu2) };
    Layers { heads, unit, output: Output::Own, ..Layers::of(hyper)? }.model(hyper, file)
}

/// A file may leave out the embedding, which then is the output matrix.
pub fn codeshell(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let mut b = Builder::new(file);
    let embedding = if b.has("token_embd.weight") { "token_embd" } else { "output" };
    let x = b.embed(embedding, hyper.n_embd, hyper.n_vocab)?;
    Layers { output: Output::Own, ..Layers::of(hyper)? }.over(hyper, b, x)
}

/// The halves stand side by side, each behind a norm of its own, or one behind the other, as the file says.
pub fn gptneox(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::of(hyper)?;
    let block = Block { parallel: hyper.keys.bool("use_parallel_residual")?, ..layers.block };
    let heads = Attention { bias: Presence::Required, ..layers.heads };
    Layers { block, heads, output: Output::Own, ..layers }.model(hyper, file)
}

/// The halves stand side by side, in larger models each behind a norm of its own.
pub fn falcon(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::unbiased(hyper, FeedForward::plain(Unary::Gelu))?;
    let mut block = Block::parallel(layers.block.norm);
    if file.tensor("blk.0.attn_norm_2.weight").is_some() {
        block.norms = Norms { attention: [Some("attn_norm_2"), None], feed: [Some("attn_norm"), None] };
    }
    let heads = Attention { bias: Presence::Never, ..layers.heads };
    Layers { block, heads, ..layers }.model(hyper, file)
}

/// Without a norm of the feed-forward the halves stand side by side; heads may have norms.
pub fn stablelm(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::unbiased(hyper, FeedForward::gated(Unary::Silu))?;
    let norm = layers.block.norm;
    let has = |name: &str| file.tensor(name).is_some();
    let block = if has("blk.0.ffn_norm.weight") { Block::pre(norm) } else { Block::parallel(norm) };
    let norm = if has("blk.0.attn_q_norm.weight") { QkNorm::EachHead(norm) } else { QkNorm::None };
    let heads = Attention { norm, ..layers.heads };
    Layers { block, heads, output: Output::Own, ..layers }.model(hyper, file)
}

pub fn orion(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::unbiased(hyper, FeedForward::gated(Unary::Silu))?;
    Layers { output: Output::Own, ..layers }.model(hyper, file)
}

/// The output matrix is the embedding.
pub fn pockettts(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::unbiased(hyper, FeedForward::plain(Unary::Gelu))?;
    Layers { pairs: Some(RopePairs::Consecutive), output: Output::Embedding, ..layers }.model(hyper, file)
}

/// Norms have no weights; queries, keys and values may be bounded.
pub fn olmo(hyper: &Hyper<'_>, file: &Gguf) -> Result<Model> {
    let layers = Layers::unbiased(hyper, FeedForward::gated(Unary::Silu))?;
    let block = Block::pre(layers.block.norm.bare());
    let heads = Attention { clamp: hyper.keys.float_or("attention.clamp_kqv", 0.0)?, ..layers.heads };
    Layers { pairs: Some(RopePairs::Consecutive), block, heads, ..layers }.model(hyper, file)
}
