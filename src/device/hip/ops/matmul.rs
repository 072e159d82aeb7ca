//! Matrix products of many tokens: activations as f16 rows, and weights of every type times them.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::super::weight::Weight;
use super::elementwise::gate_code;
use super::{dim, holds, is_aligned, launch};
use crate::gguf::TensorType;
use crate::plan::Binary;
use crate::{Error, Result};

/// Columns that f16 rows are padded to a multiple of: what a product takes at a time.
pub const HALF_PAD: usize = 32;

/// n rows of f16 activations with a factor each: `h` f16 n x [`half_stride`], `scale` f32 n. A value is h * scale.
#[derive(Clone, Copy, Debug)]
pub struct HalfRows<'a> {
    pub h: Span<'a>,
    pub scale: Span<'a>,
}

/// Elements from one f16 row to the next.
pub const fn half_stride(cols: usize) -> Option<usize> {
    cols.checked_next_multiple_of(HALF_PAD)
}

impl HalfRows<'_> {
    pub(super) fn holds(&self, n: usize, cols: usize) -> Result<()> {
        let stride = half_stride(cols).ok_or_else(|| Error::param(format!("rows of {cols} columns")))?;
        holds("h", self.h, &[n, stride], 2)?;
        holds("scale", self.scale, &[n], 4)?;
        is_aligned("h", self.h, 16)
    }
}

/// Rounds x (f32, n x cols) to f16 rows.
pub fn half_rows(stream: &Stream, x: Span<'_>, dst: HalfRows<'_>, n: usize, cols: usize) -> Result<()> {
    half_rows_of(stream, x, dst, n, cols, 1)
}

/// The same, with a row's factor `copies` times: once for each of its products with an expert.
pub(super) fn half_rows_of(
    stream: &Stream,
    x: Span<'_>,
    dst: HalfRows<'_>,
    n: usize,
    cols: usize,
    copies: usize,
) -> Result<()> {
    holds("x", x, &[n, cols], 4)?;
    is_aligned("x", x, 16)?;
    dst.holds(n, cols)?;
    holds("scale", dst.scale, &[n, copies], 4)?;
    let (width, copies) = (dim("cols", cols)?, dim("copies", copies)?);
    let args = HalfRowsArgs { x: x.ptr(), h: dst.h.ptr(), scale: dst.scale.ptr(), width, copies };
    each_row(stream, HALF_ROWS, n, cols, &args)
}

/// The RMS norm of x (f32, n x cols) times the weight, to f16 rows.
pub fn rms_norm_half(
    stream: &Stream,
    x: Span<'_>,
    weight: Span<'_>,
    dst: HalfRows<'_>,
    n: usize,
    cols: usize,
    eps: f32,
) -> Result<()> {
    holds("x", x, &[n, cols], 4)?;
    holds("weight", weight, &[cols], 4)?;
    is_aligned("x", x, 16)?;
    is_aligned("weight", weight, 16)?;
    dst.holds(n, cols)?;
    let args = HalfRowsNormArgs {
        x: x.ptr(),
        weight: weight.ptr(),
        h: dst.h.ptr(),
        scale: dst.scale.ptr(),
        width: dim("cols", cols)?,
        eps,
    };
    each_row(stream, HALF_ROWS_RMS_NORM, n, cols, &args)
}

/// `f(gate, up)` (f32, n x cols), to f16 rows; f is one of those with a [`gate_code`].
pub fn glu_half(
    stream: &Stream,
    f: Binary,
    gate: Span<'_>,
    up: Span<'_>,
    dst: HalfRows<'_>,
    n: usize,
    cols: usize,
) -> Result<()> {
    let f = gate_code(f).ok_or_else(|| Error::Internal(format!("a gate of {f:?} on the way to f16")))?;
    for (name, span) in [("gate", gate), ("up", up)] {
        holds(name, span, &[n, cols], 4)?;
        is_aligned(name, span, 16)?;
    }
    dst.holds(n, cols)?;
    let (h, scale) = (dst.h.ptr(), dst.scale.ptr());
    let (gate, up, width) = (gate.ptr(), up.ptr(), dim("cols", cols)?);
    each_row(stream, HALF_ROWS_GLU, n, cols, &HalfRowsGluArgs { gate, up, h, scale, width, f })
}

fn each_row<A: Args>(stream: &Stream, kernel: Kernel<A>, n: usize, cols: usize, args: &A) -> Result<()> {
    if n == 0 || cols == 0 {
        return Ok(());
    }
    launch(stream, kernel, [n as u64, 1, 1], args)
}

/// Tokens and rows that a group of a matrix product makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatMulTile {
    /// 64 x 64.
    Small,
    /// 128 x 128: less to read for each product, where there are enough of them for the GPU.
    Large,
}

impl MatMulTile {
    pub const ALL: [MatMulTile; 2] = [MatMulTile::Small, MatMulTile::Large];

    pub const fn side(self) -> u64 {
        match self {
            MatMulTile::Small => 64,
            MatMulTile::Large => 128,
        }
    }

    fn kernels(self) -> &'static ByType<MatMulArgs> {
        match self {
            MatMulTile::Small => &MATMUL_64,
            MatMulTile::Large => &MATMUL_128,
        }
    }

    /// The kernel for weights of a type.
    pub fn kernel(self, ty: TensorType) -> Result<Kernel<MatMulArgs>> {
        self.kernels().of(ty)
    }

    /// The kernel for a weight that these tiles take.
    pub(super) fn kernel_for(self, w: &Weight) -> Result<Kernel<MatMulArgs>> {
        let (ty, cols) = (w.ty(), w.cols());
        let refuse = || Error::Internal(format!("{self:?} tiles of a {ty} weight of {cols} columns"));
        if self.takes(ty, cols) { self.kernel(ty) } else { Err(refuse()) }
    }

    /// Whether there is a kernel for weights of `cols` columns. The large one of F32 would take too many registers;
    /// those of 2-byte floats load 8 columns at a time.
    pub fn takes(self, ty: TensorType, cols: usize) -> bool {
        let loads = self == MatMulTile::Small || !ty.is_float() || cols.is_multiple_of(8);
        self.kernels().find(ty).is_some() && loads
    }

    /// The better one for a product of n tokens on a GPU of so many compute units.
    pub fn best(ty: TensorType, rows: usize, cols: usize, n: usize, compute_units: u32) -> MatMulTile {
        let side = MatMulTile::Large.side();
        let (rows, n) = (rows as u64, n as u64);
        let tiles = rows.div_ceil(side).saturating_mul(n.div_ceil(side));
        // 3/4: half as many groups in two rounds would be no faster
        let fills = tiles.saturating_mul(4) >= u64::from(compute_units) * 3;
        if fills && n > side / 2 && MatMulTile::Large.takes(ty, cols) {
            MatMulTile::Large
        } else {
            MatMulTile::Small
        }
    }
}

/// What is added to a product.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addends<'a> {
    /// f32, one a row of the weight.
    pub bias: Option<Span<'a>>,
    /// What dst holds before: the residual.
    pub dst: bool,
}

/// `dst[t][r]` (f32) = `dot(w[r], x[t])` + what is to be added, for any number of tokens. Weights are rounded to f16:
/// those beyond its range become infinite.
pub fn matmul(
    stream: &Stream,
    w: &Weight,
    x: HalfRows<'_>,
    add: Addends<'_>,
    dst: Span<'_>,
    n: usize,
) -> Result<()> {
    let tile = MatMulTile::best(w.ty(), w.rows(), w.cols(), n, stream.card().limits().compute_units);
    matmul_by(stream, tile, w, x, add, dst, n)
}

/// [`matmul`] by tiles of one's own choice.
pub fn matmul_by(
    stream: &Stream,
    tile: MatMulTile,
    w: &Weight,
    x: HalfRows<'_>,
    add: Addends<'_>,
    dst: Span<'_>,
    n: usize,
) -> Result<()> {
    let kernel = tile.kernel_for(w)?;
    x.holds(n, w.cols())?;
    if let Some(bias) = add.bias {
        holds("bias", bias, &[w.rows()], 4)?;
    }
    holds("dst", dst, &[n, w.rows()], 4)?;
    let (rows, cols, n) = (dim("rows", w.rows())?, dim("cols", w.cols())?, dim("n", n)?);
    if n == 0 {
        return Ok(());
    }
    let args = MatMulArgs {
        w: w.planes(),
        x: x.h.ptr(),
        scale: x.scale.ptr(),
        bias: add.bias.map_or(Ptr::default(), Span::ptr),
        dst: dst.ptr(),
        rows,
        cols,
        n,
        add: add.dst.into(),
        sorted: Sorted::default(),
    };
    let groups = |lines: u32| u64::from(lines).div_ceil(tile.side());
    launch(stream, kernel, [groups(n), groups(rows), 1], &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tiles_are_for_products_that_fill_the_gpu() {
        use MatMulTile::{Large, Small};
        for (ty, rows, cols, n, best) in [
            (TensorType::Q4_K, 14_336, 4096, 512, Large),
            (TensorType::Q4_K, 4096, 4096, 512, Large),
            (TensorType::Q4_K, 14_336, 4096, 64, Small),
            (TensorType::Q8_0, 896, 896, 512, Small),
            (TensorType::Q8_0, 128, 896, 512, Small),
            (TensorType::F16, 14_336, 4096, 512, Large),
            (TensorType::F16, 14_336, 4100, 512, Small),
            (TensorType::F32, 14_336, 4096, 512, Small),
        ] {
            assert_eq!(MatMulTile::best(ty, rows, cols, n, 132), best, "{ty}, {rows} x {cols}, {n} tokens");
        }
    }
}
