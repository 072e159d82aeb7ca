//! Text to tokens and back: tokenizers, streaming detokenization, chat templates.
//! Reads a model file's metadata; knows nothing of devices.

mod chat;
mod detokenizer;
mod vocab;

pub use chat::{ChatMessage, ChatTemplate};
pub use detokenizer::Detokenizer;
pub use vocab::{TokenAttr, Vocab};
