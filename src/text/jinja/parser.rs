//! Tokens to a tree: jinja2's grammar with the extensions that transformers adds (break, continue, generation).

use std::collections::HashMap;
use std::sync::Arc;

use num_bigint::BigInt;
use num_traits::Num;

use super::ast::{Block, CallArgs, Cmp, Const, Expr, For, Link, MacroDef, Program, Stmt, Target};
use super::checks;
use super::fault::{Fault, Kind, Result};
use super::filters;
use super::frames;
use super::lexer::{Lexer, Spanned, Token, normalize};
use super::meter::Stack;
use super::number::Op;

/// Names that a macro may read without declaring them.
const SPECIAL: [&str; 3] = ["caller", "kwargs", "varargs"];

/// What the body of a macro does with [`SPECIAL`] names.
#[derive(Clone, Copy, Default)]
struct Specials {
    used: [bool; 3],
    declared: [bool; 3],
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    stack: Stack,
    names: Vec<String>,
    name_numbers: HashMap<String, u32>,
    consts: Vec<Const>,
    string_numbers: HashMap<String, u32>,
    blocks: Vec<Block>,
    specials: Vec<Specials>,
    /// Filters and tests that do not exist: an error once it is known that no `if` stands before them.
    unknown: Vec<(String, u32)>,
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
    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    fn next(&mut self) -> Token {
        let last = self.at + 1 == self.tokens.len();
        if last {
            return Token::End;
        }
        self.at += 1;
        std::mem::replace(&mut self.tokens[self.at - 1].token, Token::End)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        self.fail_at(message, self.line())
    }

    fn fail_at<T>(&self, message: impl Into<String>, line: u32) -> Result<T> {
        Err(Fault::new(Kind::Syntax, message).at(line))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(other) if *other == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(other) if other == name)
    }

    fn next_is_name(&self, name: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some(Spanned { token: Token::Name(other), .. }) if other == name)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
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

    fn unexpected_end<T>(&self) -> Result<T> {
        match self.open.last() {
            Some(tag) => self.fail(format!(
                "Unexpected end of template. The innermost block that needs to be closed is '{tag}'."
            )),
            None => self.fail("Unexpected end of template."),
        }
    }

    fn expect_op(&mut self, op: &'static str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(op) }
    }

    fn expect(&mut self, token: &Token) -> Result<()> {
        if self.peek() == token {
            self.next();
            return Ok(());
        }
        self.unexpected(&token.describe())
    }

    fn expect_name(&mut self) -> Result<String> {
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

    fn load(&mut self, name: String) -> u32 {
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

    fn constant(&mut self, value: Const) -> u32 {
        if let Const::Str(text) = &value {
            if let Some(&number) = self.string_numbers.get(text) {
                return number;
            }
            self.string_numbers.insert(text.clone(), self.consts.len() as u32);
        }
        self.consts.push(value);
        self.consts.len() as u32 - 1
    }

    fn literal(&mut self, value: Const) -> Expr {
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
                    let value = self.tuple(true, &[], false)?;
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
        let target = self.target(&["in"], false);
        self.loops -= 1;
        let target = target?;
        if !self.skip_name("in") {
            return self.unexpected("in");
        }
        let iter = self.tuple(false, &["recursive"], false)?;
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
            let test = self.tuple(false, &[], false)?;
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
        let target = self.target(&[], true)?;
        if self.skip_op("=") {
            let value = self.tuple(true, &[], false)?;
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
            let target = self.target(&[], false)?;
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
    fn target(&mut self, ends: &[&str], with_namespace: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if !targets.is_empty() {
                self.expect_op(",")?;
            }
            if self.tuple_ends(ends) {
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
            let target = self.target(&[], with_namespace)?;
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

    fn tuple_ends(&self, ends: &[&str]) -> bool {
        match self.peek() {
            Token::VariableEnd | Token::BlockEnd => true,
            Token::Op(op) => *op == ")",
            Token::Name(name) => ends.contains(&&**name),
            _ => false,
        }
    }

    fn tuple(&mut self, cond: bool, ends: &[&str], brackets: bool) -> Result<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.tuple_ends(ends) {
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

    /// `yes if test else no`
    fn expression(&mut self) -> Result<Expr> {
        self.stack.check().map_err(|fault| fault.at(self.line()))?;
        let mark = self.unknown.len();
        let mut value = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let no = if self.skip_name("else") { Some(self.expression()?) } else { None };
            value = Expr::Cond(Box::new((test, value, no)));
            self.unknown.truncate(mark);
        }
        Ok(value)
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_name("or") {
            parts.push(self.and()?);
        }
        Ok(Expr::Or(parts))
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_name("and") {
            parts.push(self.not()?);
        }
        Ok(Expr::And(parts))
    }

    fn not(&mut self) -> Result<Expr> {
        let mut count = 0;
        while self.skip_name("not") {
            count += 1;
        }
        let value = self.compare()?;
        Ok(if count == 0 { value } else { Expr::Not(Box::new(value), count % 2 == 1) })
    }

    fn compare(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let cmp = match self.peek() {
                Token::Op("==") => Cmp::Eq,
                Token::Op("!=") => Cmp::Ne,
                Token::Op(op @ ("<" | "<=" | ">" | ">=")) => Cmp::Order(op),
                Token::Name(name) if name == "in" => Cmp::In,
                Token::Name(name) if name == "not" && self.next_is_name("in") => {
                    self.next();
                    Cmp::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((cmp, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    /// A chain of operators, left to right.
    fn chain(
        &mut self,
        operand: fn(&mut Self) -> Result<Expr>,
        op: fn(&'static str) -> Option<Op>,
    ) -> Result<Expr> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Token::Op(sign) = self.peek()
            && let Some(op) = op(sign)
        {
            self.next();
            rest.push((op, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Math(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.chain(Self::concat, |sign| match sign {
            "+" => Some(Op::Add),
            "-" => Some(Op::Sub),
            _ => None,
        })
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr> {
        self.chain(Self::power, |sign| match sign {
            "*" => Some(Op::Mul),
            "/" => Some(Op::Div),
            "//" => Some(Op::FloorDiv),
            "%" => Some(Op::Mod),
            _ => None,
        })
    }

    fn power(&mut self) -> Result<Expr> {
        self.chain(|p| p.unary(true), |sign| (sign == "**").then_some(Op::Pow))
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expr> {
        let sign = match self.peek() {
            Token::Op(op @ ("-" | "+")) => Some(*op),
            _ => None,
        };
        let base = match sign {
            Some(sign) => {
                self.stack.check().map_err(|fault| fault.at(self.line()))?;
                self.next();
                let inner = Box::new(self.unary(false)?);
                if sign == "-" { Expr::Neg(inner) } else { Expr::Pos(inner) }
            }
            None => self.primary()?,
        };
        let mut links = Vec::new();
        self.postfix(&mut links)?;
        if with_filter {
            self.filters_and_tests(&mut links)?;
        }
        Ok(if links.is_empty() { base } else { Expr::Chain(Box::new(base), links) })
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        match self.peek() {
            Token::Name(_) => {
                let name = self.expect_name()?;
                Ok(match &*name {
                    "true" | "True" => self.literal(Const::Bool(true)),
                    "false" | "False" => self.literal(Const::Bool(false)),
                    "none" | "None" => self.literal(Const::None),
                    _ => Expr::Name(self.load(name)),
                })
            }
            Token::Str(_) => {
                let mut text = String::new();
                while let Token::Str(_) = self.peek() {
                    if let Token::Str(more) = self.next() {
                        text += &more;
                    }
                }
                Ok(self.literal(Const::Str(text)))
            }
            Token::Integer(digits, base) => {
                if digits.len() > 4300 {
                    return self.fail("Exceeds the limit (4300 digits) for integer string conversion");
                }
                let Ok(value) = BigInt::from_str_radix(digits, *base) else {
                    return self.fail("bad integer");
                };
                self.next();
                Ok(self.literal(Const::Int(value)))
            }
            Token::Float(value) => {
                let value = *value;
                self.next();
                Ok(self.literal(Const::Float(value)))
            }
            Token::Op("(") => {
                self.next();
                let value = self.tuple(true, &[], true)?;
                self.expect_op(")")?;
                Ok(value)
            }
            Token::Op("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_op("]") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.is_op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                self.expect_op("]")?;
                Ok(Expr::List(items))
            }
            Token::Op("{") => {
                self.next();
                let mut items = Vec::new();
                while !self.is_op("}") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.is_op("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_op(":")?;
                    items.push((key, self.expression()?));
                }
                self.expect_op("}")?;
                Ok(Expr::Dict(items))
            }
            Token::End => self.unexpected_end(),
            token => self.fail_at(format!("unexpected '{}'", token.describe()), line),
        }
    }

    fn postfix(&mut self, links: &mut Vec<Link>) -> Result<()> {
        loop {
            match self.peek() {
                Token::Op(".") => {
                    self.next();
                    match self.next() {
                        Token::Name(name) => links.push(Link::Attr(self.constant(Const::Str(name)))),
                        Token::Integer(digits, base) => {
                            let value = BigInt::from_str_radix(&digits, base).unwrap_or_default();
                            links.push(Link::Item(self.literal(Const::Int(value))));
                        }
                        _ => return self.fail("expected name or number"),
                    }
                }
                Token::Op("[") => {
                    self.next();
                    let mut parts = Vec::new();
                    while !self.is_op("]") {
                        if !parts.is_empty() {
                            self.expect_op(",")?;
                        }
                        parts.push(self.subscript()?);
                    }
                    self.expect_op("]")?;
                    if parts.len() == 1 {
                        links.extend(parts.pop());
                        continue;
                    }
                    let mut items = Vec::new();
                    for part in parts {
                        match part {
                            Link::Item(item) => items.push(item),
                            _ => return self.fail("a slice among several subscripts is not supported"),
                        }
                    }
                    links.push(Link::Item(Expr::Tuple(items)));
                }
                Token::Op("(") => links.push(Link::Call(self.call_args()?)),
                _ => return Ok(()),
            }
        }
    }

    fn subscript(&mut self) -> Result<Link> {
        let start = if self.is_op(":") { None } else { Some(self.expression()?) };
        if !self.skip_op(":") {
            return match start {
                Some(item) => Ok(Link::Item(item)),
                None => self.fail("expected subscript expression"),
            };
        }
        let at_end = |p: &Self| p.is_op("]") || p.is_op(",");
        let stop = if self.is_op(":") || at_end(self) { None } else { Some(self.expression()?) };
        let step = if self.skip_op(":") && !at_end(self) { Some(self.expression()?) } else { None };
        Ok(Link::Slice(Box::new([start, stop, step])))
    }

    fn call_args(&mut self) -> Result<CallArgs> {
        let mut call = CallArgs::default();
        let wrong = "invalid syntax for function call expression";
        let line = self.line();
        let mut first = true;
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            first = false;
            let named = matches!(self.peek(), Token::Name(_))
                && matches!(self.tokens.get(self.at + 1), Some(Spanned { token: Token::Op("="), .. }));
            if self.skip_op("*") {
                if call.star.is_some() || call.star_star.is_some() {
                    return self.fail_at(wrong, line);
                }
                call.star = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") {
                if call.star_star.is_some() {
                    return self.fail_at(wrong, line);
                }
                call.star_star = Some(Box::new(self.expression()?));
            } else if named {
                if call.star_star.is_some() {
                    return self.fail_at(wrong, line);
                }
                let name = self.expect_name()?;
                self.next();
                let key = self.constant(Const::Str(name));
                if call.kwargs.iter().any(|&(other, _)| other == key) {
                    return self.fail_at("keyword argument repeated", line);
                }
                call.kwargs.push((key, self.expression()?));
            } else {
                if call.star.is_some() || call.star_star.is_some() || !call.kwargs.is_empty() {
                    return self.fail_at(wrong, line);
                }
                call.args.push(self.expression()?);
            }
        }
        self.expect_op(")")?;
        Ok(call)
    }

    fn filters_and_tests(&mut self, links: &mut Vec<Link>) -> Result<()> {
        loop {
            if self.is_op("|") {
                links.append(&mut self.filters(false)?);
            } else if self.is_name("is") {
                self.next();
                links.extend(self.test()?);
            } else if self.is_op("(") {
                links.push(Link::Call(self.call_args()?));
            } else {
                return Ok(());
            }
        }
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.expect_name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name)
    }

    fn filters(&mut self, mut inline: bool) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        while inline || self.skip_op("|") {
            inline = false;
            let line = self.line();
            let name = self.dotted_name()?;
            let number = match filters::number(&name) {
                Some(number) => Ok(number),
                None => {
                    self.unknown.push((format!("filter named '{name}'"), line));
                    Err(self.constant(Const::Str(name)))
                }
            };
            let args = if self.is_op("(") { self.call_args()? } else { CallArgs::default() };
            links.push(Link::Filter(number, args));
        }
        Ok(links)
    }

    /// A test behind `is`, and its negation.
    fn test(&mut self) -> Result<Vec<Link>> {
        let negated = self.skip_name("not");
        let line = self.line();
        let name = self.dotted_name()?;
        let number = match checks::number(&name) {
            Some(number) => Ok(number),
            None => {
                self.unknown.push((format!("test named '{name}'"), line));
                Err(self.constant(Const::Str(name)))
            }
        };
        let mut call = CallArgs::default();
        let takes_one = match self.peek() {
            Token::Name(name) => !matches!(&**name, "else" | "or" | "and"),
            Token::Str(_) | Token::Integer(..) | Token::Float(_) => true,
            Token::Op(op) => matches!(*op, "[" | "{"),
            _ => false,
        };
        if self.is_op("(") {
            call = self.call_args()?;
        } else if takes_one {
            if self.is_name("is") {
                return self.fail("You cannot chain multiple tests with is");
            }
            let base = self.primary()?;
            let mut links = Vec::new();
            self.postfix(&mut links)?;
            call.args.push(if links.is_empty() { base } else { Expr::Chain(Box::new(base), links) });
        }
        let mut links = vec![Link::Test(number, call)];
        if negated {
            links.push(Link::Not);
        }
        Ok(links)
    }
}
