//! Cutting a text at the tokens that it spells out whole, before any algorithm sees it.
//!
//! Tokens of one length are looked for together, by a rolling hash over the text: the time is that of the text times
//! the number of lengths, however many tokens there are and however they repeat themselves.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;

use super::special::{EOG_NAMES, HARMONY_NAMES};
use super::token_table::{TokenAttr, TokenTable};
use crate::gguf::Metadata;
use crate::{Result, memory};

/// What memory is for, in errors.
const TOKENS: &str = "special tokens";
const PIECES: &str = "the text's pieces";

/// A piece of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Token(u32),
    Text(Range<usize>),
}

/// The tokens that a text may spell out whole.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    table: Arc<TokenTable>,
    /// Longest first.
    lengths: Vec<Length>,
    hasher: Hasher,
}

/// The tokens of one length.
#[derive(Debug)]
struct Length {
    /// In bytes.
    len: usize,
    tokens: HashTable<SpecialToken>,
    /// What a window's first byte adds to its hash.
    first_power: u64,
}

#[derive(Debug)]
struct SpecialToken {
    id: u32,
    /// The first bytes of its text.
    head: [u8; HEAD],
    hash: u64,
    /// Found only where control tokens are asked for.
    control: bool,
    /// Takes the spaces before or after it along.
    strip_left: bool,
    strip_right: bool,
}

const HEAD: usize = 4;

impl SpecialTokens {
    pub fn new(meta: &Metadata, table: Arc<TokenTable>, attrs: &[TokenAttr]) -> Result<Self> {
        let strip = Strip::new(meta)?;
        let hasher = Hasher::random();
        let mut lengths: BTreeMap<usize, HashTable<SpecialToken>> = BTreeMap::new();
        for (id, attr) in (0..).zip(attrs) {
            let text = match table.text(id) {
                Some(text) if !text.is_empty() => text,
                _ => continue,
            };
            let control = match attr {
                TokenAttr::Control | TokenAttr::Unknown => true,
                // Harmony's <|end|> among them: it is user-defined only to be shown.
                TokenAttr::UserDefined => HARMONY_NAMES.contains(&text) || EOG_NAMES.contains(&text),
                _ => continue,
            };
            let bytes = text.as_bytes();
            let mut head = [0; HEAD];
            let n = bytes.len().min(HEAD);
            head[..n].copy_from_slice(&bytes[..n]);
            let hash = hasher.hash(bytes);
            // Of two tokens spelled alike the first one is found.
            let tokens = lengths.entry(text.len()).or_default();
            memory::asking(|| tokens.try_reserve(1, |other| other.hash))
                .map_err(|_| memory::exhausted(TOKENS, tokens.len() * size_of::<SpecialToken>()))?;
            memory::check()?;
            tokens.entry(hash, |other| table.bytes(other.id) == Some(bytes), |other| other.hash).or_insert(
                SpecialToken {
                    id,
                    head,
                    hash,
                    control,
                    strip_left: strip.left(text),
                    strip_right: strip.right(text),
                },
            );
        }
        let lengths = lengths.into_iter().rev().map(|(len, tokens)| Length {
            len,
            tokens,
            first_power: hasher.power(len - 1),
        });
        Ok(Self { lengths: memory::collect(lengths, TOKENS)?, table, hasher })
    }

    /// Cuts `text` where it spells tokens: the longest tokens first, those of one length from left to right. Control
    /// tokens count only if `parse_control`, and nowhere in the `literal` ranges (ascending).
    pub fn partition(&self, text: &str, parse_control: bool, literal: &[Range<usize>]) -> Result<Vec<Piece>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let there = BytePairs::of(text.as_bytes())?;
        let mut pieces = memory::collect([Piece::Text(0..text.len())], PIECES)?;
        for length in &self.lengths {
            if !length.may_occur(text, &there, |token| parse_control || !token.control) {
                continue;
            }
            let search = Search { special: self, length, text, parse_control, literal };
            let mut cut = memory::vec(pieces.len() + 2, PIECES)?;
            for piece in pieces {
                match piece {
                    Piece::Text(range) => search.cut(range, &mut cut)?,
                    Piece::Token(_) => memory::push(&mut cut, piece, PIECES)?,
                }
            }
            pieces = cut;
        }
        Ok(pieces)
    }

    /// Calls `each` for every place where `text` spells a control token, those that overlap too.
    pub fn each_control(&self, text: &str, mut each: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
        let there = BytePairs::of(text.as_bytes())?;
        for length in &self.lengths {
            if !length.may_occur(text, &there, |token| token.control) {
                continue;
            }
            let mut windows = Windows::new(&self.hasher, length, text.as_bytes(), 0..text.len());
            while let Some((at, hash)) = windows.next() {
                // To compare the texts as well would take the square of the time for a text of one letter.
                if length.tokens.find(hash, |token| token.hash == hash).is_some_and(|token| token.control) {
                    each(at..at + length.len)?;
                }
            }
        }
        Ok(())
    }
}

impl Length {
    /// False where the text has no token of this length that counts.
    fn may_occur(&self, text: &str, there: &BytePairs, counts: impl Fn(&SpecialToken) -> bool) -> bool {
        let head = self.len.min(HEAD);
        self.len <= text.len()
            && self.tokens.iter().any(|token| counts(token) && there.may_spell(&token.head[..head]))
    }
}

/// The windows of one length over a part of a text, and their hashes.
struct Windows<'a> {
    hasher: &'a Hasher,
    length: &'a Length,
    text: &'a [u8],
    at: usize,
    end: usize,
    /// Of the window before `at`, if that was looked at.
    hash: Option<u64>,
}

impl<'a> Windows<'a> {
    fn new(hasher: &'a Hasher, length: &'a Length, text: &'a [u8], part: Range<usize>) -> Self {
        Self { hasher, length, text, at: part.start, end: part.end, hash: None }
    }

    fn next(&mut self) -> Option<(usize, u64)> {
        let Length { len, first_power, .. } = *self.length;
        let at = self.at;
        if self.end - at < len {
            return None;
        }
        let hash = match self.hash {
            None => self.hasher.hash(&self.text[at..at + len]),
            Some(hash) => self.hasher.roll(hash, first_power, self.text[at - 1], self.text[at + len - 1]),
        };
        self.hash = Some(hash);
        self.at += 1;
        Some((at, hash))
    }

    fn skip_to(&mut self, at: usize) {
        self.at = at;
        self.hash = None;
    }
}

/// One length's tokens in one text.
struct Search<'a> {
    special: &'a SpecialTokens,
    length: &'a Length,
    text: &'a str,
    parse_control: bool,
    literal: &'a [Range<usize>],
}

impl Search<'_> {
    fn cut(&self, range: Range<usize>, out: &mut Vec<Piece>) -> Result<()> {
        let bytes = self.text.as_bytes();
        let mut windows = Windows::new(&self.special.hasher, self.length, bytes, range.clone());
        let Range { mut start, end } = range;
        while let Some((at, hash)) = windows.next() {
            let Some(token) = self.find(hash, at) else { continue };
            let mut text_end = at;
            if token.strip_left {
                while text_end > start && is_c_space(bytes[text_end - 1]) {
                    text_end -= 1;
                }
            }
            memory::reserve(out, 2, PIECES)?;
            if text_end > start {
                out.push(Piece::Text(start..text_end));
            }
            out.push(Piece::Token(token.id));
            start = at + self.length.len;
            if token.strip_right {
                while start < end && is_c_space(bytes[start]) {
                    start += 1;
                }
            }
            windows.skip_to(start);
        }
        if start < end {
            memory::push(out, Piece::Text(start..end), PIECES)?;
        }
        Ok(())
    }

    /// The token that the text spells at `at`, where one may stand.
    fn find(&self, hash: u64, at: usize) -> Option<&SpecialToken> {
        let after = at + self.length.len;
        let spelled = &self.text.as_bytes()[at..after];
        let token = self
            .length
            .tokens
            .find(hash, |token| token.hash == hash && self.special.table.bytes(token.id) == Some(spelled))?;
        let in_literal = || {
            let next = self.literal.partition_point(|range| range.end <= at);
            self.literal.get(next).is_some_and(|range| range.start < after)
        };
        (!token.control || (self.parse_control && !in_literal())).then_some(token)
    }
}

/// Which pairs of neighbouring bytes a text has.
struct BytePairs {
    there: Vec<u64>,
    last: Option<u8>,
}

impl BytePairs {
    fn of(text: &[u8]) -> Result<Self> {
        let mut there = memory::filled(0u64, (1 << 16) / 64, PIECES)?;
        for pair in text.windows(2) {
            let pair = usize::from(u16::from_le_bytes([pair[0], pair[1]]));
            there[pair / 64] |= 1 << (pair % 64);
        }
        Ok(Self { there, last: text.last().copied() })
    }

    fn has(&self, first: u8, second: u8) -> bool {
        let pair = usize::from(u16::from_le_bytes([first, second]));
        self.there[pair / 64] >> (pair % 64) & 1 != 0
    }

    /// False where the text cannot have `part`.
    fn may_spell(&self, part: &[u8]) -> bool {
        match part {
            &[byte] => self.last == Some(byte) || (0..=255).any(|next| self.has(byte, next)),
            _ => part.windows(2).all(|pair| self.has(pair[0], pair[1])),
        }
    }
}

/// Karp and Rabin's hash: the text as a polynomial over the integers modulo a prime, at a point that no file knows.
/// Two texts of n bytes have the same one with a probability of n / 2^61.
#[derive(Debug, Default)]
struct Hasher {
    point: u64,
}

impl Hasher {
    const PRIME: u64 = (1 << 61) - 1;

    fn random() -> Self {
        Self { point: RandomState::new().hash_one(0u8) % (Self::PRIME - 256) + 256 }
    }

    fn multiply(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        Self::reduce((product as u64 & Self::PRIME) + (product >> 61) as u64)
    }

    /// Of a number below twice the prime.
    fn reduce(n: u64) -> u64 {
        if n >= Self::PRIME { n - Self::PRIME } else { n }
    }

    fn power(&self, n: usize) -> u64 {
        (0..n).fold(1, |power, _| Self::multiply(power, self.point))
    }

    fn append(&self, hash: u64, byte: u8) -> u64 {
        Self::reduce(Self::multiply(hash, self.point) + u64::from(byte))
    }

    fn hash(&self, text: &[u8]) -> u64 {
        text.iter().fold(0, |hash, &byte| self.append(hash, byte))
    }

    /// The hash of the window one byte on.
    fn roll(&self, hash: u64, first_power: u64, first: u8, next: u8) -> u64 {
        let rest = hash + Self::PRIME - Self::multiply(u64::from(first), first_power);
        self.append(Self::reduce(rest), next)
    }
}

fn is_c_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Which special tokens swallow the spaces beside them. Files do not say; llama.cpp goes by the model's name.
struct Strip {
    mask_left: &'static str,
    phi3: bool,
}

impl Strip {
    fn new(meta: &Metadata) -> Result<Self> {
        let name = meta.str("general.name")?.unwrap_or_default();
        let name = memory::with_room(name.len(), "the model's name", || name.to_ascii_lowercase())?;
        let pre = meta.str("tokenizer.ggml.pre")?.unwrap_or_default();
        let jina = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|part| pre.contains(part));
        let phi3 = !jina && (name.contains("phi-3") || name.contains("phi3"));
        let mask_left = match () {
            () if jina => "<mask>",
            () if !phi3 && name.contains("modern-bert") => "[MASK]",
            () => "",
        };
        Ok(Self { mask_left, phi3 })
    }

    fn left(&self, text: &str) -> bool {
        text == self.mask_left
    }

    fn right(&self, text: &str) -> bool {
        self.phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What the words say: each token by itself, longest first, wherever the text is not cut yet.
        #[test]
        fn longest_first_and_left_to_right(
            tokens in prop::collection::btree_set("[ab<é]{1,5}", 1..12),
            text in "[ab<é]{0,40}",
            literal in 0..40usize,
        ) {
            let tokens: Vec<String> = tokens.into_iter().collect();
            let table = Arc::new(TokenTable::new(&tokens).unwrap());
            let attrs: Vec<_> = (0..tokens.len())
                .map(|i| if i % 3 == 0 { TokenAttr::Control } else { TokenAttr::UserDefined })
                .collect();
            let special = SpecialTokens::new(&Metadata::default(), table, &attrs).unwrap();
            let literal = literal.min(text.len())..(literal + 7).min(text.len());

            let mut wanted = vec![Piece::Text(0..text.len())];
            let mut lengths: Vec<usize> = tokens.iter().map(String::len).collect();
            lengths.sort_unstable();
            lengths.dedup();
            for len in lengths.into_iter().rev() {
                let mut cut = Vec::new();
                for piece in wanted {
                    let Piece::Text(Range { mut start, end }) = piece else { cut.push(piece); continue };
                    let mut at = start;
                    while at + len <= end {
                        let id = tokens.iter().position(|token| token.as_bytes() == &text.as_bytes()[at..at + len]);
                        let free = |id: usize| {
                            attrs[id] != TokenAttr::Control || at + len <= literal.start || at >= literal.end
                                || literal.is_empty()
                        };
                        match id.filter(|&id| free(id)) {
                            None => at += 1,
                            Some(id) => {
                                cut.extend((start < at).then_some(Piece::Text(start..at)));
                                cut.push(Piece::Token(id as u32));
                                at += len;
                                start = at;
                            }
                        }
                    }
                    cut.extend((start < end).then_some(Piece::Text(start..end)));
                }
                wanted = cut;
            }
            let literal: Vec<Range<usize>> = if literal.is_empty() { Vec::new() } else { vec![literal] };
            let found = special.partition(&text, true, &literal).unwrap();
            let mut controls = Vec::new();
            special.each_control(&text, |range| { controls.push(range); Ok(()) }).unwrap();
            for range in &controls {
                let id = tokens.iter().position(|token| *token == text[range.clone()]);
                prop_assert!(id.is_some_and(|id| attrs[id] == TokenAttr::Control));
            }
            let spelled = |at: usize| tokens.iter().step_by(3).filter(|token| text[at..].starts_with(*token)).count();
            let wanted_controls: usize = text.char_indices().map(|(at, _)| spelled(at)).sum();
            prop_assert_eq!(controls.len(), wanted_controls);
            if text.is_empty() {
                prop_assert!(found.is_empty());
            } else {
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
