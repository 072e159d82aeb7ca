//! Small models with random weights, built in memory: every architecture, any weight type.
//! The same description gives the same bytes on every machine.

use std::sync::Arc;

use half::f16;
use rocmforge::gguf::{Gguf, TensorType, Value};

use super::gguf_writer::GgufWriter;
use super::types::factors;

/// Vigna's splitmix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in [-1, 1), in steps that f32 holds exactly.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[derive(Clone)]
pub struct TinyModel {
    pub arch: &'static str,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
    /// Of a layer and of a token, in place of one feed-forward; 0: none. `up` has a factor for each.
    pub experts: [usize; 2],
    pub n_ctx_train: u32,
    pub rope_base: f32,
    /// Matrices take these types in turn.
    pub types: Vec<TensorType>,
    /// No output.weight.
    pub tied: bool,
    /// `rope_freqs.weight`, factors of llama3's kind.
    pub rope_freqs: bool,
    /// More pairs of metadata: scalings of RoPE, or a vocabulary in place of none.
    pub meta: Vec<(String, Value)>,
    pub seed: u64,
}

impl TinyModel {
    /// Two layers of 4 heads of 64, 2 of them for keys and values.
    pub fn new(arch: &'static str) -> Self {
        TinyModel {
            arch,
            n_layer: 2,
            n_embd: 256,
            n_ff: 256,
            n_head: 4,
            n_head_kv: 2,
            head_dim: 64,
            n_vocab: 131,
            experts: [0; 2],
            n_ctx_train: 512,
            rope_base: 10_000.0,
            types: vec![TensorType::F32],
            tied: false,
            rope_freqs: false,
            meta: Vec::new(),
            seed: 1,
        }
    }

    pub fn types(mut self, types: &[TensorType]) -> Self {
        self.types = types.to_vec();
        self
    }

    /// Adds a pair; `{}` in the key stands for the architecture.
    pub fn meta(mut self, key: &str, value: Value) -> Self {
        self.meta.push((key.replace("{}", self.arch), value));
        self
    }

    pub fn gguf(&self) -> Arc<Gguf> {
        Arc::new(Gguf::from_bytes(self.bytes(), "tiny model").unwrap())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let TinyModel { arch, n_embd, n_ff, n_head, n_head_kv, head_dim, n_vocab, experts, .. } = *self;
        let key = |name: &str| format!("{arch}.{name}");
        let mut file = GgufWriter::new()
            .meta("general.architecture", arch)
            .meta("general.name", "tiny")
            .meta(&key("block_count"), self.n_layer as u32)
            .meta(&key("context_length"), self.n_ctx_train)
            .meta(&key("embedding_length"), n_embd as u32)
            .meta(&key("feed_forward_length"), n_ff as u32)
            .meta(&key("attention.head_count"), n_head as u32)
            .meta(&key("attention.head_count_kv"), n_head_kv as u32)
            .meta(&key("attention.key_length"), head_dim as u32)
            .meta(&key("attention.value_length"), head_dim as u32)
            .meta(&key("attention.layer_norm_rms_epsilon"), 1e-5f32)
            .meta(&key("rope.freq_base"), self.rope_base)
            .meta(&key("vocab_size"), n_vocab as u32);
        if experts[0] > 0 {
            file = file
                .meta(&key("expert_count"), experts[0] as u32)
                .meta(&key("expert_used_count"), experts[1] as u32);
        }
        for (key, value) in &self.meta {
            file = file.meta(key, value.clone());
        }
        if !self.meta.iter().any(|(key, _)| key == "tokenizer.ggml.model") {
            file = file.meta("tokenizer.ggml.model", "no_vocab");
        }

        let mut w = Weights { file, rng: Rng(self.seed), types: &self.types, n: 0 };
        w.matrix("token_embd.weight", n_embd, n_vocab, 1.0);
        w.vector("output_norm.weight", n_embd, 1.0);
        if !self.tied {
            w.matrix("output.weight", n_embd, n_vocab, 1.5);
        }
        if self.rope_freqs {
            // as llama3's: fast pairs as they are, slow ones slowed eightfold, some between
            let n = head_dim / 2;
            let factors: Vec<f32> =
                (0..n).map(|i| (1.0 + 7.0 * (2.0 * i as f32 / n as f32 - 0.5)).clamp(1.0, 8.0)).collect();
            w.file = w.file.f32_tensor("rope_freqs.weight", &[n as u64], &factors);
        }
        for layer in 0..self.n_layer {
            let name = |part: &str| format!("blk.{layer}.{part}");
            w.vector(&name("attn_norm.weight"), n_embd, 1.0);
            for (part, heads) in [("attn_q", n_head), ("attn_k", n_head_kv), ("attn_v", n_head_kv)] {
                w.matrix(&name(&format!("{part}.weight")), n_embd, heads * head_dim, 1.5);
                if arch == "qwen2" {
                    w.vector(&name(&format!("{part}.bias")), heads * head_dim, 0.0);
                }
            }
            if arch == "qwen3" {
                w.vector(&name("attn_q_norm.weight"), head_dim, 1.5);
                w.vector(&name("attn_k_norm.weight"), head_dim, 1.5);
            }
            w.matrix(&name("attn_output.weight"), n_head * head_dim, n_embd, 1.0);
            w.vector(&name("ffn_norm.weight"), n_embd, 1.0);
            let unit = [("gate", n_embd, n_ff, 1.5), ("up", n_embd, n_ff, 1.0), ("down", n_ff, n_embd, 1.0)];
            for (part, cols, rows, gain) in unit {
                match experts[0] {
                    0 => w.matrix(&name(&format!("ffn_{part}.weight")), cols, rows, gain),
                    n => w.tensor(&name(&format!("ffn_{part}_exps.weight")), &[cols, rows, n], gain),
                }
            }
            if experts[0] > 0 {
                w.vector(&name("ffn_up_exps.scale"), experts[0], 1.0);
                w.f32_matrix(&name("ffn_gate_inp.weight"), n_embd, experts[0], 2.0);
            }
        }
        w.file.build()
    }
}

struct Weights<'a> {
    file: GgufWriter,
    rng: Rng,
    types: &'a [TensorType],
    /// Matrices so far.
    n: usize,
}

impl Weights<'_> {
    /// Values around `mean`.
    fn vector(&mut self, name: &str, len: usize, mean: f32) {
        let values: Vec<f32> = (0..len).map(|_| mean + 0.5 * self.rng.signed()).collect();
        let file = std::mem::take(&mut self.file);
        self.file = file.f32_tensor(name, &[len as u64], &values);
    }

    /// Products with it keep a vector's size, times about `gain`.
    fn matrix(&mut self, name: &str, cols: usize, rows: usize, gain: f32) {
        self.tensor(name, &[cols, rows], gain);
    }

    fn tensor(&mut self, name: &str, dims: &[usize], gain: f32) {
        let ty = self.types[self.n % self.types.len()];
        self.n += 1;
        let bytes = random_tensor(&mut self.rng, ty, dims.iter().product(), gain / (dims[0] as f32).sqrt());
        let dims: Vec<u64> = dims.iter().map(|dim| *dim as u64).collect();
        let file = std::mem::take(&mut self.file);
        self.file = file.tensor(name, ty, &dims, bytes);
    }

    /// In f32, whatever the others' types.
    fn f32_matrix(&mut self, name: &str, cols: usize, rows: usize, gain: f32) {
        let (types, n) = (std::mem::replace(&mut self.types, &[TensorType::F32]), self.n);
        self.matrix(name, cols, rows, gain);
        (self.types, self.n) = (types, n);
    }
}

/// Raw bytes of `n` elements of `ty` with a standard deviation of about `sigma`. Quantized blocks are random
/// bits with their factors set to give that.
pub fn random_tensor(rng: &mut Rng, ty: TensorType, n: usize, sigma: f32) -> Vec<u8> {
    let uniform = sigma * 3f32.sqrt(); // half the width of the uniform distribution with that deviation
    match ty {
        TensorType::F32 => return (0..n).flat_map(|_| (rng.signed() * uniform).to_le_bytes()).collect(),
        TensorType::F16 => {
            return (0..n).flat_map(|_| f16::from_f32(rng.signed() * uniform).to_le_bytes()).collect();
        }
        TensorType::BF16 => {
            let bf16 = |x: f32| half::bf16::from_f32(x).to_le_bytes();
            return (0..n).flat_map(|_| bf16(rng.signed() * uniform)).collect();
        }
        _ => {}
    }
    let size = ty.block_bytes();
    let mut bytes: Vec<u8> = (0..n / ty.block_len() * size).map(|_| rng.next() as u8).collect();
    for block in bytes.chunks_exact_mut(size) {
        factors(ty).iter().for_each(|factor| factor.set(block, factor.unit * sigma));
    }
    bytes
}
