//! The template language of chat templates: Jinja as Python's jinja2 3.1 has it, set up as Hugging Face's transformers
//! does (an immutable sandbox, trim_blocks, lstrip_blocks, break and continue, `{% generation %}`).
//!
//! A template is a program from a file that nobody vouches for. It reaches nothing but its variables; its memory,
//! instructions, output and stack are bounded (`meter`). Its strings know which of their bytes came from messages
//! (`text`), so that what a message spells is never taken for the template's own.

mod access;
mod ast;
mod call;
mod checks;
mod dict;
mod expressions;
mod fault;
mod filters;
mod format;
mod frames;
mod interpreter;
mod json;
mod lexer;
mod markup;
mod meter;
mod methods;
mod number;
mod operators;
mod parser;
mod repr;
mod scope;
mod sort;
mod stack;
#[cfg(test)]
mod tests;
mod text;
mod text_filters;
mod time;
mod unicode;
mod value;

use std::ops::Range;

use chrono::NaiveDateTime;
use serde_json::Value as Json;

use self::fault::{Fault, Result};
use self::interpreter::Interpreter;
pub(super) use self::json::size as json_size;
pub(super) use self::meter::Limits;
use self::stack::with_stack;
use crate::memory;

/// Bytes of a template. (Those in use have up to 50,000.)
const MAX_SOURCE: usize = 1 << 20;

/// A template that has been parsed.
#[derive(Debug)]
pub(super) struct Template {
    program: ast::Program,
}

/// What a template sees under a name.
pub(super) struct Variable<'a> {
    pub name: &'a str,
    pub value: &'a Json,
    /// Its strings are a message's, not the template's own.
    pub from_message: bool,
}

/// A template's output.
#[derive(Debug, PartialEq)]
pub(super) struct Rendered {
    pub text: String,
    /// Byte ranges that came from messages: ascending, apart.
    pub from_messages: Vec<Range<usize>>,
}

impl Template {
    /// # Errors
    /// The source is no template; the message names the line.
    pub fn parse(source: &str) -> crate::Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(crate::Error::Template(format!(
                "it is {} bytes long, too large: the most is {MAX_SOURCE}",
                source.len()
            )));
        }
        // a token and a node of the tree for each byte, at most
        let room = source.len().saturating_mul(512).saturating_add(1 << 16);
        let program = memory::with_room(room, "the chat template", || with_stack(|| parser::parse(source)))??
            .map_err(Fault::into_error)?;
        Ok(Self { program })
    }

    /// `now`: what strftime_now takes for the time; None: the system's local time.
    ///
    /// # Errors
    /// The template refused, failed or reached a limit.
    pub fn render(
        &self,
        variables: &[Variable<'_>],
        limits: Limits,
        now: Option<NaiveDateTime>,
    ) -> crate::Result<Rendered> {
        let run = || -> Result<Rendered, Fault> {
            let mut interpreter = Interpreter::new(&self.program, limits, now)?;
            for Variable { name, value, from_message } in variables {
                let value = json::from_json(interpreter.rt(), value, *from_message)?;
                interpreter.set_variable(name, value);
            }
            let (text, from_messages) = interpreter.run()?.into_parts();
            Ok(Rendered { text, from_messages })
        };
        with_stack(run)?.map_err(Fault::into_error)
    }
}

/// Renders a template with the variables of a JSON object, within the limits of a chat template for as much JSON.
///
/// # Errors
/// [`crate::Error::Template`]: the source is no template, it refused, failed or reached a limit.
pub fn render(source: &str, context: &Json, now: Option<NaiveDateTime>) -> crate::Result<String> {
    let Json::Object(map) = context else {
        return Err(crate::Error::Template("its variables are no JSON object".to_owned()));
    };
    let variables: Vec<_> =
        map.iter().map(|(name, value)| Variable { name, value, from_message: false }).collect();
    let limits = Limits::new(map.len(), map.values().map(json::size).sum());
    Template::parse(source)?.render(&variables, limits, now).map(|rendered| rendered.text)
}

/// A value as Python's repr() writes it.
pub(super) fn python_repr(value: &Json) -> crate::Result<String> {
    let write = || -> Result<String> {
        let rt = meter::Meter::new(Limits::new(1, json_size(value)));
        let mut out = text::Builder::new(&rt)?;
        repr::write_repr(&rt, &mut out, &json::from_json(&rt, value, false)?)?;
        Ok(out.into_parts().0)
    };
    with_stack(write)?.map_err(Fault::into_error)
}
