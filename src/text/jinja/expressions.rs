//! Expressions to a tree, by jinja2's precedences.

use num_bigint::BigInt;
use num_traits::Num;

use super::ast::{CallArgs, Cmp, Const, Expr, Link};
use super::checks;
use super::fault::{Result, limit_error};
use super::filters;
use super::lexer::{Spanned, Token};
use super::number::Op;
use super::parser::Parser;

/// Conditions one behind another, each around all before it.
const MAX_CHAINED: u32 = 100;

impl Parser {
    /// `yes if test else no`
    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.stack.check().map_err(|fault| fault.at(self.line()))?;
        let mark = self.unknown.len();
        let mut chained = 0;
        let mut value = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let no = if self.skip_name("else") { Some(self.expression()?) } else { None };
            value = Expr::Cond(Box::new((test, value, no)));
            self.unknown.truncate(mark);
            chained += 1;
            if chained > MAX_CHAINED {
                return Err(limit_error(format!(
                    "it nests too deep: the recursion of `a if b if c` ends at {MAX_CHAINED}"
                ))
                .at(self.line()));
            }
        }
        Ok(value)
    }

    pub(super) fn or(&mut self) -> Result<Expr> {
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
                let value = self.tuple(true, true)?;
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

    pub(super) fn call_args(&mut self) -> Result<CallArgs> {
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

    pub(super) fn filters(&mut self, mut inline: bool) -> Result<Vec<Link>> {
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
