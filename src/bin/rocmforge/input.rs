//! What the user says: lines of a pipe or file as they come, or edited in a terminal, with a history.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context as _, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Config, Context, Editor, Helper};

use crate::prompt::utf8;
use crate::{interrupt, terminal};

pub enum Input {
    Terminal(Box<Editor<Words, DefaultHistory>>),
    /// No terminal, or one that cannot move its cursor, which gets a prompt.
    Plain {
        has_prompt: bool,
    },
}

pub enum Line {
    Text(String),
    /// What came is no text, and why.
    Unreadable(String),
    /// Ctrl-C in place of a line.
    Interrupted,
    End,
}

const PROMPT: &str = "> ";

impl Input {
    /// `words` are completed at the start of a line.
    pub fn new(words: Vec<&'static str>) -> Result<Self> {
        let is_terminal = io::stdin().is_terminal();
        let is_plain =
            std::env::var("TERM").is_ok_and(|term| ["dumb", "cons25", "emacs"].contains(&term.as_str()));
        if !is_terminal || is_plain {
            return Ok(Input::Plain { has_prompt: is_terminal });
        }
        // the terminal itself: standard output is for the answers and may go elsewhere
        let config = Config::builder().behavior(Behavior::PreferTerm).auto_add_history(true).build();
        let mut editor = Editor::with_config(config).context("cannot edit lines")?;
        editor.set_helper(Some(Words(words)));
        Ok(Input::Terminal(Box::new(editor)))
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_) | Input::Plain { has_prompt: true })
    }

    /// The next message.
    pub fn read(&mut self) -> Result<Line> {
        match self {
            Input::Terminal(editor) => edited(editor),
            Input::Plain { has_prompt } => plain(*has_prompt),
        }
    }
}

fn edited(editor: &mut Editor<Words, DefaultHistory>) -> Result<Line> {
    // one that came too late for the last answer
    interrupt::take();
    match interrupt::while_idle(|| terminal::while_editing(|| editor.readline(PROMPT)))? {
        Ok(text) => Ok(Line::Text(joined(&text))),
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(ReadlineError::Interrupted | ReadlineError::Signal(rustyline::error::Signal::Interrupt)) => {
            Ok(Line::Interrupted)
        }
        Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(Line::Unreadable("not UTF-8 text".into()))
        }
        Err(error) => Err(error).context("cannot read from the terminal"),
    }
}

/// A line without its end.
fn plain(has_prompt: bool) -> Result<Line> {
    if has_prompt {
        let mut err = io::stderr();
        let _ = write!(err, "{PROMPT}").and_then(|()| err.flush());
    }
    let mut line = Vec::new();
    let n = interrupt::while_idle(|| io::stdin().lock().read_until(b'\n', &mut line))?
        .context("cannot read standard input")?;
    if n == 0 {
        return Ok(Line::End);
    }
    Ok(match utf8(line) {
        Ok(line) => Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Line::Unreadable(error.to_string()),
    })
}

const QUOTES: &str = "\"\"\"";

/// Whether more lines belong to what was typed: a backslash ends it, or three quotes are open.
fn is_unfinished(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(quoted) => !quoted.contains(QUOTES),
        None => text.ends_with('\\'),
    }
}

/// The message that was typed, without what joined its lines.
fn joined(typed: &str) -> String {
    if let Some(quoted) = typed.trim_start().strip_prefix(QUOTES)
        && let Some((text, after)) = quoted.split_once(QUOTES)
    {
        let text = text.strip_prefix('\n').unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        return format!("{text}{after}");
    }
    // lines of a pasted text have their own backslashes
    typed.replace("\\\n", "\n")
}

/// Completes the first word of a line, and lets Enter go on where a message is unfinished.
pub struct Words(Vec<&'static str>);

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..at).unwrap_or_default();
        let fitting = self.0.iter().filter(|word| typed.starts_with('/') && word.starts_with(typed));
        Ok((0, fitting.map(|word| (*word).to_owned()).collect()))
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        if is_unfinished(context.input()) {
            return Ok(ValidationResult::Incomplete);
        }
        // before the terminal is given back, from when on Ctrl-C is a signal again
        interrupt::begin_work();
        Ok(ValidationResult::Valid(None))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Helper for Words {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_go_on() {
        for (typed, message) in [
            ("hi", "hi"),
            ("a\\\nb\\\n\\c", "a\nb\n\\c"),
            ("\"\"\"a\nb\"\"\"", "a\nb"),
            ("\"\"\"\n  a\\\nb\n\"\"\"", "  a\\\nb"),
            ("say \"\"\" and", "say \"\"\" and"),
            ("", ""),
        ] {
            assert!(!is_unfinished(typed), "{typed:?}");
            assert_eq!(joined(typed), message, "{typed:?}");
        }
        for typed in ["a\\", "a\\\nb\\", "\"\"\"", "\"\"\"a\nb", " \"\"\"a\\", "\"\"\"a\"\"\n"] {
            assert!(is_unfinished(typed), "{typed:?}");
        }
    }
}
