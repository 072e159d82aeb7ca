//! The vocabulary of a model file and the tokenizer over it.

use crate::Result;
use crate::gguf::Metadata;

/// Kinds of token, as the file's `tokenizer.ggml.token_type` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenAttr {
    Undefined = 0,
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Tokens, merges, special ids, and the way text is cut. Immutable, shared freely.
#[derive(Debug)]
pub struct Vocab {}

impl Vocab {
    /// From `tokenizer.*` keys. A file with `no_vocab`/`none` (or without a tokenizer) gives a vocabulary without text:
    /// `n_vocab` placeholder tokens, and `tokenize` fails with a message that says so.
    pub fn from_metadata(_meta: &Metadata, _n_vocab: usize) -> Result<Self> {
        todo!()
    }
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Text to ids. `add_special`: add BOS/EOS as the file asks. `parse_special`: control tokens written out in
    /// `text` become those tokens (never do this for a user's message).
    pub fn tokenize(&self, _text: &str, _add_special: bool, _parse_special: bool) -> Result<Vec<u32>> {
        todo!()
    }
    /// The bytes a token stands for; control tokens give nothing unless `special`. None: no such id.
    pub fn token_bytes(&self, _id: u32, _special: bool) -> Option<&[u8]> {
        todo!()
    }
    /// The token's text as the file spells it.
    pub fn token_text(&self, _id: u32) -> Option<&str> {
        todo!()
    }
    pub fn attr(&self, _id: u32) -> Option<TokenAttr> {
        todo!()
    }
    pub fn score(&self, _id: u32) -> f32 {
        todo!()
    }
    /// Id of the token spelled exactly so.
    pub fn find(&self, _text: &str) -> Option<u32> {
        todo!()
    }
    pub fn bos(&self) -> Option<u32> {
        todo!()
    }
    pub fn eos(&self) -> Option<u32> {
        todo!()
    }
    /// Whether the id ends a generation: eos, eot and their kin (<|im_end|>, <|eot_id|>, <end_of_turn>, ...).
    pub fn is_eog(&self, _id: u32) -> bool {
        todo!()
    }
    pub fn add_bos(&self) -> bool {
        todo!()
    }
    pub fn add_eos(&self) -> bool {
        todo!()
    }
    /// Whole text of ids (lossy where bytes are not UTF-8).
    pub fn detokenize(&self, _ids: &[u32], _special: bool) -> String {
        todo!()
    }
}
