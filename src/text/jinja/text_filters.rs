//! The filters of text.

use std::fmt::Write as _;
use std::sync::LazyLock;

use fancy_regex::Regex;

use super::call::{Args, count, need_f64};
use super::fault::{Result, runtime_error, type_error, value_error};
use super::format::percent;
use super::interpreter::Interpreter;
use super::markup::{self, Links};
use super::meter::Rt;
use super::methods;
use super::number;
use super::repr::{self, to_repr, to_str};
use super::text::{Builder, Str};
use super::unicode;
use super::value::{ListBuilder, Value, need_str};

/// Bytes of a text that is filled or linked word by word.
const MAX_PROSE: usize = 1 << 20;

fn soft(interpreter: &Interpreter<'_>, value: &Value) -> Result<Str> {
    to_str(interpreter.rt(), value)
}

/// Markup's methods give Markup.
fn like(rt: &Rt, result: &Str, source: &Str) -> Result<Value> {
    Ok(Value::Str(result.set_safe(rt, source.is_safe())?))
}

pub(super) fn lower(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("lower", [], 0)?;
    let text = soft(interpreter, &value)?;
    like(interpreter.rt(), &methods::lower(interpreter.rt(), &text)?, &text)
}

pub(super) fn upper(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("upper", [], 0)?;
    let text = soft(interpreter, &value)?;
    like(interpreter.rt(), &methods::upper(interpreter.rt(), &text)?, &text)
}

pub(super) fn capitalize(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("capitalize", [], 0)?;
    let text = soft(interpreter, &value)?;
    like(interpreter.rt(), &methods::capitalize(interpreter.rt(), &text)?, &text)
}

/// Words begin behind white space, `-` and opening brackets, not behind an apostrophe.
pub(super) fn title(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("title", [], 0)?;
    let text = soft(interpreter, &value)?;
    let mut first = true;
    let out = methods::map_chars(interpreter.rt(), &text, |at, c, push| {
        let between = super::text::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        if first {
            c.to_uppercase().for_each(push);
        } else {
            unicode::to_lower(text.as_str(), at, c, push);
        }
        first = between;
    })?;
    Ok(Value::Str(out))
}

pub(super) fn center(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let bound = args.bind("center", ["width"], 0)?;
    let width = count(bound.int(interpreter.rt(), 0, "center: width", 80)?);
    let text = soft(interpreter, &value)?;
    like(interpreter.rt(), &methods::center(interpreter.rt(), &text, width, ' ')?, &text)
}

pub(super) fn trim(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let mut bound = args.bind("trim", ["chars"], 0)?;
    let text = soft(interpreter, &value)?;
    let chars = bound.take(0);
    like(interpreter.rt(), &methods::strip(interpreter.rt(), &text, chars.as_ref(), true, true)?, &text)
}

pub(super) fn string(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("string", [], 0)?;
    soft(interpreter, &value).map(Value::Str)
}

pub(super) fn safe(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("safe", [], 0)?;
    Ok(Value::Str(soft(interpreter, &value)?.set_safe(interpreter.rt(), true)?))
}

pub(super) fn escape(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("escape", [], 0)?;
    markup::escape(interpreter.rt(), &value).map(Value::Str)
}

pub(super) fn forceescape(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("forceescape", [], 0)?;
    markup::force_escape(interpreter.rt(), &soft(interpreter, &value)?).map(Value::Str)
}

pub(super) fn striptags(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("striptags", [], 0)?;
    markup::striptags(interpreter.rt(), &soft(interpreter, &value)?).map(Value::Str)
}

pub(super) fn xmlattr(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let bound = args.bind("xmlattr", ["autospace"], 0)?;
    let rt = interpreter.rt();
    markup::xmlattr(rt, value.defined(rt)?, bound.truth(0, true)).map(Value::Str)
}

pub(super) fn format(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    if !args.args.is_empty() && !args.kwargs.is_empty() {
        return Err(runtime_error("can't handle positional and keyword arguments at the same time"));
    }
    let values =
        if args.kwargs.is_empty() { Value::tuple(rt, args.args)? } else { super::call::dict(rt, args)? };
    percent(rt, &to_str(rt, &value)?, &values).map(Value::Str)
}

pub(super) fn replace(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let mut bound = args.bind("replace", ["old", "new", "count"], 2)?;
    let most = match bound.given(2) {
        None => -1,
        Some(most) => most.defined(rt)?.to_index("replace: count")?,
    };
    let old = to_str(rt, &bound.take(0).unwrap_or(Value::None))?;
    let new = to_str(rt, &bound.take(1).unwrap_or(Value::None))?;
    methods::replace(rt, &to_str(rt, &value)?, &old, &new, most).map(Value::Str)
}

pub(super) fn indent(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let mut bound = args.bind("indent", ["width", "first", "blank"], 0)?;
    let text = match value.defined(rt)? {
        Value::Str(text) => text,
        other => {
            return Err(type_error(format!(
                "unsupported operand type(s) for +=: '{}' and 'str'",
                other.type_name()
            )));
        }
    };
    let indention = match bound.take(0) {
        Some(Value::Str(text)) => text,
        width => {
            let width = width.map_or(Ok(4), |width| width.defined(rt)?.to_index("indent: width"))?;
            let mut out = Builder::new(rt)?;
            out.repeat(" ", count(width), false)?;
            out.finish()
        }
    };
    let (first, blank) = (bound.truth(1, false), bound.truth(2, false));
    let source = text.as_str();
    let mut out = Builder::with_capacity(rt, text.len())?;
    if first {
        out.push_str(&indention)?;
    }
    let mut n = 0;
    let mut line = |range: std::ops::Range<usize>| -> Result<()> {
        if n > 0 {
            out.push("\n", false)?;
            if blank || !range.is_empty() {
                out.push_str(&indention)?;
            }
        }
        n += 1;
        out.push_part(text, range)
    };
    // The text is taken as if a newline followed it.
    methods::lines(source, false, &mut line)?;
    if source.is_empty() || source.ends_with(|c: char| super::text::is_line_end(c) && c != '\r') {
        line(source.len()..source.len())?;
    }
    like(rt, &out.finish(), text)
}

pub(super) fn truncate(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let mut bound = args.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let length = bound.int(rt, 0, "truncate: length", 255)?;
    let leeway = match bound.given(3) {
        Some(leeway) => leeway.defined(rt)?.to_index("truncate: leeway")?,
        None => 5,
    };
    let end = match bound.take(2) {
        Some(end) => need_str(rt, &end, "truncate: end")?.clone(),
        None => Str::new(rt, "...")?,
    };
    let end_chars = end.chars() as i64;
    if length < end_chars {
        return Err(value_error(format!("expected length >= {end_chars}, got {length}")));
    }
    if leeway < 0 {
        return Err(value_error(format!("expected leeway >= 0, got {leeway}")));
    }
    if value.len(rt)? as i64 <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let text = need_str(rt, &value, "truncate: the value")?;
    rt.work(text.len())?;
    let cut = text.offset((length - end_chars) as usize);
    let kept = if bound.truth(1, false) { cut } else { text.as_str()[..cut].rfind(' ').unwrap_or(cut) };
    let mut out = Builder::with_capacity(rt, kept + end.len())?;
    out.push_part(text, 0..kept)?;
    out.push_str(&end)?;
    like(rt, &out.finish(), text)
}

pub(super) fn wordcount(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("wordcount", [], 0)?;
    let text = soft(interpreter, &value)?;
    interpreter.rt().step(text.len() as u64)?;
    let mut inside = false;
    let mut words = 0;
    for c in text.as_str().chars() {
        let word = unicode::is_word(c);
        words += i64::from(word && !inside);
        inside = word;
    }
    Ok(Value::Int(words))
}

pub(super) fn filesizeformat(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let bound = args.bind("filesizeformat", ["binary"], 0)?;
    let binary = bound.truth(0, false);
    let bytes = match value.defined(rt)? {
        Value::Str(text) => number::parse_float(rt, text.as_str())?.ok_or_else(|| {
            value_error(format!("could not convert string to float: {}", repr::short(rt, &value)))
        })?,
        _ => need_f64(rt, &value)?,
    };
    let base = if binary { 1024.0 } else { 1000.0 };
    let text = if bytes == 1.0 {
        "1 Byte".to_owned()
    } else if bytes < base {
        let Value::Int(whole) = number::truncate(rt, bytes)? else {
            return Err(value_error("filesizeformat: the value is too large"));
        };
        format!("{whole} Bytes")
    } else {
        let mut unit = base;
        let mut prefix = "";
        for next in ["K", "M", "G", "T", "P", "E", "Z", "Y"] {
            prefix = next;
            unit *= base;
            if bytes < unit {
                break;
            }
        }
        let prefix = if prefix == "K" && !binary { "k" } else { prefix };
        let i = if binary { "i" } else { "" };
        format!("{:.1} {prefix}{i}B", base * bytes / unit)
    };
    Value::str(rt, &text)
}

/// `for_query`: spaces become `+`, slashes are escaped.
fn quote(rt: &Rt, out: &mut Builder, value: &Value, for_query: bool) -> Result<()> {
    let text = to_str(rt, value)?;
    for (c, from) in text.chars_from() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' | '~' => out.push_char(c, from)?,
            '/' if !for_query => out.push_char(c, from)?,
            ' ' if for_query => out.push("+", from)?,
            _ => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let mut escape = String::new();
                    let _ = write!(escape, "%{byte:02X}");
                    out.push(&escape, from)?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn urlencode(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("urlencode", [], 0)?;
    let rt = interpreter.rt();
    let mut out = Builder::new(rt)?;
    let pairs = match &value {
        Value::Str(_) => None,
        Value::Dict(dict) => Some(Value::view(rt, dict, super::value::Of::Items)?.iterate()?),
        _ => value.iterate().ok(),
    };
    match pairs {
        None => quote(rt, &mut out, &value, false)?,
        Some(mut pairs) => {
            let mut first = true;
            while let Some(pair) = pairs.next(rt)? {
                let pair = super::value::unpack(rt, &pair, 2)?;
                if !std::mem::take(&mut first) {
                    out.push("&", false)?;
                }
                quote(rt, &mut out, &pair[0], true)?;
                out.push("=", false)?;
                quote(rt, &mut out, &pair[1], true)?;
            }
        }
    }
    Ok(Value::Str(out.finish()))
}

pub(super) fn urlize(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let names = ["trim_url_limit", "nofollow", "target", "rel", "extra_schemes"];
    let mut bound = args.bind("urlize", names, 0)?;
    let trim = bound.given(0).map(|limit| limit.to_index("urlize: trim_url_limit")).transpose()?.map(count);
    let mut tainted = false;
    let mut given = |value: &Value, what: &str| -> Result<String> {
        let text = need_str(rt, value, what)?;
        tainted |= text.tainted();
        Ok(text.as_str().to_owned())
    };
    let rel = match bound.given(3) {
        Some(rel) => given(&rel, "urlize: rel")?,
        None => String::new(),
    };
    let mut rels: Vec<&str> = rel.split_whitespace().collect();
    if bound.truth(1, false) {
        rels.push("nofollow");
    }
    rels.push("noopener");
    rels.sort_unstable();
    rels.dedup();
    let target = match bound.given(2) {
        Some(target) => Some(given(&target, "urlize: target")?),
        None => None,
    };
    let mut schemes = Vec::new();
    if let Some(list) = bound.given(4) {
        let mut source = list.iterate()?;
        while let Some(scheme) = source.next(rt)? {
            let scheme = need_str(rt, &scheme, "urlize: a scheme")?;
            let (name, slashes) = scheme.as_str().split_once(':').unwrap_or(("", "?"));
            let named =
                name.chars().count() >= 2 && name.chars().all(|c| unicode::is_word(c) || ".+-".contains(c));
            if !named || !matches!(slashes, "" | "/" | "//") {
                return Err(runtime_error(format!(
                    "{} is not a valid URI scheme prefix.",
                    repr::short(rt, &Value::Str(scheme.clone()))
                )));
            }
            schemes.push(scheme.as_str().to_owned());
        }
    }
    let text = to_str(rt, &value)?;
    if text.len() > MAX_PROSE {
        return Err(runtime_error(format!("urlize: the text is longer than {MAX_PROSE} bytes")));
    }
    let links = Links { trim, rel: rels.join(" "), target, schemes, tainted };
    markup::urlize(rt, &text, &links).map(Value::Str)
}

/// Chunks of a line between which Python's textwrap breaks it.
fn chunks(line: &str, on_hyphens: bool) -> Result<Vec<&str>> {
    static HYPHENS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"[\t\n\x0b\x0c\r ]+|(?<=[\w!"'&.,?])-{2,}(?=\w)|[^\t\n\x0b\x0c\r ]+?(?:-(?:(?<=[^\d\W]{2}-)|(?<=[^\d\W]-[^\d\W]-))(?=[^\d\W]-?[^\d\W])|(?=[\t\n\x0b\x0c\r ]|\z)|(?<=[\w!"'&.,?])(?=-{2,}\w))"#,
        )
        .expect("the expression is constant")
    });
    static SPACES: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[\t\n\x0b\x0c\r ]+|[^\t\n\x0b\x0c\r ]+").expect("the expression is constant")
    });
    let regex = if on_hyphens { &HYPHENS } else { &SPACES };
    let mut chunks = Vec::new();
    for found in regex.find_iter(line) {
        let found = found.map_err(|_| runtime_error("wordwrap: the text is too long"))?;
        chunks.push(found.as_str());
    }
    Ok(chunks)
}

/// One line in lines of `width` characters at most.
fn wrap(line: &str, width: usize, break_words: bool, on_hyphens: bool) -> Result<Vec<String>> {
    // Of what is left of a long word only as much is looked at as a line holds.
    let longer = |text: &str, than: usize| text.chars().nth(than).is_some();
    let mut pending: Vec<&str> = chunks(line, on_hyphens)?;
    pending.reverse();
    let mut lines: Vec<String> = Vec::new();
    while !pending.is_empty() {
        if !lines.is_empty() && pending.last().is_some_and(|chunk| chunk.trim().is_empty()) {
            pending.pop();
        }
        let mut current: Vec<&str> = Vec::new();
        let mut len = 0;
        while let Some(chunk) = pending.last() {
            if longer(chunk, width - len) {
                break;
            }
            len += chunk.chars().count();
            current.extend(pending.pop());
        }
        if let Some(chunk) = pending.last().copied().filter(|chunk| longer(chunk, width)) {
            let space = if width < 1 { 1 } else { width - len };
            if break_words {
                let mut end = space;
                if on_hyphens && longer(chunk, space) {
                    let head: Vec<char> = chunk.chars().take(space).collect();
                    if let Some(hyphen) = head.iter().rposition(|&c| c == '-')
                        && hyphen > 0
                        && head[..hyphen].iter().any(|&c| c != '-')
                    {
                        end = hyphen + 1;
                    }
                }
                let at = chunk.char_indices().nth(end).map_or(chunk.len(), |(at, _)| at);
                current.push(&chunk[..at]);
                pending.pop();
                if at < chunk.len() {
                    pending.push(&chunk[at..]);
                }
            } else if current.is_empty() {
                current.extend(pending.pop());
            }
        }
        if current.last().is_some_and(|chunk| chunk.trim().is_empty()) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat());
        }
    }
    Ok(lines)
}

pub(super) fn wordwrap(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let mut bound = args.bind("wordwrap", names, 0)?;
    let width = bound.int(rt, 0, "wordwrap: width", 79)?;
    let text = need_str(rt, &value, "wordwrap: the value")?;
    let separator = match bound.given(2) {
        Some(separator) => need_str(rt, &separator, "wordwrap: wrapstring")?.clone(),
        None => Str::new(rt, "\n")?,
    };
    if width <= 0 {
        return Err(value_error(format!("invalid width {width} (must be > 0)")));
    }
    if text.len() > MAX_PROSE {
        return Err(runtime_error(format!("wordwrap: the text is longer than {MAX_PROSE} bytes")));
    }
    rt.step(4 * text.len() as u64)?;
    let mut out = Builder::with_capacity(rt, text.len())?;
    let mut first = true;
    methods::lines(text.as_str(), false, |range| {
        if !std::mem::take(&mut first) {
            out.push_str(&separator)?;
        }
        let lines = wrap(&text.as_str()[range], count(width), bound.truth(1, true), bound.truth(3, true))?;
        for (i, line) in lines.iter().enumerate() {
            if i > 0 {
                out.push_str(&separator)?;
            }
            out.push(line, text.tainted())?;
        }
        Ok(())
    })?;
    Ok(Value::Str(out.finish()))
}

/// Columns in which pprint() writes.
const COLUMNS: usize = 80;

pub(super) fn pprint(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("pprint", [], 0)?;
    let rt = interpreter.rt();
    let mut out = Builder::new(rt)?;
    pretty(rt, &mut out, &value, 0, 0)?;
    Ok(Value::Str(out.finish()))
}

/// Writes what does not fit on its line an item a line. `after`: columns taken by what follows.
fn pretty(rt: &Rt, out: &mut Builder, value: &Value, indent: usize, after: usize) -> Result<()> {
    rt.deeper()?;
    let value = &sorted(rt, value)?;
    let flat = to_repr(rt, value)?;
    if flat.chars() + indent + after <= COLUMNS {
        return out.push_str(&flat);
    }
    let between = |out: &mut Builder, at: usize| -> Result<()> {
        if at > 0 {
            out.push(",\n", false)?;
            out.repeat(" ", indent + 1, false)?;
        }
        Ok(())
    };
    match value {
        Value::List(list) | Value::Tuple(list) => {
            let (open, close) = match value {
                Value::List(_) => ("[", "]"),
                _ if list.items.len() == 1 => ("(", ",)"),
                _ => ("(", ")"),
            };
            out.push(open, false)?;
            for (at, item) in list.items.iter().enumerate() {
                between(out, at)?;
                let last = at + 1 == list.items.len();
                pretty(rt, out, item, indent + 1, if last { after + close.len() } else { 1 })?;
            }
            out.push(close, false)
        }
        Value::Dict(dict) => {
            out.push("{", false)?;
            for (at, (key, item)) in dict.entries().iter().enumerate() {
                between(out, at)?;
                let key = to_repr(rt, key)?;
                out.push_str(&key)?;
                out.push(": ", false)?;
                let last = at + 1 == dict.len();
                pretty(rt, out, item, indent + key.chars() + 3, if last { after + 1 } else { 1 })?;
            }
            out.push("}", false)
        }
        _ => out.push_str(&flat),
    }
}

/// Dicts by their keys, however deep.
fn sorted(rt: &Rt, value: &Value) -> Result<Value> {
    rt.deeper()?;
    Ok(match value {
        Value::List(list) | Value::Tuple(list) => {
            let mut items = ListBuilder::with_capacity(rt, list.items.len())?;
            for item in &list.items {
                items.push(sorted(rt, item)?)?;
            }
            if let Value::List(_) = value { Value::list(items)? } else { Value::Tuple(items.finish()?) }
        }
        Value::Dict(dict) => {
            let mut order = rt.list(dict.len())?;
            order.extend(0..dict.len());
            let entries = dict.entries();
            super::sort::by(rt, &mut order, |&a: &usize, &b| {
                let (a, b) = (&entries[a].0, &entries[b].0);
                // Keys of different types go by the names of their types.
                a.ordered(rt, b, "<").or_else(|_| Ok(a.type_name() < b.type_name()))
            })?;
            let mut dict = super::dict::DictBuilder::new(rt)?;
            for at in order {
                dict.insert(rt, entries[at].0.clone(), sorted(rt, &entries[at].1)?)?;
            }
            Value::Dict(dict.finish()?)
        }
        _ => value.clone(),
    })
}
