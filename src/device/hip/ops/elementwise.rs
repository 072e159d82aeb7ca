//! Functions of one number or two, element by element. The result may lie where an input does.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::{dim, holds, launch, over};
use crate::plan::{Binary, Unary};
use crate::{Error, Result};

/// As kernels/activations.hpp numbers functions, and the function's constants.
fn code(f: Unary) -> (u32, [f32; 2]) {
    match f {
        Unary::Silu => (0, [0.0; 2]),
        Unary::Gelu => (1, [0.0; 2]),
        Unary::Relu => (2, [0.0; 2]),
        Unary::Relu2 => (3, [0.0; 2]),
        Unary::Sigmoid => (4, [0.0; 2]),
        Unary::Scale(factor) => (5, [factor, 0.0]),
        Unary::SoftCap(cap) => (6, [cap, 0.0]),
        Unary::Softplus => (10, [0.0; 2]),
        Unary::Clamp(low, high) => (11, [low, high]),
    }
}

/// Of what is multiplied as it is, of sums, and of the clamped unit.
const IDENTITY: u32 = 7;
const ADD: u32 = 8;
const CLAMPED: u32 = 9;
/// Of what does not depend on its argument.
const CONSTANT: u32 = 12;

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
    let ((f, [c, d]), n) = (code(f), n as u64);
    over(stream, UNARY_F32, n, 1024, &UnaryArgs { x: x.ptr(), dst: dst.ptr(), n, f, c, d })
}

/// `dst[i] = value`, i < n.
pub fn fill(stream: &Stream, value: f32, dst: Span<'_>, n: usize) -> Result<()> {
    holds("dst", dst, &[n], 4)?;
    let (x, dst, n) = (dst.ptr(), dst.ptr(), n as u64);
    over(stream, UNARY_F32, n, 1024, &UnaryArgs { x, dst, n, f: CONSTANT, c: value, d: 0.0 })
}

/// `dst[i] = f(a[i], b[i / each])`, i < n.
pub fn binary(
    stream: &Stream,
    f: Binary,
    a: Span<'_>,
    (b, each): (Span<'_>, usize),
    dst: Span<'_>,
    n: usize,
) -> Result<()> {
    if each == 0 || !n.is_multiple_of(each) {
        return Err(Error::param(format!("{n} elements by {each} that share one")));
    }
    for (name, span, n) in [("a", a, n), ("b", b, n / each), ("dst", dst, n)] {
        holds(name, span, &[n], 4)?;
    }
    if each > 1 {
        dim("n", n)?;
    }
    let (f, [c, d]) = match f {
        Binary::Add => (ADD, [0.0; 2]),
        Binary::Mul => (IDENTITY, [0.0; 2]),
        Binary::Glu(f) => code(f),
        Binary::ClampedGlu => (CLAMPED, [0.0; 2]),
    };
    let (each_b, n) = (dim("each", each)?, n as u64);
    let args = BinaryArgs { a: a.ptr(), b: b.ptr(), dst: dst.ptr(), n, each_b, f, c, d };
    over(stream, BINARY_F32, n, 1024, &args)
}

/// n rows of `width`: `dst[t][i] = x[t][i] * scale[i] + bias[i]`, or `x / scale + bias` if `divides`. An element of either
/// vector serves as many of a row's as the vector goes into it.
#[allow(clippy::too_many_arguments)]
pub fn affine(
    stream: &Stream,
    x: Span<'_>,
    scale: Option<Span<'_>>,
    divides: bool,
    bias: Option<Span<'_>>,
    dst: Span<'_>,
    n: usize,
    width: usize,
) -> Result<()> {
    holds("x", x, &[n, width], 4)?;
    holds("dst", dst, &[n, width], 4)?;
    let vector = |name: &str, span: Option<Span<'_>>| {
        let Some(span) = span else { return Ok((Ptr::default(), 1)) };
        holds(name, span, &[1], 4)?;
        let len = span.bytes() as usize / 4;
        match width.is_multiple_of(len) {
            true => Ok((span.ptr(), dim("width", width / len)?)),
            false => Err(Error::param(format!("{name}: {len} elements for rows of {width}"))),
        }
    };
    let ((scale, each_scale), (bias, each_bias)) = (vector("scale", scale)?, vector("bias", bias)?);
    if n == 0 || width == 0 {
        return Ok(());
    }
    let (x, dst, width) = (x.ptr(), dst.ptr(), dim("width", width)?);
    let args = AffineArgs { x, scale, bias, dst, width, each_scale, each_bias, divides: divides.into() };
    launch(stream, AFFINE_F32, [n as u64, u64::from(width).div_ceil(1024), 1], &args)
}
