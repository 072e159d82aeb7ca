//! A template as a tree. Chains of operators of one precedence are lists, so that only brackets, blocks and calls nest.

use std::sync::Arc;

use num_bigint::BigInt;

use super::number::Op;

/// A parsed template.
#[derive(Debug)]
pub(super) struct Program {
    pub body: Vec<Stmt>,
    /// Names by number.
    pub names: Vec<String>,
    pub consts: Vec<Const>,
    pub blocks: Vec<Block>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(BigInt),
    Float(f64),
    Str(String),
}

#[derive(Debug)]
pub(super) struct Block {
    pub name: u32,
    pub body: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) enum Stmt {
    Data(String),
    Emit(Expr, u32),
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>, u32),
    For(Arc<For>),
    Set(Target, Expr, u32),
    SetBlock(Target, Vec<Link>, Vec<Stmt>, u32),
    With(Vec<(Target, Expr)>, Vec<Stmt>, u32),
    Macro(Arc<MacroDef>),
    Call(Arc<MacroDef>, Expr, u32),
    Generation(Arc<MacroDef>),
    Filter(Vec<Link>, Vec<Stmt>, u32),
    /// A block's number, whether it sees the scope around it, its line.
    Block(u32, bool, u32),
    Break,
    Continue,
    /// Variables of the frame that begins here, undefined until they are set, whatever the caller gives.
    Hide(Vec<u32>),
    /// `include` and its kin, which need a loader; only `include ... ignore missing` renders, as nothing.
    Load(Expr, u32),
}

#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub iter: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
    pub line: u32,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(u32),
    Tuple(Vec<Target>),
    /// An attribute of a namespace: names of both.
    Attr(u32, u32),
}

/// A macro, or the body of a call block.
#[derive(Debug, Default)]
pub(super) struct MacroDef {
    /// None: of a call block.
    pub name: Option<u32>,
    /// The name; "caller" of a call block's body.
    pub title: String,
    pub args: Vec<u32>,
    /// Of the last arguments.
    pub defaults: Vec<Expr>,
    pub body: Vec<Stmt>,
    pub uses_caller: bool,
    pub uses_kwargs: bool,
    pub uses_varargs: bool,
    pub line: u32,
}

#[derive(Debug)]
pub(super) enum Expr {
    /// Number of a constant.
    Const(u32),
    /// Number of a name.
    Name(u32),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// From left to right.
    Math(Box<Expr>, Vec<(Op, Expr)>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Cmp, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// Whether `not` stands before it an odd number of times.
    Not(Box<Expr>, bool),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    /// test, yes, no
    Cond(Box<(Expr, Expr, Option<Expr>)>),
    /// An expression and what is done to it.
    Chain(Box<Expr>, Vec<Link>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cmp {
    Eq,
    Ne,
    /// `<`, `<=`, `>`, `>=`
    Order(&'static str),
    In,
    NotIn,
}

#[derive(Debug)]
pub(super) enum Link {
    /// Number of the constant that holds the attribute's name.
    Attr(u32),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(CallArgs),
    /// Number of the filter in the table, or of the constant that holds an unknown one's name.
    Filter(Result<u16, u32>, CallArgs),
    Test(Result<u16, u32>, CallArgs),
    /// `is not`
    Not,
}

#[derive(Debug, Default)]
pub(super) struct CallArgs {
    pub args: Vec<Expr>,
    /// Constants that hold the names, and values.
    pub kwargs: Vec<(u32, Expr)>,
    pub star: Option<Box<Expr>>,
    pub star_star: Option<Box<Expr>>,
}
