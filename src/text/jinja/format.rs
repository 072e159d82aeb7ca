//! `'%s' % value`, `'{}'.format(value)` and the formats of numbers.

use num_bigint::BigInt;
use num_traits::Signed;

use super::access;
use super::call::Args;
use super::fault::{Result, lookup_error, overflow_error, type_error, value_error};
use super::interpreter::Interpreter;
use super::markup;
use super::meter::Rt;
use super::number;
use super::repr;
use super::text::{Builder, Str};
use super::value::Value;

/// Digits behind the point.
const MAX_PRECISION: usize = 4300;

/// Width, padding and the like, of either kind of format.
struct Spec {
    fill: char,
    /// `<`, `>`, `^`, `=`; None: as the type has it.
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            fill: ' ',
            align: None,
            sign: None,
            alternate: false,
            width: 0,
            grouping: None,
            precision: None,
            kind: None,
        }
    }
}

/// Decimal digits at the start of `text`.
fn leading_number(text: &mut &str, what: &str) -> Result<Option<usize>> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(len);
    *text = rest;
    if len == 0 {
        return Ok(None);
    }
    match digits.parse::<usize>() {
        Ok(value) if value <= i64::MAX as usize => Ok(Some(value)),
        _ => Err(value_error(format!("{what} too big: too large"))),
    }
}

/// `text % args`
pub(super) fn percent(rt: &Rt, text: &Str, args: &Value) -> Result<Str> {
    rt.work(text.len())?;
    let mut out = Builder::with_capacity(rt, text.len())?;
    let source = text.as_str();
    let mut next = 0;
    let mut at = 0;
    let mut take = || -> Result<Value> {
        next += 1;
        match args {
            Value::Tuple(list) => list.items.get(next - 1).cloned(),
            _ => (next == 1).then(|| args.clone()),
        }
        .ok_or_else(|| type_error("not enough arguments for format string"))
    };
    while let Some(found) = source[at..].find('%').map(|found| at + found) {
        rt.step(1)?;
        out.push_part(text, at..found)?;
        let mut rest = &source[found + 1..];
        let mut named = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let mut depth = 1;
            let end = inner.char_indices().find(|&(_, c)| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let Some((end, _)) = end else { return Err(value_error("incomplete format key")) };
            let Value::Dict(dict) = args else { return Err(type_error("format requires a mapping")) };
            let key = &inner[..end];
            let value = dict.get_str(key).cloned();
            named = Some(value.ok_or_else(|| lookup_error(format!("'{key}'")))?);
            rest = &inner[end + 1..];
        }
        let mut spec = Spec::default();
        let mut left = false;
        let mut zero = false;
        while let Some(flag) = rest.chars().next().filter(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => spec.alternate = true,
                '0' => zero = true,
                '-' => left = true,
                ' ' if spec.sign.is_none() => spec.sign = Some(' '),
                '+' => spec.sign = Some('+'),
                _ => {}
            }
            rest = &rest[1..];
        }
        if let Some(after) = rest.strip_prefix('*') {
            rest = after;
            let width = take()?.to_index("* wants int")?;
            left |= width < 0;
            spec.width = width.unsigned_abs() as usize;
        } else {
            spec.width = leading_number(&mut rest, "width")?.unwrap_or(0);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(if let Some(after) = rest.strip_prefix('*') {
                rest = after;
                usize::try_from(take()?.to_index("* wants int")?).unwrap_or(0)
            } else {
                leading_number(&mut rest, "precision")?.unwrap_or(0)
            });
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let Some(kind) = rest.chars().next() else { return Err(value_error("incomplete format")) };
        at = source.len() - rest.len() + kind.len_utf8();
        if kind == '%' {
            out.push("%", false)?;
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => take()?,
        };
        spec.align = Some(if left { '<' } else { '>' });
        if zero && !left && !matches!(kind, 's' | 'r' | 'a' | 'c') {
            spec.fill = '0';
            spec.align = Some('=');
        }
        match kind {
            's' | 'r' | 'a' => {
                let shown = match kind {
                    's' => repr::to_str(rt, &value)?,
                    'r' => repr::to_repr(rt, &value)?,
                    _ => ascii(rt, &value)?,
                };
                let shown = if text.is_safe() { markup::escape_str(rt, &shown)? } else { shown };
                pad_str(&mut out, &shown, &spec, '>')?;
            }
            'c' => {
                let shown = match &value {
                    Value::Str(c) if c.chars() == 1 => c.clone(),
                    Value::Bool(_) | Value::Int(_) => character(rt, value.as_i64().unwrap_or_default())?,
                    _ => return Err(type_error("%c requires int or char")),
                };
                spec.precision = None;
                pad_str(&mut out, &shown, &spec, '>')?;
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let value = match (&value, kind) {
                    (Value::Undefined(missing), _) => return Err(missing.fault(rt)),
                    (Value::Float(float), 'd' | 'i' | 'u') => number::truncate(rt, *float)?,
                    _ => value.clone(),
                };
                let need = if matches!(kind, 'x' | 'X' | 'o') { "an integer" } else { "a real number" };
                let Some(big) = number::to_big(&value) else {
                    return Err(type_error(format!(
                        "%{kind} format: {need} is required, not {}",
                        value.type_name()
                    )));
                };
                let mut digits = radix_digits(rt, &big, kind)?;
                if let Some(precision) = spec.precision.take() {
                    check_precision(precision)?;
                    digits = "0".repeat(precision.saturating_sub(digits.len())) + &digits;
                }
                let prefix = prefix(&spec, kind);
                pad_number(&mut out, number::is_negative(&big), prefix, &digits, &spec, '>')?;
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let Some(float) = number::to_f64(value.defined(rt)?)? else {
                    return Err(type_error(format!("must be real number, not {}", value.type_name())));
                };
                count_digits(rt, float, spec.precision)?;
                let digits = float_digits(float.abs(), kind, spec.precision.unwrap_or(6), spec.alternate)?;
                if !float.is_finite() && spec.fill == '0' {
                    (spec.fill, spec.align) = (' ', Some('>'));
                }
                pad_number(&mut out, is_minus(float), "", &digits, &spec, '>')?;
            }
            _ => {
                return Err(value_error(format!(
                    "unsupported format character '{kind}' (0x{:x}) at index {}",
                    kind as u32,
                    source[..at - kind.len_utf8()].chars().count()
                )));
            }
        }
    }
    out.push_part(text, at..text.len())?;
    let all = match args {
        Value::Tuple(list) => next >= list.items.len(),
        Value::Dict(_) | Value::List(_) | Value::Undefined(_) | Value::Range(_) | Value::Namespace(_) => true,
        _ => next >= 1,
    };
    // Python lets mappings, and what has items, go unused.
    if !all {
        return Err(type_error("not all arguments converted during string formatting"));
    }
    Ok(out.finish_as(text.is_safe()))
}

fn is_minus(value: f64) -> bool {
    value.is_sign_negative() && !value.is_nan()
}

/// A character chosen by number counts as a message's: which one it is is not the template's to say.
fn character(rt: &Rt, code: i64) -> Result<Str> {
    let c = u32::try_from(code)
        .ok()
        .and_then(char::from_u32)
        .ok_or_else(|| overflow_error("%c arg not in range(0x110000)"))?;
    Str::with(rt, c.encode_utf8(&mut [0; 4]), true)
}

/// Python's ascii().
fn ascii(rt: &Rt, value: &Value) -> Result<Str> {
    let text = repr::to_repr(rt, value)?;
    let mut out = Builder::new(rt)?;
    for (c, from) in text.chars_from() {
        match c {
            ' '..='~' => out.push_char(c, from)?,
            '\0'..='\u{ff}' => out.push(&format!("\\x{:02x}", c as u32), from)?,
            '\u{100}'..='\u{ffff}' => out.push(&format!("\\u{:04x}", c as u32), from)?,
            _ => out.push(&format!("\\U{:08x}", c as u32), from)?,
        }
    }
    Ok(out.finish())
}

fn check_precision(precision: usize) -> Result<()> {
    if precision > MAX_PRECISION {
        return Err(value_error(format!("precision too big: too large, {MAX_PRECISION} digits are allowed")));
    }
    Ok(())
}

/// Digits of the number without its sign.
fn radix_digits(rt: &Rt, value: &BigInt, kind: char) -> Result<String> {
    rt.step(value.bits() / 16)?;
    let value = value.abs();
    Ok(match kind {
        'x' => value.to_str_radix(16),
        'X' => value.to_str_radix(16).to_uppercase(),
        'o' => value.to_str_radix(8),
        'b' => value.to_str_radix(2),
        _ => number::int_text(&value)?,
    })
}

fn prefix(spec: &Spec, kind: char) -> &'static str {
    match kind {
        'x' if spec.alternate => "0x",
        'X' if spec.alternate => "0X",
        'o' if spec.alternate => "0o",
        'b' if spec.alternate => "0b",
        _ => "",
    }
}

/// Counts the work of writing a float's digits.
fn count_digits(rt: &Rt, value: f64, precision: Option<usize>) -> Result<()> {
    rt.step(precision.unwrap_or(6).min(MAX_PRECISION) as u64 + number::whole_digits(value))
}

/// A float, not negative, in one of the formats e, f, g.
fn float_digits(value: f64, kind: char, precision: usize, alternate: bool) -> Result<String> {
    check_precision(precision)?;
    let upper = kind.is_ascii_uppercase();
    let mut text = if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{value:.precision$}"),
            'e' => exponent(value, precision),
            _ => general(value, precision.max(1), precision.max(1), alternate),
        }
    };
    if alternate && value.is_finite() && !text.contains('.') {
        let at = text.find('e').unwrap_or(text.len());
        text.insert(at, '.');
    }
    if upper {
        text.make_ascii_uppercase();
    }
    Ok(text)
}

fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        None => text,
    }
}

/// Digits of which the exponent form is used where the point would come behind `most` of them.
fn general(value: f64, precision: usize, most: usize, alternate: bool) -> String {
    let scientific = exponent(value, precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let trim = |text: &str| match text.contains('.') && !alternate {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..most as i64).contains(&power) {
        let digits = (precision as i64 - 1 - power) as usize;
        trim(&format!("{value:.digits$}"))
    } else {
        match scientific.split_once('e') {
            Some((mantissa, power)) => format!("{}e{power}", trim(mantissa)),
            None => scientific,
        }
    }
}

fn pad_str(out: &mut Builder, text: &Str, spec: &Spec, default: char) -> Result<()> {
    let chars = spec.precision.map_or(text.chars(), |most| most.min(text.chars()));
    let end = text.offset(chars);
    let (before, after) = padding(spec.width.saturating_sub(chars), spec.align.unwrap_or(default));
    let mut fill = [0; 4];
    let fill = &*spec.fill.encode_utf8(&mut fill);
    out.repeat(fill, before, false)?;
    out.push_part(text, 0..end)?;
    out.repeat(fill, after, false)
}

fn padding(space: usize, align: char) -> (usize, usize) {
    match align {
        '<' => (0, space),
        '^' => (space / 2, space - space / 2),
        _ => (space, 0),
    }
}

fn pad_number(
    out: &mut Builder,
    negative: bool,
    prefix: &str,
    digits: &str,
    spec: &Spec,
    default: char,
) -> Result<()> {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let align = spec.align.unwrap_or(default);
    let mut digits = digits.to_owned();
    if let Some(separator) = spec.grouping {
        let zeros = if align == '=' && spec.fill == '0' {
            spec.width.saturating_sub(sign.len() + prefix.len())
        } else {
            0
        };
        check_precision(zeros)?;
        let size = if matches!(spec.kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 };
        digits = group(&digits, separator, size, zeros);
    }
    let space = spec.width.saturating_sub(sign.len() + prefix.len() + digits.chars().count());
    let mut fill = [0; 4];
    let fill = &*spec.fill.encode_utf8(&mut fill);
    if align == '=' {
        out.push(sign, false)?;
        out.push(prefix, false)?;
        out.repeat(fill, space, false)?;
        return out.push(&digits, false);
    }
    let (before, after) = padding(space, align);
    out.repeat(fill, before, false)?;
    out.push(sign, false)?;
    out.push(prefix, false)?;
    out.push(&digits, false)?;
    out.repeat(fill, after, false)
}

/// Separators between groups of the whole part's digits, which zeros fill up to `width` characters.
fn group(digits: &str, separator: char, size: usize, width: usize) -> String {
    let whole = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
    let whole = digits[..whole].find(['e', 'E']).filter(|_| size == 3).unwrap_or(whole);
    let (whole, rest) = digits.split_at(whole);
    let mut reversed = String::new();
    let mut n = 0;
    let mut chars = whole.chars().rev();
    loop {
        let c = match chars.next() {
            Some(c) => c,
            None if reversed.len() + rest.len() < width => '0',
            None => break,
        };
        if n > 0 && n % size == 0 {
            reversed.push(separator);
        }
        reversed.push(c);
        n += 1;
    }
    reversed.chars().rev().collect::<String>() + rest
}

/// `numeric`: a zero before the width goes between sign and digits.
fn parse_spec(spec: &str, numeric: bool) -> Result<Spec> {
    let mut out = Spec::default();
    let mut rest = spec;
    let is_align = |c: char| "<>=^".contains(c);
    let mut filled = false;
    let mut chars = rest.chars();
    if let (Some(fill), Some(align)) = (chars.next(), chars.next())
        && is_align(align)
    {
        (out.fill, out.align) = (fill, Some(align));
        filled = true;
        rest = chars.as_str();
    } else if let Some(align) = rest.chars().next().filter(|&c| is_align(c)) {
        out.align = Some(align);
        rest = &rest[1..];
    }
    if let Some(sign) = rest.chars().next().filter(|c| "+- ".contains(*c)) {
        out.sign = Some(sign);
        rest = &rest[1..];
    }
    rest = rest.strip_prefix('z').unwrap_or(rest);
    if let Some(after) = rest.strip_prefix('#') {
        out.alternate = true;
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('0').filter(|_| !filled) {
        out.fill = '0';
        if numeric && out.align.is_none() {
            out.align = Some('=');
        }
        rest = after;
    }
    out.width = leading_number(&mut rest, "width")?.unwrap_or(0);
    if let Some(grouping) = rest.chars().next().filter(|c| ",_".contains(*c)) {
        out.grouping = Some(grouping);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        out.precision = leading_number(&mut rest, "precision")?;
        if out.precision.is_none() {
            return Err(value_error("Format specifier missing precision"));
        }
    }
    let mut chars = rest.chars();
    out.kind = chars.next();
    if !chars.as_str().is_empty() {
        return Err(value_error(format!("Invalid format specifier '{spec}'")));
    }
    Ok(out)
}

/// format(value, spec)
fn format_value(rt: &Rt, out: &mut Builder, value: &Value, spec_text: &Str) -> Result<()> {
    if spec_text.is_empty() {
        return repr::write_str(rt, out, value);
    }
    let spec = parse_spec(spec_text.as_str(), !matches!(value, Value::Str(_)))?;
    let unknown = |kind: char| {
        value_error(format!("Unknown format code '{kind}' for object of type '{}'", value.type_name()))
    };
    if let Some(separator) = spec.grouping {
        let kind = spec.kind.unwrap_or(if matches!(value, Value::Str(_)) { 's' } else { 'd' });
        if matches!(kind, 's' | 'n' | 'c') || separator == ',' && matches!(kind, 'x' | 'X' | 'o' | 'b') {
            return Err(value_error(format!("Cannot specify '{separator}' with '{kind}'.")));
        }
    }
    match value {
        Value::Str(text) => {
            if spec.alternate {
                return Err(value_error("Alternate form (#) not allowed in string format specifier"));
            }
            match spec.kind {
                None | Some('s') => {}
                Some(kind) => return Err(unknown(kind)),
            }
            if spec.align == Some('=') {
                return Err(value_error("'=' alignment not allowed in string format specifier"));
            }
            if spec.sign.is_some() {
                return Err(value_error("Sign not allowed in string format specifier"));
            }
            pad_str(out, text, &spec, '<')
        }
        Value::Bool(_) | Value::Int(_) | Value::Big(_) => match spec.kind {
            None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b') => {
                if spec.precision.is_some() {
                    return Err(value_error("Precision not allowed in integer format specifier"));
                }
                let big = number::to_big(value).unwrap_or_default();
                let kind = spec.kind.unwrap_or('d');
                let digits = radix_digits(rt, &big, kind)?;
                pad_number(out, number::is_negative(&big), prefix(&spec, kind), &digits, &spec, '>')
            }
            Some('c') => {
                if spec.precision.is_some() {
                    return Err(value_error("Precision not allowed in integer format specifier"));
                }
                if spec.sign.is_some() || spec.alternate {
                    return Err(value_error("Sign not allowed with integer format specifier 'c'"));
                }
                let code = value.as_i64().unwrap_or(-1);
                pad_str(out, &character(rt, code)?, &spec, '>')
            }
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => {
                let float = number::to_f64(value)?.unwrap_or_default();
                count_digits(rt, float, spec.precision)?;
                format_float(out, float, &spec)
            }
            Some(kind) => Err(unknown(kind)),
        },
        Value::Float(float) => match spec.kind {
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%') => {
                count_digits(rt, *float, spec.precision)?;
                format_float(out, *float, &spec)
            }
            Some(kind) => Err(unknown(kind)),
        },
        _ => Err(type_error(format!("unsupported format string passed to {}.__format__", value.type_name()))),
    }
}

fn format_float(out: &mut Builder, float: f64, spec: &Spec) -> Result<()> {
    let value = float.abs();
    let precision = spec.precision.unwrap_or(6);
    let digits = match spec.kind {
        Some('%') => float_digits(value * 100.0, 'f', precision, spec.alternate)? + "%",
        Some('n') => float_digits(value, 'g', precision, spec.alternate)?,
        Some(kind) => float_digits(value, kind, precision, spec.alternate)?,
        None => match spec.precision {
            None => number::float_repr(value),
            Some(precision) => {
                check_precision(precision)?;
                let precision = precision.max(1);
                let text = match value.is_finite() {
                    true => general(value, precision, precision - 1, spec.alternate),
                    false => number::float_repr(value),
                };
                let plain = text.bytes().all(|byte| byte.is_ascii_digit());
                if plain { text + ".0" } else { text }
            }
        },
    };
    pad_number(out, is_minus(float), "", &digits, spec, '>')
}

/// How deep formats nest in formats.
const MAX_DEPTH: u32 = 2;

/// str.format()
pub(super) fn str_format(interpreter: &mut Interpreter<'_>, text: &Str, args: &Args) -> Result<Str> {
    let rt = interpreter.rt().clone();
    let mut out = Builder::with_capacity(&rt, text.len())?;
    let mut auto = Some(0);
    format_into(interpreter, &mut out, text, args, &mut auto, MAX_DEPTH)?;
    Ok(out.finish_as(text.is_safe()))
}

/// `auto`: the next field without a number; None where fields have numbers.
fn format_into(
    interpreter: &mut Interpreter<'_>,
    out: &mut Builder,
    text: &Str,
    args: &Args,
    auto: &mut Option<usize>,
    depth: u32,
) -> Result<()> {
    let rt = interpreter.rt().clone();
    let Some(depth) = depth.checked_sub(1) else { return Err(value_error("Max string recursion exceeded")) };
    let source = text.as_str();
    rt.work(source.len())?;
    let mut at = 0;
    while let Some(found) = source[at..].find(['{', '}']).map(|found| at + found) {
        rt.step(1)?;
        out.push_part(text, at..found)?;
        let bracket = &source[found..=found];
        if source[found + 1..].starts_with(bracket) {
            out.push_part(text, found..found + 1)?;
            at = found + 2;
            continue;
        }
        if bracket == "}" {
            return Err(value_error("Single '}' encountered in format string"));
        }
        let mut open = 1;
        let end = source[found + 1..].char_indices().find(|&(_, c)| {
            open += i32::from(c == '{') - i32::from(c == '}');
            open == 0
        });
        let Some((len, _)) = end else { return Err(value_error("expected '}' before end of string")) };
        let (start, end) = (found + 1, found + 1 + len);
        at = end + 1;
        let field = &source[start..end];
        // The name ends at `!` or `:`, which count only outside of [].
        let mut inside = false;
        let name_len = field
            .char_indices()
            .find(|&(_, c)| {
                inside = (inside || c == '[') && c != ']';
                !inside && (c == '!' || c == ':')
            })
            .map_or(field.len(), |(at, _)| at);
        let name = &field[..name_len];
        let mut rest = start + name_len;
        let mut conversion = None;
        if source[rest..end].starts_with('!') {
            conversion = source[rest + 1..end].chars().next();
            if conversion.is_none() {
                return Err(value_error("end of string while looking for conversion specifier"));
            }
            rest += 1 + conversion.map_or(0, char::len_utf8);
            if rest < end && !source[rest..end].starts_with(':') {
                return Err(value_error("expected ':' after conversion specifier"));
            }
        }
        let value = field_value(interpreter, name, args, auto)?;
        let value = match conversion {
            None => value,
            Some('s') => Value::Str(repr::to_str(&rt, &value)?),
            Some('r') => Value::Str(repr::to_repr(&rt, &value)?),
            Some('a') => Value::Str(ascii(&rt, &value)?),
            Some(other) => return Err(value_error(format!("Unknown conversion specifier {other}"))),
        };
        let mut spec = Builder::new(&rt)?;
        if rest < end {
            let inner = text.slice(&rt, rest + 1..end)?;
            format_into(interpreter, &mut spec, &inner, args, auto, depth)?;
        }
        let spec = spec.finish();
        if text.is_safe() {
            let mut shown = Builder::new(&rt)?;
            format_value(&rt, &mut shown, &value, &spec)?;
            let safe = matches!(&value, Value::Str(text) if text.is_safe());
            out.push_str(&markup::escape_str(&rt, &shown.finish_as(safe))?)?;
        } else {
            format_value(&rt, out, &value, &spec)?;
        }
    }
    out.push_part(text, at..text.len())
}

fn field_value(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    args: &Args,
    auto: &mut Option<usize>,
) -> Result<Value> {
    let rt = interpreter.rt().clone();
    rt.work(4 * args.kwargs.len())?;
    let first_len = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(first_len);
    let index = if first.is_empty() {
        let Some(next) = auto else {
            return Err(value_error(
                "cannot switch from manual field specification to automatic field numbering",
            ));
        };
        *next += 1;
        Some(*next - 1)
    } else if first.bytes().all(|byte| byte.is_ascii_digit()) {
        if auto.is_some_and(|next| next > 0) {
            return Err(value_error(
                "cannot switch from automatic field numbering to manual field specification",
            ));
        }
        *auto = None;
        Some(first.parse().unwrap_or(usize::MAX))
    } else {
        None
    };
    let found = match index {
        Some(index) => args.args.get(index).cloned(),
        None => args.kwargs.iter().find(|(key, _)| key.as_str() == first).map(|(_, value)| value.clone()),
    };
    let mut value = found.ok_or_else(|| match index {
        Some(index) => {
            lookup_error(format!("Replacement index {index} out of range for positional args tuple"))
        }
        None => lookup_error(format!("'{first}'")),
    })?;
    while !rest.is_empty() {
        rt.step(1)?;
        if let Some(after) = rest.strip_prefix('.') {
            let len = after.find(['.', '[']).unwrap_or(after.len());
            if len == 0 {
                return Err(value_error("Empty attribute in format string"));
            }
            value = access::getattr(interpreter, &value, &Str::new(&rt, &after[..len])?)?;
            rest = &after[len..];
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some(len) = after.find(']') else { return Err(value_error("Missing ']' in format string")) };
            let key = &after[..len];
            let key = match key.parse::<i64>() {
                Ok(index) if key.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(index),
                _ if key.is_empty() => return Err(value_error("Empty attribute in format string")),
                _ => Value::str(&rt, key)?,
            };
            value = access::getitem(interpreter, &value, &key)?;
            rest = &after[len + 1..];
        } else {
            return Err(value_error("Only '.' or '[' may follow ']' in format field specifier"));
        }
    }
    Ok(value)
}
