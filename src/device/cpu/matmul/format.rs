//! The packed layout of each quantized type, as data: the kernels are generic over it.
//!
//! A tile is 16 rows. Its columns go by blocks of 32, a block by 8 groups of 4 columns: what one lane
//! of a byte dot product takes in. Quants are unsigned; a *word* is 16 rows x 4 columns of them, 64
//! bytes, row-major. A plane of B bits (1, 2, 4 or 8) stores the 8 words of a block in B stored words:
//! the quants of group g are in stored word `g % B`, at bit `B * (g / B)` of each byte. A quant is a
//! base plane's bits, with those of a high plane above them.
//!
//! One *unit* of a tile covers the columns of one block of the file (32, or 256 for the K types):
//! ```text
//! per block of 32 columns   base plane 64*BASE bytes, high plane 64*HIGH bytes
//! then, by Scales           E8M0:   d [u8; 16], an exponent
//!                           F16:    d [f16; 16]
//!                           F16Min: d [f16; 16], min [f16; 16]
//!                           Sub:    scale [i8; 16] per group of 16 columns, d [f16; 16]
//!                           SubMin: scale [u8; 16] per block, min [u8; 16] per block, d, dmin [f16; 16]
//!                           Nibble: scale | min << 4 [u8; 16] per group of 16 columns, d, dmin [f16; 16]
//! ```
//! Units of a tile follow each other; the same bytes serve every instruction set.

#![allow(non_camel_case_types)] // types are called as in the file

use crate::gguf::TensorType;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a block: what activations share a scale over.
pub const BLOCK: usize = 32;
/// Words in a block.
pub(super) const WORDS: usize = 8;
/// Bytes of a word.
pub(super) const WORD: usize = 4 * TILE_ROWS;

/// How a quant becomes a weight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// 2^(d - 128) * (q - ZERO), for 32 columns.
    E8M0,
    /// d * (q - ZERO), for 32 columns.
    F16,
    /// d * q + min, for 32 columns.
    F16Min,
    /// d * scale * (q - ZERO), a scale for 16 columns.
    Sub,
    /// d * scale * q - dmin * min, a scale and a min for 32 columns.
    SubMin,
    /// As SubMin, for 16 columns.
    Nibble,
}

/// What the file holds beside the quants, for one block of one row. f16 stay as bytes; an exponent is the first of d.
#[derive(Clone, Copy, Default)]
pub(super) struct FileScales {
    pub d: [u8; 2],
    pub min: [u8; 2],
    pub sub: [u8; 16],
    pub sub_min: [u8; 8],
}

/// The quants of 32 columns of a row, a byte each: a row's part of 8 words, little endian.
pub(super) type Quants = [u32; WORDS];

pub(super) trait Format {
    const TYPE: TensorType;
    /// Bits of the base plane and of the high plane (0: none).
    const BASE: usize;
    const HIGH: usize;
    /// The quant that means 0; a power of two, or 0 for types with a minimum.
    const ZERO: i32 = 0;
    /// What a quant of 4 bits stands for, plus ZERO; None where it stands for itself.
    const TABLE: Option<[u8; 16]> = None;
    const SCALES: Scales;

    /// Quants of columns `32 * b ..` of a block of the file.
    fn quants(block: &[u8], b: usize) -> Quants;
    fn scales(block: &[u8]) -> FileScales;

    /// Bytes of a block of the file.
    const FILE_BYTES: usize = Self::TYPE.block_bytes();
    /// Blocks of 32 columns in a unit.
    const BLOCKS: usize = Self::TYPE.block_len() / BLOCK;
    /// Bytes of the quants of a block of 32 columns.
    const QUANT_BYTES: usize = WORD * (Self::BASE + Self::HIGH);
    /// Where a unit's scales start.
    const SCALES_AT: usize = Self::BLOCKS * Self::QUANT_BYTES;
    /// Where its d, and min or dmin, start.
    const D_AT: usize = Self::SCALES_AT
        + match Self::SCALES {
            Scales::E8M0 | Scales::F16 | Scales::F16Min => 0,
            Scales::Sub | Scales::SubMin | Scales::Nibble => 16 * TILE_ROWS,
        };
    const UNIT_BYTES: usize = Self::D_AT
        + match Self::SCALES {
            Scales::E8M0 => TILE_ROWS,
            Scales::F16 | Scales::Sub => 2 * TILE_ROWS,
            Scales::F16Min | Scales::SubMin | Scales::Nibble => 4 * TILE_ROWS,
        };
    /// Whether 16 columns share a scale, not 32.
    const HALVES: bool = matches!(Self::SCALES, Scales::Sub | Scales::Nibble);
    /// The largest number that is multiplied with an activation, before ZERO is taken off.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const MOST: usize = match Self::TABLE {
        None => (1 << (Self::BASE + Self::HIGH)) - 1,
        Some(table) => {
            let (mut most, mut q) = (0, 0);
            while q < 16 {
                most = if table[q] > most { table[q] } else { most };
                q += 1;
            }
            most as usize
        }
    };
    const HAS_MIN: bool = matches!(Self::SCALES, Scales::F16Min | Scales::SubMin | Scales::Nibble);
}

// Block layouts of the file: little endian, in the order of the fields named with each type.

fn pair(bytes: &[u8], at: usize) -> [u8; 2] {
    [bytes[at], bytes[at + 1]]
}

/// One bit, or the bits of a mask, in each byte of a u32.
const EACH: u32 = 0x0101_0101;

#[inline(always)]
fn four(bytes: &[u8], g: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * g], bytes[4 * g + 1], bytes[4 * g + 2], bytes[4 * g + 3]])
}

/// 16 bytes: columns 0..16 in the low nibbles, 16..32 in the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> Quants {
    let bytes = &bytes[..16];
    let mut quants = [0; WORDS];
    for g in 0..4 {
        quants[g] = four(bytes, g) & (15 * EACH);
        quants[4 + g] = (four(bytes, g) >> 4) & (15 * EACH);
    }
    quants
}

/// Adds bit `i` of `high` to quant `i`, as its fifth bit.
#[inline(always)]
fn with_fifth_bits(mut quants: Quants, high: &[u8]) -> Quants {
    let high = four(high, 0);
    for (g, quants) in quants.iter_mut().enumerate() {
        // Four copies, 7 bits apart: bit i of one of them is the lowest of byte i.
        let copies = ((high >> (4 * g)) & 15) * 0x0020_4081;
        *quants |= (copies & EACH) << 4;
    }
    quants
}

/// The bits of `mask` of 32 bytes shifted right.
#[inline(always)]
fn bits(bytes: &[u8], shift: usize, mask: u32) -> Quants {
    let bytes = &bytes[..BLOCK];
    let mut quants = [0; WORDS];
    for (g, quants) in quants.iter_mut().enumerate() {
        *quants = (four(bytes, g) >> shift) & (mask * EACH);
    }
    quants
}

/// d f16, quants [u4; 32]
pub(super) struct Q4_0;
impl Format for Q4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const BASE: usize = 4;
    const HIGH: usize = 0;
    const ZERO: i32 = 8;
    const SCALES: Scales = Scales::F16;
    #[inline(always)]
    fn quants(block: &[u8], _: usize) -> Quants {
        nibbles(&block[2..18])
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: pair(block, 0), ..Default::default() }
    }
}

/// d f16, min f16, quants [u4; 32]
pub(super) struct Q4_1;
impl Format for Q4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const BASE: usize = 4;
    const HIGH: usize = 0;
    const SCALES: Scales = Scales::F16Min;
    #[inline(always)]
    fn quants(block: &[u8], _: usize) -> Quants {
        nibbles(&block[4..20])
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: pair(block, 0), min: pair(block, 2), ..Default::default() }
    }
}

/// d f16, fifth bits [u1; 32], low bits [u4; 32]
pub(super) struct Q5_0;
impl Format for Q5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const BASE: usize = 4;
    const HIGH: usize = 1;
    const ZERO: i32 = 16;
    const SCALES: Scales = Scales::F16;
    #[inline(always)]
    fn quants(block: &[u8], _: usize) -> Quants {
        with_fifth_bits(nibbles(&block[6..22]), &block[2..6])
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: pair(block, 0), ..Default::default() }
    }
}

/// d f16, min f16, fifth bits [u1; 32], low bits [u4; 32]
pub(super) struct Q5_1;
impl Format for Q5_1 {
    const TYPE: TensorType = TensorType::Q5_1;
    const BASE: usize = 4;
    const HIGH: usize = 1;
    const SCALES: Scales = Scales::F16Min;
    #[inline(always)]
    fn quants(block: &[u8], _: usize) -> Quants {
        with_fifth_bits(nibbles(&block[8..24]), &block[4..8])
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: pair(block, 0), min: pair(block, 2), ..Default::default() }
    }
}

/// d f16, quants [i8; 32]
pub(super) struct Q8_0;
impl Format for Q8_0 {
    const TYPE: TensorType = TensorType::Q8_0;
    const BASE: usize = 8;
    const HIGH: usize = 0;
    const ZERO: i32 = 128;
    const SCALES: Scales = Scales::F16;
    #[inline(always)]
    fn quants(block: &[u8], _: usize) -> Quants {
        bits(&block[2..], 0, 0xff).map(|quants| quants ^ (0x80 * EACH))
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: pair(block, 0), ..Default::default() }
    }
}

/// d u8, quants [u4; 32]
pub(super) struct MXFP4;
impl Format for MXFP4 {
    const TYPE: TensorType = TensorType::MXFP4;
    const BASE: usize = 4;
    const HIGH: usize = 0;
    const ZERO: i32 = 16;
    const TABLE: Option<[u8; 16]> = Some([16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4]);
    const SCALES: Scales = Scales::E8M0;
    #[inline(always)]
    fn quants(block: &[u8], _: usize) -> Quants {
        nibbles(&block[1..17])
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: [block[0], 0], ..Default::default() }
    }
}

/// Bits `2 * (b % 4)..` of bytes `32 * (b / 4)..`: how 2-bit planes of the K types run.
#[inline(always)]
fn two_bits(bytes: &[u8], b: usize) -> Quants {
    bits(&bytes[32 * (b / 4)..], 2 * (b % 4), 3)
}

/// Adds bit `b` of each byte of `high` to the quant, at bit `at`.
#[inline(always)]
fn with_bit(mut quants: Quants, high: &[u8], b: usize, at: usize) -> Quants {
    for (quants, high) in quants.iter_mut().zip(bits(high, b, 1)) {
        *quants |= high << at;
    }
    quants
}

/// scale and min [u4, u4; 16], quants [u2; 256], d f16, dmin f16
pub(super) struct Q2_K;
impl Format for Q2_K {
    const TYPE: TensorType = TensorType::Q2_K;
    const BASE: usize = 2;
    const HIGH: usize = 0;
    const SCALES: Scales = Scales::Nibble;
    #[inline(always)]
    fn quants(block: &[u8], b: usize) -> Quants {
        two_bits(&block[16..80], b)
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales {
            d: pair(block, 80),
            min: pair(block, 82),
            sub: std::array::from_fn(|i| block[i]),
            ..Default::default()
        }
    }
}

/// third bits [u1; 256], low bits [u2; 256], scales [u6; 16] with zero 32, d f16
pub(super) struct Q3_K;
impl Format for Q3_K {
    const TYPE: TensorType = TensorType::Q3_K;
    const BASE: usize = 2;
    const HIGH: usize = 1;
    const ZERO: i32 = 4;
    const SCALES: Scales = Scales::Sub;
    #[inline(always)]
    fn quants(block: &[u8], b: usize) -> Quants {
        with_bit(two_bits(&block[32..96], b), &block[..32], b, 2)
    }
    fn scales(block: &[u8]) -> FileScales {
        let packed = &block[96..108];
        // Low 4 bits: 16 nibbles of 8 bytes; high 2 bits: of 4 bytes, byte i % 4.
        let sub = std::array::from_fn(|i| {
            let low = (packed[i % 8] >> (4 * (i / 8))) & 15;
            let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
            (low | high << 4).wrapping_sub(32)
        });
        FileScales { d: pair(block, 108), sub, ..Default::default() }
    }
}

/// The 12 bytes of 8 scales [u6] and 8 mins [u6] of Q4_K and Q5_K: of the first four, 6 bits each in
/// bytes 0..4 and 4..8; of the others, low nibbles in bytes 8..12 and the top bits of bytes 0..8.
fn scales_and_mins(packed: &[u8]) -> ([u8; 16], [u8; 8]) {
    let mut scales = [0; 16];
    let mut mins = [0; 8];
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        mins[i] = packed[4 + i] & 63;
        scales[4 + i] = packed[8 + i] & 15 | packed[i] >> 6 << 4;
        mins[4 + i] = packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4;
    }
    (scales, mins)
}

/// Nibble `b % 2` of bytes `32 * (b / 2)..`.
#[inline(always)]
fn half_bytes(bytes: &[u8], b: usize) -> Quants {
    bits(&bytes[32 * (b / 2)..], 4 * (b % 2), 15)
}

/// d f16, dmin f16, scales and mins [u6; 16], quants [u4; 256]
pub(super) struct Q4_K;
impl Format for Q4_K {
    const TYPE: TensorType = TensorType::Q4_K;
    const BASE: usize = 4;
    const HIGH: usize = 0;
    const SCALES: Scales = Scales::SubMin;
    #[inline(always)]
    fn quants(block: &[u8], b: usize) -> Quants {
        half_bytes(&block[16..144], b)
    }
    fn scales(block: &[u8]) -> FileScales {
        let (sub, sub_min) = scales_and_mins(&block[4..16]);
        FileScales { d: pair(block, 0), min: pair(block, 2), sub, sub_min }
    }
}

/// d f16, dmin f16, scales and mins [u6; 16], fifth bits [u1; 256], low bits [u4; 256]
pub(super) struct Q5_K;
impl Format for Q5_K {
    const TYPE: TensorType = TensorType::Q5_K;
    const BASE: usize = 4;
    const HIGH: usize = 1;
    const SCALES: Scales = Scales::SubMin;
    #[inline(always)]
    fn quants(block: &[u8], b: usize) -> Quants {
        with_bit(half_bytes(&block[48..176], b), &block[16..48], b, 4)
    }
    fn scales(block: &[u8]) -> FileScales {
        Q4_K::scales(block)
    }
}

/// low bits [u4; 256], high bits [u2; 256], scales [i8; 16], d f16
pub(super) struct Q6_K;
impl Format for Q6_K {
    const TYPE: TensorType = TensorType::Q6_K;
    const BASE: usize = 4;
    const HIGH: usize = 2;
    const ZERO: i32 = 32;
    const SCALES: Scales = Scales::Sub;
    #[inline(always)]
    fn quants(block: &[u8], b: usize) -> Quants {
        // 128 columns: the low nibbles of 64 bytes, then their high nibbles.
        let mut quants = bits(&block[64 * (b / 4) + 32 * (b % 2)..], 4 * (b % 4 / 2), 15);
        for (quants, high) in quants.iter_mut().zip(two_bits(&block[128..192], b)) {
            *quants |= high << 4;
        }
        quants
    }
    fn scales(block: &[u8]) -> FileScales {
        FileScales { d: pair(block, 208), sub: std::array::from_fn(|i| block[192 + i]), ..Default::default() }
    }
}
