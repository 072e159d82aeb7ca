//! Plain Rust, for any processor. The compiler vectorizes the loops over rows, in f32: what all have.

use half::f16;

use super::activations::Q8Block;
use super::float::Float;
use super::format::{BLOCK, Format, Scales, TILE_ROWS, WORD, WORDS};
use super::{Kernels, Sums};
use crate::gguf::dequant::e8m0_half;

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
            let d = match F::SCALES {
                Scales::E8M0 => std::array::from_fn(|r| e8m0_half(unit[F::D_AT + r])),
                _ => halfs(&unit[F::D_AT..]),
            };
            let d_min = if F::HAS_MIN { halfs(&unit[F::D_AT + 2 * TILE_ROWS..]) } else { [0.0; TILE_ROWS] };
            for b in 0..F::BLOCKS {
                let columns = columns::<F>(&unit[b * F::QUANT_BYTES..][..F::QUANT_BYTES]);
                let scales = scales::<F>(unit, &d, &d_min, b);
                for (t, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: each of the N rows has a block for each 32 columns of the tile.
                    let x = unsafe { &*x.add(t * x_stride + u * F::BLOCKS + b) };
                    if F::HALVES {
                        for (h, (scale, min)) in scales.iter().enumerate() {
                            let dots = dot(&columns[16 * h..][..16], &x.q[16 * h..][..16]);
                            add::<F>(sums, &dots, scale, min, x.scale, x.scaled_sums[h]);
                        }
                    } else {
                        let dots = dot(&columns, &x.q);
                        add::<F>(sums, &dots, &scales[0].0, &scales[0].1, x.scale, x.scaled_sum);
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
            let mut w = [0.0; TILE_ROWS];
            for (w, bytes) in w.iter_mut().zip(column.chunks_exact(W::SIZE)) {
                *w = W::to_f32(bytes);
            }
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: each of the N rows has `cols` columns.
                let x = unsafe { *x.add(t * x_stride + c) };
                for r in 0..TILE_ROWS {
                    sums[r] += w[r] * x;
                }
            }
        }
    }
}

fn halfs(bytes: &[u8]) -> Lanes {
    std::array::from_fn(|r| f16::from_le_bytes([bytes[2 * r], bytes[2 * r + 1]]).to_f32())
}

/// The quants of a block, less their zero, column by column.
#[inline(always)]
fn columns<F: Format>(bytes: &[u8]) -> [Lanes; BLOCK] {
    let (base, high) = bytes.split_at(WORD * F::BASE);
    let mut columns = [[0.0; TILE_ROWS]; BLOCK];
    for g in 0..WORDS {
        let mut word = [0; TILE_ROWS];
        add_bits(&mut word, base, F::BASE, g, 0);
        if F::HIGH > 0 {
            add_bits(&mut word, high, F::HIGH, g, F::BASE);
        }
        for i in 0..4 {
            for r in 0..TILE_ROWS {
                let quant = (word[r] >> (8 * i)) & 0xff;
                let value = F::TABLE.map_or(quant, |table| u32::from(table[quant as usize]));
                columns[4 * g + i][r] = (value as i32 - F::ZERO) as f32;
            }
        }
    }
    columns
}

/// Sets bits `at..` of the quants of group `g` from a plane; 4 columns of a row in an entry of `word`.
#[inline(always)]
fn add_bits(word: &mut [u32; TILE_ROWS], plane: &[u8], bits: usize, g: usize, at: usize) {
    let stored = plane[WORD * (g % bits)..][..WORD].as_chunks::<4>().0;
    let mask = 0x0101_0101 * ((1u32 << bits) - 1);
    for r in 0..TILE_ROWS {
        word[r] |= ((u32::from_le_bytes(stored[r]) >> (bits * (g / bits))) & mask) << at;
    }
}

/// (scale, min) of block `b` of a unit, or of its two halves.
#[inline(always)]
fn scales<F: Format>(unit: &[u8], d: &Lanes, d_min: &Lanes, b: usize) -> [(Lanes, Lanes); 2] {
    let sub = |i: usize| &unit[F::SCALES_AT + i * TILE_ROWS..][..TILE_ROWS];
    let zero = [0.0; TILE_ROWS];
    match F::SCALES {
        Scales::E8M0 | Scales::F16 | Scales::F16Min => [(*d, *d_min), (zero, zero)],
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

/// The dot products of 16 rows; exact, as the sums stay below 2^24.
#[inline(always)]
fn dot(columns: &[Lanes], x: &[i8]) -> Lanes {
    let mut dots = [0.0; TILE_ROWS];
    for (column, x) in columns.iter().zip(x) {
        let x = f32::from(*x);
        for r in 0..TILE_ROWS {
            dots[r] += column[r] * x;
        }
    }
    dots
}

#[inline(always)]
fn add<F: Format>(sums: &mut Lanes, dots: &Lanes, scale: &Lanes, min: &Lanes, x_scale: f32, x_sum: f32) {
    for r in 0..TILE_ROWS {
        sums[r] += dots[r] * (scale[r] * x_scale);
        if F::HAS_MIN {
            sums[r] += min[r] * x_sum;
        }
    }
}
