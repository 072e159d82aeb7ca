//! Variants of dense models with RMS norms: what the generator's own models do not show of them.

use rocmforge::gguf::{Array, TensorType, Value};

use super::archs::{Fixture, Tensor};
use super::generated::Variant;

pub const VARIANTS: &[Variant] = &[
    ("baichuan-7b", "baichuan-dense", |f| small(f, 32)),
    ("baichuan-13b", "baichuan-dense", |f| small(f, 40)),
    ("chatglm-half", "chatglm-dense", chatglm_half),
    ("dream-grouped", "dream-dense", |f| grouped(f, 2)),
    ("llada-moe-shares", "llada-moe-moe", llada_moe_shares),
    ("phi3-long", "phi3-dense", phi3_long),
    ("qwen3tts-words", "qwen3tts-dense", qwen3tts_words),
    ("rnd1-grouped", "rnd1-moe", |f| grouped(f, 2)),
    ("talkie-grouped", "talkie-dense", talkie_grouped),
    ("cogvlm-base", "cogvlm-dense", cogvlm_base),
    ("deci-searched", "deci-dense", deci_searched),
    ("exaone-linear", "exaone-dense", exaone_linear),
    ("exaone4-32b", "exaone4-dense", exaone4_32b),
    ("gemma-long-heads", "gemma-dense", gemma_long_heads),
    ("glm4-still", "glm4-dense", glm4_still),
    ("granite-bare", "granite-dense", granite_bare),
    ("granite-longrope", "granite-dense", granite_longrope),
    ("granite-still", "granite-dense", granite_still),
    ("granitemoe-grouped", "granitemoe-moe", granitemoe_grouped),
    ("hrm_text-stacks", "hrm_text-dense", hrm_text_stacks),
    ("hunyuan-alpha", "hunyuan-dense-dense", hunyuan_alpha),
    ("hunyuan_vl-fourth", "hunyuan_vl-dense", |f| grouped(f, 2)),
    ("hunyuan_vl-still", "hunyuan_vl-dense", without_sections),
    ("internlm2-fused", "internlm2-dense", internlm2_fused),
    ("minicpm-bare", "minicpm-dense", minicpm_bare),
    ("mistral3-yarn", "mistral3-dense", mistral3_yarn),
    ("nanbeige-loops", "nanbeige-dense", nanbeige_loops),
    ("nanbeige-skips", "nanbeige-dense", nanbeige_skips),
    ("olmo2-windows", "olmo2-dense", olmo2_windows),
    ("openelm-widths", "openelm-dense", openelm_widths),
    ("paddleocr-fourth", "paddleocr-moe", |f| grouped(f, 2)),
    ("qwen2vl-fourth", "qwen2vl-dense", |f| grouped(f, 1)),
    ("qwen3vl-fourth", "qwen3vl-dense", |f| grouped(f, 2)),
    ("seed_oss-bare", "seed_oss-dense", seed_oss_bare),
    ("smollm3-four", "smollm3-dense", smollm3_four),
];

/// Elements of a head in grouped models, which have 4 of them.
const HEAD: u64 = 64;

/// 4 query heads over `kv` kv heads. Of pairs that follow coordinates, the last of each 11 follow the fourth.
fn grouped(fixture: &mut Fixture, kv: u64) {
    heads(fixture, [4, kv], HEAD);
    if has(fixture, "rope.dimension_sections", |value| matches!(value, Value::Array(_))) {
        fixture.set("rope.dimension_sections", Value::Array(Array::I32(vec![4, 3, 2, 2])));
    }
}

/// `q` query heads over `kv` kv heads of `head` elements.
fn heads(fixture: &mut Fixture, [q, kv]: [u64; 2], head: u64) {
    for (key, value) in [
        ("attention.head_count", q),
        ("attention.head_count_kv", kv),
        ("attention.key_length", head),
        ("attention.value_length", head),
        ("attention.key_length_swa", head),
        ("attention.value_length_swa", head),
        ("rope.dimension_count", head),
        ("rope.dimension_count_swa", head),
    ] {
        fixture.set(key, Value::U32(value as u32));
    }
    for tensor in &mut fixture.tensors {
        reshape_heads(tensor, [q, kv], head);
    }
}

/// The tensor as it is with `q` query heads over `kv` kv heads of `head` elements.
fn reshape_heads(tensor: &mut Tensor, [q, kv]: [u64; 2], head: u64) {
    if tensor.name.ends_with("scale") {
        return;
    }
    let part = tensor.name.split('.').nth(2).unwrap_or(&tensor.name);
    let last = tensor.dims.len() - 1;
    let of_row = tensor.dims[last] == 256;
    match part {
        "attn_q" | "attn_gate" => tensor.dims[last] = q * head,
        "attn_k" | "attn_v" => tensor.dims[last] = kv * head,
        "attn_qkv" | "vis_attn_qkv" => tensor.dims[last] = (q + 2 * kv) * head,
        "attn_output" | "vis_attn_output" if last == 1 => tensor.dims[0] = q * head,
        "attn_q_norm" if last == 1 => tensor.dims[1] = q,
        "attn_q_norm" => tensor.dims[0] = if of_row { q * head } else { head },
        "attn_k_norm" => tensor.dims[0] = if of_row { kv * head } else { head },
        _ if part.starts_with("rope_f") => tensor.dims[0] = head / 2,
        _ => {}
    }
}

/// `n` layers, those behind the first two like the second.
fn layers(fixture: &mut Fixture, n: usize) {
    fixture.set("block_count", Value::U32(n as u32));
    let second: Vec<_> = fixture.tensors.iter().filter(|t| t.name.starts_with("blk.1.")).cloned().collect();
    for layer in 2..n {
        for tensor in &second {
            let name = tensor.name.replace("blk.1.", &format!("blk.{layer}."));
            fixture.tensors.push(Tensor { name, ..tensor.clone() });
        }
    }
}

/// `n` layers over rows of 64 elements.
fn small(fixture: &mut Fixture, n: usize) {
    heads(fixture, [4, 2], 16);
    fixture.set("embedding_length", Value::U32(64));
    fixture.set("feed_forward_length", Value::U32(96));
    for tensor in &mut fixture.tensors {
        let (last, part) = (tensor.dims.len() - 1, tensor.name.split('.').nth(2));
        if tensor.name.ends_with("scale") {
            continue;
        }
        match part {
            Some("attn_q" | "attn_k" | "attn_v") if last == 1 => tensor.dims[0] = 64,
            Some("attn_output") => tensor.dims[last] = 64,
            Some("ffn_gate" | "ffn_up") => tensor.dims = vec![64, 96],
            Some("ffn_down") => tensor.dims = vec![96, 64],
            Some("attn_norm" | "ffn_norm" | "post_attention_norm" | "post_ffw_norm") => {
                tensor.dims = vec![64]
            }
            _ if ["token_embd", "output"].iter().any(|name| tensor.name.starts_with(name)) => {
                tensor.dims[0] = 64;
            }
            _ => {}
        }
    }
    layers(fixture, n);
}

fn has(fixture: &Fixture, key: &str, is: impl Fn(&Value) -> bool) -> bool {
    fixture.metadata.iter().any(|(known, value)| known.ends_with(&format!(".{key}")) && is(value))
}

/// A key that the generator does not write.
fn add(fixture: &mut Fixture, key: &str, value: Value) {
    let arch = fixture.metadata.iter().find(|(key, _)| key == "general.architecture");
    let Some((_, Value::String(arch))) = arch else { panic!("{}: no architecture", fixture.name) };
    fixture.metadata.push((format!("{arch}.{key}"), value));
}

fn without_keys(fixture: &mut Fixture, keys: &[&str]) {
    fixture.metadata.retain(|(name, _)| !keys.iter().any(|key| name.ends_with(&format!(".{key}"))));
}

/// Without tensors whose names hold one of the words.
fn without(fixture: &mut Fixture, words: &[&str]) {
    let n = fixture.tensors.len();
    fixture.tensors.retain(|tensor| !words.iter().any(|word| tensor.name.contains(word)));
    assert!(fixture.tensors.len() < n, "{}: nothing is called {words:?}", fixture.name);
}

fn counts(values: &[u32]) -> Value {
    Value::Array(Array::U32(values.to_vec()))
}

fn linear(fixture: &mut Fixture, factor: f32) {
    fixture.set("rope.scaling.factor", Value::F32(factor));
}

fn yarn(fixture: &mut Fixture) {
    fixture.set("rope.scaling.type", Value::String("yarn".into()));
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    fixture.set("rope.scaling.attn_factor", Value::F32(1.1));
    fixture.set("rope.scaling.original_context_length", Value::U32(32));
}

fn without_sections(fixture: &mut Fixture) {
    fixture.set("rope.dimension_sections", Value::Array(Array::I32(vec![0; 4])));
    heads(fixture, [4, 2], HEAD);
}

fn mistral3_yarn(fixture: &mut Fixture) {
    grouped(fixture, 2);
    yarn(fixture);
    fixture.set("rope.scaling.yarn_beta_fast", Value::F32(16.0));
    fixture.set("rope.scaling.yarn_beta_slow", Value::F32(2.0));
    fixture.set("rope.scaling.yarn_log_multiplier", Value::F32(0.5));
    fixture.set("attention.temperature_scale", Value::F32(0.2));
}

/// Factors on everything, positions nowhere.
fn granite_still(fixture: &mut Fixture) {
    fixture.set("rope.scaling.finetuned", Value::Bool(false));
    fixture.set("attention.scale", Value::F32(0.05));
    fixture.set("embedding_scale", Value::F32(0.5));
    fixture.set("residual_scale", Value::F32(1.3));
    fixture.set("logit_scale", Value::F32(2.5));
}

/// Sessions longer than what the model was first trained on, with factors and positions scaled.
fn granite_longrope(fixture: &mut Fixture) {
    fixture.set("rope.scaling.type", Value::String("longrope".into()));
    fixture.set("rope.scaling.original_context_length", Value::U32(64));
    linear(fixture, 2.0);
    for tensor in fixture.tensors.iter_mut().filter(|tensor| tensor.name == "rope_freqs.weight") {
        tensor.name = "rope_factors_long.weight".to_owned();
    }
    let name = "rope_factors_short.weight".to_owned();
    fixture.tensors.push(Tensor { name, ty: TensorType::F32, dims: vec![64] });
}

/// No factor but the logits', no bias, no matrix of its own for the output.
fn granite_bare(fixture: &mut Fixture) {
    without_keys(
        fixture,
        &["residual_scale", "embedding_scale", "attention.scale", "rope.scaling.finetuned"],
    );
    without(fixture, &["bias", "rope_freqs"]);
    fixture.tensors.retain(|tensor| tensor.name != "output.weight");
    yarn(fixture);
}

/// No expert that every token has, and none with a scale.
fn granitemoe_grouped(fixture: &mut Fixture) {
    grouped(fixture, 2);
    fixture.set("expert_shared_feed_forward_length", Value::U32(0));
    fixture.set("embedding_scale", Value::F32(0.7));
    fixture.set("logit_scale", Value::F32(0.3));
    without(fixture, &["shexp"]);
}

/// What a file leaves to the architecture.
fn minicpm_bare(fixture: &mut Fixture) {
    grouped(fixture, 2);
    without_keys(fixture, &["residual_scale", "embedding_scale", "logit_scale"]);
    without(fixture, &["bias", "rope_freqs"]);
}

/// Attention, a product in its place, neither, no layer at all, attention.
fn deci_searched(fixture: &mut Fixture) {
    layers(fixture, 5);
    let (q, kv, ff) = ([4, 4, 0, 4, 2], [2, 0, 0, 2, 1], [384, 320, 384, 0, 256]);
    heads(fixture, [4, 2], HEAD);
    fixture.set("attention.head_count", counts(&q));
    fixture.set("attention.head_count_kv", counts(&kv));
    fixture.set("feed_forward_length", counts(&ff));
    let layer_of = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse::<usize>().ok();
    fixture.tensors.retain_mut(|tensor| {
        let Some(layer) = layer_of(&tensor.name) else { return true };
        let last = tensor.dims.len() - 1;
        if ff[layer] == 0 && tensor.name.contains("ffn") {
            return false;
        }
        let [q, kv, ff] = [q[layer], kv[layer], ff[layer]].map(u64::from);
        reshape_heads(tensor, [q, kv], HEAD);
        let part = tensor.name.split('.').nth(2).unwrap_or_default();
        match part {
            "ffn_gate" | "ffn_up" if !tensor.name.ends_with("scale") => tensor.dims[last] = ff,
            "ffn_down" if tensor.name.ends_with("weight") => tensor.dims[0] = ff,
            "attn_output" if kv == 0 && tensor.name.ends_with("weight") => tensor.dims[0] = 256,
            _ => {}
        }
        match part {
            "attn_q" | "attn_k" | "attn_v" => kv > 0,
            "attn_norm" => q > 0,
            "attn_output" => q > 0 || tensor.name.ends_with("bias"),
            _ => true,
        }
    });
}

fn smollm3_four(fixture: &mut Fixture) {
    grouped(fixture, 2);
    layers(fixture, 4);
}

fn nanbeige_loops(fixture: &mut Fixture) {
    grouped(fixture, 2);
    add(fixture, "num_loops", Value::U32(3));
}

fn nanbeige_skips(fixture: &mut Fixture) {
    add(fixture, "num_loops", Value::U32(2));
    add(fixture, "skip_loop_final_norm", Value::Bool(true));
}

/// Two stacks of two layers, the low one once a cycle.
fn hrm_text_stacks(fixture: &mut Fixture) {
    grouped(fixture, 2);
    fixture
        .tensors
        .retain(|tensor| !["blk.2", "blk.3", "blk.4", "blk.5"].iter().any(|l| tensor.name.starts_with(l)));
    layers(fixture, 4);
    fixture.set("block_count", Value::U32(8));
    fixture.set("hrm.layers_per_stack", Value::U32(2));
    fixture.set("hrm.h_cycles", Value::U32(2));
    fixture.set("hrm.l_cycles", Value::U32(1));
    fixture.set("embedding_scale", Value::F32(4.0));
}

fn hunyuan_alpha(fixture: &mut Fixture) {
    grouped(fixture, 2);
    add(fixture, "rope.scaling.alpha", Value::F32(50.0));
    without(fixture, &["bias"]);
}

fn exaone_linear(fixture: &mut Fixture) {
    grouped(fixture, 2);
    linear(fixture, 4.0);
    without(fixture, &["rope_freqs", "bias"]);
}

/// Windows of 16 positions in three of four layers, which alone rotate.
fn exaone4_32b(fixture: &mut Fixture) {
    small(fixture, 64);
    fixture.set("attention.sliding_window", Value::U32(16));
    without_keys(fixture, &["attention.sliding_window_pattern"]);
}

/// Windows of 16 positions in three of four layers, which rotate without yarn.
fn olmo2_windows(fixture: &mut Fixture) {
    grouped(fixture, 2);
    layers(fixture, 4);
    yarn(fixture);
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    fixture.set("attention.sliding_window", Value::U32(16));
    without_keys(fixture, &["attention.sliding_window_pattern"]);
}

fn openelm_widths(fixture: &mut Fixture) {
    let (q, kv, ff) = ([4, 6], [2, 3], [384, 320]);
    heads(fixture, [4, 2], HEAD);
    fixture.set("attention.head_count", counts(&q));
    fixture.set("attention.head_count_kv", counts(&kv));
    fixture.set("feed_forward_length", counts(&ff));
    for tensor in fixture.tensors.iter_mut().filter(|tensor| tensor.name.starts_with("blk.1.")) {
        reshape_heads(tensor, [q[1], kv[1]].map(u64::from), HEAD);
        match tensor.name.as_str() {
            "blk.1.ffn_gate.weight" | "blk.1.ffn_up.weight" => tensor.dims[1] = ff[1].into(),
            "blk.1.ffn_down.weight" => tensor.dims[0] = ff[1].into(),
            _ => {}
        }
    }
}

/// Half of each head rotates; q, k and v in one matrix.
fn chatglm_half(fixture: &mut Fixture) {
    grouped(fixture, 1);
    fixture.set("rope.dimension_count", Value::U32(HEAD as u32 / 2));
    linear(fixture, 2.0);
    fused(fixture, 6 * HEAD);
    without(fixture, &["attn_q.", "attn_k.", "attn_v."]);
    for layer in 0..2 {
        let name = format!("blk.{layer}.attn_qkv.bias");
        fixture.tensors.push(Tensor { name, ty: TensorType::F32, dims: vec![6 * HEAD] });
    }
}

/// q, k and v in one matrix, their biases by themselves.
fn internlm2_fused(fixture: &mut Fixture) {
    grouped(fixture, 2);
    fused(fixture, 8 * HEAD);
}

/// A matrix of `rows` rows for q, k and v.
fn fused(fixture: &mut Fixture, rows: u64) {
    let apart = ["attn_q.", "attn_k.", "attn_v."];
    fixture.tensors.retain(|t| t.name.ends_with("bias") || !apart.iter().any(|part| t.name.contains(part)));
    for layer in 0..2 {
        for (suffix, dims) in [("weight", vec![256, rows]), ("scale", vec![1])] {
            let name = format!("blk.{layer}.attn_qkv.{suffix}");
            fixture.tensors.push(Tensor { name, ty: TensorType::F32, dims });
        }
    }
}

/// Half of each head rotates, neighbours as pairs; a layer behind the last predicts the token behind the next.
fn glm4_still(fixture: &mut Fixture) {
    without_sections(fixture);
    fixture.set("rope.dimension_count", Value::U32(HEAD as u32 / 2));
    layers(fixture, 3);
    fixture.set("nextn_predict_layers", Value::U32(1));
    fixture.tensors.retain(|tensor| !tensor.name.starts_with("blk.2.") || !tensor.name.ends_with("scale"));
    for (name, dims) in [("eh_proj", vec![512, 256]), ("enorm", vec![256]), ("hnorm", vec![256])] {
        let name = format!("blk.2.nextn.{name}.weight");
        fixture.tensors.push(Tensor { name, ty: TensorType::F32, dims });
    }
}

/// A base and a scaling that the architecture passes over.
fn cogvlm_base(fixture: &mut Fixture) {
    fixture.set("rope.freq_base", Value::F32(500.0));
    linear(fixture, 4.0);
}

/// Heads longer than their share of a row.
fn gemma_long_heads(fixture: &mut Fixture) {
    heads(fixture, [2, 1], 160);
    linear(fixture, 2.0);
}

fn seed_oss_bare(fixture: &mut Fixture) {
    heads(fixture, [3, 1], 96);
    yarn(fixture);
    without(fixture, &["bias"]);
}

/// Experts that share the elements of a dense feed-forward.
fn llada_moe_shares(fixture: &mut Fixture) {
    fixture.set("expert_feed_forward_length", Value::U32(0));
    for tensor in &mut fixture.tensors {
        match tensor.name.split('.').nth(2) {
            Some("ffn_gate_exps" | "ffn_up_exps") if tensor.dims.len() == 3 => tensor.dims[1] = 192,
            Some("ffn_down_exps") if tensor.dims.len() == 3 => tensor.dims[0] = 192,
            _ => {}
        }
    }
}

/// Sessions longer than what the model was first trained on.
fn phi3_long(fixture: &mut Fixture) {
    grouped(fixture, 1);
    fixture.set("rope.scaling.original_context_length", Value::U32(64));
    fixture.set("rope.scaling.attn_factor", Value::F32(1.2));
}

/// Tokens before those that have logits.
fn qwen3tts_words(fixture: &mut Fixture) {
    grouped(fixture, 2);
    fixture.set("vocab_size", Value::U32(3100));
    for tensor in fixture.tensors.iter_mut().filter(|tensor| tensor.name == "token_embd.weight") {
        tensor.dims[1] = 3100;
    }
}

fn talkie_grouped(fixture: &mut Fixture) {
    grouped(fixture, 2);
    fixture.set("logit_scale", Value::F32(0.7));
}
