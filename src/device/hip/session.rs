//! One user of a program on a GPU: cache, scratch, and the run of a step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use once_cell::sync::OnceCell;

use super::event::Event;
use super::graph::Graph;
use super::memory::{Buffer, Span, Staging, bytes_of, bytes_of_mut};
use super::ops::prefill;
use super::ops::project::{LayerCache, MATVEC_MAX_N};
use super::program::{HipProgram, TrimmedPool};
use super::sampler::DeviceSampler;
use super::schedule::Scheduled;
use super::scratch::Layout;
use super::step::Running;
use super::stream::Stream;
use crate::device::sampling::Draw;
use crate::device::{BLOCK_LEN, Cancel, Observer, Program, Session, SessionLimits, Step, StepTimes};
use crate::plan::{BufferId, Plan, Rope, Rows};
use crate::{Error, Result, memory};

impl Program for HipProgram {
    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn session(self: Arc<Self>, limits: SessionLimits) -> Result<Box<dyn Session>> {
        Ok(Box::new(HipSession::new(self, limits)?))
    }
}

/// Bytes of each half of a session's staging: a step's description, rows in and out.
const STAGING_BYTES: usize = 1 << 20;
/// Positions whose rotations are computed at a time.
const TURNS_AT_ONCE: usize = 1024;
/// Kinds of steps that are kept as graphs.
const MOST_GRAPHS: usize = 16;

/// Fields are dropped in this order; what the device may still use goes after `Drop` has waited for it.
pub struct HipSession {
    pub(super) stream: Stream,
    graphs: HashMap<Kind, Replay>,
    pub(super) layout: Layout,
    keys: Buffer,
    values: Buffer,
    scratch: Buffer,
    /// Where the plan ends with logits.
    sampler: Option<DeviceSampler>,
    staging: Mutex<Staging>,
    /// Behind each layer of a step of many ops, in turns.
    layer_done: [Event; 2],
    limits: SessionLimits,
    /// Positions whose rotations are on the device, per rope of the plan.
    turns_known: Vec<usize>,
    /// The step's description, for its memory.
    words: Vec<u32>,
    /// Rows of the plan's output that the last step left, and those on the host once somebody asked.
    n_rows: usize,
    output: OnceCell<Vec<f32>>,
    observer: Option<Observer>,
    pub(super) program: Arc<HipProgram>,
    /// Behind the buffers: what they leave is free for other models, whose placement counts what the device has free.
    _trimmed: TrimmedPool,
}

/// What a graph was recorded for: tokens and outputs of a step.
type Kind = (usize, usize);

enum Replay {
    /// Run once: the next one is recorded.
    Seen,
    Recorded(Graph),
    /// Graphs are switched off.
    Off,
}

/// Where a step's description lies in the session's words: tokens, positions, sequences, outputs, tiles, tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    pub n: usize,
    pub n_outputs: usize,
    pub n_tables: usize,
    /// Tiles of [`prefill`](super::ops::prefill) attention, in steps of many tokens.
    pub n_tiles: usize,
}

impl Description {
    /// First word of each part, each a multiple of 16 bytes.
    pub fn starts(&self) -> [usize; 6] {
        let (tokens, outputs) = (self.n.next_multiple_of(4), self.n_outputs.next_multiple_of(4));
        let tiles = 3 * tokens + outputs;
        [0, tokens, 2 * tokens, 3 * tokens, tiles, tiles + 4 * self.n_tiles]
    }
}

impl HipSession {
    pub fn new(program: Arc<HipProgram>, limits: SessionLimits) -> Result<Self> {
        let pool = &program.pool.0;
        let card = pool.card();
        let trimmed = TrimmedPool(Arc::clone(pool));
        let layout = Layout::new(&program.plan, limits, card.limits())?;
        let keys = pool.alloc(layout.cache_bytes, "the cache's keys")?;
        let values = pool.alloc(layout.cache_bytes, "the cache's values")?;
        let scratch = pool.alloc(layout.scratch_bytes, "scratch")?;
        let sampler = match layout.sampled_vocab {
            Some(n_vocab) => Some(DeviceSampler::new(pool, n_vocab)?),
            None => None,
        };
        let session = HipSession {
            stream: Stream::new(card)?,
            sampler,
            graphs: HashMap::new(),
            turns_known: vec![0; program.plan.ropes.len()],
            keys,
            values,
            scratch,
            staging: Mutex::new(Staging::with_halves(card, STAGING_BYTES)?),
            layer_done: [Event::without_timing(card)?, Event::without_timing(card)?],
            limits,
            words: Vec::new(),
            n_rows: 0,
            output: OnceCell::new(),
            observer: None,
            layout,
            _trimmed: trimmed,
            program,
        };
        // cells past a sequence's end are read and counted as nothing, which a NaN would not be
        session.stream.fill(session.keys.span(), 0)?;
        session.stream.fill(session.values.span(), 0)?;
        session.stream.fill(session.part(session.layout.tickets.clone())?, 0)?;
        session.stream.synchronize()?;
        Ok(session)
    }

    /// A place of the scratch.
    pub(super) fn part(&self, place: std::ops::Range<u64>) -> Result<Span<'_>> {
        self.scratch.span().part(place)
    }

    pub(super) fn buffer(&self, id: BufferId) -> Result<Span<'_>> {
        self.part(self.layout.buffers[id.0 as usize].clone())
    }

    pub(super) fn layer(&self, layer: usize) -> Result<LayerCache<'_>> {
        let bytes = self.layout.layer_bytes;
        let place = layer as u64 * bytes..(layer as u64 + 1) * bytes;
        let shape = self.program.plan.cache;
        Ok(LayerCache {
            k: self.keys.span().part(place.clone())?,
            v: self.values.span().part(place)?,
            n_head_kv: shape.n_head_kv,
            head_dim: shape.head_dim,
            head_pad: self.layout.head_pad,
            n_blocks: self.limits.n_blocks,
        })
    }

    /// Blocks between two sequences' tables on the device.
    pub(super) fn table_stride(&self) -> usize {
        self.limits.n_blocks
    }

    /// Brings what the step's kernels read of it to the device.
    pub(super) fn describe(&mut self, step: &Step<'_>) -> Result<Description> {
        let n = step.tokens.len();
        let tiles = if n > MATVEC_MAX_N {
            let tokens = step.sequences.iter().copied().zip(step.positions.iter().copied());
            memory::with_room(n * size_of::<[u32; 4]>() * 5, "attention tiles", || {
                prefill::attention_tiles(tokens, self.layout.head_pad)
            })?
        } else {
            Vec::new()
        };
        let description = Description {
            n,
            n_outputs: step.outputs.len(),
            n_tables: step.tables.len(),
            n_tiles: tiles.len(),
        };
        let starts = description.starts();
        let words = &mut self.words;
        words.clear();
        memory::reserve(words, starts[5] + step.tables.len() * self.limits.n_blocks, "a step's description")?;
        let lists = [step.tokens, step.positions, step.sequences, step.outputs, tiles.as_flattened()];
        for (list, start) in lists.into_iter().zip(starts) {
            words.resize(start, 0);
            words.extend_from_slice(list);
        }
        for (i, table) in step.tables.iter().enumerate() {
            words.resize(starts[5] + i * self.limits.n_blocks, 0);
            words.extend_from_slice(&table[..table.len().min(self.limits.n_blocks)]);
        }
        let place = &self.layout.step;
        let bytes = bytes_of(&self.words);
        let to = self.scratch.span().part(place.start..place.end)?.first(bytes.len() as u64)?;
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        staging.upload(&self.stream, bytes, to)?;

        if let Some(input) = self.program.plan.input {
            let to = self.scratch.span().part(self.layout.buffers[input.0 as usize].clone())?;
            let bytes = bytes_of(step.input);
            staging.upload(&self.stream, bytes, to.first(bytes.len() as u64)?)?;
        }
        self.learn_turns(step.positions.iter().max().map_or(0, |p| *p as usize + 1))?;
        Ok(description)
    }

    /// Brings the rotations of positions below `positions` to the device.
    fn learn_turns(&mut self, positions: usize) -> Result<()> {
        for (i, rope) in self.program.plan.ropes.iter().enumerate() {
            while self.turns_known[i] < positions {
                let first = self.turns_known[i];
                let last = (first + TURNS_AT_ONCE).min(self.limits.n_blocks * BLOCK_LEN);
                let turns = turns(rope, first..last)?;
                let (pairs, place) = (rope.inv_freq.len() as u64, &self.layout.turns[i]);
                let range = place.start + first as u64 * pairs * 8..place.start + last as u64 * pairs * 8;
                let to = self.scratch.span().part(range)?;
                let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
                staging.upload(&self.stream, bytes_of(&turns), to)?;
                self.turns_known[i] = last;
            }
        }
        Ok(())
    }

    /// The ops for a step of n tokens.
    pub(super) fn ops(&self, n: usize) -> &[Scheduled] {
        match n {
            1 => &self.program.one,
            2..=MATVEC_MAX_N => &self.program.few,
            _ => &self.program.many,
        }
    }

    /// Gives all ops of the step to the stream. None of them waits.
    fn launch(&self, description: Description) -> Result<()> {
        let running = Running::new(self, description)?;
        self.ops(description.n).iter().try_for_each(|scheduled| running.op(&scheduled.op))
    }

    /// Steps of few tokens: recorded when they come again, then replayed.
    fn replay(&mut self, description: Description) -> Result<()> {
        let kind = (description.n, description.n_outputs);
        match self.graphs.get(&kind) {
            Some(Replay::Recorded(graph)) => return graph.launch(&self.stream),
            Some(Replay::Off) => return self.launch(description),
            Some(Replay::Seen) => {
                let graph = Graph::capture(&self.stream, || self.launch(description))?;
                match graph {
                    Some(graph) => {
                        graph.launch(&self.stream)?;
                        self.graphs.insert(kind, Replay::Recorded(graph));
                    }
                    None => {
                        self.graphs.insert(kind, Replay::Off);
                        self.launch(description)?;
                    }
                }
                return Ok(());
            }
            None => {}
        }
        self.launch(description)?;
        if self.graphs.len() < MOST_GRAPHS {
            self.graphs.insert(kind, Replay::Seen);
        }
        Ok(())
    }

    /// Gives the step's ops to the stream at most two layers ahead of the device, so that cancelling takes no longer.
    fn launch_by_layers(&self, description: Description, cancel: &Cancel) -> Result<()> {
        let running = Running::new(self, description)?;
        let layers = &self.program.plan.layers;
        let mut layer = 0;
        for Scheduled { op, at } in self.ops(description.n) {
            running.op(op)?;
            if layers.get(layer).is_some_and(|range| *at + 1 >= range.end) {
                self.layer_done[layer % 2].record(&self.stream)?;
                layer += 1;
                if layer >= 2 {
                    self.layer_done[layer % 2].synchronize()?;
                }
                if cancel.is_requested() {
                    return Err(Error::Cancelled);
                }
            }
        }
        Ok(())
    }

    /// One op at a time, with its result shown to the observer.
    fn observe_ops(&self, description: Description, cancel: &Cancel, observer: &mut Observer) -> Result<()> {
        let running = Running::new(self, description)?;
        let plan = &self.program.plan;
        for Scheduled { op, at } in &self.program.unfused {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            running.op(op)?;
            let named = &plan.ops[*at];
            if let Some(out) = named.op.output() {
                let rows = running.rows(out);
                let values = self.download(out, rows)?;
                observer(&named.name, rows, &values);
            }
        }
        Ok(())
    }

    /// The first rows of a buffer, after all that was given to the stream.
    fn download(&self, id: BufferId, rows: usize) -> Result<Vec<f32>> {
        let len = rows * self.program.plan.buffer(id).width;
        let mut values = memory::filled(0.0, len, "results of a GPU")?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging.download(&self.stream, self.buffer(id)?.first(4 * len as u64)?, bytes_of_mut(&mut values))?;
        // a copy that was waited for tells nothing of a fault before it
        self.stream.synchronize()?;
        Ok(values)
    }

    fn run_step(&mut self, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        let description = self.describe(step)?;
        if let Some(mut observer) = self.observer.take() {
            let outcome = self.observe_ops(description, cancel, &mut observer);
            self.observer = Some(observer);
            outcome
        } else if description.n <= MATVEC_MAX_N {
            self.replay(description)
        } else {
            self.launch_by_layers(description, cancel)
        }
    }
}

/// (cos, sin) of each pair at each of the positions.
fn turns(rope: &Rope, positions: std::ops::Range<usize>) -> Result<Vec<f32>> {
    let mut turns = memory::vec(positions.len() * rope.inv_freq.len() * 2, "rope tables")?;
    for position in positions {
        for freq in rope.inv_freq.iter() {
            let (sin, cos) = (position as f64 * f64::from(*freq)).sin_cos();
            turns.extend([cos as f32 * rope.magnitude, sin as f32 * rope.magnitude]);
        }
    }
    Ok(turns)
}

impl Session for HipSession {
    fn run(&mut self, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        step.check(&self.program.plan, self.limits)?;
        self.n_rows = 0;
        self.output = OnceCell::new();
        if cancel.is_requested() {
            return Err(Error::Cancelled);
        }
        let outcome = self.run_step(step, cancel);
        if let Err(error) = outcome {
            // nothing of the step shall still run when its caller goes on
            let _ = self.stream.synchronize();
            return Err(error);
        }
        self.n_rows = match self.program.plan.buffer(self.program.plan.output).rows {
            Rows::Tokens => step.tokens.len(),
            Rows::Outputs => step.outputs.len(),
        };
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.stream.synchronize()
    }

    fn output(&self) -> Result<&[f32]> {
        Ok(self.output.get_or_try_init(|| self.download(self.program.plan.output, self.n_rows))?)
    }

    fn sample(&mut self, row: usize, draw: &Draw<'_>) -> Result<Option<u32>> {
        if row >= self.n_rows {
            return Err(Error::param(format!("row {row} of the logits; the last step left {}", self.n_rows)));
        }
        let output = self.program.plan.output;
        let bytes = 4 * self.program.plan.buffer(output).width as u64;
        let place = self.layout.buffers[output.0 as usize].clone();
        let logits = self.scratch.span().part(place)?.part(row as u64 * bytes..(row as u64 + 1) * bytes)?;
        let Some(sampler) = &mut self.sampler else { return Ok(None) };
        sampler.enqueue(&self.stream, logits, draw)?;
        sampler.finish(&self.stream, logits).map(Some)
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<()> {
        let n_blocks = self.limits.n_blocks as u64;
        if [from, to].iter().any(|block| u64::from(*block) >= n_blocks) {
            return Err(Error::param(format!("a copy of block {from} to {to}; the cache has {n_blocks}")));
        }
        let bytes = self.layout.layer_bytes / n_blocks;
        for layer in 0..self.program.plan.cache.n_layers {
            let LayerCache { k, v, .. } = self.layer(layer)?;
            for cells in [k, v] {
                let place = |block: u32| u64::from(block) * bytes..(u64::from(block) + 1) * bytes;
                self.stream.copy(cells.part(place(from))?, cells.part(place(to))?)?;
            }
        }
        Ok(())
    }

    fn time_ops(&mut self, step: &Step<'_>, repetitions: usize) -> Result<StepTimes> {
        step.check(&self.program.plan, self.limits)?;
        self.n_rows = 0;
        self.output = OnceCell::new();
        let times = self.times_of(step, repetitions);
        if times.is_err() {
            let _ = self.stream.synchronize();
        }
        times
    }

    fn memory(&self) -> (u64, u64) {
        (2 * self.layout.cache_bytes, self.layout.scratch_bytes + self.layout.sampler_bytes)
    }

    fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }
}

impl Drop for HipSession {
    /// Buffers go back to the pool, for others to use.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}
