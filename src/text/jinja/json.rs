//! JSON: what callers give, and the filter tojson as transformers defines it (Python's json.dumps).

use num_bigint::BigInt;
use serde_json::Value as Json;

use super::call::{Args, count};
use super::dict::DictBuilder;
use super::fault::{Result, type_error};
use super::meter::Rt;
use super::number;
use super::text::{Builder, Str};
use super::value::{ListBuilder, Value, need_str, unpack};

/// A caller's value; its strings are a message's, or the template's own.
pub(super) fn from_json(rt: &Rt, json: &Json, from_message: bool) -> Result<Value> {
    rt.deeper()?;
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => Value::Int(value),
            (None, Some(value), _) => Value::integer(rt, BigInt::from(value))?,
            (None, None, value) => Value::Float(value.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Str(Str::with(rt, text, from_message)?),
        Json::Array(list) => {
            let mut items = ListBuilder::with_capacity(rt, list.len())?;
            for item in list {
                items.push(from_json(rt, item, from_message)?)?;
            }
            Value::list(items)?
        }
        Json::Object(map) => {
            let mut dict = DictBuilder::new(rt)?;
            for (key, value) in map {
                let key = Value::Str(Str::with(rt, key, from_message)?);
                dict.insert(rt, key, from_json(rt, value, from_message)?)?;
            }
            Value::Dict(dict.finish()?)
        }
    })
}

struct Style {
    indent: Option<Str>,
    item: Str,
    key: Str,
    ascii: bool,
    sort_keys: bool,
}

pub(super) fn tojson(rt: &Rt, value: &Value, args: Args) -> Result<Value> {
    let mut bound = args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?;
    let indent = match bound.given(1) {
        None => None,
        Some(Value::Str(text)) => Some(text),
        Some(width) => {
            let mut out = Builder::new(rt)?;
            out.repeat(" ", count(width.defined(rt)?.to_index("tojson: indent")?), false)?;
            Some(out.finish())
        }
    };
    let (item, key) = match bound.given(2) {
        Some(separators) => {
            let pair = unpack(rt, &separators, 2)?;
            let what = "tojson: a separator";
            (need_str(rt, &pair[0], what)?.clone(), need_str(rt, &pair[1], what)?.clone())
        }
        None => (Str::new(rt, if indent.is_some() { "," } else { ", " })?, Str::new(rt, ": ")?),
    };
    let style = Style { indent, item, key, ascii: bound.truth(0, false), sort_keys: bound.truth(3, false) };
    let mut out = Builder::new(rt)?;
    style.write(rt, &mut out, value, 0)?;
    Ok(Value::Str(out.finish()))
}

impl Style {
    fn write(&self, rt: &Rt, out: &mut Builder, value: &Value, depth: usize) -> Result<()> {
        rt.deeper()?;
        match value {
            Value::None => out.push("null", false),
            Value::Bool(value) => out.push(if *value { "true" } else { "false" }, false),
            Value::Int(value) => out.push(&value.to_string(), false),
            Value::Big(value) => out.push(&number::int_text(value)?, false),
            Value::Float(value) => out.push(&float(*value), false),
            Value::Str(text) => self.string(out, text),
            Value::List(list) | Value::Tuple(list) => {
                out.push("[", false)?;
                for (i, item) in list.items.iter().enumerate() {
                    self.separate(out, i, depth + 1)?;
                    self.write(rt, out, item, depth + 1)?;
                }
                self.close(out, "]", list.items.len(), depth)
            }
            Value::Dict(dict) => {
                out.push("{", false)?;
                let mut order = rt.list(dict.len())?;
                order.extend(0..dict.len());
                let entries = dict.entries();
                if self.sort_keys {
                    super::sort::by(rt, &mut order, |&a, &b| entries[a].0.ordered(rt, &entries[b].0, "<"))?;
                }
                for (i, at) in order.into_iter().enumerate() {
                    let (key, value) = &entries[at];
                    self.separate(out, i, depth + 1)?;
                    self.key(rt, out, key)?;
                    out.push_str(&self.key)?;
                    self.write(rt, out, value, depth + 1)?;
                }
                self.close(out, "}", dict.len(), depth)
            }
            _ => Err(type_error(format!("Object of type {} is not JSON serializable", value.type_name()))),
        }
    }

    fn key(&self, rt: &Rt, out: &mut Builder, key: &Value) -> Result<()> {
        match key {
            Value::Str(text) => return self.string(out, text),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_) => {}
            _ => {
                return Err(type_error(format!(
                    "keys must be str, int, float, bool or None, not {}",
                    key.type_name()
                )));
            }
        }
        out.push("\"", false)?;
        self.write(rt, out, key, 0)?;
        out.push("\"", false)
    }

    fn separate(&self, out: &mut Builder, index: usize, depth: usize) -> Result<()> {
        if index > 0 {
            out.push_str(&self.item)?;
        }
        self.line(out, depth)
    }

    fn close(&self, out: &mut Builder, bracket: &str, len: usize, depth: usize) -> Result<()> {
        if len > 0 {
            self.line(out, depth)?;
        }
        out.push(bracket, false)
    }

    fn line(&self, out: &mut Builder, depth: usize) -> Result<()> {
        if let Some(indent) = &self.indent {
            out.push("\n", false)?;
            for _ in 0..depth {
                out.push_str(indent)?;
            }
        }
        Ok(())
    }

    fn string(&self, out: &mut Builder, text: &Str) -> Result<()> {
        out.push("\"", false)?;
        for (piece, from) in text.pieces(0..text.len()) {
            let mut at = 0;
            for (found, c) in piece.char_indices() {
                let escaped = match c {
                    '"' => "\\\"".to_owned(),
                    '\\' => "\\\\".to_owned(),
                    '\n' => "\\n".to_owned(),
                    '\r' => "\\r".to_owned(),
                    '\t' => "\\t".to_owned(),
                    '\x08' => "\\b".to_owned(),
                    '\x0c' => "\\f".to_owned(),
                    c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                        c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
                    }
                    _ => continue,
                };
                out.push(&piece[at..found], from)?;
                out.push(&escaped, from)?;
                at = found + c.len_utf8();
            }
            out.push(&piece[at..], from)?;
        }
        out.push("\"", false)
    }
}

fn float(value: f64) -> String {
    match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ if value.is_nan() => "NaN".to_owned(),
        _ => number::float_repr(value),
    }
}

/// About as many bytes as the value takes when written.
pub(in crate::text) fn size(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len() + 2,
        Json::Array(list) => list.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Json::Object(map) => map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>() + 2,
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
    }
}
