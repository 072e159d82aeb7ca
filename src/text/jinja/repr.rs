//! str() and repr().

use super::fault::Result;
use super::meter::Rt;
use super::number;
use super::text::{Builder, Str};
use super::unicode;
use super::value::Value;

/// str()
pub(super) fn to_str(rt: &Rt, value: &Value) -> Result<Str> {
    if let Value::Str(text) = value {
        return Ok(text.clone());
    }
    let mut out = Builder::new(rt)?;
    write_str(rt, &mut out, value)?;
    Ok(out.finish())
}

pub(super) fn to_repr(rt: &Rt, value: &Value) -> Result<Str> {
    let mut out = Builder::new(rt)?;
    write_repr(rt, &mut out, value)?;
    Ok(out.finish())
}

/// repr() for a message: cut where it is long.
pub(super) fn short(rt: &Rt, value: &Value) -> String {
    const MOST: usize = 80;
    let text = match value {
        Value::Str(text) => {
            let cut = text.slice(rt, 0..text.offset(MOST)).map(Value::Str);
            cut.and_then(|cut| to_repr(rt, &cut))
        }
        Value::List(_) | Value::Tuple(_) | Value::Dict(_) => return format!("a {}", value.type_name()),
        _ => to_repr(rt, value),
    };
    text.map_or_else(|_| value.type_name().to_owned(), |text| text.as_str().chars().take(2 * MOST).collect())
}

/// str(), as `{{ }}` writes it.
pub(super) fn write_str(rt: &Rt, out: &mut Builder, value: &Value) -> Result<()> {
    match value {
        Value::Str(text) => out.push_str(text),
        Value::Undefined(_) => Ok(()),
        _ => write_repr(rt, out, value),
    }
}

pub(super) fn write_repr(rt: &Rt, out: &mut Builder, value: &Value) -> Result<()> {
    match value {
        Value::Undefined(_) => out.push("Undefined", false),
        Value::None => out.push("None", false),
        Value::Bool(true) => out.push("True", false),
        Value::Bool(false) => out.push("False", false),
        Value::Int(value) => out.push(&value.to_string(), false),
        Value::Big(value) => out.push(&number::int_text(value)?, false),
        Value::Float(value) => out.push(&number::float_repr(*value), false),
        Value::Str(text) => write_quoted(out, text),
        Value::Builtin(builtin) => out.push(builtin.repr(), false),
        Value::Blocks => out.push("<TemplateReference None>", false),
        _ => write_object(rt, out, value),
    }
}

#[inline(never)]
fn write_object(rt: &Rt, out: &mut Builder, value: &Value) -> Result<()> {
    rt.deeper()?;
    match value {
        Value::List(list) => {
            out.push("[", false)?;
            write_items(rt, out, &list.items)?;
            out.push("]", false)
        }
        Value::Tuple(list) => {
            out.push("(", false)?;
            write_items(rt, out, &list.items)?;
            out.push(if list.items.len() == 1 { ",)" } else { ")" }, false)
        }
        Value::Dict(dict) => write_pairs(rt, out, dict.entries().iter().map(|(key, value)| (key, value))),
        Value::View(view) => {
            out.push(value.type_name(), false)?;
            out.push("([", false)?;
            let mut source = value.iterate()?;
            for at in 0..view.dict.len() {
                if at > 0 {
                    out.push(", ", false)?;
                }
                if let Some(item) = source.next(rt)? {
                    write_repr(rt, out, &item)?;
                }
            }
            out.push("])", false)
        }
        Value::Range(range) => {
            let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
            out.push(&format!("range({}, {}{step})", range.start, range.stop), false)
        }
        Value::Namespace(namespace) => {
            out.push("<Namespace ", false)?;
            let vars = namespace.vars.borrow().clone();
            out.push("{", false)?;
            for (i, (key, value)) in vars.iter().enumerate() {
                out.push(if i > 0 { ", " } else { "" }, false)?;
                write_quoted(out, key)?;
                out.push(": ", false)?;
                write_repr(rt, out, value)?;
            }
            out.push("}>", false)
        }
        Value::Macro(called) => match called.def.name {
            Some(_) => out.push(&format!("<Macro '{}'>", called.def.title), false),
            None => out.push("<Macro anonymous>", false),
        },
        Value::Loop(context) => {
            let length = context.known_length().map_or_else(|| "?".to_owned(), |len| len.to_string());
            out.push(&format!("<LoopContext {}/{length}>", context.turns()), false)
        }
        Value::Method(method) => out.push(
            &format!("<built-in method {} of {} object>", method.name.as_str(), method.owner.type_name()),
            false,
        ),
        Value::Iterator(iterator) => out.push(&format!("<{} object>", iterator.name), false),
        _ => out.push(&format!("<{}>", value.object_name()), false),
    }
}

fn write_items(rt: &Rt, out: &mut Builder, items: &[Value]) -> Result<()> {
    for (i, item) in items.iter().enumerate() {
        rt.step(1)?;
        if i > 0 {
            out.push(", ", false)?;
        }
        write_repr(rt, out, item)?;
    }
    Ok(())
}

fn write_pairs<'v>(
    rt: &Rt,
    out: &mut Builder,
    pairs: impl Iterator<Item = (&'v Value, &'v Value)>,
) -> Result<()> {
    out.push("{", false)?;
    for (i, (key, value)) in pairs.enumerate() {
        rt.step(1)?;
        if i > 0 {
            out.push(", ", false)?;
        }
        write_repr(rt, out, key)?;
        out.push(": ", false)?;
        write_repr(rt, out, value)?;
    }
    out.push("}", false)
}

/// A string in quotes, as Python chooses and escapes them.
fn write_quoted(out: &mut Builder, text: &Str) -> Result<()> {
    let quote = if text.as_str().contains('\'') && !text.as_str().contains('"') { "\"" } else { "'" };
    if text.is_safe() {
        out.push("Markup(", false)?;
    }
    out.push(quote, false)?;
    for (piece, from) in text.pieces(0..text.len()) {
        let mut at = 0;
        for (found, c) in piece.char_indices() {
            let plain = match c {
                '\\' => false,
                '\'' | '"' => !quote.starts_with(c),
                _ => unicode::is_printable(c),
            };
            if plain {
                continue;
            }
            out.push(&piece[at..found], from)?;
            at = found + c.len_utf8();
            match c {
                '\n' => out.push("\\n", from)?,
                '\r' => out.push("\\r", from)?,
                '\t' => out.push("\\t", from)?,
                '\\' | '\'' | '"' => out.push(&format!("\\{c}"), from)?,
                '\0'..='\u{ff}' => out.push(&format!("\\x{:02x}", c as u32), from)?,
                '\u{100}'..='\u{ffff}' => out.push(&format!("\\u{:04x}", c as u32), from)?,
                _ => out.push(&format!("\\U{:08x}", c as u32), from)?,
            }
        }
        out.push(&piece[at..], from)?;
    }
    out.push(quote, false)?;
    if text.is_safe() {
        out.push(")", false)?;
    }
    Ok(())
}
