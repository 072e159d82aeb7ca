//! What a plan takes of a GPU's memory, by the layouts alone.

use super::memory::ALIGNMENT;
use super::planes::PlaneLayout;
use crate::Result;
use crate::device::plan::{Op, Plan, Rows};
use crate::device::{BLOCK_LEN, Needs, SessionLimits};

/// Elements that a head takes in the cache: the least of these that holds it.
pub const HEAD_SIZES: [usize; 5] = [32, 64, 128, 256, 512];

/// Tokens whose attention is split over the sequence, and parts that one is split into at most.
const SPLIT_TOKENS: u64 = 8;
const MAX_SPLITS: u64 = 64;

/// # Errors
/// `Error::Unsupported` for a weight of a type no kernel reads.
pub fn needs(plan: &Plan, limits: SessionLimits) -> Result<Needs> {
    let mut weights = 0u64;
    for weight in &plan.weights {
        weights = weights.saturating_add(PlaneLayout::new(weight.ty, weight.rows, weight.cols)?.bytes);
    }
    let shape = plan.cache;
    let head = padded_head(shape.head_dim) as u64;
    // keys and values, f16
    let cells = [shape.n_layers, limits.n_blocks, BLOCK_LEN, shape.n_head_kv];
    let cache = cells.into_iter().fold(2 * 2 * head, |n, d| n.saturating_mul(d as u64));

    let tokens = limits.max_tokens as u64;
    let buffers = plan.buffers.iter().map(|buffer| {
        let rows = match buffer.rows {
            Rows::Tokens => limits.max_tokens,
            Rows::Outputs => limits.max_outputs,
        };
        aligned((rows as u64).saturating_mul(buffer.width as u64).saturating_mul(4))
    });
    let inputs = plan.ops.iter().filter_map(|named| match named.op {
        Op::MatMul { weight, .. } => Some(plan.weight(weight).cols as u64),
        _ => None,
    });
    // a byte per activation and (d, d * sum) per 32
    let rounded = inputs.max().unwrap_or(0).saturating_mul(tokens).saturating_mul(5) / 4;
    let attends = plan.ops.iter().any(|named| matches!(named.op, Op::Attention { .. }));
    let splits = if attends { tokens.min(SPLIT_TOKENS) * MAX_SPLITS } else { 0 };
    let partial = splits.saturating_mul(shape.n_head as u64).saturating_mul(4 * (head + 2));
    let steps = aligned(4 * 4 * tokens).saturating_add(aligned(4 * limits.n_blocks as u64));
    let scratch = buffers.chain([aligned(rounded), aligned(partial), steps]).fold(0, u64::saturating_add);
    Ok(Needs { weights, cache, scratch })
}

/// Elements that a head of the cache takes.
pub fn padded_head(head_dim: usize) -> usize {
    HEAD_SIZES.into_iter().find(|size| *size >= head_dim).unwrap_or(head_dim)
}

fn aligned(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX)
}
