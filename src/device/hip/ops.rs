//! One function per operation: checks the shapes against the buffers, computes the grid, launches. Buffers are
//! row-major, their element types as the kernels of kernels.rs state them; `n` counts tokens (rows of activations).
//!
//! Every function queues its work on the stream and returns; a buffer too short for the shape, or a dimension beyond
//! the kernel's 32 bits, is `Error::Param` and nothing is launched.

pub mod attend;
pub mod matmul;
pub mod prefill;
pub mod project;
pub mod ready;
pub mod sample;

use super::kernels::*;
use super::memory::Span;
use super::stream::Stream;
use super::weight::Weight;
use crate::device::plan::{Activation, RopePairs};
use crate::gguf::TensorType;
use crate::{Error, Result};

/// Elements that share a scale in quantized activations.
pub const Q8_BLOCK: usize = 32;

/// dst (cols x rows) = transpose of src (rows x cols), f32.
pub fn transpose(stream: &Stream, src: Span<'_>, dst: Span<'_>, rows: usize, cols: usize) -> Result<()> {
    holds("src", src, &[rows, cols], 4)?;
    holds("dst", dst, &[cols, rows], 4)?;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let (rows, cols) = (dim("rows", rows)?, dim("cols", cols)?);
    let grid = transpose_grid(rows, cols).map(u64::from);
    launch(stream, TRANSPOSE_F32, grid, &TransposeArgs { src: src.ptr(), dst: dst.ptr(), rows, cols })
}

/// Bytes that a group of [`read`] takes.
const READ_SHARE: u64 = 32_768;

/// Words that [`read`] leaves of `bytes` bytes.
pub fn read_words(bytes: u64) -> u64 {
    bytes.div_ceil(READ_SHARE)
}

/// Reads all of `src`, a multiple of 16 bytes: a measure of bandwidth. dst (u32): [`read_words`] words, the xor of
/// the words of each share.
pub fn read(stream: &Stream, src: Span<'_>, dst: Span<'_>) -> Result<()> {
    let n = src.bytes();
    holds("dst", dst, &[read_words(n) as usize], 4)?;
    is_aligned("src", src, 16)?;
    if !n.is_multiple_of(16) {
        return Err(Error::param(format!("{n} bytes to read are not whole 16 bytes")));
    }
    over(stream, READ_BYTES, n, READ_SHARE, &ReadArgs { src: src.ptr(), dst: dst.ptr(), n })
}

/// Whether a weight of this type is split into planes, rather than one plane of values.
pub fn is_split(ty: TensorType) -> bool {
    split_kernel(ty).is_some()
}

fn split_kernel(ty: TensorType) -> Option<Kernel<SplitArgs>> {
    use TensorType::*;
    Some(match ty {
        Q4_0 => SPLIT_Q4_0,
        Q4_1 => SPLIT_Q4_1,
        Q5_0 => SPLIT_Q5_0,
        Q5_1 => SPLIT_Q5_1,
        Q8_0 => SPLIT_Q8_0,
        Q2_K => SPLIT_Q2_K,
        Q3_K => SPLIT_Q3_K,
        Q4_K => SPLIT_Q4_K,
        Q5_K => SPLIT_Q5_K,
        Q6_K => SPLIT_Q6_K,
        _ => return None,
    })
}

/// `n_blocks` blocks of `ty` as the file has them, to the planes of a weight.
pub(super) fn split(
    stream: &Stream,
    ty: TensorType,
    src: Span<'_>,
    planes: Planes,
    n_blocks: u64,
) -> Result<()> {
    let kernel = split_kernel(ty).ok_or_else(|| Error::Internal(format!("no kernel splits {ty}")))?;
    holds("src", src, &[n_blocks as usize, ty.block_bytes()], 1)?;
    is_aligned("src", src, 4)?;
    over(stream, kernel, n_blocks, 256, &SplitArgs { src: src.ptr(), planes, n_blocks })
}

/// `dst[t]` (f32) = row `tokens[t]` (u32) of `w`; NaN where there is no such row.
pub fn embed(stream: &Stream, w: &Weight, tokens: Span<'_>, dst: Span<'_>, n: usize) -> Result<()> {
    use TensorType::*;
    let kernel = match w.ty() {
        F32 => EMBED_F32,
        F16 => EMBED_F16,
        BF16 => EMBED_BF16,
        Q4_0 => EMBED_Q4_0,
        Q4_1 => EMBED_Q4_1,
        Q5_0 => EMBED_Q5_0,
        Q5_1 => EMBED_Q5_1,
        Q8_0 => EMBED_Q8_0,
        Q2_K => EMBED_Q2_K,
        Q3_K => EMBED_Q3_K,
        Q4_K => EMBED_Q4_K,
        Q5_K => EMBED_Q5_K,
        Q6_K => EMBED_Q6_K,
        other => return Err(Error::Internal(format!("no kernel embeds {other}"))),
    };
    holds("tokens", tokens, &[n], 4)?;
    holds("dst", dst, &[n, w.cols()], 4)?;
    if n == 0 {
        return Ok(());
    }
    let (rows, cols) = (dim("rows", w.rows())?, dim("cols", w.cols())?);
    let args = EmbedArgs { w: w.planes(), tokens: tokens.ptr(), dst: dst.ptr(), rows, cols };
    launch(stream, kernel, [n as u64, u64::from(cols).div_ceil(256), 1], &args)
}

/// `dst[i] = x[rows[i]]`: n rows of `width` f32 elements of the `n_x` rows of x.
pub fn select_rows(
    stream: &Stream,
    x: Span<'_>,
    rows: Span<'_>,
    dst: Span<'_>,
    n_x: usize,
    n: usize,
    width: usize,
) -> Result<()> {
    holds("x", x, &[n_x, width], 4)?;
    holds("rows", rows, &[n], 4)?;
    holds("dst", dst, &[n, width], 4)?;
    if n == 0 || width == 0 {
        return Ok(());
    }
    let w = Planes([x.ptr(), Ptr::default(), Ptr::default(), Ptr::default()]);
    let (n_x, cols) = (dim("rows of x", n_x)?, dim("width", width)?);
    let args = EmbedArgs { w, tokens: rows.ptr(), dst: dst.ptr(), rows: n_x, cols };
    launch(stream, EMBED_F32, [n as u64, u64::from(cols).div_ceil(256), 1], &args)
}

/// `dst[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight`, for n rows of `width`. In place allowed.
pub fn rms_norm(
    stream: &Stream,
    x: Span<'_>,
    weight: Span<'_>,
    dst: Span<'_>,
    n: usize,
    width: usize,
    eps: f32,
) -> Result<()> {
    holds("x", x, &[n, width], 4)?;
    holds("weight", weight, &[width], 4)?;
    holds("dst", dst, &[n, width], 4)?;
    if n == 0 || width == 0 {
        return Ok(());
    }
    let width = dim("width", width)?;
    let args = RmsNormArgs { x: x.ptr(), weight: weight.ptr(), dst: dst.ptr(), width, eps };
    launch(stream, RMS_NORM_F32, [n as u64, 1, 1], &args)
}

/// The norm of n rows of `width`, a multiple of 32: of row `rows[r]` of x (u32; r where None), below the rows that x
/// holds, to row r of the target.
#[allow(clippy::too_many_arguments)]
pub fn rms_norm_to(
    stream: &Stream,
    x: Span<'_>,
    rows: Option<Span<'_>>,
    weight: Span<'_>,
    to: project::Target<'_>,
    n: usize,
    width: usize,
    eps: f32,
) -> Result<()> {
    match rows {
        Some(rows) => holds("rows", rows, &[n], 4)?,
        None => holds("x", x, &[n, width], 4)?,
    }
    is_aligned("x", x, 16)?;
    holds("weight", weight, &[width], 4)?;
    is_aligned("weight", weight, 16)?;
    if n == 0 || width == 0 {
        return Ok(());
    }
    if !width.is_multiple_of(Q8_BLOCK) {
        return Err(Error::param(format!("rows of {width} are not whole blocks of {Q8_BLOCK}")));
    }
    let (dst, q, ds) = to.pointers(n, width)?;
    let rows = rows.map_or(Ptr::default(), Span::ptr);
    let width = dim("width", width)?;
    let (x, weight, grid) = (x.ptr(), weight.ptr(), [n as u64, 1, 1]);
    if width <= 1024 {
        let args = NarrowNormQ8Args { x, rows, weight, dst, q, ds, width, eps };
        return launch(stream, RMS_NORM_Q8_NARROW, grid, &args);
    }
    launch(stream, RMS_NORM_Q8, grid, &NormQ8Args { x, rows, weight, dst, q, ds, width, eps })
}

/// `dst[i] = a[i] + b[i % period]`, i < n. In place allowed.
pub fn add(stream: &Stream, a: Span<'_>, b: Span<'_>, dst: Span<'_>, n: usize, period: usize) -> Result<()> {
    holds("a", a, &[n], 4)?;
    holds("b", b, &[period.min(n)], 4)?;
    holds("dst", dst, &[n], 4)?;
    if period == 0 {
        return Err(Error::param("a period of 0"));
    }
    let args = AddArgs { a: a.ptr(), b: b.ptr(), dst: dst.ptr(), n: n as u64, period: period as u64 };
    over(stream, ADD_F32, n as u64, 1024, &args)
}

/// `dst[i] = activation(gate[i]) * up[i]`, i < n. In place allowed.
pub fn glu(
    stream: &Stream,
    activation: Activation,
    gate: Span<'_>,
    up: Span<'_>,
    dst: Span<'_>,
    n: usize,
) -> Result<()> {
    for (name, span) in [("gate", gate), ("up", up), ("dst", dst)] {
        holds(name, span, &[n], 4)?;
    }
    let gelu = u32::from(activation == Activation::Gelu);
    let args = GluArgs { gate: gate.ptr(), up: up.ptr(), dst: dst.ptr(), n: n as u64, gelu };
    over(stream, GLU, n as u64, 1024, &args)
}

/// The heads that [`rope`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub n_heads: usize,
    pub head_dim: usize,
    /// Even, at most head_dim.
    pub n_rot: usize,
}

/// Rotates the first n_rot elements of each head of x (n x n_heads x head_dim) in place. `positions`: u32 per token,
/// each below the rows of `table`; `table`: (cos, sin) f32 pairs, [position][n_rot / 2].
pub fn rope(
    stream: &Stream,
    pairs: RopePairs,
    x: Span<'_>,
    positions: Span<'_>,
    table: Span<'_>,
    n: usize,
    heads: Heads,
) -> Result<()> {
    let Heads { n_heads, head_dim, n_rot } = heads;
    holds("x", x, &[n, n_heads, head_dim], 4)?;
    holds("positions", positions, &[n], 4)?;
    holds("table", table, &[n_rot / 2], 8)?;
    if n_rot > head_dim || !n_rot.is_multiple_of(2) {
        return Err(Error::param(format!("{n_rot} elements to rotate of heads of {head_dim}")));
    }
    if n == 0 || n_heads == 0 || n_rot == 0 {
        return Ok(());
    }
    let args = RopeArgs {
        x: x.ptr(),
        positions: positions.ptr(),
        table: table.ptr(),
        n_heads: dim("n_heads", n_heads)?,
        head_dim: dim("head_dim", head_dim)?,
        n_rot: dim("n_rot", n_rot)?,
        halves: u32::from(pairs == RopePairs::Halves),
    };
    launch(stream, ROPE_F32, [n as u64, n_heads as u64, 1], &args)
}

/// n rows of `cols` activations rounded to 8 bits in blocks of [`Q8_BLOCK`]: `q` i8 n x cols, `ds` f32 pairs
/// (d, d * sum of q) n x cols / 32.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    pub q: Span<'a>,
    pub ds: Span<'a>,
}

impl Quantized<'_> {
    fn holds(&self, n: usize, cols: usize) -> Result<()> {
        if !cols.is_multiple_of(Q8_BLOCK) {
            return Err(Error::param(format!("{cols} activations are not whole blocks of {Q8_BLOCK}")));
        }
        holds("q", self.q, &[n, cols], 1)?;
        holds("ds", self.ds, &[n, cols / Q8_BLOCK], 8)?;
        is_aligned("q", self.q, 16)?;
        is_aligned("ds", self.ds, 16)
    }
}

/// Rounds x (f32, n x cols) to 8 bits; cols is a multiple of [`Q8_BLOCK`].
pub fn quantize(stream: &Stream, x: Span<'_>, dst: Quantized<'_>, n: usize, cols: usize) -> Result<()> {
    holds("x", x, &[n, cols], 4)?;
    dst.holds(n, cols)?;
    is_aligned("x", x, 16)?;
    let n_blocks = n as u64 * (cols / Q8_BLOCK) as u64; // below the bytes of x, which fit u64
    let args = QuantizeArgs { x: x.ptr(), q: dst.q.ptr(), ds: dst.ds.ptr(), n_blocks };
    over(stream, QUANTIZE_Q8, n_blocks, 32, &args)
}

/// Launches a kernel of which a group takes `share` of `n`.
fn over<A: Args>(stream: &Stream, kernel: Kernel<A>, n: u64, share: u64, args: &A) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    launch(stream, kernel, [n.div_ceil(share), 1, 1], args)
}

/// `span` holds shape's product of elements of `size` bytes, aligned to them.
fn holds(name: &str, span: Span<'_>, shape: &[usize], size: u64) -> Result<()> {
    let bytes = shape.iter().try_fold(size, |bytes, n| bytes.checked_mul(*n as u64));
    if bytes.is_none_or(|bytes| bytes > span.bytes()) {
        return Err(Error::param(format!(
            "{name}: {shape:?} elements of {size} bytes in a buffer of {} bytes",
            span.bytes()
        )));
    }
    is_aligned(name, span, size)
}

/// `Card::launch` for arguments that the functions above have checked.
fn launch<A: Args>(stream: &Stream, kernel: Kernel<A>, grid: [u64; 3], args: &A) -> Result<()> {
    // SAFETY: the stream is alive and its card the buffers'; every address is of a span that `holds` found as long as
    // the kernel reaches with these dimensions. That buffers outlive the work is what `Buffer` asks of its owner.
    unsafe { stream.card().launch(stream.raw(), kernel, grid, 0, args) }
}

/// `span` starts at a multiple of what the kernel loads at a time.
fn is_aligned(name: &str, span: Span<'_>, bytes: u64) -> Result<()> {
    if span.ptr().0.is_multiple_of(bytes) {
        return Ok(());
    }
    Err(Error::param(format!("{name} starts at {:#x}, not at a multiple of {bytes}", span.ptr().0)))
}

fn dim(name: &str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::param(format!("{name} = {value} is beyond 32 bits")))
}
