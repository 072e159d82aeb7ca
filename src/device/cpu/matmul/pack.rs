//! From the file's rows to tiles.

use super::format::{BLOCK, FileScales, Format, Scales, TILE_ROWS, WORD, WORDS};

/// A word of quants: 4 columns of each row.
type Word = [u32; TILE_ROWS];

/// Packs up to 16 rows of whole blocks into `tile`; absent rows become zeros.
pub(super) fn quantized<F: Format>(rows: &[&[u8]], tile: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { quantized_avx2::<F>(rows, tile) };
    }
    quantized_plain::<F>(rows, tile);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantized_avx2<F: Format>(rows: &[&[u8]], tile: &mut [u8]) {
    quantized_plain::<F>(rows, tile);
}

#[inline(always)]
fn quantized_plain<F: Format>(rows: &[&[u8]], tile: &mut [u8]) {
    for (u, unit) in tile.chunks_exact_mut(F::UNIT_BYTES).enumerate() {
        let mut blocks: [&[u8]; TILE_ROWS] = [&[]; TILE_ROWS];
        for (block, row) in blocks.iter_mut().zip(rows) {
            *block = &row[u * F::FILE_BYTES..][..F::FILE_BYTES];
        }
        let blocks = &blocks[..rows.len()];
        for b in 0..F::BLOCKS {
            let mut words = [[0u32; TILE_ROWS]; WORDS];
            for (r, block) in blocks.iter().enumerate() {
                for (word, quants) in words.iter_mut().zip(F::quants(block, b)) {
                    word[r] = quants;
                }
            }
            let (base, high) = unit[b * F::QUANT_BYTES..][..F::QUANT_BYTES].split_at_mut(WORD * F::BASE);
            plane(&words, F::BASE, 0, base);
            plane(&words, F::HIGH, F::BASE, high);
        }
        let mut scales = [FileScales::default(); TILE_ROWS];
        for (scales, block) in scales.iter_mut().zip(blocks) {
            *scales = F::scales(block);
        }
        pack_scales::<F>(&scales, unit);
    }
}

/// Writes bits `from .. from + bits` of every quant of a block.
#[inline(always)]
fn plane(words: &[Word; WORDS], bits: usize, from: usize, out: &mut [u8]) {
    let mask = 0x0101_0101 * ((1u32 << bits) - 1);
    for (i, out) in out.chunks_exact_mut(WORD).enumerate() {
        let mut stored = [0u32; TILE_ROWS];
        for slot in 0..8 / bits {
            for (stored, quants) in stored.iter_mut().zip(words[i + slot * bits]) {
                *stored |= ((quants >> from) & mask) << (slot * bits);
            }
        }
        for (out, stored) in out.as_chunks_mut::<4>().0.iter_mut().zip(stored) {
            *out = stored.to_le_bytes();
        }
    }
}

fn pack_scales<F: Format>(rows: &[FileScales; TILE_ROWS], unit: &mut [u8]) {
    let (sub, d) = unit[F::SCALES_AT..].split_at_mut(F::D_AT - F::SCALES_AT);
    for (r, scales) in rows.iter().enumerate() {
        if F::SCALES == Scales::E8M0 {
            d[r] = scales.d[0];
            continue;
        }
        d[2 * r..][..2].copy_from_slice(&scales.d);
        if F::HAS_MIN {
            d[2 * TILE_ROWS + 2 * r..][..2].copy_from_slice(&scales.min);
        }
        match F::SCALES {
            Scales::E8M0 | Scales::F16 | Scales::F16Min => {}
            Scales::Sub | Scales::Nibble => {
                for i in 0..16 {
                    sub[i * TILE_ROWS + r] = scales.sub[i];
                }
            }
            Scales::SubMin => {
                for i in 0..8 {
                    sub[i * TILE_ROWS + r] = scales.sub[i];
                    sub[(8 + i) * TILE_ROWS + r] = scales.sub_min[i];
                }
            }
        }
    }
}

/// Packs up to 16 rows of `size`-byte floats: column by column, 16 rows each; absent rows become zeros.
pub(super) fn float<const SIZE: usize>(rows: &[&[u8]], tile: &mut [u8]) {
    /// Columns at a time: a cache line or two of each row.
    const CHUNK: usize = BLOCK;
    if rows.len() < TILE_ROWS {
        tile.fill(0);
    }
    for (c, out) in tile.chunks_mut(CHUNK * TILE_ROWS * SIZE).enumerate() {
        for (r, row) in rows.iter().enumerate() {
            let elements = row[c * CHUNK * SIZE..].chunks_exact(SIZE);
            for (out, element) in out.chunks_exact_mut(TILE_ROWS * SIZE).zip(elements) {
                out[r * SIZE..][..SIZE].copy_from_slice(element);
            }
        }
    }
}
