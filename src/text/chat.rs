//! Chat templates: the file's own Jinja, run by minijinja, bounded in time and output.

use crate::Result;
use crate::gguf::Metadata;

/// One message. `content` is plain text; tool calls and such go through `extra` (JSON object fields).
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The file's `tokenizer.chat_template`; None when it has none.
    pub fn from_metadata(_meta: &Metadata) -> Result<Option<Self>> {
        todo!()
    }
    /// From template source; `bos`/`eos` are the texts of those tokens.
    pub fn new(_source: &str, _bos: &str, _eos: &str) -> Result<Self> {
        todo!()
    }
    pub fn source(&self) -> &str {
        todo!()
    }
    /// The prompt's text. `tools`: JSON array of tool definitions or None. The result holds control tokens written
    /// out: tokenize it with `parse_special`.
    pub fn apply(
        &self,
        _messages: &[ChatMessage],
        _tools: Option<&serde_json::Value>,
        _add_generation_prompt: bool,
    ) -> Result<String> {
        todo!()
    }
}
