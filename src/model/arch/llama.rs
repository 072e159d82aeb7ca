//! The llama family: pre-norm blocks of grouped-query attention and a gated feed-forward.
//! llama, qwen2 (biases on q, k, v) and qwen3 (norms on the heads of q and k).

use super::builder::PlanBuilder;
use super::rope;
use crate::Result;
use crate::device::plan::*;
use crate::gguf::Gguf;
use crate::model::Config;

struct Traits {
    pairs: RopePairs,
    /// RMS norm over each head of q and k, before RoPE.
    head_norm: bool,
    /// The file may hold factors for RoPE's frequencies.
    rope_factors: bool,
}

pub fn llama(config: &Config, file: &Gguf) -> Result<Plan> {
    build(config, file, Traits { pairs: RopePairs::Consecutive, head_norm: false, rope_factors: true })
}

pub fn qwen2(config: &Config, file: &Gguf) -> Result<Plan> {
    build(config, file, Traits { pairs: RopePairs::Halves, head_norm: false, rope_factors: false })
}

pub fn qwen3(config: &Config, file: &Gguf) -> Result<Plan> {
    build(config, file, Traits { pairs: RopePairs::Halves, head_norm: true, rope_factors: false })
}

fn build(c: &Config, file: &Gguf, traits: Traits) -> Result<Plan> {
    let mut b = PlanBuilder::new(file);
    let (n_q, n_kv) = (c.n_head * c.head_dim, c.n_head_kv * c.head_dim);

    let x = b.buffer("x", c.n_embd, Rows::Tokens);
    let normed = b.buffer("normed", c.n_embd, Rows::Tokens);
    let q = b.buffer("q", n_q, Rows::Tokens);
    let k = b.buffer("k", n_kv, Rows::Tokens);
    let v = b.buffer("v", n_kv, Rows::Tokens);
    let heads = b.buffer("heads", n_q, Rows::Tokens);
    let projected = b.buffer("projected", c.n_embd, Rows::Tokens);
    let gate = b.buffer("gate", c.n_ff, Rows::Tokens);
    let up = b.buffer("up", c.n_ff, Rows::Tokens);
    let x_out = b.buffer("x_out", c.n_embd, Rows::Outputs);
    let normed_out = b.buffer("normed_out", c.n_embd, Rows::Outputs);
    let logits = b.buffer("logits", c.n_vocab, Rows::Outputs);

    let embd = b.matrix("token_embd.weight", c.n_embd, c.n_vocab)?;
    b.op("token_embd", Op::Embed { weight: embd, out: x });

    // The table is as long as a head, which a tensor of the file must bear out first.
    b.expect("blk.0.attn_q.weight", c.n_embd, n_q)?;
    let rope = rope::table(c, file, traits.pairs, traits.rope_factors)?;
    if traits.rope_factors {
        b.has_read(rope::FACTORS);
    }
    let rope = b.rope(rope);

    for layer in 0..c.n_layer {
        b.layer(|b| {
            let name = |part: &str| format!("blk.{layer}.{part}");

            let weight = b.vector(&name("attn_norm.weight"), c.n_embd)?;
            b.op(name("attn_norm"), Op::RmsNorm { x, weight, eps: c.rms_eps, out: normed });
            for (part, out, width) in [("attn_q", q, n_q), ("attn_k", k, n_kv), ("attn_v", v, n_kv)] {
                let weight = b.matrix(&name(&format!("{part}.weight")), c.n_embd, width)?;
                let bias = b.find(&name(&format!("{part}.bias")), width, 1)?;
                b.op(name(part), Op::MatMul { x: normed, weight, bias, out });
            }
            if traits.head_norm {
                for (part, x) in [("attn_q_norm", q), ("attn_k_norm", k)] {
                    let weight = b.vector(&name(&format!("{part}.weight")), c.head_dim)?;
                    b.op(name(part), Op::RmsNorm { x, weight, eps: c.rms_eps, out: x });
                }
            }
            for (part, x) in [("rope_q", q), ("rope_k", k)] {
                b.op(name(part), Op::Rope { x, head_dim: c.head_dim, rope });
            }
            b.op(name("kv_append"), Op::KvAppend { layer, k, v });
            let scale = 1.0 / (c.head_dim as f32).sqrt();
            b.op(name("attention"), Op::Attention { layer, q, scale, out: heads });
            let weight = b.matrix(&name("attn_output.weight"), n_q, c.n_embd)?;
            let bias = b.find(&name("attn_output.bias"), c.n_embd, 1)?;
            b.op(name("attn_output"), Op::MatMul { x: heads, weight, bias, out: projected });
            b.op(name("attn_residual"), Op::Add { a: x, b: projected, out: x });

            let weight = b.vector(&name("ffn_norm.weight"), c.n_embd)?;
            b.op(name("ffn_norm"), Op::RmsNorm { x, weight, eps: c.rms_eps, out: normed });
            for (part, out) in [("ffn_gate", gate), ("ffn_up", up)] {
                let weight = b.matrix(&name(&format!("{part}.weight")), c.n_embd, c.n_ff)?;
                let bias = b.find(&name(&format!("{part}.bias")), c.n_ff, 1)?;
                b.op(name(part), Op::MatMul { x: normed, weight, bias, out });
            }
            b.op(name("ffn_glu"), Op::Glu { gate, up, activation: Activation::Silu, out: gate });
            let weight = b.matrix(&name("ffn_down.weight"), c.n_ff, c.n_embd)?;
            let bias = b.find(&name("ffn_down.bias"), c.n_embd, 1)?;
            b.op(name("ffn_down"), Op::MatMul { x: gate, weight, bias, out: projected });
            b.op(name("ffn_residual"), Op::Add { a: x, b: projected, out: x });
            Ok(())
        })?;
    }

    b.op("select", Op::SelectRows { x, out: x_out });
    let weight = b.vector("output_norm.weight", c.n_embd)?;
    b.op("output_norm", Op::RmsNorm { x: x_out, weight, eps: c.rms_eps, out: normed_out });
    // a file without output.weight ties the output to the embedding
    let weight = match b.find("output.weight", c.n_embd, c.n_vocab)? {
        Some(weight) => weight,
        None => embd,
    };
    let bias = b.find("output.bias", c.n_vocab, 1)?;
    b.op("output", Op::MatMul { x: normed_out, weight, bias, out: logits });

    let cache =
        CacheShape { n_layers: c.n_layer, n_head: c.n_head, n_head_kv: c.n_head_kv, head_dim: c.head_dim };
    b.finish(cache, logits)
}
