//! What of a plan the kernels take.

use super::ops::project::head_pad;
use super::ops::recurrent::delta_kernel;
use crate::plan::{Binary, Cache, NamedOp, Op, Plan};
use crate::{Error, Result};

/// # Errors
/// `Error::Unsupported` names the first op that no kernel computes.
pub fn check(plan: &Plan) -> Result<()> {
    plan.ops.iter().try_for_each(|named| op(plan, named))
}

fn op(plan: &Plan, named: &NamedOp) -> Result<()> {
    let refuse = |why: String, supported: &str| {
        Err(Error::Unsupported {
            what: "op on a GPU",
            name: format!("{} ({}{why})", named.name, named.op.kind()),
            supported: supported.into(),
        })
    };
    let cells = |Cache { k, v, .. }: Cache| {
        if k != v {
            return refuse(format!(" of keys of {k} and values of {v}"), "keys and values of one size");
        }
        head_pad(k).map(drop)
    };
    match named.op {
        Op::Rope { head_dim, rope, .. } => match 2 * plan.rope(rope).inv_freq.len() {
            n_rot if n_rot > head_dim => refuse(format!(" of {n_rot} of {head_dim}"), "parts of a head"),
            _ => Ok(()),
        },
        Op::Append { cache, .. } => cells(plan.cache(cache)),
        Op::Attention { sinks: Some(_), .. } => refuse(" of sinks".into(), "attention without sinks"),
        Op::Attention { cache, q, .. } => {
            let (n_head, of) = (plan.n_head(q, cache), plan.cache(cache));
            if n_head * of.k != plan.width(q) || !n_head.is_multiple_of(of.n_head_kv) {
                let why = format!(" of {} over {} heads of {}", plan.width(q), of.n_head_kv, of.k);
                return refuse(why, "whole heads, as many for each of the cache's");
            }
            if of.window == Some(0) {
                return refuse(" that sees nothing".into(), "windows of a position and more");
            }
            cells(of)
        }
        Op::Route { .. } | Op::MatMulExperts { .. } | Op::Combine { .. } => {
            refuse(String::new(), "models without experts, or all layers on the processor")
        }
        Op::DeltaNet { q, v, g, beta, n_k, heads, .. } => {
            delta_kernel(plan.delta_shape([q, v, g, beta], n_k, heads).k).map(drop)
        }
        Op::Binary { f: Binary::ClampedGlu, .. } => refuse(" of clamped gates".into(), "other gated units"),
        Op::Embed { .. }
        | Op::Norm { .. }
        | Op::MatMul { .. }
        | Op::Affine { .. }
        | Op::Unary { .. }
        | Op::Columns { .. }
        | Op::Join { .. }
        | Op::Conv { .. }
        | Op::Binary { .. }
        | Op::SelectRows { .. } => Ok(()),
    }
}
