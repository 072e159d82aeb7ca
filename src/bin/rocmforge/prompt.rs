//! From flags to prompt text, and from messages to prompt tokens.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rocmforge::engine::Model;
use rocmforge::text::ChatMessage;

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Source {
    /// The prompt
    #[arg(short, long, allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// File that holds the prompt; - is standard input
    #[arg(short, long)]
    pub file: Option<PathBuf>,
}

/// Whether backslashes in texts mean something.
#[derive(clap::Args)]
pub struct EscapeArgs {
    /// Turn \n, \t, \", \xHH and such into what they stand for; on for texts among the arguments, off for what is read
    /// from files and standard input unless given
    #[arg(short, long, overrides_with = "no_escape")]
    escape: bool,
    /// Leave backslashes alone everywhere
    #[arg(long, overrides_with = "escape")]
    no_escape: bool,
}

impl EscapeArgs {
    pub fn of_argument(&self, text: String) -> String {
        if self.no_escape { text } else { unescape(&text) }
    }

    /// Of text that is not among the arguments.
    pub fn of_input(&self, text: String) -> String {
        if self.escape { unescape(&text) } else { text }
    }

    /// The text of an argument or else of a file. One line end at the end of a file is its editor's, not the text's.
    pub fn text(&self, argument: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
        Ok(match (argument, file) {
            (Some(text), _) => Some(self.of_argument(text.to_owned())),
            (None, Some(path)) => Some(self.of_input(strip_line_end(read(path)?))),
            (None, None) => None,
        })
    }
}

#[derive(clap::Args)]
pub struct SystemArgs {
    /// The system's message (-sys)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system_prompt: Option<String>,
    /// File that holds the system's message (-sysf)
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    system_prompt_file: Option<PathBuf>,
}

impl SystemArgs {
    pub fn text(&self, escapes: &EscapeArgs) -> Result<Option<String>> {
        escapes.text(self.system_prompt.as_deref(), self.system_prompt_file.as_deref())
    }
}

/// A text file, or standard input for "-".
pub fn read(path: &Path) -> Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    utf8(bytes).with_context(|| path.display().to_string())
}

/// Text of bytes, or an error that says where they stop being UTF-8.
pub fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|e| anyhow::anyhow!("not UTF-8 text at byte {}", e.utf8_error().valid_up_to()))
}

/// Without one line end, LF or CRLF, at the end.
pub fn strip_line_end(mut text: String) -> String {
    if let Some(rest) = text.strip_suffix('\n') {
        text.truncate(rest.strip_suffix('\r').unwrap_or(rest).len());
    }
    text
}

/// The escapes of C strings; an unknown one stays as it is.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let tail = &rest[at + 1..];
        let hex = tail
            .strip_prefix('x')
            .and_then(|t| t.get(..2))
            .filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|t| u8::from_str_radix(t, 16).ok());
        let (byte, used) = match (tail.bytes().next(), hex) {
            (Some(b'n'), _) => (b'\n', 1),
            (Some(b'r'), _) => (b'\r', 1),
            (Some(b't'), _) => (b'\t', 1),
            (Some(c @ (b'\'' | b'"' | b'\\')), _) => (c, 1),
            (Some(b'x'), Some(byte)) => (byte, 3),
            _ => (b'\\', 0),
        };
        bytes.push(byte);
        rest = &tail[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    // \x may spell bytes that are not characters
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Messages to tokens through the file's chat template, ready for the assistant's answer. Control tokens written out
/// in the messages stay text: only the template's own count.
pub fn chat_tokens(model: &Model, messages: &[ChatMessage]) -> Result<Vec<u32>> {
    let Some(template) = model.chat_template()? else {
        bail!("the file has no chat template (tokenizer.chat_template); `rocmforge generate` needs none");
    };
    Ok(model.vocab().tokenize_prompt(&template.apply(messages, None, true)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (from, to) in [
            ("a\\nb", "a\nb"),
            ("\\t\\r\\\\n", "\t\r\\n"),
            ("\\'\\\"", "'\""),
            ("\\x41\\x", "A\\x"),
            ("\\x4", "\\x4"),
            ("\\x+1", "\\x+1"),
            ("\\é\\", "\\é\\"),
            ("\\xc3\\xa9", "é"),
            ("\\xff", "\u{FFFD}"),
            ("", ""),
        ] {
            assert_eq!(unescape(from), to, "{from:?}");
        }
    }

    #[test]
    fn one_line_end_is_stripped() {
        for (from, to) in
            [("a\n\n", "a\n"), ("a\r\n", "a"), ("a\r\n\r\n", "a\r\n"), ("a\r", "a\r"), ("a", "a")]
        {
            assert_eq!(strip_line_end(from.into()), to, "{from:?}");
        }
    }

    #[test]
    fn not_utf8_names_the_byte() {
        assert_eq!(utf8(b"ab\xff".to_vec()).unwrap_err().to_string(), "not UTF-8 text at byte 2");
    }
}
