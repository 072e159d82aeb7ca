//! Runs a template: statements and expressions.

use std::rc::Rc;
use std::sync::Arc;

use chrono::NaiveDateTime;

use super::access;
use super::ast::{CallArgs, Cmp, Const, Expr, For, Link, MacroDef, Program, Stmt, Target};
use super::call::{Args, Builtin};
use super::checks;
use super::dict::DictBuilder;
use super::fault::{Fault, Kind, Result, limit_error, runtime_error, type_error};
use super::filters;
use super::meter::{Limits, Meter, Rt};
use super::methods;
use super::number::{self, Op};
use super::operators;
use super::repr;
use super::scope::{Loop, Macro, Outer, Scope};
use super::text::{Builder, Str};
use super::value::{ListBuilder, Value, Why, unpack};

/// What a statement asks of the loop around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) struct Interpreter<'t> {
    rt: Rt,
    program: &'t Program,
    consts: Vec<Value>,
    /// Variables of the outermost scope, by the names' numbers.
    root: Vec<Option<Value>>,
    /// What the caller gives, and the global functions.
    context: Vec<Option<Value>>,
    scope: Outer,
    out: Builder,
    now: Option<NaiveDateTime>,
    loop_name: Option<u32>,
}

impl<'t> Interpreter<'t> {
    pub fn new(program: &'t Program, limits: Limits, now: Option<NaiveDateTime>) -> Result<Self> {
        let rt = Meter::new(limits);
        let mut consts = rt.list(program.consts.len())?;
        for value in &program.consts {
            consts.push(match value {
                Const::None => Value::None,
                Const::Bool(value) => Value::Bool(*value),
                Const::Int(value) => Value::integer(&rt, value.clone())?,
                Const::Float(value) => Value::Float(*value),
                Const::Str(text) => Value::str(&rt, text)?,
            });
        }
        let names = program.names.len();
        let mut context = vec![None; names];
        for (name, builtin) in Builtin::ALL {
            if let Some(at) = program.names.iter().position(|other| other == name) {
                context[at] = Some(Value::Builtin(builtin));
            }
        }
        if let Some(at) = program.names.iter().position(|other| other == "self") {
            context[at] = Some(Value::Blocks);
        }
        let out = Builder::new(&rt)?;
        let loop_name = program.names.iter().position(|name| name == "loop").map(|at| at as u32);
        Ok(Self { rt, program, consts, root: vec![None; names], context, scope: None, out, now, loop_name })
    }

    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    pub fn now(&self) -> Option<NaiveDateTime> {
        self.now
    }

    pub fn name(&self, number: u32) -> &'t str {
        &self.program.names[number as usize]
    }

    pub fn block_number(&self, name: &str) -> Result<Option<u32>> {
        let blocks = &self.program.blocks;
        self.rt.work(4 * blocks.len())?;
        Ok(blocks.iter().position(|block| self.name(block.name) == name).map(|at| at as u32))
    }

    /// Gives the template a variable.
    pub fn set_variable(&mut self, name: &str, value: Value) {
        if let Some(at) = self.program.names.iter().position(|other| other == name) {
            self.context[at] = Some(value);
        }
    }

    /// The output.
    pub fn run(mut self) -> Result<Builder> {
        let result = self.body(&self.program.body).map(drop);
        self.rt.clear();
        result.map(|()| self.out)
    }

    fn lookup(&self, name: u32) -> Result<Value> {
        let mut scope = self.scope.as_ref();
        while let Some(inner) = scope {
            if let Some(value) = inner.get(name)? {
                return Ok(value);
            }
            scope = inner.parent.as_ref();
        }
        let at = name as usize;
        match self.root[at].as_ref().or(self.context[at].as_ref()) {
            Some(value) => Ok(value.clone()),
            None => Value::undefined(&self.rt, Why::Name(Str::new(&self.rt, &self.program.names[at])?)),
        }
    }

    fn assign_name(&mut self, name: u32, value: Value) -> Result<()> {
        match &self.scope {
            Some(scope) => scope.set(name, value),
            None => {
                self.root[name as usize] = Some(value);
                Ok(())
            }
        }
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.assign_name(*name, value),
            Target::Tuple(targets) => {
                let items = unpack(&self.rt, &value, targets.len())?;
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
                Ok(())
            }
            Target::Attr(name, attr) => match (self.lookup(*name)?, &self.consts[*attr as usize]) {
                (Value::Namespace(namespace), Value::Str(attr)) => namespace.set(&self.rt, attr, value),
                _ => Err(runtime_error("cannot assign attribute on non-namespace object")),
            },
        }
    }

    /// Namespaces among the targets are checked before the value is computed.
    fn check_target(&self, target: &Target) -> Result<()> {
        match target {
            Target::Name(_) => Ok(()),
            Target::Tuple(targets) => targets.iter().try_for_each(|target| self.check_target(target)),
            Target::Attr(name, _) => match self.lookup(*name)? {
                Value::Namespace(_) => Ok(()),
                _ => Err(runtime_error("cannot assign attribute on non-namespace object")),
            },
        }
    }

    /// Runs `run` in a scope inside `outer`.
    fn scoped<T>(&mut self, scope: Outer, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.scope, scope);
        let result = run(self);
        self.scope = outer;
        result
    }

    fn inner_scope(&self) -> Result<Outer> {
        Scope::new(&self.rt, self.scope.clone()).map(Some)
    }

    /// What `run` writes.
    fn capture<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Str)> {
        let outer = std::mem::replace(&mut self.out, Builder::new(&self.rt)?);
        let result = run(self);
        let inner = std::mem::replace(&mut self.out, outer);
        Ok((result?, inner.finish()))
    }

    fn body(&mut self, body: &[Stmt]) -> Result<Flow> {
        self.rt.deeper()?;
        for stmt in body {
            let flow = match stmt {
                Stmt::Data(text) => {
                    self.out.push(text, false)?;
                    self.check_output()?;
                    Flow::Next
                }
                Stmt::Emit(value, line) => {
                    self.emit(value).map_err(|fault| fault.at(*line))?;
                    Flow::Next
                }
                Stmt::If(branches, otherwise, line) => self.if_chain(branches, otherwise, *line)?,
                Stmt::Set(target, value, line) => {
                    self.set(target, value).map_err(|fault| fault.at(*line))?;
                    Flow::Next
                }
                Stmt::For(def) => {
                    self.for_loop(def).map_err(|fault| fault.at(def.line))?;
                    Flow::Next
                }
                Stmt::Break => Flow::Break,
                Stmt::Continue => Flow::Continue,
                other => self.rare(other)?,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn check_output(&self) -> Result<()> {
        if self.out.len() > self.rt.limits().output {
            return Err(limit_error(format!("it wrote more than {} bytes", self.rt.limits().output)));
        }
        Ok(())
    }

    #[inline(never)]
    fn emit(&mut self, value: &Expr) -> Result<()> {
        let value = self.eval(value)?;
        repr::write_str(&self.rt, &mut self.out, &value)?;
        self.check_output()
    }

    /// Writes what must be text already: a filtered block, a call block.
    fn emit_text(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Str(text) => self.out.push_str(text)?,
            _ => {
                return Err(type_error(format!(
                    "sequence item 0: expected str instance, {} found",
                    value.type_name()
                )));
            }
        }
        self.check_output()
    }

    #[inline(never)]
    fn set(&mut self, target: &Target, value: &Expr) -> Result<()> {
        self.check_target(target)?;
        let value = self.eval(value)?;
        self.assign(target, value)
    }

    #[inline(never)]
    fn if_chain(&mut self, branches: &[(Expr, Vec<Stmt>)], otherwise: &[Stmt], line: u32) -> Result<Flow> {
        for (test, body) in branches {
            if self.truth(test).map_err(|fault| fault.at(line))? {
                return self.body(body);
            }
        }
        self.body(otherwise)
    }

    #[inline(never)]
    fn truth(&mut self, test: &Expr) -> Result<bool> {
        Ok(self.eval(test)?.truth())
    }

    /// Statements that loops seldom run.
    #[inline(never)]
    fn rare(&mut self, stmt: &Stmt) -> Result<Flow> {
        match stmt {
            Stmt::SetBlock(target, filters, body, line) => {
                let scope = self.inner_scope()?;
                let (flow, text) = self.capture(|me| me.scoped(scope, |me| me.body(body)))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.apply(Value::Str(text), filters);
                value
                    .and_then(|value| {
                        self.check_target(target)?;
                        self.assign(target, value)
                    })
                    .map_err(|fault| fault.at(*line))?;
                Ok(Flow::Next)
            }
            Stmt::Filter(filters, body, line) => {
                let scope = self.inner_scope()?;
                let (flow, text) = self.capture(|me| me.scoped(scope, |me| me.body(body)))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.apply(Value::Str(text), filters);
                value.and_then(|value| self.emit_text(&value)).map_err(|fault| fault.at(*line))?;
                Ok(Flow::Next)
            }
            Stmt::With(targets, body, line) => {
                let scope = self.inner_scope()?;
                for (target, value) in targets {
                    let value = self.eval(value).map_err(|fault| fault.at(*line))?;
                    self.scoped(scope.clone(), |me| me.assign(target, value))
                        .map_err(|fault| fault.at(*line))?;
                }
                self.scoped(scope, |me| me.body(body))
            }
            Stmt::Macro(def) => {
                let value = Macro::value(&self.rt, def, &self.scope)?;
                if let Some(name) = def.name {
                    self.assign_name(name, value)?;
                }
                Ok(Flow::Next)
            }
            Stmt::Generation(def) => {
                let caller = Macro::value(&self.rt, def, &self.scope)?;
                let text = self.call(&caller, Args::default()).map_err(|fault| fault.at(def.line))?;
                repr::write_str(&self.rt, &mut self.out, &text)?;
                Ok(Flow::Next)
            }
            Stmt::Call(def, call, line) => {
                let caller = Macro::value(&self.rt, def, &self.scope)?;
                let value = self.call_block(call, caller);
                value.and_then(|value| self.emit_text(&value)).map_err(|fault| fault.at(*line))?;
                Ok(Flow::Next)
            }
            Stmt::Block(number, scoped, line) => {
                let outer = if *scoped { self.scope.clone() } else { None };
                self.block(*number, outer).map_err(|fault| fault.at(*line))?;
                Ok(Flow::Next)
            }
            Stmt::Load(template, line) => {
                let name = self.eval(template).map_err(|fault| fault.at(*line))?;
                Err(type_error(format!(
                    "{}: no loader for this environment specified: a chat template cannot load other templates",
                    repr::short(&self.rt, &name)
                ))
                .at(*line))
            }
            Stmt::Hide(names) => {
                self.rt.work(8 * names.len())?;
                for &name in names {
                    if self.context[name as usize].is_some() {
                        let text = Str::new(&self.rt, self.name(name))?;
                        self.assign_name(name, Value::undefined(&self.rt, Why::Name(text))?)?;
                    }
                }
                Ok(Flow::Next)
            }
            _ => Err(Fault::new(Kind::Runtime, "an unknown statement")),
        }
    }

    fn block(&mut self, number: u32, outer: Outer) -> Result<()> {
        let program = self.program;
        let Some(block) = program.blocks.get(number as usize) else {
            return Err(runtime_error("an unknown block"));
        };
        let scope = Scope::new(&self.rt, outer)?;
        self.scoped(Some(scope), |me| me.body(&block.body)).map(drop)
    }

    fn call_block(&mut self, call: &Expr, caller: Value) -> Result<Value> {
        let Expr::Chain(base, links) = call else { return Err(type_error("expected call")) };
        let Some((Link::Call(call), links)) = links.split_last() else {
            return Err(type_error("expected call"));
        };
        let base = self.eval(base)?;
        let callee = self.apply(base, links)?;
        let mut args = self.args(call)?;
        args.kwargs.push((Str::new(&self.rt, "caller")?, caller));
        self.call(&callee, args)
    }

    #[inline(never)]
    fn for_loop(&mut self, def: &Arc<For>) -> Result<()> {
        let iterable = self.eval(&def.iter)?;
        if def.recursive {
            let outer = self.scope.clone();
            let ((), text) = self.capture(|me| me.turns(def, &outer, &iterable, 0))?;
            return self.out.push_str(&text);
        }
        let outer = self.scope.clone();
        self.turns(def, &outer, &iterable, 0)
    }

    /// `loop(iterable)`
    pub fn recurse(&mut self, context: &Loop, iterable: &Value) -> Result<Value> {
        if !context.def.recursive {
            return Err(type_error("The loop must have the 'recursive' marker to be called recursively."));
        }
        self.rt.deeper()?;
        let (def, outer) = (context.def.clone(), context.outer.clone());
        let ((), text) = self.capture(|me| me.turns(&def, &outer, iterable, context.depth0 + 1))?;
        Ok(Value::Str(text))
    }

    fn turns(&mut self, def: &Arc<For>, outer: &Outer, iterable: &Value, depth0: usize) -> Result<()> {
        let context = Loop::new(&self.rt, def, outer, iterable.iterate()?, depth0)?;
        let result = self.scoped(outer.clone(), |me| me.each_turn(&context));
        context.end();
        // A loop that is still held holds the scope around it, which may hold another: the meter ends such chains.
        if let (true, Some(scope)) = (Rc::strong_count(&context) > 1, outer) {
            scope.keep(&self.rt);
        }
        if !result? {
            return Ok(());
        }
        if def.otherwise.is_empty() {
            return Ok(());
        }
        let scope = Scope::new(&self.rt, outer.clone())?;
        self.scoped(Some(scope), |me| me.body(&def.otherwise)).map(drop)
    }

    /// Whether no turn came to its end: the else part then runs, also behind a break, as in jinja2.
    fn each_turn(&mut self, context: &Rc<Loop>) -> Result<bool> {
        let def = context.def.clone();
        let name = self.loop_name;
        let mut scope = Scope::new(&self.rt, context.outer.clone())?;
        let mut none = true;
        while let Some(item) = context.advance(self)? {
            if Rc::strong_count(&scope) > 1 {
                scope = Scope::new(&self.rt, context.outer.clone())?;
            } else {
                scope.reset();
            }
            if let Some(name) = name {
                scope.set(name, Value::Loop(context.clone()))?;
            }
            let outer = self.scope.replace(scope.clone());
            let flow = self.assign(&def.target, item).and_then(|()| self.body(&def.body));
            self.scope = outer;
            match flow? {
                Flow::Next => none = false,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        Ok(none)
    }

    /// Whether an item passes the loop's test.
    pub fn passes(&mut self, def: &Arc<For>, outer: &Outer, item: &Value) -> Result<bool> {
        let Some(test) = &def.test else { return Ok(true) };
        let scope = Scope::new(&self.rt, outer.clone())?;
        self.scoped(Some(scope), |me| {
            me.assign(&def.target, item.clone())?;
            Ok(me.eval(test)?.truth())
        })
        .map_err(|fault| fault.at(def.line))
    }

    pub fn eval(&mut self, expr: &Expr) -> Result<Value> {
        self.rt.deeper()?;
        match expr {
            Expr::Const(at) => Ok(self.consts[*at as usize].clone()),
            Expr::Name(name) => self.lookup(*name),
            Expr::Chain(base, links) => {
                let base = self.eval(base)?;
                self.apply(base, links)
            }
            Expr::Compare(first, rest) => self.compare(first, rest),
            Expr::And(parts) => self.junction(parts, false),
            Expr::Or(parts) => self.junction(parts, true),
            Expr::Not(value, negate) => Ok(Value::Bool(self.truth(value)? != *negate)),
            Expr::Math(first, rest) => self.math(first, rest),
            Expr::Concat(parts) => self.concat(parts),
            Expr::Cond(parts) => {
                let (test, yes, no) = &**parts;
                if self.truth(test)? {
                    return self.eval(yes);
                }
                match no {
                    Some(no) => self.eval(no),
                    None => Value::hint(
                        &self.rt,
                        "the inline if-expression evaluated to false and no else section was defined.",
                    ),
                }
            }
            other => self.build(other),
        }
    }

    #[inline(never)]
    fn build(&mut self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Tuple(items) => Ok(Value::Tuple(self.items(items)?.finish()?)),
            Expr::List(items) => Ok(Value::List(self.items(items)?.finish()?)),
            Expr::Dict(items) => {
                let mut dict = DictBuilder::new(&self.rt)?;
                for (key, value) in items {
                    let key = self.eval(key)?;
                    let value = self.eval(value)?;
                    dict.insert(&self.rt, key, value)?;
                }
                Ok(Value::Dict(dict.finish()?))
            }
            Expr::Neg(value) => {
                let value = self.eval(value)?;
                number::negate(&self.rt, value.defined(&self.rt)?)?.ok_or_else(|| bad_unary("-", &value))
            }
            Expr::Pos(value) => {
                let value = self.eval(value)?;
                match value.defined(&self.rt)? {
                    Value::Bool(value) => Ok(Value::Int(i64::from(*value))),
                    Value::Int(_) | Value::Big(_) | Value::Float(_) => Ok(value),
                    _ => Err(bad_unary("+", &value)),
                }
            }
            _ => Err(Fault::new(Kind::Runtime, "an unknown expression")),
        }
    }

    fn items(&mut self, items: &[Expr]) -> Result<ListBuilder> {
        let mut list = ListBuilder::with_capacity(&self.rt, items.len())?;
        for item in items {
            list.push(self.eval(item)?)?;
        }
        Ok(list)
    }

    /// `and` and `or`: the value that decides.
    #[inline(never)]
    fn junction(&mut self, parts: &[Expr], until: bool) -> Result<Value> {
        let mut value = Value::None;
        for part in parts {
            value = self.eval(part)?;
            if value.truth() == until {
                break;
            }
        }
        Ok(value)
    }

    #[inline(never)]
    fn math(&mut self, first: &Expr, rest: &[(Op, Expr)]) -> Result<Value> {
        let mut value = self.eval(first)?;
        for (op, other) in rest {
            let other = self.eval(other)?;
            value = operators::binary(&self.rt, *op, &value, &other)?;
        }
        Ok(value)
    }

    #[inline(never)]
    fn concat(&mut self, parts: &[Expr]) -> Result<Value> {
        let mut out = Builder::new(&self.rt)?;
        let mut values = self.rt.list(parts.len())?;
        for part in parts {
            values.push(self.eval(part)?);
        }
        for value in &values {
            repr::write_str(&self.rt, &mut out, value)?;
        }
        Ok(Value::Str(out.finish()))
    }

    #[inline(never)]
    fn compare(&mut self, first: &Expr, rest: &[(Cmp, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (cmp, right) in rest {
            let right = self.eval(right)?;
            let rt = &self.rt;
            let holds = match cmp {
                Cmp::Eq => left.equals(rt, &right)?,
                Cmp::Ne => !left.equals(rt, &right)?,
                Cmp::Order(op) => left.ordered(rt, &right, op)?,
                Cmp::In => right.contains(rt, &left)?,
                Cmp::NotIn => !right.contains(rt, &left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn apply(&mut self, mut value: Value, links: &[Link]) -> Result<Value> {
        let mut at = 0;
        while let Some(link) = links.get(at) {
            self.rt.step(1)?;
            at += 1;
            value = match link {
                Link::Attr(name) => {
                    let Value::Str(name) = self.consts[*name as usize].clone() else {
                        return Err(type_error("an attribute's name"));
                    };
                    match links.get(at) {
                        Some(Link::Call(call)) if methods::exists(&value, name.as_str()) => {
                            at += 1;
                            self.method(&value, &name, call)?
                        }
                        _ => access::getattr(self, &value, &name)?,
                    }
                }
                Link::Item(key) => {
                    let key = self.eval(key)?;
                    access::getitem(self, &value, &key)?
                }
                other => self.link(value, other)?,
            };
        }
        Ok(value)
    }

    #[inline(never)]
    fn method(&mut self, owner: &Value, name: &Str, call: &CallArgs) -> Result<Value> {
        let args = self.args(call)?;
        methods::call(self, owner, name.as_str(), args)
    }

    #[inline(never)]
    fn link(&mut self, value: Value, link: &Link) -> Result<Value> {
        match link {
            Link::Call(call) => {
                let args = self.args(call)?;
                self.call(&value, args)
            }
            Link::Slice(parts) => {
                let mut bounds = [const { None }; 3];
                for (bound, part) in bounds.iter_mut().zip(&**parts) {
                    if let Some(part) = part {
                        *bound = Some(self.eval(part)?);
                    }
                }
                access::slice(&self.rt, &value, &bounds)
            }
            Link::Filter(Ok(number), call) => {
                let args = self.args(call)?;
                filters::call(self, *number, value, args)
            }
            Link::Test(Ok(number), call) => {
                let args = self.args(call)?;
                Ok(Value::Bool(checks::call(self, *number, value, args)?))
            }
            Link::Filter(Err(name), _) => Err(self.unknown("filter", *name)),
            Link::Test(Err(name), _) => Err(self.unknown("test", *name)),
            Link::Not => Ok(Value::Bool(!value.truth())),
            Link::Attr(_) | Link::Item(_) => Err(Fault::new(Kind::Runtime, "an unknown link")),
        }
    }

    fn unknown(&self, what: &str, name: u32) -> Fault {
        runtime_error(format!(
            "No {what} named {} found.",
            repr::short(&self.rt, &self.consts[name as usize])
        ))
    }

    fn args(&mut self, call: &CallArgs) -> Result<Args> {
        let mut args = Args { args: self.rt.list(call.args.len())?, kwargs: Vec::new() };
        for arg in &call.args {
            args.args.push(self.eval(arg)?);
        }
        for (name, value) in &call.kwargs {
            let Value::Str(name) = self.consts[*name as usize].clone() else {
                return Err(type_error("an argument's name"));
            };
            args.kwargs.push((name, self.eval(value)?));
        }
        if call.star.is_some() || call.star_star.is_some() {
            self.spread(call, &mut args)?;
        }
        Ok(args)
    }

    /// `*args` and `**kwargs`
    #[inline(never)]
    fn spread(&mut self, call: &CallArgs, args: &mut Args) -> Result<()> {
        if let Some(star) = &call.star {
            let items = self.eval(star)?.collect(&self.rt)?.finish()?;
            args.args
                .try_reserve(items.items.len())
                .map_err(|_| super::meter::no_memory(items.items.len()))?;
            args.args.extend(items.items.iter().cloned());
        }
        if let Some(star) = &call.star_star {
            let Value::Dict(dict) = self.eval(star)? else {
                return Err(type_error("argument after ** must be a mapping"));
            };
            for (key, value) in dict.entries() {
                // Each is compared with those before it.
                self.rt.work(16 + 4 * args.kwargs.len())?;
                let Value::Str(key) = key else { return Err(type_error("keywords must be strings")) };
                if args.kwargs.iter().any(|(other, _)| other.as_str() == key.as_str()) {
                    return Err(type_error(format!(
                        "got multiple values for keyword argument '{}'",
                        key.as_str()
                    )));
                }
                args.kwargs.push((key.clone(), value.clone()));
            }
        }
        Ok(())
    }

    /// Calls a value.
    pub fn call(&mut self, callee: &Value, args: Args) -> Result<Value> {
        self.rt.deeper()?;
        match callee {
            Value::Macro(called) => self.call_macro(called, args),
            Value::Builtin(builtin) => builtin.call(self, args),
            Value::Method(method) => methods::call(self, &method.owner, method.name.as_str(), args),
            Value::Undefined(missing) => Err(missing.fault(&self.rt)),
            Value::Loop(context) => {
                let mut bound = args.bind("loop", ["iterable"], 1)?;
                let iterable = bound.take(0).unwrap_or(Value::None);
                self.recurse(context, &iterable)
            }
            Value::Joiner(joiner) => {
                if joiner.used.replace(true) {
                    Ok(joiner.separator.clone())
                } else {
                    Value::str(&self.rt, "")
                }
            }
            Value::Block(number) => {
                let ((), text) = self.capture(|me| me.block(*number, None))?;
                Ok(Value::Str(text))
            }
            _ => Err(type_error(format!("'{}' object is not callable", callee.type_name()))),
        }
    }

    #[inline(never)]
    fn call_macro(&mut self, called: &Rc<Macro>, args: Args) -> Result<Value> {
        let scope = self.bind_macro(called, args)?;
        let def = &called.def;
        let (_, text) = self.capture(|me| me.scoped(Some(scope), |me| me.body(&def.body)))?;
        Ok(Value::Str(text))
    }

    /// The scope of a macro's call.
    #[inline(never)]
    fn bind_macro(&mut self, called: &Rc<Macro>, args: Args) -> Result<Rc<Scope>> {
        let program = self.program;
        let def: &MacroDef = &called.def;
        let number = |wanted: &str| program.names.iter().position(|name| name == wanted).map(|at| at as u32);
        let Args { mut args, mut kwargs } = args;
        // Arguments and names are searched one by one.
        self.rt.step(def.args.len() as u64)?;
        self.rt.work(4 * def.args.len().saturating_sub(args.len()).saturating_mul(kwargs.len()))?;
        if def.uses_caller || def.uses_kwargs || def.uses_varargs {
            self.rt.work(3 * program.names.len())?;
        }
        let mut take = |name: &str| {
            let at = kwargs.iter().position(|(other, _)| other.as_str() == name)?;
            Some(kwargs.remove(at).1)
        };
        let scope = Scope::new(&self.rt, called.outer.clone())?;
        let extra = args.split_off(args.len().min(def.args.len()));
        let mut given: Vec<Option<Value>> = args.into_iter().map(Some).collect();
        let explicit_caller = def.args.iter().position(|&arg| program.names[arg as usize] == "caller");
        let found_caller = explicit_caller.is_some();
        for &arg in &def.args[given.len()..] {
            given.push(take(&program.names[arg as usize]));
        }
        if def.uses_caller && !found_caller {
            let caller = match take("caller") {
                Some(caller) if !matches!(caller, Value::None) => caller,
                _ => Value::hint(&self.rt, "No caller defined")?,
            };
            if let Some(number) = number("caller") {
                scope.set(number, caller)?;
            }
        }
        if def.uses_kwargs {
            let mut dict = DictBuilder::new(&self.rt)?;
            for (key, value) in kwargs {
                dict.insert(&self.rt, Value::Str(key), value)?;
            }
            if let Some(number) = number("kwargs") {
                scope.set(number, Value::Dict(dict.finish()?))?;
            }
        } else if let Some((key, _)) = kwargs.first() {
            if key.as_str() == "caller" {
                return Err(type_error(format!(
                    "macro '{}' was invoked with two values for the special caller argument. This is most likely a bug.",
                    def.title
                )));
            }
            return Err(type_error(format!(
                "macro '{}' takes no keyword argument {}",
                def.title,
                repr::short(&self.rt, &Value::Str(key.clone()))
            )));
        }
        if def.uses_varargs {
            if let Some(number) = number("varargs") {
                scope.set(number, Value::tuple(&self.rt, extra)?)?;
            }
        } else if !extra.is_empty() {
            return Err(type_error(format!(
                "macro '{}' takes not more than {} argument(s)",
                def.title,
                def.args.len()
            )));
        }
        let first_default = def.args.len() - def.defaults.len();
        // A default may name the arguments before it.
        for (at, (&arg, value)) in def.args.iter().zip(given).enumerate() {
            let value = match value {
                Some(value) => value,
                None if at >= first_default => {
                    let default = &def.defaults[at - first_default];
                    self.scoped(Some(scope.clone()), |me| me.eval(default))?
                }
                None => Value::hint(
                    &self.rt,
                    format!("parameter '{}' was not provided", program.names[arg as usize]),
                )?,
            };
            scope.set(arg, value)?;
        }
        Ok(scope)
    }
}

fn bad_unary(op: &str, value: &Value) -> Fault {
    type_error(format!("bad operand type for unary {op}: '{}'", value.type_name()))
}
