//! A template's text in tokens: jinja2's lexer with trim_blocks and lstrip_blocks.

use super::fault::{Fault, Kind, Result};
use super::text::is_space;
use super::unicode;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between tags.
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    /// Digits, base.
    Integer(String, u32),
    Float(f64),
    /// `+`, `**`, `==`, ...
    Op(&'static str),
    End,
}

impl Token {
    /// As jinja2's messages name it.
    pub fn describe(&self) -> String {
        match self {
            Token::Data(_) => "template data / text".to_owned(),
            Token::VariableBegin => "begin of print statement".to_owned(),
            Token::VariableEnd => "end of print statement".to_owned(),
            Token::BlockBegin => "begin of statement block".to_owned(),
            Token::BlockEnd => "end of statement block".to_owned(),
            Token::Name(name) => name.clone(),
            Token::Str(_) => "string".to_owned(),
            Token::Integer(..) => "integer".to_owned(),
            Token::Float(_) => "float".to_owned(),
            Token::Op(op) => (*op).to_owned(),
            Token::End => "end of template".to_owned(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Spanned {
    pub token: Token,
    pub line: u32,
}

/// Longest first.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

fn syntax(message: impl Into<String>, line: u32) -> Fault {
    Fault::new(Kind::Syntax, message).at(line)
}

pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// Whether what was read last ended with a newline.
    line_starting: bool,
    tokens: Vec<Spanned>,
}

/// Newlines as `\n`, without the last.
pub(super) fn normalize(source: &str) -> String {
    let mut text = source.replace("\r\n", "\n").replace('\r', "\n");
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// Whether the `-` or `+` of a tag, or nothing.
fn sign(text: &str) -> Option<char> {
    text.chars().next().filter(|c| matches!(c, '-' | '+'))
}

impl<'s> Lexer<'s> {
    /// Tokens of a source already normalized.
    pub fn tokenize(source: &'s str) -> Result<Vec<Spanned>> {
        let mut lexer = Lexer { source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
        while lexer.at < source.len() {
            lexer.root()?;
        }
        let line = lexer.line;
        lexer.tokens.push(Spanned { token: Token::End, line });
        Ok(lexer.tokens)
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token) {
        self.tokens.push(Spanned { token, line: self.line });
    }

    /// Goes on by `bytes`.
    fn skip(&mut self, bytes: usize) {
        let text = &self.rest()[..bytes];
        self.line += text.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.line_starting = text.ends_with('\n');
        self.at += bytes;
    }

    /// Goes on by `bytes` and by the white space behind them if `-` asks for it, or the newline if `trim`.
    fn skip_end(&mut self, bytes: usize, strip: bool, trim: bool) {
        let after = &self.rest()[bytes..];
        let more = if strip {
            after.len() - after.trim_start_matches(is_space).len()
        } else {
            usize::from(trim && after.starts_with('\n'))
        };
        self.skip(bytes + more);
    }

    /// Text up to the next tag, without the white space that the tag takes away.
    fn data(&mut self, len: usize, sign: Option<char>, lstrip: bool) {
        let text = &self.rest()[..len];
        let mut kept = text;
        if sign == Some('-') {
            kept = text.trim_end_matches(is_space);
        } else if sign != Some('+') && lstrip {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = !text[line..].is_empty() && text[line..].chars().all(is_space);
            if (line > 0 || self.line_starting) && blank {
                kept = &text[..line];
            }
        }
        if !kept.is_empty() {
            self.push(Token::Data(kept.to_owned()));
        }
        self.skip(len);
    }

    fn root(&mut self) -> Result<()> {
        let rest = self.rest();
        let mut from = 0;
        let found = loop {
            let Some(at) = rest[from..].find('{').map(|at| from + at) else { break None };
            match rest.as_bytes().get(at + 1) {
                Some(b'{' | b'%' | b'#') => break Some(at),
                _ => from = at + 1,
            }
        };
        let Some(at) = found else {
            self.push(Token::Data(rest.to_owned()));
            self.skip(rest.len());
            return Ok(());
        };
        let tag = &rest[at..];
        let strip = sign(&tag[2..]);
        let open = 2 + strip.map_or(0, char::len_utf8);
        if tag.starts_with("{%")
            && let Some(len) = raw_begin(&tag[open..])
        {
            self.data(at, strip, true);
            self.skip(open + len);
            return self.raw();
        }
        self.data(at, strip, !tag.starts_with("{{"));
        self.skip(open);
        match tag.as_bytes()[1] {
            b'#' => self.comment(),
            b'%' => {
                self.push(Token::BlockBegin);
                self.inside("%}", Token::BlockEnd)
            }
            _ => {
                self.push(Token::VariableBegin);
                self.inside("}}", Token::VariableEnd)
            }
        }
    }

    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        let Some(end) = rest.find("#}") else {
            return Err(syntax("Missing end of comment tag", self.line));
        };
        let before = rest[..end].chars().next_back();
        self.skip(end);
        self.skip_end(2, before == Some('-'), before != Some('+'));
        Ok(())
    }

    fn raw(&mut self) -> Result<()> {
        let rest = self.rest();
        for (at, _) in rest.match_indices("{%") {
            let tag = &rest[at + 2..];
            let strip = sign(tag);
            let inner = &tag[strip.map_or(0, char::len_utf8)..];
            let Some(after) = inner.trim_start_matches(is_space).strip_prefix("endraw") else { continue };
            let after = after.trim_start_matches(is_space);
            let (end_sign, close) = match sign(after) {
                Some(sign) => (Some(sign), &after[1..]),
                None => (None, after),
            };
            if !close.starts_with("%}") {
                continue;
            }
            let end = rest.len() - close.len();
            self.data(at, strip, true);
            self.skip(end - at);
            self.skip_end(2, end_sign == Some('-'), end_sign.is_none());
            return Ok(());
        }
        Err(syntax("Missing end of raw directive", self.line))
    }

    /// Tokens of a tag up to its end.
    fn inside(&mut self, end: &str, end_token: Token) -> Result<()> {
        let trim = end == "%}";
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty() {
                let close = rest.strip_prefix('-').filter(|rest| rest.starts_with(end));
                let kept = rest.strip_prefix('+').filter(|rest| trim && rest.starts_with(end));
                if close.is_some() || kept.is_some() || rest.starts_with(end) {
                    let sign = usize::from(close.is_some() || kept.is_some());
                    self.push(end_token);
                    self.skip_end(sign + end.len(), close.is_some(), trim && sign == 0);
                    return Ok(());
                }
            }
            let Some(c) = rest.chars().next() else { return Ok(()) };
            if is_space(c) {
                self.skip(rest.len() - rest.trim_start_matches(is_space).len());
            } else if c.is_ascii_digit() {
                let (token, len) = number(rest).map_err(|message| syntax(message, self.line))?;
                self.push(token);
                self.skip(len);
            } else if unicode::is_word(c) {
                let len = rest.find(|c| !unicode::is_word(c)).unwrap_or(rest.len());
                let name = &rest[..len];
                if !name.starts_with(unicode::is_identifier_start)
                    || !name.chars().all(unicode::is_identifier_part)
                {
                    return Err(syntax("Invalid character in identifier", self.line));
                }
                self.push(Token::Name(name.to_owned()));
                self.skip(len);
            } else if c == '"' || c == '\'' {
                let body = &rest[1..];
                let mut escaped = false;
                let close = body.char_indices().find(|&(_, other)| {
                    let ends = !escaped && other == c;
                    escaped = !escaped && other == '\\';
                    ends
                });
                let Some((close, _)) = close else {
                    return Err(syntax(format!("unexpected char {c:?} at {}", self.at), self.line));
                };
                let text = unescape(&body[..close]).map_err(|message| syntax(message, self.line))?;
                self.push(Token::Str(text));
                self.skip(close + 2);
            } else if let Some(op) = OPERATORS.iter().find(|op| rest.starts_with(**op)) {
                match *op {
                    "{" => open.push("}"),
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "}" | ")" | "]" => match open.pop() {
                        None => return Err(syntax(format!("unexpected '{op}'"), self.line)),
                        Some(wanted) if wanted != *op => {
                            return Err(syntax(format!("unexpected '{op}', expected '{wanted}'"), self.line));
                        }
                        Some(_) => {}
                    },
                    _ => {}
                }
                self.push(Token::Op(op));
                self.skip(op.len());
            } else {
                return Err(syntax(format!("unexpected char {c:?} at {}", self.at), self.line));
            }
        }
    }
}

/// The length of ` raw %}`, if that is what follows `{%` and its sign.
fn raw_begin(text: &str) -> Option<usize> {
    let after = text.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match after.strip_prefix("-%}") {
        Some(rest) => rest.trim_start_matches(is_space),
        None => after.strip_prefix("%}")?,
    };
    Some(text.len() - rest.len())
}

/// Digits with single underscores between them: their length.
fn digits(text: &str, is_digit: impl Fn(u8) -> bool) -> usize {
    let bytes = text.as_bytes();
    let mut len = 0;
    while len < bytes.len() {
        if is_digit(bytes[len]) {
            len += 1;
        } else if bytes[len] == b'_' && len > 0 && bytes.get(len + 1).copied().is_some_and(&is_digit) {
            len += 2;
        } else {
            break;
        }
    }
    len
}

/// A number's token and length.
fn number(text: &str) -> Result<(Token, usize), String> {
    let whole = digits(text, |byte| byte.is_ascii_digit());
    let mut len = whole;
    let fraction = text[len..].strip_prefix('.').map_or(0, |rest| digits(rest, |byte| byte.is_ascii_digit()));
    if fraction > 0 {
        len += 1 + fraction;
    }
    let exponent = text[len..].strip_prefix(['e', 'E']).map_or(0, |rest| {
        let sign = usize::from(rest.starts_with(['+', '-']));
        match digits(&rest[sign..], |byte| byte.is_ascii_digit()) {
            0 => 0,
            n => 1 + sign + n,
        }
    });
    len += exponent;
    if len > whole {
        let plain: String = text[..len].chars().filter(|&c| c != '_').collect();
        return Ok((Token::Float(plain.parse().map_err(|_| format!("bad number {plain}"))?), len));
    }
    for (prefix, base) in [("0b", 2), ("0o", 8), ("0x", 16)] {
        if text.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix)) {
            let body = &text[2..];
            let lead = usize::from(body.starts_with('_'));
            let n = digits(&body[lead..], |byte| (byte as char).is_digit(base));
            if n > 0 {
                let plain = body[..lead + n].chars().filter(|&c| c != '_').collect();
                return Ok((Token::Integer(plain, base), 2 + lead + n));
            }
        }
    }
    // A leading zero stands alone, or with zeros.
    let len = if text.starts_with('0') { digits(text, |byte| byte == b'0') } else { whole };
    Ok((Token::Integer(text[..len].chars().filter(|&c| c != '_').collect(), 10), len))
}

/// A string literal's escapes, as Python's unicode-escape reads them.
fn unescape(body: &str) -> Result<String, String> {
    let mut out = String::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escape) = chars.next() else {
            return Err("\\ at end of string".to_owned());
        };
        let code = |chars: &mut std::str::Chars<'_>, digits: usize| -> Result<char, String> {
            let text =
                chars.as_str().get(..digits).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
            let text = text.ok_or_else(|| format!("truncated \\{escape} escape"))?;
            *chars = chars.as_str()[digits..].chars();
            u32::from_str_radix(text, 16)
                .ok()
                .and_then(char::from_u32)
                .ok_or_else(|| format!("\\{escape}{text} is no character"))
        };
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escape),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            'x' => out.push(code(&mut chars, 2)?),
            'u' => out.push(code(&mut chars, 4)?),
            'U' => out.push(code(&mut chars, 8)?),
            'N' => return Err("\\N{...} escapes are not supported".to_owned()),
            '0'..='7' => {
                let mut value = escape as u32 - '0' as u32;
                for _ in 0..2 {
                    let Some(digit) = chars.as_str().chars().next().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit;
                    chars.next();
                }
                out.extend(char::from_u32(value));
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Ok(out)
}
