//! A context: caches of one or more sequences over a model, and the steps that fill them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::{Duration, Instant};

use super::cache::PagedCache;
use super::states::{self, States};
use super::{Model, Sampler};
use crate::device::{BLOCK_LEN, Call, Cancel, Observer, Session, SessionLimits, StateSlots, Step, StepTimes};
use crate::model::Config;
use crate::plan::Plan;
use crate::{Error, Result, memory};

#[derive(Clone, Debug, Default)]
pub struct ContextParams {
    /// Positions of cache in all, shared by the sequences; 0: min(the model's training context, 4096). At most the
    /// positions that the model has a table of, for each sequence. Rounded up to whole blocks.
    pub n_ctx: usize,
    /// Most tokens computed in one device step; longer batches are cut into several, but for a sequence of a model whose
    /// tokens see those behind them. 0: 512.
    pub n_batch: usize,
    /// Most sequences at once. 0: 1.
    pub n_seq_max: usize,
    /// Of models with a recurrent state: a sequence's state is kept where its length is a multiple of this, the last 3 times;
    /// to these lengths it can go back. 0: 512.
    pub checkpoint_interval: usize,
}

#[derive(Clone, Debug)]
pub struct ContextInfo {
    pub n_ctx: usize,
    pub n_batch: usize,
    pub n_seq_max: usize,
    /// Positions in use, over all sequences (shared blocks counted once).
    pub n_used: usize,
    pub cache_bytes: u64,
    pub scratch_bytes: u64,
}

/// Tokens to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub tokens: &'a [u32],
    /// Position of each token in its sequence; None: each sequence goes on where it ends. A given position must
    /// be exactly where the sequence ends (a gap or overlap is Error::Param).
    pub positions: Option<&'a [u32]>,
    /// Sequence id of each token, below n_seq_max; None: all 0.
    pub sequences: Option<&'a [u32]>,
    /// Whether the token's logits are wanted; None: the last token's only.
    pub want: Option<&'a [bool]>,
}

#[derive(Clone, Debug, Default)]
pub struct PerfCounters {
    /// Tokens evaluated in batches with several tokens of a sequence, and the time those took, microseconds.
    pub prefill_tokens: u64,
    pub prefill_us: u64,
    /// The same for batches of one token of each sequence.
    pub decode_tokens: u64,
    pub decode_us: u64,
    /// Tokens chosen, and the time of that; where it cannot be told from the evaluation's (a device that draws goes on
    /// to it by itself), it is in that.
    pub sampled_tokens: u64,
    pub sample_us: u64,
}

/// Cancels a context's calls, from any thread or a signal handler.
#[derive(Clone, Debug)]
pub struct CancelHandle(Arc<Cancel>);

impl CancelHandle {
    /// The decode or generation in progress ends with Error::Cancelled (see [`Session::run`] for when), or as it would
    /// have if it is about to. False: there is none, and nothing is asked of later ones.
    pub fn cancel(&self) -> bool {
        self.0.request()
    }

    /// Takes a request back that has not taken effect. False: there is none.
    pub fn withdraw(&self) -> bool {
        self.0.withdraw()
    }
}

/// What memory is for, in errors.
const BATCH: &str = "a batch";

/// Bytes of logits that a device step may leave; batches that want more are cut into more steps.
const MAX_LOGITS_BYTES: usize = 64 << 20;
/// Bounds on what a caller may ask for, far above sense, so that nothing below overflows.
pub const MAX_CONTEXT: usize = 1 << 28;
pub const MAX_BATCH: usize = 1 << 20;
const MAX_SEQUENCES: usize = 4096;

/// One user's caches. One thread at a time; keeps its model alive.
pub struct Context {
    model: Model,
    session: Box<dyn Session>,
    cache: PagedCache,
    /// Of a model with recurrent state.
    states: Option<States>,
    n_batch: usize,
    n_seq_max: usize,
    /// Most logits rows in a step.
    max_outputs: usize,
    cancel: Arc<Cancel>,
    /// See `stop_on`.
    stop: Option<&'static AtomicI32>,
    perf: PerfCounters,
    batch: Grouped,
    /// Per wanted row in batch order: its row in the order of evaluation.
    rows: Vec<u32>,
    /// Rows of logits in order of evaluation; empty while the session still holds all of them.
    kept: Vec<f32>,
}

/// A batch regrouped for the device: tokens of a sequence adjacent. Kept between batches for its memory.
#[derive(Debug, Default)]
struct Grouped {
    /// Per sequence id: tokens in the batch, and then where its next one goes.
    counts: Vec<usize>,
    /// Sequences of the batch, by first appearance, with their tokens.
    active: Vec<(usize, usize)>,
    /// What follows has one entry per token, in order of evaluation.
    tokens: Vec<u32>,
    positions: Vec<u32>,
    sequences: Vec<u32>,
    /// Index in the batch.
    origin: Vec<u32>,
    want: Vec<bool>,
    /// Of one step: per token the index of its table, and the tokens with logits.
    tables: Vec<u32>,
    outputs: Vec<u32>,
    /// Per table; empty where the model has no recurrent state.
    states: Vec<StateSlots>,
    /// (index in the batch, row in order of evaluation) of each wanted token.
    wanted: Vec<(u32, u32)>,
}

impl Grouped {
    /// Checks the batch against the cache and fills everything up to `want`.
    fn fill(&mut self, batch: &Batch<'_>, cache: &PagedCache, n_vocab: usize) -> Result<()> {
        let n = batch.tokens.len();
        if n == 0 {
            return Err(Error::param("the batch is empty"));
        }
        let lengths = [
            ("positions", batch.positions.map(<[_]>::len)),
            ("sequences", batch.sequences.map(<[_]>::len)),
            ("want", batch.want.map(<[_]>::len)),
        ];
        for (what, len) in lengths {
            if let Some(len) = len.filter(|len| *len != n) {
                return Err(Error::param(format!("the batch has {n} tokens, but {len} {what}")));
            }
        }
        let sequence = |i: usize| batch.sequences.map_or(0, |s| s[i] as usize);

        self.counts.fill(0);
        self.active.clear();
        for i in 0..n {
            let (token, s) = (batch.tokens[i], sequence(i));
            if token as usize >= n_vocab {
                return Err(Error::param(format!(
                    "token {i} of the batch is {token}; the vocabulary has {n_vocab}"
                )));
            }
            let n_seq_max = self.counts.len();
            let Some(count) = self.counts.get_mut(s) else {
                return Err(Error::param(format!(
                    "token {i} of the batch is of sequence {s}; the context has {n_seq_max}"
                )));
            };
            let position = cache.len(s) + *count;
            if let Some(given) = batch.positions.map(|p| p[i]).filter(|p| *p as usize != position) {
                return Err(Error::param(format!(
                    "token {i} of the batch has position {given}; sequence {s} goes on at {position}"
                )));
            }
            if *count == 0 {
                memory::push(&mut self.active, (s, 0), BATCH)?;
            }
            *count += 1;
        }
        let mut start = 0;
        for (s, count) in &mut self.active {
            *count = self.counts[*s];
            self.counts[*s] = start;
            start += *count;
        }

        for column in [&mut self.tokens, &mut self.positions, &mut self.sequences, &mut self.origin] {
            column.clear();
            memory::reserve(column, n, BATCH)?;
            column.resize(n, 0);
        }
        self.want.clear();
        memory::reserve(&mut self.want, n, BATCH)?;
        memory::reserve(&mut self.tables, n, BATCH)?;
        memory::reserve(&mut self.outputs, n, BATCH)?;
        memory::reserve(&mut self.states, self.active.len(), BATCH)?;
        self.wanted.clear();
        memory::reserve(&mut self.wanted, n, BATCH)?;
        self.want.resize(n, false);
        let mut next = 0; // where the sequence's part of the batch starts
        for (s, count) in &self.active {
            for (i, position) in self.positions[next..next + count].iter_mut().enumerate() {
                *position = (cache.len(*s) + i) as u32;
            }
            next += count;
        }
        for i in 0..n {
            let s = sequence(i);
            let at = self.counts[s];
            self.counts[s] += 1;
            self.tokens[at] = batch.tokens[i];
            self.sequences[at] = s as u32;
            self.origin[at] = i as u32;
            self.want[at] = batch.want.map_or(i == n - 1, |want| want[i]);
        }
        Ok(())
    }

    /// Where the step that starts at `first` ends: also where a sequence is to leave a checkpoint. Fills `outputs`, relative
    /// to `first`.
    fn cut(&mut self, first: usize, limits: StepLimits, states: Option<&States>) -> usize {
        let StepLimits { n_batch, max_outputs } = limits;
        self.outputs.clear();
        let end = self.tokens.len().min(first + n_batch);
        for at in first..end {
            let goes_on = at > first && self.sequences[at] == self.sequences[at - 1];
            if goes_on && states.is_some_and(|states| states.ends_at(self.positions[at] as usize)) {
                return at;
            }
            if self.want[at] {
                if self.outputs.len() == max_outputs {
                    return at;
                }
                self.outputs.push((at - first) as u32);
            }
        }
        end
    }
}

/// Most tokens, and rows of logits, of a step.
#[derive(Clone, Copy, Debug)]
struct StepLimits {
    n_batch: usize,
    max_outputs: usize,
}

fn or(value: usize, default: usize) -> usize {
    if value == 0 { default } else { value }
}

fn within(what: &str, value: usize, most: usize) -> Result<()> {
    if value > most {
        return Err(Error::param(format!("{what} is {value}; the most is {most}")));
    }
    Ok(())
}

/// What a context of these parameters asks of a device.
pub(super) fn session_limits(config: &Config, plan: &Plan, params: &ContextParams) -> Result<SessionLimits> {
    let n_batch = or(params.n_batch, 512);
    let n_sequences = or(params.n_seq_max, 1);
    within("n_seq_max", n_sequences, MAX_SEQUENCES)?;
    // no sequence goes on behind the positions that a model has
    let most = plan.n_positions().saturating_mul(n_sequences).min(MAX_CONTEXT);
    let n_ctx = or(params.n_ctx, config.n_ctx_train.min(4096).min(most));
    within("n_ctx", n_ctx, most)?;
    within("n_batch", n_batch, MAX_BATCH)?;
    let n_blocks = n_ctx.div_ceil(BLOCK_LEN);
    let max_tokens = n_batch.min(n_blocks * BLOCK_LEN);
    let row_bytes = config.n_vocab * size_of::<f32>();
    let max_outputs = match plan.sees_later() {
        true => max_tokens,
        false => (MAX_LOGITS_BYTES / row_bytes.max(1)).clamp(1, max_tokens),
    };
    let n_states = states::n_slots(n_sequences, n_blocks * BLOCK_LEN, interval(params));
    Ok(SessionLimits { max_tokens, max_outputs, n_blocks, n_sequences, n_states })
}

/// Positions from one checkpoint to the next.
fn interval(params: &ContextParams) -> usize {
    or(params.checkpoint_interval, 512)
}

impl Context {
    pub fn new(model: &Model, params: &ContextParams) -> Result<Self> {
        let limits = session_limits(model.config(), model.program().plan(), params)?;
        let n_seq_max = limits.n_sequences;
        let states = match &model.program().plan().states[..] {
            [] => None,
            _ => Some(States::new(n_seq_max, limits.n_blocks * BLOCK_LEN, interval(params))?),
        };
        Ok(Context {
            model: model.clone(),
            session: model.program().clone().session(limits)?,
            cache: PagedCache::new(&model.program().plan().windows, limits)?,
            states,
            n_batch: limits.max_tokens,
            n_seq_max,
            max_outputs: limits.max_outputs,
            cancel: Arc::default(),
            stop: None,
            perf: PerfCounters::default(),
            batch: Grouped { counts: memory::filled(0, n_seq_max, BATCH)?, ..Grouped::default() },
            rows: Vec::new(),
            kept: Vec::new(),
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn info(&self) -> ContextInfo {
        let (cache_bytes, scratch_bytes) = self.session.memory();
        ContextInfo {
            n_ctx: self.cache.capacity(),
            n_batch: self.n_batch,
            n_seq_max: self.n_seq_max,
            n_used: self.cache.used(),
            cache_bytes,
            scratch_bytes,
        }
    }

    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.cancel.clone())
    }

    /// From now on calls end with Error::Cancelled while `flag` is not 0: it can be set before they begin.
    pub fn stop_on(&mut self, flag: &'static AtomicI32) {
        self.stop = Some(flag);
    }

    /// Begins a call, of which those made until the guard is dropped are parts.
    pub(super) fn begin(&self) -> Call {
        // SAFETY: a static's reference is valid for ever.
        unsafe { self.begin_watching(self.stop.map_or(std::ptr::null(), std::ptr::from_ref)) }
    }

    /// As the call's own beginning, with a flag that stops it once it is not 0.
    ///
    /// # Safety
    /// `flag` is null or valid until the guard is dropped.
    pub(crate) unsafe fn begin_watching(&self, flag: *const AtomicI32) -> Call {
        // SAFETY: the caller's promise.
        unsafe { Call::watching(&self.cancel, flag) }
    }

    /// Positions that `sequence` can still grow by.
    pub(super) fn room(&self, sequence: u32) -> usize {
        self.cache.room(sequence as usize)
    }

    /// Error::CacheFull where the whole cache, emptied, would not hold so many positions.
    pub fn check_fits(&self, positions: usize) -> Result<()> {
        let total = self.cache.capacity();
        if positions <= total {
            return Ok(());
        }
        Err(Error::CacheFull { wanted: positions, free: total - self.cache.used(), total })
    }

    /// Evaluates the batch: all of it, or on any error none (the caches are as before; a batch longer than n_batch that is
    /// cancelled or fails half-way is rolled back).
    pub fn decode(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.evaluate(batch, |context, start| {
            context.session.wait()?;
            context.count_evaluation(batch, start.elapsed());
            Ok(())
        })
    }

    /// The same, and chooses a token from the last wanted row, as [`sample`](Self::sample) would: a device that draws
    /// does so without a wait in between. A batch that wants no logits is Error::Param. An error of the choice is one of
    /// the batch: nothing of it is kept, and the sampler is as before.
    pub fn decode_and_sample(&mut self, batch: &Batch<'_>, sampler: &mut Sampler) -> Result<u32> {
        self.evaluate(batch, |context, start| {
            let Some(last) = context.rows.len().checked_sub(1) else {
                return Err(Error::param("a token from a batch that wants no logits"));
            };
            if context.makes_draws() {
                let mut token = [0];
                context.draw(&[last], &mut [&mut *sampler], &mut token)?;
                sampler.count_draw();
                context.count_evaluation(batch, start.elapsed());
                context.count_sampling(1, Duration::ZERO);
                return Ok(token[0]);
            }
            context.session.wait()?;
            context.count_evaluation(batch, start.elapsed());
            context.sample(last, sampler)
        })
    }

    /// Runs the batch's steps and `finish`, which gets the time of the start; commits what they did, or undoes it.
    fn evaluate<T>(
        &mut self,
        batch: &Batch<'_>,
        finish: impl FnOnce(&mut Self, Instant) -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        let _call = self.begin();
        self.prepare(batch)?;
        match self.run_steps().and_then(|()| finish(self, start)) {
            Ok(value) => {
                self.cache.commit();
                self.states.iter_mut().for_each(States::commit);
                Ok(value)
            }
            Err(e) => {
                self.rows.clear();
                self.kept.clear();
                self.roll_back();
                Err(e)
            }
        }
    }

    fn roll_back(&mut self) {
        self.cache.roll_back();
        self.states.iter_mut().for_each(States::roll_back);
    }

    /// Regroups the batch and gives its sequences the cache blocks that they need.
    fn prepare(&mut self, batch: &Batch<'_>) -> Result<()> {
        self.rows.clear();
        self.kept.clear();
        self.batch.fill(batch, &self.cache, self.model.config().n_vocab)?;
        self.cache.grow(self.batch.active.iter().copied())?;
        let session = &mut self.session;
        let mut copies = self.cache.copies();
        let copied = copies.try_for_each(|(pool, copy)| session.copy_block(pool, copy.from, copy.to));
        drop(copies);
        copied.inspect_err(|_| self.cache.undo())
    }

    /// Times the step that the batch is, and each kind of its ops (see [`Session::time_ops`]). The sequences are as
    /// before.
    ///
    /// # Errors
    /// `Error::Unsupported` where the device keeps no such times; `Error::Param` for a batch of several steps.
    pub fn time_ops(&mut self, batch: &Batch<'_>, repetitions: usize) -> Result<StepTimes> {
        self.prepare(batch)?;
        let n = batch.tokens.len();
        let end = self.cut(0);
        let times = if end == n {
            self.with_step(0, end, |session, step, _| session.time_ops(step, repetitions))
        } else {
            Err(Error::param(format!("{n} tokens to time in one step; the context's take up to {end}")))
        };
        self.roll_back();
        times
    }

    fn count_evaluation(&mut self, batch: &Batch<'_>, time: Duration) {
        let (n, us) = (batch.tokens.len() as u64, time.as_micros() as u64);
        let (tokens, time) = if self.batch.active.iter().all(|(_, tokens)| *tokens == 1) {
            (&mut self.perf.decode_tokens, &mut self.perf.decode_us)
        } else {
            (&mut self.perf.prefill_tokens, &mut self.perf.prefill_us)
        };
        *tokens += n;
        *time += us;
    }

    fn cut(&mut self, first: usize) -> usize {
        let limits = StepLimits { n_batch: self.n_batch, max_outputs: self.max_outputs };
        self.batch.cut(first, limits, self.states.as_ref())
    }

    fn run_steps(&mut self) -> Result<()> {
        let n = self.batch.tokens.len();
        let mut first = 0;
        self.batch.wanted.clear();
        while first < n {
            if self.cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            let end = self.cut(first);
            let sequences = &self.batch.sequences;
            if end < n && sequences[end - 1] == sequences[end] && self.model.program().plan().sees_later() {
                let (n_batch, sequence) = (self.n_batch, sequences[end]);
                return Err(Error::param(format!(
                    "sequence {sequence} of the batch does not end in a step of {n_batch} tokens; the model's tokens see \
                     those behind them"
                )));
            }
            self.run_step(first, end)?;
            for output in &self.batch.outputs {
                let origin = self.batch.origin[first + *output as usize];
                self.batch.wanted.push((origin, self.batch.wanted.len() as u32));
            }
            // the next step overwrites the session's logits
            let more = end < n && !self.batch.outputs.is_empty();
            if more || !self.kept.is_empty() {
                let logits = self.session.output(0)?;
                memory::extend(&mut self.kept, logits, "logits")?;
            }
            first = end;
        }
        self.batch.wanted.sort_unstable();
        memory::reserve(&mut self.rows, self.batch.wanted.len(), BATCH)?;
        self.rows.extend(self.batch.wanted.iter().map(|(_, row)| *row));
        Ok(())
    }

    /// Runs the tokens `first..end` of the regrouped batch.
    fn run_step(&mut self, first: usize, end: usize) -> Result<()> {
        self.with_step(first, end, |session, step, cancel| session.run(step, cancel))
    }

    fn with_step<T>(
        &mut self,
        first: usize,
        end: usize,
        work: impl FnOnce(&mut dyn Session, &Step<'_>, &Cancel) -> Result<T>,
    ) -> Result<T> {
        let batch = &mut self.batch;
        let sequences = &batch.sequences[first..end];
        batch.tables.clear();
        let mut n_tables = 0;
        for (i, s) in sequences.iter().enumerate() {
            n_tables += u32::from(i == 0 || sequences[i - 1] != *s);
            batch.tables.push(n_tables - 1);
        }

        let ends = sequences.chunk_by(|a, b| a == b).scan(first, |end, run| {
            *end += run.len();
            Some((run[0] as usize, batch.positions[*end - 1] as usize + 1))
        });
        self.cache.advance(ends)?;

        batch.states.clear();
        if let Some(states) = &mut self.states {
            let mut from = first;
            for run in sequences.chunk_by(|a, b| a == b) {
                let before = batch.positions[from] as usize;
                batch.states.push(states.advance(run[0] as usize, before, before + run.len())?);
                from += run.len();
            }
        }

        // few sequences, the usual case, need no allocation
        let mut few: [&[u32]; 16] = [&[]; 16];
        let mut many: Vec<&[u32]> = Vec::new();
        let all = n_tables as usize * self.model.program().plan().pools().len();
        let tables = match few.get_mut(..all) {
            Some(few) => few,
            None => {
                memory::reserve(&mut many, all, BATCH)?;
                many.resize(all, &[]);
                &mut many[..]
            }
        };
        for (at, run) in sequences.chunk_by(|a, b| a == b).enumerate() {
            let of_pools = tables.iter_mut().skip(at).step_by(n_tables as usize);
            of_pools.zip(self.cache.tables(run[0] as usize)).for_each(|(to, table)| *to = table);
        }
        let step = Step {
            tokens: &batch.tokens[first..end],
            positions: &batch.positions[first..end],
            sequences: &batch.tables,
            tables,
            states: &batch.states,
            outputs: &batch.outputs,
            inputs: &[],
        };
        work(&mut *self.session, &step, &self.cancel)
    }

    /// Rows of logits the last decode left.
    pub fn n_logits(&self) -> usize {
        self.rows.len()
    }

    /// Row `row` of the wanted logits of the last decode, in batch order; n_vocab long.
    pub fn logits(&self, row: usize) -> Result<&[f32]> {
        let Some(at) = self.rows.get(row) else {
            return Err(no_row(row, self.rows.len()));
        };
        let n_vocab = self.model.config().n_vocab;
        let all = if self.kept.is_empty() { self.session.output(0)? } else { &self.kept };
        Ok(&all[*at as usize * n_vocab..][..n_vocab])
    }

    /// Chooses a token from row `row` of the logits, on the device where it can. As [`Sampler::sample`], it does not
    /// remember the token.
    pub fn sample(&mut self, row: usize, sampler: &mut Sampler) -> Result<u32> {
        let mut token = [0];
        self.sample_rows(&[row], &mut [sampler], &mut token)?;
        Ok(token[0])
    }

    /// Chooses a token from each of `rows` of the logits, by the sampler of the same index, on the device where it can: there
    /// with one wait for all. The three are of one length.
    ///
    /// # Errors
    /// Those of [`Sampler::sample`] for any row, and `Error::Param` for a row that there is not. No sampler has then gone on.
    pub fn sample_rows(
        &mut self,
        rows: &[usize],
        samplers: &mut [&mut Sampler],
        tokens: &mut [u32],
    ) -> Result<()> {
        if samplers.len() != rows.len() || tokens.len() != rows.len() {
            let (samplers, tokens) = (samplers.len(), tokens.len());
            let n = rows.len();
            return Err(Error::param(format!("{n} rows, {samplers} samplers and {tokens} tokens")));
        }
        let start = Instant::now();
        if self.makes_draws() {
            self.draw(rows, samplers, tokens)?;
        } else {
            for ((row, sampler), token) in rows.iter().zip(samplers.iter_mut()).zip(tokens.iter_mut()) {
                *token = sampler.choose(self.logits(*row)?)?;
            }
        }
        samplers.iter_mut().for_each(|sampler| sampler.count_draw());
        self.count_sampling(rows.len() as u64, start.elapsed());
        Ok(())
    }

    /// Whether the device chooses tokens: it holds all of the logits where one step left them.
    fn makes_draws(&self) -> bool {
        self.session.makes_draws() && self.kept.is_empty()
    }

    fn draw(&mut self, rows: &[usize], samplers: &mut [&mut Sampler], tokens: &mut [u32]) -> Result<()> {
        let n_vocab = self.model.config().n_vocab;
        let draws = rows.iter().zip(samplers).map(|(row, sampler)| {
            let at = self.rows.get(*row).ok_or_else(|| no_row(*row, self.rows.len()))?;
            Ok((*at as usize, sampler.draw(n_vocab)?))
        });
        let draws = memory::try_collect(draws, "draws")?;
        self.session.sample(&draws, tokens)
    }

    fn sequence(&self, seq: u32) -> Result<usize> {
        if (seq as usize) < self.n_seq_max {
            return Ok(seq as usize);
        }
        Err(Error::param(format!("sequence {seq}; the context has {}", self.n_seq_max)))
    }

    /// Positions held by the sequence: 0..len.
    pub fn kv_len(&self, seq: u32) -> Result<usize> {
        Ok(self.cache.len(self.sequence(seq)?))
    }

    /// Forgets all sequences.
    pub fn kv_clear(&mut self) {
        for s in 0..self.n_seq_max {
            if let Some(states) = &mut self.states {
                states.clear(s);
            }
            self.cache.truncate(s, 0);
        }
    }

    /// The longest part of the sequence, up to `most` positions, that it can be truncated to and copied up to: `most` or its
    /// length, unless the model has a recurrent state, which is kept at checkpoints
    /// ([`ContextParams::checkpoint_interval`]) and at the end alone, or layers that see a window of positions, whose caches
    /// keep those that the last ones see, and more as long as there is room.
    pub fn kv_reachable(&self, seq: u32, most: usize) -> Result<usize> {
        let within = |kept: RangeInclusive<usize>| (*kept.start() <= most).then(|| most.min(*kept.end()));
        Ok(self.reachable(self.sequence(seq)?).filter_map(within).max().unwrap_or(0))
    }

    /// Lengths that the sequence can go back to and be copied up to, the shortest first.
    fn reachable(&self, s: usize) -> impl Iterator<Item = RangeInclusive<usize>> {
        let kept = self.cache.kept(s);
        let all = self.states.is_none().then(|| [(*kept.start() > 0).then_some(0..=0), Some(kept.clone())]);
        let states = self.states.iter().flat_map(move |states| states.possible(s, self.cache.len(s)));
        let states = states.filter(move |len| *len == 0 || kept.contains(len)).map(|len| len..=len);
        all.into_iter().flatten().flatten().chain(states)
    }

    /// Error::NotKept where the sequence cannot go back to `len` positions.
    fn check_reachable(&self, s: usize, len: usize) -> Result<()> {
        if self.reachable(s).any(|kept| kept.contains(&len)) {
            return Ok(());
        }
        Err(Error::NotKept { wanted: len, kept: memory::collect(self.reachable(s), "an error's text")? })
    }

    /// Forgets positions from `from` on (0: the whole sequence; its end: nothing). Beyond the end is Error::Param. Where the
    /// model's recurrent state or what its windows show was not kept is Error::NotKept, which says where it was; see
    /// [`kv_reachable`](Self::kv_reachable).
    pub fn kv_truncate(&mut self, seq: u32, from: usize) -> Result<()> {
        let s = self.sequence(seq)?;
        let held = self.cache.len(s);
        if from > held {
            return Err(Error::param(format!("position {from} of sequence {seq}, which holds {held}")));
        }
        self.check_reachable(s, from)?;
        if let Some(states) = &mut self.states {
            states.truncate(s, held, from)?;
        }
        self.cache.truncate(s, from);
        Ok(())
    }

    /// Makes `to` (emptied first) a copy of the first `len` positions of `from`; whole blocks are shared, not copied.
    /// `len` beyond the sequence, or `from == to`, is Error::Param; Error::NotKept as of
    /// [`kv_truncate`](Self::kv_truncate).
    pub fn kv_copy(&mut self, from: u32, to: u32, len: usize) -> Result<()> {
        let (source, target) = (self.sequence(from)?, self.sequence(to)?);
        let held = self.cache.len(source);
        if len > held {
            return Err(Error::param(format!("{len} positions of sequence {from}, which holds {held}")));
        }
        if source == target {
            return Err(Error::param(format!("sequence {from} cannot be copied onto itself")));
        }
        self.check_reachable(source, len)?;
        self.cache.share(source, target, len)?;
        self.states.as_mut().map_or(Ok(()), |states| states.share(source, held, target, len))
    }

    pub fn perf(&self) -> PerfCounters {
        self.perf.clone()
    }

    pub fn perf_reset(&mut self) {
        self.perf = PerfCounters::default();
    }

    /// For `Sampler` users to account sampling time into `perf`.
    pub fn count_sampling(&mut self, tokens: u64, time: Duration) {
        self.perf.sampled_tokens += tokens;
        self.perf.sample_us += time.as_micros() as u64;
    }

    /// See [`Session::observe`](crate::device::Session::observe).
    pub fn observe(&mut self, observer: Option<Observer>) {
        self.session.observe(observer);
    }
}

fn no_row(row: usize, n: usize) -> Error {
    Error::param(format!("row {row} of the logits; the last decode left {n}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;
    use crate::plan::{
        Cache, CacheId, Graph, In, Lookup, LookupBy, NamedOp, Op, Out, Rows, Scores, Value, ValueId, Values,
        Weight, WeightId,
    };

    /// Rows by position, of which there are `n`, that attend to each other.
    fn plan(n: usize, causal: bool) -> Plan {
        let mut graph = Graph::default();
        graph.weights.push(Weight::whole("position_embd", TensorType::F32, 8, n));
        graph.caches.push(Cache { n_head_kv: 1, k: 8, values: Values::Own(8), window: None });
        graph.values = vec![Value { name: "x", width: 8, rows: Rows::Tokens }; 2];
        let (x, out) = (ValueId(0), ValueId(1));
        let weight = Lookup(WeightId(0));
        let scores = Scores { causal, ..Scores::scaled(1.0) };
        let (cache, by) = (CacheId(0), LookupBy::Position);
        for op in [
            Op::Embed { weight, by, out: Out(x) },
            Op::Attention { cache, q: In(x), scores, sinks: None, out: Out(out) },
        ] {
            graph.ops.push(NamedOp { name: op.kind().into(), op });
        }
        Plan::new(graph).unwrap()
    }

    #[test]
    fn a_context_has_no_more_positions_than_the_model() {
        let config = Config { n_ctx_train: 2048, n_vocab: 1 << 20, ..Config::default() };
        let limits = |n_ctx, n_seq_max| {
            let params = ContextParams { n_ctx, n_seq_max, ..ContextParams::default() };
            session_limits(&config, &plan(1000, true), &params)
        };
        assert_eq!(limits(0, 1).unwrap().n_blocks, 16);
        assert_eq!(limits(0, 4).unwrap().n_blocks, 32);
        assert_eq!(limits(4000, 4).unwrap().n_blocks, 63);
        for (n_ctx, n_seq_max, most) in [(1001, 1, "1000"), (4001, 4, "4000")] {
            let error = limits(n_ctx, n_seq_max).unwrap_err().to_string();
            assert!(error.ends_with(&format!("n_ctx is {n_ctx}; the most is {most}")), "{error}");
        }
    }

    #[test]
    fn tokens_that_see_later_ones_leave_their_logits_in_one_step() {
        let config = Config { n_ctx_train: 2048, n_vocab: 1 << 20, ..Config::default() };
        let limits = |causal| session_limits(&config, &plan(1000, causal), &ContextParams::default());
        assert_eq!(limits(true).unwrap().max_outputs, 16);
        assert_eq!(limits(false).unwrap().max_outputs, 512);
    }
}
