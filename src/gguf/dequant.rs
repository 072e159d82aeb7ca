//! Dequantization to f32, from each format's definition: the reference all fast paths are held to.
//!
//! Every product and sum is one rounded f32 operation, in the order of the format's definition
//! (scale times quant, then the minimum), so results are the same bits everywhere.

use half::{bf16 as Bf16, f16 as F16};

use super::TensorType;
use crate::{Error, Result};

/// Dequantizes as many whole blocks as `out` holds; the bytes are exactly theirs.
pub(super) type Rows = fn(&[u8], &mut [f32]);

/// Dequantizes whole blocks: `bytes` holds `out.len()` elements of type `ty`.
///
/// # Errors
/// `Error::Unsupported` for a type without dequantization; `Error::Param` unless `out.len()` is
/// whole blocks and `bytes` exactly as long as they are.
pub fn row(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let rows = ty.dequant().ok_or_else(|| Error::Unsupported {
        what: "tensor type",
        name: ty.name().to_owned(),
        supported: TensorType::supported_names(),
    })?;
    if ty.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::param(format!(
            "{} bytes are not {} elements of {ty} ({} elements in {} bytes per block)",
            bytes.len(),
            out.len(),
            ty.block_len(),
            ty.block_bytes()
        )));
    }
    rows(bytes, out);
    Ok(())
}

/// Runs `one` over each block of `BYTES` bytes and `LEN` elements.
fn blocks<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    one: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    let (outs, out_rest) = out.as_chunks_mut::<LEN>();
    debug_assert!(rest.is_empty() && out_rest.is_empty() && blocks.len() == outs.len());
    for (block, out) in blocks.iter().zip(outs) {
        one(block, out);
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    F16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b));
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = F16::from_le_bytes(*b).to_f32());
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = Bf16::from_le_bytes(*b).to_f32());
}

// Blocks of 32: the low nibble of byte j is element j, the high nibble element j + 16; bit j of the
// 32 bits `qh` is the fifth bit of element j.

/// d, 32 nibbles: d * (q - 8).
pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 18], o: &mut [f32; 32]| {
        let d = half(b, 0);
        for (j, &q) in b[2..].iter().enumerate() {
            o[j] = d * ((q & 15) as f32 - 8.0);
            o[j + 16] = d * ((q >> 4) as f32 - 8.0);
        }
    });
}

/// d, m, 32 nibbles: d * q + m.
pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 20], o: &mut [f32; 32]| {
        let (d, m) = (half(b, 0), half(b, 2));
        for (j, &q) in b[4..].iter().enumerate() {
            o[j] = d * (q & 15) as f32 + m;
            o[j + 16] = d * (q >> 4) as f32 + m;
        }
    });
}

/// The 32 five-bit quants of `high` (4 bytes) and `low` (16 bytes).
fn five_bits(high: &[u8], low: &[u8], mut put: impl FnMut(usize, f32)) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for (j, &q) in low.iter().enumerate() {
        put(j, ((q & 15) as u32 | (high >> j & 1) << 4) as f32);
        put(j + 16, ((q >> 4) as u32 | (high >> (j + 16) & 1) << 4) as f32);
    }
}

/// d, qh, 32 nibbles: d * (q - 16).
pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 22], o: &mut [f32; 32]| {
        let d = half(b, 0);
        five_bits(&b[2..6], &b[6..], |j, q| o[j] = d * (q - 16.0));
    });
}

/// d, m, qh, 32 nibbles: d * q + m.
pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 24], o: &mut [f32; 32]| {
        let (d, m) = (half(b, 0), half(b, 2));
        five_bits(&b[4..8], &b[8..], |j, q| o[j] = d * q + m);
    });
}

/// d, 32 signed bytes: d * q.
pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 34], o: &mut [f32; 32]| {
        let d = half(b, 0);
        for (o, &q) in o.iter_mut().zip(&b[2..]) {
            *o = d * (q as i8) as f32;
        }
    });
}

/// Two to the power of `e` - 128: half of what the OCP Microscaling specification's E8M0 is, for quants that are doubled.
pub(crate) fn e8m0_half(e: u8) -> f32 {
    // the two smallest are subnormal
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// e, 32 nibbles: 2^(e - 128) * value of q, doubled, as a float of 4 bits (E2M1).
pub(super) fn mxfp4(bytes: &[u8], out: &mut [f32]) {
    const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    let value = |q: u8| f32::from(VALUES[usize::from(q)]);
    blocks(bytes, out, |b: &[u8; 17], o: &mut [f32; 32]| {
        let d = e8m0_half(b[0]);
        for (j, &q) in b[1..].iter().enumerate() {
            o[j] = d * value(q & 15);
            o[j + 16] = d * value(q >> 4);
        }
    });
}

// Superblocks of 256: groups of 16 or 32 elements, each with its own integer scale (and minimum),
// and f16 factors d (and dmin) over all of them.

/// 16 bytes of scale (low nibble) and minimum (high nibble) per 16 elements, 64 bytes of 2-bit
/// quants, d, dmin. Byte j of each 32 bytes holds elements j, j + 32, j + 64, j + 96 of its 128.
pub(super) fn q2_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 84], o: &mut [f32; 256]| {
        let (scales, quants) = (&b[..16], &b[16..80]);
        let (d, dmin) = (half(b, 80), half(b, 82));
        for (group, o) in o.chunks_exact_mut(16).enumerate() {
            let scale = d * (scales[group] & 15) as f32;
            let min = dmin * (scales[group] >> 4) as f32;
            let (at, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
            for (o, &q) in o.iter_mut().zip(&quants[at..at + 16]) {
                *o = scale * (q >> shift & 3) as f32 - min;
            }
        }
    });
}

/// 32 bytes of third bits, 64 bytes of low 2 bits (as in Q2_K), 16 six-bit scales in 12 bytes, d.
/// Bit k of mask byte j belongs to element 32 k + j; where it is clear, 4 is taken off.
pub(super) fn q3_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 110], o: &mut [f32; 256]| {
        let (mask, quants, scales) = (&b[..32], &b[32..96], &b[96..108]);
        let d = half(b, 108);
        for (group, o) in o.chunks_exact_mut(16).enumerate() {
            // Low 4 bits: a nibble of the first 8 bytes; high 2 bits: a pair of the last 4.
            let low = scales[group % 8] >> (group / 8 * 4) & 15;
            let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
            let scale = d * ((low | high << 4) as f32 - 32.0);
            let (at, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
            for (j, o) in o.iter_mut().enumerate() {
                let low = (quants[at + j] >> shift & 3) as f32;
                let high = mask[group % 2 * 16 + j] >> (group / 2) & 1;
                *o = scale * (low - if high == 0 { 4.0 } else { 0.0 });
            }
        }
    });
}

/// Scale and minimum (6 bits each) of group 0-7 in the 12 bytes of Q4_K and Q5_K: the first four
/// groups in the low bits of bytes 0-3 and 4-7; the others' low 4 bits in the nibbles of bytes 8-11
/// and their high 2 bits in the top of bytes 0-3 and 4-7.
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
    };
    (scale as f32, min as f32)
}

/// d, dmin, 8 scales and minima in 12 bytes, 128 bytes of nibbles: of each 32 bytes the low nibbles
/// are one group of 32 elements and the high nibbles the next.
pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 144], o: &mut [f32; 256]| {
        let (d, dmin, packed, quants) = (half(b, 0), half(b, 2), &b[4..16], &b[16..]);
        for (group, o) in o.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_and_min(packed, group);
            let (scale, min) = (d * scale, dmin * min);
            let (at, shift) = (group / 2 * 32, group % 2 * 4);
            for (o, &q) in o.iter_mut().zip(&quants[at..at + 32]) {
                *o = scale * (q >> shift & 15) as f32 - min;
            }
        }
    });
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit k of byte j belongs to element
/// 32 k + j.
pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 176], o: &mut [f32; 256]| {
        let (d, dmin, packed, high, quants) = (half(b, 0), half(b, 2), &b[4..16], &b[16..48], &b[48..]);
        for (group, o) in o.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_and_min(packed, group);
            let (scale, min) = (d * scale, dmin * min);
            let (at, shift) = (group / 2 * 32, group % 2 * 4);
            for (j, o) in o.iter_mut().enumerate() {
                let q = quants[at + j] >> shift & 15 | (high[j] >> group & 1) << 4;
                *o = scale * q as f32 - min;
            }
        }
    });
}

/// 128 bytes of low nibbles, 64 bytes of high 2 bits, 16 signed byte scales, d. Of each 128 elements,
/// byte j of 64 holds the nibbles of elements j and j + 64, and byte j of 32 the pairs of elements
/// j, j + 32, j + 64, j + 96.
pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 210], o: &mut [f32; 256]| {
        let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(b, 208));
        for (group, o) in o.chunks_exact_mut(16).enumerate() {
            let scale = d * (scales[group] as i8) as f32;
            let (half, at) = (group / 8, group % 8 * 16);
            for (j, o) in o.iter_mut().enumerate() {
                let i = at + j; // within the 128
                let nibble = low[half * 64 + i % 64] >> (i / 64 * 4) & 15;
                let pair = high[half * 32 + i % 32] >> (i / 32 * 2) & 3;
                *o = scale * ((nibble | pair << 4) as f32 - 32.0);
            }
        }
    });
}
