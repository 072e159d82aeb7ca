//! Matrix products of many tokens: activations as f16 rows, and weights of every type times them.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::super::weight::Weight;
use super::{dim, holds, is_aligned, launch};
use crate::device::plan::Activation;
use crate::gguf::TensorType;
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
    fn holds(&self, n: usize, cols: usize) -> Result<()> {
        let stride = half_stride(cols).ok_or_else(|| Error::param(format!("rows of {cols} columns")))?;
        holds("h", self.h, &[n, stride], 2)?;
        holds("scale", self.scale, &[n], 4)?;
        is_aligned("h", self.h, 16)
    }
}

/// Rounds x (f32, n x cols) to f16 rows.
pub fn half_rows(stream: &Stream, x: Span<'_>, dst: HalfRows<'_>, n: usize, cols: usize) -> Result<()> {
    holds("x", x, &[n, cols], 4)?;
    is_aligned("x", x, 16)?;
    dst.holds(n, cols)?;
    let width = dim("cols", cols)?;
    let args = HalfRowsArgs { x: x.ptr(), h: dst.h.ptr(), scale: dst.scale.ptr(), width };
    each_row(stream, HALF_ROWS, n, cols, &args)
}

/// [`rms_norm`](super::rms_norm) of x (f32, n x cols), to f16 rows.
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

/// [`glu`](super::glu) of gate and up (f32, n x cols), to f16 rows.
pub fn glu_half(
    stream: &Stream,
    activation: Activation,
    gate: Span<'_>,
    up: Span<'_>,
    dst: HalfRows<'_>,
    n: usize,
    cols: usize,
) -> Result<()> {
    for (name, span) in [("gate", gate), ("up", up)] {
        holds(name, span, &[n, cols], 4)?;
        is_aligned(name, span, 16)?;
    }
    dst.holds(n, cols)?;
    let (h, scale) = (dst.h.ptr(), dst.scale.ptr());
    let (width, gelu) = (dim("cols", cols)?, u32::from(activation == Activation::Gelu));
    let args = HalfRowsGluArgs { gate: gate.ptr(), up: up.ptr(), h, scale, width, gelu };
    each_row(stream, HALF_ROWS_GLU, n, cols, &args)
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

    /// Whether there is a kernel for weights of `cols` columns. The large one of F32 would take too many registers;
    /// those of 2-byte floats load 8 columns at a time.
    pub fn takes(self, ty: TensorType, cols: usize) -> bool {
        use TensorType::*;
        match (self, ty) {
            (MatMulTile::Large, F32) => false,
            (MatMulTile::Large, F16 | BF16) => cols.is_multiple_of(8),
            _ => true,
        }
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

/// The matrix-matrix kernel of a type.
pub fn matmul_kernel(ty: TensorType, tile: MatMulTile) -> Result<Kernel<MatMulArgs>> {
    use MatMulTile::*;
    use TensorType::*;
    Ok(match (ty, tile) {
        (F32, Small) => MATMUL_F32_64,
        (F16, Small) => MATMUL_F16_64,
        (BF16, Small) => MATMUL_BF16_64,
        (Q4_0, Small) => MATMUL_Q4_0_64,
        (Q4_1, Small) => MATMUL_Q4_1_64,
        (Q5_0, Small) => MATMUL_Q5_0_64,
        (Q5_1, Small) => MATMUL_Q5_1_64,
        (Q8_0, Small) => MATMUL_Q8_0_64,
        (Q2_K, Small) => MATMUL_Q2_K_64,
        (Q3_K, Small) => MATMUL_Q3_K_64,
        (Q4_K, Small) => MATMUL_Q4_K_64,
        (Q5_K, Small) => MATMUL_Q5_K_64,
        (Q6_K, Small) => MATMUL_Q6_K_64,
        (F16, Large) => MATMUL_F16_128,
        (BF16, Large) => MATMUL_BF16_128,
        (Q4_0, Large) => MATMUL_Q4_0_128,
        (Q4_1, Large) => MATMUL_Q4_1_128,
        (Q5_0, Large) => MATMUL_Q5_0_128,
        (Q5_1, Large) => MATMUL_Q5_1_128,
        (Q8_0, Large) => MATMUL_Q8_0_128,
        (Q2_K, Large) => MATMUL_Q2_K_128,
        (Q3_K, Large) => MATMUL_Q3_K_128,
        (Q4_K, Large) => MATMUL_Q4_K_128,
        (Q5_K, Large) => MATMUL_Q5_K_128,
        (Q6_K, Large) => MATMUL_Q6_K_128,
        (ty, tile) => return Err(Error::Internal(format!("no {tile:?} matrix-matrix kernel for {ty}"))),
    })
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
    let kernel = matmul_kernel(w.ty(), tile)?;
    if !tile.takes(w.ty(), w.cols()) {
        return Err(Error::Internal(format!(
            "{tile:?} tiles of a {} weight of {} columns",
            w.ty(),
            w.cols()
        )));
    }
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
