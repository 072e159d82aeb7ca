//! The vocabulary of a model file and the tokenizer over it.

use std::sync::Arc;

use super::bpe::Bpe;
use super::byte_chars;
use super::chat::ChatPrompt;
use super::detokenizer::Utf8Stream;
use super::partition::{Piece, SpecialTokens};
use super::pre_tokenizer::PreTokenizer;
use super::special::{Defaults, SpecialIds};
use super::spm::{self, Spm};
use super::token_table::{Strings, TokenAttr, TokenTable, parse_byte};
use crate::gguf::{Array, Gguf, Metadata, Short};
use crate::{Error, Result, memory};

/// Tokens, merges, special ids, and the way text is cut. Immutable, shared freely.
#[derive(Debug)]
pub struct Vocab {
    n_vocab: usize,
    table: Arc<TokenTable>,
    /// What each token prints.
    pieces: Strings,
    attrs: Vec<TokenAttr>,
    scores: Vec<f32>,
    ids: SpecialIds,
    special: Arc<SpecialTokens>,
    kind: Kind,
    add_bos: bool,
    add_eos: bool,
    /// SPM: a space goes before a text and after each special token; detokenization takes the first one back.
    space_prefix: bool,
}

/// The algorithm between special tokens.
#[derive(Debug)]
enum Kind {
    /// Placeholder tokens without text.
    None,
    Spm {
        by_word: bool,
    },
    Bpe(Box<Bpe>),
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
/// What memory is for, in errors.
const TOKENS_OF: &str = "the text's tokens";

impl Vocab {
    /// Of a model file, or of a file that holds a vocabulary alone.
    ///
    /// # Errors
    /// As [`Self::from_metadata`].
    pub fn from_file(file: &Gguf) -> Result<Self> {
        let meta = file.metadata();
        let n_vocab = match file.embedding() {
            Some(embeddings) => embeddings.rows(),
            None => strings(meta, TOKENS)?.map_or(0, <[String]>::len),
        };
        Self::from_metadata(meta, n_vocab)
    }

    /// From `tokenizer.*` keys. A file with `no_vocab`, `none` or `test` (or without a tokenizer) gives a vocabulary without text:
    /// `n_vocab` placeholder tokens, and `tokenize` fails with a message that says so.
    ///
    /// `n_vocab` is the number of rows of the model's embedding. The file may list fewer tokens: the rest are
    /// placeholders without text. It must not list more.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names a tokenizer or pre-tokenizer that is not known here; [`Error::Model`] the key that
    /// is missing, of the wrong type or length, or out of range.
    pub fn from_metadata(meta: &Metadata, n_vocab: usize) -> Result<Self> {
        let pre = match meta.str("tokenizer.ggml.model")? {
            // "test" is of the files that llama.cpp's generator of architectures writes
            None | Some("no_vocab" | "none" | "test") => return Ok(Self::placeholders(n_vocab)),
            Some("llama") => None,
            // A missing name means the oldest expressions, as for every file from before there were names.
            Some("gpt2") => Some(meta.str("tokenizer.ggml.pre")?.unwrap_or("default")),
            Some("gemma4") => Some("gemma4"),
            Some(name) => {
                return Err(Error::Unsupported {
                    what: "tokenizer (tokenizer.ggml.model)",
                    name: Short(name).to_string(),
                    supported: "llama, gpt2, gemma4, no_vocab, none".to_owned(),
                });
            }
        };

        let texts = strings(meta, TOKENS)?.ok_or_else(|| Error::model(format!("{TOKENS} is missing")))?;
        let n_tokens = texts.len();
        if n_tokens > n_vocab {
            return Err(Error::model(format!(
                "{TOKENS} lists {n_tokens} tokens, but the model has embeddings for {n_vocab}"
            )));
        }
        let table = Arc::new(TokenTable::new(texts)?);
        let scores = scores(meta, n_tokens)?;
        let mut attrs = attrs(meta, n_tokens)?;

        let row = match pre {
            Some(name) => Some(PreTokenizer::new(if name.is_empty() { "default" } else { name })?),
            None => None,
        };
        let defaults = match &row {
            // Token 0 is the unknown one only where it says so: a character without a token must not become a word.
            None => {
                let is_unknown = attrs.first() == Some(&TokenAttr::Unknown) || table.text(0) == Some("<unk>");
                Defaults { bos: Some(1), eos: Some(2), unknown: is_unknown.then_some(0) }
            }
            // Falcon's only special token; elsewhere that id is a plain word, and no BOS or EOS.
            Some(pre) => {
                let eleven = (attrs.get(11) == Some(&TokenAttr::Control)).then_some(11);
                let bos = if pre.row().no_default_bos { None } else { eleven };
                Defaults { bos, eos: eleven, unknown: None }
            }
        };
        let exists = |id: &u32| (*id as usize) < n_tokens;
        let defaults = Defaults {
            bos: defaults.bos.filter(exists),
            eos: defaults.eos.filter(exists),
            unknown: defaults.unknown.filter(exists),
        };
        let ids = SpecialIds::new(meta, &table, &mut attrs, defaults)?;
        let special = Arc::new(SpecialTokens::new(meta, table.clone(), &attrs)?);

        let is_spm = row.is_none();
        let force_bos = row.as_ref().is_some_and(|pre| pre.row().force_bos);
        let default_bos = row.as_ref().is_none_or(|pre| pre.row().add_bos);
        let byte_level = row.as_ref().is_some_and(|pre| pre.row().byte_level);
        let escape_spaces = row.as_ref().is_none_or(|pre| pre.row().escape_spaces);
        let kind = match row {
            None => Kind::Spm { by_word: spm::words_stand_alone(&table) },
            Some(pre) => {
                let merges = match strings(meta, MERGES)? {
                    Some(merges) => merges,
                    None if meta.str("tokenizer.ggml.pre")? == Some("kimi-k2") => &[],
                    None => return Err(Error::model(format!("{MERGES} is missing"))),
                };
                Kind::Bpe(Box::new(Bpe::new(&table, merges, pre)?))
            }
        };
        let pieces = pieces(&table, &attrs, byte_level, escape_spaces)?;
        Ok(Self {
            n_vocab,
            table,
            pieces,
            attrs,
            scores,
            ids,
            special,
            kind,
            add_bos: force_bos || meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(default_bos),
            add_eos: meta.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            space_prefix: meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(is_spm),
        })
    }

    fn placeholders(n_vocab: usize) -> Self {
        Self {
            n_vocab,
            table: Arc::default(),
            pieces: Strings::default(),
            attrs: Vec::new(),
            scores: Vec::new(),
            ids: SpecialIds::default(),
            special: Arc::default(),
            kind: Kind::None,
            add_bos: false,
            add_eos: false,
            space_prefix: false,
        }
    }

    /// Number of tokens, placeholders included.
    pub fn len(&self) -> usize {
        self.n_vocab
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The algorithm: "SPM", "BPE", or "none" where the file has no tokenizer.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::None => "none",
            Kind::Spm { .. } => "SPM",
            Kind::Bpe(_) => "BPE",
        }
    }

    /// Text to ids. `add_special`: add BOS/EOS as the file asks. `parse_special`: control tokens written out in
    /// `text` become those tokens (never do this for a user's message).
    ///
    /// A BOS or EOS that the text spells, too, is not left out: the log has a warning.
    ///
    /// Ids are llama.cpp's, except that without `parse_special` no SentencePiece merge makes a control token and
    /// Harmony's markers stay text. (Merges of a BPE file may still spell what only its name makes special, as
    /// Qwen's do for `</s>`.)
    ///
    /// # Errors
    /// [`Error::Tokenizer`]: the vocabulary has no text, or no token for a character.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let (add_bos, add_eos) = (add_special && self.add_bos, add_special && self.add_eos);
        self.tokenize_between(
            text,
            self.ids.bos.filter(|_| add_bos),
            self.ids.eos.filter(|_| add_eos),
            parse_special,
        )
    }

    /// A prompt's ids: as [`Self::tokenize`] with `add_special`, but without EOS behind a text that is to go on.
    ///
    /// # Errors
    /// As [`Self::tokenize`].
    pub fn tokenize_to_continue(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        self.tokenize_between(text, self.ids.bos.filter(|_| self.add_bos), None, parse_special)
    }

    fn tokenize_between(
        &self,
        text: &str,
        bos: Option<u32>,
        eos: Option<u32>,
        parse_special: bool,
    ) -> Result<Vec<u32>> {
        let mut out = memory::vec(text.len() / 3 + 2, TOKENS_OF)?;
        out.extend(bos);
        self.tokenize_pieces(text, &self.special.partition(text, parse_special, &[])?, &mut out)?;
        if bos.is_some() && out.get(1).copied() == bos {
            tracing::warn!(
                bos,
                "the text begins with BOS, and the file asks for one before each text: there are two now"
            );
        }
        if eos.is_some() && out.last().copied() == eos {
            tracing::warn!(
                eos,
                "the text ends with EOS, and the file asks for one behind each text: there are two now"
            );
        }
        memory::reserve(&mut out, 1, TOKENS_OF)?;
        out.extend(eos);
        Ok(out)
    }

    /// A chat prompt's ids: control tokens written by the template become those tokens, the same spellings inside
    /// messages stay text. BOS is added if the file asks for it and the template has not written it; EOS never is.
    ///
    /// # Errors
    /// As [`Self::tokenize`].
    pub fn tokenize_prompt(&self, prompt: &ChatPrompt) -> Result<Vec<u32>> {
        let text = prompt.text();
        let pieces = self.special.partition(text, true, prompt.literals())?;
        let mut out = memory::vec(text.len() / 3 + 2, TOKENS_OF)?;
        if let Some(bos) =
            self.ids.bos.filter(|&bos| self.add_bos && pieces.first() != Some(&Piece::Token(bos)))
        {
            out.push(bos);
        }
        self.tokenize_pieces(text, &pieces, &mut out)?;
        Ok(out)
    }

    fn tokenize_pieces(&self, text: &str, pieces: &[Piece], out: &mut Vec<u32>) -> Result<()> {
        let mut after_special = true;
        for piece in pieces {
            let range = match piece {
                Piece::Token(id) => {
                    memory::push(out, *id, TOKENS_OF)?;
                    after_special = true;
                    continue;
                }
                Piece::Text(range) => range.clone(),
            };
            match &self.kind {
                Kind::None => {
                    return Err(Error::Tokenizer(
                        "the model file has no vocabulary: give it token ids".to_owned(),
                    ));
                }
                Kind::Bpe(bpe) => bpe.tokenize(&self.table, &text[range], out)?,
                Kind::Spm { by_word } => {
                    let prefix = if self.space_prefix && after_special { spm::SPACE } else { "" };
                    let mut spaced = memory::text(prefix, spm::SPACED)?;
                    let text = memory::replaced(&text[range], ' ', spm::SPACE, spm::SPACED)?;
                    memory::append(&mut spaced, &text, spm::SPACED)?;
                    let spm = Spm {
                        table: &self.table,
                        scores: &self.scores,
                        attrs: &self.attrs,
                        unknown: self.ids.unknown,
                        by_word: *by_word,
                    };
                    spm.tokenize(&spaced, out)?;
                }
            }
            after_special = false;
        }
        Ok(())
    }

    /// The bytes a token stands for; control tokens give nothing unless `special`. None: no such id.
    pub fn token_bytes(&self, id: u32, special: bool) -> Option<&[u8]> {
        if id as usize >= self.n_vocab {
            return None;
        }
        let hidden = !special && matches!(self.attr(id)?, TokenAttr::Control | TokenAttr::Unknown);
        Some(if hidden { &[] } else { self.pieces.get(id as usize).unwrap_or_default() })
    }

    /// What a token is spelled that [`Self::token_bytes`] gives only if `special`; empty for all others.
    pub fn hidden_text(&self, id: u32) -> &str {
        match self.attr(id) {
            Some(TokenAttr::Control | TokenAttr::Unknown) => self.token_text(id).unwrap_or_default(),
            _ => "",
        }
    }

    /// The token's text as the file spells it.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        if id as usize >= self.n_vocab { None } else { Some(self.table.text(id).unwrap_or_default()) }
    }

    /// Placeholders are [`TokenAttr::Undefined`].
    pub fn attr(&self, id: u32) -> Option<TokenAttr> {
        let id = id as usize;
        (id < self.n_vocab).then(|| self.attrs.get(id).copied().unwrap_or(TokenAttr::Undefined))
    }

    /// 0 where the file gives none.
    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// Id of the token spelled exactly so.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.table.find(text.as_bytes())
    }

    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// End of a turn, where the file tells it from EOS.
    pub fn eot(&self) -> Option<u32> {
        self.ids.eot
    }

    /// Whether the id ends a generation: eos, eot and their kin (<|im_end|>, <|eot_id|>, <end_of_turn>, ...).
    pub fn is_eog(&self, id: u32) -> bool {
        self.ids.eog.binary_search(&id).is_ok()
    }

    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether a text's first token carries a space that is not the text's.
    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Finds the spellings that must not become tokens where a message has them.
    pub(super) fn special_tokens(&self) -> &Arc<SpecialTokens> {
        &self.special
    }

    /// Whole text of ids (lossy where bytes are not UTF-8), without the space that SPM puts before a text. Ids that
    /// do not exist give nothing.
    ///
    /// # Errors
    /// Error::OutOfMemory.
    pub fn detokenize(&self, ids: &[u32], special: bool) -> Result<String> {
        let mut stream = Utf8Stream::default();
        let mut text = String::new();
        let mut strip = self.space_prefix;
        for &id in ids {
            let bytes = self.token_bytes(id, special).unwrap_or_default();
            let bytes = if strip { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes };
            strip = false;
            stream.push(bytes, &mut text)?;
        }
        stream.finish(&mut text)?;
        Ok(text)
    }
}

fn wrong_type(key: &str, wanted: &str) -> Error {
    Error::model(format!("{key}: not an array of {wanted}"))
}

fn strings<'a>(meta: &'a Metadata, key: &str) -> Result<Option<&'a [String]>> {
    match meta.array(key)? {
        None => Ok(None),
        Some(Array::String(strings)) => Ok(Some(strings)),
        Some(_) => Err(wrong_type(key, "strings")),
    }
}

fn check_len(key: &str, len: usize, n_tokens: usize) -> Result<()> {
    if len < n_tokens {
        return Err(Error::model(format!("{key} has {len} elements for {n_tokens} tokens")));
    }
    Ok(())
}

/// Empty where the file has none.
fn scores(meta: &Metadata, n_tokens: usize) -> Result<Vec<f32>> {
    let mut scores: Vec<f32> = match meta.array(SCORES)? {
        None => memory::filled(0.0, n_tokens, SCORES)?,
        Some(Array::F32(scores)) => memory::collect(scores.iter().copied(), SCORES)?,
        Some(Array::I32(scores)) => memory::collect(scores.iter().map(|&score| score as f32), SCORES)?,
        Some(_) => return Err(wrong_type(SCORES, "f32 or i32")),
    };
    check_len(SCORES, scores.len(), n_tokens)?;
    scores.truncate(n_tokens);
    Ok(scores)
}

fn attrs(meta: &Metadata, n_tokens: usize) -> Result<Vec<TokenAttr>> {
    match meta.array(TYPES)? {
        None => memory::filled(TokenAttr::Normal, n_tokens, TYPES),
        Some(Array::I32(types)) => {
            check_len(TYPES, types.len(), n_tokens)?;
            let attr = |(id, &ty)| {
                TokenAttr::from_id(ty)
                    .ok_or_else(|| Error::model(format!("{TYPES}[{id}]: {ty} is not a token type (0 to 6)")))
            };
            memory::try_collect(types[..n_tokens].iter().enumerate().map(attr), TYPES)
        }
        Some(_) => Err(wrong_type(TYPES, "i32")),
    }
}

fn pieces(table: &TokenTable, attrs: &[TokenAttr], byte_level: bool, escape_spaces: bool) -> Result<Strings> {
    let mut pieces = Strings::with_capacity(table.len(), table.len() * 8)?;
    let mut bytes = Vec::new();
    for (id, attr) in (0..).zip(attrs) {
        let text = table.text(id).unwrap_or_default();
        bytes.clear();
        memory::reserve(&mut bytes, text.len(), "a token's text")?;
        match (attr, parse_byte(text)) {
            (TokenAttr::Unused | TokenAttr::Undefined, _) => {}
            (TokenAttr::Byte, Some(byte)) => bytes.push(byte),
            (TokenAttr::Normal, _) if byte_level => byte_chars::decode(text, &mut bytes),
            (TokenAttr::Normal, _) if escape_spaces => {
                let text = memory::replaced(text, spm::SPACE_CHAR, " ", "a token's text")?;
                bytes.extend_from_slice(text.as_bytes())
            }
            _ => bytes.extend_from_slice(text.as_bytes()),
        }
        pieces.push(&bytes)?;
    }
    Ok(pieces)
}
