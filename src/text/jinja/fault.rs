//! Why a template fails: Python's kinds of errors, where code tells them apart, and limits.

use std::fmt;

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The template's text is not Jinja.
    Syntax,
    Type,
    Value,
    Overflow,
    ZeroDivision,
    Lookup,
    Undefined,
    Security,
    Runtime,
    /// `raise_exception`: the message is the template's own.
    Raised,
    /// A budget is spent; nothing in a template recovers from it.
    Limit,
    Memory,
}

/// An error with the template's line, once that is known.
#[derive(Debug)]
pub(super) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    line: u32,
}

impl Fault {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), line: 0 }))
    }

    /// Memory that is short is the host's affair, not the template's.
    pub fn from_memory(error: crate::Error) -> Self {
        Fault::new(Kind::Memory, error.to_string())
    }

    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.0.message.len()
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn into_error(self) -> crate::Error {
        match self.kind() {
            Kind::Memory => crate::Error::OutOfMemory {
                what: format!("a chat template: {self}"),
                wanted: 0,
                free: 0,
                total: 0,
            },
            _ => crate::Error::Template(self.to_string()),
        }
    }

    /// Names the line unless an inner statement has.
    #[must_use]
    pub fn at(mut self, line: u32) -> Self {
        if self.0.line == 0 {
            self.0.line = line;
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, line } = &*self.0;
        match (kind, line) {
            (Kind::Raised, _) | (_, 0) => f.write_str(message),
            (Kind::Syntax, line) => write!(f, "syntax error in line {line}: {message}"),
            (_, line) => write!(f, "line {line}: {message}"),
        }
    }
}

macro_rules! kinds {
    ($($name:ident $kind:ident,)*) => {$(
        pub(super) fn $name(message: impl Into<String>) -> Fault {
            Fault::new(Kind::$kind, message)
        }
    )*};
}

kinds! {
    type_error Type,
    value_error Value,
    overflow_error Overflow,
    lookup_error Lookup,
    runtime_error Runtime,
    limit_error Limit,
}
