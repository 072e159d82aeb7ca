//! Kinds of token, and the file's token texts in one buffer, found by id or by spelling.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use crate::{Error, Result, memory};

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

impl TokenAttr {
    pub(super) fn from_id(id: i32) -> Option<Self> {
        use TokenAttr::*;
        [Undefined, Normal, Unknown, Control, UserDefined, Unused, Byte]
            .into_iter()
            .find(|&attr| attr as i32 == id)
    }
}

/// What memory is for, in errors.
const WHAT: &str = "the vocabulary";

/// Byte strings numbered from 0, one after another in one buffer.
#[derive(Debug, Default)]
pub(super) struct Strings {
    bytes: Vec<u8>,
    /// End of each string in `bytes`.
    ends: Vec<u32>,
}

impl Strings {
    pub fn with_capacity(strings: usize, bytes: usize) -> Result<Self> {
        Ok(Self { bytes: memory::vec(bytes, WHAT)?, ends: memory::vec(strings, WHAT)? })
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        memory::extend(&mut self.bytes, bytes, WHAT)?;
        let end = u32::try_from(self.bytes.len())
            .map_err(|_| Error::model("tokenizer.ggml.tokens: the texts exceed 4 GiB"))?;
        memory::push(&mut self.ends, end, WHAT)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.bytes[start..end])
    }
}

/// Token texts by id and ids by text. Empty texts are never found.
#[derive(Debug, Default)]
pub(super) struct TokenTable {
    texts: Strings,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl TokenTable {
    /// Of two tokens spelled alike the later one is found.
    pub fn new(texts: &[String]) -> Result<Self> {
        if u32::try_from(texts.len()).is_err() {
            return Err(Error::model(format!("tokenizer.ggml.tokens: {} tokens are too many", texts.len())));
        }
        let mut table = Self {
            texts: Strings::with_capacity(texts.len(), texts.iter().map(String::len).sum())?,
            ids: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            longest: texts.iter().map(String::len).max().unwrap_or(0),
        };
        // nothing is in it yet: there is nothing to hash
        memory::asking(|| table.ids.try_reserve(texts.len(), |_| 0))
            .map_err(|_| memory::exhausted(WHAT, texts.len().saturating_mul(size_of::<u32>())))?;
        let mut duplicates = 0usize;
        for (id, text) in texts.iter().enumerate() {
            table.texts.push(text.as_bytes())?;
            if text.is_empty() {
                continue;
            }
            let TokenTable { texts: strings, ids, hasher, .. } = &mut table;
            let bytes = text.as_bytes();
            match ids.entry(
                hasher.hash_one(bytes),
                |&other| strings.get(other as usize) == Some(bytes),
                |&other| hasher.hash_one(strings.get(other as usize).unwrap_or_default()),
            ) {
                hashbrown::hash_table::Entry::Occupied(mut entry) => {
                    *entry.get_mut() = id as u32;
                    duplicates += 1;
                }
                hashbrown::hash_table::Entry::Vacant(entry) => {
                    entry.insert(id as u32);
                }
            }
        }
        if duplicates > 0 {
            tracing::warn!(duplicates, "tokenizer.ggml.tokens spells several tokens alike");
        }
        Ok(table)
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Bytes of the longest text.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn text(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.bytes(id)?).ok()
    }

    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.texts.get(id as usize)
    }

    pub fn find(&self, text: &[u8]) -> Option<u32> {
        if text.is_empty() || text.len() > self.longest {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        self.ids.find(hash, |&id| self.texts.get(id as usize) == Some(text)).copied()
    }

    /// The token for one byte of an SPM-style vocabulary: `<0x0A>`.
    pub fn find_byte(&self, byte: u8) -> Option<u32> {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.find(&[b'<', b'0', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)], b'>'])
    }
}

/// The byte that a text such as `<0x0A>` names.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}
