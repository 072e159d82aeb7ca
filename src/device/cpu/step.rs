//! A step's ops, as every worker of the team runs them.

use std::ops::Range;
use std::sync::Mutex;

use super::attention::{self, Partial, Span};
use super::elementwise as ew;
use super::fuse::{CpuOp, HeadPrep, Norm, Part, Project, Then};
use super::isa::Isa;
use super::matmul::{ActivationFormat, Activations, TILE_ROWS, matmul};
use super::memory::Matrix;
use super::session::CpuSession;
use super::team::{Stopped, Worker};
use crate::device::plan::{BufferId, Plan, Rows};
use crate::device::{BLOCK_LEN, Observer, Step};

/// Steps of at most so many tokens compute the spans of a sequence side by side.
pub const SPLIT_TOKENS: usize = 8;

/// Chunks of a phase per worker, where the work allows: what one worker may be late by is one chunk.
const CHUNKS_PER_WORKER: usize = 8;

/// Weights worth a chunk of their own, bytes: about a microsecond of reading.
const CHUNK_BYTES: usize = 16 << 10;

/// Consecutive tokens of one sequence whose attention is computed together.
#[derive(Clone, Copy)]
pub struct Tile {
    pub first: usize,
    pub n: usize,
}

impl Tile {
    /// Cuts the step into tiles of at most `max` tokens; `tiles` has room for one per token.
    pub fn cut(step: &Step<'_>, max: usize, tiles: &mut Vec<Tile>) {
        for t in 0..step.tokens.len() {
            match tiles.last_mut() {
                Some(last) if last.n < max && step.sequences[t] == step.sequences[last.first] => last.n += 1,
                _ => tiles.push(Tile { first: t, n: 1 }),
            }
        }
    }
}

/// A step under way. In each phase of the team a chunk writes rows or columns of its own, which
/// no other chunk of the phase reads: what makes the shared [`Matrix`] and cache accesses sound.
pub struct Running<'a> {
    pub session: &'a CpuSession,
    pub step: &'a Step<'a>,
    pub tiles: &'a [Tile],
}

type Done = Result<(), Stopped>;

impl Running<'_> {
    fn plan(&self) -> &Plan {
        &self.session.program.plan
    }

    fn isa(&self) -> Isa {
        self.session.program.isa
    }

    fn vector(&self, norm: &Norm) -> &[f32] {
        self.session.program.vector(norm.weight)
    }

    fn n_rows(&self, id: BufferId) -> usize {
        match self.plan().buffer(id).rows {
            Rows::Tokens => self.step.tokens.len(),
            Rows::Outputs => self.step.outputs.len(),
        }
    }

    /// A phase over rows that cost little each.
    fn rows(&self, worker: &Worker<'_>, n: usize, mut f: impl FnMut(usize)) -> Done {
        let per_chunk = n.div_ceil(worker.n_workers() * CHUNKS_PER_WORKER).max(1);
        worker.for_each(n.div_ceil(per_chunk), |chunk| {
            (chunk * per_chunk..((chunk + 1) * per_chunk).min(n)).for_each(&mut f);
        })
    }

    /// The step's rope tables.
    pub fn prepare(&self, worker: &Worker<'_>) -> Done {
        for (i, rope) in self.plan().ropes.iter().enumerate() {
            let table = self.session.rope(i);
            self.rows(worker, self.step.tokens.len(), |t| {
                // SAFETY: row t is this chunk's.
                let row = unsafe { table.row_mut(t) };
                ew::rope_row(&rope.inv_freq, rope.magnitude, self.step.positions[t], row);
            })?;
        }
        Ok(())
    }

    pub fn observe(&self, observer: &Mutex<Option<Observer>>, at: usize) {
        let named = &self.plan().ops[at];
        let Some(out) = named.op.output() else {
            return;
        };
        let (rows, buffer) = (self.n_rows(out), self.session.buffer(out));
        if let Ok(mut observer) = observer.lock()
            && let Some(observer) = observer.as_mut()
        {
            // SAFETY: the leader's own phase: nobody writes.
            let data = unsafe { std::slice::from_raw_parts(buffer.ptr(), rows * buffer.width) };
            observer(&named.name, rows, data);
        }
    }

    pub fn op(&self, worker: &Worker<'_>, op: &CpuOp) -> Done {
        let isa = self.isa();
        let buffer = |id| self.session.buffer(id);
        // SAFETY, of all blocks below: row t of the outputs is the chunk's own, inputs are not written in the
        // phase, and in-place ops make one mutable slice.
        match *op {
            CpuOp::Embed { weight, out } => {
                let out = buffer(out);
                self.rows(worker, self.step.tokens.len(), |t| {
                    // SAFETY: see above.
                    let row = unsafe { out.row_mut(t) };
                    if !self.session.program.embed(weight, self.step.tokens[t] as usize, row) {
                        row.fill(f32::NAN);
                    }
                })
            }
            CpuOp::RmsNorm { x, norm, out } => {
                let (n, from, to) = (self.n_rows(x), buffer(x), buffer(out));
                self.rows(worker, n, |t| {
                    let weight = self.vector(&norm);
                    // SAFETY: see above.
                    unsafe {
                        match x == out {
                            true => ew::rms_norm_in_place(isa, to.row_mut(t), weight, norm.eps),
                            false => ew::rms_norm(isa, from.row(t), weight, norm.eps, to.row_mut(t)),
                        }
                    }
                })
            }
            CpuOp::Project(ref project) => self.project(worker, project),
            CpuOp::Rope { x, head_dim, rope } => {
                let (out, table) = (buffer(x), self.session.rope(rope.0 as usize));
                let pairs = self.plan().rope(rope).pairs;
                self.rows(worker, self.n_rows(x), |t| {
                    // SAFETY: see above.
                    unsafe { ew::rope(isa, out.row_mut(t), head_dim, pairs, table.row(t)) };
                })
            }
            CpuOp::KvAppend { layer, k, v } => {
                let (k, v) = (buffer(k), buffer(v));
                // SAFETY: see above; every token has its own cells.
                self.rows(worker, self.step.tokens.len(), |t| unsafe {
                    self.append(layer, t, k.row(t), v.row(t));
                })
            }
            CpuOp::PrepareHeads { layer, q, k, v, q_prep, k_prep } => {
                let (q, k, v) = (buffer(q), buffer(k), buffer(v));
                // SAFETY: see above; every token has its own cells.
                self.rows(worker, self.step.tokens.len(), |t| unsafe {
                    self.prepare_heads(q.row_mut(t), t, q_prep);
                    let k = k.row_mut(t);
                    self.prepare_heads(k, t, k_prep);
                    self.append(layer, t, k, v.row(t));
                })
            }
            CpuOp::Attention { layer, q, scale, out } => {
                self.attention(worker, layer, buffer(q), scale, buffer(out))
            }
            CpuOp::Glu { gate, up, activation, out } => {
                let n = self.n_rows(gate);
                let (gate, up, out) = (buffer(gate), buffer(up), buffer(out));
                // SAFETY: see above.
                self.rows(worker, n, |t| unsafe {
                    let at = t * out.width;
                    let (gate, up, out_row) = (gate.ptr().add(at), up.ptr().add(at), out.ptr().add(at));
                    ew::glu(isa, activation, gate, up, out_row, out.width);
                })
            }
            CpuOp::Add { a, b, out } => {
                let n = self.n_rows(out);
                let in_place = a == out;
                let (a, b, to) = (buffer(a), buffer(b), buffer(out));
                // SAFETY: see above.
                self.rows(worker, n, |t| unsafe {
                    match in_place {
                        true => ew::add_assign(isa, to.row_mut(t), b.row(t)),
                        false => ew::add(isa, a.row(t), b.row(t), to.row_mut(t)),
                    }
                })
            }
            CpuOp::SelectRows { x, out } => {
                let (x, out) = (buffer(x), buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.step.outputs.len(), |i| unsafe {
                    out.row_mut(i).copy_from_slice(x.row(self.step.outputs[i] as usize));
                })
            }
        }
    }

    fn prepare_heads(&self, x: &mut [f32], t: usize, prep: HeadPrep) {
        if let Some(norm) = &prep.norm {
            ew::rms_norm_in_place(self.isa(), x, self.vector(norm), norm.eps);
        }
        if let Some(rope) = prep.rope {
            // SAFETY: the tables are written before the first op of the step only.
            let row = unsafe { self.session.rope(rope.0 as usize).row(t) };
            ew::rope(self.isa(), x, self.plan().cache.head_dim, self.plan().rope(rope).pairs, row);
        }
    }

    /// # Safety
    /// Nobody else uses token `t`'s cells of the layer.
    unsafe fn append(&self, layer: usize, t: usize, k: &[f32], v: &[f32]) {
        let head_dim = self.plan().cache.head_dim;
        let slot = self.step.slot(t, self.step.positions[t] as usize);
        let heads = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
        for (head, (k, v)) in heads.enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.session.cache.put(self.isa(), layer, slot, head, k, v) };
        }
    }
}

/// The inputs of a [`Project`], in the formats its matrices take.
#[derive(Clone, Copy)]
struct Inputs {
    q8: bool,
    f32: bool,
}

impl Running<'_> {
    fn project(&self, worker: &Worker<'_>, project: &Project) -> Done {
        let n = self.n_rows(project.x);
        if n == 0 {
            return Ok(());
        }
        let wants = |format| {
            project.parts.iter().any(|part| self.session.program.matrix(part.weight).format() == format)
        };
        let inputs = Inputs { q8: wants(ActivationFormat::Q8), f32: wants(ActivationFormat::F32) };
        let x = self.session.buffer(project.x);
        let own = self.session.own.of(worker.index());

        // One row: each worker that takes part prepares its own copy, which is cheaper than a meeting.
        let alone = n == 1;
        // SAFETY: `own.row` is this worker's and as long as the widest buffer.
        let own_row = unsafe { std::slice::from_raw_parts_mut(own.row, x.width) };
        if !alone && (inputs.q8 || project.norm.is_some()) {
            self.rows(worker, n, |t| {
                // SAFETY: x is not written in this phase; row t of the outputs is the chunk's.
                unsafe {
                    let row = self.normed(project, x.row(t), own_row);
                    if inputs.q8 {
                        self.session.q8.quantize_row(self.isa(), t, row);
                    }
                }
            })?;
        }
        let chunks = self.tile_chunks(worker, project, n);
        let mut phase = worker.phase(chunks.n);
        let mut ready = false;
        while let Some(chunk) = phase.take() {
            if alone && !ready {
                ready = true;
                // SAFETY: x is not written in this phase, which cannot end while this worker holds a chunk.
                unsafe {
                    let row = self.normed(project, x.row(0), own_row);
                    if inputs.q8 {
                        self.session.q8_own.quantize_row(self.isa(), worker.index(), row);
                    }
                    if inputs.f32 && project.norm.is_none() {
                        own_row.copy_from_slice(row);
                    }
                }
            }
            // SAFETY: the inputs are ready; chunks have tiles of their own.
            unsafe { self.tile_chunk(worker, project, n, chunks.range(chunk), own_row) };
        }
        phase.finish()
    }

    /// The row as the products want it: `x` itself, or its norm in `into`.
    fn normed<'r>(&self, project: &Project, x: &'r [f32], into: &'r mut [f32]) -> &'r [f32] {
        match &project.norm {
            None => x,
            Some(norm) => {
                ew::rms_norm(self.isa(), x, self.vector(norm), norm.eps, into);
                into
            }
        }
    }
}
