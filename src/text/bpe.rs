//! Byte-pair encoding: the symbols of a word joined pair by pair, the merge listed first in the file first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::byte_chars;
use super::pre_tokenizer::PreTokenizer;
use super::token_table::TokenTable;
use crate::gguf::Short;
use crate::{Error, Result, memory};

const NONE: u32 = u32::MAX;

/// What memory is for, in errors.
const MERGES: &str = "the tokenizer's merges";
const WORD: &str = "the symbols of a word";
const TOKENS: &str = "the text's tokens";

/// Merges and the cutting of text into words.
///
/// A symbol is a token's id, or a number past the last token for a string that merges pass through without it
/// being a token itself.
#[derive(Debug)]
pub(super) struct Bpe {
    pre: PreTokenizer,
    merges: HashMap<(u32, u32), Merge>,
    /// Symbols of single bytes, where words are spelled in [`byte_chars`]; NONE where neither token nor merge has it.
    bytes: [u32; 256],
    /// Symbols that are not tokens.
    others: HashMap<Box<str>, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    symbol: u32,
}

/// A run of a word; `symbol` DEAD once joined to its left neighbour.
struct Part {
    symbol: u32,
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

const DEAD: u32 = u32::MAX - 1;

/// Memory that words of one text share.
#[derive(Default)]
struct Scratch {
    parts: Vec<Part>,
    /// (rank, left part, its symbol, the right part's symbol)
    pairs: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
    spelling: String,
}

impl Bpe {
    /// `merges`: the file's list, "left right" each, best first.
    pub fn new(table: &TokenTable, merges: &[String], pre: PreTokenizer) -> Result<Self> {
        let mut others: HashMap<Box<str>, u32> = HashMap::new();
        let mut symbol_of = |text: &str| -> Result<u32> {
            if let Some(id) = table.find(text.as_bytes()).or_else(|| others.get(text).copied()) {
                return Ok(id);
            }
            let next = (table.len() + others.len()) as u32;
            let text = memory::text(text, MERGES)?.into_boxed_str();
            memory::asking(|| others.try_reserve(1)).map_err(|_| memory::exhausted(MERGES, 0))?;
            others.insert(text, next);
            Ok(next)
        };
        let mut map = HashMap::new();
        memory::asking(|| map.try_reserve(merges.len())).map_err(|_| memory::exhausted(MERGES, 0))?;
        let mut joined = String::new();
        let mut expected = 0;
        let mut blank = 0usize;
        for (rank, merge) in merges.iter().enumerate() {
            // Left over from a merges.txt, whose lines these are.
            if merge.trim().is_empty() {
                blank += 1;
                continue;
            }
            let pair =
                merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| merge.split_at(at));
            let Some((left, right)) = pair.map(|(left, right)| (left, &right[1..])) else {
                return Err(Error::model(format!(
                    "tokenizer.ggml.merges[{rank}]: \"{}\" is not two symbols with a space between",
                    Short(merge)
                )));
            };
            joined.clear();
            memory::append(&mut joined, left, MERGES)?;
            memory::append(&mut joined, right, MERGES)?;
            // Most files list the merges in the order of the tokens they make.
            let symbol = match table.bytes(expected) {
                Some(text) if text == joined.as_bytes() => expected,
                _ => symbol_of(&joined)?,
            };
            expected = symbol.saturating_add(1);
            map.entry((symbol_of(left)?, symbol_of(right)?)).or_insert(Merge { rank: rank as u32, symbol });
        }
        if blank > 0 {
            tracing::warn!(blank, "tokenizer.ggml.merges holds blank lines: they are passed over");
        }
        let mut bytes = [NONE; 256];
        for byte in 0..=255u8 {
            let mut utf8 = [0; 4];
            let spelling = byte_chars::char_of(byte).encode_utf8(&mut utf8);
            bytes[usize::from(byte)] =
                table.find(spelling.as_bytes()).or_else(|| others.get(&*spelling).copied()).unwrap_or(NONE);
        }
        Ok(Self { pre, merges: map, bytes, others })
    }

    pub fn tokenize(&self, table: &TokenTable, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::Tokenizer(format!("a text of {} bytes is too long", text.len())));
        }
        let escaped;
        let text = if self.pre.row().escape_spaces {
            escaped = memory::replaced(text, ' ', super::spm::SPACE, super::spm::SPACED)?;
            &escaped
        } else {
            text
        };
        let mut scratch = Scratch::default();
        let mut start = 0;
        for end in self.pre.split(text)? {
            self.word(table, &text[start..end], &mut scratch, out)?;
            start = end;
        }
        Ok(())
    }

    fn word(&self, table: &TokenTable, word: &str, scratch: &mut Scratch, out: &mut Vec<u32>) -> Result<()> {
        // a token for each byte at most
        memory::reserve(out, word.len(), TOKENS)?;
        let row = self.pre.row();
        if row.ignore_merges || (row.whole_newlines && word.bytes().all(|byte| byte == b'\n')) {
            let id = if row.byte_level {
                scratch.spelling.clear();
                memory::asking(|| scratch.spelling.try_reserve(2 * word.len()))
                    .map_err(|_| memory::exhausted(WORD, 2 * word.len()))?;
                byte_chars::encode(word.as_bytes(), &mut scratch.spelling);
                table.find(scratch.spelling.as_bytes())
            } else {
                table.find(word.as_bytes())
            };
            if let Some(id) = id {
                out.push(id);
                return Ok(());
            }
        }

        let Scratch { parts, pairs, .. } = scratch;
        parts.clear();
        pairs.clear();
        memory::reserve(parts, word.len(), WORD)?;
        let part = |symbol, start: usize, len: usize, index: usize| Part {
            symbol,
            start: start as u32,
            len: len as u32,
            prev: (index as u32).wrapping_sub(1),
            next: index as u32 + 1,
        };
        if row.byte_level {
            parts.extend(word.bytes().enumerate().map(|(i, b)| part(self.bytes[usize::from(b)], i, 1, i)));
        } else {
            parts.extend(word.char_indices().enumerate().map(|(i, (start, c))| {
                let text = &word[start..start + c.len_utf8()];
                let symbol = table.find(text.as_bytes()).or_else(|| self.others.get(text).copied());
                part(symbol.unwrap_or(NONE), start, c.len_utf8(), i)
            }));
        }
        match parts.last_mut() {
            Some(last) => last.next = NONE,
            None => return Ok(()),
        }

        for right in 1..parts.len() as u32 {
            memory::reserve_heap(pairs, 1, WORD)?;
            pairs.extend(self.pair(parts, right - 1, right));
        }
        while let Some(Reverse((_, left, left_symbol, right_symbol))) = pairs.pop() {
            let right = parts[left as usize].next;
            if parts[left as usize].symbol != left_symbol
                || right == NONE
                || parts[right as usize].symbol != right_symbol
            {
                continue;
            }
            let next = parts[right as usize].next;
            parts[left as usize].len += parts[right as usize].len;
            parts[left as usize].next = next;
            parts[left as usize].symbol = self.merges[&(left_symbol, right_symbol)].symbol;
            parts[right as usize].symbol = DEAD;
            if next != NONE {
                parts[next as usize].prev = left;
            }
            memory::reserve_heap(pairs, 2, WORD)?;
            pairs.extend(self.pair(parts, parts[left as usize].prev, left));
            pairs.extend(self.pair(parts, left, next));
        }

        let mut at = 0;
        while at != NONE {
            let part = &parts[at as usize];
            if (part.symbol as usize) < table.len() {
                out.push(part.symbol);
            } else {
                self.emit_bytes(table, &word.as_bytes()[part.start as usize..][..part.len as usize], out);
            }
            at = part.next;
        }
        Ok(())
    }

    fn pair(&self, parts: &[Part], left: u32, right: u32) -> Option<Reverse<(u32, u32, u32, u32)>> {
        if left == NONE || right == NONE {
            return None;
        }
        let symbols = (parts[left as usize].symbol, parts[right as usize].symbol);
        let merge = self.merges.get(&symbols)?;
        Some(Reverse((merge.rank, left, symbols.0, symbols.1)))
    }

    /// What no token spells becomes the tokens of its bytes; bytes without one are dropped, as llama.cpp does.
    fn emit_bytes(&self, table: &TokenTable, bytes: &[u8], out: &mut Vec<u32>) {
        for &byte in bytes {
            if !self.pre.row().byte_level {
                out.extend(table.find_byte(byte));
            } else if byte_chars::char_of(byte).is_ascii() {
                out.extend(table.find(&[byte]));
            }
        }
    }
}
