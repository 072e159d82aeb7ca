//! Plain Rust, for any processor; the loops over rows are the compiler's to vectorize.

use half::f16;

use super::activations::Q8Block;
use super::float::Float;
use super::format::{Format, Scales, TILE_ROWS, WORD, WORDS};
use super::{Kernels, Sums};

pub(super) struct Scalar;

type Lanes = [f32; TILE_ROWS];

impl Kernels for Scalar {
    const TOKENS: usize = 4;

    unsafe fn quantized<F: Format, const N: usize>(
        tile: *const u8,
        units: usize,
        x: *const Q8Block,
        x_stride: usize,
        sums: &mut Sums<N>,
    ) {
        // SAFETY: the tile holds its units.
        let tile = unsafe { std::slice::from_raw_parts(tile, units * F::UNIT_BYTES) };
        for (u, unit) in tile.chunks_exact(F::UNIT_BYTES).enumerate() {
            let d = halfs(&unit[F::D_AT..]);
            let d_min = if F::HAS_MIN { halfs(&unit[F::D_AT + 2 * TILE_ROWS..]) } else { [0.0; TILE_ROWS] };
            for b in 0..F::BLOCKS {
                let quants = quants::<F>(&unit[b * F::QUANT_BYTES..][..F::QUANT_BYTES]);
                let scales = scales::<F>(unit, &d, &d_min, b);
                for (t, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: each of the N rows has a block for each 32 columns of the tile.
                    let x = unsafe { &*x.add(t * x_stride + u * F::BLOCKS + b) };
                    if F::HALVES {
                        for (h, (scale, min)) in scales.iter().enumerate() {
                            let start = F::ZERO * x.minus_sums[h];
                            let dots = dot(&quants[4 * h..][..4], &x.q[16 * h..][..16], start);
                            add::<F>(sums, dots, scale, min, x.scale, x.scaled_sums[h]);
                        }
                    } else {
                        let dots = dot(&quants, &x.q, F::ZERO * x.minus_sum);
                        add::<F>(sums, dots, &scales[0].0, &scales[0].1, x.scale, x.scaled_sum);
                    }
                }
            }
        }
    }

    unsafe fn float<W: Float, const N: usize>(
        tile: *const u8,
        cols: usize,
        x: *const f32,
        x_stride: usize,
        sums: &mut Sums<N>,
    ) {
        // SAFETY: the tile holds 16 rows of `cols`.
        let tile = unsafe { std::slice::from_raw_parts(tile, cols * TILE_ROWS * W::SIZE) };
        for (c, column) in tile.chunks_exact(TILE_ROWS * W::SIZE).enumerate() {
            let w: Lanes = std::array::from_fn(|r| W::to_f32(&column[r * W::SIZE..]));
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: each of the N rows has `cols` columns.
                let x = unsafe { *x.add(t * x_stride + c) };
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum += w * x;
                }
            }
        }
    }
}

fn halfs(bytes: &[u8]) -> Lanes {
    std::array::from_fn(|r| f16::from_le_bytes([bytes[2 * r], bytes[2 * r + 1]]).to_f32())
}

/// The words of a block.
#[inline(always)]
fn quants<F: Format>(bytes: &[u8]) -> [[u8; WORD]; WORDS] {
    let (base, high) = bytes.split_at(WORD * F::BASE);
    std::array::from_fn(|g| {
        let mut word = plane_word(base, F::BASE, g);
        if F::HIGH > 0 {
            let high = plane_word(high, F::HIGH, g);
            for (quant, high) in word.iter_mut().zip(high) {
                *quant |= high << F::BASE;
            }
        }
        word
    })
}

#[inline(always)]
fn plane_word(plane: &[u8], bits: usize, g: usize) -> [u8; WORD] {
    let stored = &plane[WORD * (g % bits)..][..WORD];
    let mask = ((1u32 << bits) - 1) as u8;
    std::array::from_fn(|i| (stored[i] >> (bits * (g / bits))) & mask)
}

/// (scale, min) of block `b` of a unit, or of its two halves.
#[inline(always)]
fn scales<F: Format>(unit: &[u8], d: &Lanes, d_min: &Lanes, b: usize) -> [(Lanes, Lanes); 2] {
    let sub = |i: usize| &unit[F::SCALES_AT + i * TILE_ROWS..][..TILE_ROWS];
    let zero = [0.0; TILE_ROWS];
    match F::SCALES {
        Scales::F16 | Scales::F16Min => [(*d, *d_min), (zero, zero)],
        Scales::Sub => [0, 1].map(|h| (times(d, |r| i32::from(sub(2 * b + h)[r] as i8)), zero)),
        Scales::SubMin => {
            let scale = times(d, |r| i32::from(sub(b)[r]));
            let min = times(d_min, |r| -i32::from(sub(F::BLOCKS + b)[r]));
            [(scale, min), (zero, zero)]
        }
        Scales::Nibble => [0, 1].map(|h| {
            let scale = times(d, |r| i32::from(sub(2 * b + h)[r] & 15));
            let min = times(d_min, |r| -i32::from(sub(2 * b + h)[r] >> 4));
            (scale, min)
        }),
    }
}

#[inline(always)]
fn times(d: &Lanes, factor: impl Fn(usize) -> i32) -> Lanes {
    std::array::from_fn(|r| d[r] * factor(r) as f32)
}

/// start + the dot products of 16 rows of words with the columns of `x`.
#[inline(always)]
fn dot(words: &[[u8; WORD]], x: &[i8], start: i32) -> [i32; TILE_ROWS] {
    let mut dots = [start; TILE_ROWS];
    for (word, x) in words.iter().zip(x.as_chunks::<4>().0) {
        for (dot, quants) in dots.iter_mut().zip(word.as_chunks::<4>().0) {
            for i in 0..4 {
                *dot += i32::from(quants[i]) * i32::from(x[i]);
            }
        }
    }
    dots
}

#[inline(always)]
fn add<F: Format>(
    sums: &mut Lanes,
    dots: [i32; TILE_ROWS],
    scale: &Lanes,
    min: &Lanes,
    x_scale: f32,
    x_sum: f32,
) {
    for r in 0..TILE_ROWS {
        sums[r] += dots[r] as f32 * (scale[r] * x_scale);
        if F::HAS_MIN {
            sums[r] += min[r] * x_sum;
        }
    }
}
