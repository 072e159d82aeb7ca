//! Python's numbers: integers without end (within a limit), floats, how both are read and written.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};
use num_traits::{FromPrimitive, Num, One, Pow, Signed, ToPrimitive, Zero};

use super::fault::{Fault, Kind, Result, limit_error, overflow_error, value_error};
use super::meter::Rt;
use super::value::Value;

/// Bits of an integer.
const MAX_BITS: u64 = 1 << 16;
/// Digits that Python converts between integers and text.
const MAX_DIGITS: usize = 4300;

/// An operator of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

impl Op {
    pub fn sign(self) -> &'static str {
        match self {
            Op::Add => "+",
            Op::Sub => "-",
            Op::Mul => "*",
            Op::Div => "/",
            Op::FloorDiv => "//",
            Op::Mod => "%",
            Op::Pow => "** or pow()",
        }
    }
}

pub(super) fn check_size(rt: &Rt, value: &BigInt) -> Result<()> {
    rt.step(value.bits() / 64)?;
    check_bits(value.bits())
}

fn check_bits(bits: u64) -> Result<()> {
    if bits > MAX_BITS {
        return Err(limit_error(format!("an integer is too large: it may have {MAX_BITS} bits")));
    }
    Ok(())
}

fn zero_division(message: &str) -> Fault {
    Fault::new(Kind::ZeroDivision, message)
}

pub(super) fn to_big(value: &Value) -> Option<BigInt> {
    match value {
        Value::Big(big) => Some((**big).clone()),
        _ => value.as_i64().map(BigInt::from),
    }
}

/// Any number as a float.
pub(super) fn to_f64(value: &Value) -> Result<Option<f64>> {
    Ok(match value {
        Value::Float(float) => Some(*float),
        Value::Big(big) => match big.to_f64() {
            Some(float) if float.is_finite() => Some(float),
            _ => return Err(overflow_error("int too large to convert to float")),
        },
        _ => value.as_i64().map(|int| int as f64),
    })
}

/// The i64 that equals the value.
pub(super) fn to_i64_exactly(value: &Value) -> Option<i64> {
    match value {
        Value::Float(float) => {
            let int = *float as i64;
            (float.trunc() == *float && float.abs() < 9.3e18 && int as f64 == *float && int != i64::MAX)
                .then_some(int)
        }
        _ => value.as_i64(),
    }
}

/// The float that equals the integer.
pub(super) fn to_f64_exactly(value: &BigInt) -> Option<f64> {
    let float = value.to_f64().filter(|float| float.is_finite())?;
    (BigInt::from_f64(float).as_ref() == Some(value)).then_some(float)
}

/// None: not two numbers; Some(None): NaN is among them.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return Some(Some(a.cmp(&b)));
    }
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => Some(a.partial_cmp(b)),
        (Value::Float(a), _) => Some(compare_float(&to_big(b)?, *a).map(Ordering::reverse)),
        (_, Value::Float(b)) => Some(compare_float(&to_big(a)?, *b)),
        _ => Some(Some(to_big(a)?.cmp(&to_big(b)?))),
    }
}

fn compare_float(int: &BigInt, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    let Some(whole) = BigInt::from_f64(float.trunc()) else {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    };
    Some(int.cmp(&whole).then(if float.fract() > 0.0 {
        Ordering::Less
    } else if float.fract() < 0.0 {
        Ordering::Greater
    } else {
        Ordering::Equal
    }))
}

/// Big integers as a fraction's float, rounded once.
/// Of two numbers that are not negative.
fn divide(x: &BigInt, y: &BigInt) -> Result<f64> {
    if y.is_zero() {
        return Err(zero_division("division by zero"));
    }
    // A quotient of 66 bits and more, the last of which stands for all that is cut off.
    let shift = 66 + y.bits() as i64 - x.bits() as i64;
    let (x, y) = if shift >= 0 { (x << shift, y.clone()) } else { (x.clone(), y << -shift) };
    let mut quotient = &x / &y;
    if !(&x % &y).is_zero() {
        quotient.set_bit(0, true);
    }
    let float = quotient.to_f64().unwrap_or(f64::INFINITY);
    let half = (-shift / 2) as i32;
    let scaled = float * 2f64.powi(half) * 2f64.powi((-shift) as i32 - half);
    if scaled.is_infinite() {
        return Err(overflow_error("integer division result too large for a float"));
    }
    Ok(scaled)
}

/// float.hex()
pub(super) fn float_hex(value: f64) -> String {
    if !value.is_finite() {
        return float_repr(value);
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let bits = value.to_bits();
    let (mantissa, exponent) = (bits & ((1 << 52) - 1), (bits >> 52 & 0x7ff) as i32);
    match (exponent, mantissa) {
        (0, 0) => format!("{sign}0x0.0p+0"),
        (0, _) => format!("{sign}0x0.{mantissa:013x}p-1022"),
        _ => format!("{sign}0x1.{mantissa:013x}p{:+}", exponent - 1023),
    }
}

/// float.as_integer_ratio()
pub(super) fn ratio(rt: &Rt, value: f64) -> Result<(Value, Value)> {
    if !value.is_finite() {
        return Err(value_error("cannot convert NaN or infinity to integer ratio"));
    }
    let (mut numerator, mut halvings) = (value, 0u32);
    while numerator.fract() != 0.0 {
        numerator *= 2.0;
        halvings += 1;
    }
    Ok((truncate(rt, numerator)?, Value::integer(rt, BigInt::one() << halvings)?))
}

/// `a op b` of numbers. None: one of them is none.
pub(super) fn binary(rt: &Rt, op: Op, a: &Value, b: &Value) -> Result<Option<Value>> {
    if let (Some(x), Some(y)) = (a.as_i64(), b.as_i64()) {
        let fast = match op {
            Op::Add => x.checked_add(y),
            Op::Sub => x.checked_sub(y),
            Op::Mul => x.checked_mul(y),
            Op::FloorDiv if y != 0 => x.checked_div_euclid(y).map(|q| {
                // div_euclid rounds so that the rest is positive; Python rounds down.
                if y < 0 && x.rem_euclid(y) != 0 { q - 1 } else { q }
            }),
            Op::Mod if y != 0 => {
                x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r })
            }
            _ => None,
        };
        if let Some(int) = fast {
            return Ok(Some(Value::Int(int)));
        }
    }
    match (to_big(a), to_big(b)) {
        (Some(x), Some(y)) if op != Op::Div => integers(rt, op, x, y).map(Some),
        (Some(x), Some(y)) if x.bits() > 53 || y.bits() > 53 => {
            rt.step((x.bits() / 64 + 1) * (y.bits() / 64 + 1))?;
            if x.is_zero() && !y.is_zero() {
                return Ok(Some(Value::Float(if y.is_negative() { -0.0 } else { 0.0 })));
            }
            let size = divide(&x.abs(), &y.abs())?;
            let float = if x.is_negative() != y.is_negative() { -size } else { size };
            Ok(Some(Value::Float(float)))
        }
        _ => match (to_f64(a)?, to_f64(b)?) {
            (Some(x), Some(y)) => floats(op, x, y).map(|float| Some(Value::Float(float))),
            _ => Ok(None),
        },
    }
}

fn integers(rt: &Rt, op: Op, x: BigInt, y: BigInt) -> Result<Value> {
    rt.step((x.bits().max(64) / 64) * (y.bits().max(64) / 64))?;
    let value = match op {
        Op::Add => x + y,
        Op::Sub => x - y,
        Op::Mul => x * y,
        Op::FloorDiv | Op::Mod => {
            if y.is_zero() {
                return Err(zero_division("integer division or modulo by zero"));
            }
            let (mut quotient, mut rest) = (&x / &y, &x % &y);
            if !rest.is_zero() && rest.is_negative() != y.is_negative() {
                quotient -= 1;
                rest += &y;
            }
            if op == Op::Mod { rest } else { quotient }
        }
        Op::Div => unreachable!("division of integers gives a float"),
        Op::Pow if y.is_negative() => {
            let (Some(x), Some(y)) = (x.to_f64(), y.to_f64()) else {
                return Err(overflow_error("int too large to convert to float"));
            };
            return floats(Op::Pow, x, y).map(Value::Float);
        }
        Op::Pow => {
            if x.is_zero() || x.is_one() {
                return Value::integer(rt, if y.is_zero() { BigInt::one() } else { x });
            }
            let exponent = y.to_u64().unwrap_or(u64::MAX);
            if x == BigInt::from(-1) {
                return Ok(Value::Int(if y.bit(0) { -1 } else { 1 }));
            }
            let bits = x.bits().saturating_mul(exponent);
            check_bits(bits)?;
            rt.step((bits / 64).pow(2) / 16)?;
            x.pow(exponent)
        }
    };
    Value::integer(rt, value)
}

fn floats(op: Op, x: f64, y: f64) -> Result<f64> {
    Ok(match op {
        Op::Add => x + y,
        Op::Sub => x - y,
        Op::Mul => x * y,
        Op::Div if y == 0.0 => return Err(zero_division("division by zero")),
        Op::Div => x / y,
        Op::FloorDiv | Op::Mod => {
            if y == 0.0 {
                return Err(zero_division("float floor division by zero"));
            }
            let mut rest = x % y;
            let mut quotient = (x - rest) / y;
            if rest == 0.0 {
                rest = 0f64.copysign(y);
            } else if (rest < 0.0) != (y < 0.0) {
                rest += y;
                quotient -= 1.0;
            }
            if op == Op::Mod {
                return Ok(rest);
            }
            if quotient == 0.0 {
                0f64.copysign(x / y)
            } else {
                let floor = quotient.floor();
                if quotient - floor > 0.5 { floor + 1.0 } else { floor }
            }
        }
        Op::Pow => {
            if x == 0.0 && y < 0.0 {
                return Err(zero_division("0.0 cannot be raised to a negative power"));
            }
            if x < 0.0 && x.is_finite() && y.is_finite() && y.fract() != 0.0 {
                return Err(value_error(
                    "a power of a negative number is complex: complex numbers are not supported",
                ));
            }
            let power = x.powf(y);
            if power.is_infinite() && x.is_finite() && y.is_finite() {
                return Err(overflow_error("(34, 'Numerical result out of range')"));
            }
            power
        }
    })
}

/// About how many digits the float has before its point.
pub(super) fn whole_digits(value: f64) -> u64 {
    value.abs().clamp(1.0, f64::MAX).log10() as u64
}

/// A number with an exponent, written without one and with a point.
fn plain(scientific: &str) -> Option<String> {
    let (mantissa, exponent) = scientific.split_once('e')?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let exponent: i32 = exponent.parse().ok()?;
    let digits = mantissa.replace('.', "");
    let before = usize::try_from(exponent.max(0)).ok()? + 1;
    let zeros = "0".repeat(usize::try_from((-exponent).max(0)).ok()?);
    let digits = format!("{zeros}{digits:0<before$}");
    let (whole, fraction) = digits.split_at(before);
    Some(format!("{sign}{whole}.{}", if fraction.is_empty() { "0" } else { fraction }))
}

/// A float as str() and repr() write it.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Of two shortest spellings equally near Python writes the even one, which the exact digits round to.
    let shortest = format!("{value:e}");
    let digits = shortest.bytes().take_while(|&byte| byte != b'e').filter(u8::is_ascii_digit).count();
    let exact = format!("{value:.*e}", digits.saturating_sub(1));
    let scientific = if exact.parse() == Ok(value) { exact } else { shortest };
    if let Some((mantissa, exponent)) = scientific.split_once('e')
        && let Ok(exponent) = exponent.parse::<i32>()
        && !(-4..16).contains(&exponent)
    {
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    plain(&scientific).unwrap_or_else(|| format!("{value:?}"))
}

/// An integer's decimal digits.
pub(super) fn int_text(value: &BigInt) -> Result<String> {
    // One digit of doubt is cleared below.
    let digits = (value.bits() as f64 * std::f64::consts::LOG10_2) as usize;
    let text = if digits <= MAX_DIGITS { value.to_string() } else { String::new() };
    if text.is_empty() || text.trim_start_matches('-').len() > MAX_DIGITS {
        return Err(value_error(format!(
            "Exceeds the limit ({MAX_DIGITS} digits) for integer string conversion; use sys.set_int_max_str_digits() to increase the limit"
        )));
    }
    Ok(text)
}

/// Digits without their underscores, which stand singly between digits; None where they do not.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'_' {
            let around = [i.checked_sub(1).and_then(|i| bytes.get(i)), bytes.get(i + 1)];
            if !around.iter().all(|byte| byte.is_some_and(u8::is_ascii_alphanumeric)) {
                return None;
            }
        }
    }
    Some(text.chars().filter(|&c| c != '_').collect())
}

/// Python's int(text, base).
pub(super) fn parse_int(rt: &Rt, text: &str, base: i64) -> Result<Option<Value>> {
    if base != 0 && !(2..=36).contains(&base) {
        return Err(value_error("int() base must be >= 2 and <= 36, or 0"));
    }
    rt.work(text.len())?;
    let text = text.trim_matches(super::text::is_space);
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let prefix = match &*lower {
        "0x" => 16,
        "0o" => 8,
        "0b" => 2,
        _ => 0,
    };
    let (base, digits) = if prefix != 0 && (base == 0 || base == prefix) {
        let rest = &digits[2..];
        (prefix, rest.strip_prefix('_').unwrap_or(rest))
    } else if base == 0 {
        if digits.starts_with('0') && digits.bytes().any(|byte| byte != b'0' && byte != b'_') {
            return Ok(None);
        }
        (10, digits)
    } else {
        (base, digits)
    };
    if !digits.starts_with(|c: char| c.is_alphanumeric()) {
        return Ok(None);
    }
    if digits.len() > 2 * MAX_DIGITS {
        return Err(value_error(format!(
            "Exceeds the limit ({MAX_DIGITS} digits) for integer string conversion"
        )));
    }
    // A digit of another script is looked for among all.
    rt.step(if digits.is_ascii() { digits.len() / 4 } else { 8 * digits.len() } as u64)?;
    let Some(digits) = without_underscores(digits) else { return Ok(None) };
    let ascii: Option<String> = digits.chars().map(decimal_digit).collect();
    let Some(digits) = ascii else { return Ok(None) };
    let Ok(value) = BigInt::from_str_radix(&digits, base as u32) else { return Ok(None) };
    Value::integer(rt, if negative { -value } else { value }).map(Some)
}

/// A character as int() reads it: decimal digits of other scripts count as ASCII's.
fn decimal_digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return Some(c);
    }
    if !super::unicode::is_decimal(c) {
        return None;
    }
    // Each script's ten digits stand in a row, and the row's first character has no digit before it.
    let zero = (0..10).rev().find(|back| {
        char::from_u32(c as u32 - back).is_some_and(super::unicode::is_decimal)
            && !char::from_u32(c as u32 - back - 1).is_some_and(super::unicode::is_decimal)
    })?;
    char::from_digit(zero, 10)
}

/// Python's float(text).
pub(super) fn parse_float(rt: &Rt, text: &str) -> Result<Option<f64>> {
    rt.work(text.len().saturating_mul(4))?;
    Ok(float_of(text))
}

fn float_of(text: &str) -> Option<f64> {
    let text = without_underscores(text.trim_matches(super::text::is_space))?;
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let named = ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    if !named && !unsigned.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte)) {
        return None;
    }
    text.parse().ok()
}

/// Python's int(float).
pub(super) fn truncate(rt: &Rt, value: f64) -> Result<Value> {
    if value.is_nan() {
        return Err(value_error("cannot convert float NaN to integer"));
    }
    match BigInt::from_f64(value.trunc()) {
        Some(big) => Value::integer(rt, big),
        None => Err(overflow_error("cannot convert float infinity to integer")),
    }
}

/// Python's round(value, digits): to even where both are as near.
pub(super) fn round(rt: &Rt, value: &Value, digits: i64) -> Result<Option<Value>> {
    rt.step(digits.unsigned_abs().min(MAX_DIGITS as u64) / 4)?;
    if let Value::Float(float) = value {
        rt.step(whole_digits(*float) / 4)?;
        let rounded = if !float.is_finite() || digits > 323 {
            *float
        } else if digits >= 0 {
            format!("{float:.*}", digits as usize).parse().unwrap_or(*float)
        } else if digits < -308 {
            0f64.copysign(*float)
        } else {
            let unit = 10f64.powi(-digits as i32);
            (float / unit).round_ties_even() * unit
        };
        return Ok(Some(Value::Float(rounded)));
    }
    let Some(big) = to_big(value) else { return Ok(None) };
    if digits >= 0 {
        return Value::integer(rt, big).map(Some);
    }
    if digits < -(MAX_DIGITS as i64) {
        return Ok(Some(Value::Int(0)));
    }
    let unit = BigInt::from(10).pow((-digits) as u64);
    let rest = ((&big % &unit) + &unit) % &unit;
    let down = &big - &rest;
    let order = (&rest * 2u8).cmp(&unit);
    let odd = ((&down / &unit) % 2u8) != BigInt::zero();
    let up = order.is_gt() || (order.is_eq() && odd);
    Value::integer(rt, if up { down + unit } else { down }).map(Some)
}

/// `-value`.
pub(super) fn negate(rt: &Rt, value: &Value) -> Result<Option<Value>> {
    match value {
        Value::Float(float) => Ok(Some(Value::Float(-float))),
        _ => to_big(value).map(|big| Value::integer(rt, -big)).transpose(),
    }
}

pub(super) fn is_negative(value: &BigInt) -> bool {
    value.sign() == Sign::Minus
}
