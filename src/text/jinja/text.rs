//! Strings as Python has them (counted in characters) that know which of their bytes came from messages.

use std::ops::Range;
use std::rc::Rc;

use super::fault::{Result, overflow_error};
use super::meter::{Charge, Rt, no_memory};

/// Which bytes of a string came from messages or tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Template,
    Message,
    /// Byte ranges from messages: ascending, apart, neither empty nor all.
    Mixed(Rc<Vec<Range<usize>>>),
}

/// What a piece of text that is copied costs beside its bytes, and a string that is made: in bytes of work.
const PIECE: usize = 16;
const STRING: usize = 32;

/// A string; clones share it.
#[derive(Clone)]
pub(super) struct Str(Rc<Inner>);

struct Inner {
    text: String,
    chars: usize,
    origin: Origin,
    /// `Markup` in Python: escaped, or said to be.
    safe: bool,
    _charge: Charge,
}

impl Str {
    /// Text that is the template's own.
    pub fn new(rt: &Rt, text: &str) -> Result<Self> {
        Self::with(rt, text, false)
    }

    /// Text that is the template's own, or a message's.
    pub fn with(rt: &Rt, text: &str, from_message: bool) -> Result<Self> {
        let mut out = Builder::with_capacity(rt, text.len())?;
        out.push(text, from_message)?;
        Ok(out.finish())
    }

    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub fn len(&self) -> usize {
        self.0.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.text.is_empty()
    }

    /// Python's len().
    pub fn chars(&self) -> usize {
        self.0.chars
    }

    pub fn is_safe(&self) -> bool {
        self.0.safe
    }

    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Whether any byte came from a message.
    pub fn tainted(&self) -> bool {
        self.0.origin != Origin::Template
    }

    pub fn same(&self, other: &Str) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    pub fn set_safe(&self, rt: &Rt, safe: bool) -> Result<Str> {
        if safe == self.0.safe {
            return Ok(self.clone());
        }
        let mut out = Builder::with_capacity(rt, self.len())?;
        out.push_str(self)?;
        Ok(out.finish_as(safe))
    }

    /// Byte offset of character `index`, or the length.
    pub fn offset(&self, index: usize) -> usize {
        if self.0.chars == self.0.text.len() {
            return index.min(self.0.text.len());
        }
        self.0.text.char_indices().nth(index).map_or(self.0.text.len(), |(at, _)| at)
    }

    /// Pieces of the byte range, each from one origin.
    pub fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = (&str, bool)> {
        let whole: &[Range<usize>] = match &self.0.origin {
            Origin::Mixed(ranges) => ranges,
            _ => &[],
        };
        let uniform = self.0.origin == Origin::Message;
        let mut next = whole.partition_point(|marked| marked.end <= range.start);
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let (end, from_message) = match whole.get(next) {
                Some(marked) if marked.start <= at => {
                    next += 1;
                    (marked.end.min(range.end), true)
                }
                Some(marked) => (marked.start.min(range.end), uniform),
                None => (range.end, uniform),
            };
            let piece = &self.0.text[at..end];
            at = end;
            Some((piece, from_message))
        })
    }

    /// Characters, each with its origin.
    pub fn chars_from(&self) -> impl Iterator<Item = (char, bool)> {
        self.pieces(0..self.len()).flat_map(|(text, from)| text.chars().map(move |c| (c, from)))
    }

    pub fn slice(&self, rt: &Rt, range: Range<usize>) -> Result<Str> {
        if range == (0..self.len()) && !self.0.safe {
            return Ok(self.clone());
        }
        let mut out = Builder::with_capacity(rt, range.len())?;
        out.push_part(self, range)?;
        Ok(out.finish())
    }
}

/// A string that grows.
pub(super) struct Builder {
    rt: Rt,
    text: String,
    /// Byte ranges from messages.
    marks: Vec<Range<usize>>,
    charge: Charge,
}

impl Builder {
    pub fn new(rt: &Rt) -> Result<Self> {
        rt.work(STRING)?;
        Ok(Self {
            rt: rt.clone(),
            text: String::new(),
            marks: Vec::new(),
            charge: rt.charge(size_of::<Inner>())?,
        })
    }

    pub fn with_capacity(rt: &Rt, bytes: usize) -> Result<Self> {
        let mut builder = Self::new(rt)?;
        builder.reserve(bytes)?;
        Ok(builder)
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let wanted =
            self.text.len().checked_add(bytes).ok_or_else(|| overflow_error("a string is too large"))?;
        let had = self.text.capacity();
        if wanted > had {
            // Doubling, as long as the budget bears it.
            let doubled = wanted.max(had.saturating_mul(2));
            let capacity = match self.charge.grow(doubled - had) {
                Ok(()) => doubled,
                Err(_) => {
                    self.charge.grow(wanted - had)?;
                    wanted
                }
            };
            self.text.try_reserve_exact(capacity - self.text.len()).map_err(|_| no_memory(capacity))?;
        }
        Ok(())
    }

    pub fn push(&mut self, text: &str, from_message: bool) -> Result<()> {
        self.reserve(text.len())?;
        self.rt.work(text.len().saturating_add(PIECE))?;
        let start = self.text.len();
        self.text.push_str(text);
        if from_message { self.mark(start) } else { Ok(()) }
    }

    /// Marks all that follows byte `start`.
    fn mark(&mut self, start: usize) -> Result<()> {
        let end = self.text.len();
        if start == end {
            return Ok(());
        }
        match self.marks.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => {
                let had = self.marks.capacity();
                if self.marks.len() == had {
                    let more = had.max(4);
                    self.charge.grow(more * size_of::<Range<usize>>())?;
                    self.marks.try_reserve_exact(more).map_err(|_| no_memory(more))?;
                }
                self.marks.push(start..end);
            }
        }
        Ok(())
    }

    pub fn push_char(&mut self, c: char, from_message: bool) -> Result<()> {
        self.push(c.encode_utf8(&mut [0; 4]), from_message)
    }

    pub fn push_str(&mut self, text: &Str) -> Result<()> {
        self.push_part(text, 0..text.len())
    }

    pub fn push_part(&mut self, text: &Str, range: Range<usize>) -> Result<()> {
        self.reserve(range.len())?;
        for (piece, from) in text.pieces(range) {
            self.push(piece, from)?;
        }
        Ok(())
    }

    /// `text` `count` times.
    pub fn repeat(&mut self, text: &str, count: usize, from_message: bool) -> Result<()> {
        let bytes = text.len().checked_mul(count).ok_or_else(|| overflow_error("a string is too large"))?;
        if bytes == 0 {
            return Ok(());
        }
        self.reserve(bytes)?;
        self.rt.work(bytes)?;
        let start = self.text.len();
        for _ in 0..count {
            self.text.push_str(text);
        }
        if from_message { self.mark(start) } else { Ok(()) }
    }

    pub fn finish(self) -> Str {
        self.finish_as(false)
    }

    pub fn finish_as(self, safe: bool) -> Str {
        let Self { text, marks, charge, .. } = self;
        let origin = match &*marks {
            [] => Origin::Template,
            [whole] if *whole == (0..text.len()) => Origin::Message,
            _ => Origin::Mixed(Rc::new(marks)),
        };
        Str(Rc::new(Inner { chars: text.chars().count(), text, origin, safe, _charge: charge }))
    }

    /// The text and its byte ranges from messages.
    pub fn into_parts(self) -> (String, Vec<Range<usize>>) {
        (self.text, self.marks)
    }
}

/// Python's str.isspace() of one character, and `\s` of its regular expressions.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Where str.splitlines() ends a line.
pub(super) fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}
