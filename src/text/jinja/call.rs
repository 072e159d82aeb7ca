//! Arguments, what takes them by name, and the functions that every template has.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::dict::DictBuilder;
use super::fault::{Fault, Kind, Result, overflow_error, runtime_error, type_error};
use super::interpreter::Interpreter;
use super::meter::Rt;
use super::number;
use super::repr;
use super::text::Str;
use super::time;
use super::value::{Cycler, ListBuilder, Namespace, Range, Value, need_str, unpack};

/// The longest range that the sandbox allows.
const MAX_RANGE: usize = 100_000;

/// What a call passes.
#[derive(Default)]
pub(super) struct Args {
    pub args: Vec<Value>,
    pub kwargs: Vec<(Str, Value)>,
}

/// Arguments by the names of a function's parameters.
pub(super) struct Bound<const N: usize>(pub [Option<Value>; N]);

impl Args {
    /// # Errors
    /// Too many, an unknown name, one given twice, or one of the first `required` missing.
    pub fn bind<const N: usize>(self, what: &str, names: [&str; N], required: usize) -> Result<Bound<N>> {
        let mut bound = [const { None }; N];
        let given = self.args.len();
        if given > N {
            return Err(type_error(format!(
                "{what}() takes {N} positional arguments but {given} were given"
            )));
        }
        for (slot, value) in bound.iter_mut().zip(self.args) {
            *slot = Some(value);
        }
        for (name, value) in self.kwargs {
            let Some(at) = names.iter().position(|other| *other == name.as_str()) else {
                return Err(type_error(format!(
                    "{what}() got an unexpected keyword argument '{}'",
                    name.as_str()
                )));
            };
            if bound[at].is_some() {
                return Err(type_error(format!("{what}() got multiple values for argument '{}'", names[at])));
            }
            bound[at] = Some(value);
        }
        if let Some(at) = bound[..required].iter().position(Option::is_none) {
            return Err(type_error(format!("{what}() missing required argument '{}'", names[at])));
        }
        Ok(Bound(bound))
    }

    /// No arguments by name.
    pub fn unnamed(self, what: &str) -> Result<Vec<Value>> {
        match self.kwargs.first() {
            Some(_) => Err(type_error(format!("{what}() takes no keyword arguments"))),
            None => Ok(self.args),
        }
    }
}

impl<const N: usize> Bound<N> {
    pub fn take(&mut self, at: usize) -> Option<Value> {
        self.0[at].take()
    }

    /// The argument, unless it is left out or None.
    pub fn given(&mut self, at: usize) -> Option<Value> {
        self.0[at].take().filter(|value| !matches!(value, Value::None))
    }

    pub fn truth(&self, at: usize, default: bool) -> bool {
        self.0[at].as_ref().map_or(default, Value::truth)
    }

    pub fn int(&self, rt: &Rt, at: usize, what: &str, default: i64) -> Result<i64> {
        match &self.0[at] {
            None => Ok(default),
            Some(value) => value.defined(rt)?.to_index(what),
        }
    }
}

/// A global function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

impl Builtin {
    pub const ALL: [(&str, Builtin); 8] = [
        ("range", Builtin::Range),
        ("dict", Builtin::Dict),
        ("namespace", Builtin::Namespace),
        ("cycler", Builtin::Cycler),
        ("joiner", Builtin::Joiner),
        ("lipsum", Builtin::Lipsum),
        ("raise_exception", Builtin::RaiseException),
        ("strftime_now", Builtin::StrftimeNow),
    ];

    pub fn type_name(self) -> &'static str {
        match self {
            Builtin::Dict | Builtin::Namespace | Builtin::Cycler | Builtin::Joiner => "type",
            _ => "function",
        }
    }

    pub fn repr(self) -> &'static str {
        match self {
            Builtin::Dict => "<class 'dict'>",
            Builtin::Namespace => "<class 'jinja2.utils.Namespace'>",
            Builtin::Cycler => "<class 'jinja2.utils.Cycler'>",
            Builtin::Joiner => "<class 'jinja2.utils.Joiner'>",
            Builtin::Range => "<function safe_range>",
            Builtin::Lipsum => "<function generate_lorem_ipsum>",
            Builtin::RaiseException => "<function raise_exception>",
            Builtin::StrftimeNow => "<function strftime_now>",
        }
    }

    pub fn call(self, interpreter: &mut Interpreter<'_>, args: Args) -> Result<Value> {
        let rt = &interpreter.rt().clone();
        match self {
            Builtin::Range => range(rt, args),
            Builtin::Dict => dict(rt, args),
            Builtin::Namespace => {
                let Value::Dict(dict) = dict(rt, args)? else { return Err(type_error("namespace()")) };
                let namespace = Rc::new(Namespace {
                    vars: RefCell::default(),
                    charge: RefCell::new(rt.charge(size_of::<Namespace>())?),
                });
                for (key, value) in dict.entries() {
                    namespace.set(rt, need_str(rt, key, "a namespace's attribute")?, value.clone())?;
                }
                rt.register(namespace.clone());
                Ok(Value::Namespace(namespace))
            }
            Builtin::Cycler => {
                let args = args.unnamed("cycler")?;
                if args.is_empty() {
                    return Err(runtime_error("at least one item has to be provided"));
                }
                let mut items = ListBuilder::with_capacity(rt, args.len())?;
                for item in args {
                    items.push(item)?;
                }
                Ok(Value::Cycler(Rc::new(Cycler { items: items.finish()?, at: Cell::new(0) })))
            }
            Builtin::Joiner => {
                let mut bound = args.bind("joiner", ["sep"], 0)?;
                let separator = match bound.take(0) {
                    Some(separator) => separator,
                    None => Value::str(rt, ", ")?,
                };
                Value::joiner(rt, separator)
            }
            Builtin::Lipsum => Err(runtime_error("lipsum() is random text: it is not supported")),
            Builtin::RaiseException => {
                let mut bound = args.bind("raise_exception", ["message"], 1)?;
                let message = match bound.take(0) {
                    Some(message) => repr::to_str(rt, &message)?,
                    None => Str::new(rt, "")?,
                };
                Err(Fault::new(Kind::Raised, message.as_str()))
            }
            Builtin::StrftimeNow => {
                let mut bound = args.bind("strftime_now", ["format"], 1)?;
                let format = bound.take(0).unwrap_or(Value::None);
                let format = need_str(rt, &format, "strftime_now: the format")?;
                Ok(Value::Str(time::strftime(rt, format, interpreter.now())?))
            }
        }
    }
}

fn range(rt: &Rt, args: Args) -> Result<Value> {
    let args = args.unnamed("range")?;
    let mut numbers = [0; 3];
    if args.is_empty() || args.len() > 3 {
        return Err(type_error(format!("range expected 1 to 3 arguments, got {}", args.len())));
    }
    for (slot, value) in numbers.iter_mut().zip(&args) {
        *slot = value.defined(rt)?.to_index("range()")?;
    }
    let [start, stop, step] = match args.len() {
        1 => [0, numbers[0], 1],
        2 => [numbers[0], numbers[1], 1],
        _ => numbers,
    };
    if step == 0 {
        return Err(super::fault::value_error("range() arg 3 must not be zero"));
    }
    match Range::new(rt, start, stop, step)? {
        Some(range) if range.len <= MAX_RANGE => Ok(Value::Range(range)),
        _ => Err(overflow_error(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."
        ))),
    }
}

/// dict(), and what namespace() takes.
pub(super) fn dict(rt: &Rt, args: Args) -> Result<Value> {
    let mut dict = DictBuilder::new(rt)?;
    if args.args.len() > 1 {
        return Err(type_error(format!("dict expected at most 1 argument, got {}", args.args.len())));
    }
    match args.args.first() {
        Some(Value::Dict(from)) => {
            for (key, value) in from.entries() {
                dict.insert(rt, key.clone(), value.clone())?;
            }
        }
        Some(pairs) => {
            let mut source = pairs.defined(rt)?.iterate()?;
            while let Some(pair) = source.next(rt)? {
                let mut pair = unpack(rt, &pair, 2)?.into_iter();
                if let (Some(key), Some(value)) = (pair.next(), pair.next()) {
                    dict.insert(rt, key, value)?;
                }
            }
        }
        None => {}
    }
    for (key, value) in args.kwargs {
        dict.insert(rt, Value::Str(key), value)?;
    }
    Ok(Value::Dict(dict.finish()?))
}

/// A count, as of repetitions: negative numbers are 0.
pub(super) fn count(value: i64) -> usize {
    usize::try_from(value.max(0)).unwrap_or(usize::MAX)
}

/// A number of any kind, for what takes floats.
pub(super) fn need_f64(rt: &Rt, value: &Value) -> Result<f64> {
    number::to_f64(value.defined(rt)?)?
        .ok_or_else(|| type_error(format!("must be real number, not {}", value.type_name())))
}
