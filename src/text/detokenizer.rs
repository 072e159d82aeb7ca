//! Streaming detokenization: bytes in, whole characters out.

use std::sync::Arc;

use super::Vocab;
use crate::{Result, memory};

/// Turns a stream of ids into text, holding back the bytes of an unfinished character.
#[derive(Debug)]
pub struct Detokenizer {
    vocab: Arc<Vocab>,
    special: bool,
    /// The next token starts a text: SPM's space before it is not the text's.
    strip_space: bool,
    stream: Utf8Stream,
}

impl Detokenizer {
    /// For ids that go on where a text ended, as generated ones do: every space counts. `special`: write control
    /// tokens out.
    pub fn new(vocab: Arc<Vocab>, special: bool) -> Self {
        Self { vocab, special, strip_space: false, stream: Utf8Stream::default() }
    }

    /// For ids that start a text: what comes out is what [`Vocab::detokenize`] gives.
    pub fn from_start(vocab: Arc<Vocab>, special: bool) -> Self {
        let strip_space = vocab.space_prefix();
        Self { strip_space, ..Self::new(vocab, special) }
    }

    /// The characters that `id` completes (often none, sometimes several). Bytes that can no longer become a
    /// character come out as U+FFFD, as [`String::from_utf8_lossy`] writes them. An id that does not exist gives nothing.
    ///
    /// # Errors
    /// Error::OutOfMemory.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let bytes = self.vocab.token_bytes(id, self.special).unwrap_or_default();
        let bytes = if self.strip_space { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes };
        self.strip_space = false;
        let mut text = String::new();
        self.stream.push(bytes, &mut text)?;
        Ok(text)
    }

    /// What is held back at the end, unfinished bytes replaced by U+FFFD.
    ///
    /// # Errors
    /// Error::OutOfMemory.
    pub fn finish(&mut self) -> Result<String> {
        let mut text = String::new();
        self.stream.finish(&mut text)?;
        Ok(text)
    }
}

const REPLACEMENT: &str = "\u{fffd}";
/// What memory is for, in errors.
const TEXT: &str = "the tokens' text";

/// Up to three bytes of a character whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct Utf8Stream {
    held: Vec<u8>,
}

impl Utf8Stream {
    pub fn push(&mut self, bytes: &[u8], out: &mut String) -> Result<()> {
        memory::extend(&mut self.held, bytes, TEXT)?;
        let mut start = 0;
        loop {
            let (valid, bad) = match std::str::from_utf8(&self.held[start..]) {
                Ok(text) => (text.len(), None),
                Err(err) => (err.valid_up_to(), err.error_len()),
            };
            // found valid: nothing is replaced, nothing allocated
            memory::append(out, &String::from_utf8_lossy(&self.held[start..start + valid]), TEXT)?;
            start += valid;
            match bad {
                Some(len) => {
                    memory::append(out, REPLACEMENT, TEXT)?;
                    start += len;
                }
                None => break,
            }
        }
        self.held.drain(..start);
        Ok(())
    }

    pub fn finish(&mut self, out: &mut String) -> Result<()> {
        if !self.held.is_empty() {
            memory::append(out, REPLACEMENT, TEXT)?;
            self.held.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn streams_what_lossy_decoding_gives(
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), 0x80u8..0xC0, 0xE0u8..0xF8, Just(b'a')], 0..64),
            step in 1usize..5,
        ) {
            let mut stream = Utf8Stream::default();
            let mut text = String::new();
            for chunk in bytes.chunks(step) {
                stream.push(chunk, &mut text).unwrap();
            }
            stream.finish(&mut text).unwrap();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn hopeless_bytes_come_out_at_once() {
        let mut stream = Utf8Stream::default();
        let mut text = String::new();
        stream.push(&[0xE2, 0x82], &mut text).unwrap();
        assert_eq!(text, "");
        stream.push(b"x", &mut text).unwrap();
        assert_eq!(text, "\u{FFFD}x");
        stream.push(&[0xFF], &mut text).unwrap();
        assert_eq!(text, "\u{FFFD}x\u{FFFD}");
    }
}
