//! AVX2, FMA and F16C: a lane of a register is a row of one half of the tile.

use std::arch::x86_64::*;

use super::activations::Q8Block;
use super::float::{Float, Kind};
use super::format::{Format, Scales, TILE_ROWS, WORD, WORDS};
use super::{Kernels, Sums, ask_ahead};

/// Rows of a register.
const LANES: usize = 8;

pub(super) struct Avx2;

impl Kernels for Avx2 {
    const TOKENS: usize = 4;

    unsafe fn quantized<F: Format, const N: usize>(
        tile: *const u8,
        units: usize,
        x: *const Q8Block,
        x_stride: usize,
        sums: &mut Sums<N>,
    ) {
        // SAFETY: the caller's.
        unsafe { quantized::<F, N>(tile, units, x, x_stride, sums) }
    }

    unsafe fn float<W: Float, const N: usize>(
        tile: *const u8,
        cols: usize,
        x: *const f32,
        x_stride: usize,
        sums: &mut Sums<N>,
    ) {
        // SAFETY: the caller's.
        unsafe { float::<W, N>(tile, cols, x, x_stride, sums) }
    }
}

// The helpers below are inlined into the two functions where the instructions are enabled.
// SAFETY of their blocks: the instructions are available, says the caller of `matmul`; the pointers lie
// within the tile and the rows of activations that the two functions were given.

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantized<F: Format, const N: usize>(
    tile: *const u8,
    units: usize,
    x: *const Q8Block,
    x_stride: usize,
    sums: &mut Sums<N>,
) {
    // SAFETY: the tile holds `units` units, and each row of x a block for each 32 columns of them.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for u in 0..units {
            let unit = tile.add(u * F::UNIT_BYTES);
            ask_ahead::<N>(unit, F::UNIT_BYTES);
            let x = x.add(u * F::BLOCKS);
            // one half behind the other: the registers hold one half's scales
            for half in 0..2 {
                let d = match F::SCALES {
                    Scales::E8M0 => exponents(unit.add(F::D_AT + LANES * half)),
                    _ => halfs(unit.add(F::D_AT + 2 * LANES * half)),
                };
                let d_min = match F::HAS_MIN {
                    true => halfs(unit.add(F::D_AT + 2 * TILE_ROWS + 2 * LANES * half)),
                    false => d,
                };
                let sub = unit.add(F::SCALES_AT + LANES * half);
                for b in 0..F::BLOCKS {
                    let words = words::<F>(unit.add(b * F::QUANT_BYTES + WORD / 2 * half));
                    if F::HALVES {
                        let scales =
                            [scales::<F>(sub, d, d_min, 2 * b), scales::<F>(sub, d, d_min, 2 * b + 1)];
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let x = &*x.add(t * x_stride + b);
                            for (h, &(scale, min)) in scales.iter().enumerate() {
                                let dot = dot::<F>(&words[4 * h..][..4], &x.q[16 * h..], x.minus_sums[h]);
                                acc[half] = add::<F>(acc[half], dot, scale, min, x.scale, x.scaled_sums[h]);
                            }
                        }
                    } else {
                        let (scale, min) = scales::<F>(sub, d, d_min, b);
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let x = &*x.add(t * x_stride + b);
                            let dot = dot::<F>(&words, &x.q, x.minus_sum);
                            acc[half] = add::<F>(acc[half], dot, scale, min, x.scale, x.scaled_sum);
                        }
                    }
                }
            }
        }
        store(&acc, sums);
    }
}

#[inline(always)]
unsafe fn store<const N: usize>(acc: &[[__m256; 2]; N], sums: &mut Sums<N>) {
    for (sums, acc) in sums.iter_mut().zip(acc) {
        // SAFETY: 16 floats.
        unsafe {
            _mm256_storeu_ps(sums.as_mut_ptr(), acc[0]);
            _mm256_storeu_ps(sums[LANES..].as_mut_ptr(), acc[1]);
        }
    }
}

#[inline(always)]
unsafe fn halfs(p: *const u8) -> __m256 {
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
}

/// 2^(e - 128), as `dequant::e8m0_half`.
#[inline(always)]
unsafe fn exponents(p: *const u8) -> __m256 {
    unsafe {
        let e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
        let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
        let is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1));
        _mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal))
    }
}

/// The words of a block, of 8 rows x 4 columns each.
#[inline(always)]
unsafe fn words<F: Format>(p: *const u8) -> [__m256i; WORDS] {
    unsafe {
        let mut words = [_mm256_setzero_si256(); WORDS];
        for (g, word) in words.iter_mut().enumerate() {
            let base = _mm256_loadu_si256(p.add(WORD * (g % F::BASE)).cast());
            *word = bits(base, F::BASE, F::BASE * (g / F::BASE), 0);
            if F::HIGH > 0 {
                let high = _mm256_loadu_si256(p.add(WORD * (F::BASE + g % F::HIGH)).cast());
                *word = _mm256_or_si256(*word, bits(high, F::HIGH, F::HIGH * (g / F::HIGH), F::BASE));
            }
            if let Some(table) = F::TABLE {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                *word = _mm256_shuffle_epi8(table, *word);
            }
        }
        words
    }
}

/// Moves the `n` bits at `from` of each byte to `to`, and clears all others.
#[inline(always)]
unsafe fn bits(bytes: __m256i, n: usize, from: usize, to: usize) -> __m256i {
    unsafe {
        if n == 8 {
            return bytes;
        }
        let moved = match (from, to) {
            _ if from > to => _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((from - to) as i32)),
            _ if from < to => _mm256_sll_epi16(bytes, _mm_cvtsi32_si128((to - from) as i32)),
            _ => bytes,
        };
        _mm256_and_si256(moved, _mm256_set1_epi8((((1u32 << n) - 1) << to) as i8))
    }
}

/// (scale, minimum) of a unit's group `i`, of 16 or 32 columns; `sub` are the unit's sub-scales.
#[inline(always)]
unsafe fn scales<F: Format>(sub: *const u8, d: __m256, d_min: __m256, i: usize) -> (__m256, __m256) {
    unsafe {
        let bytes = |i: usize| _mm_loadl_epi64(sub.add(i * TILE_ROWS).cast());
        let times = |d, factors| _mm256_mul_ps(d, _mm256_cvtepi32_ps(factors));
        let minus = |x| _mm256_xor_ps(x, _mm256_set1_ps(-0.0));
        match F::SCALES {
            Scales::E8M0 | Scales::F16 | Scales::F16Min => (d, d_min),
            Scales::Sub => (times(d, _mm256_cvtepi8_epi32(bytes(i))), d_min),
            Scales::SubMin => {
                let scale = times(d, _mm256_cvtepu8_epi32(bytes(i)));
                (scale, minus(times(d_min, _mm256_cvtepu8_epi32(bytes(8 + i)))))
            }
            Scales::Nibble => {
                let both = _mm256_cvtepu8_epi32(bytes(i));
                let scale = times(d, _mm256_and_si256(both, _mm256_set1_epi32(15)));
                (scale, minus(times(d_min, _mm256_srli_epi32::<4>(both))))
            }
        }
    }
}

/// The dot products of words with their activations, less the quants' zero.
#[inline(always)]
unsafe fn dot<F: Format>(words: &[__m256i], x: &[i8], minus_sum: i32) -> __m256i {
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let activations = |g: usize| _mm256_set1_epi32(x.as_ptr().add(4 * g).cast::<i32>().read_unaligned());
        if 2 * 127 * F::MOST > 32767 {
            // Products of unsigned bytes would pass 16 bits: magnitudes, with the sign on the activation.
            let mut dot = _mm256_setzero_si256();
            for (g, word) in words.iter().enumerate() {
                let signed = _mm256_xor_si256(*word, _mm256_set1_epi8(F::ZERO as i8));
                let x = _mm256_sign_epi8(activations(g), signed);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), x);
                dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
            }
            return dot;
        }
        let mut dot = _mm256_set1_epi32(F::ZERO * minus_sum);
        // Words whose pair sums, of two products each, fit 16 bits together.
        let run = (32767 / (2 * 127 * F::MOST)).min(words.len());
        for (i, words) in words.chunks(run).enumerate() {
            let mut pairs = _mm256_setzero_si256();
            for (g, word) in words.iter().enumerate() {
                let products = _mm256_maddubs_epi16(*word, activations(i * run + g));
                pairs = _mm256_add_epi16(pairs, products);
            }
            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
        }
        dot
    }
}

#[inline(always)]
unsafe fn add<F: Format>(
    acc: __m256,
    dot: __m256i,
    scale: __m256,
    min: __m256,
    x_scale: f32,
    x_sum: f32,
) -> __m256 {
    unsafe {
        let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x_scale));
        let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, acc);
        if F::HAS_MIN { _mm256_fmadd_ps(min, _mm256_set1_ps(x_sum), acc) } else { acc }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float<W: Float, const N: usize>(
    tile: *const u8,
    cols: usize,
    x: *const f32,
    x_stride: usize,
    sums: &mut Sums<N>,
) {
    // SAFETY: the tile holds 16 rows of `cols`, and each row of x `cols` floats.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for c in 0..cols {
            let column = tile.add(c * TILE_ROWS * W::SIZE);
            let w = [elements::<W>(column), elements::<W>(column.add(LANES * W::SIZE))];
            for (t, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*x.add(t * x_stride + c));
                acc[0] = _mm256_fmadd_ps(w[0], x, acc[0]);
                acc[1] = _mm256_fmadd_ps(w[1], x, acc[1]);
            }
        }
        store(&acc, sums);
    }
}

/// 8 elements of a column.
#[inline(always)]
unsafe fn elements<W: Float>(p: *const u8) -> __m256 {
    unsafe {
        match W::KIND {
            Kind::F32 => _mm256_loadu_ps(p.cast()),
            Kind::F16 => halfs(p),
            Kind::BF16 => {
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))
            }
        }
    }
}
