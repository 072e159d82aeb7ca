//! The filters of sequences and values, and the table of all filters.

use std::rc::Rc;

use super::access;
use super::call::{Args, count};
use super::checks;
use super::fault::{Fault, Kind, Result, runtime_error, type_error};
use super::interpreter::Interpreter;
use super::json;
use super::meter::Rt;
use super::methods;
use super::number::{self, Op};
use super::operators;
use super::repr;
use super::sort;
use super::text::Str;
use super::text_filters as text;
use super::value::{ListBuilder, Source, Value};

pub(super) type Filter = fn(&mut Interpreter<'_>, Value, Args) -> Result<Value>;

const FILTERS: &[(&str, Filter)] = &[
    ("abs", abs),
    ("attr", attr),
    ("batch", batch),
    ("capitalize", text::capitalize),
    ("center", text::center),
    ("count", length),
    ("d", default),
    ("default", default),
    ("dictsort", dictsort),
    ("e", text::escape),
    ("escape", text::escape),
    ("filesizeformat", text::filesizeformat),
    ("first", first),
    ("float", float),
    ("forceescape", text::forceescape),
    ("format", text::format),
    ("groupby", groupby),
    ("indent", text::indent),
    ("int", int),
    ("items", items),
    ("join", join),
    ("last", last),
    ("length", length),
    ("list", list),
    ("lower", text::lower),
    ("map", map),
    ("max", max),
    ("min", min),
    ("pprint", text::pprint),
    ("random", random),
    ("reject", reject),
    ("rejectattr", rejectattr),
    ("replace", text::replace),
    ("reverse", reverse),
    ("round", round),
    ("safe", text::safe),
    ("select", select),
    ("selectattr", selectattr),
    ("slice", slice),
    ("sort", sort),
    ("string", text::string),
    ("striptags", text::striptags),
    ("sum", sum),
    ("title", text::title),
    ("tojson", tojson),
    ("trim", text::trim),
    ("truncate", text::truncate),
    ("unique", unique),
    ("upper", text::upper),
    ("urlencode", text::urlencode),
    ("urlize", text::urlize),
    ("wordcount", text::wordcount),
    ("wordwrap", text::wordwrap),
    ("xmlattr", text::xmlattr),
];

pub(super) fn number(name: &str) -> Option<u16> {
    FILTERS.binary_search_by(|(other, _)| (*other).cmp(name)).ok().map(|at| at as u16)
}

pub(super) fn call(
    interpreter: &mut Interpreter<'_>,
    number: u16,
    value: Value,
    args: Args,
) -> Result<Value> {
    FILTERS[usize::from(number)].1(interpreter, value, args)
}

fn wrong_argument(message: impl Into<String>) -> Fault {
    Fault::new(Kind::Runtime, message)
}

/// A path like `a.b.0` into each item.
struct Getter {
    parts: Vec<Value>,
    default: Option<Value>,
    ignore_case: bool,
}

impl Getter {
    fn new(rt: &Rt, attribute: Option<&Value>, ignore_case: bool) -> Result<Self> {
        let mut parts = Vec::new();
        match attribute {
            None | Some(Value::None) => {}
            Some(Value::Str(path)) => {
                for part in path.as_str().split('.') {
                    rt.step(1)?;
                    let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                    parts.push(match part.parse() {
                        Ok(index) if digits => Value::Int(index),
                        _ => Value::Str(Str::with(rt, part, path.tainted())?),
                    });
                }
            }
            Some(other) => parts.push(other.clone()),
        }
        Ok(Self { parts, default: None, ignore_case })
    }

    fn get(&self, interpreter: &mut Interpreter<'_>, item: &Value) -> Result<Value> {
        let mut value = item.clone();
        for part in &self.parts {
            interpreter.rt().step(1)?;
            value = access::getitem(interpreter, &value, part)?;
            if let (true, Some(default)) = (value.is_undefined(), &self.default) {
                value = default.clone();
            }
        }
        match &value {
            Value::Str(text) if self.ignore_case => Ok(Value::Str(methods::lower(interpreter.rt(), text)?)),
            _ => Ok(value),
        }
    }
}

/// Items with the keys by which they are compared.
fn keyed(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    mut key: impl FnMut(&mut Interpreter<'_>, &Value) -> Result<Value>,
) -> Result<(Rc<super::value::List>, Rc<super::value::List>)> {
    let rt = interpreter.rt().clone();
    let items = value.collect(&rt)?.finish()?;
    let mut keys = ListBuilder::with_capacity(&rt, items.items.len())?;
    for item in &items.items {
        keys.push(key(interpreter, item)?)?;
    }
    Ok((items, keys.finish()?))
}

/// Positions of the keys in order.
fn order(rt: &Rt, keys: &[Value], reverse: bool) -> Result<Vec<usize>> {
    let mut order = rt.list(keys.len())?;
    order.extend(0..keys.len());
    if reverse {
        order.reverse();
    }
    sort::by(rt, &mut order, |&a, &b| keys[a].ordered(rt, &keys[b], "<"))?;
    if reverse {
        order.reverse();
    }
    Ok(order)
}

fn pick(rt: &Rt, items: &[Value], order: &[usize]) -> Result<ListBuilder> {
    let mut list = ListBuilder::with_capacity(rt, order.len())?;
    for &at in order {
        list.push(items[at].clone())?;
    }
    Ok(list)
}

fn abs(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("abs", [], 0)?;
    let rt = interpreter.rt();
    match value.defined(rt)? {
        Value::Float(float) => Ok(Value::Float(float.abs())),
        _ => match number::to_big(&value) {
            Some(big) if number::is_negative(&big) => Value::integer(rt, -big),
            Some(big) => Value::integer(rt, big),
            None => Err(type_error(format!("bad operand type for abs(): '{}'", value.type_name()))),
        },
    }
}

fn attr(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("attr", ["name"], 1)?;
    let name = bound.take(0).unwrap_or(Value::None);
    let name = repr::to_str(&rt, &name)?;
    access::attr_only(interpreter, &value, &name)
}

fn batch(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("batch", ["linecount", "fill_with"], 1)?;
    // No row is as long as a negative number, or as what is no number.
    let size = bound.0[0].as_ref().and_then(Value::as_i64).and_then(|size| usize::try_from(size).ok());
    let fill = bound.given(1);
    let mut source = value.iterate()?;
    let mut rows = ListBuilder::new(&rt)?;
    let mut row = ListBuilder::new(&rt)?;
    while let Some(item) = source.next(&rt)? {
        if Some(row.len()) == size {
            rows.push(Value::list(std::mem::replace(&mut row, ListBuilder::new(&rt)?))?)?;
        }
        row.push(item)?;
    }
    if row.len() > 0 {
        if let Some(fill) = fill {
            let size = size.map_or_else(|| bound.int(&rt, 0, "batch: linecount", 0).map(count), Ok)?;
            while row.len() < size {
                rt.step(1)?;
                row.push(fill.clone())?;
            }
        }
        rows.push(Value::list(row)?)?;
    }
    Value::iterator("generator", rows)
}

fn slice(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("slice", ["slices", "fill_with"], 1)?;
    let slices = count(bound.int(&rt, 0, "slice: slices", 0)?);
    let fill = bound.given(1);
    let items = value.collect(&rt)?.finish()?;
    if slices == 0 {
        return Err(Fault::new(Kind::ZeroDivision, "integer division or modulo by zero"));
    }
    let (each, extra) = (items.items.len() / slices, items.items.len() % slices);
    let mut rows = ListBuilder::new(&rt)?;
    let mut at = 0;
    for number in 0..slices {
        rt.step(1)?;
        let len = each + usize::from(number < extra);
        let mut row = ListBuilder::new(&rt)?;
        for item in &items.items[at..at + len] {
            row.push(item.clone())?;
        }
        at += len;
        if let Some(fill) = &fill
            && number >= extra
        {
            row.push(fill.clone())?;
        }
        rows.push(Value::list(row)?)?;
    }
    Value::iterator("generator", rows)
}

fn default(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let mut bound = args.bind("default", ["default_value", "boolean"], 0)?;
    let falsy_counts = bound.truth(1, false);
    if !value.is_undefined() && (!falsy_counts || value.truth()) {
        return Ok(value);
    }
    bound.take(0).map_or_else(|| Value::str(interpreter.rt(), ""), Ok)
}

fn dictsort(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let by = match bound.take(1) {
        None => 0,
        Some(Value::Str(by)) if by.as_str() == "key" => 0,
        Some(Value::Str(by)) if by.as_str() == "value" => 1,
        Some(_) => return Err(wrong_argument("You can only sort by either \"key\" or \"value\"")),
    };
    let Value::Dict(dict) = value.defined(&rt)? else {
        return Err(type_error(format!("'{}' object has no attribute 'items'", value.type_name())));
    };
    let items = Value::view(&rt, dict, super::value::Of::Items)?;
    let getter = Getter { parts: vec![Value::Int(by)], default: None, ignore_case: !bound.truth(0, false) };
    let (items, keys) = keyed(interpreter, &items, |interpreter, item| getter.get(interpreter, item))?;
    Value::list(pick(&rt, &items.items, &order(&rt, &keys.items, bound.truth(2, false))?)?)
}

fn first(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("first", [], 0)?;
    let rt = interpreter.rt();
    match value.iterate()?.next(rt)? {
        Some(item) => Ok(item),
        None => Value::hint(rt, "No first item, sequence was empty."),
    }
}

fn last(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("last", [], 0)?;
    let rt = interpreter.rt();
    match backwards(rt, &value)?.next(rt)? {
        Some(item) => Ok(item),
        None => Value::hint(rt, "No last item, sequence was empty."),
    }
}

/// Python's reversed().
fn backwards(rt: &Rt, value: &Value) -> Result<Source> {
    if matches!(value, Value::Iterator(_)) {
        return Err(type_error(format!("'{}' object is not reversible", value.type_name())));
    }
    if let Value::Str(text) = value {
        return Ok(Source::Chars(methods::reversed(rt, text)?, 0));
    }
    let items = value
        .collect(rt)
        .map_err(|fault| match fault.kind() {
            Kind::Type => type_error(format!("'{}' object is not reversible", value.type_name())),
            _ => fault,
        })?
        .finish()?;
    let mut list = ListBuilder::with_capacity(rt, items.items.len())?;
    for item in items.items.iter().rev() {
        list.push(item.clone())?;
    }
    Ok(Source::List(list.finish()?, 0))
}

fn reverse(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("reverse", [], 0)?;
    let rt = interpreter.rt();
    match &value {
        Value::Str(text) => methods::reversed(rt, text).map(Value::Str),
        Value::Iterator(_) => {
            let items = value.collect(rt)?.finish()?;
            let mut list = ListBuilder::with_capacity(rt, items.items.len())?;
            for item in items.items.iter().rev() {
                list.push(item.clone())?;
            }
            Value::list(list)
        }
        _ => {
            let mut source = backwards(rt, &value).map_err(|fault| match fault.kind() {
                Kind::Type => wrong_argument("argument must be iterable"),
                _ => fault,
            })?;
            let mut list = ListBuilder::new(rt)?;
            while let Some(item) = source.next(rt)? {
                list.push(item)?;
            }
            Value::iterator("list_reverseiterator", list)
        }
    }
}

fn float(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let mut bound = args.bind("float", ["default"], 0)?;
    let float = match value.defined(rt)? {
        Value::Str(text) => number::parse_float(rt, text.as_str())?,
        _ => number::to_f64(&value)?,
    };
    Ok(float.map_or_else(|| bound.take(0).unwrap_or(Value::Float(0.0)), Value::Float))
}

fn int(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let mut bound = args.bind("int", ["default", "base"], 0)?;
    let base = bound.int(rt, 1, "int: base", 10)?;
    let direct = match value.defined(rt)? {
        Value::Str(text) => match number::parse_int(rt, text.as_str(), base) {
            Err(fault) if fault.kind() == Kind::Value => None,
            other => other?,
        },
        Value::Float(float) if float.is_infinite() => {
            return Err(super::fault::overflow_error("cannot convert float infinity to integer"));
        }
        Value::Float(float) => number::truncate(rt, *float).ok(),
        _ => number::to_big(&value).map(|big| Value::integer(rt, big)).transpose()?,
    };
    if let Some(int) = direct {
        return Ok(int);
    }
    let float = match &value {
        Value::Str(text) => number::parse_float(rt, text.as_str())?,
        _ => None,
    };
    match float.map(|float| number::truncate(rt, float)) {
        Some(Ok(int)) => Ok(int),
        Some(Err(fault)) if fault.kind() == Kind::Limit => Err(fault),
        _ => Ok(bound.take(0).unwrap_or(Value::Int(0))),
    }
}

fn groupby(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let attribute = bound.take(0);
    let mut getter = Getter::new(&rt, attribute.as_ref(), !bound.truth(2, false))?;
    getter.default = bound.given(1);
    let (items, keys) = keyed(interpreter, &value, |interpreter, item| getter.get(interpreter, item))?;
    let order = order(&rt, &keys.items, false)?;
    getter.ignore_case = false;
    let mut groups = ListBuilder::new(&rt)?;
    let mut at = 0;
    while at < order.len() {
        let key = &keys.items[order[at]];
        let mut group = ListBuilder::new(&rt)?;
        let first = &items.items[order[at]];
        while at < order.len() && keys.items[order[at]].equals(&rt, key)? {
            group.push(items.items[order[at]].clone())?;
            at += 1;
        }
        if group.len() == 0 {
            // A key that does not equal itself (NaN) is a group of its own.
            group.push(first.clone())?;
            at += 1;
        }
        let mut pair = ListBuilder::with_capacity(&rt, 2)?;
        pair.push(getter.get(interpreter, first)?)?;
        pair.push(Value::list(group)?)?;
        groups.push(Value::Tuple(pair.finish_as(&["grouper", "list"])?))?;
    }
    Value::list(groups)
}

fn items(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("items", [], 0)?;
    let rt = interpreter.rt();
    match &value {
        Value::Undefined(_) => Value::iterator("generator", ListBuilder::new(rt)?),
        Value::Dict(dict) => {
            let view = Value::view(rt, dict, super::value::Of::Items)?;
            Value::iterator("generator", view.collect(rt)?)
        }
        _ => Err(type_error("Can only get item pairs from a mapping.")),
    }
}

fn join(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("join", ["d", "attribute"], 0)?;
    let separator = match bound.take(0) {
        Some(separator) => repr::to_str(&rt, &separator)?,
        None => Str::new(&rt, "")?,
    };
    let attribute = bound.given(1);
    let getter = attribute.as_ref().map(|path| Getter::new(&rt, Some(path), false)).transpose()?;
    let mut out = super::text::Builder::new(&rt)?;
    let mut source = value.iterate()?;
    let mut first = true;
    while let Some(mut item) = source.next(&rt)? {
        if let Some(getter) = &getter {
            item = getter.get(interpreter, &item)?;
        }
        if !std::mem::take(&mut first) {
            out.push_str(&separator)?;
        }
        repr::write_str(&rt, &mut out, &item)?;
    }
    Ok(Value::Str(out.finish()))
}

fn length(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("length", [], 0)?;
    if let Value::Loop(context) = &value {
        return Ok(context.attr(interpreter, "length")?.unwrap_or(Value::None));
    }
    Ok(Value::Int(value.len(interpreter.rt())? as i64))
}

fn list(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("list", [], 0)?;
    Value::list(value.collect(interpreter.rt())?)
}

/// A filter or test by the name that a value gives.
fn named<T>(rt: &Rt, what: &str, name: &Value, number: impl Fn(&str) -> Option<T>) -> Result<T> {
    match name {
        Value::Str(text) => number(text.as_str()),
        _ => None,
    }
    .ok_or_else(|| {
        let why = match name {
            Value::Undefined(missing) => {
                format!(" ({}; did you forget to quote the callable name?)", missing.message(rt))
            }
            _ => String::new(),
        };
        runtime_error(format!("No {what} named {}.{why}", repr::short(rt, name)))
    })
}

/// The arguments again, for each item.
fn again(args: &Args) -> Args {
    Args { args: args.args.clone(), kwargs: args.kwargs.clone() }
}

fn map(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    lazily(interpreter, &value, |interpreter, out| mapped(interpreter, &value, args, out))
}

/// A generator of what `fill` makes of a value: Python fills it when it is asked for items, and fails then.
fn lazily(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    fill: impl FnOnce(&mut Interpreter<'_>, &mut ListBuilder) -> Result<()>,
) -> Result<Value> {
    let mut out = ListBuilder::new(interpreter.rt())?;
    let result = if value.truth() { fill(interpreter, &mut out) } else { Ok(()) };
    match result {
        Err(fault) if matches!(fault.kind(), Kind::Limit | Kind::Memory) => Err(fault),
        result => Value::generator("generator", out, result.err()),
    }
}

fn mapped(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    mut args: Args,
    out: &mut ListBuilder,
) -> Result<()> {
    let rt = interpreter.rt().clone();
    let mut getter = None;
    let mut filter = 0;
    if args.args.is_empty() && args.kwargs.iter().any(|(name, _)| name.as_str() == "attribute") {
        let mut bound = args.bind("map", ["attribute", "default"], 0)?;
        let attribute = bound.take(0);
        let mut path = Getter::new(&rt, attribute.as_ref(), false)?;
        path.default = bound.given(1);
        getter = Some(path);
        args = Args::default();
    } else if args.args.is_empty() {
        return Err(wrong_argument("map requires a filter argument"));
    } else {
        filter = named(&rt, "filter", &args.args.remove(0), number)?;
    }
    let mut source = value.iterate()?;
    while let Some(item) = source.next(&rt)? {
        out.push(match &getter {
            Some(getter) => getter.get(interpreter, &item)?,
            None => call(interpreter, filter, item, again(&args))?,
        })?;
    }
    Ok(())
}

/// select, reject, selectattr, rejectattr
fn filtered(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    mut args: Args,
    by_attr: bool,
    wanted: bool,
    out: &mut ListBuilder,
) -> Result<()> {
    let rt = interpreter.rt().clone();
    let mut getter = None;
    if by_attr {
        if args.args.is_empty() {
            return Err(wrong_argument("Missing parameter for attribute name"));
        }
        getter = Some(Getter::new(&rt, Some(&args.args.remove(0)), false)?);
    }
    let test = if args.args.is_empty() {
        None
    } else {
        Some(named(&rt, "test", &args.args.remove(0), checks::number)?)
    };
    let mut source = value.iterate()?;
    while let Some(item) = source.next(&rt)? {
        let subject = match &getter {
            Some(getter) => getter.get(interpreter, &item)?,
            None => item.clone(),
        };
        let holds = match test {
            Some(test) => checks::call(interpreter, test, subject, again(&args))?,
            None => subject.truth(),
        };
        if holds == wanted {
            out.push(item)?;
        }
    }
    Ok(())
}

fn select(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    lazily(interpreter, &value, |interpreter, out| filtered(interpreter, &value, args, false, true, out))
}

fn reject(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    lazily(interpreter, &value, |interpreter, out| filtered(interpreter, &value, args, false, false, out))
}

fn selectattr(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    lazily(interpreter, &value, |interpreter, out| filtered(interpreter, &value, args, true, true, out))
}

fn rejectattr(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    lazily(interpreter, &value, |interpreter, out| filtered(interpreter, &value, args, true, false, out))
}

fn extreme(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    args: Args,
    sign: &'static str,
) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let bound = args.bind(if sign == "<" { "min" } else { "max" }, ["case_sensitive", "attribute"], 0)?;
    let getter = Getter::new(&rt, bound.0[1].as_ref(), !bound.truth(0, false))?;
    let mut source = value.iterate()?;
    let mut best: Option<(Value, Value)> = None;
    while let Some(item) = source.next(&rt)? {
        let key = getter.get(interpreter, &item)?;
        let better = match &best {
            Some((best, _)) => key.ordered(&rt, best, sign)?,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    match best {
        Some((_, item)) => Ok(item),
        None => Value::hint(&rt, "No aggregated item, sequence was empty."),
    }
}

fn min(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    extreme(interpreter, &value, args, "<")
}

fn max(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    extreme(interpreter, &value, args, ">")
}

fn random(_: &mut Interpreter<'_>, _: Value, _: Args) -> Result<Value> {
    Err(runtime_error("the filter random is not supported: a prompt depends on its messages only"))
}

fn round(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt();
    let mut bound = args.bind("round", ["precision", "method"], 0)?;
    let precision = bound.int(rt, 0, "round: precision", 0)?;
    let method = bound.take(1);
    let method = match &method {
        None => "common",
        Some(Value::Str(method)) => method.as_str(),
        Some(_) => "",
    };
    let value = value.defined(rt)?;
    match method {
        "common" => number::round(rt, value, precision)?
            .ok_or_else(|| type_error(format!("type {} doesn't define __round__ method", value.type_name()))),
        "ceil" | "floor" => {
            let unit = number::binary(rt, Op::Pow, &Value::Int(10), &Value::Int(precision))?
                .unwrap_or(Value::Int(1));
            let scaled = operators::binary(rt, Op::Mul, value, &unit)?;
            let whole = match &scaled {
                Value::Float(float) => {
                    number::truncate(rt, if method == "ceil" { float.ceil() } else { float.floor() })?
                }
                Value::Str(_) | Value::List(_) | Value::Tuple(_) => {
                    return Err(type_error(format!("must be real number, not {}", value.type_name())));
                }
                _ => scaled,
            };
            operators::binary(rt, Op::Div, &whole, &unit)
        }
        _ => Err(wrong_argument("method must be common, ceil or floor")),
    }
}

fn sort(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let bound = args.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
    let ignore_case = !bound.truth(1, false);
    let mut getters = Vec::new();
    match &bound.0[2] {
        Some(Value::Str(paths)) => {
            for path in paths.as_str().split(',') {
                getters.push(Getter::new(&rt, Some(&Value::str(&rt, path)?), ignore_case)?);
            }
        }
        other => getters.push(Getter::new(&rt, other.as_ref(), ignore_case)?),
    }
    let (items, keys) = keyed(interpreter, &value, |interpreter, item| {
        let mut key = ListBuilder::with_capacity(&rt, getters.len())?;
        for getter in &getters {
            key.push(getter.get(interpreter, item)?)?;
        }
        Value::list(key)
    })?;
    Value::list(pick(&rt, &items.items, &order(&rt, &keys.items, bound.truth(0, false))?)?)
}

fn sum(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let mut bound = args.bind("sum", ["attribute", "start"], 0)?;
    let attribute = bound.given(0);
    let getter = Getter::new(&rt, attribute.as_ref(), false)?;
    let mut total = bound.take(1).unwrap_or(Value::Int(0));
    if let Value::Str(_) = total {
        return Err(type_error("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    let mut source = value.iterate()?;
    while let Some(item) = source.next(&rt)? {
        let item = getter.get(interpreter, &item)?;
        total = operators::binary(&rt, Op::Add, &total, &item)?;
    }
    Ok(total)
}

fn tojson(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    json::tojson(interpreter.rt(), &value, args)
}

fn unique(interpreter: &mut Interpreter<'_>, value: Value, args: Args) -> Result<Value> {
    let rt = interpreter.rt().clone();
    let bound = args.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let getter = Getter::new(&rt, bound.0[1].as_ref(), !bound.truth(0, false))?;
    let mut seen = super::dict::DictBuilder::new(&rt)?;
    let mut out = ListBuilder::new(&rt)?;
    let mut source = value.iterate()?;
    while let Some(item) = source.next(&rt)? {
        let key = getter.get(interpreter, &item)?;
        if seen.insert(&rt, key, Value::None)? {
            out.push(item)?;
        }
    }
    Value::iterator("generator", out)
}
