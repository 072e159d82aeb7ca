//! AVX-512 with VNNI: a lane of a register is a row of the tile.

use std::arch::x86_64::*;

use super::activations::{self, Q8Block};
use super::float::{Float, Kind};
use super::format::{BLOCK, Format, Scales, TILE_ROWS, WORD, WORDS};
use super::{Kernels, Sums, ask_ahead};

pub(super) struct Avx512;

impl Kernels for Avx512 {
    const TOKENS: usize = 8;

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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn quantized<F: Format, const N: usize>(
    tile: *const u8,
    units: usize,
    x: *const Q8Block,
    x_stride: usize,
    sums: &mut Sums<N>,
) {
    // SAFETY: the tile holds `units` units, and each row of x a block for each 32 columns of them.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); N];
        for u in 0..units {
            let unit = tile.add(u * F::UNIT_BYTES);
            ask_ahead::<N>(unit, F::UNIT_BYTES);
            let x = x.add(u * F::BLOCKS);
            let d = match F::SCALES {
                Scales::E8M0 => exponents(unit.add(F::D_AT)),
                _ => halfs(unit.add(F::D_AT)),
            };
            let d_min = if F::HAS_MIN { halfs(unit.add(F::D_AT + 2 * TILE_ROWS)) } else { d };
            for b in 0..F::BLOCKS {
                let words = words::<F>(unit.add(b * F::QUANT_BYTES));
                if F::HALVES {
                    let scales = [scales::<F>(unit, d, d_min, 2 * b), scales::<F>(unit, d, d_min, 2 * b + 1)];
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let x = &*x.add(t * x_stride + b);
                        for (h, &(scale, min)) in scales.iter().enumerate() {
                            let words: &[__m512i; 4] = words[4 * h..][..4].try_into().unwrap_unchecked();
                            let dot = dot::<F, 4>(words, &x.q[16 * h], x.minus_sums[h]);
                            *acc = add::<F>(*acc, dot, scale, min, x.scale, x.scaled_sums[h]);
                        }
                    }
                } else {
                    let (scale, min) = scales::<F>(unit, d, d_min, b);
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let x = &*x.add(t * x_stride + b);
                        let dot = dot::<F, 8>(&words, &x.q[0], x.minus_sum);
                        *acc = add::<F>(*acc, dot, scale, min, x.scale, x.scaled_sum);
                    }
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            _mm512_storeu_ps(sums.as_mut_ptr(), acc);
        }
    }
}

#[inline(always)]
unsafe fn halfs(p: *const u8) -> __m512 {
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
}

/// 2^(e - 128), as `dequant::e8m0_half`.
#[inline(always)]
unsafe fn exponents(p: *const u8) -> __m512 {
    unsafe {
        let e = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
        let is_subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, is_subnormal, _mm512_set1_epi32(0x0020_0000), e))
    }
}

/// The words of a block: quants of 16 rows x 4 columns each.
#[inline(always)]
unsafe fn words<F: Format>(p: *const u8) -> [__m512i; WORDS] {
    unsafe {
        let mut words = [_mm512_setzero_si512(); WORDS];
        for (g, word) in words.iter_mut().enumerate() {
            let base = _mm512_loadu_si512(p.add(WORD * (g % F::BASE)).cast());
            *word = bits(base, F::BASE, F::BASE * (g / F::BASE), 0);
            if F::HIGH > 0 {
                let high = _mm512_loadu_si512(p.add(WORD * (F::BASE + g % F::HIGH)).cast());
                *word = _mm512_or_si512(*word, bits(high, F::HIGH, F::HIGH * (g / F::HIGH), F::BASE));
            }
            if let Some(table) = F::TABLE {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                *word = _mm512_shuffle_epi8(table, *word);
            }
        }
        words
    }
}

/// Moves the `n` bits at `from` of each byte to `to`, and clears all others.
#[inline(always)]
unsafe fn bits(bytes: __m512i, n: usize, from: usize, to: usize) -> __m512i {
    unsafe {
        if n == 8 {
            return bytes;
        }
        let moved = match (from, to) {
            _ if from > to => _mm512_srl_epi16(bytes, _mm_cvtsi32_si128((from - to) as i32)),
            _ if from < to => _mm512_sll_epi16(bytes, _mm_cvtsi32_si128((to - from) as i32)),
            _ => bytes,
        };
        _mm512_and_si512(moved, _mm512_set1_epi8((((1u32 << n) - 1) << to) as i8))
    }
}

/// (scale, minimum) of a unit's group `i`, of 16 or 32 columns.
#[inline(always)]
unsafe fn scales<F: Format>(unit: *const u8, d: __m512, d_min: __m512, i: usize) -> (__m512, __m512) {
    unsafe {
        let bytes = |i: usize| _mm_loadu_si128(unit.add(F::SCALES_AT + i * TILE_ROWS).cast());
        let times = |d, factors| _mm512_mul_ps(d, _mm512_cvtepi32_ps(factors));
        let minus = |x| _mm512_xor_ps(x, _mm512_set1_ps(-0.0));
        match F::SCALES {
            Scales::E8M0 | Scales::F16 | Scales::F16Min => (d, d_min),
            Scales::Sub => (times(d, _mm512_cvtepi8_epi32(bytes(i))), d_min),
            Scales::SubMin => {
                let scale = times(d, _mm512_cvtepu8_epi32(bytes(i)));
                (scale, minus(times(d_min, _mm512_cvtepu8_epi32(bytes(8 + i)))))
            }
            Scales::Nibble => {
                let both = _mm512_cvtepu8_epi32(bytes(i));
                let scale = times(d, _mm512_and_si512(both, _mm512_set1_epi32(15)));
                (scale, minus(times(d_min, _mm512_srli_epi32::<4>(both))))
            }
        }
    }
}

/// The dot products of K words with 4 * K activations, less the quants' zero.
#[inline(always)]
unsafe fn dot<F: Format, const K: usize>(words: &[__m512i; K], x: *const i8, minus_sum: i32) -> __m512i {
    unsafe {
        let mut dot = match F::ZERO {
            0 => _mm512_setzero_si512(),
            zero => {
                let shift = _mm_cvtsi32_si128(zero.trailing_zeros() as i32);
                _mm512_sll_epi32(_mm512_set1_epi32(minus_sum), shift)
            }
        };
        for (g, word) in words.iter().enumerate() {
            let x = _mm512_set1_epi32(x.add(4 * g).cast::<i32>().read_unaligned());
            dot = _mm512_dpbusd_epi32(dot, *word, x);
        }
        dot
    }
}

#[inline(always)]
unsafe fn add<F: Format>(
    acc: __m512,
    dot: __m512i,
    scale: __m512,
    min: __m512,
    x_scale: f32,
    x_sum: f32,
) -> __m512 {
    unsafe {
        let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
        let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc);
        if F::HAS_MIN { _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), acc) } else { acc }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
unsafe fn float<W: Float, const N: usize>(
    tile: *const u8,
    cols: usize,
    x: *const f32,
    x_stride: usize,
    sums: &mut Sums<N>,
) {
    // SAFETY: the tile holds 16 rows of `cols`, and each row of x `cols` floats.
    unsafe {
        // Even and odd columns, for twice the additions in flight.
        let mut acc = [[_mm512_setzero_ps(); 2]; N];
        let column = |c: usize, acc: &mut [[__m512; 2]; N], half: usize| {
            let w = elements::<W>(tile.add(c * TILE_ROWS * W::SIZE));
            for (t, acc) in acc.iter_mut().enumerate() {
                acc[half] = _mm512_fmadd_ps(w, _mm512_set1_ps(*x.add(t * x_stride + c)), acc[half]);
            }
        };
        for c in 0..cols / 2 {
            column(2 * c, &mut acc, 0);
            column(2 * c + 1, &mut acc, 1);
        }
        if cols % 2 == 1 {
            column(cols - 1, &mut acc, 0);
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_add_ps(acc[0], acc[1]));
        }
    }
}

/// A column's 16 elements.
#[inline(always)]
unsafe fn elements<W: Float>(p: *const u8) -> __m512 {
    unsafe {
        match W::KIND {
            Kind::F32 => _mm512_loadu_ps(p.cast()),
            Kind::F16 => halfs(p),
            Kind::BF16 => {
                let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high))
            }
        }
    }
}

/// As `activations::quantize`, bit for bit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c")]
pub(super) fn quantize(x: &[f32], blocks: &mut [Q8Block]) {
    for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        // SAFETY: x has two registers of floats, block.q two half registers of bytes.
        unsafe {
            let x = [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x[16..].as_ptr())];
            let magnitude = |x| _mm512_castps_si512(_mm512_abs_ps(x));
            let amax = _mm512_reduce_max_epi32(_mm512_max_epi32(magnitude(x[0]), magnitude(x[1])));
            let (scale, inverse) = activations::scales(f32::from_bits(amax as u32));
            let inverse = _mm512_set1_ps(inverse);
            let q = x.map(|x| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse))));
            let q = _mm256_set_m128i(q[1], q[0]);
            _mm256_storeu_si256(block.q.as_mut_ptr().cast(), q);
            // Sums of 4, of which each half register holds those of 16.
            let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
            block.set_scale(scale, [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)]);
        }
    }
}
