//! The operations of which a draw is made (kernels/sample.hip); what they compute is defined in
//! [`crate::device::sampling`].

use super::{dim, holds, is_aligned, launch, over};
use crate::device::hip::kernels::*;
use crate::device::hip::memory::Span;
use crate::device::hip::stream::Stream;
use crate::device::sampling::{Draw, Penalty, WHOLE};
use crate::{Error, Result};

/// Logits in a row at most: their ids are 20 bits of a rank.
pub const MAX_LOGITS: usize = 1 << 20;
/// Logits of a group of the kernels that see all, and of a segment.
pub const CHUNK: usize = 2048;
const SEGMENT: usize = 32;
/// Candidates that [`pick`] sorts at most: of so many logits it decides always.
pub const SORTED: usize = 2048;
/// Digits of a rank.
pub const DIGITS: u32 = 5;

/// Bytes of a draw's parameters before its penalties, and of an outcome.
const HEADER: usize = 64;
pub const OUTCOME_BYTES: usize = 16;
const SEARCH_BYTES: usize = 40;
const HISTOGRAM_BYTES: usize = 2048 * 8;

/// Bytes of the parameters of a draw with so many penalties.
pub fn params_bytes(n_penalties: usize) -> usize {
    HEADER + n_penalties * size_of::<Penalty>()
}

/// Writes a draw's parameters for a row of `n_logits`: [`params_bytes`] of them.
pub fn write_params(draw: &Draw<'_>, n_logits: usize, to: &mut [u8]) {
    let all = n_logits as u32;
    let (header, penalties) = to.split_at_mut(HEADER);
    header.fill(0);
    header[..8].copy_from_slice(&(draw.uniform << 11).to_le_bytes());
    let top_p = if draw.top_p < WHOLE { draw.top_p << 11 } else { u64::MAX };
    header[8..16].copy_from_slice(&top_p.to_le_bytes());
    let top_k = if draw.top_k == 0 { all } else { draw.top_k.min(all) };
    header[16..20].copy_from_slice(&top_k.to_le_bytes());
    for (at, value) in [(20, draw.inverse_temperature), (24, draw.min_p), (28, draw.repeat_penalty)] {
        header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    header[32..36].copy_from_slice(&(draw.penalties.len() as u32).to_le_bytes());
    for (to, penalty) in penalties.chunks_exact_mut(size_of::<Penalty>()).zip(draw.penalties) {
        to[..4].copy_from_slice(&penalty.token.to_le_bytes());
        to[4..].copy_from_slice(&penalty.subtract.to_le_bytes());
    }
}

/// What came of a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Drawn(u32),
    /// The first token whose logit is an error, and the logit.
    BadLogit(u32, f32),
    NoCandidate,
    /// It takes [`count`] and [`descend`].
    Undecided,
}

/// The first [`OUTCOME_BYTES`] of `bytes`.
pub fn read_outcome(bytes: &[u8]) -> Result<Outcome> {
    let word = |i: usize| {
        bytes.get(4 * i..4 * i + 4).and_then(|word| Some(u32::from_le_bytes(word.try_into().ok()?)))
    };
    match (word(0), word(1), word(2)) {
        (Some(0), Some(token), _) => Ok(Outcome::Drawn(token)),
        (Some(1), Some(token), Some(logit)) => Ok(Outcome::BadLogit(token, f32::from_bits(logit))),
        (Some(2), ..) => Ok(Outcome::NoCandidate),
        (Some(3), ..) => Ok(Outcome::Undecided),
        other => Err(Error::Internal(format!("the outcome of a draw is {other:?}"))),
    }
}

/// Memory of draws from rows of `n` logits. What each part is for is in kernels.rs.
#[derive(Clone, Copy, Debug)]
pub struct Workspace<'a> {
    pub n: usize,
    /// Written by [`write_params`], with penalties up to what the buffer holds.
    pub params: Span<'a>,
    pub changed: Span<'a>,
    pub found: Span<'a>,
    pub segments: Span<'a>,
    pub totals: Span<'a>,
    pub search: Span<'a>,
    pub histogram: Span<'a>,
    pub outcome: Span<'a>,
}

/// Bytes of each part of a [`Workspace`] but `params`, in its order.
pub fn workspace_bytes(n: usize) -> [usize; 7] {
    let chunks = n.div_ceil(CHUNK);
    [
        n * 4,
        chunks * 16,
        chunks * CHUNK / SEGMENT * 4,
        chunks * 8,
        SEARCH_BYTES,
        HISTOGRAM_BYTES,
        OUTCOME_BYTES,
    ]
}

impl Workspace<'_> {
    /// Checks the parts and the logits; gives n as the kernels take it.
    fn holds(&self, logits: Span<'_>) -> Result<u32> {
        if self.n == 0 || self.n > MAX_LOGITS {
            return Err(Error::param(format!("a draw from {} logits, must be 1 to {MAX_LOGITS}", self.n)));
        }
        holds("logits", logits, &[self.n], 4)?;
        holds("params", self.params, &[HEADER], 1)?;
        is_aligned("params", self.params, 16)?;
        let parts = [
            ("changed", self.changed),
            ("found", self.found),
            ("segments", self.segments),
            ("totals", self.totals),
            ("search", self.search),
            ("histogram", self.histogram),
            ("outcome", self.outcome),
        ];
        for ((name, part), bytes) in parts.into_iter().zip(workspace_bytes(self.n)) {
            holds(name, part, &[bytes], 1)?;
            is_aligned(name, part, 16)?;
        }
        dim("n", self.n)
    }
}

/// Applies the penalties and finds the largest logits.
pub fn scan(stream: &Stream, logits: Span<'_>, work: &Workspace<'_>) -> Result<()> {
    let n = work.holds(logits)?;
    let args = SampleScanArgs {
        logits: logits.ptr(),
        params: work.params.ptr(),
        changed: work.changed.ptr(),
        found: work.found.ptr(),
        segments: work.segments.ptr(),
        n,
    };
    over(stream, SAMPLE_SCAN, n.into(), CHUNK as u64, &args)
}

/// Sums the weights of all logits, after [`scan`].
pub fn total(stream: &Stream, logits: Span<'_>, work: &Workspace<'_>) -> Result<()> {
    let n = work.holds(logits)?;
    let args = SampleTotalArgs {
        logits: logits.ptr(),
        params: work.params.ptr(),
        changed: work.changed.ptr(),
        found: work.found.ptr(),
        totals: work.totals.ptr(),
        n,
    };
    over(stream, SAMPLE_TOTAL, n.into(), CHUNK as u64, &args)
}

/// Whether [`pick`] wants the sum of all weights.
pub fn wants_total(draw: &Draw<'_>, n: usize) -> bool {
    let is_of_all = draw.top_k == 0 || draw.top_k as usize >= n;
    n > SORTED && is_of_all && (draw.top_p < WHOLE || draw.min_p == f32::NEG_INFINITY)
}

/// Draws, after [`scan`], and [`total`] where it [`wants_total`].
pub fn pick(stream: &Stream, logits: Span<'_>, work: &Workspace<'_>) -> Result<()> {
    let n = work.holds(logits)?;
    let args = SamplePickArgs {
        logits: logits.ptr(),
        params: work.params.ptr(),
        changed: work.changed.ptr(),
        found: work.found.ptr(),
        segments: work.segments.ptr(),
        totals: work.totals.ptr(),
        search: work.search.ptr(),
        histogram: work.histogram.ptr(),
        outcome: work.outcome.ptr(),
        n,
    };
    launch(stream, SAMPLE_PICK, [1, 1, 1], &args)
}

/// What [`count`] and [`descend`] look for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Target {
    TopK,
    TopP,
    Token,
}

/// The searches of a draw from `n` logits that [`pick`] leaves undecided.
pub fn targets(draw: &Draw<'_>, n: usize) -> impl Iterator<Item = Target> {
    let top_k = draw.top_k != 0 && (draw.top_k as usize) < n;
    let top_p = draw.top_p < WHOLE;
    [(Target::TopK, top_k), (Target::TopP, top_p), (Target::Token, true)]
        .into_iter()
        .filter_map(|(target, is_searched)| is_searched.then_some(target))
}

/// Adds up what could be digit `digit` of the rank.
pub fn count(
    stream: &Stream,
    logits: Span<'_>,
    work: &Workspace<'_>,
    target: Target,
    digit: u32,
) -> Result<()> {
    let n = work.holds(logits)?;
    check_digit(digit)?;
    let args = SampleCountArgs {
        logits: logits.ptr(),
        params: work.params.ptr(),
        changed: work.changed.ptr(),
        search: work.search.ptr(),
        histogram: work.histogram.ptr(),
        n,
        what: target as u32,
        digit,
    };
    over(stream, SAMPLE_COUNT, n.into(), CHUNK as u64, &args)
}

/// Finds the digit, after [`count`].
pub fn descend(
    stream: &Stream,
    logits: Span<'_>,
    work: &Workspace<'_>,
    target: Target,
    digit: u32,
) -> Result<()> {
    work.holds(logits)?;
    check_digit(digit)?;
    let args = SampleDescendArgs {
        params: work.params.ptr(),
        search: work.search.ptr(),
        histogram: work.histogram.ptr(),
        outcome: work.outcome.ptr(),
        what: target as u32,
        digit,
    };
    launch(stream, SAMPLE_DESCEND, [1, 1, 1], &args)
}

fn check_digit(digit: u32) -> Result<()> {
    if digit < DIGITS {
        return Ok(());
    }
    Err(Error::Internal(format!("digit {digit} of a rank of {DIGITS}")))
}
