//! Models with mixtures of experts that the generator does not describe.

use rocmforge::gguf::{Array, TensorType, Value};

use super::archs::{Fixture, Tensor};
use super::generated::Variant;

pub const VARIANTS: &[Variant] = &[
    ("afmoe-layers", "afmoe-moe", afmoe_layers),
    ("arctic-heads", "arctic-moe", arctic_heads),
    ("bailingmoe2-groups", "bailingmoe2-moe", bailingmoe2_groups),
    ("cohere2moe-layers", "cohere2moe-moe", cohere2moe_layers),
    ("dbrx-heads", "dbrx-moe", dbrx_heads),
    ("deepseek-yarn", "deepseek-moe", deepseek_yarn),
    ("dots1-plain", "dots1-moe", dots1_plain),
    ("ernie4_5-moe-all", "ernie4_5-moe-moe", ernie4_5_moe_all),
    ("exaone-moe-layers", "exaone-moe-moe", exaone_moe_layers),
    ("glm4moe-plain", "glm4moe-moe", glm4moe_plain),
    ("grok-plain", "grok-moe", grok_plain),
    ("grovemoe-chunks", "grovemoe-moe", grovemoe_chunks),
    ("hunyuan-moe-heads", "hunyuan-moe-moe", hunyuan_moe_heads),
    ("hy_v3-apart", "hy_v3-moe", hy_v3_apart),
    ("laguna-layers", "laguna-moe", laguna_layers),
    ("llama4-layers", "llama4-moe", llama4_layers),
    ("maple-limits", "maple-moe", maple_limits),
    ("mellum-yarn", "mellum-moe", mellum_yarn),
    ("mimo2-heads", "mimo2-moe", mimo2_heads),
    ("minimax-m2-heads", "minimax-m2-moe", minimax_m2_heads),
    ("minimax-m3-heads", "minimax-m3-moe", minimax_m3_heads),
    ("phimoe-long", "phimoe-moe", phimoe_long),
    ("qwen2moe-plain", "qwen2moe-moe", qwen2moe_plain),
    ("qwen3vlmoe-sections", "qwen3vlmoe-moe", qwen3vlmoe_sections),
    ("smallthinker-layers", "smallthinker-moe", smallthinker_layers),
];

/// Windows by a period, with a base of their own; a layer that does not rotate; positions scaled.
fn afmoe_layers(fixture: &mut Fixture) {
    layers(fixture, &[0, 1, 1, 1, 1]);
    number(fixture, "attention.sliding_window_pattern", 3);
    number(fixture, "attention.sliding_window", 16);
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    fixture.set("rope.scaling.factor", Value::F32(2.0));
}

fn arctic_heads(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
}

/// Experts in groups, two that every token has, partial rotation, heads that share keys and values.
fn bailingmoe2_groups(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "rope.dimension_count", 32);
    experts(fixture, 8);
    number(fixture, "expert_group_count", 4);
    number(fixture, "expert_group_used_count", 2);
    number(fixture, "expert_shared_count", 2);
    resize(fixture, "_shexp", 192, 384);
}

/// LayerNorm, windows by a period whose first layer has none, weights that are not divided, a shared expert as wide as others.
fn cohere2moe_layers(fixture: &mut Fixture) {
    layers(fixture, &[0, 1, 1, 1, 1]);
    number(fixture, "attention.sliding_window_pattern", 4);
    number(fixture, "attention.sliding_window", 16);
    fixture.set("attention.layer_norm_rms_epsilon", Value::F32(0.0));
    fixture.set("expert_weights_norm", Value::Bool(false));
    fixture.set("logit_scale", Value::F32(0.25));
    number(fixture, "expert_gating_func", 1);
    number(fixture, "expert_shared_feed_forward_length", 0);
    resize(fixture, "_shexp", 192, 384);
}

/// Bounds that most elements of q, k and v are beyond.
fn dbrx_heads(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    fixture.set("attention.clamp_kqv", Value::F32(0.4));
}

/// Positions scaled by yarn, and two experts that every token has.
fn deepseek_yarn(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    yarn(fixture);
    number(fixture, "expert_shared_count", 2);
    resize(fixture, "_shexp", 384, 768);
}

/// A softmax over all, weights that are not divided, no bias of the choice.
fn dots1_plain(fixture: &mut Fixture) {
    number(fixture, "expert_gating_func", 1);
    fixture.set("expert_weights_norm", Value::Bool(false));
    remove(fixture, "exp_probs_b");
}

/// A mixture in each layer, without an expert that every token has and without a bias of the choice.
fn ernie4_5_moe_all(fixture: &mut Fixture) {
    layers(fixture, &[1, 1]);
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "leading_dense_block_count", 0);
    number(fixture, "interleave_moe_layer_step", 1);
    number(fixture, "expert_shared_feed_forward_length", 0);
    remove(fixture, "_shexp");
    remove(fixture, "exp_probs_b");
}

/// Windows by a period, without factors of the rotation.
fn exaone_moe_layers(fixture: &mut Fixture) {
    layers(fixture, &[0, 1, 1, 1, 1]);
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "attention.sliding_window_pattern", 4);
    number(fixture, "attention.sliding_window", 16);
    fixture.set("rope.scaling.factor", Value::F32(2.0));
    remove(fixture, "rope_freqs");
    remove(fixture, "exp_probs_b");
}

/// Without norms of heads, and pairs that follow no coordinate.
fn glm4moe_plain(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    let sections = Array::I32(vec![8, 4, 4, 16]);
    fixture.set("rope.dimension_sections", Value::Array(sections));
    number(fixture, "expert_gating_func", 1);
    remove(fixture, "attn_q_norm");
    remove(fixture, "attn_k_norm");
}

/// Without a dense feed-forward, the last norm by its other name, all keys other than their defaults, tied output.
fn grok_plain(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    for name in ["ffn_gate.", "ffn_up.", "ffn_down."] {
        remove(fixture, name);
    }
    rename(fixture, "layer_output_norm", "post_ffw_norm");
    fixture.tensors.retain(|tensor| tensor.name != "output.weight");
    fixture.set("attention.output_scale", Value::F32(0.25));
    fixture.set("attn_logit_softcapping", Value::F32(2.0));
    fixture.set("embedding_scale", Value::F32(3.0));
    fixture.set("logit_scale", Value::F32(2.0));
    fixture.set("final_logit_softcapping", Value::F32(5.0));
}

/// Four experts share a chunk.
fn grovemoe_chunks(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    experts(fixture, 8);
    number(fixture, "experts_per_group", 4);
    number(fixture, "expert_chunk_feed_forward_length", 96);
    resize(fixture, "chexps", 128, 96);
    fixture.set("expert_group_scale", Value::F32(0.3));
}

/// The expert that every token has as wide as others.
fn hunyuan_moe_heads(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "expert_shared_feed_forward_length", 0);
    resize(fixture, "_shexp", 192, 384);
}

/// Gate and up apart, with scales; a dense layer; weights that are not divided.
fn hy_v3_apart(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    apart(fixture);
    let of_mixture = ["_exps", "_shexp", "ffn_gate_inp", "exp_probs_b"];
    fixture.tensors.retain(|tensor| {
        !(tensor.name.starts_with("blk.0.") && of_mixture.iter().any(|part| tensor.name.contains(part)))
    });
    fixture.set("expert_weights_norm", Value::Bool(false));
}

/// Other heads in each layer, a gate for each element, windows by a period, in which fewer elements rotate and no yarn applies.
fn laguna_layers(fixture: &mut Fixture) {
    layers(fixture, &[0, 1, 1]);
    heads(fixture, [4, 2], [40, 40]);
    let counts = [4, 2, 4];
    fixture.set("attention.head_count", Value::Array(Array::U32(counts.to_vec())));
    for tensor in &mut fixture.tensors {
        let mut parts = tensor.name.split('.').skip(1);
        let (Some(layer), Some(part)) = (parts.next().and_then(|n| n.parse::<usize>().ok()), parts.next())
        else {
            continue;
        };
        let width = u64::from(counts[layer]) * 40;
        match (part, parts.next()) {
            ("attn_q", Some("weight" | "bias")) | ("attn_gate", Some("weight")) => {
                *tensor.dims.last_mut().expect("at least one dimension") = width;
            }
            ("attn_output", Some("weight")) => tensor.dims[0] = width,
            _ => {}
        }
    }
    number(fixture, "attention.sliding_window_pattern", 2);
    number(fixture, "attention.sliding_window", 16);
    number(fixture, "rope.dimension_count_swa", 24);
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    number(fixture, "expert_shared_feed_forward_length", 0);
    resize(fixture, "_shexp", 192, 384);
    yarn(fixture);
}

/// One expert of four in each layer, layers with chunks by a period other than that of rotation, with a base of their own.
fn llama4_layers(fixture: &mut Fixture) {
    layers(fixture, &[1, 3, 1, 3, 1]);
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "attention.sliding_window_pattern", 3);
    number(fixture, "interleave_moe_layer_step", 1);
    number(fixture, "expert_used_count", 1);
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    remove(fixture, "rope_freqs");
}

/// Bounds that most of what goes into a unit is beyond, in one layer.
fn maple_limits(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    fixture.set("swiglu_clamp_exp", Value::Array(Array::F32(vec![0.5, 0.0])));
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    number(fixture, "attention.sliding_window", 16);
}

/// Yarn in layers without windows, which stand by a period.
fn mellum_yarn(fixture: &mut Fixture) {
    layers(fixture, &[0, 1, 0, 1, 0]);
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "attention.sliding_window_pattern", 3);
    number(fixture, "attention.sliding_window", 16);
    yarn(fixture);
}

/// Keys longer than values, other heads in each layer, a dense layer, one without sinks, attention scaled.
fn mimo2_heads(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [48, 40]);
    number(fixture, "rope.dimension_count", 32);
    number(fixture, "rope.dimension_count_swa", 32);
    fixture.set("attention.head_count_kv", Value::Array(Array::U32(vec![2, 1])));
    for tensor in fixture.tensors.iter_mut().filter(|tensor| tensor.name.starts_with("blk.1.")) {
        let last = tensor.dims.last_mut().expect("at least one dimension");
        match tensor.name["blk.1.".len()..].split('.').next() {
            Some("attn_k") if *last == 96 => *last = 48,
            Some("attn_v") if *last == 80 => *last = 40,
            _ => {}
        }
    }
    fixture.set("attention.value_scale", Value::F32(0.7));
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    yarn(fixture);
    let gone = ["_exps", "ffn_gate_inp", "exp_probs_b", "attn_sinks"];
    fixture.tensors.retain(|tensor| {
        !(tensor.name.starts_with("blk.0.") && gone.iter().any(|part| tensor.name.contains(part)))
    });
}

/// Norms of rows of q and k that differ in length.
fn minimax_m2_heads(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "rope.dimension_count", 32);
    resize(fixture, "attn_q_norm", 64, 256);
    resize(fixture, "attn_k_norm", 64, 128);
}

/// Query heads that share keys and values.
fn minimax_m3_heads(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "rope.dimension_count", 32);
    number(fixture, "leading_dense_block_count", 0);
    let second: Vec<_> = fixture.tensors.iter().filter(|t| t.name.starts_with("blk.1.")).cloned().collect();
    fixture.tensors.retain(|tensor| !tensor.name.starts_with("blk.0."));
    fixture
        .tensors
        .extend(second.into_iter().map(|t| Tensor { name: t.name.replace("blk.1.", "blk.0."), ..t }));
}

/// A session for more positions than the model was first trained on.
fn phimoe_long(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    fixture.set("rope.scaling.type", Value::String("longrope".into()));
    fixture.set("rope.scaling.attn_factor", Value::F32(1.2));
    number(fixture, "rope.scaling.original_context_length", 32);
    resize(fixture, "rope_factors", 64, 32);
}

/// Lengths of experts that follow from that of a dense feed-forward.
fn qwen2moe_plain(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "expert_feed_forward_length", 0);
    number(fixture, "expert_shared_feed_forward_length", 0);
    resize(fixture, "_exps", 384, 192);
    resize(fixture, "_shexp", 192, 384);
}

/// Pairs that follow no coordinate of a position.
fn qwen3vlmoe_sections(fixture: &mut Fixture) {
    heads(fixture, [4, 2], [64, 64]);
    fixture.set("rope.dimension_sections", Value::Array(Array::I32(vec![12, 10, 6, 0])));
    number(fixture, "expert_feed_forward_length", 192);
    resize(fixture, "_exps", 384, 192);
}

/// Layers with and without windows and rotation, by a period; a softmax over all.
fn smallthinker_layers(fixture: &mut Fixture) {
    layers(fixture, &[0, 1, 0, 1, 0]);
    heads(fixture, [4, 2], [64, 64]);
    number(fixture, "attention.sliding_window_pattern", 3);
    number(fixture, "expert_gating_func", 1);
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
}

fn number(fixture: &mut Fixture, key: &str, n: u32) {
    fixture.set(key, Value::U32(n));
}

fn yarn(fixture: &mut Fixture) {
    fixture.set("rope.scaling.type", Value::String("yarn".into()));
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    fixture.set("rope.scaling.attn_factor", Value::F32(1.1));
    number(fixture, "rope.scaling.original_context_length", 32);
}

fn remove(fixture: &mut Fixture, part: &str) {
    fixture.tensors.retain(|tensor| !tensor.name.contains(part));
}

fn rename(fixture: &mut Fixture, from: &str, to: &str) {
    for tensor in &mut fixture.tensors {
        tensor.name = tensor.name.replace(from, to);
    }
}

/// The dimensions of that size, of tensors with that part in their names.
fn resize(fixture: &mut Fixture, part: &str, from: u64, to: u64) {
    for tensor in fixture.tensors.iter_mut().filter(|tensor| tensor.name.contains(part)) {
        tensor.dims.iter_mut().filter(|dim| **dim == from).for_each(|dim| *dim = to);
    }
}

/// As many layers as are named, each with the tensors of the one that is.
fn layers(fixture: &mut Fixture, of: &[usize]) {
    let tensors = std::mem::take(&mut fixture.tensors);
    fixture.tensors = tensors.iter().filter(|tensor| !tensor.name.starts_with("blk.")).cloned().collect();
    for (layer, of) in of.iter().enumerate() {
        let prefix = format!("blk.{of}.");
        let own = tensors.iter().filter_map(|tensor| Some((tensor.name.strip_prefix(&prefix)?, tensor)));
        let own = own.map(|(part, tensor)| Tensor { name: format!("blk.{layer}.{part}"), ..tensor.clone() });
        fixture.tensors.extend(own);
    }
    number(fixture, "block_count", of.len() as u32);
}

/// Heads of queries and of keys and values; elements of a key and of a value.
fn heads(fixture: &mut Fixture, [n, n_kv]: [u64; 2], [k, v]: [u64; 2]) {
    let keys = [
        ("attention.head_count", n),
        ("attention.head_count_kv", n_kv),
        ("attention.key_length", k),
        ("attention.key_length_swa", k),
        ("attention.value_length", v),
        ("attention.value_length_swa", v),
        ("rope.dimension_count", k),
        ("rope.dimension_count_swa", k),
    ];
    for (key, value) in keys {
        number(fixture, key, value as u32);
    }
    for Tensor { name, dims, .. } in &mut fixture.tensors {
        if name.contains("scale") {
            continue;
        }
        let last = dims.last_mut().expect("at least one dimension");
        match name.split('.').nth(2).unwrap_or_default() {
            "attn_q" => *last = n * k,
            "attn_k" => *last = n_kv * k,
            "attn_v" => *last = n_kv * v,
            "attn_qkv" => *last = (n + n_kv) * k + n_kv * v,
            "attn_q_norm" | "attn_k_norm" => *last = k,
            "attn_sinks" => *last = n,
            "attn_output" if name.ends_with("weight") => dims[0] = n * v,
            _ => {}
        }
    }
}

fn experts(fixture: &mut Fixture, n: u64) {
    number(fixture, "expert_count", n as u32);
    for tensor in &mut fixture.tensors {
        if ["_exps", "ffn_gate_inp.", "exp_probs_b"].iter().any(|part| tensor.name.contains(part)) {
            *tensor.dims.last_mut().expect("at least one dimension") = n;
        }
    }
}

/// Gate and up of the experts as tensors of their own, with scales.
fn apart(fixture: &mut Fixture) {
    let tensors = std::mem::take(&mut fixture.tensors);
    for tensor in tensors {
        if !tensor.name.contains("ffn_gate_up_exps") {
            fixture.tensors.push(tensor);
            continue;
        }
        for name in ["ffn_gate_exps", "ffn_up_exps"] {
            let name = tensor.name.replace("ffn_gate_up_exps", name);
            let dims = vec![tensor.dims[0], tensor.dims[1] / 2, tensor.dims[2]];
            let scale = name.replace("weight", "scale");
            fixture.tensors.push(Tensor { name, ty: tensor.ty, dims });
            let dims = vec![tensor.dims[2]];
            fixture.tensors.push(Tensor { name: scale, ty: TensorType::F32, dims });
        }
    }
}
