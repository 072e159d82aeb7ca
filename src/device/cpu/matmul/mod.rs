//! The quantized matrix product: `out[t][r] = dot(w.row(r), x[t]) + bias[r]`.
//!
//! Weights are repacked once into tiles of 16 rows ([`format`]), in about the file's bits per weight:
//! a few tokens cost what it costs to read them. Quantized types multiply activations rounded to
//! 8 bits ([`Q8Rows`]) in exact integer arithmetic within a block; float types multiply f32.
//!
//! A token's result does not depend, in a single bit, on the tokens or tiles computed with it: every
//! sum runs over the columns in one fixed order.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
mod format;
mod pack;
mod scalar;

use std::ops::Range;
use std::sync::Arc;

use super::isa::Isa;
use super::memory::{self, Memory};
use crate::gguf::TensorType;
use crate::gguf::tensor_type::computed_types;
use crate::{Error, Result};

pub use activations::Q8Rows;
pub use format::TILE_ROWS;

use activations::Q8Block;
use float::Float;
use format::Format;

/// What a matrix takes its activations as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationFormat {
    Q8,
    F32,
}

impl ActivationFormat {
    /// Of products with weights of the type.
    pub fn of(ty: TensorType) -> Self {
        if ty.is_float() { ActivationFormat::F32 } else { ActivationFormat::Q8 }
    }
}

/// Activations of a step, one row per token.
#[derive(Clone, Copy)]
pub enum Activations<'a> {
    Q8(&'a Q8Rows),
    /// Row `t` starts at `t * stride`.
    F32 {
        x: &'a [f32],
        stride: usize,
    },
}

/// The weights of one matrix, `rows x cols`.
pub struct PackedMatrix {
    ty: TensorType,
    rows: usize,
    cols: usize,
    tile_bytes: usize,
    /// Where the tiles are, from `start` on; other matrices may lie beside them.
    memory: Arc<Memory>,
    start: usize,
}

/// What is to be packed: type, rows, columns.
pub type Shape = (TensorType, usize, usize);

/// Evaluates `$quantized` with `$F` the format of a quantized type, or `$float` with `$W` the element of a float type.
macro_rules! with_type {
    ($ty:expr, quantized $F:ident => $quantized:expr, float $W:ident => $float:expr, else => $none:expr) => {
        computed_types!(with_type @ ($ty) ($F => $quantized) ($W => $float) ($none);)
    };
    (
        @ ($ty:expr) $quantized:tt $float:tt ($none:expr);
        $($name:ident = $id:literal, $function:ident, $kind:ident, $len:literal, $bytes:literal, $planes:tt;)*
    ) => {
        match $ty {
            $(TensorType::$name => with_type!(@$kind $name $quantized $float),)*
            _ => $none,
        }
    };
    (@quantized $name:ident ($F:ident => $body:expr) $float:tt) => {{
        type $F = format::$name;
        $body
    }};
    (@float $name:ident $quantized:tt ($W:ident => $body:expr)) => {{
        type $W = float::$name;
        $body
    }};
}

impl PackedMatrix {
    /// Allocates; [`pack_tile`](Self::pack_tile) fills. Columns are whole blocks of the type. All lie in one
    /// allocation, in order: a model's matrices are read in that order, and huge pages cover the small ones too.
    pub fn together(shapes: &[Shape]) -> Result<Vec<Self>> {
        let mut total = 0usize;
        let mut places = Vec::with_capacity(shapes.len());
        for &(ty, rows, cols) in shapes {
            let tile_bytes = tile_bytes(ty, cols)?;
            places.push((tile_bytes, total));
            let bytes = tile_bytes.saturating_mul(rows.div_ceil(TILE_ROWS));
            total = total
                .saturating_add(bytes)
                .checked_next_multiple_of(memory::CACHE_LINE)
                .unwrap_or(usize::MAX);
        }
        let memory = Arc::new(Memory::new(total, "packed weights")?);
        let matrix = |(&(ty, rows, cols), (tile_bytes, start))| Self {
            ty,
            rows,
            cols,
            tile_bytes,
            memory: Arc::clone(&memory),
            start,
        };
        Ok(shapes.iter().zip(places).map(matrix).collect())
    }

    /// One matrix alone.
    pub fn new(ty: TensorType, rows: usize, cols: usize) -> Result<Self> {
        let mut one = Self::together(&[(ty, rows, cols)])?;
        one.pop().ok_or_else(|| Error::Internal("one shape gave no matrix".into()))
    }

    pub fn ty(&self) -> TensorType {
        self.ty
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn n_tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes that a product reads, rows missing in the last tile included.
    pub fn bytes(&self) -> usize {
        self.tile_bytes * self.n_tiles()
    }

    /// The same before there is a matrix; saturated where it overflows.
    pub fn bytes_of((ty, rows, cols): Shape) -> Result<u64> {
        Ok((tile_bytes(ty, cols)? as u64).saturating_mul(rows.div_ceil(TILE_ROWS) as u64))
    }

    pub fn format(&self) -> ActivationFormat {
        ActivationFormat::of(self.ty)
    }

    /// Fills tile `t` from the tensor's bytes, row-major as in the file.
    ///
    /// # Safety
    /// During the call no other thread uses this tile.
    pub unsafe fn pack_tile(&self, t: usize, tensor: &[u8]) {
        assert!(t < self.n_tiles() && tensor.len().is_multiple_of(self.rows));
        let row_bytes = tensor.len() / self.rows;
        let first = t * TILE_ROWS;
        let n_rows = TILE_ROWS.min(self.rows - first);
        let mut rows: [&[u8]; TILE_ROWS] = [&[]; TILE_ROWS];
        for (r, row) in rows[..n_rows].iter_mut().enumerate() {
            *row = &tensor[(first + r) * row_bytes..][..row_bytes];
        }
        let rows = &rows[..n_rows];
        // SAFETY: the tile lies within the allocation and, says the caller, belongs to this call. The
        // packers below only write to it, and write all of it.
        let tile = unsafe { std::slice::from_raw_parts_mut(self.tile(t).cast_mut(), self.tile_bytes) };
        with_type!(self.ty,
            quantized F => {
                assert_eq!(row_bytes, self.cols / (F::BLOCKS * format::BLOCK) * F::FILE_BYTES);
                pack::quantized::<F>(rows, tile);
            },
            float W => {
                assert_eq!(row_bytes, self.cols * W::SIZE);
                pack::float::<{ W::SIZE }>(rows, tile);
            },
            else => unreachable!("refused by new"));
    }

    fn tile(&self, t: usize) -> *const u8 {
        self.memory.as_ptr().wrapping_add(self.start + t * self.tile_bytes)
    }
}

/// Bytes of a tile of `cols` columns; saturated where they overflow.
fn tile_bytes(ty: TensorType, cols: usize) -> Result<usize> {
    let bytes = with_type!(ty,
    quantized F => cols.is_multiple_of(F::BLOCKS * format::BLOCK)
        .then(|| (cols / (F::BLOCKS * format::BLOCK)).checked_mul(F::UNIT_BYTES)),
    float W => Some(cols.checked_mul(TILE_ROWS * W::SIZE)),
    else => return Err(Error::Unsupported {
        what: "tensor type",
        name: ty.to_string(),
        supported: TensorType::supported_names(),
    }));
    let whole =
        bytes.ok_or_else(|| Error::param(format!("a {ty} matrix of {cols} columns: not whole blocks")));
    Ok(whole?.unwrap_or(usize::MAX))
}

/// One call of [`matmul`].
struct Job<'a> {
    w: &'a PackedMatrix,
    tokens: Range<usize>,
    tiles: Range<usize>,
    bias: Option<&'a [f32]>,
    out: *mut f32,
    out_stride: usize,
}

/// Sums of one tile for N tokens.
type Sums<const N: usize> = [[f32; TILE_ROWS]; N];

/// The kernels of an instruction set: the dot products of a tile's rows with N tokens.
///
/// # Safety
/// The instructions are available; `tile` holds the packed `cols` columns; `x` points to N rows, each
/// `x_stride` (blocks, floats) after the other.
trait Kernels {
    /// Tokens that the registers have room for at once.
    const TOKENS: usize;

    unsafe fn quantized<F: Format, const N: usize>(
        tile: *const u8,
        units: usize,
        x: *const Q8Block,
        x_stride: usize,
        sums: &mut Sums<N>,
    );
    unsafe fn float<W: Float, const N: usize>(
        tile: *const u8,
        cols: usize,
        x: *const f32,
        x_stride: usize,
        sums: &mut Sums<N>,
    );
}

/// `out[t * out_stride + r] = dot(w.row(r), x[t]) + bias[r]`, for `t` of `tokens` and the rows `r` of
/// `tiles`; nothing else of `out` is touched, nor need there be anything else. `bias` has an entry per row of `w`.
///
/// # Safety
/// `isa` is available. The tiles are packed and the rows of `x` quantized (`w.cols()` columns), and no
/// other thread writes either during the call. `out` is valid for the writes named above, and no other
/// thread uses those places.
#[allow(clippy::too_many_arguments)]
pub unsafe fn matmul(
    isa: Isa,
    w: &PackedMatrix,
    x: Activations<'_>,
    tokens: Range<usize>,
    tiles: Range<usize>,
    bias: Option<&[f32]>,
    out: *mut f32,
    out_stride: usize,
) {
    assert!(tiles.end <= w.n_tiles() && bias.is_none_or(|bias| bias.len() == w.rows));
    match x {
        Activations::Q8(rows) => assert!(tokens.end <= rows.max_rows() && w.cols <= rows.max_cols()),
        Activations::F32 { x, stride } => {
            assert!(tokens.is_empty() || (tokens.end - 1) * stride + w.cols <= x.len());
        }
    }
    let job = Job { w, tokens, tiles, bias, out, out_stride };
    // SAFETY: the caller vouches for the instructions and for `out`; the ranges were checked.
    unsafe {
        match isa {
            Isa::Scalar => job.run::<scalar::Scalar>(x),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => job.run::<avx2::Avx2>(x),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => job.run::<avx512::Avx512>(x),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512Vnni => job.run::<scalar::Scalar>(x),
        }
    }
}

impl Job<'_> {
    /// # Safety
    /// As [`matmul`], with K's instructions.
    unsafe fn run<K: Kernels>(&self, x: Activations<'_>) {
        let cols = self.w.cols;
        with_type!(self.w.ty,
            quantized F => {
                let Activations::Q8(rows) = x else { panic!("{} takes quantized activations", self.w.ty) };
                let units = cols / (F::BLOCKS * format::BLOCK);
                let row = |t: usize| rows.row(t);
                let row_bytes = rows.stride() * size_of::<Q8Block>();
                // SAFETY: of the rows and tiles in range.
                unsafe {
                    self.by_tokens::<K>(
                        row_bytes,
                        |tile, t, sums| K::quantized::<F, 8>(tile, units, row(t), rows.stride(), sums),
                        |tile, t, sums| K::quantized::<F, 4>(tile, units, row(t), rows.stride(), sums),
                        |tile, t, sums| K::quantized::<F, 2>(tile, units, row(t), rows.stride(), sums),
                        |tile, t, sums| K::quantized::<F, 1>(tile, units, row(t), rows.stride(), sums),
                    )
                }
            },
            float W => {
                let Activations::F32 { x, stride } = x else { panic!("{} takes f32 activations", self.w.ty) };
                let row = |t: usize| x[t * stride..].as_ptr();
                // SAFETY: as above.
                unsafe {
                    self.by_tokens::<K>(
                        4 * stride,
                        |tile, t, sums| K::float::<W, 8>(tile, cols, row(t), stride, sums),
                        |tile, t, sums| K::float::<W, 4>(tile, cols, row(t), stride, sums),
                        |tile, t, sums| K::float::<W, 2>(tile, cols, row(t), stride, sums),
                        |tile, t, sums| K::float::<W, 1>(tile, cols, row(t), stride, sums),
                    )
                }
            },
            else => unreachable!("refused by PackedMatrix::new"));
    }

    /// Runs the kernels over tokens and tiles; `row_bytes` are those of a token's activations.
    ///
    /// # Safety
    /// `out` is valid for the rows of `tiles` and `tokens`.
    #[inline(always)]
    unsafe fn by_tokens<K: Kernels>(
        &self,
        row_bytes: usize,
        eight: impl Fn(*const u8, usize, &mut Sums<8>),
        four: impl Fn(*const u8, usize, &mut Sums<4>),
        two: impl Fn(*const u8, usize, &mut Sums<2>),
        one: impl Fn(*const u8, usize, &mut Sums<1>),
    ) {
        /// Activations that stay in the second-level cache while the tiles pass by; but tokens enough
        /// for a tile's way from memory to pay.
        const CACHED: usize = 512 << 10;
        let chunk = (CACHED / row_bytes.max(1)).max(32) & !7;
        let mut start = self.tokens.start;
        while start < self.tokens.end {
            let end = self.tokens.end.min(start + chunk);
            for tile in self.tiles.clone() {
                let w = self.w.tile(tile);
                let mut t = start;
                // SAFETY: rows of this tile and tokens of this job.
                unsafe {
                    while K::TOKENS >= 8 && end - t >= 8 {
                        t = self.step(tile, t, |sums| eight(w, t, sums));
                    }
                    while end - t >= 4 {
                        t = self.step(tile, t, |sums| four(w, t, sums));
                    }
                    if end - t >= 2 {
                        t = self.step(tile, t, |sums| two(w, t, sums));
                    }
                    if end - t >= 1 {
                        self.step(tile, t, |sums| one(w, t, sums));
                    }
                }
            }
            start = end;
        }
    }

    /// N tokens from `t` on; returns the token after them.
    #[inline(always)]
    unsafe fn step<const N: usize>(&self, tile: usize, t: usize, kernel: impl Fn(&mut Sums<N>)) -> usize {
        let first = tile * TILE_ROWS;
        for i in 0..N {
            prefetch(self.out.wrapping_add((t + i) * self.out_stride + first));
        }
        let mut sums = [[0.0; TILE_ROWS]; N];
        kernel(&mut sums);
        let n_rows = TILE_ROWS.min(self.w.rows - first);
        for (i, sums) in sums.iter_mut().enumerate() {
            if let Some(bias) = self.bias {
                for (sum, bias) in sums.iter_mut().zip(&bias[first..first + n_rows]) {
                    *sum += bias;
                }
            }
            // SAFETY: the rows first .. first + n_rows of a token of this job.
            unsafe {
                let out = self.out.wrapping_add((t + i) * self.out_stride + first);
                if n_rows == TILE_ROWS {
                    out.cast::<[f32; TILE_ROWS]>().write_unaligned(*sums);
                } else {
                    std::ptr::copy_nonoverlapping(sums.as_ptr(), out, n_rows);
                }
            }
        }
        t + N
    }
}

/// How far ahead of a single token's product its weights are asked for, bytes: several times what a core gets from memory
/// in its latency (100 ns at 10 GB/s). The processor's own prefetching stops at each 4 KiB. Measured: 1 KiB is as good for
/// SmolLM2-135M and 5 % slower for Qwen2.5-0.5B.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// While one token is multiplied with a unit of `bytes` bytes: asks for as many bytes ahead, wherever that is. Tiles follow
/// each other in memory.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask_ahead<const N: usize>(unit: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64).filter(|_| N == 1) {
        prefetch(unit.wrapping_add(AHEAD + line));
    }
}

/// Starts fetching the cache line of `p`, for reading or writing some hundred cycles later.
#[inline(always)]
fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching touches nothing, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
