//! Methods of Python's types.

use std::ops::Range;
use std::rc::Rc;

use super::access;
use super::call::{Args, Bound, Builtin, count};
use super::dict::DictBuilder;
use super::fault::{Result, lookup_error, runtime_error, type_error, value_error};
use super::format;
use super::interpreter::Interpreter;
use super::markup;
use super::meter::Rt;
use super::number;
use super::text::{Builder, Str, is_line_end, is_space};
use super::unicode;
use super::value::{List, ListBuilder, Of, Value, need_str};

const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Whether the value's type has such a method, one that changes nothing.
pub(super) fn exists(owner: &Value, name: &str) -> bool {
    match owner {
        Value::Str(_) => STR.contains(&name),
        Value::List(_) => matches!(name, "copy" | "count" | "index"),
        Value::Tuple(_) | Value::Range(_) => matches!(name, "count" | "index"),
        Value::Dict(_) => matches!(name, "copy" | "fromkeys" | "get" | "items" | "keys" | "values"),
        Value::Bool(_) | Value::Int(_) | Value::Big(_) => {
            matches!(name, "bit_length" | "bit_count" | "conjugate" | "as_integer_ratio")
        }
        Value::Float(_) => matches!(name, "is_integer" | "conjugate" | "hex" | "as_integer_ratio"),
        Value::Builtin(Builtin::Dict) => name == "fromkeys",
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        _ => false,
    }
}

#[inline(never)]
pub(super) fn call(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    name: &str,
    args: Args,
) -> Result<Value> {
    let rt = interpreter.rt().clone();
    rt.step(1)?;
    // Most of these take their arguments by position only.
    let named = match owner {
        Value::Str(_) => {
            matches!(name, "split" | "rsplit" | "splitlines" | "expandtabs" | "format" | "format_map")
        }
        _ => false,
    };
    if !named && !args.kwargs.is_empty() {
        return Err(type_error(format!("{}.{name}() takes no keyword arguments", owner.type_name())));
    }
    match owner {
        Value::Str(text) => {
            let value = match name {
                "format" => return format::str_format(interpreter, text, &args).map(Value::Str),
                "format_map" => {
                    let mut bound = args.bind(name, ["mapping"], 1)?;
                    let Some(Value::Dict(dict)) = bound.take(0) else {
                        return Err(type_error("format_map() takes a mapping"));
                    };
                    rt.step(dict.len() as u64)?;
                    let mut args = Args::default();
                    for (key, value) in dict.entries() {
                        if let Value::Str(key) = key {
                            args.kwargs.push((key.clone(), value.clone()));
                        }
                    }
                    return format::str_format(interpreter, text, &args).map(Value::Str);
                }
                _ => str_method(&rt, text, name, args)?,
            };
            // Markup's methods give Markup.
            match value {
                Value::Str(result) if text.is_safe() => Ok(Value::Str(result.set_safe(&rt, true)?)),
                Value::List(list) if text.is_safe() => Ok(Value::List(safe_items(&rt, &list)?)),
                Value::Tuple(list) if text.is_safe() => Ok(Value::Tuple(safe_items(&rt, &list)?)),
                value => Ok(value),
            }
        }
        Value::List(list) | Value::Tuple(list) => match name {
            "copy" => Ok(owner.clone()),
            "count" => {
                let mut bound = args.bind(name, ["value"], 1)?;
                let wanted = bound.take(0).unwrap_or(Value::None);
                let mut n = 0;
                for item in &list.items {
                    n += i64::from(item.same(&wanted) || item.equals(&rt, &wanted)?);
                }
                Ok(Value::Int(n))
            }
            _ => {
                let mut bound = args.bind(name, ["value", "start", "stop"], 1)?;
                let wanted = bound.take(0).unwrap_or(Value::None);
                let range = clip(&rt, &bound, 1, list.items.len())?;
                for at in range {
                    if list.items[at].same(&wanted) || list.items[at].equals(&rt, &wanted)? {
                        return Ok(Value::Int(at as i64));
                    }
                }
                let shown = super::repr::short(&rt, &wanted);
                Err(value_error(match owner {
                    Value::List(_) => format!("{shown} is not in list"),
                    _ => "tuple.index(x): x not in tuple".to_owned(),
                }))
            }
        },
        Value::Range(range) => {
            let mut bound = args.bind(name, ["value"], 1)?;
            let wanted = bound.take(0).unwrap_or(Value::None);
            let inside = owner.contains(&rt, &wanted)?;
            match (name, number::to_i64_exactly(&wanted)) {
                ("count", _) => Ok(Value::Int(i64::from(inside))),
                (_, Some(value)) if inside => {
                    let index = (i128::from(value) - i128::from(range.start)) / i128::from(range.step);
                    Ok(Value::Int(index as i64))
                }
                _ => Err(value_error(format!("{} is not in range", super::repr::short(&rt, &wanted)))),
            }
        }
        Value::Dict(dict) => match name {
            "get" => {
                let mut bound = args.bind(name, ["key", "default"], 1)?;
                let key = bound.take(0).unwrap_or(Value::None);
                Ok(match dict.get(&rt, &key)? {
                    Some(value) => value.clone(),
                    None => bound.take(1).unwrap_or(Value::None),
                })
            }
            "fromkeys" => from_keys(&rt, args),
            _ => {
                args.bind::<0>(name, [], 0)?;
                match name {
                    "items" => Value::view(&rt, dict, Of::Items),
                    "keys" => Value::view(&rt, dict, Of::Keys),
                    "values" => Value::view(&rt, dict, Of::Values),
                    _ => Ok(owner.clone()),
                }
            }
        },
        Value::Bool(_) | Value::Int(_) | Value::Big(_) => {
            args.bind::<0>(name, [], 0)?;
            let big = number::to_big(owner).unwrap_or_default();
            match name {
                "bit_length" => Ok(Value::Int(big.bits() as i64)),
                "bit_count" => {
                    Ok(Value::Int(big.iter_u64_digits().map(|digit| i64::from(digit.count_ones())).sum()))
                }
                "as_integer_ratio" => Value::tuple(&rt, [Value::integer(&rt, big)?, Value::Int(1)]),
                _ => Value::integer(&rt, big),
            }
        }
        Value::Builtin(_) => from_keys(&rt, args),
        Value::Float(value) => {
            args.bind::<0>(name, [], 0)?;
            match name {
                "is_integer" => Ok(Value::Bool(value.fract() == 0.0)),
                "hex" => Value::str(&rt, &number::float_hex(*value)),
                "as_integer_ratio" => {
                    let (numerator, denominator) = number::ratio(&rt, *value)?;
                    Value::tuple(&rt, [numerator, denominator])
                }
                _ => Ok(owner.clone()),
            }
        }
        Value::Loop(context) => match name {
            "cycle" => context.cycle(&args.unnamed(name)?),
            _ => {
                let values = Value::tuple(&rt, args.unnamed(name)?)?;
                context.has_changed(&rt, values).map(Value::Bool)
            }
        },
        Value::Cycler(cycler) => {
            args.bind::<0>(name, [], 0)?;
            let at = cycler.at.get();
            cycler.at.set(if name == "next" { (at + 1) % cycler.items.items.len() } else { 0 });
            Ok(if name == "next" { cycler.items.items[at].clone() } else { Value::None })
        }
        _ => Err(type_error(format!("'{}' object has no method '{name}'", owner.type_name()))),
    }
}

/// dict.fromkeys()
fn from_keys(rt: &Rt, args: Args) -> Result<Value> {
    let mut bound = args.bind("fromkeys", ["iterable", "value"], 1)?;
    let keys = bound.take(0).unwrap_or(Value::None);
    let value = bound.take(1).unwrap_or(Value::None);
    let mut dict = DictBuilder::new(rt)?;
    let mut source = keys.iterate()?;
    while let Some(key) = source.next(rt)? {
        dict.insert(rt, key, value.clone())?;
    }
    Ok(Value::Dict(dict.finish()?))
}

fn safe_items(rt: &Rt, list: &List) -> Result<Rc<List>> {
    let mut out = ListBuilder::with_capacity(rt, list.items.len())?;
    for item in &list.items {
        out.push(match item {
            Value::Str(text) => Value::Str(text.set_safe(rt, true)?),
            other => other.clone(),
        })?;
    }
    out.finish()
}

/// The items from argument `at` to the one behind it, as slices count them.
fn clip<const N: usize>(rt: &Rt, bound: &Bound<N>, at: usize, len: usize) -> Result<Range<usize>> {
    let index = |at: usize, default: usize| -> Result<usize> {
        match &bound.0[at] {
            None | Some(Value::None) => Ok(default),
            Some(value) => {
                let index = value.defined(rt)?.to_index("slice indices must be integers or None")?;
                let index = if index < 0 { index.saturating_add(len as i64) } else { index };
                Ok(index.max(0) as usize)
            }
        }
    };
    let (start, stop) = (index(at, 0)?, index(at + 1, len)?.min(len));
    Ok(start..stop.max(start.min(len)))
}

/// The string with each character become what `map` pushes for it, of which it knows the byte's offset.
pub(super) fn map_chars(
    rt: &Rt,
    text: &Str,
    mut map: impl FnMut(usize, char, &mut dyn FnMut(char)),
) -> Result<Str> {
    let mut out = Builder::with_capacity(rt, text.len())?;
    let mut at = 0;
    for (c, from) in text.chars_from() {
        let mut result = Ok(());
        let here = at;
        at += c.len_utf8();
        map(here, c, &mut |c| {
            if result.is_ok() {
                result = out.push_char(c, from);
            }
        });
        result?;
    }
    Ok(out.finish())
}

pub(super) fn lower(rt: &Rt, text: &Str) -> Result<Str> {
    map_chars(rt, text, |at, c, push| unicode::to_lower(text.as_str(), at, c, push))
}

pub(super) fn upper(rt: &Rt, text: &Str) -> Result<Str> {
    map_chars(rt, text, |_, c, push| c.to_uppercase().for_each(push))
}

pub(super) fn capitalize(rt: &Rt, text: &Str) -> Result<Str> {
    map_chars(rt, text, |at, c, push| match at {
        0 => unicode::to_title(c, push),
        _ => unicode::to_lower(text.as_str(), at, c, push),
    })
}

/// Byte range of the text without the characters at its ends.
fn stripped(text: &str, left: bool, right: bool, is: impl Fn(char) -> bool) -> Range<usize> {
    let start = if left { text.len() - text.trim_start_matches(&is).len() } else { 0 };
    let end = if right { start + text[start..].trim_end_matches(&is).len() } else { text.len() };
    start..end
}

/// str.strip() and its kin; without `chars`, of white space.
pub(super) fn strip(rt: &Rt, text: &Str, chars: Option<&Value>, left: bool, right: bool) -> Result<Str> {
    rt.work(text.len())?;
    let range = match chars {
        None | Some(Value::None) => stripped(text.as_str(), left, right, is_space),
        Some(chars) => {
            let chars = need_str(rt, chars, "strip arg")?;
            rt.step(chars.len() as u64)?;
            let set = chars.as_str();
            rt.work(text.len().saturating_mul(set.len().min(32)))?;
            if set.len() > 256 {
                return Err(runtime_error("strip: more than 256 bytes of characters"));
            }
            stripped(text.as_str(), left, right, |c| set.contains(c))
        }
    };
    text.slice(rt, range)
}

pub(super) fn center(rt: &Rt, text: &Str, width: usize, fill: char) -> Result<Str> {
    let space = width.saturating_sub(text.chars());
    // CPython puts the odd one to the left where the width is odd.
    let left = space / 2 + (space & width & 1);
    pad(rt, text, left, space - left, fill)
}

fn pad(rt: &Rt, text: &Str, left: usize, right: usize, fill: char) -> Result<Str> {
    let mut out = Builder::new(rt)?;
    let mut buffer = [0; 4];
    let fill = &*fill.encode_utf8(&mut buffer);
    out.repeat(fill, left, false)?;
    out.push_str(text)?;
    out.repeat(fill, right, false)?;
    Ok(out.finish())
}

pub(super) fn replace(rt: &Rt, text: &Str, old: &Str, new: &Str, most: i64) -> Result<Str> {
    rt.work(text.len())?;
    let most = if most < 0 { usize::MAX } else { most as usize };
    let source = text.as_str();
    let mut out = Builder::new(rt)?;
    let mut at = 0;
    // An empty pattern is found before each character and at the end, as in Python.
    for (found, part) in source.match_indices(old.as_str()).take(most) {
        rt.step(1)?;
        out.push_part(text, at..found)?;
        out.push_str(new)?;
        at = found + part.len();
    }
    out.push_part(text, at..text.len())?;
    Ok(out.finish())
}

/// str.join()
pub(super) fn join(rt: &Rt, separator: &Str, items: &Value) -> Result<Str> {
    let mut source = items.iterate()?;
    let mut out = Builder::new(rt)?;
    let mut n = 0;
    while let Some(item) = source.next(rt)? {
        let Value::Str(item) = &item else {
            return Err(type_error(format!(
                "sequence item {n}: expected str instance, {} found",
                item.type_name()
            )));
        };
        if n > 0 {
            out.push_str(separator)?;
        }
        let item = if separator.is_safe() { markup::escape_str(rt, item)? } else { item.clone() };
        out.push_str(&item)?;
        n += 1;
    }
    Ok(out.finish())
}

/// Byte ranges of the lines, with or without what ends them.
pub(super) fn lines(
    text: &str,
    keep_ends: bool,
    mut each: impl FnMut(Range<usize>) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while start < text.len() {
        let Some(len) = text[start..].find(is_line_end) else {
            return each(start..text.len());
        };
        let end = start + len;
        let c = text[end..].chars().next().map_or(0, char::len_utf8);
        let after = end + if text[end..].starts_with("\r\n") { 2 } else { c };
        each(start..if keep_ends { after } else { end })?;
        start = after;
    }
    Ok(())
}

/// str.split() and rsplit(): byte ranges. `most` splits at most.
fn split(text: &str, separator: Option<&str>, most: usize, right: bool) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut end) = (0, text.len());
    match (separator, right) {
        (Some(separator), false) => {
            while parts.len() < most
                && let Some(found) = text[start..].find(separator)
            {
                parts.push(start..start + found);
                start += found + separator.len();
            }
            parts.push(start..end);
        }
        (Some(separator), true) => {
            while parts.len() < most
                && let Some(found) = text[..end].rfind(separator)
            {
                parts.push(found + separator.len()..end);
                end = found;
            }
            parts.push(0..end);
            parts.reverse();
        }
        (None, false) => loop {
            start = text.len() - text[start..].trim_start_matches(is_space).len();
            if start == text.len() {
                break;
            }
            let len = if parts.len() < most { text[start..].find(is_space) } else { None };
            end = len.map_or(text.len(), |len| start + len);
            parts.push(start..end);
            start = end;
        },
        (None, true) => {
            loop {
                end = text[..end].trim_end_matches(is_space).len();
                if end == 0 {
                    break;
                }
                let head = &text[..end];
                let at = if parts.len() < most { head.rfind(is_space) } else { None };
                let from = at.map_or(0, |at| at + head[at..].chars().next().map_or(0, char::len_utf8));
                parts.push(from..end);
                end = from;
            }
            parts.reverse();
        }
    }
    parts
}

fn split_method(rt: &Rt, text: &Str, name: &str, args: Args) -> Result<Value> {
    let mut bound = args.bind(name, ["sep", "maxsplit"], 0)?;
    let most = bound.int(rt, 1, "maxsplit", -1)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let separator = bound.given(0);
    let separator = separator.as_ref().map(|value| need_str(rt, value, "the separator")).transpose()?;
    if separator.is_some_and(Str::is_empty) {
        return Err(value_error("empty separator"));
    }
    let source = text.as_str();
    rt.work(2 * source.len())?;
    let pieces = match separator {
        Some(separator) => source.matches(separator.as_str()).count(),
        None => source.matches(is_space).count(),
    };
    // Room for the ranges and the list is charged before any of it is made.
    let room = rt.charge((pieces.min(most) + 1).saturating_mul(size_of::<Range<usize>>()))?;
    let parts = split(source, separator.map(Str::as_str), most, name == "rsplit");
    let mut list = ListBuilder::with_capacity(rt, parts.len())?;
    for part in parts {
        list.push(Value::Str(text.slice(rt, part)?))?;
    }
    drop(room);
    Value::list(list)
}

/// Whether all characters are, and there are some.
fn all(text: &str, is: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is)
}

fn is_alnum(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphanumeric() } else { unicode::is_letter(c) || unicode::is_numeric(c) }
}

fn istitle(text: &str) -> bool {
    let (mut found, mut cased) = (false, false);
    for c in text.chars() {
        if unicode::is_upper(c) || unicode::is_titlecase(c) {
            if cased {
                return false;
            }
            (cased, found) = (true, true);
        } else if unicode::is_lower(c) {
            if !cased {
                return false;
            }
            found = true;
        } else {
            cased = false;
        }
    }
    found
}

pub(super) fn islower(text: &str) -> bool {
    text.chars().any(unicode::is_lower)
        && !text.chars().any(|c| unicode::is_upper(c) || unicode::is_titlecase(c))
}

pub(super) fn isupper(text: &str) -> bool {
    text.chars().any(unicode::is_upper)
        && !text.chars().any(|c| unicode::is_lower(c) || unicode::is_titlecase(c))
}

/// The one character of a `fillchar`.
fn fill_char<const N: usize>(rt: &Rt, bound: &mut Bound<N>, at: usize) -> Result<char> {
    match bound.take(at) {
        None => Ok(' '),
        Some(value) => {
            let mut chars = need_str(rt, &value, "The fill character")?.as_str().chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Ok(c),
                _ => Err(type_error("The fill character must be exactly one character long")),
            }
        }
    }
}

#[inline(never)]
fn str_method(rt: &Rt, text: &Str, name: &str, args: Args) -> Result<Value> {
    let source = text.as_str();
    rt.work(source.len())?;
    match name {
        "split" | "rsplit" => split_method(rt, text, name, args),
        "strip" | "lstrip" | "rstrip" => {
            let mut bound = args.bind(name, ["chars"], 0)?;
            let chars = bound.take(0);
            strip(rt, text, chars.as_ref(), name != "rstrip", name != "lstrip").map(Value::Str)
        }
        "startswith" | "endswith" => {
            let mut bound = args.bind(name, ["prefix", "start", "end"], 1)?;
            let range = byte_range(rt, text, &bound, 1)?;
            let part = range.map(|range| &source[range]);
            let wanted = bound.take(0).unwrap_or(Value::None);
            let one = |wanted: &Value| match wanted {
                Value::Str(wanted) => {
                    rt.work(wanted.len().min(source.len()))?;
                    Ok(part.is_some_and(|part| match name {
                        "startswith" => part.starts_with(wanted.as_str()),
                        _ => part.ends_with(wanted.as_str()),
                    }))
                }
                _ => Err(type_error(format!(
                    "{name} first arg must be str or a tuple of str, not {}",
                    wanted.type_name()
                ))),
            };
            if let Value::Tuple(list) = &wanted {
                for item in &list.items {
                    rt.step(1)?;
                    if one(item)? {
                        return Ok(Value::Bool(true));
                    }
                }
                return Ok(Value::Bool(false));
            }
            one(&wanted).map(Value::Bool)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let mut bound = args.bind(name, ["sub", "start", "end"], 1)?;
            let range = byte_range(rt, text, &bound, 1)?;
            let wanted = bound.take(0).unwrap_or(Value::None);
            let wanted = need_str(rt, &wanted, "must be str: the argument")?.as_str();
            let Some(range) = range else {
                return match name {
                    "count" => Ok(Value::Int(0)),
                    "index" | "rindex" => Err(value_error("substring not found")),
                    _ => Ok(Value::Int(-1)),
                };
            };
            let part = &source[range.clone()];
            if name == "count" {
                return Ok(Value::Int(part.matches(wanted).count() as i64));
            }
            let found = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
            match found {
                Some(at) => Ok(Value::Int(source[..range.start + at].chars().count() as i64)),
                None if name.ends_with("index") => Err(value_error("substring not found")),
                None => Ok(Value::Int(-1)),
            }
        }
        "replace" => {
            let mut bound = args.bind(name, ["old", "new", "count"], 2)?;
            let most = bound.int(rt, 2, "count", -1)?;
            let (old, new) = (bound.take(0).unwrap_or(Value::None), bound.take(1).unwrap_or(Value::None));
            let new = need_str(rt, &new, "replace() argument 2")?;
            let new = if text.is_safe() { markup::escape_str(rt, new)? } else { new.clone() };
            replace(rt, text, need_str(rt, &old, "replace() argument 1")?, &new, most).map(Value::Str)
        }
        "removeprefix" | "removesuffix" => {
            let mut bound = args.bind(name, ["affix"], 1)?;
            let affix = bound.take(0).unwrap_or(Value::None);
            let affix = need_str(rt, &affix, "the argument")?.as_str();
            let kept = match name {
                "removeprefix" => {
                    source.strip_prefix(affix).map(|rest| source.len() - rest.len()..source.len())
                }
                _ => source.strip_suffix(affix).map(|rest| 0..rest.len()),
            };
            text.slice(rt, kept.unwrap_or(0..source.len())).map(Value::Str)
        }
        "partition" | "rpartition" => {
            let mut bound = args.bind(name, ["sep"], 1)?;
            let separator = bound.take(0).unwrap_or(Value::None);
            let separator = need_str(rt, &separator, "must be str: the separator")?;
            if separator.is_empty() {
                return Err(value_error("empty separator"));
            }
            let right = name == "rpartition";
            let found =
                if right { source.rfind(separator.as_str()) } else { source.find(separator.as_str()) };
            let (a, b) = match found {
                Some(at) => (at, at + separator.len()),
                None if right => (0, 0),
                None => (source.len(), source.len()),
            };
            let parts = [0..a, a..b, b..source.len()];
            let mut items = Vec::new();
            for part in parts {
                items.push(Value::Str(text.slice(rt, part)?));
            }
            Value::tuple(rt, items)
        }
        "join" => {
            let mut bound = args.bind(name, ["iterable"], 1)?;
            join(rt, text, &bound.take(0).unwrap_or(Value::None)).map(Value::Str)
        }
        "splitlines" => {
            let bound = args.bind(name, ["keepends"], 0)?;
            let mut list = ListBuilder::new(rt)?;
            lines(source, bound.truth(0, false), |range| list.push(Value::Str(text.slice(rt, range)?)))?;
            Value::list(list)
        }
        "center" | "ljust" | "rjust" => {
            let mut bound = args.bind(name, ["width", "fillchar"], 1)?;
            let width = count(bound.int(rt, 0, "the width", 0)?);
            let fill = fill_char(rt, &mut bound, 1)?;
            let space = width.saturating_sub(text.chars());
            match name {
                "center" => center(rt, text, width, fill),
                "ljust" => pad(rt, text, 0, space, fill),
                _ => pad(rt, text, space, 0, fill),
            }
            .map(Value::Str)
        }
        "zfill" => {
            let bound = args.bind(name, ["width"], 1)?;
            let space = count(bound.int(rt, 0, "the width", 0)?).saturating_sub(text.chars());
            let sign = usize::from(source.starts_with(['+', '-']));
            let mut out = Builder::new(rt)?;
            out.push_part(text, 0..sign)?;
            out.repeat("0", space, false)?;
            out.push_part(text, sign..text.len())?;
            Ok(Value::Str(out.finish()))
        }
        "expandtabs" => {
            let bound = args.bind(name, ["tabsize"], 0)?;
            let size = count(bound.int(rt, 0, "tabsize", 8)?);
            let mut out = Builder::new(rt)?;
            let mut column = 0;
            for (c, from) in text.chars_from() {
                match c {
                    '\t' if size > 0 => {
                        out.repeat(" ", size - column % size, from)?;
                        column = 0;
                    }
                    '\t' => {}
                    '\n' | '\r' => {
                        out.push_char(c, from)?;
                        column = 0;
                    }
                    _ => {
                        out.push_char(c, from)?;
                        column += 1;
                    }
                }
            }
            Ok(Value::Str(out.finish()))
        }
        "translate" => {
            let mut bound = args.bind(name, ["table"], 1)?;
            let Some(Value::Dict(table)) = bound.take(0) else {
                return Err(type_error("translate() takes a dict"));
            };
            let mut out = Builder::with_capacity(rt, text.len())?;
            for (c, from) in text.chars_from() {
                match table.get(rt, &Value::Int(i64::from(c as u32)))? {
                    None => out.push_char(c, from)?,
                    Some(Value::None) => {}
                    Some(Value::Str(other)) => out.push_str(other)?,
                    Some(other) => {
                        let code = other.as_i64().and_then(|code| u32::try_from(code).ok());
                        let c = code
                            .and_then(char::from_u32)
                            .ok_or_else(|| value_error("character mapping must be in range(0x110000)"))?;
                        out.push_char(c, true)?;
                    }
                }
            }
            Ok(Value::Str(out.finish()))
        }
        "encode" | "maketrans" => Err(runtime_error(format!("str.{name}() is not supported"))),
        _ => {
            args.bind::<0>(name, [], 0)?;
            plain_method(rt, text, name)
        }
    }
}

/// Methods without arguments.
fn plain_method(rt: &Rt, text: &Str, name: &str) -> Result<Value> {
    let source = text.as_str();
    let result = match name {
        "lower" => lower(rt, text)?,
        "upper" => upper(rt, text)?,
        "capitalize" => capitalize(rt, text)?,
        "casefold" => map_chars(rt, text, |_, c, push| unicode::fold(c, push))?,
        "swapcase" => map_chars(rt, text, |at, c, push| {
            if unicode::is_upper(c) {
                unicode::to_lower(source, at, c, push);
            } else {
                c.to_uppercase().for_each(push);
            }
        })?,
        "title" => {
            let mut cased = false;
            map_chars(rt, text, |at, c, push| {
                if cased {
                    unicode::to_lower(source, at, c, push)
                } else {
                    unicode::to_title(c, push)
                }
                cased = unicode::is_cased(c);
            })?
        }
        _ => {
            rt.step(source.len() as u64)?;
            return Ok(Value::Bool(match name {
                "isalnum" => all(source, is_alnum),
                "isalpha" => all(source, unicode::is_letter),
                "isascii" => source.is_ascii(),
                "isdecimal" => all(source, unicode::is_decimal),
                "isdigit" => all(source, unicode::is_digit),
                "isnumeric" => all(source, unicode::is_numeric),
                "isspace" => all(source, is_space),
                "isprintable" => source.chars().all(unicode::is_printable),
                "isidentifier" => {
                    source.starts_with(unicode::is_identifier_start)
                        && source.chars().all(unicode::is_identifier_part)
                }
                "islower" => islower(source),
                "isupper" => isupper(source),
                "istitle" => istitle(source),
                _ => return Err(lookup_error(format!("str.{name}()"))),
            }));
        }
    };
    Ok(Value::Str(result))
}

/// The bytes of the characters that the arguments from `at` on name; None: they begin behind the end.
fn byte_range<const N: usize>(
    rt: &Rt,
    text: &Str,
    bound: &Bound<N>,
    at: usize,
) -> Result<Option<Range<usize>>> {
    let chars = text.chars();
    let range = clip(rt, bound, at, chars)?;
    if range.start > chars {
        return Ok(None);
    }
    Ok(Some(text.offset(range.start)..text.offset(range.end)))
}

/// str[::-1]
pub(super) fn reversed(rt: &Rt, text: &Str) -> Result<Str> {
    let chars = text.chars();
    access::slice_str(rt, text, chars as i64 - 1, chars, -1)
}
