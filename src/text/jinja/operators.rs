//! `a + b` and its kin.

use super::call::count;
use super::fault::{Result, type_error};
use super::format;
use super::markup;
use super::meter::Rt;
use super::number::{self, Op};
use super::text::{Builder, Str};
use super::value::{List, ListBuilder, Value};

pub(super) fn binary(rt: &Rt, op: Op, a: &Value, b: &Value) -> Result<Value> {
    if let Some(value) = number::binary(rt, op, a, b)? {
        return Ok(value);
    }
    match (op, a, b) {
        // A string formats Undefined as nothing.
        (Op::Mod, Value::Str(text), _) => return Ok(Value::Str(format::percent(rt, text, b)?)),
        (_, Value::Undefined(missing), _) | (_, _, Value::Undefined(missing)) => {
            return Err(missing.fault(rt));
        }
        (Op::Add, Value::Str(a), Value::Str(b)) => return Ok(Value::Str(join(rt, a, b)?)),
        (Op::Add, Value::List(a), Value::List(b)) => return Ok(Value::List(concat(rt, a, b)?.finish()?)),
        (Op::Add, Value::Tuple(a), Value::Tuple(b)) => return Ok(Value::Tuple(concat(rt, a, b)?.finish()?)),
        (Op::Add, Value::Str(_) | Value::List(_) | Value::Tuple(_), _) => {
            let name = if let Value::Tuple(_) = a { "tuple" } else { a.type_name() };
            return Err(type_error(format!(
                "can only concatenate {name} (not \"{}\") to {name}",
                b.type_name()
            )));
        }
        (Op::Mul, Value::Str(_) | Value::List(_) | Value::Tuple(_), _) => {
            if let Some(value) = repeat(rt, a, b)? {
                return Ok(value);
            }
        }
        (Op::Mul, _, Value::Str(_) | Value::List(_) | Value::Tuple(_)) => {
            if let Some(value) = repeat(rt, b, a)? {
                return Ok(value);
            }
        }
        _ => {}
    }
    Err(type_error(format!(
        "unsupported operand type(s) for {}: '{}' and '{}'",
        op.sign(),
        a.type_name(),
        b.type_name()
    )))
}

/// Where one is safe, the other is escaped.
pub(super) fn join(rt: &Rt, a: &Str, b: &Str) -> Result<Str> {
    let safe = a.is_safe() || b.is_safe();
    let (a, b) =
        if safe { (markup::escape_str(rt, a)?, markup::escape_str(rt, b)?) } else { (a.clone(), b.clone()) };
    let mut out = Builder::with_capacity(rt, a.len() + b.len())?;
    out.push_str(&a)?;
    out.push_str(&b)?;
    Ok(out.finish_as(safe))
}

fn concat(rt: &Rt, a: &List, b: &List) -> Result<ListBuilder> {
    let mut list = ListBuilder::with_capacity(rt, a.items.len() + b.items.len())?;
    rt.step((a.items.len() + b.items.len()) as u64 / 4)?;
    for item in a.items.iter().chain(&b.items) {
        list.push(item.clone())?;
    }
    Ok(list)
}

/// None: `times` is no integer.
fn repeat(rt: &Rt, value: &Value, times: &Value) -> Result<Option<Value>> {
    if !matches!(times, Value::Bool(_) | Value::Int(_) | Value::Big(_)) {
        return match times {
            Value::Float(_)
            | Value::None
            | Value::Str(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_) => {
                Err(type_error(format!("can't multiply sequence by non-int of type '{}'", times.type_name())))
            }
            _ => Ok(None),
        };
    }
    let times = count(times.to_index("a count")?);
    let list = match value {
        Value::Str(text) => return repeat_str(rt, text, times).map(|text| Some(Value::Str(text))),
        Value::List(list) | Value::Tuple(list) => list,
        _ => return Ok(None),
    };
    let len = list.items.len().saturating_mul(times);
    let mut out = ListBuilder::with_capacity(rt, len)?;
    rt.step(len as u64 / 4)?;
    for _ in 0..if list.items.is_empty() { 0 } else { times } {
        for item in &list.items {
            out.push(item.clone())?;
        }
    }
    Ok(Some(if let Value::List(_) = value {
        Value::List(out.finish()?)
    } else {
        Value::Tuple(out.finish()?)
    }))
}

fn repeat_str(rt: &Rt, text: &Str, times: usize) -> Result<Str> {
    let mut out = Builder::new(rt)?;
    match text.origin() {
        super::text::Origin::Mixed(_) => {
            out.reserve(text.len().saturating_mul(times))?;
            for _ in 0..times {
                rt.step(1)?;
                out.push_str(text)?;
            }
        }
        _ => out.repeat(text.as_str(), times, text.tainted())?,
    }
    Ok(out.finish_as(text.is_safe()))
}
