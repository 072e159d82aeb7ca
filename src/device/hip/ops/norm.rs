//! Norms of rows.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::project::Dest;
use super::{Q8_BLOCK, dim, holds, is_aligned, launch};
use crate::plan::NormKind;
use crate::{Error, Result};

/// A norm with its vectors, f32, as long as a row.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    pub kind: NormKind,
    pub weight: Option<Span<'a>>,
    pub bias: Option<Span<'a>>,
    pub eps: f32,
}

impl Norm<'_> {
    fn vectors(&self, width: usize, alignment: u64) -> Result<[Ptr; 2]> {
        let mut pointers = [Ptr::default(); 2];
        for (pointer, (name, span)) in pointers.iter_mut().zip([("weight", self.weight), ("bias", self.bias)])
        {
            let Some(span) = span else { continue };
            holds(name, span, &[width], 4)?;
            is_aligned(name, span, alignment)?;
            *pointer = span.ptr();
        }
        Ok(pointers)
    }

    /// As kernels/norm.hip numbers them.
    fn code(&self) -> u32 {
        match self.kind {
            NormKind::Rms => 0,
            NormKind::Layer => 1,
            NormKind::L2 => 2,
        }
    }
}

/// The norm of n rows of `width`. In place allowed.
pub fn norm(
    stream: &Stream,
    norm: Norm<'_>,
    x: Span<'_>,
    dst: Span<'_>,
    n: usize,
    width: usize,
) -> Result<()> {
    holds("x", x, &[n, width], 4)?;
    holds("dst", dst, &[n, width], 4)?;
    let [weight, bias] = norm.vectors(width, 4)?;
    if n == 0 || width == 0 {
        return Ok(());
    }
    let (width, eps, kind) = (dim("width", width)?, norm.eps, norm.code());
    let args = NormArgs { x: x.ptr(), weight, bias, dst: dst.ptr(), width, eps, kind };
    launch(stream, NORM_F32, [n as u64, 1, 1], &args)
}

/// The norm of n rows of `width`, a multiple of 32: of row `rows[r]` of x (u32; r where None), below the rows that x
/// holds, to row r of the target.
pub fn norm_to(
    stream: &Stream,
    norm: Norm<'_>,
    x: Span<'_>,
    rows: Option<Span<'_>>,
    to: Dest<'_>,
    n: usize,
    width: usize,
) -> Result<()> {
    match rows {
        Some(rows) => holds("rows", rows, &[n], 4)?,
        None => holds("x", x, &[n, width], 4)?,
    }
    is_aligned("x", x, 16)?;
    let [weight, bias] = norm.vectors(width, 16)?;
    if n == 0 || width == 0 {
        return Ok(());
    }
    if !width.is_multiple_of(Q8_BLOCK) {
        return Err(Error::param(format!("rows of {width} are not whole blocks of {Q8_BLOCK}")));
    }
    let (dst, q, ds) = to.pointers(n, width)?;
    let (x, rows, grid) = (x.ptr(), rows.map_or(Ptr::default(), Span::ptr), [n as u64, 1, 1]);
    let (width, eps, kind) = (dim("width", width)?, norm.eps, norm.code());
    if width <= 2048 {
        let args = NarrowNormQ8Args { x, rows, weight, bias, dst, q, ds, width, eps, kind };
        return launch(stream, NORM_Q8_NARROW, grid, &args);
    }
    let args = NormQ8Args { x, rows, weight, bias, dst, q, ds, width, eps, kind };
    launch(stream, NORM_Q8, grid, &args)
}
