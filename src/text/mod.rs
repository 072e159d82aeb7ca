//! Text to tokens and back: tokenizers, streaming detokenization, chat templates.
//! Reads a model file's metadata; knows nothing of devices.

mod bpe;
mod byte_chars;
mod chat;
mod detokenizer;
pub mod jinja;
mod partition;
mod pre_tokenizer;
mod special;
mod spm;
mod token_table;
mod vocab;

pub use chat::{ChatContent, ChatMessage, ChatPrompt, ChatTemplate};
pub use detokenizer::Detokenizer;
pub use token_table::TokenAttr;
pub use vocab::Vocab;
