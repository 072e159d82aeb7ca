//! HTML: what `escape`, `safe`, `striptags`, `xmlattr` and `urlize` do.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::fault::{Result, runtime_error, value_error};
use super::meter::Rt;
use super::repr;
use super::text::{Builder, Str, is_space};
use super::value::Value;

fn entity(c: char) -> Option<&'static str> {
    Some(match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '\'' => "&#39;",
        '"' => "&#34;",
        _ => return None,
    })
}

/// The string as it is if it is safe, else escaped; either way safe.
pub(super) fn escape_str(rt: &Rt, text: &Str) -> Result<Str> {
    if text.is_safe() { Ok(text.clone()) } else { force_escape(rt, text) }
}

pub(super) fn force_escape(rt: &Rt, text: &Str) -> Result<Str> {
    let mut out = Builder::with_capacity(rt, text.len())?;
    for (piece, from) in text.pieces(0..text.len()) {
        let mut at = 0;
        for (found, c) in piece.char_indices() {
            if let Some(entity) = entity(c) {
                out.push(&piece[at..found], from)?;
                out.push(entity, from)?;
                at = found + 1;
            }
        }
        out.push(&piece[at..], from)?;
    }
    Ok(out.finish_as(true))
}

pub(super) fn escape(rt: &Rt, value: &Value) -> Result<Str> {
    escape_str(rt, &repr::to_str(rt, value)?)
}

/// Markup.striptags(): comments and tags go, white space becomes single spaces, entities their characters.
pub(super) fn striptags(rt: &Rt, text: &Str) -> Result<Str> {
    let text = without(rt, &without(rt, text, "<!--", "-->")?, "<", ">")?;
    let source = text.as_str();
    let mut words = Builder::with_capacity(rt, text.len())?;
    let mut at = 0;
    while at < source.len() {
        let start = source.len() - source[at..].trim_start_matches(is_space).len();
        let end = source[start..].find(is_space).map_or(source.len(), |len| start + len);
        if start < end {
            words.push(if words.len() > 0 { " " } else { "" }, false)?;
            words.push_part(&text, start..end)?;
        }
        at = end.max(start);
    }
    unescape(rt, &words.finish())
}

/// What stands between `open` and `close` goes, with them.
fn without(rt: &Rt, text: &Str, open: &str, close: &str) -> Result<Str> {
    let source = text.as_str();
    let mut out = Builder::with_capacity(rt, text.len())?;
    let mut at = 0;
    while let Some(start) = source[at..].find(open).map(|found| at + found) {
        let Some(end) = source[start..].find(close).map(|found| start + found + close.len()) else { break };
        out.push_part(text, at..start)?;
        at = end;
    }
    out.push_part(text, at..text.len())?;
    Ok(out.finish())
}

/// The entities that `escape` writes, numeric ones, and a few by name.
fn unescape(rt: &Rt, text: &Str) -> Result<Str> {
    let source = text.as_str();
    let mut out = Builder::with_capacity(rt, text.len())?;
    let mut at = 0;
    while let Some(start) = source[at..].find('&').map(|found| at + found) {
        out.push_part(text, at..start)?;
        let end = source[start..].bytes().take(12).position(|byte| byte == b';').map(|len| start + len);
        match end.and_then(|end| Some((end, named_character(&source[start + 1..end])?))) {
            Some((end, c)) => {
                out.push_char(c, text.tainted())?;
                at = end + 1;
            }
            None => {
                out.push_part(text, start..start + 1)?;
                at = start + 1;
            }
        }
    }
    out.push_part(text, at..text.len())?;
    Ok(out.finish())
}

fn named_character(name: &str) -> Option<char> {
    match name.strip_prefix('#') {
        Some(number) => match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok().and_then(char::from_u32),
            None => number.parse().ok().and_then(char::from_u32),
        },
        None => Some(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" => '\u{a0}',
            "copy" => '©',
            "reg" => '®',
            "hellip" => '…',
            "mdash" => '—',
            "ndash" => '–',
            "laquo" => '«',
            "raquo" => '»',
            _ => return None,
        }),
    }
}

pub(super) fn xmlattr(rt: &Rt, value: &Value, autospace: bool) -> Result<Str> {
    let Value::Dict(dict) = value else {
        return Err(super::fault::type_error(format!(
            "'{}' object has no attribute 'items'",
            value.type_name()
        )));
    };
    let mut out = Builder::new(rt)?;
    for (key, value) in dict.entries() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = super::value::need_str(rt, key, "an attribute's name")?;
        if key.as_str().contains([' ', '\t', '\n', '\r', '\x0b', '\x0c', '/', '>', '=']) {
            return Err(value_error(format!(
                "Invalid character in attribute name: {}",
                repr::short(rt, &Value::Str(key.clone()))
            )));
        }
        if out.len() > 0 || autospace {
            out.push(" ", false)?;
        }
        out.push_str(&escape_str(rt, key)?)?;
        out.push("=\"", false)?;
        out.push_str(&escape(rt, value)?)?;
        out.push("\"", false)?;
    }
    Ok(out.finish())
}

/// How urlize() makes its links.
pub(super) struct Links {
    pub trim: Option<usize>,
    pub rel: String,
    pub target: Option<String>,
    pub schemes: Vec<String>,
    /// Whether any of these is a message's.
    pub tainted: bool,
}

pub(super) fn urlize(rt: &Rt, text: &Str, links: &Links) -> Result<Str> {
    static URL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?i)^((https?://|www\.)(([\w%-]+\.)+)?([a-z]{2,63}|xn--[\w%]{2,59})|([\w%-]{2,63}\.)+(com|net|int|edu|gov|org|info|mil)|(https?://)((([\d]{1,3})(\.[\d]{1,3}){3})|(\[([\da-f]{0,4}:){2}([\da-f]{0,4}:?){1,6}])))(?::[\d]{1,5})?(?:[/?#]\S*)?$",
        )
        .expect("the expression is constant")
    });
    static MAIL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\S+@\w[\w.-]*\.\w+$").expect("the expression is constant"));
    let matches = |regex: &Regex, text: &str| regex.is_match(text).unwrap_or(false);
    let tainted = text.tainted() || links.tainted;
    let escaped = escape_str(rt, text)?;
    let attr = |name: &str, value: &str| -> Result<String> {
        let value = force_escape(rt, &Str::new(rt, value)?)?;
        Ok(format!(" {name}=\"{}\"", value.as_str()))
    };
    let rel = if links.rel.is_empty() { String::new() } else { attr("rel", &links.rel)? };
    let target = links.target.as_ref().map(|target| attr("target", target)).transpose()?.unwrap_or_default();
    let shown = |url: &str| match links.trim {
        Some(limit) if url.chars().count() > limit => {
            format!("{}...", url.chars().take(limit).collect::<String>())
        }
        _ => url.to_owned(),
    };
    let mut out = Builder::with_capacity(rt, escaped.len())?;
    let mut rest = escaped.as_str();
    while !rest.is_empty() {
        let space = rest.len() - rest.trim_start_matches(is_space).len();
        out.push(&rest[..space], tainted)?;
        rest = &rest[space..];
        let word = &rest[..rest.find(is_space).unwrap_or(rest.len())];
        rest = &rest[word.len()..];
        rt.step((1 + word.len() + links.schemes.len()) as u64)?;
        if word.len() > 16 << 10 {
            return Err(runtime_error("urlize: a word is longer than 16 KiB"));
        }
        let mut start = 0;
        while let Some(open) = ["(", "<", "&lt;"].iter().find(|open| word[start..].starts_with(**open)) {
            start += open.len();
        }
        let mut end = word.len();
        while let Some(close) =
            [")", ">", ".", ",", "\n", "&gt;"].iter().find(|close| word[start..end].ends_with(**close))
        {
            end -= close.len();
        }
        for (open, close) in [("(", ")"), ("<", ">"), ("&lt;", "&gt;")] {
            let count = |text: &str, what: &str| text.matches(what).count();
            let opened = count(&word[start..end], open);
            if opened <= count(&word[start..end], close) {
                continue;
            }
            for _ in 0..opened.min(count(&word[end..], close)) {
                end += word[end..].find(close).map_or(0, |at| at + close.len());
            }
        }
        let (head, middle, tail) = (&word[..start], &word[start..end], &word[end..]);
        let link = if matches(&URL, middle) {
            let scheme =
                if middle.starts_with("https://") || middle.starts_with("http://") { "" } else { "https://" };
            Some(format!("<a href=\"{scheme}{middle}\"{rel}{target}>{}</a>", shown(middle)))
        } else if let Some(address) = middle.strip_prefix("mailto:").filter(|address| matches(&MAIL, address))
        {
            Some(format!("<a href=\"{middle}\">{address}</a>"))
        } else if middle.contains('@')
            && !middle.starts_with("www.")
            && !middle.starts_with('@')
            && !middle.contains(':')
            && matches(&MAIL, middle)
        {
            Some(format!("<a href=\"mailto:{middle}\">{middle}</a>"))
        } else {
            links
                .schemes
                .iter()
                .find(|scheme| middle != **scheme && middle.starts_with(&***scheme))
                .map(|_| format!("<a href=\"{middle}\"{rel}{target}>{middle}</a>"))
        };
        out.push(head, tainted)?;
        out.push(link.as_deref().unwrap_or(middle), tainted)?;
        out.push(tail, tainted)?;
    }
    Ok(out.finish())
}
