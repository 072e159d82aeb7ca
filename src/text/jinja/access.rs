//! `a.b`, `a['b']`, `a[1:2]`: as jinja2's immutable sandbox allows them.

use std::rc::Rc;

use super::fault::{Kind, Result, type_error, value_error};
use super::interpreter::Interpreter;
use super::meter::Rt;
use super::methods;
use super::number;
use super::text::{Builder, Str};
use super::value::{List, ListBuilder, Range, Value, Why};

/// What lists and dicts offer in Python to change them, which the sandbox refuses.
fn changes(owner: &Value, name: &str) -> bool {
    match owner {
        Value::List(_) => {
            matches!(name, "append" | "clear" | "pop" | "reverse" | "insert" | "sort" | "extend" | "remove")
        }
        Value::Dict(_) => matches!(name, "clear" | "pop" | "popitem" | "setdefault" | "update"),
        _ => false,
    }
}

/// Names that objects of Python's have, none of which is for templates.
const INTERNAL: &[&str] = &[
    "__add__",
    "__bool__",
    "__call__",
    "__class__",
    "__class_getitem__",
    "__closure__",
    "__code__",
    "__contains__",
    "__defaults__",
    "__delattr__",
    "__delitem__",
    "__dict__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__func__",
    "__ge__",
    "__getattribute__",
    "__getitem__",
    "__getnewargs__",
    "__getstate__",
    "__globals__",
    "__gt__",
    "__hash__",
    "__iadd__",
    "__imul__",
    "__init__",
    "__init_subclass__",
    "__ior__",
    "__iter__",
    "__kwdefaults__",
    "__le__",
    "__len__",
    "__lt__",
    "__mod__",
    "__module__",
    "__mul__",
    "__name__",
    "__ne__",
    "__new__",
    "__next__",
    "__or__",
    "__qualname__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__reversed__",
    "__rmod__",
    "__rmul__",
    "__ror__",
    "__self__",
    "__setattr__",
    "__setitem__",
    "__sizeof__",
    "__str__",
    "__subclasshook__",
    "__weakref__",
];

/// Those of them that Undefined has.
const OF_OBJECTS: &[&str] = &[
    "__bool__",
    "__class__",
    "__doc__",
    "__eq__",
    "__hash__",
    "__init__",
    "__iter__",
    "__len__",
    "__module__",
    "__repr__",
    "__str__",
];

/// Python's getattr(); None: there is no such attribute.
fn attribute(interpreter: &mut Interpreter<'_>, owner: &Value, name: &Str) -> Result<Option<Value>> {
    let rt = interpreter.rt().clone();
    let text = name.as_str();
    let internal = match owner {
        Value::Namespace(_) => text == "__class__",
        Value::Undefined(_) => OF_OBJECTS.contains(&text),
        _ => INTERNAL.contains(&text),
    };
    if changes(owner, text) || internal {
        let why = format!("access to attribute '{text}' of '{}' object is unsafe.", owner.type_name());
        return Value::missing(&rt, Why::Hint(why), Kind::Security).map(Some);
    }
    if methods::exists(owner, text) {
        return Value::method(&rt, owner, name.clone()).map(Some);
    }
    Ok(match owner {
        Value::Namespace(namespace) => namespace.get(text)?,
        Value::Loop(context) => context.attr(interpreter, text)?,
        Value::Tuple(list) => {
            list.names.iter().position(|name| *name == text).and_then(|at| list.items.get(at).cloned())
        }
        Value::Cycler(cycler) => match text {
            "current" => cycler.items.items.get(cycler.at.get()).cloned(),
            "pos" => Some(Value::Int(cycler.at.get() as i64)),
            "items" => Some(Value::Tuple(cycler.items.clone())),
            _ => None,
        },
        Value::Joiner(joiner) => match text {
            "sep" => Some(joiner.separator.clone()),
            "used" => Some(Value::Bool(joiner.used.get())),
            _ => None,
        },
        Value::Macro(called) => {
            let def = called.def.clone();
            match text {
                "name" => Some(match def.name {
                    Some(name) => Value::str(&rt, interpreter.name(name))?,
                    None => Value::None,
                }),
                "arguments" => {
                    let mut names = Vec::new();
                    for &arg in &def.args {
                        names.push(Value::str(&rt, interpreter.name(arg))?);
                    }
                    Some(Value::tuple(&rt, names)?)
                }
                "catch_kwargs" => Some(Value::Bool(def.uses_kwargs)),
                "catch_varargs" => Some(Value::Bool(def.uses_varargs)),
                "caller" => Some(Value::Bool(def.uses_caller)),
                _ => None,
            }
        }
        Value::Range(range) => match text {
            "start" => Some(Value::Int(range.start)),
            "stop" => Some(Value::Int(range.stop)),
            "step" => Some(Value::Int(range.step)),
            _ => None,
        },
        Value::Int(_) | Value::Big(_) | Value::Bool(_) => match text {
            "real" | "numerator" => number::to_big(owner).map(|big| Value::integer(&rt, big)).transpose()?,
            "imag" => Some(Value::Int(0)),
            "denominator" => Some(Value::Int(1)),
            _ => None,
        },
        Value::Float(_) => match text {
            "real" => Some(owner.clone()),
            "imag" => Some(Value::Float(0.0)),
            _ => None,
        },
        Value::Blocks => interpreter.block_number(text)?.map(Value::Block),
        _ => None,
    })
}

/// Python's `owner[key]`; None: it raises a TypeError or LookupError.
fn item(rt: &Rt, owner: &Value, key: &Value) -> Result<Option<Value>> {
    let at = |len: usize| -> Option<usize> {
        let index = key.as_i64()?;
        let index = if index < 0 { index.checked_add(len as i64)? } else { index };
        usize::try_from(index).ok().filter(|&index| index < len)
    };
    Ok(match owner {
        Value::Dict(dict) => match dict.get(rt, key) {
            Ok(value) => value.cloned(),
            Err(fault) if fault.kind() == Kind::Type => None,
            Err(fault) => return Err(fault),
        },
        Value::List(list) | Value::Tuple(list) => at(list.items.len()).map(|at| list.items[at].clone()),
        Value::Range(range) => at(range.len).map(|at| Value::Int(range.get(at))),
        Value::Str(text) => match at(text.chars()) {
            Some(at) => {
                rt.work(text.len())?;
                let start = text.offset(at);
                let len = text.as_str()[start..].chars().next().map_or(0, char::len_utf8);
                let c = text.slice(rt, start..start + len)?;
                Some(Value::Str(c.set_safe(rt, text.is_safe())?))
            }
            None => None,
        },
        Value::Undefined(missing) => return Err(missing.fault(rt)),
        _ => None,
    })
}

fn undefined(rt: &Rt, owner: &Value, key: Value) -> Result<Value> {
    if let Value::Undefined(_) = key {
        // It is named, not kept: one that holds another, which holds another, would be dropped by recursion.
        return Value::hint(rt, format!("{} has no element Undefined", owner.object_name()));
    }
    Value::undefined(rt, Why::Member(owner.object_name(), key))
}

/// `owner.name`: an attribute, else an element.
pub(super) fn getattr(interpreter: &mut Interpreter<'_>, owner: &Value, name: &Str) -> Result<Value> {
    let rt = interpreter.rt().clone();
    if let Some(value) = attribute(interpreter, owner, name)? {
        return Ok(value);
    }
    owner.defined(&rt)?;
    let key = Value::Str(name.clone());
    match item(&rt, owner, &key)? {
        Some(value) => Ok(value),
        None => undefined(&rt, owner, key),
    }
}

/// `owner[key]`: an element, else an attribute.
pub(super) fn getitem(interpreter: &mut Interpreter<'_>, owner: &Value, key: &Value) -> Result<Value> {
    let rt = interpreter.rt().clone();
    if let Some(value) = item(&rt, owner, key)? {
        return Ok(value);
    }
    if let Value::Str(name) = key
        && let Some(value) = attribute(interpreter, owner, name)?
    {
        return Ok(value);
    }
    undefined(&rt, owner, key.clone())
}

/// A slice of `len` items: the first index, the one behind the last, how many, the step.
fn bounds(rt: &Rt, parts: &[Option<Value>; 3], len: usize) -> Result<(i64, i64, usize, i64)> {
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = match part {
            None | Some(Value::None) => None,
            Some(value) => {
                Some(value.defined(rt)?.to_index("slice indices must be integers or None").map_err(|_| {
                    type_error("slice indices must be integers or None or have an __index__ method")
                })?)
            }
        };
    }
    let len = len as i64;
    let step = numbers[2].unwrap_or(1);
    if step == 0 {
        return Err(value_error("slice step cannot be zero"));
    }
    let (low, high) = if step < 0 { (-1, len - 1) } else { (0, len) };
    let clip = |index: i64| if index < 0 { index.saturating_add(len).max(low) } else { index.min(high) };
    let start = numbers[0].map_or(if step < 0 { high } else { low }, clip);
    let stop = numbers[1].map_or(if step < 0 { low } else { high }, clip);
    let (distance, step_) = (i128::from(stop) - i128::from(start), i128::from(step));
    let count = if distance.signum() == step_.signum() {
        (distance.abs() + step_.abs() - 1) / step_.abs()
    } else {
        0
    };
    Ok((start, stop, count as usize, step))
}

pub(super) fn slice(rt: &Rt, owner: &Value, parts: &[Option<Value>; 3]) -> Result<Value> {
    match owner {
        Value::Str(text) => {
            let (start, _, count, step) = bounds(rt, parts, text.chars())?;
            Ok(Value::Str(slice_str(rt, text, start, count, step)?.set_safe(rt, text.is_safe())?))
        }
        Value::List(list) => Ok(Value::List(slice_list(rt, list, parts)?.finish()?)),
        Value::Tuple(list) => Ok(Value::Tuple(slice_list(rt, list, parts)?.finish()?)),
        Value::Range(range) => {
            let (start, stop, _, step) = bounds(rt, parts, range.len)?;
            let at = |index: i64| range.start.saturating_add(index.saturating_mul(range.step));
            let (first, stop) = (at(start), at(stop));
            let step = range.step.checked_mul(step).unwrap_or(if step < 0 { i64::MIN } else { i64::MAX });
            match Range::new(rt, first, stop, step)? {
                Some(range) => Ok(Value::Range(range)),
                None => Err(value_error("a range is too long")),
            }
        }
        Value::Undefined(missing) => Err(missing.fault(rt)),
        Value::Dict(_) => Err(type_error("unhashable type: 'slice'")),
        _ => Err(type_error(format!("'{}' object is not subscriptable", owner.type_name()))),
    }
}

fn slice_list(rt: &Rt, list: &Rc<List>, parts: &[Option<Value>; 3]) -> Result<ListBuilder> {
    let (start, _, count, step) = bounds(rt, parts, list.items.len())?;
    rt.step(count as u64 / 4)?;
    let mut out = ListBuilder::with_capacity(rt, count)?;
    for at in 0..count as i64 {
        out.push(list.items[(start + at * step) as usize].clone())?;
    }
    Ok(out)
}

/// `count` characters from `start` on, each `step` further.
pub(super) fn slice_str(rt: &Rt, text: &Str, start: i64, count: usize, step: i64) -> Result<Str> {
    rt.work(text.len())?;
    if count == 0 {
        return Str::new(rt, "");
    }
    let first = text.offset(start as usize);
    if step == 1 {
        let len = text.as_str()[first..].char_indices().nth(count).map_or(text.len() - first, |(at, _)| at);
        return text.slice(rt, first..first + len);
    }
    // Byte offsets of all characters: 4 bytes each, of a string that the budget holds.
    let mut offsets = rt.list::<u32>(text.chars() + 1)?;
    offsets.extend(text.as_str().char_indices().map(|(at, _)| at as u32));
    offsets.push(text.len() as u32);
    let mut out = Builder::new(rt)?;
    for at in 0..count as i64 {
        let at = (start + at * step) as usize;
        out.push_part(text, offsets[at] as usize..offsets[at + 1] as usize)?;
    }
    Ok(out.finish())
}

/// The filter attr: an attribute, no element.
pub(super) fn attr_only(interpreter: &mut Interpreter<'_>, owner: &Value, name: &Str) -> Result<Value> {
    let rt = interpreter.rt().clone();
    owner.defined(&rt)?;
    match attribute(interpreter, owner, name)? {
        Some(value) => Ok(value),
        None => undefined(&rt, owner, Value::Str(name.clone())),
    }
}
