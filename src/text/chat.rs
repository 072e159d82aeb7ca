//! Chat templates: the file's own Jinja, bounded in memory, time and output, and the prompts that they make.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value as Json;

use super::Vocab;
use super::jinja::{self, Limits, Rendered, Template, Variable};
use super::partition::SpecialTokens;
use crate::gguf::Metadata;
use crate::{Error, Result, memory};

/// One message, as the clients of chat interfaces write them. Tool calls and such go through `extra` (JSON object
/// fields); they reach the template as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatMessage {
    pub role: String,
    pub content: ChatContent,
    pub extra: serde_json::Map<String, Json>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatContent {
    Text(String),
    /// What is no text: a list of parts (`{"type": "text", "text": ...}`), null beside tool calls.
    Json(Json),
    /// The message has no `content`.
    Absent,
}

impl Default for ChatContent {
    fn default() -> Self {
        ChatContent::Text(String::new())
    }
}

impl<T: Into<String>> From<T> for ChatContent {
    fn from(text: T) -> Self {
        ChatContent::Text(text.into())
    }
}

impl ChatMessage {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into().into(), extra: Default::default() }
    }

    fn to_json(&self, content: Option<Json>) -> Json {
        let mut map = serde_json::Map::with_capacity(self.extra.len() + 2);
        map.insert("role".to_owned(), Json::String(self.role.clone()));
        if let Some(content) = content {
            map.insert("content".to_owned(), content);
        }
        for (key, value) in &self.extra {
            if key != "role" && key != "content" {
                map.insert(key.clone(), value.clone());
            }
        }
        Json::Object(map)
    }
}

impl ChatContent {
    fn to_json(&self) -> Option<Json> {
        match self {
            ChatContent::Text(text) => Some(Json::String(text.clone())),
            ChatContent::Json(json) => Some(json.clone()),
            ChatContent::Absent => None,
        }
    }

    /// As text: parts of text a line each, nothing for null. None: it is text already, or has parts that are none.
    fn as_plain(&self) -> Option<String> {
        let parts = match self {
            ChatContent::Absent | ChatContent::Json(Json::Null) => return Some(String::new()),
            ChatContent::Json(Json::Array(parts)) => parts,
            ChatContent::Json(_) | ChatContent::Text(_) => return None,
        };
        let text = |part: &Json| match part {
            Json::String(text) => Some(text.clone()),
            Json::Object(map) if map.get("type").is_none_or(|kind| kind == "text") => {
                map.get("text")?.as_str().map(str::to_owned)
            }
            _ => None,
        };
        Some(parts.iter().map(text).collect::<Option<Vec<_>>>()?.join("\n"))
    }
}

impl Serialize for ChatMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", &self.role)?;
        if let Some(content) = self.content.to_json() {
            map.serialize_entry("content", &content)?;
        }
        for (key, value) in &self.extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ChatMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = ChatMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message: an object with \"role\" and \"content\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ChatMessage, A::Error> {
        let (mut role, mut content) = (None, None);
        let mut extra = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let again = match &*key {
                "role" => role.replace(map.next_value()?).is_some(),
                "content" => content.replace(map.next_value()?).is_some(),
                _ => extra.insert(key.clone(), map.next_value()?).is_some(),
            };
            if again {
                return Err(A::Error::custom(format_args!("duplicate key \"{key}\"")));
            }
        }
        let content = match content {
            None => ChatContent::Absent,
            Some(Json::String(text)) => ChatContent::Text(text),
            Some(json) => ChatContent::Json(json),
        };
        Ok(ChatMessage { role: role.ok_or_else(|| A::Error::missing_field("role"))?, content, extra })
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
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    tool_use: Option<Template>,
    source: String,
    bos: String,
    eos: String,
    guard: Guard,
}

impl ChatTemplate {
    /// The file's `tokenizer.chat_template`; None when it has none.
    ///
    /// # Errors
    /// [`Error::Template`]: it does not compile.
    pub fn from_metadata(meta: &Metadata, vocab: &Vocab) -> Result<Option<Self>> {
        let Some(source) = meta.str("tokenizer.chat_template")? else { return Ok(None) };
        let mut template = Self::new(source, vocab)?;
        template.tool_use = meta.str("tokenizer.chat_template.tool_use")?.map(Template::parse).transpose()?;
        Ok(Some(template))
    }

    /// From template source. `vocab` gives the texts of BOS and EOS and the spellings to guard.
    pub fn new(source: &str, vocab: &Vocab) -> Result<Self> {
        let text = |id: Option<u32>| {
            memory::text(id.and_then(|id| vocab.token_text(id)).unwrap_or_default(), "a token's text")
        };
        Ok(Self {
            template: Template::parse(source)?,
            tool_use: None,
            source: memory::text(source, "the chat template")?,
            bos: text(vocab.bos())?,
            eos: text(vocab.eos())?,
            guard: Guard { special: vocab.special_tokens().clone() },
        })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt. `tools`: JSON array of tool definitions or None.
    ///
    /// The template is a program from the file: it sees only the messages and tools, and its memory (64 MiB and 16
    /// times the messages and tools), its instructions, its output and its stack (144 KiB of the caller's) are limited.
    ///
    /// Contents that are no text go to the template as they are. Where it then fails, or writes a list of parts as
    /// Python writes lists, it knows text only: it runs again with parts of text joined by newlines, null and absent
    /// contents as empty text.
    ///
    /// # Errors
    /// [`Error::Template`]: the template refused (`raise_exception`), failed, ran too long or wrote too much.
    pub fn apply(
        &self,
        messages: &[ChatMessage],
        tools: Option<&Json>,
        add_generation_prompt: bool,
    ) -> Result<ChatPrompt> {
        let given = messages.iter().map(|message| message.to_json(message.content.to_json())).collect();
        let first = self.render(Json::Array(given), tools, add_generation_prompt);
        let writes_list = |text: &str| {
            messages.iter().any(|message| match &message.content {
                ChatContent::Json(list @ Json::Array(_)) => {
                    jinja::python_repr(list).is_ok_and(|repr| text.contains(&repr))
                }
                _ => false,
            })
        };
        let text_only = match &first {
            Ok(rendered) => writes_list(&rendered.text),
            Err(error) => matches!(error, Error::Template(_)),
        };
        let rendered = match first {
            first if text_only => {
                let plain: Vec<_> = messages.iter().map(|message| message.content.as_plain()).collect();
                if plain.iter().all(Option::is_none) {
                    first?
                } else {
                    let plain = messages.iter().zip(plain).map(|(message, plain)| {
                        message.to_json(plain.map(Json::String).or_else(|| message.content.to_json()))
                    });
                    self.render(Json::Array(plain.collect()), tools, add_generation_prompt).or(first)?
                }
            }
            first => first?,
        };
        self.guard.prompt(rendered)
    }

    fn render(&self, messages: Json, tools: Option<&Json>, add_generation_prompt: bool) -> Result<Rendered> {
        let tools =
            tools.filter(|tools| !tools.is_null() && tools.as_array().is_none_or(|list| !list.is_empty()));
        let n = messages.as_array().map_or(0, Vec::len);
        let limits = Limits::new(n, jinja::json_size(&messages) + tools.map_or(0, jinja::json_size));
        let (bos, eos) = (Json::from(&*self.bos), Json::from(&*self.eos));
        let add_generation_prompt = Json::Bool(add_generation_prompt);
        let variable = |name, value, from_message| Variable { name, value, from_message };
        let variables = [
            variable("messages", &messages, true),
            variable("tools", tools.unwrap_or(&Json::Null), true),
            variable("documents", &Json::Null, false),
            variable("add_generation_prompt", &add_generation_prompt, false),
            variable("bos_token", &bos, false),
            variable("eos_token", &eos, false),
        ];
        match (tools, &self.tool_use) {
            (Some(_), Some(template)) => template.render(&variables, limits, None),
            _ => self.template.render(&variables, limits, None),
        }
    }
}

/// Keeps messages from spelling control tokens.
///
/// A control token's spelling in the output is literal text if messages have written any of it but a word (letters,
/// digits, `_`, `-`): templates write `<|` and `|>` around a message's role. Of tokens longer than any for which they do,
/// a message may write nothing, so that they are not gone through at each place of a text.
#[derive(Debug)]
struct Guard {
    special: Arc<SpecialTokens>,
}

/// Bytes of the longest control token that may have a message's word in it.
const LONGEST_AROUND_WORD: usize = 128;

impl Guard {
    fn prompt(&self, rendered: Rendered) -> Result<ChatPrompt> {
        let Rendered { text, from_messages } = rendered;
        let mut literals: Vec<Range<usize>> = Vec::new();
        if from_messages.is_empty() {
            return Ok(ChatPrompt { text, literals });
        }
        self.special.each_control(&text, |found| {
            let first = from_messages.partition_point(|range| range.end <= found.start);
            let behind = from_messages[first..].partition_point(|range| range.start < found.end);
            let overlap = &from_messages[first..first + behind];
            let inside =
                || overlap.iter().map(|range| range.start.max(found.start)..range.end.min(found.end));
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            let whole = inside().next() == Some(found.clone());
            let may_have_word = !whole && found.len() <= LONGEST_AROUND_WORD;
            if overlap.is_empty() || may_have_word && inside().all(|range| text[range].bytes().all(is_word)) {
                return Ok(());
            }
            for range in inside().take(1).chain(inside().skip(1).next_back()) {
                match literals.last_mut() {
                    // Where a letter repeats itself, one spelling overlaps the next.
                    Some(last) if (last.start..=last.end).contains(&range.start) => {
                        last.end = last.end.max(range.end);
                    }
                    _ => memory::push(&mut literals, range, "a chat prompt")?,
                }
            }
            Ok(())
        })?;
        // They come length by length; some lie in others.
        literals.sort_unstable_by_key(|range| (range.start, range.end));
        literals.dedup_by(|next, last| {
            let joined = next.start <= last.end;
            if joined {
                last.end = last.end.max(next.end);
            }
            joined
        });
        Ok(ChatPrompt { text, literals })
    }
}
