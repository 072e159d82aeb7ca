//! One function per operation: checks the shapes against the buffers, computes the grid, launches. Buffers are
//! row-major, their element types as the kernels of kernels.rs state them; `n` counts tokens (rows of activations).
//!
//! Every function queues its work on the stream and returns; a buffer too short for the shape, or a dimension beyond
//! the kernel's 32 bits, is `Error::Param` and nothing is launched.

pub mod attend;
pub mod elementwise;
pub mod matmul;
pub mod norm;
pub mod prefill;
pub mod project;
pub mod ready;
pub mod recurrent;
pub mod rope;
pub mod rows;
pub mod sample;

use super::kernels::*;
use super::memory::Span;
use super::stream::Stream;
use super::weight::Weight;
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

/// `n_blocks` blocks of `ty` as the file has them, to the planes of a weight.
pub(super) fn split(
    stream: &Stream,
    ty: TensorType,
    src: Span<'_>,
    planes: Planes,
    n_blocks: u64,
) -> Result<()> {
    holds("src", src, &[n_blocks as usize, ty.block_bytes()], 1)?;
    is_aligned("src", src, 4)?;
    over(stream, SPLIT.of(ty)?, n_blocks, 256, &SplitArgs { src: src.ptr(), planes, n_blocks })
}

/// `dst[t]` (f32) = row `tokens[t]` (u32) of `w`; NaN where there is no such row.
pub fn embed(stream: &Stream, w: &Weight, tokens: Span<'_>, dst: Span<'_>, n: usize) -> Result<()> {
    holds("tokens", tokens, &[n], 4)?;
    holds("dst", dst, &[n, w.cols()], 4)?;
    if !w.ty().is_float() {
        is_aligned("dst", dst, 16)?;
    }
    embed_rows(stream, w.ty(), w.planes(), tokens, dst, n, (w.rows(), w.cols()))
}

fn embed_rows(
    stream: &Stream,
    ty: TensorType,
    w: Planes,
    tokens: Span<'_>,
    dst: Span<'_>,
    n: usize,
    (rows, cols): (usize, usize),
) -> Result<()> {
    if n == 0 || cols == 0 {
        return Ok(());
    }
    let (rows, cols) = (dim("rows", rows)?, dim("cols", cols)?);
    let args = EmbedArgs { w, tokens: tokens.ptr(), dst: dst.ptr(), rows, cols };
    launch(stream, EMBED.of(ty)?, [n as u64, u64::from(cols).div_ceil(1024), 1], &args)
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
    let w = Planes([x.ptr(), Ptr::default(), Ptr::default(), Ptr::default()]);
    embed_rows(stream, TensorType::F32, w, rows, dst, n, (n_x, width))
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
