//! Self-attention as architectures have it.

use super::blocks::NormOf;
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Part, Presence, ScaleOrder};
use crate::plan::{Binary, Cache, RopeId, Scores, Unary, ValueId, Values, Window};
use crate::{Error, Result};

/// Norms of queries and keys: `attn_q_norm`, `attn_k_norm`.
#[derive(Clone, Copy, Debug)]
pub enum QkNorm {
    None,
    /// Over each head, with one weight for all.
    Heads(NormOf),
    /// The same behind the rotation.
    HeadsBehindRope(NormOf),
    /// Over each head, with a weight for each.
    EachHead(NormOf),
    /// Over the heads together.
    Row(NormOf),
    /// Over each head behind the rotation, without a weight; then each query head times a number of its own.
    ScaledBehindRope(NormOf),
}

const WINDOW: &str = "attention.sliding_window";

/// What a head's result is multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Gate {
    None,
    /// The sigmoid of what `attn_q` makes behind the head's query.
    InQueries,
    /// The function of what `attn_gate` makes.
    Own(Unary),
    /// The same with one number for each head.
    OwnOfHeads(Unary),
}

/// Self-attention with a cache of its own.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Of q, k and v (or of `attn_qkv`), and of the output.
    pub bias: Presence,
    pub output_bias: Presence,
    /// Bound on elements of q, k and v; 0: none.
    pub clamp: f32,
    /// Whether the `.scale` of q, k and v apply; the output's does.
    pub scales: bool,
    pub norm: QkNorm,
    pub rope: Option<RopeId>,
    /// Of queries by position: scale and length.
    pub temper: Option<(f32, usize)>,
    /// Positions that a token sees.
    pub window: Option<Window>,
    pub scores: Scores,
    /// `attn_sinks`: a score without a value for each query head.
    pub sinks: Presence,
    pub gate: Gate,
}

impl Attention {
    /// Optional biases, scores divided by the root of a head's length, and all else left out.
    pub fn of(hyper: &Hyper<'_>) -> Attention {
        Attention {
            bias: Presence::Optional,
            output_bias: Presence::Never,
            clamp: 0.0,
            scales: true,
            norm: QkNorm::None,
            rope: None,
            temper: None,
            window: None,
            scores: Scores::scaled(1.0 / (hyper.k as f32).sqrt()),
            sinks: Presence::Never,
            gate: Gate::None,
        }
    }
}

/// Which layers see a window of positions.
pub struct Windows {
    window: u32,
    layers: Vec<bool>,
}

impl Windows {
    /// As `attention.sliding_window` and its pattern say; `period` where the file states no pattern. A window of 0 is none.
    pub fn read(hyper: &Hyper<'_>, period: u64) -> Result<Windows> {
        Windows::read_or(hyper, 0, period)
    }

    /// The same, of `window` positions where the file states no number.
    pub fn read_or(hyper: &Hyper<'_>, window: usize, period: u64) -> Result<Windows> {
        Windows::of_layers(hyper, window, |name, n| hyper.keys.pattern(name, n, period))
    }

    /// The same with all layers of a period but the first.
    pub fn read_but_first(hyper: &Hyper<'_>, period: u64) -> Result<Windows> {
        Windows::of_layers(hyper, 0, |name, n| hyper.keys.pattern_but_first(name, n, period))
    }

    /// Where the file must say which layers have windows.
    pub fn read_flags(hyper: &Hyper<'_>) -> Result<Windows> {
        Windows::of_layers(hyper, 0, |name, n| hyper.keys.flags(name, n))
    }

    fn of_layers(
        hyper: &Hyper<'_>,
        default: usize,
        layers: impl FnOnce(&str, usize) -> Result<Vec<bool>>,
    ) -> Result<Windows> {
        let window = hyper.keys.positions_or(WINDOW, default)?.min(u32::MAX as usize) as u32;
        let layers = match window {
            0 => Vec::new(),
            _ => layers("attention.sliding_window_pattern", hyper.keys.number("block_count")?)?,
        };
        Ok(Windows { window, layers })
    }

    /// # Errors
    /// Error::Model where the file states no window.
    pub fn required(self, hyper: &Hyper<'_>) -> Result<Windows> {
        match self.window {
            0 => Err(Error::model(format!("{} is missing or 0", hyper.keys.key(WINDOW)))),
            _ => Ok(self),
        }
    }

    pub fn of(&self, layer: usize) -> Option<Window> {
        self.layers.get(layer).copied().unwrap_or(false).then_some(Window::Sliding(self.window))
    }

    /// `heads` as layer `layer` has them, where `ropes` are what layers without and with a window rotate by.
    pub fn heads(&self, layer: usize, heads: Attention, ropes: [Option<RopeId>; 2]) -> Attention {
        let window = self.of(layer);
        Attention { window, rope: ropes[usize::from(window.is_some())], ..heads }
    }
}

/// Attention of layer `layer` over x, its output product included.
pub fn attention(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    layer: usize,
    x: ValueId,
    of: Attention,
) -> Result<ValueId> {
    let (n_head, n_head_kv) = (hyper.n_head[layer], hyper.n_head_kv[layer]);
    if n_head == 0 || n_head_kv == 0 {
        return Err(Error::model(format!(
            "layer {layer} has {n_head} query heads over {n_head_kv} kv heads"
        )));
    }
    let with_gate = matches!(of.gate, Gate::InQueries);
    let q_width = n_head * hyper.k * if with_gate { 2 } else { 1 };
    let widths = [q_width, n_head_kv * hyper.k, n_head_kv * hyper.v];
    let order = if of.scales { ScaleOrder::BeforeBias } else { ScaleOrder::Ignored };
    let linear = Linear { bias: of.bias, scale: order };
    let names = ["attn_q", "attn_k", "attn_v"];
    let mut qkv = [x; 3];
    let (fused, total) = (b.has("attn_qkv.weight"), widths.iter().sum());
    let mut first = 0;
    for ((out, name), width) in qkv.iter_mut().zip(names).zip(widths) {
        *out = match fused {
            true => b.linear_part(name, "attn_qkv", x, Part { first, len: width, of: total }, linear)?,
            false => b.linear(name, x, width, linear)?,
        };
        // biases may stand by themselves beside the matrix of all
        if fused && of.bias == Presence::Optional && !b.has("attn_qkv.bias") {
            let bias = b.vector_if(&format!("{name}.bias"), Part::all(width), Presence::Optional)?;
            if bias.is_some() {
                *out = b.affine("attn_bias", *out, None, bias);
            }
        }
        if of.clamp > 0.0 {
            *out = b.unary("attn_clamp", Unary::Clamp(-of.clamp, of.clamp), *out);
        }
        first += width;
    }
    let [mut q, mut k, v] = qkv;
    let plain = Linear { bias: Presence::Never, scale: ScaleOrder::Ignored };
    let gate = match of.gate {
        Gate::None => None,
        Gate::InQueries => {
            let both = q;
            q = b.columns("attn_query", both, 2 * hyper.k, 0, hyper.k);
            Some((Unary::Sigmoid, b.columns("attn_gate", both, 2 * hyper.k, hyper.k, hyper.k)))
        }
        Gate::Own(f) => Some((f, b.linear("attn_gate", x, n_head * hyper.v, plain)?)),
        Gate::OwnOfHeads(f) => Some((f, b.linear("attn_gate", x, n_head, plain)?)),
    };
    let rotate = |b: &mut Builder<'_>, [q, k]: [ValueId; 2]| match of.rope {
        Some(rope) => [b.rotate("rope_q", q, hyper.k, 0, rope), b.rotate("rope_k", k, hyper.k, 0, rope)],
        None => [q, k],
    };
    [q, k] = match of.norm {
        QkNorm::None => rotate(b, [q, k]),
        QkNorm::HeadsBehindRope(norm) => {
            let [q, k] = rotate(b, [q, k]);
            [norm.over(b, "attn_q_norm", q, hyper.k)?, norm.over(b, "attn_k_norm", k, hyper.k)?]
        }
        QkNorm::Heads(norm) => {
            let heads = [norm.over(b, "attn_q_norm", q, hyper.k)?, norm.over(b, "attn_k_norm", k, hyper.k)?];
            rotate(b, heads)
        }
        QkNorm::EachHead(norm) => {
            let heads = [norm.each(b, "attn_q_norm", q, n_head)?, norm.each(b, "attn_k_norm", k, n_head_kv)?];
            rotate(b, heads)
        }
        QkNorm::ScaledBehindRope(norm) => {
            let [q, k] = rotate(b, [q, k]);
            let norm = norm.bare();
            let q = norm.over(b, "attn_q_norm", q, hyper.k)?;
            let scale = b.row_vectors("attn_q_norm.weight", 1, Part::all(n_head))?;
            let q = b.affine("attn_q_scaled", q, Some(scale), None);
            [q, norm.over(b, "attn_k_norm", k, hyper.k)?]
        }
        QkNorm::Row(norm) => {
            let rows = [norm.row(b, "attn_q_norm", q)?, norm.row(b, "attn_k_norm", k)?];
            rotate(b, rows)
        }
    };
    if let Some((scale, length)) = of.temper {
        q = b.temper(q, scale, length);
    }
    let values = Values::Own(hyper.v);
    let cache = b.cache(Cache { n_head_kv, k: hyper.k, values, window: of.window })?;
    b.append(cache, k, Some(v));
    let sinks = b.vector_if("attn_sinks.weight", Part::all(n_head), of.sinks)?;
    let mut heads = b.attention(cache, q, of.scores, sinks);
    if let Some((f, gate)) = gate {
        heads = match of.gate {
            Gate::OwnOfHeads(_) => {
                let gate = b.unary("attn_gate_act", f, gate);
                b.binary("attn_gated", Binary::Mul, heads, gate)
            }
            _ => b.binary("attn_gated", Binary::Glu(f), gate, heads),
        };
    }
    let output = Linear { bias: of.output_bias, scale: ScaleOrder::BeforeBias };
    b.linear("attn_output", heads, hyper.n_embd, output)
}
