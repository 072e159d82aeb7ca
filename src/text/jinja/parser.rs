//! Tokens to a tree: jinja2's grammar with the extensions that transformers adds (break, continue, generation).

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Block, Const, Expr, For, Link, MacroDef, Program, Stmt, Target};
use super::fault::{Fault, Kind, Result};
use super::frames;
use super::lexer::{Lexer, Spanned, Token, normalize};
use super::stack::Stack;

/// Names that a macro may read without declaring them.
const SPECIAL: [&str; 3] = ["caller", "kwargs", "varargs"];

/// What the body of a macro does with [`SPECIAL`] names.
#[derive(Clone, Copy, Default)]
struct Specials {
    used: [bool; 3],
    declared: [bool; 3],
}

pub(super) struct Parser {
    pub(super) tokens: Vec<Spanned>,
    pub(super) at: usize,
    pub(super) stack: Stack,
    names: Vec<String>,
    name_numbers: HashMap<String, u32>,
    consts: Vec<Const>,
    string_numbers: HashMap<String, u32>,
    blocks: Vec<Block>,
    specials: Vec<Specials>,
    /// Filters and tests that do not exist: an error once it is known that no `if` stands before them.
    pub(super) unknown: Vec<(String, u32)>,
    refused: Vec<(String, u32)>,
    /// Loops around this place in the same function.
    loops: usize,
    /// Tags to be closed, for messages.
    open: Vec<&'static str>,
}

/// Parses a template's source.
pub(super) fn parse(source: &str) -> Result<Program> {
    let source = normalize(source);
    let mut parser = Parser {
        tokens: Lexer::tokenize(&source)?,
        at: 0,
        stack: Stack::new(),
        names: Vec::new(),
        name_numbers: HashMap::new(),
        consts: Vec::new(),
        string_numbers: HashMap::new(),
        blocks: Vec::new(),
        specials: Vec::new(),
        unknown: Vec::new(),
        refused: Vec::new(),
        loops: 0,
        open: Vec::new(),
    };
    let (body, _) = parser.body(&[])?;
    parser.refused.append(&mut parser.unknown);
    if let Some((what, line)) = parser.refused.iter().min_by_key(|(_, line)| *line) {
        return Err(Fault::new(Kind::Syntax, format!("No {what}.")).at(*line));
    }
    let special = ["loop", "caller", "kwargs", "varargs"].map(|name| parser.name_numbers.get(name).copied());
    let mut program = Program { body, names: parser.names, consts: parser.consts, blocks: parser.blocks };
    frames::resolve(&mut program, special, &parser.stack)?;
    Ok(program)
}

impl Parser {
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    pub(super) fn next(&mut self) -> Token {
        let last = self.at + 1 == self.tokens.len();
        if last {
            return Token::End;
        }
        self.at += 1;
        std::mem::replace(&mut self.tokens[self.at - 1].token, Token::End)
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        self.fail_at(message, self.line())
    }

    pub(super) fn fail_at<T>(&self, message: impl Into<String>, line: u32) -> Result<T> {
        Err(Fault::new(Kind::Syntax, message).at(line))
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(other) if *other == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(other) if other == name)
    }

    pub(super) fn next_is_name(&self, name: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some(Spanned { token: Token::Name(other), .. }) if other == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        if *self.peek() == Token::End {
            return self.unexpected_end();
        }
        self.fail(format!("expected token '{wanted}', got '{}'", self.peek().describe()))
    }

    pub(super) fn unexpected_end<T>(&self) -> Result<T> {
        match self.open.last() {
            Some(tag) => self.fail(format!(
                "Unexpected end of template. The innermost block that needs to be closed is '{tag}'."
            )),
            None => self.fail("Unexpected end of template."),
        }
    }

    pub(super) fn expect_op(&mut self, op: &'static str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(op) }
    }

    fn expect(&mut self, token: &Token) -> Result<()> {
        if self.peek() == token {
            self.next();
            return Ok(());
        }
        self.unexpected(&token.describe())
    }

    pub(super) fn expect_name(&mut self) -> Result<String> {
        match self.peek() {
            Token::Name(_) => match self.next() {
                Token::Name(name) => Ok(name),
                _ => self.unexpected("name"),
            },
            _ => self.unexpected("name"),
        }
    }

    fn name_number(&mut self, name: String) -> u32 {
        if let Some(&number) = self.name_numbers.get(&name) {
            return number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.clone());
        self.name_numbers.insert(name, number);
        number
    }

    pub(super) fn load(&mut self, name: String) -> u32 {
        if let Some(i) = SPECIAL.iter().position(|special| *special == name) {
            for specials in &mut self.specials {
                specials.used[i] |= !specials.declared[i];
            }
        }
        self.name_number(name)
    }

    fn store(&mut self, name: String) -> Result<u32> {
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail("can't assign to 'const'");
        }
        if name == "loop" && self.loops > 0 {
            return self.fail("Can't assign to special loop variable in for-loop target");
        }
        if let Some(i) = SPECIAL.iter().position(|special| *special == name) {
            for specials in &mut self.specials {
                specials.declared[i] = true;
            }
        }
        Ok(self.name_number(name))
    }

    pub(super) fn constant(&mut self, value: Const) -> u32 {
        if let Const::Str(text) = &value {
            if let Some(&number) = self.string_numbers.get(text) {
                return number;
            }
            self.string_numbers.insert(text.clone(), self.consts.len() as u32);
        }
        self.consts.push(value);
        self.consts.len() as u32 - 1
    }

    pub(super) fn literal(&mut self, value: Const) -> Expr {
        Expr::Const(self.constant(value))
    }

    /// Statements up to one of the tags `ends`, whose name is taken; without `ends`, up to the end of the template.
    fn body(&mut self, ends: &[&str]) -> Result<(Vec<Stmt>, String)> {
        self.stack.check().map_err(|fault| fault.at(self.line()))?;
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.peek() {
                Token::End if ends.is_empty() => return Ok((body, String::new())),
                Token::End => return self.unexpected_end(),
                Token::Data(_) => {
                    if let Token::Data(text) = self.next() {
                        body.push(Stmt::Data(text));
                    }
                }
                Token::VariableBegin => {
                    self.next();
                    let value = self.tuple(true, false)?;
                    self.expect(&Token::VariableEnd)?;
                    body.push(Stmt::Emit(value, line));
                }
                _ => {
                    self.expect(&Token::BlockBegin)?;
                    if let Token::Name(name) = self.peek()
                        && ends.contains(&&**name)
                    {
                        let name = name.clone();
                        self.next();
                        return Ok((body, name));
                    }
                    self.statement(&mut body)?;
                    self.expect(&Token::BlockEnd)?;
                }
            }
        }
    }

    /// The rest of a tag and the statements behind it.
    fn block_body(&mut self, tag: &'static str, ends: &[&str]) -> Result<(Vec<Stmt>, String)> {
        self.skip_op(":");
        self.expect(&Token::BlockEnd)?;
        self.open.push(tag);
        let result = self.body(ends);
        if result.is_ok() {
            self.open.pop();
        }
        result
    }

    /// What jinja2 compiles in a frame of its own: unknown filters in there are errors whatever stands around it.
    fn frame<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = std::mem::take(&mut self.unknown);
        let result = parse(self)?;
        let mut inner = std::mem::replace(&mut self.unknown, outer);
        self.refused.append(&mut inner);
        Ok(result)
    }

    fn statement(&mut self, body: &mut Vec<Stmt>) -> Result<()> {
        let line = self.line();
        let Token::Name(tag) = self.peek() else { return self.fail("tag name expected") };
        let tag = tag.clone();
        self.next();
        let stmt = match &*tag {
            "for" => self.for_loop(line)?,
            "if" => self.if_chain(line)?,
            "set" => self.set(line)?,
            "with" => self.with(line)?,
            "macro" => {
                let name = self.expect_name()?;
                let name = self.store(name)?;
                Stmt::Macro(self.macro_def("macro", "endmacro", Some(name), line)?)
            }
            "call" => self.call_block(line)?,
            "filter" => {
                let filters = self.filters(true)?;
                let (inner, _) = self.frame(|p| p.block_body("filter", &["endfilter"]))?;
                Stmt::Filter(filters, inner, line)
            }
            "block" => self.block(line)?,
            "generation" => Stmt::Generation(self.macro_def("generation", "endgeneration", None, line)?),
            "print" => {
                let mut first = true;
                while *self.peek() != Token::BlockEnd {
                    if !first {
                        self.expect_op(",")?;
                    }
                    first = false;
                    let value = self.expression()?;
                    body.push(Stmt::Emit(value, line));
                }
                return Ok(());
            }
            "break" | "continue" if self.loops == 0 => {
                return self.fail_at(format!("'{tag}' outside loop"), line);
            }
            "break" => Stmt::Break,
            "continue" => Stmt::Continue,
            "include" | "import" | "from" | "extends" => {
                let template = self.expression()?;
                while !matches!(self.peek(), Token::BlockEnd | Token::End) {
                    self.next();
                }
                Stmt::Load(template, line)
            }
            "autoescape" => return self.fail_at("autoescape is not supported", line),
            _ => {
                let open = match self.open.last() {
                    Some(open) => {
                        format!(". The innermost block that needs to be closed is '{open}'")
                    }
                    None => String::new(),
                };
                return self.fail_at(format!("Encountered unknown tag '{tag}'{open}."), line);
            }
        };
        body.push(stmt);
        Ok(())
    }

    fn for_loop(&mut self, line: u32) -> Result<Stmt> {
        self.loops += 1;
        let target = self.target(false);
        self.loops -= 1;
        let target = target?;
        if !self.skip_name("in") {
            return self.unexpected("in");
        }
        let iter = self.tuple(false, false)?;
        let test = if self.skip_name("if") { Some(self.frame(Self::expression)?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.frame(|p| p.block_body("for", &["endfor", "else"]))?;
        let otherwise = match &*end {
            "else" => {
                // The else part runs behind the loop, not in it.
                let loops = self.loops;
                self.loops -= 1;
                let otherwise = self.frame(|p| p.block_body("for", &["endfor"]))?.0;
                self.loops = loops;
                otherwise
            }
            _ => Vec::new(),
        };
        self.loops -= 1;
        Ok(Stmt::For(Arc::new(For { target, iter, test, recursive, body, otherwise, line })))
    }

    fn if_chain(&mut self, line: u32) -> Result<Stmt> {
        let mark = self.unknown.len();
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false, false)?;
            let (body, end) = self.block_body("if", &["elif", "else", "endif"])?;
            branches.push((test, body));
            match &*end {
                "elif" => continue,
                "else" => otherwise = self.block_body("if", &["endif"])?.0,
                _ => {}
            }
            break;
        }
        self.unknown.truncate(mark);
        Ok(Stmt::If(branches, otherwise, line))
    }

    fn set(&mut self, line: u32) -> Result<Stmt> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            let value = self.tuple(true, false)?;
            return Ok(Stmt::Set(target, value, line));
        }
        let filters = self.filters(false)?;
        let (body, _) = self.frame(|p| p.block_body("set", &["endset"]))?;
        Ok(Stmt::SetBlock(target, filters, body, line))
    }

    fn with(&mut self, line: u32) -> Result<Stmt> {
        let mut targets = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !targets.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(false)?;
            self.expect_op("=")?;
            targets.push((target, self.expression()?));
        }
        let (body, _) = self.frame(|p| p.block_body("with", &["endwith"]))?;
        Ok(Stmt::With(targets, body, line))
    }

    fn call_block(&mut self, line: u32) -> Result<Stmt> {
        let (args, defaults) = if self.is_op("(") { self.signature()? } else { Default::default() };
        let call = self.expression()?;
        if !matches!(&call, Expr::Chain(_, links) if matches!(links.last(), Some(Link::Call(_)))) {
            return self.fail_at("expected call", line);
        }
        let def =
            self.macro_body("call", "endcall", MacroDef { args, defaults, line, ..Default::default() })?;
        Ok(Stmt::Call(def, call, line))
    }

    fn macro_def(
        &mut self,
        tag: &'static str,
        end: &'static str,
        name: Option<u32>,
        line: u32,
    ) -> Result<Arc<MacroDef>> {
        let (args, defaults) = if name.is_some() { self.signature()? } else { Default::default() };
        self.macro_body(tag, end, MacroDef { name, args, defaults, line, ..Default::default() })
    }

    fn signature(&mut self) -> Result<(Vec<u32>, Vec<Expr>)> {
        let (mut args, mut defaults) = (Vec::new(), Vec::new());
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !args.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.expect_name()?;
            let number = self.name_number(name);
            if args.contains(&number) {
                return self.fail(format!("duplicate argument '{}'", self.names[number as usize]));
            }
            args.push(number);
            if self.skip_op("=") {
                defaults.push(self.frame(Self::expression)?);
            } else if !defaults.is_empty() {
                return self.fail("non-default argument follows default argument");
            }
        }
        self.expect_op(")")?;
        Ok((args, defaults))
    }

    fn macro_body(
        &mut self,
        tag: &'static str,
        end: &'static str,
        mut def: MacroDef,
    ) -> Result<Arc<MacroDef>> {
        let loops = std::mem::take(&mut self.loops);
        self.specials.push(Specials::default());
        let body = self.frame(|p| p.block_body(tag, &[end]));
        let specials = self.specials.pop().unwrap_or_default();
        self.loops = loops;
        def.body = body?.0;
        def.title = def.name.map_or_else(|| "caller".to_owned(), |name| self.names[name as usize].clone());
        let is_arg = |special: &str| def.args.iter().any(|&arg| self.names[arg as usize] == special);
        def.uses_caller = specials.used[0];
        def.uses_kwargs = specials.used[1] && !is_arg("kwargs");
        def.uses_varargs = specials.used[2] && !is_arg("varargs");
        if specials.used[0]
            && let Some(at) = def.args.iter().position(|&arg| self.names[arg as usize] == "caller")
            && at + def.defaults.len() < def.args.len()
        {
            return self.fail_at(
                "When defining macros or call blocks the special \"caller\" argument must be omitted or be given a default.",
                def.line,
            );
        }
        // The arguments are names of the inner function: what it declares hides the outer function's.
        Ok(Arc::new(def))
    }

    fn block(&mut self, line: u32) -> Result<Stmt> {
        let name = self.expect_name()?;
        let scoped = self.skip_name("scoped");
        if self.skip_name("required") {
            return self.fail_at(format!("Required block '{name}' not found"), line);
        }
        if self.is_op("-") {
            return self.fail("Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an underscore instead.");
        }
        let number = self.name_number(name.clone());
        if self.blocks.iter().any(|block| block.name == number) {
            return self.fail_at(format!("block '{name}' defined twice"), line);
        }
        let at = self.blocks.len();
        self.blocks.push(Block { name: number, body: Vec::new() });
        let outer = (std::mem::take(&mut self.loops), std::mem::take(&mut self.specials));
        let body = self.frame(|p| p.block_body("block", &["endblock"]));
        (self.loops, self.specials) = outer;
        self.blocks[at].body = body?.0;
        self.skip_name(&name);
        Ok(Stmt::Block(at as u32, scoped, line))
    }

    /// `a`, `a, (b, c)`, with namespaces `a.b` too.
    fn target(&mut self, with_namespace: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if !targets.is_empty() {
                self.expect_op(",")?;
            }
            if self.tuple_ends() {
                break;
            }
            targets.push(self.one_target(with_namespace)?);
            if self.is_op(",") {
                is_tuple = true;
            } else {
                break;
            }
        }
        match targets.pop() {
            Some(target) if !is_tuple => Ok(target),
            Some(target) => {
                targets.push(target);
                Ok(Target::Tuple(targets))
            }
            None => self.fail(format!("Expected an expression, got '{}'", self.peek().describe())),
        }
    }

    fn one_target(&mut self, with_namespace: bool) -> Result<Target> {
        self.stack.check().map_err(|fault| fault.at(self.line()))?;
        if self.is_op("(") || self.is_op("[") {
            let list = self.is_op("[");
            self.next();
            let target = self.target(with_namespace)?;
            self.expect_op(if list { "]" } else { ")" })?;
            return Ok(match target {
                Target::Name(_) | Target::Attr(..) if list => Target::Tuple(vec![target]),
                _ => target,
            });
        }
        if !matches!(self.peek(), Token::Name(_)) {
            return self.fail(format!("can't assign to '{}'", self.peek().describe()));
        }
        let name = self.expect_name()?;
        if with_namespace && self.skip_op(".") {
            let attr = self.expect_name()?;
            let attr = self.constant(Const::Str(attr));
            return Ok(Target::Attr(self.load(name), attr));
        }
        Ok(Target::Name(self.store(name)?))
    }

    fn tuple_ends(&self) -> bool {
        match self.peek() {
            Token::VariableEnd | Token::BlockEnd => true,
            Token::Op(op) => *op == ")",
            _ => false,
        }
    }

    pub(super) fn tuple(&mut self, cond: bool, brackets: bool) -> Result<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.tuple_ends() {
                break;
            }
            items.push(if cond { self.expression()? } else { self.or()? });
            if self.is_op(",") {
                is_tuple = true;
            } else {
                break;
            }
        }
        if !is_tuple {
            if let Some(item) = items.pop() {
                return Ok(item);
            }
            if !brackets {
                return self.fail(format!("Expected an expression, got '{}'", self.peek().describe()));
            }
        }
        Ok(Expr::Tuple(items))
    }
}
