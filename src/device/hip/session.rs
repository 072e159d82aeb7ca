//! One user of a program on a GPU: cache, scratch, and the run of a step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use once_cell::sync::OnceCell;

use super::description::Description;
use super::event::Event;
use super::graph::Graph;
use super::memory::{Span, Staging, bytes_of, bytes_of_mut};
use super::ops::project::MATVEC_MAX_N;
use super::program::{HipProgram, TrimmedPool};
use super::sampler::DeviceSampler;
use super::schedule::Scheduled;
use super::scratch::{Layout, SessionMemory};
use super::step::Running;
use super::stream::Stream;
use super::timing;
use crate::device::sampling::Draw;
use crate::device::{BLOCK_LEN, Cancel, Observer, Program, Session, SessionLimits, Step, StepTimes};
use crate::plan::{Plan, RopeId, ValueId};
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
/// Kinds of steps that are kept as graphs, of each segment.
const MOST_GRAPHS: usize = 16;

/// Fields are dropped in this order; what the device may still use goes after `Drop` has waited for it.
pub struct HipSession {
    stream: Stream,
    graphs: HashMap<Kind, Replay>,
    memory: SessionMemory,
    /// Where the plan's first output is logits.
    sampler: Option<DeviceSampler>,
    staging: Mutex<Staging>,
    /// Behind each layer of a step of many ops, in turns.
    layer_done: [Event; 2],
    limits: SessionLimits,
    /// Positions whose rotations are on the device, per rope of the plan.
    turns_known: Vec<usize>,
    /// The step's description, for its memory.
    words: Vec<u32>,
    /// Of the step whose first segment ran last.
    described: Option<Description>,
    /// What the last segment to run left.
    left: Vec<Output>,
    /// Its rows on the host, one output's behind the other's, once somebody asked.
    values: OnceCell<Vec<f32>>,
    observer: Option<Observer>,
    program: Arc<HipProgram>,
    /// Behind the buffers: what they leave is free for other models, whose placement counts what the device has free.
    _trimmed: TrimmedPool,
}

/// A value that a segment leaves.
#[derive(Clone, Copy)]
struct Output {
    id: ValueId,
    rows: usize,
}

/// What a graph was recorded for: a segment, and tokens, outputs and recurrent states of a step.
type Kind = (usize, usize, usize, usize);

enum Replay {
    /// Run once: the next one is recorded.
    Seen,
    Recorded(Graph),
    /// Graphs are switched off.
    Off,
}

impl HipSession {
    pub fn new(program: Arc<HipProgram>, limits: SessionLimits) -> Result<Self> {
        let pool = &program.pool.0;
        let card = pool.card();
        let trimmed = TrimmedPool(Arc::clone(pool));
        let layout = Layout::new(&program.plan, limits, card.limits())?;
        let memory = SessionMemory::new(pool, layout)?;
        let sampler = match memory.layout.sampled_vocab {
            Some(n_vocab) => Some(DeviceSampler::new(pool, n_vocab)?),
            None => None,
        };
        let session = HipSession {
            stream: Stream::new(card)?,
            sampler,
            graphs: HashMap::new(),
            turns_known: vec![0; program.plan.ropes.len()],
            memory,
            staging: Mutex::new(Staging::with_halves(card, STAGING_BYTES)?),
            layer_done: [Event::without_timing(card)?, Event::without_timing(card)?],
            limits,
            words: Vec::new(),
            described: None,
            left: program.plan.outputs.iter().map(|id| Output { id: *id, rows: 0 }).collect(),
            values: OnceCell::new(),
            observer: None,
            _trimmed: trimmed,
            program,
        };
        // cells past a sequence's end are read and counted as nothing, which a NaN would not be
        session.stream.fill(session.memory.cells(), 0)?;
        session.stream.fill(session.memory.attend_scratch()?.tickets, 0)?;
        for n_heads in session.memory.head_counts() {
            let ids = session.memory.head_ids(n_heads)?;
            let numbers = (0..n_heads as u32).cycle().take(ids.bytes() as usize / size_of::<u32>());
            let numbers = memory::collect(numbers, "scratch")?;
            let mut staging = session.staging.lock().unwrap_or_else(PoisonError::into_inner);
            staging.upload(&session.stream, bytes_of(&numbers), ids)?;
        }
        session.stream.synchronize()?;
        Ok(session)
    }

    /// Brings what the step's kernels read of it to the device; what they read of its tokens once, for all segments.
    fn describe(&mut self, segment: usize, step: &Step<'_>) -> Result<Description> {
        let description = match self.described.filter(|_| segment > 0) {
            Some(description) => description,
            None => self.describe_tokens(step)?,
        };
        let plan = &self.program.plan;
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (id, rows) in plan.segment(segment).inputs.iter().zip(step.inputs) {
            let bytes = bytes_of(rows);
            staging.upload(&self.stream, bytes, self.memory.value(plan, *id)?.first(bytes.len() as u64)?)?;
        }
        Ok(description)
    }

    fn describe_tokens(&mut self, step: &Step<'_>) -> Result<Description> {
        self.described = None;
        let head_pad = self.memory.layout.widest_head;
        let description =
            Description::write(step, &self.program.plan, self.limits, head_pad, &mut self.words)?;
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes_of(&self.words);
        staging.upload(&self.stream, bytes, self.memory.step()?.first(bytes.len() as u64)?)?;
        self.learn_turns(step.positions.iter().max().map_or(0, |p| *p as usize + 1))?;
        self.described = Some(description);
        Ok(description)
    }

    /// The step that has been described.
    fn running(&self, description: Description) -> Result<Running<'_>> {
        Ok(Running {
            stream: &self.stream,
            program: &self.program,
            memory: &self.memory,
            step: description.at(self.memory.step()?)?,
        })
    }

    /// Brings the rotations of positions below `positions` to the device.
    fn learn_turns(&mut self, positions: usize) -> Result<()> {
        for (i, rope) in self.program.plan.ropes.iter().enumerate() {
            while self.turns_known[i] < positions {
                let first = self.turns_known[i];
                let last = (first + TURNS_AT_ONCE).min(self.limits.n_blocks * BLOCK_LEN);
                let turns = turns(self.limits.turns(rope), first..last)?;
                let table = self.memory.turns(&self.program.plan, RopeId(i as u32))?.table;
                let position = 8 * rope.inv_freq.len() as u64;
                let to = table.part(first as u64 * position..last as u64 * position)?;
                let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
                staging.upload(&self.stream, bytes_of(&turns), to)?;
                self.turns_known[i] = last;
            }
        }
        Ok(())
    }

    /// The segment's ops for a step of n tokens.
    fn ops(&self, segment: usize, n: usize) -> &[Scheduled] {
        let ops = match n {
            1 => &self.program.one,
            2..=MATVEC_MAX_N => &self.program.few,
            _ => &self.program.many,
        };
        self.program.plan.segment(segment).part_of(ops, |scheduled| scheduled.at)
    }

    /// Gives all ops of the segment to the stream. None of them waits.
    fn launch(&self, segment: usize, description: Description) -> Result<()> {
        let running = self.running(description)?;
        self.ops(segment, description.n).iter().try_for_each(|scheduled| running.op(&scheduled.op))?;
        self.gather(segment, &running)
    }

    /// Copies several values that the segment leaves one behind the other, for one transfer.
    fn gather(&self, segment: usize, running: &Running<'_>) -> Result<()> {
        let plan = &self.program.plan;
        let outputs = plan.segment(segment).outputs;
        if outputs.len() < 2 {
            return Ok(());
        }
        let mut at = 0;
        for id in outputs {
            let bytes = 4 * (running.rows(*id) * plan.width(*id)) as u64;
            let from = self.memory.value(plan, *id)?.first(bytes)?;
            self.stream.copy(from, self.memory.gathered()?.part(at..at + bytes)?)?;
            at += bytes;
        }
        Ok(())
    }

    /// Steps of few tokens: recorded when they come again, then replayed.
    fn replay(&mut self, segment: usize, description: Description) -> Result<()> {
        let kind = (segment, description.n, description.n_outputs, description.n_runs);
        match self.graphs.get(&kind) {
            Some(Replay::Recorded(graph)) => return graph.launch(&self.stream),
            Some(Replay::Off) => return self.launch(segment, description),
            Some(Replay::Seen) => {
                let graph = Graph::capture(&self.stream, || self.launch(segment, description))?;
                match graph {
                    Some(graph) => {
                        graph.launch(&self.stream)?;
                        self.graphs.insert(kind, Replay::Recorded(graph));
                    }
                    None => {
                        self.graphs.insert(kind, Replay::Off);
                        self.launch(segment, description)?;
                    }
                }
                return Ok(());
            }
            None => {}
        }
        self.launch(segment, description)?;
        if self.graphs.len() < MOST_GRAPHS * self.program.plan.n_segments() {
            self.graphs.insert(kind, Replay::Seen);
        }
        Ok(())
    }

    /// Gives the step's ops to the stream at most two layers ahead of the device, so that cancelling takes no longer.
    fn launch_by_layers(&self, segment: usize, description: Description, cancel: &Cancel) -> Result<()> {
        let running = self.running(description)?;
        let plan = &self.program.plan;
        let start = plan.segment(segment).ops.start;
        let layers = &plan.layers[plan.layers.partition_point(|layer| layer.end <= start)..];
        let mut layer = 0;
        for Scheduled { op, at } in self.ops(segment, description.n) {
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
        self.gather(segment, &running)
    }

    /// One op at a time, with its result shown to the observer.
    fn observe_ops(
        &self,
        segment: usize,
        description: Description,
        cancel: &Cancel,
        observer: &mut Observer,
    ) -> Result<()> {
        let running = self.running(description)?;
        let plan = &self.program.plan;
        let ops = plan.segment(segment).part_of(&self.program.unfused, |scheduled| scheduled.at);
        for Scheduled { op, at } in ops {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            running.op(op)?;
            let named = &plan.ops[*at];
            for out in named.op.outputs() {
                let rows = running.rows(out);
                let values = self.download(self.memory.value(plan, out)?, rows * plan.width(out))?;
                observer(&named.name, rows, &values);
            }
        }
        self.gather(segment, &running)
    }

    /// The first numbers that lie somewhere, after all that was given to the stream.
    fn download(&self, from: Span<'_>, len: usize) -> Result<Vec<f32>> {
        let mut values = memory::filled(0.0, len, "results of a GPU")?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging.download(&self.stream, from.first(4 * len as u64)?, bytes_of_mut(&mut values))?;
        // a copy that was waited for tells nothing of a fault before it
        self.stream.synchronize()?;
        Ok(values)
    }

    /// What the last segment left is gone.
    fn begin(&mut self, segment: usize, step: &Step<'_>) -> Result<()> {
        step.check(&self.program.plan, segment, self.limits)?;
        if step.outputs.len() > step.tokens.len() {
            return Err(Error::param("a step's outputs name a token twice"));
        }
        self.values = OnceCell::new();
        self.left.clear();
        let outputs = self.program.plan.segment(segment).outputs;
        memory::reserve(&mut self.left, outputs.len(), "results of a GPU")?;
        self.left.extend(outputs.iter().map(|id| Output { id: *id, rows: 0 }));
        Ok(())
    }

    fn run_step(&mut self, segment: usize, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        let description = self.describe(segment, step)?;
        if let Some(mut observer) = self.observer.take() {
            let outcome = self.observe_ops(segment, description, cancel, &mut observer);
            self.observer = Some(observer);
            outcome
        } else if description.n <= MATVEC_MAX_N {
            self.replay(segment, description)
        } else {
            self.launch_by_layers(segment, description, cancel)
        }
    }
}

/// (cos, sin) of each pair at each of the positions.
fn turns((inv_freq, magnitude): (&[f32], f32), positions: std::ops::Range<usize>) -> Result<Vec<f32>> {
    let mut turns = memory::vec(positions.len() * inv_freq.len() * 2, "rope tables")?;
    for position in positions {
        for freq in inv_freq {
            let (sin, cos) = (position as f64 * f64::from(*freq)).sin_cos();
            turns.extend([cos as f32 * magnitude, sin as f32 * magnitude]);
        }
    }
    Ok(turns)
}

impl Session for HipSession {
    fn run_segment(&mut self, segment: usize, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        self.begin(segment, step)?;
        if cancel.is_requested() {
            return Err(Error::Cancelled);
        }
        let outcome = self.run_step(segment, step, cancel);
        if let Err(error) = outcome {
            // nothing of the step still runs when its caller goes on
            let _ = self.stream.synchronize();
            return Err(error);
        }
        for left in &mut self.left {
            left.rows = step.rows(self.program.plan.value(left.id).rows);
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.stream.synchronize()
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        let plan = &self.program.plan;
        let len = |left: &[Output]| left.iter().map(|left| left.rows * plan.width(left.id)).sum::<usize>();
        let values = self.values.get_or_try_init(|| {
            let from = match self.left.as_slice() {
                [left] => self.memory.value(plan, left.id)?,
                _ => self.memory.gathered()?,
            };
            self.download(from, len(&self.left))
        })?;
        match self.left.get(..=index) {
            Some(left) => Ok(&values[len(&left[..index])..len(left)]),
            None => Err(Error::param(format!("the last step left no output {index}"))),
        }
    }

    fn makes_draws(&self) -> bool {
        self.sampler.is_some()
    }

    fn sample(&mut self, draws: &[(usize, Draw<'_>)], tokens: &mut [u32]) -> Result<()> {
        let (Some(sampler), Some(left)) = (&mut self.sampler, self.left.first()) else {
            return Err(Error::Internal("a draw from what is no logits".into()));
        };
        let plan = &self.program.plan;
        let (logits, bytes) = (self.memory.value(plan, left.id)?, 4 * plan.width(left.id) as u64);
        let rows = draws.iter().map(|(row, draw)| {
            if *row >= left.rows {
                let n = left.rows;
                return Err(Error::param(format!("row {row} of the logits; the last step left {n}")));
            }
            Ok((logits.part(*row as u64 * bytes..(*row as u64 + 1) * bytes)?, *draw))
        });
        let rows = memory::try_collect(rows, "rows to draw from")?;
        sampler.draw(&self.stream, &rows, tokens)
    }

    fn copy_block(&mut self, pool: usize, from: u32, to: u32) -> Result<()> {
        let window = self.program.plan.pools().nth(pool);
        let n_blocks = window.map_or(0, |window| self.limits.blocks(window)) as u64;
        if [from, to].iter().any(|block| u64::from(*block) >= n_blocks) {
            return Err(Error::param(format!("a copy of block {from} to {to}; the cache has {n_blocks}")));
        }
        let mut places = self.memory.block(pool, from).zip(self.memory.block(pool, to));
        places.try_for_each(|(from, to)| self.stream.copy(from?, to?))
    }

    fn time_ops(&mut self, step: &Step<'_>, repetitions: usize) -> Result<StepTimes> {
        self.begin(0, step)?;
        let description = self.describe(0, step)?;
        let ops = self.ops(0, description.n);
        let times = self.running(description).and_then(|run| timing::times(&run, ops, step, repetitions));
        if times.is_err() {
            let _ = self.stream.synchronize();
        }
        times
    }

    fn memory(&self) -> (u64, u64) {
        let Layout { cache_bytes, scratch_bytes, sampler_bytes, .. } = self.memory.layout;
        (cache_bytes, scratch_bytes + sampler_bytes)
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
