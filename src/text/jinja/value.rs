//! Values as Python has them: types, truth, equality, order, iteration.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;

use num_bigint::BigInt;
use num_traits::{ToPrimitive, Zero};

use super::call::Builtin;
use super::dict::Dict;
use super::fault::{Fault, Kind, Result, limit_error, type_error};
use super::meter::{Charge, Cyclic, MAX_NESTING, Rt, no_memory};
use super::number;
use super::scope::{Loop, Macro};
use super::text::Str;

#[derive(Clone)]
pub(super) enum Value {
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond i64.
    Big(Rc<BigInt>),
    Float(f64),
    Str(Str),
    List(Rc<List>),
    Tuple(Rc<List>),
    Dict(Rc<Dict>),
    View(Rc<View>),
    Range(Rc<Range>),
    Iterator(Rc<Iterator>),
    Namespace(Rc<Namespace>),
    Macro(Rc<Macro>),
    Loop(Rc<Loop>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<Joiner>),
    Builtin(Builtin),
    Method(Rc<Method>),
    /// `self`, through which a template calls its blocks.
    Blocks,
    Block(u32),
}

/// What jinja2's Undefined remembers.
pub(super) struct Missing {
    pub why: Why,
    pub kind: Kind,
    _charge: Charge,
}

pub(super) enum Why {
    Name(Str),
    /// An attribute or element of an object of the type.
    Member(&'static str, Value),
    Hint(String),
}

impl Missing {
    pub fn message(&self, rt: &Rt) -> String {
        let quoted = |key: &Value| super::repr::short(rt, key);
        match &self.why {
            Why::Name(name) => format!("{} is undefined", quoted(&Value::Str(name.clone()))),
            Why::Member(owner, key @ Value::Str(_)) => format!("'{owner}' has no attribute {}", quoted(key)),
            Why::Member(owner, key) => format!("{owner} has no element {}", quoted(key)),
            Why::Hint(text) => text.clone(),
        }
    }

    pub fn fault(&self, rt: &Rt) -> Fault {
        Fault::new(self.kind, self.message(rt))
    }
}

/// A list or a tuple.
pub(super) struct List {
    pub items: Vec<Value>,
    /// Names of a named tuple's fields.
    pub names: &'static [&'static str],
    depth: u32,
    _charge: Charge,
}

/// Collects values for a [`List`].
pub(super) struct ListBuilder {
    items: Vec<Value>,
    depth: u32,
    charge: Charge,
}

impl ListBuilder {
    pub fn new(rt: &Rt) -> Result<Self> {
        Ok(Self { items: Vec::new(), depth: 0, charge: rt.charge(size_of::<List>())? })
    }

    pub fn with_capacity(rt: &Rt, len: usize) -> Result<Self> {
        let mut list = Self::new(rt)?;
        list.grow(len)?;
        Ok(list)
    }

    fn grow(&mut self, more: usize) -> Result<()> {
        let bytes = more.checked_mul(size_of::<Value>()).ok_or_else(|| limit_error("a list is too large"))?;
        self.charge.grow(bytes)?;
        self.items.try_reserve_exact(more).map_err(|_| no_memory(bytes))
    }

    pub fn push(&mut self, value: Value) -> Result<()> {
        if self.items.len() == self.items.capacity() {
            self.grow(self.items.capacity().max(4))?;
        }
        self.depth = self.depth.max(value.depth());
        self.items.push(value);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn finish(self) -> Result<Rc<List>> {
        self.finish_as(&[])
    }

    pub fn finish_as(self, names: &'static [&'static str]) -> Result<Rc<List>> {
        let depth = nested(self.depth)?;
        Ok(Rc::new(List { items: self.items, names, depth, _charge: self.charge }))
    }
}

/// The depth of what holds something of depth `inner`.
pub(super) fn nested(inner: u32) -> Result<u32> {
    if inner >= MAX_NESTING {
        return Err(limit_error(format!("it nests values more than {MAX_NESTING} deep: that is too deep")));
    }
    Ok(inner + 1)
}

/// What dict.keys(), values() and items() give.
pub(super) struct View {
    pub dict: Rc<Dict>,
    pub of: Of,
    _charge: Charge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Keys,
    Values,
    Items,
}

/// Python's range.
pub(super) struct Range {
    pub start: i64,
    pub stop: i64,
    pub step: i64,
    pub len: usize,
    _charge: Charge,
}

impl Range {
    /// `step` is not 0; None: longer than a usize.
    pub fn new(rt: &Rt, start: i64, stop: i64, step: i64) -> Result<Option<Rc<Self>>> {
        let (start_, stop_, step_) = (i128::from(start), i128::from(stop), i128::from(step));
        let len = if step > 0 { stop_ - start_ + step_ - 1 } else { stop_ - start_ + step_ + 1 } / step_;
        let Ok(len) = usize::try_from(len.max(0)) else { return Ok(None) };
        Ok(Some(Rc::new(Self { start, stop, step, len, _charge: rt.charge(size_of::<Self>())? })))
    }

    pub fn get(&self, index: usize) -> i64 {
        (i128::from(self.start) + i128::from(self.step) * index as i128) as i64
    }
}

/// A generator or iterator: each item is given once.
pub(super) struct Iterator {
    list: Rc<List>,
    next: Cell<usize>,
    pub name: &'static str,
    /// What fails behind the last item.
    fault: Cell<Option<Fault>>,
}

pub(super) struct Namespace {
    pub vars: RefCell<Vec<(Str, Value)>>,
    pub charge: RefCell<Charge>,
}

impl Cyclic for Namespace {
    fn clear(&self) {
        drop(self.vars.take());
    }
}

pub(super) struct Cycler {
    pub items: Rc<List>,
    pub at: Cell<usize>,
}

pub(super) struct Joiner {
    pub separator: Value,
    pub used: Cell<bool>,
    depth: u32,
    _charge: Charge,
}

/// A method not yet called.
pub(super) struct Method {
    pub owner: Value,
    pub name: Str,
    depth: u32,
    _charge: Charge,
}

impl Value {
    pub fn str(rt: &Rt, text: &str) -> Result<Value> {
        Ok(Value::Str(Str::new(rt, text)?))
    }

    pub fn list(items: ListBuilder) -> Result<Value> {
        Ok(Value::List(items.finish()?))
    }

    pub fn tuple(rt: &Rt, items: impl IntoIterator<Item = Value>) -> Result<Value> {
        let mut list = ListBuilder::new(rt)?;
        for item in items {
            list.push(item)?;
        }
        Ok(Value::Tuple(list.finish()?))
    }

    pub fn iterator(name: &'static str, items: ListBuilder) -> Result<Value> {
        Self::generator(name, items, None)
    }

    /// A generator that fails when the item behind the last is asked for.
    pub fn generator(name: &'static str, mut items: ListBuilder, fault: Option<Fault>) -> Result<Value> {
        if let Some(fault) = &fault {
            items.charge.work(fault.len())?;
            items.charge.grow(fault.len())?;
        }
        let (next, fault) = (Cell::new(0), Cell::new(fault));
        Ok(Value::Iterator(Rc::new(Iterator { list: items.finish()?, next, name, fault })))
    }

    pub fn undefined(rt: &Rt, why: Why) -> Result<Value> {
        Self::missing(rt, why, Kind::Undefined)
    }

    pub fn missing(rt: &Rt, why: Why, kind: Kind) -> Result<Value> {
        let bytes = size_of::<Missing>() + if let Why::Hint(text) = &why { text.len() } else { 0 };
        Ok(Value::Undefined(Rc::new(Missing { why, kind, _charge: rt.charge(bytes)? })))
    }

    pub fn hint(rt: &Rt, text: impl Into<String>) -> Result<Value> {
        Self::undefined(rt, Why::Hint(text.into()))
    }

    pub fn view(rt: &Rt, dict: &Rc<Dict>, of: Of) -> Result<Value> {
        Ok(Value::View(Rc::new(View { dict: dict.clone(), of, _charge: rt.charge(size_of::<View>())? })))
    }

    pub fn method(rt: &Rt, owner: &Value, name: Str) -> Result<Value> {
        let (depth, charge) = (nested(owner.depth())?, rt.charge(size_of::<Method>())?);
        Ok(Value::Method(Rc::new(Method { owner: owner.clone(), name, depth, _charge: charge })))
    }

    pub fn joiner(rt: &Rt, separator: Value) -> Result<Value> {
        let (depth, charge) = (nested(separator.depth())?, rt.charge(size_of::<Joiner>())?);
        Ok(Value::Joiner(Rc::new(Joiner { separator, used: Cell::new(false), depth, _charge: charge })))
    }

    /// How deep containers are nested in it.
    pub fn depth(&self) -> u32 {
        match self {
            Value::List(list) | Value::Tuple(list) => list.depth,
            Value::Dict(dict) => dict.depth(),
            Value::View(view) => view.dict.depth(),
            Value::Iterator(iterator) => iterator.list.depth,
            Value::Cycler(cycler) => cycler.items.depth,
            Value::Joiner(joiner) => joiner.depth,
            Value::Method(method) => method.depth,
            Value::Undefined(missing) => match &missing.why {
                Why::Member(_, key) => key.depth(),
                _ => 0,
            },
            _ => 0,
        }
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Big(_) => "int",
            Value::Float(_) => "float",
            Value::Str(text) if text.is_safe() => "Markup",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(list) if !list.names.is_empty() => "_GroupTuple",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::View(view) => match view.of {
                Of::Keys => "dict_keys",
                Of::Values => "dict_values",
                Of::Items => "dict_items",
            },
            Value::Range(_) => "range",
            Value::Iterator(iterator) => iterator.name,
            Value::Namespace(_) => "Namespace",
            Value::Macro(_) => "Macro",
            Value::Loop(_) => "LoopContext",
            Value::Cycler(_) => "Cycler",
            Value::Joiner(_) => "Joiner",
            Value::Builtin(builtin) => builtin.type_name(),
            Value::Method(_) => "builtin_function_or_method",
            Value::Blocks => "TemplateReference",
            Value::Block(_) => "BlockReference",
        }
    }

    /// The name by which Undefined speaks of it.
    pub fn object_name(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool object",
            Value::Int(_) | Value::Big(_) => "int object",
            Value::Float(_) => "float object",
            Value::Str(text) if text.is_safe() => "markupsafe.Markup object",
            Value::Str(_) => "str object",
            Value::List(_) => "list object",
            Value::Tuple(list) if !list.names.is_empty() => "jinja2.filters._GroupTuple object",
            Value::Tuple(_) => "tuple object",
            Value::Dict(_) => "dict object",
            Value::View(view) => match view.of {
                Of::Keys => "dict_keys object",
                Of::Values => "dict_values object",
                Of::Items => "dict_items object",
            },
            Value::Range(_) => "range object",
            Value::Iterator(_) => "generator object",
            Value::Namespace(_) => "jinja2.utils.Namespace object",
            Value::Macro(_) => "jinja2.runtime.Macro object",
            Value::Loop(_) => "jinja2.runtime.LoopContext object",
            Value::Cycler(_) => "jinja2.utils.Cycler object",
            Value::Joiner(_) => "jinja2.utils.Joiner object",
            Value::Undefined(_) => "jinja2.runtime.Undefined object",
            Value::Builtin(_) => "function object",
            Value::Method(_) => "builtin_function_or_method object",
            Value::Blocks => "jinja2.runtime.TemplateReference object",
            Value::Block(_) => "jinja2.runtime.BlockReference object",
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Big(value) => !value.is_zero(),
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::List(list) | Value::Tuple(list) => !list.items.is_empty(),
            Value::Dict(dict) => !dict.is_empty(),
            Value::View(view) => !view.dict.is_empty(),
            Value::Range(range) => range.len > 0,
            _ => true,
        }
    }

    pub fn is_callable(&self) -> bool {
        matches!(
            self,
            // Undefined has __call__, which fails.
            Value::Undefined(_)
                | Value::Macro(_)
                | Value::Builtin(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Block(_)
        )
    }

    /// Python's len().
    ///
    /// # Errors
    /// It has no length.
    pub fn len(&self, rt: &Rt) -> Result<usize> {
        Ok(match self {
            Value::Undefined(_) => 0,
            Value::Str(text) => text.chars(),
            Value::List(list) | Value::Tuple(list) => list.items.len(),
            Value::Dict(dict) => dict.len(),
            Value::View(view) => view.dict.len(),
            Value::Range(range) => range.len,
            Value::Loop(context) => context.length(rt)?,
            _ => return Err(type_error(format!("object of type '{}' has no len()", self.type_name()))),
        })
    }

    /// The integer, if it is one (bools are) and fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Bool(value) => Some(i64::from(*value)),
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// An integer as an index: what is beyond i64 becomes its end.
    ///
    /// # Errors
    /// It is no integer.
    pub fn to_index(&self, what: &str) -> Result<i64> {
        match self {
            Value::Big(big) => Ok(if **big < BigInt::zero() { i64::MIN } else { i64::MAX }),
            _ => self.as_i64().ok_or_else(|| {
                type_error(format!(
                    "{what}: '{}' object cannot be interpreted as an integer",
                    self.type_name()
                ))
            }),
        }
    }

    /// Python's iter().
    ///
    /// # Errors
    /// It is not iterable.
    pub fn iterate(&self) -> Result<Source> {
        Ok(match self {
            Value::Undefined(_) => Source::Empty,
            Value::Str(text) => Source::Chars(text.clone(), 0),
            Value::List(list) | Value::Tuple(list) => Source::List(list.clone(), 0),
            Value::Dict(dict) => Source::Dict(dict.clone(), Of::Keys, 0),
            Value::View(view) => Source::Dict(view.dict.clone(), view.of, 0),
            Value::Range(range) => Source::Range(range.clone(), 0),
            Value::Iterator(iterator) => Source::Iterator(iterator.clone()),
            _ => return Err(type_error(format!("'{}' object is not iterable", self.type_name()))),
        })
    }

    /// Python's list().
    pub fn collect(&self, rt: &Rt) -> Result<ListBuilder> {
        let mut source = self.iterate()?;
        let mut list = ListBuilder::new(rt)?;
        while let Some(item) = source.next(rt)? {
            list.push(item)?;
        }
        Ok(list)
    }

    /// Python's `is`, as far as templates can see it.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b && (-5..=256).contains(a),
            (Value::Big(a), Value::Big(b)) => Rc::ptr_eq(a, b),
            (Value::Str(a), Value::Str(b)) => a.same(b) || (a.is_empty() && b.is_empty()),
            (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
            (Value::Tuple(a), Value::Tuple(b)) => {
                Rc::ptr_eq(a, b) || (a.items.is_empty() && b.items.is_empty())
            }
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
            (Value::View(a), Value::View(b)) => Rc::ptr_eq(a, b),
            (Value::Range(a), Value::Range(b)) => Rc::ptr_eq(a, b),
            (Value::Iterator(a), Value::Iterator(b)) => Rc::ptr_eq(a, b),
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
            (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
            (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
            (Value::Builtin(a), Value::Builtin(b)) => a == b,
            (Value::Undefined(a), Value::Undefined(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Python's `==`.
    pub fn equals(&self, rt: &Rt, other: &Value) -> Result<bool> {
        rt.deeper()?;
        Ok(match (self, other) {
            (Value::Str(a), Value::Str(b)) => {
                if a.len() == b.len() {
                    rt.work(a.len())?;
                }
                a.as_str() == b.as_str()
            }
            (Value::Undefined(_), Value::Undefined(_)) => true,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                if a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.same(b) && !a.equals(rt, b)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b) || a.equals(rt, b)?,
            (Value::View(a), Value::View(b)) if a.of != Of::Values && b.of != Of::Values => {
                if a.dict.len() != b.dict.len() {
                    return Ok(false);
                }
                let mut source = self.iterate()?;
                while let Some(item) = source.next(rt)? {
                    if !other.contains(rt, &item)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Range(a), Value::Range(b)) => {
                a.len == b.len && (a.len == 0 || (a.start == b.start && (a.len == 1 || a.step == b.step)))
            }
            (Value::Method(a), Value::Method(b)) => {
                a.name.as_str() == b.name.as_str() && a.owner.same(&b.owner)
            }
            _ => match number::compare(self, other) {
                Some(order) => order == Some(Ordering::Equal),
                None => self.same(other),
            },
        })
    }

    /// Python's `<`, `<=`, `>` and `>=`.
    pub fn ordered(&self, rt: &Rt, other: &Value, op: &'static str) -> Result<bool> {
        let holds = |order: Ordering| match op {
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        };
        rt.deeper()?;
        match (self, other) {
            (Value::Undefined(missing), _) | (_, Value::Undefined(missing)) => Err(missing.fault(rt)),
            (Value::Str(a), Value::Str(b)) => {
                rt.work(a.len().min(b.len()))?;
                Ok(holds(a.as_str().cmp(b.as_str())))
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.same(b) && !a.equals(rt, b)? {
                        return a.ordered(rt, b, op);
                    }
                }
                Ok(holds(a.items.len().cmp(&b.items.len())))
            }
            _ => match number::compare(self, other) {
                Some(order) => Ok(order.is_some_and(holds)),
                None => Err(type_error(format!(
                    "'{op}' not supported between instances of '{}' and '{}'",
                    self.type_name(),
                    other.type_name()
                ))),
            },
        }
    }

    /// Python's `item in self`.
    pub fn contains(&self, rt: &Rt, item: &Value) -> Result<bool> {
        rt.step(1)?;
        match (self, item) {
            (Value::Str(text), Value::Str(part)) => {
                rt.work(text.len())?;
                Ok(text.as_str().contains(part.as_str()))
            }
            (Value::Str(_), _) => Err(type_error(format!(
                "'in <string>' requires string as left operand, not {}",
                item.type_name()
            ))),
            (Value::Dict(dict), _) => Ok(dict.get(rt, item)?.is_some()),
            (Value::View(view), _) if view.of == Of::Keys => Ok(view.dict.get(rt, item)?.is_some()),
            (Value::Range(range), _) => Ok(match number::to_i64_exactly(item) {
                Some(value) => {
                    let offset = i128::from(value) - i128::from(range.start);
                    let index = offset / i128::from(range.step);
                    offset % i128::from(range.step) == 0 && (0..range.len as i128).contains(&index)
                }
                None => false,
            }),
            (Value::List(list) | Value::Tuple(list), _) => {
                for other in &list.items {
                    if other.same(item) || other.equals(rt, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => {
                let mut source = self.iterate().map_err(|_| {
                    type_error(format!("argument of type '{}' is not iterable", self.type_name()))
                })?;
                while let Some(other) = source.next(rt)? {
                    if other.same(item) || other.equals(rt, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// An error if this is Undefined: whatever jinja2 refuses to do with one.
    pub fn defined(&self, rt: &Rt) -> Result<&Value> {
        match self {
            Value::Undefined(missing) => Err(missing.fault(rt)),
            _ => Ok(self),
        }
    }

    /// A big integer in its smallest form.
    pub fn integer(rt: &Rt, value: BigInt) -> Result<Value> {
        number::check_size(rt, &value)?;
        Ok(match value.to_i64() {
            Some(small) => Value::Int(small),
            None => Value::Big(Rc::new(value)),
        })
    }
}

impl Iterator {
    pub fn next(&self) -> Result<Option<Value>> {
        let value = self.list.items.get(self.next.get()).cloned();
        self.next.set(self.next.get() + 1);
        match value {
            None => self.fault.take().map_or(Ok(None), Err),
            value => Ok(value),
        }
    }
}

impl Namespace {
    /// Sets an attribute.
    pub fn set(&self, rt: &Rt, name: &Str, value: Value) -> Result<()> {
        if name.as_str().starts_with('_') {
            return Err(Fault::new(
                Kind::Security,
                format!(
                    "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{}'. Please rename the attribute.",
                    name.as_str()
                ),
            ));
        }
        let mut vars = self.vars.borrow_mut();
        rt.step(vars.len() as u64 / 4)?;
        let old = match vars.iter_mut().find(|(other, _)| other.as_str() == name.as_str()) {
            Some((_, slot)) => Some(std::mem::replace(slot, value)),
            None => {
                if vars.len() == vars.capacity() {
                    let more = vars.len().max(4);
                    self.charge.borrow_mut().grow(more * size_of::<(Str, Value)>())?;
                    vars.try_reserve_exact(more).map_err(|_| no_memory(more))?;
                }
                vars.push((name.clone(), value));
                None
            }
        };
        drop(vars);
        drop(old);
        Ok(())
    }

    pub fn get(&self, name: &str) -> Result<Option<Value>> {
        let vars = self.vars.borrow();
        self.charge.borrow().work(4 * vars.len())?;
        Ok(vars.iter().find(|(other, _)| other.as_str() == name).map(|(_, value)| value.clone()))
    }
}

/// An iteration that goes on.
pub(super) enum Source {
    Empty,
    Chars(Str, usize),
    List(Rc<List>, usize),
    /// Items that have passed a loop's test already.
    Passed(Rc<List>, usize),
    Dict(Rc<Dict>, Of, usize),
    Range(Rc<Range>, usize),
    Iterator(Rc<Iterator>),
}

impl Source {
    pub fn next(&mut self, rt: &Rt) -> Result<Option<Value>> {
        rt.step(1)?;
        Ok(match self {
            Source::Empty => None,
            Source::Chars(text, at) => {
                let start = *at;
                let Some(c) = text.as_str()[start..].chars().next() else { return Ok(None) };
                *at += c.len_utf8();
                Some(Value::Str(text.slice(rt, start..*at)?))
            }
            Source::List(list, at) | Source::Passed(list, at) => {
                *at += 1;
                list.items.get(*at - 1).cloned()
            }
            Source::Dict(dict, of, at) => {
                *at += 1;
                let Some((key, value)) = dict.entry(*at - 1) else { return Ok(None) };
                Some(match of {
                    Of::Keys => key.clone(),
                    Of::Values => value.clone(),
                    Of::Items => Value::tuple(rt, [key.clone(), value.clone()])?,
                })
            }
            Source::Range(range, at) => {
                *at += 1;
                (*at <= range.len).then(|| Value::Int(range.get(*at - 1)))
            }
            Source::Iterator(iterator) => iterator.next()?,
        })
    }

    /// How many items are to come, where Python knows.
    pub fn len(&self) -> Option<usize> {
        Some(match self {
            Source::Empty => 0,
            Source::Chars(text, 0) => text.chars(),
            Source::List(list, at) => list.items.len() - at,
            Source::Dict(dict, _, at) => dict.len() - at,
            Source::Range(range, at) => range.len - at,
            _ => return None,
        })
    }
}

/// `value` must be a string.
pub(super) fn need_str<'v>(rt: &Rt, value: &'v Value, what: &str) -> Result<&'v Str> {
    match value {
        Value::Str(text) => Ok(text),
        Value::Undefined(missing) => Err(missing.fault(rt)),
        _ => Err(type_error(format!("{what} must be str, not {}", value.type_name()))),
    }
}

/// `a, b = value`: exactly `count` items.
pub(super) fn unpack(rt: &Rt, value: &Value, count: usize) -> Result<Vec<Value>> {
    let mut source = value
        .iterate()
        .map_err(|_| type_error(format!("cannot unpack non-iterable {} object", value.type_name())))?;
    let mut items = rt.list(count)?;
    while let Some(item) = source.next(rt)? {
        if items.len() == count {
            return Err(super::fault::value_error(format!("too many values to unpack (expected {count})")));
        }
        items.push(item);
    }
    if items.len() < count {
        return Err(super::fault::value_error(format!(
            "not enough values to unpack (expected {count}, got {})",
            items.len()
        )));
    }
    Ok(items)
}
