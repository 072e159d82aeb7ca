//! Number formats of packed and matrix operands.

use half::bf16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F64,
    F32,
    F16,
    Bf16,
    /// OCP 8-bit floats (gfx12, gfx950): E4M3 without infinities; E5M2.
    Fp8,
    Bf8,
    /// The 8-bit floats of gfx942: exponent bias one larger, no negative zero; 0x80 is the only NaN.
    Fp8Fnuz,
    Bf8Fnuz,
    I8,
    U8,
    I4,
    U4,
}

impl Element {
    pub fn bits(self) -> usize {
        match self {
            Element::F64 => 64,
            Element::F32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::I4 | Element::U4 => 4,
            _ => 8,
        }
    }

    /// Value of a float element of up to 32 bits; `raw` has no bits beyond them.
    #[inline(always)]
    pub fn float(self, raw: u32) -> f32 {
        match self {
            Element::F32 => f32::from_bits(raw),
            Element::F16 => f16_to_f32(raw as u16),
            Element::Bf16 => f32::from_bits(raw << 16),
            Element::Fp8 => small_float(raw as u8, 3, 7, raw & 0x7F == 0x7F),
            Element::Bf8 => match raw & 0x7F {
                0x7C if raw & 0x80 != 0 => f32::NEG_INFINITY,
                0x7C => f32::INFINITY,
                magnitude => small_float(raw as u8, 2, 15, magnitude > 0x7C),
            },
            Element::Fp8Fnuz => small_float(raw as u8, 3, 8, raw & 0xFF == 0x80),
            Element::Bf8Fnuz => small_float(raw as u8, 2, 16, raw & 0xFF == 0x80),
            _ => unreachable!("an integer element or f64"),
        }
    }

    /// Value of an integer element, from the low bits of `raw`.
    #[inline(always)]
    pub fn integer(self, raw: u32) -> i32 {
        match self {
            Element::I8 => raw as i8 as i32,
            Element::U8 => raw as u8 as i32,
            Element::I4 => (raw << 28) as i32 >> 28,
            Element::U4 => (raw & 15) as i32,
            _ => unreachable!("a float element"),
        }
    }
}

/// Exact: the halves are scaled by a power of two, which also normalizes subnormals.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    let magnitude = (half as u32 & 0x7FFF) << 13;
    let value = if magnitude >= 0x0F80_0000 {
        f32::from_bits(magnitude | 0x7F80_0000)
    } else {
        f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)
    };
    f32::from_bits(value.to_bits() | (half as u32 & 0x8000) << 16)
}

/// To nearest even, from f32; NaN to a quiet one. Without branches: 32 lanes are converted side by side.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    let magnitude = value.to_bits() & 0x7FFF_FFFF;
    // Exponent less 112, rounding up beyond the half, or at it if the last bit is odd.
    let normal = magnitude.wrapping_add(0xC800_0FFF).wrapping_add(magnitude >> 13 & 1) >> 13;
    // The sum's last bit is f16's smallest subnormal: the addition rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let infinite = if magnitude > 0x7F80_0000 { 0x7E00 } else { 0x7C00 };
    let half = if magnitude >= 0x4780_0000 { infinite } else { finite };
    (value.to_bits() >> 16 & 0x8000 | half) as u16
}

pub fn f32_to_bf16(value: f32) -> u16 {
    bf16::from_f32(value).to_bits()
}

/// To nearest even in one rounding (f32 in between would round twice).
pub fn f64_to_f16(value: f64) -> u16 {
    f32_to_f16(to_f32_odd(value))
}

pub fn f64_to_bf16(value: f64) -> u16 {
    f32_to_bf16(to_f32_odd(value))
}

/// Truncated to f32, the last bit set where that was inexact: a later rounding to fewer bits sees which side
/// of a tie the value lay on.
fn to_f32_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if nearest as f64 == value || value.is_nan() {
        return nearest;
    }
    let away = (nearest as f64).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - away as u32) | 1)
}

fn small_float(raw: u8, mantissa_bits: u32, bias: i32, nan: bool) -> f32 {
    if nan {
        return f32::NAN;
    }
    let mantissa = (raw as u32 & ((1 << mantissa_bits) - 1)) as f32;
    let exponent = (raw as u32 & 0x7F) >> mantissa_bits;
    let one = (1u32 << mantissa_bits) as f32;
    let value = if exponent == 0 {
        mantissa / one * 2f32.powi(1 - bias)
    } else {
        (1.0 + mantissa / one) * 2f32.powi(exponent as i32 - bias)
    };
    if raw & 0x80 != 0 { -value } else { value }
}
