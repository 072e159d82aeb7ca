//! The generation loop: prompt in, text out, until something says stop.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use super::{Batch, Context, Sampler};
use crate::text::Detokenizer;
use crate::{Error, Result, memory};

#[derive(Clone, Debug, Default)]
pub struct GenerateParams {
    /// Most tokens to generate; None: until the end of generation or of the cache.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of the text given out. They are looked for in all that is
    /// generated, in the spelling of control tokens too, whether that is given out or not.
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

/// What memory is for, in errors.
const TEXT: &str = "the generated text";

/// Evaluates `prompt` (not empty) after what the sequence holds and generates. Text held back at the end (a partial stop
/// text) is given out last with the final token.
///
/// The prompt's tokens count for the sampler's penalties. Afterwards the sequence holds the prompt and all
/// generated tokens but the last, which nothing was computed for yet. A prompt that does not fit in the cache is
/// Error::CacheFull; running out of cache later, and being cancelled, are ends like others. Text still held back
/// when another thread cancels is in [`Generation::text`] only.
pub fn generate(
    context: &mut Context,
    sampler: &mut Sampler,
    prompt: &[u32],
    params: &GenerateParams,
    on_piece: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Generation> {
    if prompt.is_empty() {
        return Err(Error::param("the prompt is empty"));
    }
    if params.stop.iter().any(|stop| stop.is_empty()) {
        return Err(Error::param("a stop text is empty"));
    }
    let mut generation = Generation {
        tokens: Vec::new(),
        text: String::new(),
        stop: StopReason::Length,
        prompt_tokens: prompt.len(),
        prompt_us: 0,
        decode_us: 0,
    };

    let _call = context.begin();
    let start = Instant::now();
    let evaluated = with_batch(prompt, params.sequence, |batch| context.decode(batch)).flatten();
    generation.prompt_us = start.elapsed().as_micros() as u64;
    match evaluated {
        Ok(()) => prompt.iter().try_for_each(|token| sampler.accept(*token))?,
        Err(Error::Cancelled) => {
            generation.stop = StopReason::Cancelled;
            return Ok(generation);
        }
        Err(e) => return Err(e),
    }

    let start = Instant::now();
    let vocab = context.model().vocab().clone();
    let mut detokenizer = Detokenizer::new(vocab.clone(), params.special);
    let mut held = HeldText::new(&params.stop);
    let most = params.max_tokens.unwrap_or(usize::MAX);
    let mut next = if most > 0 { Some(context.sample(0, sampler)?) } else { None };
    while let Some(token) = next.take() {
        sampler.accept(token)?;
        memory::push(&mut generation.tokens, token, TEXT)?;

        let mut found = held.push(&detokenizer.push(token)?)?;
        if !found && !params.special {
            found = held.push_hidden(vocab.hidden_text(token))?;
        }
        let mut stop = if found {
            Some(StopReason::StopText)
        } else if !params.ignore_eog && vocab.is_eog(token) {
            Some(StopReason::Eog)
        } else if generation.tokens.len() == most {
            Some(StopReason::Length)
        } else if context.room(params.sequence) == 0 {
            Some(StopReason::CacheFull)
        } else {
            None
        };
        if stop.is_some() && !found {
            found = held.push(&detokenizer.finish()?)?;
            if found {
                stop = Some(StopReason::StopText);
            } else {
                held.finish();
            }
        }

        let at = generation.text.len();
        held.take(&mut generation.text)?;
        let goes_on = on_piece(Piece { token, text: &generation.text[at..] });
        if let Some(stop) = stop {
            generation.stop = stop;
            break;
        }
        let sampled = match goes_on {
            ControlFlow::Continue(()) => {
                with_batch(&[token], params.sequence, |batch| context.decode_and_sample(batch, sampler))
                    .flatten()
            }
            ControlFlow::Break(()) => Err(Error::Cancelled),
        };
        match sampled {
            Ok(token) => next = Some(token),
            Err(Error::Cancelled) => {
                if !held.push(&detokenizer.finish()?)? {
                    held.finish();
                }
                held.take(&mut generation.text)?;
                generation.stop = StopReason::Cancelled;
                break;
            }
            Err(e) => return Err(e),
        }
    }
    generation.decode_us = start.elapsed().max(Duration::from_micros(1)).as_micros() as u64;
    Ok(generation)
}

/// Hands on a batch of one sequence's tokens, of which the last one's logits are wanted.
fn with_batch<T>(tokens: &[u32], sequence: u32, evaluate: impl FnOnce(&Batch<'_>) -> T) -> Result<T> {
    let batch = |sequences| Batch { tokens, positions: None, sequences, want: None };
    Ok(match tokens.len() {
        _ if sequence == 0 => evaluate(&batch(None)),
        1 => evaluate(&batch(Some(&[sequence]))),
        n => evaluate(&batch(Some(&memory::filled(sequence, n, "the prompt's sequence")?))),
    })
}

/// Text on its way out, held back while it may be the start of a stop text.
#[derive(Debug)]
struct HeldText<'a> {
    stops: &'a [String],
    text: String,
    /// Where `text` has what only stop texts see: byte ranges, ascending.
    hidden: Vec<Range<usize>>,
    /// Bytes of `text` that may go.
    ready: usize,
}

impl<'a> HeldText<'a> {
    fn new(stops: &'a [String]) -> Self {
        HeldText { stops, text: String::new(), hidden: Vec::new(), ready: 0 }
    }

    /// Adds text; true when a stop text is complete: it and what follows are dropped.
    fn push(&mut self, text: &str) -> Result<bool> {
        memory::append(&mut self.text, text, TEXT)?;
        if let Some(at) = self.stops.iter().filter_map(|stop| self.text.find(stop.as_str())).min() {
            self.text.truncate(at);
            self.ready = at;
            return Ok(true);
        }
        let starts_stop = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.text[*at..]));
        let at = self.text.char_indices().map(|(at, _)| at).find(starts_stop);
        self.ready = at.unwrap_or(self.text.len());
        Ok(false)
    }

    /// The same for text that is not given out.
    fn push_hidden(&mut self, text: &str) -> Result<bool> {
        if text.is_empty() || self.stops.is_empty() {
            return Ok(false);
        }
        memory::push(&mut self.hidden, self.text.len()..self.text.len() + text.len(), TEXT)?;
        self.push(text)
    }

    /// No more comes: all of it may go.
    fn finish(&mut self) {
        self.ready = self.text.len();
    }

    /// Moves what may go to the end of `out`.
    fn take(&mut self, out: &mut String) -> Result<()> {
        memory::reserve_text(out, self.ready, TEXT)?;
        let mut at = 0;
        for range in &mut self.hidden {
            let (start, end) = (range.start.min(self.ready), range.end.min(self.ready));
            out.push_str(&self.text[at..start]);
            at = end;
            *range = range.start - start..range.end - end;
        }
        out.push_str(&self.text[at..self.ready]);
        self.hidden.retain(|range| !range.is_empty());
        self.text.drain(..self.ready);
        self.ready = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `pieces`; the texts given out one by one, and whether a stop text ended it.
    fn feed(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut held = HeldText::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let found = held.push(piece).unwrap();
            let mut text = String::new();
            held.take(&mut text).unwrap();
            out.push(text);
            if found {
                return (out, true);
            }
        }
        held.finish();
        let mut text = String::new();
        held.take(&mut text).unwrap();
        out.push(text);
        (out, false)
    }

    #[test]
    fn a_stop_text_across_pieces_is_held_back_and_dropped() {
        let (out, stopped) = feed(&["<end>"], &["hello <", "en", "d> more"]);
        assert_eq!((out.concat().as_str(), stopped), ("hello ", true));
        assert_eq!(out, ["hello ", "", ""]);
    }

    #[test]
    fn a_start_that_comes_to_nothing_is_given_out() {
        let (out, stopped) = feed(&["<end>"], &["a<", "enough", "<e"]);
        assert_eq!((out, stopped), (["a", "<enough", "", "<e"].map(String::from).to_vec(), false));
    }

    #[test]
    fn the_earliest_of_several_counts() {
        let (out, stopped) = feed(&["world", "lo"], &["hello world"]);
        assert_eq!((out.concat().as_str(), stopped), ("hel", true));
        // a repeated first character must not hide the match
        assert_eq!(feed(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
        assert_eq!(feed(&["é!"], &["caf", "é", "!"]).0.concat(), "caf");
    }

    /// Pieces in brackets are hidden.
    #[test]
    fn hidden_text_ends_it_and_is_not_given_out() {
        let feed = |stop: &str, pieces: &[&str]| {
            let stops = [stop.to_owned()];
            let (mut held, mut out) = (HeldText::new(&stops), Vec::new());
            let mut stopped = false;
            for piece in pieces {
                stopped = match piece.strip_prefix('[').and_then(|piece| piece.strip_suffix(']')) {
                    Some(piece) => held.push_hidden(piece).unwrap(),
                    None => held.push(piece).unwrap(),
                };
                let mut text = String::new();
                held.take(&mut text).unwrap();
                out.push(text);
                if stopped {
                    return (out.join("|"), true);
                }
            }
            held.finish();
            let mut text = String::new();
            held.take(&mut text).unwrap();
            out.push(text);
            (out.join("|"), stopped)
        };
        assert_eq!(feed("<e>", &["ab", "[<e>]"]), ("ab|".to_owned(), true));
        assert_eq!(feed("b<e>", &["ab", "[<e>]"]), ("a|".to_owned(), true));
        assert_eq!(feed("<e>c", &["ab", "[<e>]", "cd"]), ("ab||".to_owned(), true));
        assert_eq!(feed("b<e>c", &["ab", "[<e>]", "d[e", "b"]), ("a||bd[e||b".to_owned(), false));
        assert_eq!(feed("<e><f>", &["[<e>]", "[<e>]", "x", "[<f>]"]), ("||x||".to_owned(), false));
        assert_eq!(feed("b[", &["a", "[b]", "[", "c"]), ("a||".to_owned(), true));
    }

    proptest! {
        /// However the text is cut, what comes out is the text up to the first stop text.
        #[test]
        fn cuts_do_not_matter(text in "[abé]{0,20}", stop in "[abé]{1,3}", cuts in prop::collection::vec(0..20usize, 0..6)) {
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(chars.len())).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|w| chars[w[0]..w[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (out, stopped) = feed(&[&stop], &pieces);
            match text.find(&stop) {
                Some(at) => prop_assert_eq!((out.concat(), stopped), (text[..at].to_owned(), true)),
                None => prop_assert_eq!((out.concat(), stopped), (text, false)),
            }
        }
    }
}
