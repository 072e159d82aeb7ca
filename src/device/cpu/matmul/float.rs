//! Weights that are floats: how an element is stored and read.

use half::{bf16, f16};

/// Elements of a tile: column by column, 16 rows each.
pub(super) trait Float {
    /// Bytes of an element.
    const SIZE: usize;
    /// For the paths of x86-64.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    const KIND: Kind;

    fn to_f32(bytes: &[u8]) -> f32;
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    BF16,
}

pub(super) struct F32;
impl Float for F32 {
    const SIZE: usize = 4;
    const KIND: Kind = Kind::F32;
    #[inline(always)]
    fn to_f32(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

pub(super) struct F16;
impl Float for F16 {
    const SIZE: usize = 2;
    const KIND: Kind = Kind::F16;
    #[inline(always)]
    fn to_f32(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

pub(super) struct BF16;
impl Float for BF16 {
    const SIZE: usize = 2;
    const KIND: Kind = Kind::BF16;
    #[inline(always)]
    fn to_f32(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}
