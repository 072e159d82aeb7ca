//! strftime_now: the time as Python's datetime.now().strftime() writes it in the C locale.

use std::fmt::Write as _;

use chrono::NaiveDateTime;
use chrono::format::{DelayedFormat, Fixed, Item, StrftimeItems};

use super::fault::{Result, value_error};
use super::meter::Rt;
use super::text::{Builder, Str};

/// Bytes that one directive may write.
const MAX_FORMAT: usize = 4 << 10;

pub(super) fn strftime(rt: &Rt, format: &Str, now: Option<NaiveDateTime>) -> Result<Str> {
    if format.len() > MAX_FORMAT {
        return Err(value_error(format!("strftime_now: the format is longer than {MAX_FORMAT} bytes")));
    }
    let now = now.unwrap_or_else(|| chrono::Local::now().naive_local());
    // Python has microseconds where chrono has nanoseconds, and knows no zone of this time.
    let format_text = respell(format.as_str(), now);
    let mut text = String::new();
    for item in StrftimeItems::new(&format_text) {
        let bad = || value_error(format!("strftime_now: bad format {:?}", format.as_str()));
        match item {
            Item::Error => return Err(bad()),
            Item::Fixed(
                Fixed::TimezoneName
                | Fixed::TimezoneOffset
                | Fixed::TimezoneOffsetColon
                | Fixed::TimezoneOffsetDoubleColon
                | Fixed::TimezoneOffsetTripleColon
                | Fixed::TimezoneOffsetColonZ
                | Fixed::TimezoneOffsetZ,
            ) => {}
            item => write!(
                text,
                "{}",
                DelayedFormat::new(Some(now.date()), Some(now.time()), std::iter::once(item))
            )
            .map_err(|_| bad())?,
        }
    }
    let mut out = Builder::new(rt)?;
    out.push(&text, format.tainted())?;
    Ok(out.finish())
}

fn respell(format: &str, now: NaiveDateTime) -> String {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('f') => {
                let _ = write!(out, "{:06}", now.and_utc().timestamp_subsec_micros());
            }
            Some(c) => out.extend(['%', c]),
            None => out.push_str("%%"),
        }
    }
    out
}
