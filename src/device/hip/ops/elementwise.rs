//! Functions of one number or two, element by element. The result may lie where an input does.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::{dim, holds, launch, over};
use crate::plan::{Binary, Unary};
use crate::{Error, Result};

/// As kernels/activations.hpp numbers functions, and the function's constant.
fn code(f: Unary) -> (u32, f32) {
    match f {
        Unary::Silu => (0, 0.0),
        Unary::Gelu => (1, 0.0),
        Unary::Relu => (2, 0.0),
        Unary::Relu2 => (3, 0.0),
        Unary::Sigmoid => (4, 0.0),
        Unary::Scale(factor) => (5, factor),
        Unary::SoftCap(cap) => (6, cap),
        Unary::Softplus => (10, 0.0),
        Unary::Clamp(..) => (IDENTITY, 0.0), // refused before
    }
}

/// Of what is multiplied as it is, of sums, and of the clamped unit.
const IDENTITY: u32 = 7;
const ADD: u32 = 8;
const CLAMPED: u32 = 9;

/// What kernels that gate on their way call a function. None: they do not have it.
pub fn gate_code(f: Binary) -> Option<u32> {
    match f {
        Binary::Glu(f @ (Unary::Silu | Unary::Gelu)) => Some(code(f).0),
        Binary::ClampedGlu => Some(CLAMPED),
        Binary::Add | Binary::Mul | Binary::Glu(_) => None,
    }
}

/// `dst[i] = f(x[i])`, i < n.
pub fn unary(stream: &Stream, f: Unary, x: Span<'_>, dst: Span<'_>, n: usize) -> Result<()> {
    holds("x", x, &[n], 4)?;
    holds("dst", dst, &[n], 4)?;
    let ((f, c), n) = (code(f), n as u64);
    over(stream, UNARY_F32, n, 1024, &UnaryArgs { x: x.ptr(), dst: dst.ptr(), n, f, c })
}

/// `dst[i] = f(a[i], b[i])`, i < n.
pub fn binary(stream: &Stream, f: Binary, a: Span<'_>, b: Span<'_>, dst: Span<'_>, n: usize) -> Result<()> {
    for (name, span) in [("a", a), ("b", b), ("dst", dst)] {
        holds(name, span, &[n], 4)?;
    }
    let (f, c) = match f {
        Binary::Add => (ADD, 0.0),
        Binary::Mul => (IDENTITY, 0.0),
        Binary::Glu(f) => code(f),
        Binary::ClampedGlu => (CLAMPED, 0.0),
    };
    let n = n as u64;
    over(stream, BINARY_F32, n, 1024, &BinaryArgs { a: a.ptr(), b: b.ptr(), dst: dst.ptr(), n, f, c })
}

/// n rows of `width`: `dst[t][i] = x[t][i] * scale[i] + bias[i]`. Either vector holds a row's elements, or one.
#[allow(clippy::too_many_arguments)]
pub fn affine(
    stream: &Stream,
    x: Span<'_>,
    scale: Option<Span<'_>>,
    bias: Option<Span<'_>>,
    dst: Span<'_>,
    n: usize,
    width: usize,
) -> Result<()> {
    holds("x", x, &[n, width], 4)?;
    holds("dst", dst, &[n, width], 4)?;
    let vector = |name: &str, span: Option<Span<'_>>| match span {
        None => Ok((Ptr::default(), 0)),
        Some(span) if span.bytes() == 4 && width > 1 => Ok((span.ptr(), 1)),
        Some(span) if span.bytes() == 4 * width as u64 => Ok((span.ptr(), 0)),
        Some(span) => {
            let have = span.bytes();
            Err(Error::param(format!("{name}: {have} bytes for rows of {width} elements")))
        }
    };
    let ((scale, one_scale), (bias, one_bias)) = (vector("scale", scale)?, vector("bias", bias)?);
    if n == 0 || width == 0 {
        return Ok(());
    }
    let (x, dst, width) = (x.ptr(), dst.ptr(), dim("width", width)?);
    let args = AffineArgs { x, scale, bias, dst, width, one_scale, one_bias };
    launch(stream, AFFINE_F32, [n as u64, u64::from(width).div_ceil(1024), 1], &args)
}
