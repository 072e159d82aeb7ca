//! The Plan: a model's forward pass as data. A flat list of ops over named buffers, built once per
//! model by `model::arch`, run by any device. Token count, positions and cache length belong to a
//! [`Step`](super::Step), never to the plan.

use std::ops::Range;
use std::sync::Arc;

use crate::gguf::TensorType;

/// Index into [`Plan::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub u32);

/// Index into [`Plan::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub u32);

/// Index into [`Plan::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub u32);

/// A tensor of the file that the plan reads.
#[derive(Clone, Debug)]
pub struct Weight {
    pub name: String,
    pub ty: TensorType,
    /// Elements of a row, and rows. A vector has one row.
    pub cols: usize,
    pub rows: usize,
}

/// How many rows of a buffer a step fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One per token of the step.
    Tokens,
    /// One per token whose logits are wanted.
    Outputs,
}

/// An f32 activation buffer, `rows x width`, row-major.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub name: &'static str,
    pub width: usize,
    pub rows: Rows,
}

/// Which elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (0,1), (2,3), ...: llama.
    Consecutive,
    /// (0, n_rot/2), (1, n_rot/2 + 1), ...: qwen and most others.
    Halves,
}

/// One table of rotations; angle of pair `i` at position `p` is `p * inv_freq[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub pairs: RopePairs,
    /// Radians per position, one per pair (n_rot / 2), all scaling already applied.
    pub inv_freq: Arc<[f32]>,
    /// Factor on cos and sin (yarn's magnitude scaling; 1 elsewhere).
    pub magnitude: f32,
}

/// The gate's activation in [`Op::Glu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x)
    Silu,
    /// tanh approximation
    Gelu,
}

/// One operation. `out` never aliases an input unless the op says "in place".
#[derive(Clone, Debug)]
pub enum Op {
    /// `out[t] = weight.row(token[t])`
    Embed { weight: WeightId, out: BufferId },
    /// out = x / sqrt(mean(x^2) + eps) * weight, over each group of `weight.cols` elements of a row
    /// (the whole row, or each head for q/k norms). May be in place (`x == out`).
    RmsNorm { x: BufferId, weight: WeightId, eps: f32, out: BufferId },
    /// `out[t][r] = dot(weight.row(r), x[t]) + bias[r]`
    MatMul { x: BufferId, weight: WeightId, bias: Option<WeightId>, out: BufferId },
    /// Rotates the first n_rot elements of each of the `width / head_dim` heads, in place.
    Rope { x: BufferId, head_dim: usize, rope: RopeId },
    /// Writes k and v (each `n_head_kv * head_dim` wide) to the cache of `layer` at each token's slot.
    KvAppend { layer: usize, k: BufferId, v: BufferId },
    /// Causal attention of q over the sequence's cache of `layer`, read through the block table.
    /// Query head h reads kv head h / (n_head / n_head_kv). out is `n_head * head_dim` wide.
    Attention {
        layer: usize,
        q: BufferId,
        /// Factor on q.k, usually 1/sqrt(head_dim).
        scale: f32,
        out: BufferId,
    },
    /// out = activation(gate) * up. May be in place on either input.
    Glu { gate: BufferId, up: BufferId, activation: Activation, out: BufferId },
    /// out = a + b. May be in place (`out == a`).
    Add { a: BufferId, b: BufferId, out: BufferId },
    /// `out[i] = x[step.outputs[i]]`: keeps the rows whose logits are wanted.
    SelectRows { x: BufferId, out: BufferId },
}

/// An op and its name, unique in the plan: "blk.3.attn_q", "output".
#[derive(Clone, Debug)]
pub struct NamedOp {
    pub name: String,
    pub op: Op,
}

/// The shape of the key-value cache, the same in every layer that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    pub n_layers: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    pub head_dim: usize,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub weights: Vec<Weight>,
    pub buffers: Vec<Buffer>,
    pub ropes: Vec<Rope>,
    pub ops: Vec<NamedOp>,
    /// The ops of each layer, in order; what stands before and behind them belongs to none.
    pub layers: Vec<Range<usize>>,
    pub cache: CacheShape,
    /// In a part of a model that begins inside it: the buffer (Rows::Tokens) that a step's `input` fills first.
    pub input: Option<BufferId>,
    /// Where the last op leaves its result: logits (Rows::Outputs, n_vocab wide) or, in a part of a model, the
    /// next part's input (Rows::Tokens).
    pub output: BufferId,
}

impl Plan {
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }

    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    pub fn rope(&self, id: RopeId) -> &Rope {
        &self.ropes[id.0 as usize]
    }

    pub fn n_vocab(&self) -> usize {
        self.buffer(self.output).width
    }
}

impl Op {
    /// The buffers the op reads.
    pub fn inputs(&self) -> [Option<BufferId>; 2] {
        match *self {
            Op::Embed { .. } => [None, None],
            Op::RmsNorm { x, .. } | Op::MatMul { x, .. } | Op::Rope { x, .. } | Op::SelectRows { x, .. } => {
                [Some(x), None]
            }
            Op::KvAppend { k, v, .. } => [Some(k), Some(v)],
            Op::Attention { q, .. } => [Some(q), None],
            Op::Glu { gate, up, .. } => [Some(gate), Some(up)],
            Op::Add { a, b, .. } => [Some(a), Some(b)],
        }
    }

    /// The buffer the op writes (None: it writes the cache).
    pub fn output(&self) -> Option<BufferId> {
        match *self {
            Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::MatMul { out, .. }
            | Op::Attention { out, .. }
            | Op::Glu { out, .. }
            | Op::Add { out, .. }
            | Op::SelectRows { out, .. } => Some(out),
            Op::Rope { x, .. } => Some(x),
            Op::KvAppend { .. } => None,
        }
    }
}
