//! The memory of a session: how large it is, and where in it everything lies.

use std::ops::Range;

use super::limits::Limits;
use super::memory::aligned;
use super::ops::Q8_BLOCK;
use super::ops::attend::AttendShape;
use super::ops::matmul::half_stride;
use super::ops::project::{MATVEC_MAX_N, head_pad, wants_rounded};
use super::sampler::DeviceSampler;
use crate::device::{BLOCK_LEN, SessionLimits};
use crate::plan::{Op, Plan, Rows};
use crate::{Error, Result};

/// Bytes of a session's cache, and the places in its scratch.
#[derive(Debug)]
pub struct Layout {
    /// Of keys, and again of values; a layer's share of each.
    pub cache_bytes: u64,
    pub layer_bytes: u64,
    pub head_pad: usize,
    pub attend: AttendShape,
    /// Of each of the plan's buffers.
    pub buffers: Vec<Range<u64>>,
    /// Quants and factors of rounded rows: two places.
    pub rounded: [[Range<u64>; 2]; 2],
    /// f16 rows, and a factor each.
    pub half: [Range<u64>; 2],
    pub parts: Range<u64>,
    pub tickets: Range<u64>,
    /// Of each of the plan's ropes, for every position of the cache.
    pub turns: Vec<Range<u64>>,
    /// What a step says of its tokens; see `HipSession::describe`.
    pub step: Range<u64>,
    pub scratch_bytes: u64,
    /// Entries of a row of logits, where the plan ends with them and they can be drawn from; and what that takes.
    pub sampled_vocab: Option<usize>,
    pub sampler_bytes: u64,
}

/// Places one behind the other, each aligned as an allocation is.
#[derive(Default)]
struct Places {
    end: u64,
    overflow: bool,
}

impl Places {
    fn take(&mut self, dims: &[usize], size: u64) -> Range<u64> {
        let start = self.end;
        let bytes = product(dims, size);
        match bytes.and_then(aligned).and_then(|bytes| start.checked_add(bytes)) {
            Some(end) => self.end = end,
            None => self.overflow = true,
        }
        start..start.saturating_add(bytes.unwrap_or(0))
    }
}

fn product(dims: &[usize], size: u64) -> Option<u64> {
    dims.iter().try_fold(size, |n, d| n.checked_mul(*d as u64))
}

impl Layout {
    pub fn new(plan: &Plan, limits: SessionLimits, card: &Limits) -> Result<Self> {
        let shape = plan.cache;
        let head_pad = head_pad(shape.head_dim)?;
        let too_large = || Error::OutOfMemory {
            what: format!(
                "a session of {} positions and steps of {}",
                limits.n_blocks * BLOCK_LEN,
                limits.max_tokens
            ),
            wanted: u64::MAX,
            free: 0,
            total: card.memory_total,
        };
        let layer_bytes =
            product(&[limits.n_blocks, shape.n_head_kv, BLOCK_LEN, head_pad], 2).ok_or_else(too_large)?;
        let cache_bytes = layer_bytes.checked_mul(shape.n_layers as u64).ok_or_else(too_large)?;
        let attend = AttendShape::new(shape.n_head, shape.n_head_kv, head_pad, card.compute_units as usize)?;

        let rows = |rows: Rows| match rows {
            Rows::Tokens => limits.max_tokens,
            Rows::Outputs => limits.max_outputs,
        };
        let mut places = Places::default();
        let buffers = plan.buffers.iter().map(|b| places.take(&[rows(b.rows), b.width], 4)).collect();
        let (widest, most) = (widest_rounded(plan), limits.max_tokens.max(limits.max_outputs));
        let mut rounded =
            || [places.take(&[most, widest], 1), places.take(&[most, widest.div_ceil(Q8_BLOCK)], 8)];
        let rounded = [rounded(), rounded()];
        let cols = plan.ops.iter().filter_map(|named| match named.op {
            Op::MatMul { weight, .. } => Some(plan.weight(weight).cols),
            _ => None,
        });
        let stride = half_stride(cols.max().unwrap_or(0)).ok_or_else(too_large)?;
        let half = [places.take(&[most, stride], 2), places.take(&[most], 4)];
        let few = limits.max_tokens.min(MATVEC_MAX_N);
        let parts = places.take(&[few, shape.n_head, attend.splits, head_pad + 2], 4);
        let tickets = places.take(&[few, shape.n_head], 4);
        let positions = limits.n_blocks.checked_mul(BLOCK_LEN).ok_or_else(too_large)?;
        let turns = plan.ropes.iter().map(|rope| places.take(&[positions, rope.inv_freq.len()], 8)).collect();
        let words = limits.max_tokens.checked_mul(limits.n_blocks).and_then(|n| n.checked_add(8 * most));
        let step = places.take(&[words.and_then(|n| n.checked_add(16)).ok_or_else(too_large)?], 4);
        if places.overflow {
            return Err(too_large());
        }
        let scratch_bytes = places.end;
        let output = plan.buffer(plan.output);
        let draws = output.rows == Rows::Outputs && (1..=DeviceSampler::MAX_VOCAB).contains(&output.width);
        let sampled_vocab = draws.then_some(output.width);
        let sampler_bytes = sampled_vocab.map_or(0, DeviceSampler::bytes);
        Ok(Layout {
            cache_bytes,
            layer_bytes,
            head_pad,
            attend,
            buffers,
            rounded,
            half,
            parts,
            tickets,
            turns,
            step,
            scratch_bytes,
            sampled_vocab,
            sampler_bytes,
        })
    }
}

/// The longest row that is ever rounded to 8 bits; 0 where no matrix wants it.
fn widest_rounded(plan: &Plan) -> usize {
    let weights = plan.ops.iter().filter_map(|named| match named.op {
        Op::MatMul { weight, .. } => Some(plan.weight(weight)),
        _ => None,
    });
    weights.filter(|w| wants_rounded(w.ty)).map(|w| w.cols).max().unwrap_or(0)
}
