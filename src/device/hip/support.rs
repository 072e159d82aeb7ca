//! What of a plan the kernels take.

use super::ops::experts::MOST_EXPERTS;
use super::ops::project::cell_pad;
use super::ops::recurrent::delta_kernel;
use crate::plan::{NamedOp, Op, Plan};
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
    let experts = |n: usize| match n {
        0..=MOST_EXPERTS => Ok(()),
        _ => refuse(format!(" of {n} experts"), &format!("up to {MOST_EXPERTS} experts")),
    };
    match named.op {
        Op::Rope { head_dim, first, rope, .. } => match first + 2 * plan.rope(rope).inv_freq.len() {
            n_rot if n_rot > head_dim => refuse(format!(" of {n_rot} of {head_dim}"), "parts of a head"),
            _ => Ok(()),
        },
        Op::Append { cache, .. } => cell_pad(plan.cache(cache)).map(drop),
        Op::Attention { cache, q, .. } => {
            let (n_head, of) = (plan.n_head(q, cache), plan.cache(cache));
            if n_head * of.k != plan.width(q) || !n_head.is_multiple_of(of.n_head_kv) {
                let why = format!(" of {} over {} heads of {}", plan.width(q), of.n_head_kv, of.k);
                return refuse(why, "whole heads, as many for each of the cache's");
            }
            if of.window.is_some_and(|window| window.most() == 0) {
                return refuse(" that sees nothing".into(), "windows of a position and more");
            }
            cell_pad(of).map(drop)
        }
        Op::Route { logits, .. } => experts(plan.width(logits)),
        Op::MatMulExperts { ids, weight, out, .. } => experts(plan.expert_shape(ids, weight, out).n_experts),
        Op::MatMulHeads { x, weight, out } => match plan.head_shape(x, weight, out).n_experts {
            n if n > MOST_EXPERTS => refuse(format!(" of {n} heads"), &format!("up to {MOST_EXPERTS} heads")),
            _ => Ok(()),
        },
        Op::DeltaNet { q, v, g, beta, n_k, heads, .. } => {
            delta_kernel(plan.delta_shape([q, v, g, beta], n_k, heads).k).map(drop)
        }
        Op::Combine { .. }
        | Op::Spread { .. }
        | Op::Fill { .. }
        | Op::Affine { .. }
        | Op::Embed { .. }
        | Op::Temper { .. }
        | Op::Columns { .. }
        | Op::Join { .. }
        | Op::Norm { .. }
        | Op::MatMul { .. }
        | Op::Unary { .. }
        | Op::Conv { .. }
        | Op::Binary { .. }
        | Op::SelectRows { .. } => Ok(()),
    }
}
