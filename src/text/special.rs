//! Special tokens: which ids they are, which of them end a generation, and where a text spells them.

use std::ops::Range;

use memchr::memmem::Finder;

use super::token_table::{TokenAttr, TokenTable};
use crate::gguf::Metadata;
use crate::{Error, Result, memory};

/// Spellings by which llama.cpp knows a token that the file does not name by id, in order of preference.
const EOT_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM_NAMES: &[&str] = &["<|eom_id|>"];
const FIM_PRE_NAMES: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUF_NAMES: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MID_NAMES: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD_NAMES: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP_NAMES: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEP_NAMES: &[&str] = &["<|file_sep|>"];
/// Every token spelled so ends a generation.
const EOG_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Harmony's markers: shown as text, yet never to be taken from a message.
const HARMONY_NAMES: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Ids with a part to play.
#[derive(Debug, Default)]
pub(super) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    /// Ids that end a generation, ascending.
    pub eog: Vec<u32>,
}

/// Where ids come from when the file names none.
pub(super) struct Defaults {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
}

impl SpecialIds {
    /// Reads the ids and settles which tokens end a generation; tokens known by their spelling become control
    /// tokens in `attrs`, whatever the file called them.
    pub fn new(
        meta: &Metadata,
        table: &TokenTable,
        attrs: &mut [TokenAttr],
        defaults: Defaults,
    ) -> Result<Self> {
        let by_key = |key: &str| id(meta, key, table.len());
        let mut by_name = |given: Option<u32>, names: &[&str]| {
            given.or_else(|| {
                let id = names.iter().find_map(|name| table.find(name.as_bytes()))?;
                attrs[id as usize] = TokenAttr::Control;
                Some(id)
            })
        };
        let eot = by_name(by_key("tokenizer.ggml.eot_token_id")?, EOT_NAMES);
        let eom = by_name(by_key("tokenizer.ggml.eom_token_id")?, EOM_NAMES);
        for (key, old_key, names) in [
            ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id", FIM_PRE_NAMES),
            ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id", FIM_SUF_NAMES),
            ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id", FIM_MID_NAMES),
        ] {
            by_name(by_key(key)?.or(by_key(old_key)?), names);
        }
        let fim_pad = by_name(by_key("tokenizer.ggml.fim_pad_token_id")?, FIM_PAD_NAMES);
        let fim_rep = by_name(by_key("tokenizer.ggml.fim_rep_token_id")?, FIM_REP_NAMES);
        let fim_sep = by_name(by_key("tokenizer.ggml.fim_sep_token_id")?, FIM_SEP_NAMES);
        let bos = by_key("tokenizer.ggml.bos_token_id")?.or(defaults.bos);
        let eos = by_key("tokenizer.ggml.eos_token_id")?.or(defaults.eos);
        let unknown = by_key("tokenizer.ggml.unknown_token_id")?.or(defaults.unknown);

        let mut eog: Vec<u32> = [eos, eot, eom, fim_pad, fim_rep, fim_sep].into_iter().flatten().collect();
        for id in EOG_NAMES.iter().filter_map(|name| table.find(name.as_bytes())) {
            attrs[id as usize] = TokenAttr::Control;
            eog.push(id);
        }
        for id in HARMONY_NAMES.iter().filter_map(|name| table.find(name.as_bytes())) {
            attrs[id as usize] = TokenAttr::UserDefined;
        }
        let mut drop = |name: &str, attr| {
            if let Some(id) = table.find(name.as_bytes()).filter(|id| eog.contains(id)) {
                eog.retain(|&other| other != id);
                attrs[id as usize] = attr;
            }
        };
        let has = |name: &str| table.find(name.as_bytes()).is_some();
        // Harmony and Solar end a message with <|end|> and go on; Gemma 4 and PLaMo have a plain </s>.
        if (has("<|return|>") && (has("<|call|>") || has("<|calls|>")))
            || (has("<|flush|>") && (has("<|call|>") || has("<|calls|>")))
        {
            drop("<|end|>", TokenAttr::UserDefined);
        }
        if has("<|tool_response>") || eos.is_some_and(|id| table.text(id) == Some("<|plamo:eos|>")) {
            drop("</s>", TokenAttr::Normal);
        }
        eog.sort_unstable();
        eog.dedup();
        Ok(Self { bos, eos, eot, unknown, eog })
    }
}

/// A token id of the file. -1, in any width, stands for none.
fn id(meta: &Metadata, key: &str, n_tokens: usize) -> Result<Option<u32>> {
    use crate::gguf::Value;
    if matches!(
        meta.get(key),
        Some(Value::U32(u32::MAX) | Value::I32(-1) | Value::I64(-1) | Value::U64(u64::MAX))
    ) {
        return Ok(None);
    }
    let Some(id) = meta.u64(key)? else { return Ok(None) };
    if id >= n_tokens as u64 {
        return Err(Error::model(format!("{key}: token {id} does not exist: there are {n_tokens}")));
    }
    Ok(Some(id as u32))
}

/// What memory is for, in errors.
const PIECES: &str = "the text's pieces";

/// A piece of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Token(u32),
    Text(Range<usize>),
}

/// The tokens that a text may spell out whole, longest first.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    tokens: Vec<SpecialToken>,
}

#[derive(Debug)]
struct SpecialToken {
    id: u32,
    finder: Finder<'static>,
    first_byte: u8,
    len: usize,
    /// Found only where control tokens are asked for.
    control: bool,
    /// Takes the spaces before or after it along.
    strip_left: bool,
    strip_right: bool,
}

impl SpecialTokens {
    pub fn new(meta: &Metadata, table: &TokenTable, attrs: &[TokenAttr]) -> Result<Self> {
        let mut tokens: Vec<SpecialToken> = Vec::new();
        let strip = Strip::new(meta)?;
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
            memory::reserve(&mut tokens, 1, "special tokens")?;
            tokens.push(SpecialToken {
                id,
                finder: memory::with_room(text.len(), "special tokens", || Finder::new(text).into_owned())?,
                first_byte: text.as_bytes()[0],
                len: text.len(),
                control,
                strip_left: strip.left(text),
                strip_right: strip.right(text),
            });
        }
        tokens.sort_unstable_by_key(|token| (std::cmp::Reverse(token.len), token.id));
        Ok(Self { tokens })
    }

    /// Ids of the tokens that plain text must not become.
    pub fn control_ids(&self) -> impl Iterator<Item = u32> {
        self.tokens.iter().filter(|token| token.control).map(|token| token.id)
    }

    /// Cuts `text` where it spells tokens: the longest token first, each from left to right. Control tokens count
    /// only if `parse_control`, and nowhere in the `literal` ranges (ascending).
    pub fn partition(&self, text: &str, parse_control: bool, literal: &[Range<usize>]) -> Result<Vec<Piece>> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes_present = [false; 256];
        for &byte in text.as_bytes() {
            bytes_present[usize::from(byte)] = true;
        }
        let mut pieces = vec![Piece::Text(0..text.len())];
        for token in &self.tokens {
            if (token.control && !parse_control)
                || !bytes_present[usize::from(token.first_byte)]
                || token.finder.find(text.as_bytes()).is_none()
            {
                continue;
            }
            let mut cut = memory::vec(pieces.len() + 2, PIECES)?;
            for piece in pieces {
                match piece {
                    Piece::Text(range) => token.cut(text, range, literal, &mut cut)?,
                    Piece::Token(_) => memory::push(&mut cut, piece, PIECES)?,
                }
            }
            pieces = cut;
        }
        Ok(pieces)
    }
}

impl SpecialToken {
    fn cut(
        &self,
        text: &str,
        range: Range<usize>,
        literal: &[Range<usize>],
        out: &mut Vec<Piece>,
    ) -> Result<()> {
        let bytes = text.as_bytes();
        let Range { mut start, end } = range;
        let mut from = start;
        while let Some(found) = self.finder.find(&bytes[from..end]) {
            let at = from + found;
            let after = at + self.len;
            if self.control {
                let next = literal.partition_point(|range| range.end <= at);
                if let Some(range) = literal.get(next).filter(|range| range.start < after) {
                    // Whatever starts in the range overlaps it; a match before its start may begin at the next byte.
                    from = if at >= range.start { range.end.min(end) } else { at + 1 };
                    continue;
                }
            }
            let mut text_end = at;
            if self.strip_left {
                while text_end > start && is_c_space(bytes[text_end - 1]) {
                    text_end -= 1;
                }
            }
            memory::reserve(out, 2, PIECES)?;
            if text_end > start {
                out.push(Piece::Text(start..text_end));
            }
            out.push(Piece::Token(self.id));
            start = after;
            if self.strip_right {
                while start < end && is_c_space(bytes[start]) {
                    start += 1;
                }
            }
            from = start;
        }
        if start < end {
            memory::push(out, Piece::Text(start..end), PIECES)?;
        }
        Ok(())
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
        let name = meta.str("general.name")?.unwrap_or_default().to_ascii_lowercase();
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
