//! The rule that makes the weights of `Fixture`'s models (archs.rs): a tensor's name, its dimensions, a seed and for a few
//! the model's name decide every element. Elements are uniform between two bounds that depend on what the tensor is for. Only additions,
//! products and square roots are used, so that the bytes are the same on every machine.
//!
//! llama.cpp's generator draws all weights from one narrow distribution, with which attention hardly matters. Here
//! rows of width n have a standard deviation of about gain / sqrt(n), so that values keep their size through a layer,
//! attention scores have a deviation of about 2, and a norm or scale that is left out, doubled or misplaced shows.

use super::tiny_model::Rng;

/// Factors on embeddings, by what models' names begin with: of models that multiply them by 12 and more themselves, where
/// layers would hardly show, and of models of so many layers that each one's rounding would grow.
const EMBEDDINGS: [(&str, f32); 4] =
    [("gemma-", 0.125), ("minicpm-", 0.125), ("baichuan-7b", 4.0), ("baichuan-13b", 4.0)];

/// The elements of a model's tensor in the file's order.
pub fn elements(model: &str, name: &str, dims: &[u64], seed: u64) -> Vec<f32> {
    let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ fnv1a(name));
    let n = dims.iter().product::<u64>() as usize;
    if name.starts_with("rope_f") {
        return (0..n).map(|_| rope_factor(&mut rng)).collect();
    }
    let (mut low, mut high) = bounds(name, dims);
    let factor = EMBEDDINGS.iter().find(|(of, _)| model.starts_with(of));
    if let (Some((_, factor)), "token_embd.weight") = (factor, name) {
        (low, high) = (low * factor, high * factor);
    }
    (0..n).map(|_| low + (high - low) * unit(&mut rng)).collect()
}

/// Uniform in [0, 1), in steps that f32 holds exactly.
fn unit(rng: &mut Rng) -> f32 {
    (rng.next() >> 40) as f32 / (1u32 << 24) as f32
}

/// RoPE divides a pair's frequency by it: 1 to 8, one in four negative, which turns the other way.
fn rope_factor(rng: &mut Rng) -> f32 {
    let sign = if rng.below(4) == 0 { -1.0 } else { 1.0 };
    sign * (1.0 + 7.0 * unit(rng))
}

/// Between which values the elements lie.
fn bounds(name: &str, dims: &[u64]) -> (f32, f32) {
    // the name without its layer and without the suffix: "attn_q", "ffn_norm"
    let part = match name.strip_prefix("blk.") {
        Some(rest) => rest.split_once('.').map_or(rest, |(_, part)| part),
        None => name,
    };
    let base = part.trim_end_matches(".weight");
    if part.ends_with(".input_scale") {
        return (2.0, 4.0); // nothing may apply it
    }
    if part.ends_with(".scale") {
        return (0.5, 1.5);
    }
    if part.ends_with(".bias") {
        return (-0.3, 0.3);
    }
    if base.contains("norm") {
        // queries and keys of a deviation of 1.5
        return if matches!(base, "attn_q_norm" | "attn_k_norm") { (1.0, 2.0) } else { (0.5, 1.5) };
    }
    match base {
        "ssm_a" => return (-0.5, -0.05), // a state that forgets within 2 to 20 tokens
        "attn_sinks" => return (-2.0, 2.0),
        "exp_probs_b" => return (-0.3, 0.3),
        "ffn.act.scales" => return (0.5, 1.5), // something is divided by it
        // embeddings that some architectures multiply by sqrt(256)
        "token_embd" => return (-0.35, 0.35),
        _ if dims.len() == 1 => return (-0.3, 0.3),
        _ => {}
    }
    let gain = match base {
        "attn_q" | "attn_k" | "attn_qkv" | "attn_q_a" | "attn_q_b" | "attn_k_b" | "attn_kv_a_mqa" => 1.6,
        "ffn_gate_inp" => 2.0,
        "ffn_gate" | "ffn_gate_exps" | "ffn_gate_shexp" | "output" => 1.5,
        _ => 1.0,
    };
    let bound = gain * (3.0 / dims[0] as f32).sqrt();
    (-bound, bound)
}

/// Fowler, Noll and Vo's hash.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}
