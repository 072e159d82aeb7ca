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

#[derive(clap::Args)]
pub struct PromptArgs {
    #[command(flatten)]
    pub source: Source,
    /// Turn \n, \t, \", \xHH and such into what they stand for; on for --prompt, off for --file unless given
    #[arg(short, long, overrides_with = "no_escape")]
    pub escape: bool,
    /// Leave backslashes in --prompt alone
    #[arg(long, overrides_with = "escape")]
    pub no_escape: bool,
}

impl PromptArgs {
    /// The text. One newline at the end of a file is its editor's, not the prompt's.
    pub fn text(&self) -> Result<String> {
        let (text, is_file) = match (&self.source.prompt, &self.source.file) {
            (Some(prompt), _) => (prompt.clone(), false),
            (None, Some(path)) => (strip_newline(read(path)?), true),
            (None, None) => bail!("no prompt"),
        };
        Ok(if self.escape || !(is_file || self.no_escape) { unescape(&text) } else { text })
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

pub fn strip_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
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
    fn one_newline_is_stripped() {
        assert_eq!(strip_newline("a\n\n".into()), "a\n");
        assert_eq!(strip_newline("a".into()), "a");
    }

    #[test]
    fn not_utf8_names_the_byte() {
        assert_eq!(utf8(b"ab\xff".to_vec()).unwrap_err().to_string(), "not UTF-8 text at byte 2");
    }
}
