//! SentencePiece BPE: characters joined pair by pair, the pair whose token scores best first.

use std::collections::BinaryHeap;

use super::token_table::{TokenAttr, TokenTable};
use crate::{Error, Result, memory};

/// U+2581 stands for a space in the vocabulary's texts.
pub(super) const SPACE: &str = "\u{2581}";
pub(super) const SPACE_CHAR: char = '\u{2581}';

/// What memory is for, in errors.
pub(super) const SPACED: &str = "the text with its spaces escaped";
const WORD: &str = "the symbols of a word";

const NONE: u32 = u32::MAX;

/// What the algorithm needs of a vocabulary.
pub(super) struct Spm<'a> {
    pub table: &'a TokenTable,
    pub scores: &'a [f32],
    pub attrs: &'a [TokenAttr],
    pub unknown: Option<u32>,
    /// No token crosses the start of a word (see [`words_stand_alone`]).
    pub by_word: bool,
}

/// Whether no token has a space after something else, so that each word can be tokenized for itself.
pub(super) fn words_stand_alone(table: &TokenTable) -> bool {
    (0..table.len() as u32).all(|id| word_end(table.text(id).unwrap_or_default()).is_none())
}

/// Where the first word of `text` ends: before a space that follows something else.
fn word_end(text: &str) -> Option<usize> {
    let word = text.find(|c| c != SPACE_CHAR)?;
    text[word..].find(SPACE_CHAR).map(|at| word + at)
}

/// A run of the text that is one token, or one character; `len` 0 once joined to its left neighbour.
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// Two neighbours that spell a token together. Ordered by score, then leftmost first.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both when the pair was found; any other number means that one has changed since.
    len: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl Spm<'_> {
    /// `text` with its spaces already written as [`SPACE`].
    pub fn tokenize(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::Tokenizer(format!("a text of {} bytes is too long", text.len())));
        }
        let (mut symbols, mut pairs) = (Vec::new(), BinaryHeap::new());
        let mut rest = text;
        while !rest.is_empty() {
            let end = if self.by_word { word_end(rest) } else { None };
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.word(word, &mut symbols, &mut pairs, out)?;
            rest = after;
        }
        Ok(())
    }

    fn word(
        &self,
        text: &str,
        symbols: &mut Vec<Symbol>,
        pairs: &mut BinaryHeap<Pair>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        symbols.clear();
        memory::reserve(symbols, text.chars().count(), WORD)?;
        symbols.extend(text.char_indices().enumerate().map(|(i, (start, c))| Symbol {
            start: start as u32,
            len: c.len_utf8() as u32,
            prev: (i as u32).wrapping_sub(1),
            next: i as u32 + 1,
        }));
        match symbols.last_mut() {
            Some(last) => last.next = NONE,
            None => return Ok(()),
        }

        for right in 1..symbols.len() as u32 {
            memory::reserve_heap(pairs, 1, WORD)?;
            pairs.extend(self.pair(text, symbols, right - 1, right));
        }
        while let Some(pair) = pairs.pop() {
            let (left, right) = (pair.left as usize, pair.right as usize);
            let (left_len, right_len) = (symbols[left].len, symbols[right].len);
            if left_len == 0 || right_len == 0 || left_len + right_len != pair.len {
                continue;
            }
            symbols[left].len = pair.len;
            symbols[right].len = 0;
            let next = symbols[right].next;
            symbols[left].next = next;
            if next != NONE {
                symbols[next as usize].prev = pair.left;
            }
            memory::reserve_heap(pairs, 2, WORD)?;
            pairs.extend(self.pair(text, symbols, symbols[left].prev, pair.left));
            pairs.extend(self.pair(text, symbols, pair.left, next));
        }

        let mut at = 0;
        while at != NONE {
            let symbol = &symbols[at as usize];
            self.emit(&text[symbol.start as usize..][..symbol.len as usize], out)?;
            at = symbol.next;
        }
        Ok(())
    }

    /// The token that plain text may become: not a control token, nor a byte written out.
    fn find(&self, text: &str) -> Option<u32> {
        self.table.find(text.as_bytes()).filter(|&id| {
            !matches!(self.attrs[id as usize], TokenAttr::Control | TokenAttr::Unknown | TokenAttr::Byte)
        })
    }

    fn pair(&self, text: &str, symbols: &[Symbol], left: u32, right: u32) -> Option<Pair> {
        if left == NONE || right == NONE {
            return None;
        }
        let (l, r) = (&symbols[left as usize], &symbols[right as usize]);
        let len = l.len + r.len;
        if len as usize > self.table.longest() {
            return None;
        }
        let id = self.find(&text[l.start as usize..][..len as usize])?;
        let score = self.scores[id as usize];
        // -0.0 and 0.0 tie; a score that is no number comes last.
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
        Some(Pair { score, left, right, len })
    }

    /// The token of `text`, else its bytes, else the unknown token.
    fn emit(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        memory::reserve(out, text.len(), "the text's tokens")?;
        if let Some(id) = self.find(text) {
            out.push(id);
            return Ok(());
        }
        let start = out.len();
        for &byte in text.as_bytes() {
            match self.table.find_byte(byte) {
                Some(id) => out.push(id),
                None => {
                    out.truncate(start);
                    out.push(self.unknown.ok_or_else(|| {
                        Error::Tokenizer(format!(
                            "{text:?} has no token: the vocabulary has neither <0x{byte:02X}> nor an unknown token"
                        ))
                    })?);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
