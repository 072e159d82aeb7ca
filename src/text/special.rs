//! Special tokens: which ids they are, and which of them end a generation.

use super::token_table::{TokenAttr, TokenTable};
use crate::Result;
use crate::gguf::{Metadata, Value};

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
pub(super) const EOG_NAMES: &[&str] = &[
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
pub(super) const HARMONY_NAMES: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

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

/// A token id of the file. -1, in any width, stands for none; so does a token that does not exist, as in files whose
/// vocabulary lost its last tokens.
fn id(meta: &Metadata, key: &str, n_tokens: usize) -> Result<Option<u32>> {
    if matches!(
        meta.get(key),
        Some(Value::U32(u32::MAX) | Value::I32(-1) | Value::I64(-1) | Value::U64(u64::MAX))
    ) {
        return Ok(None);
    }
    let Some(id) = meta.u64(key)? else { return Ok(None) };
    if id >= n_tokens as u64 {
        tracing::warn!(key, id, n_tokens, "the file names a token that does not exist: the default is taken");
        return Ok(None);
    }
    Ok(Some(id as u32))
}
