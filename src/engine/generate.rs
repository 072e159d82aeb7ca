//! The generation loop: prompt in, text out, until something says stop.

use std::ops::ControlFlow;

use super::{Context, Sampler};
use crate::Result;

#[derive(Clone, Debug, Default)]
pub struct GenerateParams {
    /// Most tokens to generate; None: until the end of generation or of the cache.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of the text given out.
    pub stop: Vec<String>,
    /// Go on past end-of-generation tokens.
    pub ignore_eog: bool,
    /// Give out the text of control tokens too.
    pub special: bool,
    /// Sequence id to extend.
    pub sequence: u32,
}

/// What one generated token added. `text` may be empty: a character or a possible stop text is unfinished.
#[derive(Debug)]
pub struct Piece<'a> {
    pub token: u32,
    pub text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// An end-of-generation token.
    Eog,
    /// One of `stop`.
    StopText,
    /// `max_tokens`.
    Length,
    /// No room in the cache.
    CacheFull,
    /// The callback or another thread asked for it.
    Cancelled,
}

#[derive(Clone, Debug)]
pub struct Generation {
    /// Generated tokens, the ending EOG token included.
    pub tokens: Vec<u32>,
    pub text: String,
    pub stop: StopReason,
    /// Times in microseconds.
    pub prompt_tokens: usize,
    pub prompt_us: u64,
    pub decode_us: u64,
}

/// Evaluates `prompt` (not empty) after what the sequence holds and generates. Text held back at the end (a partial stop
/// text) is given out last with the final token.
pub fn generate(
    _context: &mut Context,
    _sampler: &mut Sampler,
    _prompt: &[u32],
    _params: &GenerateParams,
    _on_piece: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    todo!()
}
