//! What names stand for: scopes, macros that close over them, loops.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{For, MacroDef, Target};
use super::fault::{Result, type_error};
use super::interpreter::Interpreter;
use super::meter::{Charge, Cyclic, Rt, no_memory};
use super::value::{ListBuilder, Source, Value, unpack};

/// The variables of a loop's turn, a macro's call, a block. The outermost scope is the interpreter's own.
pub(super) struct Scope {
    pub parent: Option<Rc<Scope>>,
    vars: RefCell<Vec<(u32, Value)>>,
    charge: RefCell<Charge>,
    /// Whether the meter keeps it, to empty it at the end.
    registered: Cell<bool>,
}

pub(super) type Outer = Option<Rc<Scope>>;

impl Cyclic for Scope {
    fn clear(&self) {
        drop(self.vars.take());
    }
}

impl Scope {
    pub fn new(rt: &Rt, parent: Outer) -> Result<Rc<Self>> {
        let charge = RefCell::new(rt.charge(size_of::<Self>())?);
        Ok(Rc::new(Self { parent, vars: RefCell::default(), charge, registered: Cell::new(false) }))
    }

    /// The variable in this scope, not around it.
    pub fn get(&self, name: u32) -> Result<Option<Value>> {
        let vars = self.vars.borrow();
        self.charge.borrow().work(2 * vars.len())?;
        Ok(vars.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone()))
    }

    pub fn set(&self, name: u32, value: Value) -> Result<()> {
        let mut vars = self.vars.borrow_mut();
        self.charge.borrow().work(2 * vars.len())?;
        let old = match vars.iter_mut().find(|(other, _)| *other == name) {
            Some((_, slot)) => Some(std::mem::replace(slot, value)),
            None => {
                if vars.len() == vars.capacity() {
                    let more = vars.len().max(4);
                    self.charge.borrow_mut().grow(more * size_of::<(u32, Value)>())?;
                    vars.try_reserve_exact(more).map_err(|_| no_memory(more))?;
                }
                vars.push((name, value));
                None
            }
        };
        drop(vars);
        drop(old);
        Ok(())
    }

    /// Empties it for the next turn of a loop.
    pub fn reset(&self) {
        let mut vars = self.vars.take();
        vars.clear();
        self.vars.replace(vars);
    }

    /// Has the meter keep it: a macro that closes over it may be one of its variables.
    pub fn keep(self: &Rc<Self>, rt: &Rt) {
        if !self.registered.replace(true) {
            rt.register(self.clone());
        }
    }
}

pub(super) struct Macro {
    pub def: Arc<MacroDef>,
    pub outer: Outer,
    _charge: Charge,
}

impl Macro {
    pub fn value(rt: &Rt, def: &Arc<MacroDef>, outer: &Outer) -> Result<Value> {
        if let Some(scope) = outer {
            scope.keep(rt);
        }
        let charge = rt.charge(size_of::<Self>())?;
        Ok(Value::Macro(Rc::new(Self { def: def.clone(), outer: outer.clone(), _charge: charge })))
    }
}

impl Target {
    /// An item as a tuple with the target's parts.
    fn repack(&self, rt: &Rt, item: Value) -> Result<Value> {
        let Target::Tuple(targets) = self else { return Ok(item) };
        let mut list = ListBuilder::with_capacity(rt, targets.len())?;
        for (target, item) in targets.iter().zip(unpack(rt, &item, targets.len())?) {
            list.push(target.repack(rt, item)?)?;
        }
        Ok(Value::Tuple(list.finish()?))
    }
}

/// A running loop, as the variable `loop` shows it.
pub(super) struct Loop {
    pub def: Arc<For>,
    /// The scope around the loop.
    pub outer: Outer,
    source: RefCell<Source>,
    /// An item looked at before its turn; Some(None): there is none.
    after: RefCell<Option<Option<Value>>>,
    current: RefCell<Option<Value>>,
    before: RefCell<Option<Value>>,
    changed: RefCell<Option<Value>>,
    /// Turns begun.
    turns: Cell<usize>,
    length: Cell<Option<usize>>,
    pub depth0: usize,
    ended: Cell<bool>,
    _charge: Charge,
}

impl Loop {
    pub fn new(rt: &Rt, def: &Arc<For>, outer: &Outer, source: Source, depth0: usize) -> Result<Rc<Self>> {
        let length = Cell::new(if def.test.is_none() { source.len() } else { None });
        Ok(Rc::new(Self {
            def: def.clone(),
            outer: outer.clone(),
            source: RefCell::new(source),
            after: RefCell::default(),
            current: RefCell::default(),
            before: RefCell::default(),
            changed: RefCell::default(),
            turns: Cell::new(0),
            length,
            depth0,
            ended: Cell::new(false),
            _charge: rt.charge(size_of::<Self>())?,
        }))
    }

    /// The next item that passes the loop's test.
    fn pull(&self, interpreter: &mut Interpreter<'_>) -> Result<Option<Value>> {
        loop {
            // A loop asked about itself from its own iterable finds it at its end.
            let (item, passed) = match self.source.try_borrow_mut() {
                Ok(mut source) => (source.next(interpreter.rt())?, matches!(*source, Source::Passed(..))),
                Err(_) => (None, true),
            };
            match item {
                Some(item) if !passed && !interpreter.passes(&self.def, &self.outer, &item)? => {}
                // What passes a test comes as its targets have taken it apart.
                Some(item) if !passed && self.def.test.is_some() => {
                    return self.def.target.repack(interpreter.rt(), item).map(Some);
                }
                item => return Ok(item),
            }
        }
    }

    /// Begins the next turn.
    pub fn advance(&self, interpreter: &mut Interpreter<'_>) -> Result<Option<Value>> {
        let peeked = self.after.take();
        let item = match peeked {
            Some(item) => item,
            None => self.pull(interpreter)?,
        };
        if let Some(item) = &item {
            self.turns.set(self.turns.get() + 1);
            let last = self.current.replace(Some(item.clone()));
            drop(self.before.replace(last));
        }
        Ok(item)
    }

    fn peek(&self, interpreter: &mut Interpreter<'_>) -> Result<Option<Value>> {
        if let Some(item) = &*self.after.borrow() {
            return Ok(item.clone());
        }
        let item = self.pull(interpreter)?;
        self.after.replace(Some(item.clone()));
        Ok(item)
    }

    /// Items in all: what is to come is gone through where Python does not know.
    fn count(&self, interpreter: &mut Interpreter<'_>) -> Result<usize> {
        if let Some(length) = self.length.get() {
            return Ok(length);
        }
        let rt = interpreter.rt().clone();
        let mut rest = ListBuilder::new(&rt)?;
        while let Some(item) = self.pull(interpreter)? {
            rest.push(item)?;
        }
        let peeked = matches!(&*self.after.borrow(), Some(Some(_)));
        let length = rest.len() + self.turns.get() + usize::from(peeked);
        // The rest has passed the test; the loop's end is reached when it is used up.
        self.source.replace(Source::Passed(rest.finish()?, 0));
        self.length.set(Some(length));
        Ok(length)
    }

    pub fn length(&self, _rt: &Rt) -> Result<usize> {
        self.length.get().ok_or_else(|| type_error("the loop's length is not known yet: use loop.length"))
    }

    /// An attribute; None: there is no such.
    pub fn attr(&self, interpreter: &mut Interpreter<'_>, name: &str) -> Result<Option<Value>> {
        let rt = interpreter.rt().clone();
        let turns = self.turns.get() as i64;
        let int = |value: i64| Ok(Some(Value::Int(value)));
        match name {
            "index" => int(turns),
            "index0" => int(turns - 1),
            "first" => Ok(Some(Value::Bool(turns == 1))),
            "last" => Ok(Some(Value::Bool(self.peek(interpreter)?.is_none()))),
            "length" => int(self.count(interpreter)? as i64),
            "revindex" => int(self.count(interpreter)? as i64 - turns + 1),
            "revindex0" => int(self.count(interpreter)? as i64 - turns),
            "depth" => int(self.depth0 as i64 + 1),
            "depth0" => int(self.depth0 as i64),
            "previtem" => match self.before.borrow().clone() {
                Some(item) if turns > 1 => Ok(Some(item)),
                _ => Value::hint(&rt, "there is no previous item").map(Some),
            },
            "nextitem" => match self.peek(interpreter)? {
                Some(item) => Ok(Some(item)),
                None => Value::hint(&rt, "there is no next item").map(Some),
            },
            _ => Ok(None),
        }
    }

    /// loop.cycle()
    pub fn cycle(&self, items: &[Value]) -> Result<Value> {
        match items.len() {
            0 => Err(type_error("no items for cycling given")),
            len => Ok(items[(self.turns.get() + len - 1) % len].clone()),
        }
    }

    /// loop.changed(): whether `values` are others than at the last call.
    pub fn has_changed(&self, rt: &Rt, values: Value) -> Result<bool> {
        let last = self.changed.borrow().clone();
        let same = match last {
            Some(last) => last.equals(rt, &values)?,
            None => false,
        };
        if !same && !self.ended.get() {
            drop(self.changed.replace(Some(values)));
        }
        Ok(!same)
    }

    /// Lets go of its items, so that loops that hold loops make no chain.
    pub fn end(&self) {
        self.ended.set(true);
        drop(self.after.replace(Some(None)));
        drop(self.current.take());
        drop(self.before.take());
        drop(self.changed.take());
        if let Ok(mut source) = self.source.try_borrow_mut() {
            let source = std::mem::replace(&mut *source, Source::Empty);
            drop(source);
        }
    }

    pub fn turns(&self) -> usize {
        self.turns.get()
    }

    pub fn known_length(&self) -> Option<usize> {
        self.length.get()
    }
}
