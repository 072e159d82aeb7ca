//! Activations rounded to 8 bits, by blocks of 32.

use super::format::BLOCK;
use crate::Result;
use crate::device::cpu::isa::Isa;
use crate::device::cpu::memory::Memory;

/// 32 activations: `scale * q`, q in -127..=127. One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Q8Block {
    pub q: [i8; BLOCK],
    /// amax / 127; NaN if an activation is not finite.
    pub scale: f32,
    /// scale * sum of q, for types with a minimum: of all, and of columns 0..16 and 16..32.
    pub scaled_sum: f32,
    pub scaled_sums: [f32; 2],
    /// -(sum of q), for types whose zero is not 0: likewise.
    pub minus_sum: i32,
    pub minus_sums: [i32; 2],
}

/// Below this amax a block is taken as zeros: 127 / amax must be finite.
const TINY: f32 = 1e-35;

/// (scale, its inverse) of a block whose largest magnitude is `amax`.
#[inline(always)]
pub(super) fn scales(amax: f32) -> (f32, f32) {
    match amax {
        _ if !amax.is_finite() => (f32::NAN, 0.0),
        _ if amax < TINY => (0.0, 0.0),
        _ => (amax / 127.0, 127.0 / amax),
    }
}

impl Q8Block {
    /// All fields but `q`; `sums` are those of q's halves.
    #[inline(always)]
    pub(super) fn set_scale(&mut self, scale: f32, sums: [i32; 2]) {
        let sum = sums[0].wrapping_add(sums[1]);
        self.scale = scale;
        self.scaled_sum = scale * sum as f32;
        self.scaled_sums = [scale * sums[0] as f32, scale * sums[1] as f32];
        self.minus_sum = sum.wrapping_neg();
        self.minus_sums = [sums[0].wrapping_neg(), sums[1].wrapping_neg()];
    }
}

/// Quantized rows, allocated once for up to `max_rows` rows of up to `max_cols` columns.
pub struct Q8Rows {
    blocks: Memory,
    max_rows: usize,
    /// Blocks from a row to the next; odd, so that rows do not compete for the same cache sets.
    stride: usize,
}

fn stride(max_cols: usize) -> usize {
    max_cols.div_ceil(BLOCK) | 1
}

impl Q8Rows {
    pub fn new(max_rows: usize, max_cols: usize) -> Result<Self> {
        let blocks = Memory::zeroed(Self::bytes_of(max_rows, max_cols), "quantized activations")?;
        Ok(Self { blocks, max_rows, stride: stride(max_cols) })
    }

    /// Bytes that such rows take; saturated where they overflow.
    pub fn bytes_of(max_rows: usize, max_cols: usize) -> usize {
        max_rows.saturating_mul(stride(max_cols)).saturating_mul(size_of::<Q8Block>()).max(1)
    }

    pub fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Columns that a row has room for.
    pub fn max_cols(&self) -> usize {
        self.stride * BLOCK
    }

    /// Quantizes `x`, whose length is a multiple of 32, to nearest, ties to even. A block with an
    /// activation that is not finite makes every product with it NaN.
    ///
    /// # Safety
    /// `isa` is available, and during the call no other thread uses this row.
    pub unsafe fn quantize_row(&self, isa: Isa, row: usize, x: &[f32]) {
        assert!(row < self.max_rows && x.len() <= self.max_cols() && x.len().is_multiple_of(BLOCK));
        // SAFETY: row and length were checked; the caller vouches that the row is not in use elsewhere.
        let blocks = unsafe { std::slice::from_raw_parts_mut(self.row(row).cast_mut(), x.len() / BLOCK) };
        match isa {
            Isa::Scalar => quantize(x, blocks),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller vouches for the instructions.
            Isa::Avx2 => unsafe { quantize_avx2(x, blocks) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512Vnni => unsafe { super::avx512::quantize(x, blocks) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512Vnni => quantize(x, blocks),
        }
    }

    /// What the quantized row stands for.
    ///
    /// # Safety
    /// During the call no other thread writes this row.
    pub unsafe fn dequantize_row(&self, row: usize, x: &mut [f32]) {
        assert!(row < self.max_rows && x.len() <= self.max_cols());
        for (b, x) in x.chunks_mut(BLOCK).enumerate() {
            // SAFETY: row and length were checked.
            let block = unsafe { &*self.row(row).add(b) };
            for (x, q) in x.iter_mut().zip(block.q) {
                *x = block.scale * f32::from(q);
            }
        }
    }

    /// Blocks from a row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn row(&self, row: usize) -> *const Q8Block {
        debug_assert!(row < self.max_rows);
        self.blocks.as_ptr().cast::<Q8Block>().wrapping_add(row * self.stride)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn quantize_avx2(x: &[f32], blocks: &mut [Q8Block]) {
    quantize(x, blocks);
}

/// Plain loops for the compiler to vectorize; the same result on every path.
#[inline(always)]
fn quantize(x: &[f32], blocks: &mut [Q8Block]) {
    for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        // As integers the magnitudes keep their order, with infinities and NaN above all.
        let mut magnitudes = [0; BLOCK];
        for (magnitude, x) in magnitudes.iter_mut().zip(x) {
            *magnitude = x.to_bits() & 0x7fff_ffff;
        }
        let (scale, inverse) = scales(f32::from_bits(fold(magnitudes, u32::max)));
        // In 1.5 * 2^23 .. the last bit is worth 1: adding rounds to nearest even. (The last byte
        // of a NaN is 0.)
        const ROUND: f32 = 12_582_912.0;
        let mut q = [0; BLOCK];
        for (q, x) in q.iter_mut().zip(x) {
            *q = ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        }
        for (out, q) in block.q.iter_mut().zip(q) {
            *out = q as i8;
        }
        let halves = q.as_chunks::<16>().0;
        let sums = match scale.is_nan() {
            false => [fold(halves[0], i32::wrapping_add), fold(halves[1], i32::wrapping_add)],
            true => [0, 0],
        };
        block.set_scale(scale, sums);
    }
}

/// Folds halves onto each other, which vectorizes.
#[inline(always)]
fn fold<T: Copy, const N: usize>(mut items: [T; N], join: impl Fn(T, T) -> T) -> T {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            items[i] = join(items[i], items[i + n]);
        }
    }
    items[0]
}
