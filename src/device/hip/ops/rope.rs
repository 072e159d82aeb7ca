//! Rotary position embedding.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::{dim, holds, launch};
use crate::plan::RopePairs;
use crate::{Error, Result};

/// The heads that [`rope`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub n_heads: usize,
    pub head_dim: usize,
    /// Where what turns begins in a head.
    pub first: usize,
    /// Even; ends in the head.
    pub n_rot: usize,
}

/// `dst` = x (n x n_heads x head_dim) with n_rot elements of each head rotated, from `first` on. In place allowed. `positions`:
/// u32 per token, each below the rows of `table`; `table`: (cos, sin) f32 pairs, [position][n_rot / 2].
#[allow(clippy::too_many_arguments)]
pub fn rope(
    stream: &Stream,
    pairs: RopePairs,
    x: Span<'_>,
    dst: Span<'_>,
    positions: Span<'_>,
    table: Span<'_>,
    n: usize,
    heads: Heads,
) -> Result<()> {
    let Heads { n_heads, head_dim, first, n_rot } = heads;
    holds("x", x, &[n, n_heads, head_dim], 4)?;
    holds("dst", dst, &[n, n_heads, head_dim], 4)?;
    holds("positions", positions, &[n], 4)?;
    holds("table", table, &[n_rot / 2], 8)?;
    if first.checked_add(n_rot).is_none_or(|end| end > head_dim) || !n_rot.is_multiple_of(2) {
        return Err(Error::param(format!(
            "{n_rot} elements to rotate from {first} on, of heads of {head_dim}"
        )));
    }
    if n == 0 || n_heads == 0 || head_dim == 0 {
        return Ok(());
    }
    let args = RopeArgs {
        x: x.ptr(),
        dst: dst.ptr(),
        positions: positions.ptr(),
        table: table.ptr(),
        n_heads: dim("n_heads", n_heads)?,
        head_dim: dim("head_dim", head_dim)?,
        first: dim("first", first)?,
        n_rot: dim("n_rot", n_rot)?,
        halves: u32::from(pairs == RopePairs::Halves),
    };
    launch(stream, ROPE_F32, [n as u64, n_heads as u64, 1], &args)
}
