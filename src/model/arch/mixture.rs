//! Mixtures of experts as architectures have them.

use super::blocks::{FeedForward, FeedForwardNames, SHARED, Unit, UnitGate, feed_forward_of};
use crate::model::Hyper;
use crate::plan::builder::{Builder, Linear, Part, Presence};
use crate::plan::{Binary, Gating, Routing, Unary, ValueId};
use crate::{Error, Result};

/// A mixture of experts.
#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    pub n_experts: usize,
    /// Elements between an expert's matrices.
    pub n_ff: usize,
    pub routing: Routing,
    pub unit: Unit,
    /// Bound on up, and from above on the gate, in a mixture whose gate and up are apart; 0: none.
    pub limit: f32,
    /// The weights are for what the experts take instead of what they leave.
    pub on_input: bool,
    /// Of the router and the experts.
    pub bias: Presence,
    /// `exp_probs_b`: takes part in the choice alone.
    pub choice_bias: Presence,
    /// Whether the experts' `.scale` apply.
    pub scales: bool,
    /// Whether a file may have gate and up in one tensor, the gate first: `ffn_gate_up_exps`.
    pub merged: bool,
    /// An expert that every token has beside its own, of the same function.
    pub shared: Option<Shared>,
}

#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Elements between the matrices.
    pub n_ff: usize,
    pub names: FeedForwardNames,
    pub gate: UnitGate,
    /// Whether the sigmoid of what `ffn_gate_inp_shexp` makes, one number, is a factor on its result.
    pub weighed: bool,
    /// Factor on the sum of its result and the experts'.
    pub sum: f32,
}

impl Shared {
    /// None: of no elements.
    pub fn of(n_ff: usize) -> Option<Shared> {
        (n_ff > 0).then_some(Shared { n_ff, names: SHARED, gate: UnitGate::Own, weighed: false, sum: 1.0 })
    }
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
        let routing =
            Routing { gating, n_used, least_sum: LEAST_SUM, scale: 1.0, n_groups, n_groups_used, per_id: 1 };
        let unit = Unit::Gated(Binary::Glu(Unary::Silu));
        let (bias, choice_bias) = (Presence::Never, Presence::Never);
        Ok(Some(Mixture {
            n_experts,
            n_ff,
            routing,
            unit,
            limit: 0.0,
            on_input: false,
            bias,
            choice_bias,
            scales: true,
            merged: false,
            shared: None,
        }))
    }

    /// The same of a model that must have experts.
    pub fn required(hyper: &Hyper<'_>, n_ff: usize) -> Result<Mixture> {
        let missing = || Error::model(format!("{} is 0", hyper.keys.key("expert_count")));
        Mixture::read(hyper, n_ff)?.ok_or_else(missing)
    }

    /// Elements between an expert's matrices, in a model whose experts share what a dense feed-forward would have where the
    /// file does not say.
    pub fn width(hyper: &Hyper<'_>) -> Result<usize> {
        let keys = &hyper.keys;
        keys.number_or("expert_feed_forward_length", hyper.n_ff[0] / keys.dim("expert_used_count")?)
    }

    /// The chosen weights as they are.
    pub fn without_norm(self) -> Mixture {
        Mixture { routing: Routing { least_sum: 0.0, ..self.routing }, ..self }
    }

    /// Gating, division by the sum and factor by their keys.
    pub fn by_keys(self, hyper: &Hyper<'_>, gating: Option<Gating>) -> Result<Mixture> {
        self.gating_by_key(hyper, gating)?.norm_by_key(hyper)?.scale_by_key(hyper)
    }

    /// As `expert_gating_func` says; `gating` where the file does not. None: it must.
    pub fn gating_by_key(self, hyper: &Hyper<'_>, gating: Option<Gating>) -> Result<Mixture> {
        let keys = &hyper.keys;
        let missing = || Error::model(format!("{} does not say how", keys.key("expert_gating_func")));
        let gating = match keys.number("expert_gating_func")? {
            0 => gating.ok_or_else(missing)?,
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
        Ok(Mixture { routing: Routing { gating, ..self.routing }, ..self })
    }

    /// Whether the chosen weights are divided by their sum as `expert_weights_norm` says.
    pub fn norm_by_key(self, hyper: &Hyper<'_>) -> Result<Mixture> {
        let least_sum = if hyper.keys.bool_or("expert_weights_norm", false)? { LEAST_SUM } else { 0.0 };
        Ok(Mixture { routing: Routing { least_sum, ..self.routing }, ..self })
    }

    /// The factor on the weights as `expert_weights_scale` says; 0: none.
    pub fn scale_by_key(self, hyper: &Hyper<'_>) -> Result<Mixture> {
        let scale = match hyper.keys.float_or("expert_weights_scale", 0.0)? {
            0.0 => 1.0,
            scale => scale,
        };
        Ok(Mixture { routing: Routing { scale, ..self.routing }, ..self })
    }
}

/// The smallest normal f16: what the sum of chosen weights is taken for where it is smaller.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// The mixture's feed-forward over x.
pub fn mixture(b: &mut Builder<'_>, hyper: &Hyper<'_>, x: ValueId, of: Mixture) -> Result<ValueId> {
    routed_by(b, hyper, x, x, of)
}

/// The mixture's feed-forward over x, where the router sees `routed`.
pub fn routed_by(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    routed: ValueId,
    x: ValueId,
    of: Mixture,
) -> Result<ValueId> {
    let router = Linear { bias: of.bias, ..Linear::default() };
    let logits = b.linear("ffn_gate_inp", routed, of.n_experts, router)?;
    let sum = experts(b, hyper, EXPERTS, logits, x, of)?;
    let Some(shared) = of.shared else {
        return Ok(sum);
    };
    let unit = FeedForward {
        unit: of.unit,
        gate: shared.gate,
        scales: of.scales,
        ..FeedForward::gated(Unary::Silu)
    };
    let mut beside = feed_forward_of(b, hyper, shared.names, shared.n_ff, x, unit)?;
    if shared.weighed {
        let weight = b.linear("ffn_gate_inp_shexp", x, 1, Linear { bias: Presence::Never, ..router })?;
        let weight = b.unary("ffn_weight_shexp", Unary::Sigmoid, weight);
        beside = b.binary("ffn_weighed_shexp", Binary::Mul, beside, weight);
    }
    let both = b.binary("ffn_sum", Binary::Add, sum, beside);
    Ok(if shared.sum == 1.0 { both } else { b.unary("ffn_sum_scale", Unary::Scale(shared.sum), both) })
}

/// Names of the experts' products: gate, up, down.
pub type ExpertNames = [&'static str; 3];

pub const EXPERTS: ExpertNames = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];

/// The sum of what the experts that `logits` choose make of x.
pub fn experts(
    b: &mut Builder<'_>,
    hyper: &Hyper<'_>,
    [gate, up, down]: ExpertNames,
    logits: ValueId,
    x: ValueId,
    of: Mixture,
) -> Result<ValueId> {
    let Mixture { n_experts, n_ff, .. } = of;
    // some files' names are without the suffix
    let name = if b.has("exp_probs_b") { "exp_probs_b" } else { "exp_probs_b.bias" };
    let choice_bias = b.vector_if(name, Part::all(b.width(logits)), of.choice_bias)?;
    let (ids, weights) = b.route(logits, choice_bias, of.routing);
    let (x, weights) = if of.on_input { (b.spread(x, weights), None) } else { (x, Some(weights)) };
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
    let unit = match of.unit {
        Unit::Plain(f) => {
            let up = product(b, up, x, hyper.n_embd, n_ff)?;
            b.unary("ffn_act", f, up)
        }
        Unit::Gated(f) if of.merged && b.has("ffn_gate_up_exps.weight") => {
            let both = product(b, "ffn_gate_up_exps", x, hyper.n_embd, 2 * n_ff)?;
            let mut half = |name, first| b.columns(name, both, 2 * n_ff, first, n_ff);
            let (gate, up) = (half(gate, 0), half(up, n_ff));
            b.binary("ffn_glu", f, gate, up)
        }
        Unit::Gated(f) => {
            let mut gate = product(b, gate, x, hyper.n_embd, n_ff)?;
            let mut up = product(b, up, x, hyper.n_embd, n_ff)?;
            if of.limit > 0.0 {
                gate = b.unary("ffn_gate_clamp", Unary::Clamp(f32::NEG_INFINITY, of.limit), gate);
                up = b.unary("ffn_up_clamp", Unary::Clamp(-of.limit, of.limit), up);
            }
            b.binary("ffn_glu", f, gate, up)
        }
    };
    let down = product(b, down, unit, n_ff, hyper.n_embd)?;
    Ok(b.combine(down, weights, hyper.n_embd))
}
