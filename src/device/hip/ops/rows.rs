//! Rows cut into columns, joined, and made sharper by their position.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::{dim, holds, launch};
use crate::{Error, Result};

/// Parts of a row: `len` elements at `first` and every `step` elements on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Elements of a row.
    pub width: usize,
    pub first: usize,
    pub step: usize,
}

impl Parts {
    /// Whether `n_parts` of `len` elements end in the row.
    fn hold(&self, n_parts: usize, len: usize) -> bool {
        let end = (n_parts - 1)
            .checked_mul(self.step)
            .and_then(|last| last.checked_add(self.first)?.checked_add(len));
        end.is_some_and(|end| end <= self.width)
    }
}

/// Copies `n_parts` parts of `len` elements of each of n rows of x to rows of dst (f32).
#[allow(clippy::too_many_arguments)]
pub fn columns(
    stream: &Stream,
    x: Span<'_>,
    from: Parts,
    dst: Span<'_>,
    to: Parts,
    n: usize,
    n_parts: usize,
    len: usize,
) -> Result<()> {
    holds("x", x, &[n, from.width], 4)?;
    holds("dst", dst, &[n, to.width], 4)?;
    if n == 0 || n_parts == 0 || len == 0 {
        return Ok(());
    }
    if !from.hold(n_parts, len) || !to.hold(n_parts, len) || (n_parts > 1 && to.step < len) {
        return Err(Error::param(format!("{n_parts} parts of {len}, {from:?} to {to:?}")));
    }
    let args = ColumnsArgs {
        x: x.ptr(),
        dst: dst.ptr(),
        width: dim("width", from.width)?,
        to_width: dim("width", to.width)?,
        n: dim("n", n_parts * len)?,
        len: dim("len", len)?,
        first: dim("first", from.first)?,
        step: dim("step", from.step)?,
        to_first: dim("first", to.first)?,
        to_step: dim("step", to.step)?,
    };
    launch(stream, COLUMNS_F32, [n as u64, (n_parts * len).div_ceil(256) as u64, 1], &args)
}

/// dst = x (f32, n x width), each row times 1 + scale * ln(1 + floor(position / length)). In place allowed. `positions`: u32.
#[allow(clippy::too_many_arguments)]
pub fn temper(
    stream: &Stream,
    x: Span<'_>,
    dst: Span<'_>,
    positions: Span<'_>,
    n: usize,
    width: usize,
    scale: f32,
    length: usize,
) -> Result<()> {
    holds("x", x, &[n, width], 4)?;
    holds("dst", dst, &[n, width], 4)?;
    holds("positions", positions, &[n], 4)?;
    if length == 0 {
        return Err(Error::param("a temperature by runs of 0 positions"));
    }
    if n == 0 || width == 0 {
        return Ok(());
    }
    let args = TemperArgs {
        x: x.ptr(),
        dst: dst.ptr(),
        positions: positions.ptr(),
        width: dim("width", width)?,
        length: dim("length", length)?,
        scale,
    };
    launch(stream, TEMPER_F32, [n as u64, width.div_ceil(256) as u64, 1], &args)
}
