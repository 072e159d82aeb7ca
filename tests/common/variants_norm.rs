//! Variants of architectures with LayerNorms, with windows, and with positions that are not rotations.

use rocmforge::gguf::{Array, TensorType, Value};

use super::archs::{Fixture, Tensor};
use super::generated::Variant;

pub const VARIANTS: &[Variant] = &[
    ("starcoder-tied", "starcoder-dense", starcoder_tied),
    ("bloom-heads", "bloom-dense", bloom_heads),
    ("mpt-plain", "mpt-dense", mpt_plain),
    ("jais-heads", "jais-dense", jais_heads),
    ("refact-heads", "refact-dense", refact_heads),
    ("olmo-free", "olmo-dense", olmo_free),
    ("gptneox-parallel", "gptneox-dense", gptneox_parallel),
    ("falcon-7b", "falcon-dense", falcon_7b),
    ("stablelm-parallel", "stablelm-dense", stablelm_parallel),
    ("starcoder2-grouped", "starcoder2-dense", starcoder2_grouped),
    ("nemotron-plain", "nemotron-dense", nemotron_plain),
    ("codeshell-tied", "codeshell-dense", codeshell_tied),
    ("command-r-plus", "command-r-dense", command_r_plus),
    ("cohere2-period", "cohere2-dense", cohere2_period),
    ("gemma2-27b", "gemma2-dense", gemma2_27b),
    ("plamo3-heads", "plamo3-dense", plamo3_heads),
    ("muse-glimmer-period", "muse-glimmer-dense", muse_glimmer_period),
    ("spark2_5-heads", "spark2_5-dense", spark2_5_heads),
    ("granite_swa-scaled", "granite_swa-dense", granite_swa_scaled),
    ("granite_swa-experts", "granite_swa-dense", granite_swa_experts),
];

/// Sizes of a model of few elements.
struct Sizes {
    n_layer: u64,
    n_embd: u64,
    /// Query heads and kv heads, by turns.
    heads: &'static [[u64; 2]],
    /// Elements of a head's key, of its value, and how many of the key rotate.
    k: u64,
    v: u64,
    n_rot: u64,
    /// Elements between the matrices of a feed-forward, by turns.
    n_ff: &'static [u64],
}

impl Sizes {
    /// Heads of 24 elements that share keys and values.
    const SMALL: Sizes =
        Sizes { n_layer: 2, n_embd: 96, heads: &[[4, 2]], k: 24, v: 24, n_rot: 24, n_ff: &[136] };

    /// The model in these sizes, its layers like the described one's first.
    fn give(&self, fixture: &mut Fixture) {
        let layers = 0..self.n_layer as usize;
        let heads = |layer: usize| self.heads[layer % self.heads.len()];
        let n_ff = |layer: usize| self.n_ff[layer % self.n_ff.len()];
        let each = |of: &dyn Fn(usize) -> u64| {
            let values = layers.clone().map(|layer| of(layer) as u32);
            Value::Array(Array::U32(values.collect()))
        };
        fixture.set("attention.head_count", each(&|layer| heads(layer)[0]));
        fixture.set("attention.head_count_kv", each(&|layer| heads(layer)[1]));
        fixture.set("feed_forward_length", each(&n_ff));
        let lengths = [
            ("block_count", self.n_layer),
            ("embedding_length", self.n_embd),
            ("attention.key_length", self.k),
            ("attention.key_length_swa", self.k),
            ("attention.value_length", self.v),
            ("attention.value_length_swa", self.v),
            ("rope.dimension_count", self.n_rot),
            ("rope.dimension_count_swa", self.n_rot),
        ];
        for (key, length) in lengths {
            fixture.set(key, Value::U32(length as u32));
        }
        for key in ["swiglu_clamp_exp", "swiglu_clamp_shexp"] {
            fixture.set(key, Value::Array(Array::F32(vec![0.0; self.n_layer as usize])));
        }
        let old = fixture.tensors.clone();
        let is_first = |tensor: &&Tensor| tensor.name.starts_with("blk.0.");
        let global = old.iter().filter(|tensor| !tensor.name.starts_with("blk.")).map(|tensor| {
            let mut dims = tensor.dims.clone();
            match tensor.name.as_str() {
                "rope_freqs.weight" => dims = vec![self.n_rot / 2],
                _ => dims[0] = self.n_embd,
            }
            Tensor { dims, ..tensor.clone() }
        });
        let layers = layers.flat_map(|layer| {
            old.iter().filter(is_first).map(move |tensor| {
                let part = tensor.name.strip_prefix("blk.0.").expect("the first layer's");
                let dims = self.dims(part, &tensor.dims, heads(layer), n_ff(layer));
                Tensor { name: format!("blk.{layer}.{part}"), ty: TensorType::F32, dims }
            })
        });
        fixture.tensors = global.chain(layers).collect();
    }

    /// Dimensions of a layer's tensor, which had the dimensions `old`.
    fn dims(&self, part: &str, old: &[u64], [n_q, n_kv]: [u64; 2], n_ff: u64) -> Vec<u64> {
        let (base, suffix) = part.rsplit_once('.').unwrap_or((part, ""));
        if suffix == "scale" || suffix == "input_scale" {
            return old.to_vec();
        }
        let (rows, cols) = match base {
            "attn_q" => (n_q * self.k, self.n_embd),
            "attn_k" => (n_kv * self.k, self.n_embd),
            "attn_v" => (n_kv * self.v, self.n_embd),
            "attn_qkv" => ((n_q + n_kv) * self.k + n_kv * self.v, self.n_embd),
            // a number for each element, or for each head
            "attn_gate" if old[1] > 4 => (n_q * self.v, self.n_embd),
            "attn_gate" => (n_q, self.n_embd),
            "attn_output" => (self.n_embd, n_q * self.v),
            "ffn_gate" => (n_ff, self.n_embd),
            // with or without the gate in front
            "ffn_up" if old[0] == 2 * 384 || old.get(1) == Some(&(2 * 384)) => (2 * n_ff, self.n_embd),
            "ffn_up" => (n_ff, self.n_embd),
            "ffn_down" => (self.n_embd, n_ff),
            "ffn.act" => return vec![n_ff],
            "attn_sinks" => return vec![n_q],
            "attn_q_norm" if old.len() == 2 => return vec![self.k, n_q],
            "attn_k_norm" if old.len() == 2 => return vec![self.k, n_kv],
            "attn_q_norm" if old[0] == 256 => (n_q * self.k, 0),
            "attn_k_norm" if old[0] == 256 => (n_kv * self.k, 0),
            "attn_q_norm" | "attn_k_norm" => (self.k, 0),
            _ => (self.n_embd, 0),
        };
        if old.len() == 2 { vec![cols, rows] } else { vec![rows] }
    }
}

/// Leaves out the tensors of these names, in all layers.
fn without(fixture: &mut Fixture, names: &[&str]) {
    let n = fixture.tensors.len();
    let is_of = |tensor: &Tensor, name: &str| {
        let rest = tensor.name.strip_suffix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    fixture.tensors.retain(|tensor| !names.iter().any(|name| is_of(tensor, name)));
    assert!(fixture.tensors.len() < n, "{}: no tensor {names:?}", fixture.name);
}

const BIASES: [&str; 4] = ["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"];

/// One head of keys, and logits by the embedding.
fn starcoder_tied(fixture: &mut Fixture) {
    Sizes { heads: &[[4, 1]], ..Sizes::SMALL }.give(fixture);
    without(fixture, &["output.weight"]);
}

/// Six heads, of which two are beyond a power of two.
fn bloom_heads(fixture: &mut Fixture) {
    Sizes { heads: &[[6, 6]], k: 16, v: 16, n_rot: 16, ..Sizes::SMALL }.give(fixture);
    without(fixture, &["output.weight"]);
}

/// Three heads, whose scores fall slowly; neither biases nor embeddings of positions nor divisors.
fn mpt_plain(fixture: &mut Fixture) {
    Sizes { heads: &[[3, 3]], k: 32, v: 32, n_rot: 32, ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.max_alibi_bias", Value::F32(6.0));
    fixture.set("attention.clamp_kqv", Value::F32(0.5));
    fixture.tensors.retain(|tensor| !tensor.name.ends_with(".bias"));
    without(fixture, &["position_embd.weight", "ffn.act.scales", "attn_k_norm.weight", "output.weight"]);
}

/// Six heads that share two of keys, and scores that fall slowly.
fn jais_heads(fixture: &mut Fixture) {
    Sizes { heads: &[[6, 2]], k: 16, v: 16, n_rot: 16, ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.max_alibi_bias", Value::F32(12.0));
}

/// Twelve heads that share two of keys, without biases.
fn refact_heads(fixture: &mut Fixture) {
    Sizes { heads: &[[12, 2]], k: 8, v: 8, n_rot: 8, ..Sizes::SMALL }.give(fixture);
    without(fixture, &BIASES);
    without(fixture, &["output.weight"]);
}

/// Without bounds and biases, and logits by the embedding.
fn olmo_free(fixture: &mut Fixture) {
    Sizes::SMALL.give(fixture);
    fixture.set("attention.clamp_kqv", Value::F32(0.0));
    without(fixture, &["attn_q.bias", "attn_k.bias", "attn_v.bias", "output.weight"]);
}

/// Halves side by side, and a quarter of each head rotated.
fn gptneox_parallel(fixture: &mut Fixture) {
    Sizes { heads: &[[4, 4]], n_rot: 6, ..Sizes::SMALL }.give(fixture);
    fixture.set("use_parallel_residual", Value::Bool(true));
}

/// One norm for both halves, one head of keys, and logits by the embedding.
fn falcon_7b(fixture: &mut Fixture) {
    Sizes { heads: &[[4, 1]], ..Sizes::SMALL }.give(fixture);
    without(fixture, &["attn_norm_2.weight", "attn_norm_2.bias", "output.weight"]);
}

/// Halves side by side without norms of heads, of which a quarter is rotated, and without biases.
fn stablelm_parallel(fixture: &mut Fixture) {
    Sizes { n_rot: 6, ..Sizes::SMALL }.give(fixture);
    without(fixture, &["ffn_norm.weight", "ffn_norm.bias", "attn_q_norm.weight", "attn_k_norm.weight"]);
    without(fixture, &BIASES);
}

/// Positions divided by a factor, and logits by the embedding.
fn starcoder2_grouped(fixture: &mut Fixture) {
    Sizes::SMALL.give(fixture);
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    without(fixture, &["output.weight"]);
}

/// Without biases, half of each head rotated.
fn nemotron_plain(fixture: &mut Fixture) {
    Sizes { n_rot: 12, ..Sizes::SMALL }.give(fixture);
    without(fixture, &BIASES);
    without(fixture, &["ffn_up.bias", "ffn_down.bias"]);
}

/// The output matrix is the embedding.
fn codeshell_tied(fixture: &mut Fixture) {
    Sizes { heads: &[[4, 1]], ..Sizes::SMALL }.give(fixture);
    without(fixture, &["token_embd.weight"]);
}

/// 64 layers, whose heads have norms then, and a factor on logits.
fn command_r_plus(fixture: &mut Fixture) {
    Sizes { n_layer: 64, ..Sizes::SMALL }.give(fixture);
    fixture.set("logit_scale", Value::F32(0.25));
    for layer in 0..64 {
        for (name, n) in [("attn_q_norm", 4), ("attn_k_norm", 2)] {
            let name = format!("blk.{layer}.{name}.weight");
            fixture.tensors.push(Tensor { name, ty: TensorType::F32, dims: vec![24, n] });
        }
    }
}

/// Every fourth layer sees all, as the architecture has it, and a factor on logits.
fn cohere2_period(fixture: &mut Fixture) {
    Sizes { n_layer: 5, ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.sliding_window", Value::U32(7));
    fixture.set("attention.sliding_window_pattern", Value::U32(4));
    fixture.set("logit_scale", Value::F32(0.25));
}

/// 46 layers, whose scores are divided by the root of a head's share of the embedding then; positions far off are divided
/// by a factor, near ones have a base of their own.
fn gemma2_27b(fixture: &mut Fixture) {
    Sizes { n_layer: 46, k: 32, v: 32, n_rot: 32, ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.sliding_window", Value::U32(9));
    fixture.set("attention.sliding_window_pattern", Value::U32(2));
    fixture.set("rope.freq_base_swa", Value::F32(500.0));
    fixture.set("attn_logit_softcapping", Value::F32(4.0));
    fixture.set("final_logit_softcapping", Value::F32(6.0));
}

/// Layers of other heads and feed-forwards, values longer than keys, and yarn where there is no window.
fn plamo3_heads(fixture: &mut Fixture) {
    let heads = &[[4, 2], [3, 1], [2, 2]];
    Sizes { n_layer: 6, heads, v: 32, n_rot: 16, n_ff: &[136, 72], ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.sliding_window", Value::U32(7));
    fixture.set("attention.sliding_window_pattern", Value::U32(3));
    fixture.set("rope.freq_base", Value::F32(1000.0));
    fixture.set("rope.freq_base_swa", Value::F32(300.0));
    yarn(fixture);
}

/// Every fourth layer sees all, and near positions have a base of their own; norms but those behind a layer's halves have an
/// epsilon that shows.
fn muse_glimmer_period(fixture: &mut Fixture) {
    Sizes { n_layer: 5, n_rot: 16, ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.sliding_window", Value::U32(7));
    fixture.set("attention.sliding_window_pattern", Value::U32(4));
    fixture.set("rope.freq_base_swa", Value::F32(300.0));
    fixture.set("attention.layer_norm_rms_epsilon", Value::F32(0.05));
    fixture.set("final_logit_softcapping", Value::F32(4.0));
    fixture.set("logit_scale", Value::F32(0.25));
    yarn(fixture);
}

/// Layers of other heads, of which near positions rotate less and by another base.
fn spark2_5_heads(fixture: &mut Fixture) {
    Sizes { n_layer: 5, heads: &[[4, 2], [3, 1], [6, 2]], ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.sliding_window", Value::U32(7));
    fixture.set("attention.sliding_window_pattern", flags(&[0, 1, 1, 1, 0]));
    fixture.set("rope.dimension_count_swa", Value::U32(12));
    fixture.set("rope.freq_base_swa", Value::F32(300.0));
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    without(fixture, &BIASES[..3]);
    without(fixture, &["output.weight"]);
}

/// All factors, a layer that does not rotate, and no biases.
fn granite_swa_scaled(fixture: &mut Fixture) {
    Sizes { n_layer: 3, ..Sizes::SMALL }.give(fixture);
    fixture.set("attention.sliding_window", Value::U32(7));
    fixture.set("attention.sliding_window_pattern", flags(&[1, 0, 1]));
    fixture.set("attention.rope_pattern", flags(&[1, 1, 0]));
    fixture.set("attention.scale", Value::F32(0.3));
    fixture.set("embedding_scale", Value::F32(3.0));
    fixture.set("residual_scale", Value::F32(0.4));
    fixture.set("logit_scale", Value::F32(2.5));
    without(fixture, &BIASES);
    without(
        fixture,
        &["ffn_gate.bias", "ffn_up.bias", "ffn_down.bias", "output.weight", "rope_freqs.weight"],
    );
}

/// Experts beside one that all tokens have, whose gate and up are one matrix.
fn granite_swa_experts(fixture: &mut Fixture) {
    Sizes::SMALL.give(fixture);
    fixture.set("attention.sliding_window_pattern", flags(&[0, 1]));
    fixture.set("expert_count", Value::U32(5));
    fixture.set("expert_used_count", Value::U32(2));
    fixture.set("expert_shared_feed_forward_length", Value::U32(72));
    let of_dense = ["ffn_gate", "ffn_up", "ffn_down"];
    fixture.tensors.retain(|tensor| !of_dense.iter().any(|name| tensor.name.contains(&format!(".{name}."))));
    let tensors: [(&str, &[u64]); 5] = [
        ("ffn_gate_inp", &[96, 5]),
        ("ffn_gate_up_exps", &[96, 2 * 136, 5]),
        ("ffn_down_exps", &[136, 96, 5]),
        ("ffn_up_shexp", &[96, 2 * 72]),
        ("ffn_down_shexp", &[72, 96]),
    ];
    for (layer, (name, dims)) in (0..2).flat_map(|layer| tensors.map(|tensor| (layer, tensor))) {
        let name = format!("blk.{layer}.{name}.weight");
        fixture.tensors.push(Tensor { name, ty: TensorType::F32, dims: dims.to_vec() });
    }
}

fn flags(values: &[u32]) -> Value {
    Value::Array(Array::U32(values.to_vec()))
}

fn yarn(fixture: &mut Fixture) {
    fixture.set("rope.scaling.type", Value::String("yarn".into()));
    fixture.set("rope.scaling.factor", Value::F32(4.0));
    fixture.set("rope.scaling.original_context_length", Value::U32(64));
    fixture.set("rope.scaling.attn_factor", Value::F32(1.1));
}
