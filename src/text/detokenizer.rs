//! Streaming detokenization: bytes in, whole characters out.

use std::sync::Arc;

use super::Vocab;

/// Turns a stream of ids into text, holding back the bytes of an unfinished character.
#[derive(Debug)]
pub struct Detokenizer {
    _vocab: Arc<Vocab>,
}

impl Detokenizer {
    pub fn new(_vocab: Arc<Vocab>, _special: bool) -> Self {
        todo!()
    }
    /// The characters that `id` completes (often none, sometimes several).
    pub fn push(&mut self, _id: u32) -> String {
        todo!()
    }
    /// What is held back at the end, unfinished bytes replaced by U+FFFD.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
