//! strftime_now: the time as Python's datetime.now().strftime() writes it on Linux in the C locale.

use std::fmt::Write as _;

use chrono::{Datelike, NaiveDateTime, Timelike};

use super::fault::{Result, value_error};
use super::meter::Rt;
use super::text::{Builder, Str};

/// Bytes of a format.
const MAX_FORMAT: usize = 4 << 10;
/// Columns that a directive may ask for.
const MAX_WIDTH: usize = 1024;

/// How a directive's text is padded and cased.
#[derive(Clone, Copy, Default)]
struct Flags {
    /// `_`, `-` or `0`
    pad: Option<char>,
    upper: bool,
    swap: bool,
    width: Option<usize>,
}

pub(super) fn strftime(rt: &Rt, format: &Str, now: Option<NaiveDateTime>) -> Result<Str> {
    if format.len() > MAX_FORMAT {
        return Err(value_error(format!("strftime_now: the format is longer than {MAX_FORMAT} bytes")));
    }
    let now = now.unwrap_or_else(|| chrono::Local::now().naive_local());
    let mut out = Builder::new(rt)?;
    write(rt, &mut out, format.as_str(), format.tainted(), now)?;
    Ok(out.finish())
}

fn write(rt: &Rt, out: &mut Builder, format: &str, tainted: bool, now: NaiveDateTime) -> Result<()> {
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        rt.step(16)?;
        out.push(&rest[..at], tainted)?;
        let directive = &rest[at..];
        let mut chars = directive[1..].chars();
        let mut flags = Flags::default();
        let mut next = chars.next();
        while let Some(flag) = next.filter(|c| "_-0^#".contains(*c)) {
            match flag {
                '^' => flags.upper = true,
                '#' => flags.swap = true,
                _ => flags.pad = Some(flag),
            }
            next = chars.next();
        }
        while let Some(digit) = next.and_then(|c| c.to_digit(10)) {
            let width = flags.width.unwrap_or(0) * 10 + digit as usize;
            if width > MAX_WIDTH {
                return Err(value_error(format!("strftime_now: a width is over {MAX_WIDTH}")));
            }
            flags.width = Some(width);
            next = chars.next();
        }
        if let Some('E' | 'O') = next {
            next = chars.next();
        }
        let done = match next {
            Some(c) => one(out, c, flags, now)?,
            None => false,
        };
        let used = directive.len() - chars.as_str().len();
        if !done {
            // What it does not know stays as it is.
            out.push(&directive[..used], tainted)?;
        }
        rest = &directive[used..];
    }
    out.push(rest, tainted)
}

/// Writes a directive's text; false: there is no such directive.
fn one(out: &mut Builder, directive: char, flags: Flags, now: NaiveDateTime) -> Result<bool> {
    let (weekday, month) = (now.format("%A").to_string(), now.format("%B").to_string());
    let hour12 = if now.hour().is_multiple_of(12) { 12 } else { now.hour() % 12 };
    let (week, sunday) = (now.iso_week(), now.weekday().num_days_from_sunday());
    let monday = now.weekday().num_days_from_monday();
    // The number, its digits at least, what pads them.
    let (value, width, pad): (i64, usize, char) = match directive {
        'C' => (i64::from(now.year().div_euclid(100)), 2, '0'),
        'd' => (i64::from(now.day()), 2, '0'),
        'e' => (i64::from(now.day()), 2, ' '),
        'f' => (i64::from(now.nanosecond() / 1000), 6, '0'),
        'g' => (i64::from(week.year().rem_euclid(100)), 2, '0'),
        'G' => (i64::from(week.year()), 1, '0'),
        'H' => (i64::from(now.hour()), 2, '0'),
        'I' => (i64::from(hour12), 2, '0'),
        'j' => (i64::from(now.ordinal()), 3, '0'),
        'k' => (i64::from(now.hour()), 2, ' '),
        'l' => (i64::from(hour12), 2, ' '),
        'm' => (i64::from(now.month()), 2, '0'),
        'M' => (i64::from(now.minute()), 2, '0'),
        's' => (now.and_local_timezone(chrono::Local).earliest().map_or(0, |time| time.timestamp()), 1, '0'),
        'S' => (i64::from(now.second()), 2, '0'),
        'u' => (i64::from(monday + 1), 1, '0'),
        'U' => (i64::from((now.ordinal0() + 7 - sunday) / 7), 2, '0'),
        'V' => (i64::from(week.week()), 2, '0'),
        'w' => (i64::from(sunday), 1, '0'),
        'W' => (i64::from((now.ordinal0() + 7 - monday) / 7), 2, '0'),
        'y' => (i64::from(now.year().rem_euclid(100)), 2, '0'),
        'Y' => (i64::from(now.year()), 1, '0'),
        _ => return words(out, directive, flags, now, &weekday, &month),
    };
    let pad = match flags.pad {
        Some('_') => ' ',
        Some('0') => '0',
        Some(_) => return out.push(&value.to_string(), false).map(|()| true),
        None => pad,
    };
    let digits = value.to_string();
    let space = flags.width.unwrap_or(width).saturating_sub(digits.len());
    out.repeat(if pad == '0' { "0" } else { " " }, space, false)?;
    out.push(&digits, false)?;
    Ok(true)
}

/// Names, compounds and signs.
fn words(
    out: &mut Builder,
    directive: char,
    mut flags: Flags,
    now: NaiveDateTime,
    weekday: &str,
    month: &str,
) -> Result<bool> {
    let mut text = String::new();
    let mut compound = |format: &str| write!(text, "{}", now.format(format)).is_ok();
    match directive {
        'a' => text.push_str(&weekday[..3]),
        'A' => text.push_str(weekday),
        'b' | 'h' => text.push_str(&month[..3]),
        'B' => text.push_str(month),
        'p' => text.push_str(if now.hour() < 12 { "AM" } else { "PM" }),
        'P' => text.push_str(if now.hour() < 12 { "am" } else { "pm" }),
        'n' => text.push('\n'),
        't' => text.push('\t'),
        '%' => text.push('%'),
        // The time has no zone.
        'z' | 'Z' => {}
        'c' => drop(compound("%a %b %e %H:%M:%S %Y")),
        'D' | 'x' => drop(compound("%m/%d/%y")),
        'F' => drop(compound("%Y-%m-%d")),
        'r' => drop(compound("%I:%M:%S %p")),
        'R' => drop(compound("%H:%M")),
        'T' | 'X' => drop(compound("%H:%M:%S")),
        _ => return Ok(false),
    }
    // `#` turns names to capitals, but AM and PM to small letters.
    if flags.swap && directive == 'p' {
        text.make_ascii_lowercase();
    } else {
        flags.upper |= flags.swap && matches!(directive, 'a' | 'A' | 'b' | 'B' | 'h');
        if flags.upper {
            text.make_ascii_uppercase();
        }
    }
    let space = flags.width.unwrap_or(0).saturating_sub(text.len());
    out.repeat(if flags.pad == Some('0') { "0" } else { " " }, space, false)?;
    out.push(&text, false)?;
    Ok(true)
}
