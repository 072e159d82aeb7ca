//! What architectures are composed of: embedding, attention, feed-forward and head, as functions over the builder. An
//! option is a fact about an architecture, never about a file: what a file may leave out, the functions look up.

use crate::model::{Config, Hyper};
use crate::plan::builder::{Builder, Linear, Part, Presence, ScaleOrder};
use crate::plan::{
    Binary, Cache, Gating, Norm, NormKind, Plan, RopeId, Routing, Unary, ValueId, Values, Window,
};
use crate::{Error, Result};

/// A norm of an architecture, over whole rows or heads.
#[derive(Clone, Copy, Debug)]
pub struct NormOf {
    pub kind: NormKind,
    pub bias: Presence,
    pub eps: f32,
}

impl NormOf {
    /// An RMS norm with a weight, as `attention.layer_norm_rms_epsilon` says.
    pub fn rms(hyper: &Hyper<'_>) -> Result<NormOf> {
        let eps = hyper.keys.epsilon("attention.layer_norm_rms_epsilon")?;
        Ok(NormOf { kind: NormKind::Rms, bias: Presence::Never, eps })
    }

    /// A LayerNorm with weight and bias, as `attention.layer_norm_epsilon` says.
    pub fn layer(hyper: &Hyper<'_>) -> Result<NormOf> {
        let eps = hyper.keys.epsilon("attention.layer_norm_epsilon")?;
        Ok(NormOf { kind: NormKind::Layer, bias: Presence::Required, eps })
    }

    /// `{name}.weight` over each `group` of elements of x.
    pub fn over(&self, b: &mut Builder<'_>, name: &'static str, x: ValueId, group: usize) -> Result<ValueId> {
        let weight = b.vector(&format!("{name}.weight"), Part::all(group))?;
        let bias = b.vector_if(&format!("{name}.bias"), Part::all(group), self.bias)?;
        Ok(b.norm(name, x, Norm { kind: self.kind, weight: Some(weight), bias, eps: self.eps }, group))
    }

    /// Over the whole row.
    pub fn row(&self, b: &mut Builder<'_>, name: &'static str, x: ValueId) -> Result<ValueId> {
        let width = b.width(x);
        self.over(b, name, x, width)
    }
}

/// Self-attention with a cache of its own.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Of q, k and v (or of `attn_qkv`), and of the output.
    pub bias: Presence,
    pub output_bias: Presence,
    /// Whether the products' `.scale` apply.
    pub scales: bool,
    /// Over each head of q and k, before the rotation: `attn_q_norm`, `attn_k_norm`.
    pub head_norm: Option<NormOf>,
    pub rope: Option<RopeId>,
    pub window: Option<Window>,
    /// Factor on q.k.
    pub scale: f32,
    /// Soft cap on the scores; 0: none.
    pub cap: f32,
    /// `attn_sinks`: a score without a value for each query head.
    pub sinks: Presence,
    /// `attn_q` makes a query and behind it a gate for each head, whose sigmoid the head's result is multiplied by.
    pub gated: bool,
}

impl Attention {
    /// Optional biases, scores divided by the root of a head's length, and all else left out.
    pub fn of(hyper: &Hyper<'_>) -> Attention {
        Attention {
            bias: Presence::Optional,
            output_bias: Presence::Never,
            scales: true,
            head_norm: None,
            rope: None,
            window: None,
            scale: 1.0 / (hyper.k as f32).sqrt(),
            cap: 0.0,
            sinks: Presence::Never,
            gated: false,
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
        let window = hyper.keys.positions("attention.sliding_window")?.min(u32::MAX as usize) as u32;
        let layers = match window {
            0 => Vec::new(),
            _ => hyper.keys.pattern("attention.sliding_window_pattern", hyper.n_layer, period)?,
        };
        Ok(Windows { window, layers })
    }

    pub fn of(&self, layer: usize) -> Option<Window> {
        self.layers.get(layer).copied().unwrap_or(false).then_some(Window::Sliding(self.window))
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
    let q_width = n_head * hyper.k * if of.gated { 2 } else { 1 };
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
        first += width;
    }
    let [mut q, mut k, v] = qkv;
    let mut gate = None;
    if of.gated {
        let both = q;
        q = b.columns("attn_query", both, 2 * hyper.k, 0, hyper.k);
        gate = Some(b.columns("attn_gate", both, 2 * hyper.k, hyper.k, hyper.k));
    }
    if let Some(norm) = of.head_norm {
        q = norm.over(b, "attn_q_norm", q, hyper.k)?;
        k = norm.over(b, "attn_k_norm", k, hyper.k)?;
    }
    if let Some(rope) = of.rope {
        q = b.rotate("rope_q", q, hyper.k, 0, rope);
        k = b.rotate("rope_k", k, hyper.k, 0, rope);
    }
    let values = Values::Own(hyper.v);
    let cache = b.cache(Cache { n_head_kv, k: hyper.k, values, window: of.window })?;
    b.append(cache, k, Some(v));
    let sinks = b.vector_if("attn_sinks.weight", Part::all(n_head), of.sinks)?;
    let mut heads = b.attention(cache, q, of.scale, of.cap, sinks);
    if let Some(gate) = gate {
        heads = b.binary("attn_gated", Binary::Glu(Unary::Sigmoid), gate, heads);
    }
    b.linear("attn_output", heads, hyper.n_embd, Linear { bias: of.output_bias, scale: order })
}

/// A feed-forward of two or three matrices.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward {
    /// On the gate; without a gate, on what goes up.
    pub f: Unary,
    pub gated: bool,
    pub bias: Presence,
    /// Whether the products' `.scale` apply.
    pub scales: bool,
}

/// The feed-forward of layer `layer` over x.
pub fn feed_forward(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    layer: usize,
    x: ValueId,
    of: FeedForward,
) -> Result<ValueId> {
    feed_forward_of(b, hyper, DENSE, hyper.n_ff[layer], x, of)
}

/// Names of a feed-forward's ops: gate, up, gated unit, down.
type FeedForwardNames = [&'static str; 4];

const DENSE: FeedForwardNames = ["ffn_gate", "ffn_up", "ffn_glu", "ffn_down"];
const SHARED: FeedForwardNames = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_glu_shexp", "ffn_down_shexp"];

fn feed_forward_of(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    [gate, up, glu, down]: FeedForwardNames,
    n_ff: usize,
    x: ValueId,
    of: FeedForward,
) -> Result<ValueId> {
    let linear =
        Linear { bias: of.bias, scale: if of.scales { ScaleOrder::AfterBias } else { ScaleOrder::Ignored } };
    let unit = if of.gated {
        let gate = b.linear(gate, x, n_ff, linear)?;
        let up = b.linear(up, x, n_ff, linear)?;
        b.binary(glu, Binary::Glu(of.f), gate, up)
    } else {
        let up = b.linear(up, x, n_ff, linear)?;
        b.unary("ffn_act", of.f, up)
    };
    b.linear(down, unit, hyper.n_embd, linear)
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    pub n_experts: usize,
    /// Elements between an expert's matrices.
    pub n_ff: usize,
    pub routing: Routing,
    /// Of gate and up.
    pub f: Binary,
    /// Of the router and the experts.
    pub bias: Presence,
    /// `exp_probs_b`: takes part in the choice alone.
    pub choice_bias: Presence,
    /// Whether the experts' `.scale` apply.
    pub scales: bool,
    /// Whether a file may have gate and up in one tensor, the gate first: `ffn_gate_up_exps`.
    pub merged: bool,
    /// Elements between the matrices of an expert that every token has beside its own; 0: there is none.
    pub shared: usize,
}

impl Mixture {
    /// As `expert_count` and `expert_used_count` say: a softmax over all, the chosen weights divided by their sum, gated by
    /// silu. None: the model has no experts.
    pub fn read(hyper: &Hyper<'_>, n_ff: usize) -> Result<Option<Mixture>> {
        let keys = &hyper.keys;
        let (n_experts, n_used) = (keys.number("expert_count")?, keys.number("expert_used_count")?);
        if n_experts == 0 {
            return Ok(None);
        }
        if n_used == 0 || n_used > n_experts {
            let key = keys.key("expert_used_count");
            return Err(Error::model(format!("{key} is {n_used}; it must be 1 to {n_experts}")));
        }
        let (n_groups, n_groups_used) =
            (keys.number("expert_group_count")?, keys.number("expert_group_used_count")?);
        let enough = n_groups > 0 && n_groups_used.saturating_mul(n_experts / n_groups) >= n_used;
        if n_groups > 1 && !(n_experts.is_multiple_of(n_groups) && n_groups_used <= n_groups && enough) {
            return Err(Error::model(format!(
                "{n_used} of {n_experts} experts cannot be chosen from {n_groups_used} of {n_groups} groups ({})",
                keys.key("expert_group_count")
            )));
        }
        let gating = Gating::Softmax;
        let routing = Routing { gating, n_used, least_sum: LEAST_SUM, scale: 1.0, n_groups, n_groups_used };
        let f = Binary::Glu(Unary::Silu);
        let (bias, choice_bias) = (Presence::Never, Presence::Never);
        Ok(Some(Mixture {
            n_experts,
            n_ff,
            routing,
            f,
            bias,
            choice_bias,
            scales: true,
            merged: false,
            shared: 0,
        }))
    }

    /// Gating, division by the sum and factor as `expert_gating_func`, `expert_weights_norm` and `expert_weights_scale`
    /// say; `gating` where the file does not.
    pub fn by_keys(self, hyper: &Hyper<'_>, gating: Gating) -> Result<Mixture> {
        let keys = &hyper.keys;
        let gating = match keys.number("expert_gating_func")? {
            0 => gating,
            1 => Gating::Softmax,
            2 => Gating::Sigmoid,
            3 => Gating::SoftmaxOfChosen,
            other => {
                return Err(Error::Unsupported {
                    what: "gating of experts",
                    name: format!("{other} ({})", keys.key("expert_gating_func")),
                    supported: "1 (softmax), 2 (sigmoid), 3 (softmax of the chosen)".into(),
                });
            }
        };
        let least_sum = if keys.bool_or("expert_weights_norm", false)? { LEAST_SUM } else { 0.0 };
        let scale = match keys.float_or("expert_weights_scale", 0.0)? {
            0.0 => 1.0,
            scale => scale,
        };
        Ok(Mixture { routing: Routing { gating, least_sum, scale, ..self.routing }, ..self })
    }
}

/// The smallest normal f16: what the sum of chosen weights is taken for where it is smaller.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// The mixture's feed-forward over x.
pub fn mixture(b: &mut Builder<'_>, hyper: &Hyper<'_>, x: ValueId, of: Mixture) -> Result<ValueId> {
    let Mixture { n_experts, n_ff, .. } = of;
    let logits = b.linear("ffn_gate_inp", x, n_experts, Linear { bias: of.bias, ..Linear::default() })?;
    let choice_bias = b.vector_if("exp_probs_b.bias", Part::all(n_experts), of.choice_bias)?;
    let (ids, weights) = b.route(logits, choice_bias, of.routing);
    let product = |b: &mut Builder<'_>, name: &'static str, x, cols, rows| -> Result<ValueId> {
        let weight = b.experts(&format!("{name}.weight"), cols, rows, n_experts)?;
        let scale_name = format!("{name}.scale");
        let scale = match of.scales {
            true => b.vector_if(&scale_name, Part::all(n_experts), Presence::Optional)?,
            false => {
                b.ignore(&scale_name, "the experts' products are not scaled here")?;
                None
            }
        };
        let bias = b.expert_vectors(&format!("{name}.bias"), rows, n_experts, of.bias)?;
        Ok(b.mat_mul_experts(name, x, ids, rows, (weight, scale, bias)))
    };
    let (gate, up) = if of.merged && b.has("ffn_gate_up_exps.weight") {
        let both = product(b, "ffn_gate_up_exps", x, hyper.n_embd, 2 * n_ff)?;
        let mut half = |name, first| b.columns(name, both, 2 * n_ff, first, n_ff);
        (half("ffn_gate_exps", 0), half("ffn_up_exps", n_ff))
    } else {
        let gate = product(b, "ffn_gate_exps", x, hyper.n_embd, n_ff)?;
        (gate, product(b, "ffn_up_exps", x, hyper.n_embd, n_ff)?)
    };
    let unit = b.binary("ffn_glu", of.f, gate, up);
    let down = product(b, "ffn_down_exps", unit, n_ff, hyper.n_embd)?;
    let sum = b.combine(down, weights);
    if of.shared == 0 {
        return Ok(sum);
    }
    let unit = FeedForward { f: Unary::Silu, gated: true, bias: Presence::Never, scales: of.scales };
    let shared = feed_forward_of(b, hyper, SHARED, of.shared, x, unit)?;
    Ok(b.binary("ffn_sum", Binary::Add, sum, shared))
}

/// What follows the layers.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub norm: NormOf,
    /// Whether a file without `output.weight` uses the embedding in its place.
    pub tied: bool,
    pub bias: Presence,
    /// On the logits.
    pub f: Option<Unary>,
}

/// Norm and logits of the wanted rows of x, and the end of the plan.
pub fn head(mut b: Builder<'_>, hyper: &Hyper<'_>, x: ValueId, of: Head) -> Result<(Config, Plan)> {
    let wanted = b.select(x);
    let normed = of.norm.row(&mut b, "output_norm", wanted)?;
    let tensor = if of.tied && !b.has("output.weight") { "token_embd" } else { "output" };
    let all = Part::all(hyper.n_vocab);
    let bias = b.vector_if("output.bias", all, of.bias)?;
    let mut logits = b.product("output", &format!("{tensor}.weight"), normed, all, bias)?;
    if let Some(f) = of.f {
        logits = b.unary("logits", f, logits);
    }
    Ok((hyper.config()?, b.finish(logits)?))
}
