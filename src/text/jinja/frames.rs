//! jinja2's static scopes. A loop's body, a macro and such are frames, each with its own variables. A name that a frame
//! stores without having loaded it before is that frame's variable from its beginning, undefined at first, for the
//! frames inside it too: what the caller gives under that name is hidden. [`Stmt::Hide`] says so to the interpreter.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::ast::{CallArgs, Expr, For, Link, MacroDef, Program, Stmt, Target};
use super::fault::Result;
use super::stack::Stack;

/// Begins each frame with the names that it hides. `special`: the numbers of `loop`, `caller`, `kwargs`, `varargs`.
pub(super) fn resolve(program: &mut Program, special: [Option<u32>; 4], stack: &Stack) -> Result<()> {
    let mut frames = Frames { around: HashMap::new(), special, stack };
    frames.frame(&mut program.body, &[], &[])?;
    for block in &mut program.blocks {
        frames.frame(&mut block.body, &[], &[])?;
    }
    Ok(())
}

struct Frames<'s> {
    /// How many of the frames around refer to a name.
    around: HashMap<u32, u32>,
    special: [Option<u32>; 4],
    stack: &'s Stack,
}

impl Frames<'_> {
    /// A frame with its parameters and what it evaluates before its body.
    fn frame(&mut self, body: &mut Vec<Stmt>, params: &[u32], before: &[Expr]) -> Result<()> {
        self.stack.check()?;
        let mut symbols =
            Symbols { around: &self.around, own: HashMap::new(), changes: Vec::new(), stack: self.stack };
        params.iter().for_each(|&name| symbols.declare(name));
        symbols.exprs(before)?;
        symbols.body(body)?;
        let own = symbols.own;

        for &name in own.keys() {
            *self.around.entry(name).or_default() += 1;
        }
        self.inner(body)?;
        for &name in own.keys() {
            if let Entry::Occupied(mut count) = self.around.entry(name) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }

        let mut hidden: Vec<u32> =
            own.iter().filter(|(_, name)| name.hidden).map(|(&name, _)| name).collect();
        hidden.sort_unstable();
        if !hidden.is_empty() {
            body.insert(0, Stmt::Hide(hidden));
        }
        Ok(())
    }

    /// The frames in a body.
    fn inner(&mut self, body: &mut [Stmt]) -> Result<()> {
        self.stack.check()?;
        for stmt in body {
            match stmt {
                Stmt::If(branches, otherwise, _) => {
                    for (_, body) in branches {
                        self.inner(body)?;
                    }
                    self.inner(otherwise)?;
                }
                Stmt::For(def) => {
                    if let Some(For { target, body, otherwise, .. }) = Arc::get_mut(def) {
                        let mut params = Vec::from_iter(self.special[0]);
                        target.names(&mut params);
                        self.frame(body, &params, &[])?;
                        self.frame(otherwise, &[], &[])?;
                    }
                }
                Stmt::SetBlock(_, _, body, _) | Stmt::Filter(_, body, _) => self.frame(body, &[], &[])?,
                Stmt::With(targets, body, _) => {
                    let mut params = Vec::new();
                    targets.iter().for_each(|(target, _)| target.names(&mut params));
                    self.frame(body, &params, &[])?;
                }
                Stmt::Macro(def) | Stmt::Call(def, ..) | Stmt::Generation(def) => {
                    if let Some(def) = Arc::get_mut(def) {
                        let MacroDef { args, defaults, body, .. } = def;
                        let used = [def.uses_caller, def.uses_kwargs, def.uses_varargs];
                        let mut params = args.clone();
                        params.extend(
                            self.special[1..]
                                .iter()
                                .zip(used)
                                .filter_map(|(name, used)| name.filter(|_| used)),
                        );
                        self.frame(body, &params, defaults)?;
                    }
                }
                Stmt::Data(_)
                | Stmt::Emit(..)
                | Stmt::Set(..)
                | Stmt::Block(..)
                | Stmt::Break
                | Stmt::Continue
                | Stmt::Hide(_)
                | Stmt::Load(..) => {}
            }
        }
        Ok(())
    }
}

/// What a frame does with a name.
#[derive(Clone, Copy, Default)]
struct Use {
    stored: bool,
    /// It begins as undefined.
    hidden: bool,
}

/// The names that a frame itself refers to, found in the order of its statements.
struct Symbols<'f> {
    around: &'f HashMap<u32, u32>,
    own: HashMap<u32, Use>,
    /// What a name was before it changed, newest last.
    changes: Vec<(u32, Option<Use>)>,
    stack: &'f Stack,
}

impl Symbols<'_> {
    fn put(&mut self, name: u32, new: Use) {
        let old = self.own.insert(name, new);
        self.changes.push((name, old));
    }

    fn declare(&mut self, name: u32) {
        self.put(name, Use { stored: true, hidden: false });
    }

    fn load(&mut self, name: u32) {
        if !self.own.contains_key(&name) && !self.around.contains_key(&name) {
            self.put(name, Use::default());
        }
    }

    fn store(&mut self, name: u32) {
        match self.own.get(&name) {
            Some(Use { stored: true, .. }) => {}
            Some(&old) => self.put(name, Use { stored: true, ..old }),
            None => self.put(name, Use { stored: true, hidden: !self.around.contains_key(&name) }),
        }
    }

    fn target(&mut self, target: &Target) {
        match target {
            Target::Name(name) => self.store(*name),
            Target::Tuple(targets) => targets.iter().for_each(|target| self.target(target)),
            Target::Attr(namespace, _) => self.load(*namespace),
        }
    }

    fn body(&mut self, body: &[Stmt]) -> Result<()> {
        self.stack.check()?;
        for stmt in body {
            match stmt {
                Stmt::Emit(value, _) | Stmt::Load(value, _) => self.expr(value)?,
                Stmt::If(branches, otherwise, _) => self.branches(branches, otherwise)?,
                Stmt::For(def) => self.expr(&def.iter)?,
                Stmt::Set(target, value, _) => {
                    self.expr(value)?;
                    self.target(target);
                }
                Stmt::SetBlock(target, ..) => self.target(target),
                Stmt::With(targets, ..) => {
                    for (_, value) in targets {
                        self.expr(value)?;
                    }
                }
                Stmt::Macro(def) => def.name.into_iter().for_each(|name| self.store(name)),
                Stmt::Call(_, call, _) => self.expr(call)?,
                Stmt::Filter(filters, ..) => self.links(filters)?,
                Stmt::Data(_)
                | Stmt::Generation(_)
                | Stmt::Block(..)
                | Stmt::Break
                | Stmt::Continue
                | Stmt::Hide(_) => {}
            }
        }
        Ok(())
    }

    /// A name that only branches store hides nothing, even if each does.
    fn branches(&mut self, branches: &[(Expr, Vec<Stmt>)], otherwise: &[Stmt]) -> Result<()> {
        let Some(((test, first), rest)) = branches.split_first() else { return Ok(()) };
        self.expr(test)?;
        let first = self.branch(|me| me.body(first))?;
        let rest = self.branch(|me| {
            for (test, body) in rest {
                me.expr(test)?;
                let seen = me.branch(|me| me.body(body))?;
                me.merge(&[seen]);
            }
            Ok(())
        })?;
        let last = self.branch(|me| me.body(otherwise))?;
        self.merge(&[first, rest, last]);
        Ok(())
    }

    /// What `visit` changes, and undoes it.
    fn branch(&mut self, visit: impl FnOnce(&mut Self) -> Result<()>) -> Result<HashMap<u32, Use>> {
        let mark = self.changes.len();
        visit(self)?;
        let mut seen = HashMap::new();
        for (name, old) in self.changes.drain(mark..).rev() {
            let new = match old {
                Some(old) => self.own.insert(name, old),
                None => self.own.remove(&name),
            };
            if let Some(new) = new {
                seen.entry(name).or_insert(new);
            }
        }
        Ok(seen)
    }

    fn merge(&mut self, branches: &[HashMap<u32, Use>]) {
        for (&name, new) in branches.iter().flatten() {
            let old = self.own.get(&name).copied().unwrap_or_default();
            self.put(name, Use { stored: old.stored || new.stored, ..old });
        }
    }

    fn exprs(&mut self, exprs: &[Expr]) -> Result<()> {
        exprs.iter().try_for_each(|expr| self.expr(expr))
    }

    fn expr(&mut self, expr: &Expr) -> Result<()> {
        self.stack.check()?;
        match expr {
            Expr::Const(_) => {}
            Expr::Name(name) => self.load(*name),
            Expr::Tuple(items) | Expr::List(items) => self.exprs(items)?,
            Expr::Concat(items) | Expr::And(items) | Expr::Or(items) => self.exprs(items)?,
            Expr::Dict(items) => {
                for (key, value) in items {
                    self.expr(key)?;
                    self.expr(value)?;
                }
            }
            Expr::Math(first, rest) => {
                self.expr(first)?;
                rest.iter().try_for_each(|(_, other)| self.expr(other))?;
            }
            Expr::Compare(first, rest) => {
                self.expr(first)?;
                rest.iter().try_for_each(|(_, other)| self.expr(other))?;
            }
            Expr::Not(value, _) | Expr::Neg(value) | Expr::Pos(value) => self.expr(value)?,
            Expr::Cond(parts) => {
                let (test, yes, no) = &**parts;
                self.expr(test)?;
                self.expr(yes)?;
                no.iter().try_for_each(|no| self.expr(no))?;
            }
            Expr::Chain(base, links) => {
                self.expr(base)?;
                self.links(links)?;
            }
        }
        Ok(())
    }

    fn links(&mut self, links: &[Link]) -> Result<()> {
        for link in links {
            match link {
                Link::Attr(_) | Link::Not => {}
                Link::Item(key) => self.expr(key)?,
                Link::Slice(parts) => parts.iter().flatten().try_for_each(|part| self.expr(part))?,
                Link::Call(call) | Link::Filter(_, call) | Link::Test(_, call) => self.call(call)?,
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &CallArgs) -> Result<()> {
        self.exprs(&call.args)?;
        call.kwargs.iter().try_for_each(|(_, value)| self.expr(value))?;
        call.star.iter().chain(&call.star_star).try_for_each(|value| self.expr(value))
    }
}

impl Target {
    /// Adds the names that it stores.
    fn names(&self, names: &mut Vec<u32>) {
        match self {
            Target::Name(name) => names.push(*name),
            Target::Tuple(targets) => targets.iter().for_each(|target| target.names(names)),
            Target::Attr(..) => {}
        }
    }
}
