//! Draws tokens from logits in a device's memory: of many rows with one upload, one copy back and one wait.

use std::sync::Arc;

use super::kernels::SAMPLE_SCAN;
use super::memory::{Buffer, Mailbox, Pool, Span};
use super::ops::sample::{self, DIGITS, OUTCOME_BYTES, Outcome, Workspace};
use super::stream::Stream;
use crate::device::sampling::{self, Draw};
use crate::{Error, Result};

/// Rows that are drawn from with one wait at most.
const ROWS_AT_ONCE: usize = 64;
/// Penalties of each of so many rows that there is room for in any case; one row may have one for each token.
const PENALTIES: usize = 128;

/// A row of logits (f32), and how a token is drawn from it.
pub type RowDraw<'a> = (Span<'a>, Draw<'a>);

/// Memory for the draws of some rows at a time: [`enqueue`](Self::enqueue), then [`finish`](Self::finish). What changes from
/// draw to draw lies in device memory. All but parameters and outcomes is used by one row after the other.
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
    outcomes: Buffer,
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
        let [params, changed, found, segments, totals, search, histogram, outcomes] = Self::parts(n_vocab);
        Ok(DeviceSampler {
            mailbox: Mailbox::new(pool.card(), params, outcomes)?,
            n_vocab,
            params: room(params)?,
            changed: room(changed)?,
            found: room(found)?,
            segments: room(segments)?,
            totals: room(totals)?,
            search: room(search)?,
            histogram: room(histogram)?,
            outcomes: room(outcomes)?,
        })
    }

    /// Bytes of its buffers.
    fn parts(n_vocab: usize) -> [usize; 8] {
        let [changed, found, segments, totals, search, histogram, outcome] = sample::workspace_bytes(n_vocab);
        let params = sample::params_bytes(n_vocab).max(ROWS_AT_ONCE * sample::params_bytes(PENALTIES));
        [params, changed, found, segments, totals, search, histogram, outcome * ROWS_AT_ONCE]
    }

    /// Bytes that a pool gives to one.
    pub fn bytes(n_vocab: usize) -> u64 {
        Self::parts(n_vocab).into_iter().map(|bytes| bytes.next_multiple_of(256) as u64).sum()
    }

    /// Draws a token from each row, which stays as it is, and waits for them. Not while the stream is captured. After an error
    /// `tokens`, as many as rows, hold nothing of use.
    ///
    /// # Errors
    /// As [`Session::sample`](crate::device::Session::sample), those of [`enqueue`](Self::enqueue), and those of whatever the
    /// stream did.
    pub fn draw(&mut self, stream: &Stream, rows: &[RowDraw<'_>], tokens: &mut [u32]) -> Result<()> {
        let (mut rows, mut tokens) = (rows, tokens);
        while !rows.is_empty() {
            let n = self.enqueue(stream, rows)?;
            let (now, later) = tokens.split_at_mut(n);
            self.finish(stream, &rows[..n], now)?;
            (rows, tokens) = (&rows[n..], later);
        }
        Ok(())
    }

    /// Queues the draws of as many of the first rows as there is room for, and gives their number.
    ///
    /// # Errors
    /// `Error::Param`: a row is shorter than the vocabulary, or there are more penalties than tokens.
    pub fn enqueue(&mut self, stream: &Stream, rows: &[RowDraw<'_>]) -> Result<usize> {
        let n = self.n_vocab;
        let (mut count, mut bytes) = (0, 0);
        for (_, draw) in rows.iter().take(ROWS_AT_ONCE) {
            if draw.penalties.len() > n {
                return Err(Error::param(format!("{} penalties for {n} tokens", draw.penalties.len())));
            }
            let more = bytes + params_room(draw);
            if count > 0 && more as u64 > self.params.span().bytes() {
                break;
            }
            (count, bytes) = (count + 1, more);
        }
        let rows = &rows[..count];
        let params = self.params.span().first((bytes as u64).min(self.params.span().bytes()))?;
        self.mailbox.send(stream, params, |mut to| {
            for (_, draw) in rows {
                let (here, behind) = to.split_at_mut(params_room(draw).min(to.len()));
                sample::write_params(draw, n, &mut here[..sample::params_bytes(draw.penalties.len())]);
                to = behind;
            }
        })?;
        let launched = (0..count).try_for_each(|i| self.launch(stream, rows, i));
        self.receive(stream, count, launched)?;
        Ok(count)
    }

    /// Waits for the draws of the last [`enqueue`](Self::enqueue), of the same rows, and for all before it on the stream.
    pub fn finish(&mut self, stream: &Stream, rows: &[RowDraw<'_>], tokens: &mut [u32]) -> Result<()> {
        let all = self.mailbox.wait(stream)?.first_chunk::<{ OUTCOME_BYTES * ROWS_AT_ONCE }>();
        let outcomes =
            *all.ok_or_else(|| Error::Internal("a mailbox without room for all outcomes".into()))?;
        for (i, (token, bytes)) in tokens.iter_mut().zip(outcomes.chunks_exact(OUTCOME_BYTES)).enumerate() {
            let mut outcome = sample::read_outcome(bytes)?;
            if outcome == Outcome::Undecided {
                let searched = self.search(stream, rows, i);
                self.receive(stream, rows.len(), searched)?;
                outcome = sample::read_outcome(&self.mailbox.wait(stream)?[i * OUTCOME_BYTES..])?;
            }
            *token = match outcome {
                Outcome::Drawn(token) if (token as usize) < self.n_vocab => token,
                Outcome::BadLogit(token, logit) => return Err(sampling::bad_logit(token, logit)),
                Outcome::NoCandidate => return Err(sampling::no_candidate()),
                other => {
                    let n = self.n_vocab;
                    return Err(Error::Internal(format!("a draw from {n} logits came to {other:?}")));
                }
            };
        }
        Ok(())
    }

    /// The kernels that decide nearly every draw.
    fn launch(&self, stream: &Stream, rows: &[RowDraw<'_>], i: usize) -> Result<()> {
        let ((logits, draw), work) = (&rows[i], self.workspace(rows, i)?);
        sample::scan(stream, *logits, &work)?;
        if sample::wants_total(draw, self.n_vocab) {
            sample::total(stream, *logits, &work)?;
        }
        sample::pick(stream, *logits, &work)
    }

    /// Those that decide what is left.
    fn search(&self, stream: &Stream, rows: &[RowDraw<'_>], i: usize) -> Result<()> {
        if rows.len() > 1 {
            // other rows have used the memory since
            self.launch(stream, rows, i)?;
        }
        let ((logits, draw), work) = (&rows[i], self.workspace(rows, i)?);
        sample::targets(draw, self.n_vocab).try_for_each(|target| {
            (0..DIGITS).try_for_each(|digit| {
                sample::count(stream, *logits, &work, target, digit)?;
                sample::descend(stream, *logits, &work, target, digit)
            })
        })
    }

    fn workspace(&self, rows: &[RowDraw<'_>], i: usize) -> Result<Workspace<'_>> {
        let first: usize = rows[..i].iter().map(|(_, draw)| params_room(draw)).sum();
        let bytes = sample::params_bytes(rows[i].1.penalties.len());
        let outcome = i * OUTCOME_BYTES;
        Ok(Workspace {
            n: self.n_vocab,
            params: self.params.span().part(first as u64..(first + bytes) as u64)?,
            changed: self.changed.span(),
            found: self.found.span(),
            segments: self.segments.span(),
            totals: self.totals.span(),
            search: self.search.span(),
            histogram: self.histogram.span(),
            outcome: self.outcomes.span().part(outcome as u64..(outcome + OUTCOME_BYTES) as u64)?,
        })
    }

    /// Fetches the outcomes of `n` rows whose draws were launched; after a failure the buffers are free at once.
    fn receive(&mut self, stream: &Stream, n: usize, launched: Result<()>) -> Result<()> {
        let outcomes = self.outcomes.span().first((n * OUTCOME_BYTES) as u64)?;
        launched.and_then(|()| self.mailbox.receive(stream, outcomes)).inspect_err(|_| {
            // the error that is returned is the one to report
            let _ = stream.synchronize();
        })
    }
}

/// Bytes that a draw's parameters take among others'.
fn params_room(draw: &Draw<'_>) -> usize {
    sample::params_bytes(draw.penalties.len()).next_multiple_of(16)
}
