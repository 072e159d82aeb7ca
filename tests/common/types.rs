//! What tests must know of a tensor type beside the library's table: a row here for each type it computes with.

use TensorType::*;
use half::f16;
use rocmforge::gguf::TensorType;

/// A number of each block that its values grow with: the scale, or the minimum.
#[derive(Clone, Copy)]
pub struct Factor {
    /// Its first byte in the block.
    at: usize,
    kind: Kind,
    /// What it is in blocks of otherwise random bits for their values to have a standard deviation of 1 around 0. It follows
    /// from uniform bits: 4 bits spread 4.6, 5 bits 9.2, 8 bits 74; sub-scales are random too.
    pub unit: f32,
    /// The sign with which it has values grow upwards: -1 for a minimum that is subtracted.
    pub sign: f32,
}

#[derive(Clone, Copy)]
enum Kind {
    F16,
    /// A byte e: 2^(e - 128).
    Exponent,
}

const fn scale(at: usize, unit: f32) -> Factor {
    Factor { at, kind: Kind::F16, unit, sign: 1.0 }
}

const fn subtracted(at: usize, unit: f32) -> Factor {
    Factor { sign: -1.0, ..scale(at, unit) }
}

const fn exponent(at: usize, unit: f32) -> Factor {
    Factor { kind: Kind::Exponent, ..scale(at, unit) }
}

/// The factors of a type's blocks; none of a float type.
pub fn factors(ty: TensorType) -> Vec<Factor> {
    match ty {
        F32 | F16 | BF16 => vec![],
        Q4_0 => vec![scale(0, 0.21)],
        Q4_1 => vec![scale(0, 0.21), scale(2, -1.6)],
        Q5_0 => vec![scale(0, 0.11)],
        Q5_1 => vec![scale(0, 0.11), scale(2, -1.7)],
        Q8_0 => vec![scale(0, 0.0135)],
        Q2_K => vec![scale(80, 0.08), subtracted(82, 0.12)],
        Q3_K => vec![scale(108, 0.023)],
        Q4_K => vec![scale(0, 0.0045), subtracted(2, 0.0337)],
        Q5_K => vec![scale(0, 0.0022), subtracted(2, 0.034)],
        Q6_K => vec![scale(208, 0.0007)],
        MXFP4 => vec![exponent(0, 0.17)],
        other => panic!("tests/common/types.rs knows no factors of {other}"),
    }
}

impl Factor {
    /// To what is nearest to `value`; an exponent has no sign.
    pub fn set(self, block: &mut [u8], value: f32) {
        match self.kind {
            Kind::F16 => block[self.at..self.at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            Kind::Exponent => block[self.at] = (value.abs().log2().round() + 128.0) as u8,
        }
    }
}

/// Blocks at an end of every field's range, all quants, sub-scales and signs at once: bytes of `fill`, with factors of
/// `scale`'s size whose terms do not cancel.
pub fn extreme_blocks(ty: TensorType, bytes: &mut [u8], fill: u8, scale: f32) {
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        block.fill(fill);
        factors(ty).iter().for_each(|factor| factor.set(block, factor.sign * scale));
    }
}

pub fn quantized() -> impl Iterator<Item = TensorType> {
    TensorType::supported().filter(|ty| !ty.is_float())
}
