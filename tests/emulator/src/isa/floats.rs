//! Float arithmetic as the hardware defines it, on single numbers. Rounding is to nearest even throughout.
//!
//! Transcendental functions of f32 and f16 are computed in f64 and rounded once, to the nearest value: hardware's
//! differ in the last bit. Denormals are kept in all of them; hardware flushes some (exp, log of f32).
// Comparisons of NaN: neither a < b nor a >= b.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]

use half::f16;

/// What float types have in common here.
pub trait Float: Copy + PartialOrd {
    const NAN: Self;
    fn is_nan(self) -> bool;
    fn is_signaling(self) -> bool;
    /// The same NaN, quiet.
    fn quiet(self) -> Self;
    fn is_negative(self) -> bool;
}

macro_rules! float {
    ($type:ty, $bits:ty, $quiet:expr) => {
        impl Float for $type {
            const NAN: Self = <$type>::NAN;
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
            #[inline(always)]
            fn is_signaling(self) -> bool {
                self != self && self.to_bits() & $quiet == 0
            }
            #[inline(always)]
            fn quiet(self) -> Self {
                <$type>::from_bits(self.to_bits() | $quiet)
            }
            #[inline(always)]
            fn is_negative(self) -> bool {
                self.is_sign_negative()
            }
        }
    };
}
float!(f32, u32, 1 << 22);
float!(f64, u64, 1 << 51);
float!(f16, u16, 1 << 9);

/// IEEE minNum, with -0 < +0. In IEEE mode (always on in kernels of gfx9 to gfx11) a signaling NaN comes out
/// quiet; gfx12's `min_num` takes the other operand.
#[inline(always)]
pub fn min<F: Float>(a: F, b: F) -> F {
    select(a, b, a < b || !(b < a) && a.is_negative())
}

#[inline(always)]
pub fn max<F: Float>(a: F, b: F) -> F {
    select(a, b, a > b || !(b > a) && !a.is_negative())
}

#[inline(always)]
fn select<F: Float>(a: F, b: F, first: bool) -> F {
    if a.is_nan() || b.is_nan() {
        if a.is_signaling() {
            a.quiet()
        } else if b.is_signaling() {
            b.quiet()
        } else if b.is_nan() {
            a
        } else {
            b
        }
    } else if first {
        a
    } else {
        b
    }
}

/// gfx12's min_num: any NaN gives way.
#[inline(always)]
pub fn min_num<F: Float>(a: F, b: F) -> F {
    select_num(a, b, a < b || !(b < a) && a.is_negative())
}

#[inline(always)]
pub fn max_num<F: Float>(a: F, b: F) -> F {
    select_num(a, b, a > b || !(b > a) && !a.is_negative())
}

#[inline(always)]
fn select_num<F: Float>(a: F, b: F, first: bool) -> F {
    if a.is_nan() {
        if b.is_nan() { a.quiet() } else { b }
    } else if b.is_nan() || first {
        a
    } else {
        b
    }
}

/// IEEE 754-2019 minimum: a NaN comes out.
#[inline(always)]
pub fn minimum<F: Float>(a: F, b: F) -> F {
    spread(a, b).unwrap_or_else(|| min_num(a, b))
}

#[inline(always)]
pub fn maximum<F: Float>(a: F, b: F) -> F {
    spread(a, b).unwrap_or_else(|| max_num(a, b))
}

fn spread<F: Float>(a: F, b: F) -> Option<F> {
    if a.is_signaling() {
        Some(a.quiet())
    } else if b.is_signaling() {
        Some(b.quiet())
    } else if a.is_nan() {
        Some(a)
    } else if b.is_nan() {
        Some(b)
    } else {
        None
    }
}

/// The middle one; with a NaN among them the least.
#[inline(always)]
pub fn med3<F: Float>(a: F, b: F, c: F, min: fn(F, F) -> F, max: fn(F, F) -> F) -> F {
    if a.is_nan() || b.is_nan() || c.is_nan() {
        return min(min(a, b), c);
    }
    let most = max(max(a, b), c);
    if most == a {
        max(b, c)
    } else if most == b {
        max(a, c)
    } else {
        max(a, b)
    }
}

/// 0 times anything is 0.
#[inline(always)]
pub fn mul_zero(a: f32, b: f32) -> f32 {
    if a == 0.0 || b == 0.0 { 0.0 } else { a * b }
}

#[inline(always)]
pub fn fma_zero(a: f32, b: f32, c: f32) -> f32 {
    if a == 0.0 || b == 0.0 { c } else { a.mul_add(b, c) }
}

/// f64 -> f16, rounded once. (`f16::from_f64` goes through f32 on processors with F16C, and drops bits on others.)
#[inline(always)]
pub fn f16_from_f64(x: f64) -> f16 {
    f16::from_f32(to_odd(x))
}

/// f64 -> f32, rounded to odd: rounding it again, to 22 bits or fewer, is as good as rounding `x` itself.
#[inline(always)]
fn to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = nearest as f64;
    if back == x || back.is_nan() || nearest.is_infinite() {
        return nearest;
    }
    let away = back.abs() > x.abs();
    f32::from_bits((nearest.to_bits() - away as u32) | 1)
}

/// Exact in f64 wherever the sum is near a tie of f16, and rounded once.
#[inline(always)]
pub fn fma16(a: f16, b: f16, c: f16) -> f16 {
    f16_from_f64(a.to_f64() * b.to_f64() + c.to_f64())
}

#[inline(always)]
pub fn f16_by(a: f16, f: impl Fn(f32) -> f32) -> f16 {
    f16::from_f32(f(a.to_f32()))
}

#[inline(always)]
pub fn f16_by2(a: f16, b: f16, f: impl Fn(f32, f32) -> f32) -> f16 {
    f16::from_f32(f(a.to_f32(), b.to_f32()))
}

/// The nearest value of a function that is computed in f64.
#[inline(always)]
pub fn nearest32(a: f32, f: impl Fn(f64) -> f64) -> f32 {
    f(a as f64) as f32
}

#[inline(always)]
pub fn nearest16(a: f16, f: impl Fn(f64) -> f64) -> f16 {
    f16_from_f64(f(a.to_f64()))
}

pub fn rcp(a: f64) -> f64 {
    1.0 / a
}

/// `1 / sqrt(a)`, within an ULP of f64.
pub fn rsq(a: f64) -> f64 {
    1.0 / a.sqrt()
}

/// The same in f64, to the nearest value: what the roundings lost is added.
pub fn rsq64(a: f64) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return rsq(a);
    }
    let (mantissa, exponent) = frexp64(a);
    let half = exponent.div_euclid(2);
    let a = ldexp64(mantissa, exponent - 2 * half);
    let y = rsq(a);
    // 1 - a * y * y, each product with its error.
    let (square, product) = (y * y, a * (y * y));
    let lost_of_square = y.mul_add(y, -square);
    let lost_of_product = a.mul_add(square, -product);
    let rest = (1.0 - product) - lost_of_product - a * lost_of_square;
    ldexp64(y + 0.5 * y * rest, -half)
}

/// `sin` of so many turns; of infinities NaN.
pub fn sin_turns(turns: f64) -> f64 {
    let (quarter, rest) = quarters(turns);
    let value = match quarter {
        0 => rest.sin(),
        1 => rest.cos(),
        2 => -rest.sin(),
        _ => -rest.cos(),
    };
    // No -0 but that of -0.
    if value == 0.0 { 0.0f64.copysign(if turns == 0.0 { turns } else { 1.0 }) } else { value }
}

pub fn cos_turns(turns: f64) -> f64 {
    let (quarter, rest) = quarters(turns);
    let value = match quarter {
        0 => rest.cos(),
        1 => -rest.sin(),
        2 => -rest.cos(),
        _ => rest.sin(),
    };
    if value == 0.0 { 0.0 } else { value }
}

/// The nearest whole quarter of a turn, of 4, and the rest in radians. The subtraction is exact: sines of whole
/// halves of a turn are 0.
fn quarters(turns: f64) -> (u32, f64) {
    let part = turns - turns.round();
    let quarter = (part * 4.0).round();
    ((quarter as i32).rem_euclid(4) as u32, (part - quarter / 4.0) * std::f64::consts::TAU)
}

/// `x - floor(x)`, below 1.
pub fn fract32(x: f32) -> f32 {
    let fract = x - x.floor();
    // A tiny negative x would round to 1.
    if fract >= 1.0 { f32::from_bits(0x3f7f_ffff) } else { fract }
}

pub fn fract64(x: f64) -> f64 {
    let fract = x - x.floor();
    if fract >= 1.0 { f64::from_bits(0x3fef_ffff_ffff_ffff) } else { fract }
}

pub fn ldexp32(x: f32, exponent: i32) -> f32 {
    // Exact in f64 within its range, then rounded once.
    let exponent = exponent.clamp(-400, 400);
    (x as f64 * f64::from_bits(((1023 + exponent) as u64) << 52)) as f32
}

pub fn ldexp64(x: f64, exponent: i32) -> f64 {
    let (mut x, mut exponent) = (x, exponent.clamp(-4400, 4400));
    let power = |n: i32| f64::from_bits(((1023 + n) as u64) << 52);
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    // Steps up are exact until they overflow. Going down, only the last step may meet denormals.
    while exponent > 1000 {
        x *= power(1000);
        exponent -= 1000;
    }
    let (mantissa, own) = frexp64(x);
    let total = own + exponent;
    if total > 1024 {
        return f64::INFINITY.copysign(x);
    }
    if total > -1000 {
        return if exponent >= -1000 { x * power(exponent) } else { mantissa * power(total) };
    }
    if total < -1100 {
        return 0.0f64.copysign(x);
    }
    mantissa * power(-1000) * power(total + 1000)
}

/// Mantissa in 0.5..1 and exponent; of 0 both 0; of infinities and NaN themselves and 0.
pub fn frexp64(x: f64) -> (f64, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    let (scaled, bias) = if x.abs() < f64::MIN_POSITIVE { (x * 2f64.powi(64), 64) } else { (x, 0) };
    let bits = scaled.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32 - 1022;
    (f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52), exponent - bias)
}

pub fn frexp32(x: f32) -> (f32, i32) {
    let (mantissa, exponent) = frexp64(x as f64);
    (mantissa as f32, exponent)
}

/// Bits of the classes that V_CMP_CLASS asks for.
macro_rules! class {
    ($name:ident, $type:ty) => {
        pub fn $name(x: $type) -> u32 {
            let negative = x.is_sign_negative();
            if x != x {
                return 1 << !x.is_signaling() as u32;
            }
            let from_zero = match x.classify() {
                std::num::FpCategory::Infinite => 3,
                std::num::FpCategory::Normal => 2,
                std::num::FpCategory::Subnormal => 1,
                _ => 0,
            };
            if negative { 1 << (5 - from_zero) } else { 1 << (6 + from_zero) }
        }
    };
}
class!(class32, f32);
class!(class64, f64);
class!(class16, f16);

const DENORM32: f64 = 1.175_494_350_822_287_5e-38;

fn exponent32(x: f32) -> i32 {
    (x.to_bits() >> 23 & 255) as i32
}

fn exponent64(x: f64) -> i32 {
    (x.to_bits() >> 52 & 0x7ff) as i32
}

/// V_DIV_SCALE_F32: `s0` (which is the denominator `s1` or the numerator `s2`) brought to where the division
/// by Newton's method meets no denormal; and whether the quotient has to be scaled back.
pub fn div_scale32(s0: f32, s1: f32, s2: f32) -> (f32, bool) {
    let is = |a: f32, b: f32| a.to_bits() == b.to_bits();
    let denormal = |x: f64| x != 0.0 && x.abs() < DENORM32;
    let quotient = s2 as f64 / s1 as f64;
    // 1 / s1 is a denormal of f32 where s1 is beyond 2^126.
    let tiny_inverse = denormal(1.0 / s1 as f64);
    if s1 == 0.0 || s2 == 0.0 {
        (f32::NAN, false)
    } else if exponent32(s2) - exponent32(s1) >= 96 {
        (if is(s0, s1) { ldexp32(s0, 64) } else { s0 }, true)
    } else if s1.is_subnormal() {
        (ldexp32(s0, 64), false)
    } else if tiny_inverse && denormal(quotient) {
        (if is(s0, s1) { ldexp32(s0, -64) } else { s0 }, true)
    } else if tiny_inverse {
        (ldexp32(s0, -64), false)
    } else if denormal(quotient) {
        (if is(s0, s2) { ldexp32(s0, 64) } else { s0 }, true)
    } else if exponent32(s2) <= 23 {
        (ldexp32(s0, 64), false)
    } else {
        (s0, false)
    }
}

pub fn div_scale64(s0: f64, s1: f64, s2: f64) -> (f64, bool) {
    let is = |a: f64, b: f64| a.to_bits() == b.to_bits();
    if s1 == 0.0 || s2 == 0.0 {
        (f64::NAN, false)
    } else if exponent64(s2) - exponent64(s1) >= 768 {
        (if is(s0, s1) { ldexp64(s0, 128) } else { s0 }, true)
    } else if s1.is_subnormal() {
        (ldexp64(s0, 128), false)
    } else if (1.0 / s1).is_subnormal() && (s2 / s1).is_subnormal() {
        (if is(s0, s1) { ldexp64(s0, -128) } else { s0 }, true)
    } else if (1.0 / s1).is_subnormal() {
        (ldexp64(s0, -128), false)
    } else if (s2 / s1).is_subnormal() {
        (if is(s0, s2) { ldexp64(s0, 128) } else { s0 }, true)
    } else if exponent64(s2) <= 53 {
        (ldexp64(s0, 128), false)
    } else {
        (s0, false)
    }
}

/// V_DIV_FMAS: the last step of the quotient, `a * b + c`, scaled back by what V_DIV_SCALE had scaled: up where
/// the quotient is large, down where it is small. (The manuals have a factor of 2^32 here, which no operand
/// needs.) Rounded once.
pub fn div_fmas32(a: f32, b: f32, c: f32, scaled: bool) -> f32 {
    let sum = a.mul_add(b, c);
    if !scaled || !sum.is_finite() {
        return sum;
    }
    let power = if exponent32(c) > 127 { 64 } else { -64 };
    ldexp64(fma_to_odd(a as f64, b as f64, c as f64), power) as f32
}

pub fn div_fmas64(a: f64, b: f64, c: f64, scaled: bool) -> f64 {
    if !scaled {
        return a.mul_add(b, c);
    }
    let sum = a.mul_add(b, c);
    let power = if exponent64(c) > 1023 { 128 } else { -128 };
    let result = ldexp64(sum, power);
    if !result.is_subnormal() {
        return result;
    }
    // A denormal was rounded a second time. That matters where it was a tie only after the first.
    let rest = sum - ldexp64(result, -power);
    let error = a.mul_add(b, c - sum);
    let tie = rest.abs() == ldexp64(f64::from_bits(1), -power) / 2.0;
    if tie && error != 0.0 && (error > 0.0) == (rest > 0.0) {
        if (rest > 0.0) == (result > 0.0) {
            f64::from_bits(result.to_bits() + 1)
        } else {
            f64::from_bits(result.to_bits() - 1)
        }
    } else {
        result
    }
}

/// `a * b + c` rounded to odd: rounding it again, to 51 bits or fewer, is as good as rounding the exact sum.
fn fma_to_odd(a: f64, b: f64, c: f64) -> f64 {
    let sum = a.mul_add(b, c);
    let error = a.mul_add(b, c - sum);
    if error == 0.0 || !sum.is_finite() || !error.is_finite() {
        return sum;
    }
    let toward_zero = (error < 0.0) == (sum > 0.0);
    f64::from_bits((sum.to_bits() - toward_zero as u64) | 1)
}

/// V_DIV_FIXUP: the quotient `s0` of `s2 / s1`, unless the operands are special.
macro_rules! div_fixup {
    ($name:ident, $type:ty, $zero:expr, $special:expr) => {
        pub fn $name(s0: $type, s1: $type, s2: $type) -> $type {
            let negative = s1.is_sign_negative() != s2.is_sign_negative();
            let sign = |x: $type| {
                <$type>::copysign(x, if negative { -<$type>::INFINITY } else { <$type>::INFINITY })
            };
            if s2 != s2 {
                s2.quiet()
            } else if s1 != s1 {
                s1.quiet()
            } else if s1 == $zero && s2 == $zero || s1.is_infinite() && s2.is_infinite() {
                <$type>::copysign(<$type>::NAN, -<$type>::INFINITY)
            } else if s1 == $zero || s2.is_infinite() {
                sign(<$type>::INFINITY)
            } else if s1.is_infinite() || s2 == $zero {
                sign($zero)
            } else {
                let special: fn($type, $type, $type) -> Option<$type> = $special;
                sign(special(s0, s1, s2).unwrap_or(s0))
            }
        }
    };
}
// A quotient below half the least denormal is 0; more is rounded by V_DIV_FMAS itself. Where it overflows,
// Newton's method gives NaN.
div_fixup!(div_fixup32, f32, 0.0, |s0, s1, s2| match exponent32(s2) - exponent32(s1) {
    ..-150 => Some(0.0),
    96.. if !s0.is_finite() => Some(f32::INFINITY),
    _ => None,
});
div_fixup!(div_fixup64, f64, 0.0, |s0, s1, s2| match exponent64(s2) - exponent64(s1) {
    ..-1075 => Some(0.0),
    768.. if !s0.is_finite() => Some(f64::INFINITY),
    _ => None,
});
div_fixup!(div_fixup16, f16, f16::ZERO, |_, _, _| None);

/// To integers: NaN gives 0, what is too large the limit.
pub fn to_i16(x: f32) -> u32 {
    x as i16 as u16 as u32
}

/// f32 -> f16 toward zero.
pub fn f16_toward_zero(x: f32) -> u32 {
    let nearest = f16::from_f32(x);
    let back = nearest.to_f32();
    if x.is_finite() && back.abs() > x.abs() {
        // Away from zero by one step, infinity included.
        nearest.to_bits() as u32 - 1
    } else {
        nearest.to_bits() as u32
    }
}

pub fn to_snorm16(x: f32) -> u32 {
    (x.clamp(-1.0, 1.0) * 32767.0).round_ties_even() as i16 as u16 as u32
}

pub fn to_unorm16(x: f32) -> u32 {
    (x.clamp(0.0, 1.0) * 65535.0).round_ties_even() as u16 as u32
}

/// f32 -> bf16, to nearest even.
pub fn to_bf16(x: f32) -> u32 {
    half::bf16::from_f32(x).to_bits() as u32
}
