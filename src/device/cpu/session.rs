//! One user's cache and scratch, and the run of a step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::attention;
use super::experts::ExpertScratch;
use super::kv_cache::{KvCache, pad_head};
use super::matmul::{ActivationFormat, Q8Rows};
use super::memory::{Matrix, Zeroed};
use super::program::CpuProgram;
use super::recurrent::StateStore;
use super::step::{Running, SPLIT_TOKENS, Tile};
use super::system;
use crate::device::{Cancel, Needs, Observer, Session, SessionLimits, Step};
use crate::plan::fuse::Placed;
use crate::plan::{Plan, Rope, ValueId};
use crate::{Error, Result, memory};

pub struct CpuSession {
    pub program: Arc<CpuProgram>,
    limits: SessionLimits,
    pub cache: KvCache,
    pub states: StateStore,
    buffers: Zeroed<f32>,
    /// Offset of each of the plan's slots in `buffers`.
    offsets: Vec<usize>,
    /// Quantized activations of a step: a row per token, and a row per worker.
    pub q8: Q8Rows,
    pub q8_own: Q8Rows,
    pub own: WorkerScratch,
    /// Per rope of the plan: `max_tokens` rows of cosines and sines.
    ropes: Vec<Zeroed<f32>>,
    /// Softmax states of steps of few tokens: `SPLIT_TOKENS * n_head * max_spans` rows.
    pub splits: Splits,
    pub experts: ExpertScratch,
    /// Quantized activations of products of heads: a row per head and token.
    pub q8_heads: Q8Rows,
    /// Per size of a group of query heads in the plan: the step's tiles.
    pub tiles: Vec<(usize, Vec<Tile>)>,
    /// The step's tokens of each sequence, where the plan has states.
    pub runs: Vec<Tile>,
    /// What the last segment to run left, and how many rows of it.
    left: Vec<(ValueId, usize)>,
    /// The leader of a step uses these; no lock is ever waited for.
    observer: Mutex<Option<Observer>>,
    profile: Mutex<Option<Profile>>,
}

/// f32 scratch of each worker.
pub struct WorkerScratch {
    memory: Zeroed<f32>,
    stride: usize,
    row: usize,
    attention: AttentionRoom,
}

/// What attention needs room for, over all of a plan's.
#[derive(Clone, Copy, Default)]
struct AttentionRoom {
    /// Query rows of a task.
    tile_rows: usize,
    n_head: usize,
    /// Elements of a query, in whole vectors.
    k: usize,
    v_pad: usize,
}

impl AttentionRoom {
    fn of(plan: &Plan) -> Self {
        plan.attentions().fold(AttentionRoom::default(), |most, (n_head, cache)| {
            let group = n_head / cache.n_head_kv;
            AttentionRoom {
                tile_rows: most.tile_rows.max(attention::tile_tokens(group) * attention::task_heads(group)),
                n_head: most.n_head.max(n_head),
                k: most.k.max(pad_head(cache.k)),
                v_pad: most.v_pad.max(pad_head(cache.v())),
            }
        })
    }
}

/// Where a worker's scratch lies.
pub struct Own {
    /// As long as the widest buffer.
    pub row: *mut f32,
    /// Scaled queries of a tile, `tile_rows x k`.
    pub q: *mut f32,
    /// Two softmax states of a tile.
    pub partials: [attention::Partial; 2],
}

pub struct Splits {
    memory: Zeroed<f32>,
    rows: usize,
    v_pad: usize,
}

impl CpuSession {
    pub fn new(program: Arc<CpuProgram>, limits: SessionLimits) -> Result<Self> {
        let plan = &program.plan;
        let room = AttentionRoom::of(plan);
        let n_workers = program.team.n_threads();
        let (cache, scratch) = Self::needs(plan, n_workers, limits);
        system::check_session(Needs { weights: 0, cache, scratch })?;

        let (offsets, len) = lay_out(plan, limits);
        let buffers = Zeroed::new(len, "activations")?;

        let max_cols = widest_q8(plan);
        let (head_rows, head_cols) = q8_heads(plan, limits);
        let own = WorkerScratch::new(n_workers, widest(plan), room)?;

        let mut ropes = Vec::new();
        for rope in &plan.ropes {
            ropes.push(Zeroed::new(rope_len(rope, limits), "rope tables")?);
        }
        let splits = Splits::new(limits, room)?;
        let mut tiles: Vec<(usize, Vec<Tile>)> = Vec::new();
        for (n_head, cache) in plan.attentions() {
            let group = n_head / cache.n_head_kv;
            if tiles.iter().all(|(known, _)| *known != group) {
                tiles.push((group, memory::vec(limits.max_tokens, "attention tiles")?));
            }
        }
        let profile = tracing::enabled!(target: "rocmforge::cpu::profile", tracing::Level::TRACE)
            .then(|| Profile::new(program.unfused.len()));
        Ok(CpuSession {
            cache: KvCache::new(plan, limits)?,
            states: StateStore::new(&plan.states, limits.n_states)?,
            q8: Q8Rows::new(limits.max_tokens.max(limits.max_outputs), max_cols)?,
            q8_own: Q8Rows::new(n_workers, max_cols)?,
            own,
            ropes,
            splits,
            experts: ExpertScratch::new(plan, n_workers, limits)?,
            q8_heads: Q8Rows::new(head_rows, head_cols)?,
            tiles,
            runs: memory::vec(
                if plan.states.is_empty() { 0 } else { limits.max_tables() },
                "runs of tokens",
            )?,
            buffers,
            offsets,
            limits,
            left: memory::vec(plan.segments().map(|of| of.outputs.len()).max().unwrap_or(0), "results")?,
            observer: Mutex::new(None),
            profile: Mutex::new(profile),
            program,
        })
    }

    /// Bytes of cache and of scratch that [`new`](Self::new) would allocate.
    pub fn needs(plan: &Plan, n_workers: usize, limits: SessionLimits) -> (u64, u64) {
        let f32s = Zeroed::<f32>::bytes_of;
        let room = AttentionRoom::of(plan);
        let q8 = |rows| Q8Rows::bytes_of(rows, widest_q8(plan)) as u64;
        let (_, own) = WorkerScratch::len(n_workers, widest(plan), room);
        let (head_rows, head_cols) = q8_heads(plan, limits);
        let scratch = [
            f32s(lay_out(plan, limits).1),
            f32s(own),
            f32s(Splits::len(limits, room).1),
            q8(limits.max_tokens.max(limits.max_outputs)),
            q8(n_workers),
            ExpertScratch::needs(plan, n_workers, limits),
            Q8Rows::bytes_of(head_rows, head_cols) as u64,
        ];
        let ropes = plan.ropes.iter().map(|rope| f32s(rope_len(rope, limits)));
        let scratch = scratch.into_iter().chain(ropes).fold(0, u64::saturating_add);
        let states = StateStore::bytes_of(&plan.states, limits.n_states);
        (KvCache::bytes_of(plan, limits).saturating_add(states), scratch)
    }

    /// Where the value is stored: as many rows as the session allows.
    pub fn buffer(&self, id: impl Into<ValueId>) -> Matrix {
        let (id, plan) = (id.into(), &self.program.plan);
        let value = plan.value(id);
        // SAFETY: the offset is inside the allocation by the sum in `new`, and the slot as wide as any of its values.
        let start = unsafe { self.buffers.ptr().add(self.offsets[plan.slot(id).0 as usize]) };
        Matrix::new(start, self.limits.rows(value.rows), value.width)
    }

    /// What the rope turns by in this session.
    pub fn turns<'r>(&self, rope: &'r Rope) -> (&'r [f32], f32) {
        self.limits.turns(rope)
    }

    /// The step's rotations: a row per token.
    pub fn rope(&self, index: usize) -> Matrix {
        let width = 2 * self.program.plan.ropes[index].inv_freq.len();
        Matrix::new(self.ropes[index].ptr(), self.limits.max_tokens, width)
    }
}

impl Session for CpuSession {
    fn run_segment(&mut self, segment: usize, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        step.check(&self.program.plan, segment, self.limits)?;
        self.left.clear();
        let program = Arc::clone(&self.program);
        let part = program.plan.segment(segment);
        for (id, input) in part.inputs.iter().zip(step.inputs) {
            let rows = self.buffer(*id);
            // SAFETY: `check` found as many values as the step's rows have, which are within the slot.
            unsafe { rows.ptr().copy_from_nonoverlapping(input.as_ptr(), input.len()) };
        }
        // the first segment prepares the step for the others
        let is_first = segment == 0;
        if is_first {
            for (group, tiles) in &mut self.tiles {
                tiles.clear();
                Tile::cut(step, attention::tile_tokens(*group), tiles);
            }
            if !program.plan.states.is_empty() {
                self.runs.clear();
                Tile::cut(step, usize::MAX, &mut self.runs);
            }
        }

        let observing = lock(&self.observer).is_some();
        let profiling = lock(&self.profile).is_some();
        let ops = if observing { &program.unfused[..] } else { program.plan.fused() };
        let ops = part.part_of(ops, |placed| placed.at);
        let (cancelled, complete) = (AtomicBool::new(false), AtomicBool::new(false));
        let running = Running { session: self, step };
        let outcome = program.team.run_unless(cancel, &|worker| {
            let leads = worker.index() == 0;
            if is_first {
                running.prepare(worker)?;
            }
            let mut start = Instant::now();
            for Placed { op, at } in ops {
                if leads && cancel.is_requested() {
                    cancelled.store(true, Ordering::Relaxed);
                    worker.stop();
                }
                running.op(worker, op)?;
                if observing {
                    worker.leader(|| running.observe(&mut lock(&self.observer), *at))?;
                }
                if leads
                    && profiling
                    && let Some(profile) = lock(&self.profile).as_mut()
                {
                    let now = Instant::now();
                    profile.add(*at, now - start);
                    start = now;
                }
            }
            complete.store(true, Ordering::Relaxed);
            Ok(())
        });
        outcome?;
        if cancelled.into_inner() {
            return Err(Error::Cancelled);
        }
        if !complete.into_inner() {
            return Err(Error::Internal("the step stopped half-way".into()));
        }
        self.left.extend(part.outputs.iter().map(|id| (*id, step.rows(program.plan.value(*id).rows))));
        Ok(())
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        let left = self.left.get(index);
        let (id, rows) =
            *left.ok_or_else(|| Error::param(format!("the last step left no output {index}")))?;
        let output = self.buffer(id);
        // SAFETY: so many rows were written by the last step; steps take &mut self.
        Ok(unsafe { std::slice::from_raw_parts(output.ptr(), rows * output.width) })
    }

    fn copy_block(&mut self, pool: usize, from: u32, to: u32) -> Result<()> {
        self.cache.copy_block(pool, from, to)
    }

    fn memory(&self) -> (u64, u64) {
        let scratch =
            [self.buffers.bytes(), self.own.memory.bytes(), self.splits.memory.bytes(), self.experts.bytes()];
        let ropes: u64 = self.ropes.iter().map(Zeroed::bytes).sum();
        let q8 = (self.q8.bytes() + self.q8_own.bytes() + self.q8_heads.bytes()) as u64;
        (self.cache.bytes() + self.states.bytes(), scratch.iter().sum::<u64>() + ropes + q8)
    }

    fn observe(&mut self, observer: Option<Observer>) {
        *lock(&self.observer) = observer;
    }
}

/// What a panic of an observer leaves is still an observer.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where each of the plan's slots starts, and how long they are together.
fn lay_out(plan: &Plan, limits: SessionLimits) -> (Vec<usize>, Option<usize>) {
    let mut offsets = Vec::new();
    let mut len = Some(0usize);
    for slot in plan.slots() {
        offsets.push(len.unwrap_or(0));
        // whole cache lines
        let elements = slot.width.checked_mul(limits.rows(slot.rows));
        let elements = elements.and_then(|n| n.checked_next_multiple_of(16));
        len = len.zip(elements).and_then(|(len, n)| len.checked_add(n));
    }
    (offsets, len)
}

fn widest(plan: &Plan) -> usize {
    plan.values.iter().map(|value| value.width).max().unwrap_or(0)
}

/// The longest row that is ever quantized; 0 where no matrix wants it.
fn widest_q8(plan: &Plan) -> usize {
    let quantized = plan.matrices().filter(|m| ActivationFormat::of(m.ty) == ActivationFormat::Q8);
    quantized.map(|m| m.cols).max().unwrap_or(0)
}

/// Rows of all heads of a step that are quantized, and the longest of them.
fn q8_heads(plan: &Plan, limits: SessionLimits) -> (usize, usize) {
    let shapes = plan.head_products().filter(|shape| ActivationFormat::of(shape.ty) == ActivationFormat::Q8);
    let (n, cols) = shapes.fold((0, 0), |(n, cols), shape| (n.max(shape.n_used), cols.max(shape.cols)));
    (limits.max_tokens.saturating_mul(n), cols)
}

fn rope_len(rope: &Rope, limits: SessionLimits) -> Option<usize> {
    (2 * rope.inv_freq.len()).checked_mul(limits.max_tokens)
}

impl WorkerScratch {
    fn new(n_workers: usize, widest: usize, room: AttentionRoom) -> Result<Self> {
        let (stride, len) = Self::len(n_workers, widest, room);
        Ok(WorkerScratch {
            memory: Zeroed::new(len, "scratch")?,
            stride: stride.unwrap_or(0),
            row: widest.next_multiple_of(16),
            attention: room,
        })
    }

    /// Elements of a worker's part, and of all.
    fn len(n_workers: usize, widest: usize, room: AttentionRoom) -> (Option<usize>, Option<usize>) {
        let per_row = room.v_pad.checked_mul(2).and_then(|n| n.checked_add(room.k)?.checked_add(4));
        let rows = per_row.and_then(|n| n.checked_mul(room.tile_rows));
        // a row to spare on each side of a worker's part keeps cache lines apart
        let stride = rows.and_then(|n| {
            n.checked_add(widest.next_multiple_of(16))?.checked_next_multiple_of(32)?.checked_add(32)
        });
        (stride, stride.and_then(|n| n.checked_mul(n_workers)))
    }

    pub fn of(&self, worker: usize) -> Own {
        assert!((worker + 1) * self.stride <= self.memory.len());
        let AttentionRoom { tile_rows: n, k, v_pad, .. } = self.attention;
        // SAFETY: inside the worker's part: the offsets add up to less than `stride`.
        unsafe {
            let row = self.memory.ptr().add(worker * self.stride);
            let outs = row.add(self.row);
            let q = outs.add(2 * n * v_pad);
            let states = q.add(n * k);
            let partial = |i: usize| attention::Partial {
                state: states.add(2 * n * i).cast(),
                out: outs.add(n * v_pad * i),
            };
            Own { row, q, partials: [partial(0), partial(1)] }
        }
    }
}

impl Splits {
    fn new(limits: SessionLimits, room: AttentionRoom) -> Result<Self> {
        let (rows, len) = Self::len(limits, room);
        let memory = Zeroed::new(len, "scratch of split attention")?;
        Ok(Splits { memory, rows: rows.unwrap_or(0), v_pad: room.v_pad })
    }

    /// Rows, and elements of all.
    fn len(limits: SessionLimits, room: AttentionRoom) -> (Option<usize>, Option<usize>) {
        let spans = match limits.n_blocks.div_ceil(attention::SPAN_BLOCKS) {
            0 | 1 => 0, // one span is computed in place
            spans => spans,
        };
        let tokens = limits.max_tokens.min(SPLIT_TOKENS);
        let rows = tokens.checked_mul(room.n_head).and_then(|n| n.checked_mul(spans));
        (rows, rows.and_then(|n| n.checked_mul(room.v_pad + 2)))
    }

    /// State of `row` (and those after it).
    pub fn at(&self, row: usize) -> attention::Partial {
        assert!(row < self.rows);
        // SAFETY: `rows` outputs of v_pad, then `rows` states of 2.
        unsafe {
            let out = self.memory.ptr().add(row * self.v_pad);
            let state = self.memory.ptr().add(self.rows * self.v_pad + 2 * row).cast();
            attention::Partial { state, out }
        }
    }
}

/// Time per op of the plan, as the leader sees it; kept when the target `rocmforge::cpu::profile`
/// is traced, and traced when the session ends.
struct Profile(Vec<(Duration, u64)>);

impl Profile {
    fn new(n_ops: usize) -> Self {
        Profile(vec![(Duration::ZERO, 0); n_ops])
    }

    fn add(&mut self, at: usize, time: Duration) {
        self.0[at].0 += time;
        self.0[at].1 += 1;
    }
}

impl Drop for CpuSession {
    fn drop(&mut self) {
        let profile = lock(&self.profile).take();
        let Some(Profile(times)) = &profile else {
            return;
        };
        // "blk.3.attn_q" counts as "attn_q"
        let mut kinds: Vec<(&str, Duration, u64)> = Vec::new();
        for (named, (time, calls)) in self.program.plan.ops.iter().zip(times).filter(|(_, t)| t.1 > 0) {
            let kind = named.name.rsplit('.').next().unwrap_or("");
            match kinds.iter_mut().find(|k| k.0 == kind) {
                Some(known) => *known = (kind, known.1 + *time, known.2 + calls),
                None => kinds.push((kind, *time, *calls)),
            }
        }
        for (kind, time, calls) in kinds {
            let us = time.as_secs_f64() * 1e6;
            tracing::trace!(target: "rocmforge::cpu::profile", op = kind, calls, us_total = us,
                us_each = us / calls as f64);
        }
    }
}
