//! Draws tokens from logits in a device's memory.

use std::sync::Arc;

use super::kernels::SAMPLE_SCAN;
use super::memory::{Buffer, Mailbox, Pool, Span};
use super::ops::sample::{self, DIGITS, OUTCOME_BYTES, Outcome, Target, Workspace};
use super::stream::Stream;
use crate::device::sampling::{self, Draw};
use crate::{Error, Result};

/// Memory for one draw at a time: [`enqueue`](Self::enqueue), then [`finish`](Self::finish). What changes from draw to
/// draw lies in device memory; the kernels' arguments stay the same for the same row.
#[derive(Debug)]
pub struct DeviceSampler {
    /// Dropped before the buffers: it waits for the last draw.
    mailbox: Mailbox,
    n_vocab: usize,
    params: Buffer,
    changed: Buffer,
    found: Buffer,
    segments: Buffer,
    totals: Buffer,
    search: Buffer,
    histogram: Buffer,
    outcome: Buffer,
    /// Of the draw that is under way.
    targets: Vec<Target>,
}

impl DeviceSampler {
    /// Tokens of a vocabulary at most.
    pub const MAX_VOCAB: usize = sample::MAX_LOGITS;

    /// For rows of `n_vocab` logits, 1 to [`MAX_VOCAB`](Self::MAX_VOCAB).
    pub fn new(pool: &Arc<Pool>, n_vocab: usize) -> Result<Self> {
        if n_vocab == 0 || n_vocab > Self::MAX_VOCAB {
            return Err(Error::param(format!(
                "a vocabulary of {n_vocab} to draw from, must be 1 to {}",
                Self::MAX_VOCAB
            )));
        }
        pool.card().load([SAMPLE_SCAN.id()])?;
        let room = |bytes: usize| pool.alloc(bytes as u64, "sampling");
        let params_bytes = sample::params_bytes(n_vocab);
        let [changed, found, segments, totals, search, histogram, outcome] = sample::workspace_bytes(n_vocab);
        Ok(DeviceSampler {
            mailbox: Mailbox::new(pool.card(), params_bytes, OUTCOME_BYTES)?,
            n_vocab,
            params: room(params_bytes)?,
            changed: room(changed)?,
            found: room(found)?,
            segments: room(segments)?,
            totals: room(totals)?,
            search: room(search)?,
            histogram: room(histogram)?,
            outcome: room(outcome)?,
            targets: Vec::with_capacity(3),
        })
    }

    /// Bytes that a pool gives to one.
    pub fn bytes(n_vocab: usize) -> u64 {
        let parts = sample::workspace_bytes(n_vocab).into_iter();
        parts.chain([sample::params_bytes(n_vocab)]).map(|bytes| bytes.next_multiple_of(256) as u64).sum()
    }

    /// Queues a draw from a row of logits (f32), which stay as they are. Not while the stream is captured.
    ///
    /// `Error::Param`: the row is shorter than the vocabulary, or there are more penalties than tokens.
    pub fn enqueue(&mut self, stream: &Stream, logits: Span<'_>, draw: &Draw<'_>) -> Result<()> {
        let n = self.n_vocab;
        if draw.penalties.len() > n {
            return Err(Error::param(format!("{} penalties for {n} tokens", draw.penalties.len())));
        }
        self.targets.clear();
        self.targets.extend(sample::targets(draw, n));
        let params = self.params.span().first(sample::params_bytes(draw.penalties.len()) as u64)?;
        self.mailbox.send(stream, params, |to| sample::write_params(draw, n, to))?;
        let work = self.workspace();
        let launched = sample::scan(stream, logits, &work)
            .and_then(|()| match sample::wants_total(draw, n) {
                true => sample::total(stream, logits, &work),
                false => Ok(()),
            })
            .and_then(|()| sample::pick(stream, logits, &work));
        self.receive(stream, launched)
    }

    /// Waits for the draw of the last [`enqueue`](Self::enqueue), from the same logits, and for all before it on the
    /// stream.
    ///
    /// # Errors
    /// As [`Session::sample`](crate::device::Session::sample), and those of whatever the stream did.
    pub fn finish(&mut self, stream: &Stream, logits: Span<'_>) -> Result<u32> {
        let mut outcome = sample::read_outcome(self.mailbox.wait(stream)?)?;
        if outcome == Outcome::Undecided {
            let work = self.workspace();
            let steps = self.targets.iter().flat_map(|target| (0..DIGITS).map(move |digit| (*target, digit)));
            let launched = steps.into_iter().try_for_each(|(target, digit)| {
                sample::count(stream, logits, &work, target, digit)?;
                sample::descend(stream, logits, &work, target, digit)
            });
            self.receive(stream, launched)?;
            outcome = sample::read_outcome(self.mailbox.wait(stream)?)?;
        }
        match outcome {
            Outcome::Drawn(token) if (token as usize) < self.n_vocab => Ok(token),
            Outcome::BadLogit(token, logit) => Err(sampling::bad_logit(token, logit)),
            Outcome::NoCandidate => Err(sampling::no_candidate()),
            other => Err(Error::Internal(format!("a draw from {} logits came to {other:?}", self.n_vocab))),
        }
    }

    fn workspace(&self) -> Workspace<'_> {
        Workspace {
            n: self.n_vocab,
            params: self.params.span(),
            changed: self.changed.span(),
            found: self.found.span(),
            segments: self.segments.span(),
            totals: self.totals.span(),
            search: self.search.span(),
            histogram: self.histogram.span(),
            outcome: self.outcome.span(),
        }
    }

    /// Fetches the outcome of what was launched; after a failure the buffers are free at once.
    fn receive(&mut self, stream: &Stream, launched: Result<()>) -> Result<()> {
        let outcome = self.outcome.span();
        launched.and_then(|()| self.mailbox.receive(stream, outcome)).inspect_err(|_| {
            // the error that is returned is the one to report
            let _ = stream.synchronize();
        })
    }
}
