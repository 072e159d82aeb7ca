//! Kernels loaded before the first step wants them.

use super::super::card::Card;
use super::super::kernels::*;
use super::attend::attend_kernel;
use super::matmul::MatMulTile;
use super::prefill::attention_kernel;
use super::project::head_pad;
use crate::Result;
use crate::gguf::TensorType;
use crate::plan::{NamedOp, Op, Plan};

/// Loads the code objects that steps of the plan launch kernels of, so that one that is missing or refused is known
/// when the model is loaded, and no step waits for one. Names a kernel of each code object; tests/hip/model.rs holds
/// that steps load no other.
///
/// Errors: those of [`Card::load`].
pub fn load_kernels(card: &Card, plan: &Plan) -> Result<()> {
    // what every plan is made of
    card.load([
        EMBED.of(TensorType::F32)?.id(),
        NORM_F32.id(),
        BINARY_F32.id(),
        ROPE_F32.id(),
        PREPARE_HEADS.id(),
    ])?;
    card.load([QUANTIZE_Q8.id(), HALF_ROWS.id()])?;
    let cuts = |named: &NamedOp| matches!(named.op, Op::Columns { .. } | Op::Join { .. });
    if plan.ops.iter().any(cuts) {
        card.load([COLUMNS_F32.id()])?;
    }
    if !plan.states.is_empty() {
        card.load([CONV_F32.id()])?;
    }
    for (n_head, cache) in plan.attentions() {
        let head_pad = head_pad(cache.k)?;
        let (few, _) = attend_kernel(head_pad, n_head / cache.n_head_kv.max(1))?;
        card.load([few.id(), attention_kernel(head_pad)?.0.id()])?;
    }
    for (i, weight) in plan.weights.iter().enumerate() {
        // of each type once
        if plan.weights[..i].iter().all(|other| other.ty != weight.ty) {
            let many = MatMulTile::Small.kernel(weight.ty)?;
            card.load([MATVEC_N1.of(weight.ty)?.id(), many.id()])?;
        }
    }
    Ok(())
}
