//! Chat templates: the file's own Jinja, run by minijinja, bounded in time and output.

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::Value as Json;

use super::Vocab;
use crate::gguf::Metadata;
use crate::{Error, Result};

/// One message. `content` is plain text; tool calls and such go through `extra` (JSON object fields).
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    pub role: String,
    #[serde(default)]
    pub content: String,
    #[serde(flatten)]
    pub extra: serde_json::Map<String, Json>,
}

impl ChatMessage {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Default::default() }
    }
}

/// A rendered template, which remembers what in it must not be read as control tokens: their spellings inside
/// messages. [`Vocab::tokenize_prompt`] turns it into ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatPrompt {
    text: String,
    /// Byte ranges of `text`, ascending.
    literals: Vec<Range<usize>>,
}

impl ChatPrompt {
    /// A prompt without messages: every control token's spelling counts.
    pub fn from_trusted(text: impl Into<String>) -> Self {
        Self { text: text.into(), literals: Vec::new() }
    }

    /// The plain string. Tokenizing it with `parse_special` would let messages forge control tokens.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where messages spell control tokens: byte ranges of the text, ascending.
    pub fn literals(&self) -> &[Range<usize>] {
        &self.literals
    }

    fn push_literal(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        match self.literals.last_mut() {
            Some(last) if last.end == start => last.end = self.text.len(),
            _ => self.literals.push(start..self.text.len()),
        }
    }
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    has_tool_use: bool,
    bos: String,
    eos: String,
    guard: Guard,
}

/// Names of the templates in the environment.
const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "chat_template.tool_use";

/// Output that any template may write, and how much more per byte of messages (JSON escapes one byte in six).
const MAX_OUTPUT: usize = 4 << 20;
const OUTPUT_PER_BYTE: usize = 8;
/// Instructions that any template may run, and how many more per message and per byte of messages and tools.
const FUEL: u64 = 250_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
const FUEL_PER_BYTE: u64 = 4;
const MAX_FUEL: u64 = 2_000_000;
/// Templates can nest values as deep as their fuel lasts, and dropping those takes stack for each level.
const STACK_BYTES: usize = 256 << 20;

impl ChatTemplate {
    /// The file's `tokenizer.chat_template`; None when it has none.
    ///
    /// # Errors
    /// [`Error::Template`]: it does not compile.
    pub fn from_metadata(meta: &Metadata, vocab: &Vocab) -> Result<Option<Self>> {
        let Some(source) = meta.str("tokenizer.chat_template")? else { return Ok(None) };
        let mut template = Self::new(source, vocab)?;
        if let Some(source) = meta.str("tokenizer.chat_template.tool_use")? {
            template.add(TOOL_USE, source)?;
            template.has_tool_use = true;
        }
        Ok(Some(template))
    }

    /// From template source. `vocab` gives the texts of BOS and EOS and the spellings to guard.
    pub fn new(source: &str, vocab: &Vocab) -> Result<Self> {
        let text = |id: Option<u32>| id.and_then(|id| vocab.token_text(id)).unwrap_or_default().to_owned();
        let mut template = Self {
            env: environment(),
            source: source.to_owned(),
            has_tool_use: false,
            bos: text(vocab.bos()),
            eos: text(vocab.eos()),
            guard: Guard::new(vocab.control_texts())?,
        };
        template.add(DEFAULT, source)?;
        Ok(template)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        // Transformers' mark of the assistant's words in training data.
        static GENERATION: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the expression is constant")
        });
        let source = GENERATION.replace_all(source, |found: &fancy_regex::Captures<'_, str>| {
            let group = |i| found.get(i).map_or("", |group| group.as_str());
            let tag = if group(2).is_empty() { "if true" } else { "endif" };
            format!("{{%{} {tag} {}%}}", group(1), group(3))
        });
        self.env.add_template_owned(name, source.into_owned()).map_err(|err| Error::Template(describe(&err)))
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt. `tools`: JSON array of tool definitions or None.
    ///
    /// The template is a program from the file: it sees only the messages and tools, its instructions and its output
    /// are limited, and it runs on a thread of its own with the stack it may need. Strings that it doubles again and
    /// again are not limited in memory: minijinja offers no bound on `~` and `+`.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refused (`raise_exception`), failed, ran too long or wrote too much.
    pub fn apply(
        &self,
        messages: &[ChatMessage],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<ChatPrompt> {
        let tools =
            tools.filter(|tools| !tools.is_null() && tools.as_array().is_none_or(|list| !list.is_empty()));
        let mut input_bytes = 0;
        let guarded: Vec<Json> =
            messages.iter().map(|message| self.guard.message(message, &mut input_bytes)).collect();
        let tools = tools.map(|tools| self.guard.json(tools, &mut input_bytes));
        let limit = MAX_OUTPUT.saturating_add(input_bytes.saturating_mul(OUTPUT_PER_BYTE));
        let fuel = (messages.len() as u64)
            .saturating_mul(FUEL_PER_MESSAGE)
            .saturating_add((input_bytes as u64).saturating_mul(FUEL_PER_BYTE))
            .saturating_add(FUEL)
            .min(MAX_FUEL);

        let name = if tools.is_some() && self.has_tool_use { TOOL_USE } else { DEFAULT };
        let render = || -> Result<String> {
            let mut env = self.env.clone();
            env.set_fuel(Some(fuel));
            let context = minijinja::context! {
                messages => Value::from(Serde(&guarded)),
                tools => tools.as_ref().map_or(Value::from(()), |tools| Value::from(Serde(tools))),
                documents => Value::from(()),
                add_generation_prompt,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
            };
            let mut out = Bounded { bytes: Vec::new(), limit, full: false };
            let rendered = env
                .get_template(name)
                .and_then(|template| template.render_captured_to(context, &mut out).map(drop));
            match rendered {
                Ok(()) => String::from_utf8(out.bytes)
                    .map_err(|_| Error::Template("it wrote no valid UTF-8".to_owned())),
                Err(_) if out.full => Err(Error::Template(format!("it wrote more than {limit} bytes"))),
                Err(err) if err.kind() == ErrorKind::OutOfFuel => {
                    Err(Error::Template(format!("it ran more than {fuel} instructions")))
                }
                Err(err) => Err(Error::Template(describe(&err))),
            }
        };
        let text = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("rocmforge-chat".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, render)
                .map_err(|err| Error::Template(format!("no thread to run it on: {err}")))?
                .join()
                .map_err(|_| Error::Internal("the template engine panicked".to_owned()))?
        })?;
        Ok(self.guard.resolve(&text))
    }
}

/// An error with the line of the template and the errors behind it.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// What Hugging Face's `apply_chat_template` gives a template.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("Jinja's own delimiters are valid"));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: &str| -> std::result::Result<String, minijinja::Error> {
        let mut text = String::new();
        write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
            minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: bad format {format:?}"))
        })?;
        Ok(text)
    });
    env
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=..., separators=..., sort_keys=...)`.
fn tojson(value: &Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let bad = |why: String| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {why}"));
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(bad("separators must be two strings".to_owned())),
    };
    if indent.is_some_and(|indent| indent > 64) {
        return Err(bad("indent is over 64".to_owned()));
    }
    let json = serde_json::to_value(value).map_err(|err| bad(err.to_string()))?;
    let mut out = String::new();
    let style = JsonStyle { indent, item, key, sort_keys: sort_keys.unwrap_or(false) };
    style.write(&json, 0, &mut out).map_err(bad)?;
    Ok(Value::from(out))
}

struct JsonStyle<'a> {
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    sort_keys: bool,
}

impl JsonStyle<'_> {
    fn write(&self, json: &Json, depth: usize, out: &mut String) -> std::result::Result<(), String> {
        if depth > 256 {
            return Err("the value is nested more than 256 deep".to_owned());
        }
        match json {
            Json::Array(list) if !list.is_empty() => {
                out.push('[');
                for (i, value) in list.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.write(value, depth + 1, out)?;
                }
                self.line(depth, out);
                out.push(']');
            }
            Json::Object(map) if !map.is_empty() => {
                let mut pairs: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    pairs.sort_by_key(|&(key, _)| key);
                }
                out.push('{');
                for (i, (key, value)) in pairs.into_iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    out.push_str(&Json::from(key.as_str()).to_string());
                    out.push_str(self.key);
                    self.write(value, depth + 1, out)?;
                }
                self.line(depth, out);
                out.push('}');
            }
            Json::Number(number) if number.is_f64() => out.push_str(&python_float(&number.to_string())),
            _ => out.push_str(&json.to_string()),
        }
        Ok(())
    }

    fn separate(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(self.item);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}

/// A float's digits as Python writes them: an exponent (from 1e16 up, from 1e-5 down) has a sign and two digits.
fn python_float(digits: &str) -> String {
    let Ok(value) = digits.parse::<f64>() else { return digits.to_owned() };
    let scientific = format!("{value:e}");
    match scientific.split_once('e') {
        Some((mantissa, exponent)) if value != 0.0 => match exponent.parse::<i32>() {
            Ok(exponent) if !(-4..16).contains(&exponent) => {
                format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
            }
            _ => format!("{value:?}"),
        },
        _ => format!("{value:?}"),
    }
}

/// Takes output up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.full = true;
            return Err(io::Error::other("the output limit is reached"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps messages from spelling control tokens.
///
/// Before the template runs, each spelling in a message becomes a mark: START, the spelling's number in hexadecimal
/// DIGITS, END, all Unicode noncharacters, which no filter trims, splits, escapes or changes in case. Afterwards the
/// marks in the output become the spellings again, now known as literal. Noncharacters of the messages' own are
/// marked too, so that none is taken for a mark.
#[derive(Debug)]
struct Guard {
    finder: AhoCorasick,
    spellings: Vec<String>,
}

const START: char = '\u{FDD0}';
const DIGITS: Range<u32> = 0xFDD1..0xFDE1;
const END: char = '\u{FDEF}';

impl Guard {
    fn new<'a>(spellings: impl Iterator<Item = &'a str>) -> Result<Self> {
        let spellings: Vec<String> =
            spellings.map(str::to_owned).chain((START..=END).map(String::from)).collect();
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&spellings)
            .map_err(|err| Error::model(format!("the control tokens' texts: {err}")))?;
        Ok(Self { finder, spellings })
    }

    fn mark(&self, text: &str, bytes: &mut usize) -> String {
        *bytes += text.len();
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for found in self.finder.find_iter(text) {
            out.push_str(&text[from..found.start()]);
            out.push(START);
            for digit in format!("{:x}", found.pattern().as_usize()).chars() {
                out.extend(char::from_u32(DIGITS.start + digit.to_digit(16).unwrap_or_default()));
            }
            out.push(END);
            from = found.end();
        }
        out.push_str(&text[from..]);
        out
    }

    fn message(&self, message: &ChatMessage, bytes: &mut usize) -> Json {
        let mut map = serde_json::Map::new();
        map.insert("role".to_owned(), Json::String(self.mark_name(&message.role, bytes)));
        map.insert("content".to_owned(), Json::String(self.mark(&message.content, bytes)));
        for (key, value) in &message.extra {
            if key != "role" && key != "content" {
                map.insert(self.mark_name(key, bytes), self.json(value, bytes));
            }
        }
        Json::Object(map)
    }

    fn json(&self, json: &Json, bytes: &mut usize) -> Json {
        match json {
            Json::String(text) => Json::String(self.mark(text, bytes)),
            Json::Array(list) => Json::Array(list.iter().map(|value| self.json(value, bytes)).collect()),
            Json::Object(map) => Json::Object(
                map.iter()
                    .map(|(key, value)| (self.mark_name(key, bytes), self.json(value, bytes)))
                    .collect(),
            ),
            Json::Null | Json::Bool(_) | Json::Number(_) => {
                *bytes += 8;
                json.clone()
            }
        }
    }

    /// Roles and keys are words that the template looks for; they are marked only where they are more than a word.
    fn mark_name(&self, name: &str, bytes: &mut usize) -> String {
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            *bytes += name.len();
            name.to_owned()
        } else {
            self.mark(name, bytes)
        }
    }

    /// A mark that the template has cut to pieces is dropped.
    fn resolve(&self, rendered: &str) -> ChatPrompt {
        let mut prompt = ChatPrompt { text: String::with_capacity(rendered.len()), literals: Vec::new() };
        let mut rest = rendered;
        while let Some(at) = rest.find(|c| (START..=END).contains(&c)) {
            prompt.text.push_str(&rest[..at]);
            let mark = &rest[at..];
            let digits_end = mark
                .char_indices()
                .skip(1)
                .find(|&(_, c)| !DIGITS.contains(&(c as u32)))
                .filter(|&(_, c)| c == END && mark.starts_with(START));
            match digits_end {
                Some((end, _)) => {
                    let number = mark[START.len_utf8()..end].chars().try_fold(0usize, |n, c| {
                        n.checked_mul(16)?.checked_add((c as u32 - DIGITS.start) as usize)
                    });
                    if let Some(spelling) = number.and_then(|number| self.spellings.get(number)) {
                        prompt.push_literal(spelling);
                    }
                    rest = &mark[end + END.len_utf8()..];
                }
                None => rest = &mark[START.len_utf8()..],
            }
        }
        prompt.text.push_str(rest);
        prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_as_literals() {
        let guard = Guard::new(["<|im_end|>", "<|im_end|><x>", "<s>"].into_iter()).unwrap();
        let text = "a<|im_end|>b<|im_end|><x><s> \u{FDD1}\u{FDD0}é";
        let mut bytes = 0;
        let marked = guard.mark(text, &mut bytes);
        assert_eq!(bytes, text.len());
        assert!(!marked.contains('<'), "{marked}");
        let prompt = guard.resolve(&marked);
        assert_eq!(prompt.text(), text);
        let literals: Vec<_> = prompt.literals().iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(literals, ["<|im_end|>", "<|im_end|><x><s>", "\u{FDD1}\u{FDD0}"]);
    }

    #[test]
    fn broken_marks_vanish() {
        let guard = Guard::new(std::iter::empty()).unwrap();
        assert_eq!(
            guard.resolve("a\u{FDD0}\u{FDD2}b\u{FDEF}c\u{FDD0}\u{FDE0}\u{FDE0}\u{FDEF}d").text(),
            "abcd"
        );
    }

    #[test]
    fn floats_are_pythons() {
        for (value, text) in
            [(0.1, "0.1"), (1e16, "1e+16"), (1e15, "1000000000000000.0"), (2.5e-7, "2.5e-07")]
        {
            assert_eq!(python_float(&f64::to_string(&value)), text);
        }
        assert_eq!(python_float("0.0001"), "0.0001");
        assert_eq!(python_float("0.0"), "0.0");
    }
}
