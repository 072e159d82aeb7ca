//! Tests: what stands behind `is`.

use super::call::Args;
use super::fault::{Result, type_error};
use super::filters;
use super::interpreter::Interpreter;
use super::methods;
use super::number::Op;
use super::operators;
use super::repr;
use super::value::Value;

type Check = fn(&mut Interpreter<'_>, &Value, &[Value]) -> Result<bool>;

/// Names, what they test, how many arguments they take.
const CHECKS: &[(&str, Check, usize)] = &[
    ("!=", |i, a, b| Ok(!a.equals(i.rt(), &b[0])?), 1),
    ("<", |i, a, b| a.ordered(i.rt(), &b[0], "<"), 1),
    ("<=", |i, a, b| a.ordered(i.rt(), &b[0], "<="), 1),
    ("==", |i, a, b| a.equals(i.rt(), &b[0]), 1),
    (">", |i, a, b| a.ordered(i.rt(), &b[0], ">"), 1),
    (">=", |i, a, b| a.ordered(i.rt(), &b[0], ">="), 1),
    ("boolean", |_, a, _| Ok(matches!(a, Value::Bool(_))), 0),
    ("callable", |_, a, _| Ok(a.is_callable()), 0),
    ("defined", |_, a, _| Ok(!a.is_undefined()), 0),
    ("divisibleby", |i, a, b| remainder_is(i, a, &b[0], 0), 1),
    ("eq", |i, a, b| a.equals(i.rt(), &b[0]), 1),
    ("equalto", |i, a, b| a.equals(i.rt(), &b[0]), 1),
    ("escaped", |_, a, _| Ok(matches!(a, Value::Str(text) if text.is_safe())), 0),
    ("even", |i, a, _| remainder_is(i, a, &Value::Int(2), 0), 0),
    ("false", |_, a, _| Ok(matches!(a, Value::Bool(false))), 0),
    ("filter", |_, a, _| Ok(matches!(a, Value::Str(text) if filters::number(text.as_str()).is_some())), 0),
    ("float", |_, a, _| Ok(matches!(a, Value::Float(_))), 0),
    ("ge", |i, a, b| a.ordered(i.rt(), &b[0], ">="), 1),
    ("greaterthan", |i, a, b| a.ordered(i.rt(), &b[0], ">"), 1),
    ("gt", |i, a, b| a.ordered(i.rt(), &b[0], ">"), 1),
    ("in", |i, a, b| b[0].contains(i.rt(), a), 1),
    ("integer", |_, a, _| Ok(matches!(a, Value::Int(_) | Value::Big(_))), 0),
    ("iterable", |_, a, _| Ok(a.iterate().is_ok() || matches!(a, Value::Loop(_))), 0),
    ("le", |i, a, b| a.ordered(i.rt(), &b[0], "<="), 1),
    ("lessthan", |i, a, b| a.ordered(i.rt(), &b[0], "<"), 1),
    ("lower", |i, a, _| cased(i, a, methods::islower), 0),
    ("lt", |i, a, b| a.ordered(i.rt(), &b[0], "<"), 1),
    ("mapping", |_, a, _| Ok(matches!(a, Value::Dict(_))), 0),
    ("ne", |i, a, b| Ok(!a.equals(i.rt(), &b[0])?), 1),
    ("none", |_, a, _| Ok(matches!(a, Value::None)), 0),
    (
        "number",
        |_, a, _| Ok(matches!(a, Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_))),
        0,
    ),
    ("odd", |i, a, _| remainder_is(i, a, &Value::Int(2), 1), 0),
    ("sameas", |_, a, b| Ok(a.same(&b[0])), 1),
    (
        "sequence",
        |_, a, _| {
            Ok(matches!(
                a,
                Value::Str(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Range(_)
                    | Value::Undefined(_)
            ))
        },
        0,
    ),
    ("string", |_, a, _| Ok(matches!(a, Value::Str(_))), 0),
    ("test", |_, a, _| Ok(matches!(a, Value::Str(text) if number(text.as_str()).is_some())), 0),
    ("true", |_, a, _| Ok(matches!(a, Value::Bool(true))), 0),
    ("undefined", |_, a, _| Ok(a.is_undefined()), 0),
    ("upper", |i, a, _| cased(i, a, methods::isupper), 0),
];

pub(super) fn number(name: &str) -> Option<u16> {
    CHECKS.binary_search_by(|(other, ..)| (*other).cmp(name)).ok().map(|at| at as u16)
}

pub(super) fn call(interpreter: &mut Interpreter<'_>, number: u16, value: Value, args: Args) -> Result<bool> {
    let (name, check, wanted) = CHECKS[usize::from(number)];
    let mut given = args.args;
    // Each takes one argument at most, whatever its name.
    given.extend(args.kwargs.into_iter().map(|(_, value)| value));
    if given.len() != wanted {
        return Err(type_error(format!(
            "the test {name} takes {wanted} arguments but {} were given",
            given.len()
        )));
    }
    check(interpreter, &value, &given)
}

fn cased(interpreter: &Interpreter<'_>, value: &Value, is: fn(&str) -> bool) -> Result<bool> {
    let text = repr::to_str(interpreter.rt(), value)?;
    interpreter.rt().step(text.len() as u64)?;
    Ok(is(text.as_str()))
}

fn remainder_is(interpreter: &Interpreter<'_>, value: &Value, by: &Value, wanted: i64) -> Result<bool> {
    let rt = interpreter.rt();
    operators::binary(rt, Op::Mod, value, by)?.equals(rt, &Value::Int(wanted))
}
