//! A step's ops, as every worker of the team runs them.

use std::ops::Range;

use super::attention::{self, Partial, Span};
use super::elementwise as ew;
use super::experts::Product;
use super::isa::Isa;
use super::matmul::{ActivationFormat, Activations, PackedMatrix, TILE_ROWS, matmul};
use super::memory::Matrix;
use super::recurrent::{Convolution, Delta};
use super::session::CpuSession;
use super::team::{Stopped, Worker};
use crate::device::{Observer, Step, slot, temper};
use crate::plan::fuse::{FusedOp, HeadPrep, Part, Project, Then};
use crate::plan::{Binary, Cache, CacheId, LookupBy, Norm, Op, Plan, RopeId, Scores, Unary, ValueId, Vector};

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
    /// The last token of the sequence.
    pub last: usize,
}

impl Tile {
    /// Cuts the step into tiles of at most `max` tokens; `tiles` has room for one per token.
    pub fn cut(step: &Step<'_>, max: usize, tiles: &mut Vec<Tile>) {
        for (_, run) in step.runs() {
            let mut first = run.start;
            while first < run.end {
                let n = max.min(run.end - first);
                tiles.push(Tile { first, n, last: run.end - 1 });
                first += n;
            }
        }
    }
}

/// A step under way. In each phase of the team a chunk writes rows or columns of its own, which
/// no other chunk of the phase reads: what makes the shared [`Matrix`] and cache accesses sound.
pub struct Running<'a> {
    pub session: &'a CpuSession,
    pub step: &'a Step<'a>,
}

pub type Done = Result<(), Stopped>;

impl Running<'_> {
    pub fn plan(&self) -> &Plan {
        &self.session.program.plan
    }

    pub fn isa(&self) -> Isa {
        self.session.program.isa
    }

    pub fn vector(&self, id: Option<Vector>) -> Option<&[f32]> {
        id.map(|id| self.session.program.vector(id))
    }

    fn norm(&self, norm: &Norm, group: usize) -> ew::Norm<'_> {
        let (weight, bias) = (self.vector(norm.weight), self.vector(norm.bias));
        ew::Norm { kind: norm.kind, group, weight, bias, eps: norm.eps }
    }

    pub fn n_rows(&self, id: impl Into<ValueId>) -> usize {
        self.step.rows(self.plan().value(id).rows)
    }

    /// A phase over rows that cost little each.
    pub fn rows(&self, worker: &Worker<'_>, n: usize, mut f: impl FnMut(usize)) -> Done {
        let per_chunk = n.div_ceil(worker.n_workers() * CHUNKS_PER_WORKER).max(1);
        worker.for_each(n.div_ceil(per_chunk), |chunk| {
            (chunk * per_chunk..((chunk + 1) * per_chunk).min(n)).for_each(&mut f);
        })
    }

    /// The step's rope tables.
    pub fn prepare(&self, worker: &Worker<'_>) -> Done {
        for (i, rope) in self.plan().ropes.iter().enumerate() {
            let (table, (inv_freq, magnitude)) = (self.session.rope(i), self.session.turns(rope));
            self.rows(worker, self.step.tokens.len(), |t| {
                // SAFETY: row t is this chunk's.
                let row = unsafe { table.row_mut(t) };
                ew::rope_row(inv_freq, magnitude, self.step.positions[t], row);
            })?;
        }
        Ok(())
    }

    pub fn observe(&self, observer: &mut Option<Observer>, at: usize) {
        let named = &self.plan().ops[at];
        for out in named.op.outputs() {
            let (rows, buffer) = (self.n_rows(out), self.session.buffer(out));
            if let Some(observer) = observer {
                // SAFETY: the leader's own phase: nobody writes.
                let data = unsafe { std::slice::from_raw_parts(buffer.ptr(), rows * buffer.width) };
                observer(&named.name, rows, data);
            }
        }
    }

    pub fn op(&self, worker: &Worker<'_>, op: &FusedOp) -> Done {
        match *op {
            FusedOp::Single(ref op) => self.single(worker, op),
            FusedOp::Project(ref project) => self.project(worker, project),
            FusedOp::PrepareHeads { cache, q, k, v, q_prep, k_prep } => {
                let (q, k, v) = (self.session.buffer(q), self.session.buffer(k), self.session.buffer(v));
                // SAFETY: row t is the chunk's own; every token has its own cells.
                self.rows(worker, self.step.tokens.len(), |t| unsafe {
                    self.prepare_heads(cache, q.row_mut(t), t, q_prep);
                    let k = k.row_mut(t);
                    self.prepare_heads(cache, k, t, k_prep);
                    self.append(cache, t, k, v.row(t));
                })
            }
        }
    }

    fn single(&self, worker: &Worker<'_>, op: &Op) -> Done {
        let isa = self.isa();
        // SAFETY, of all blocks below: row t of the outputs is the chunk's own, inputs are not written in the
        // phase, and a result that takes an operand's storage is computed from its own row alone.
        match *op {
            Op::Embed { weight, by, out } => {
                let rows = match by {
                    LookupBy::Token => self.step.tokens,
                    LookupBy::Position => self.step.positions,
                };
                let out = self.session.buffer(out);
                self.rows(worker, rows.len(), |t| {
                    // SAFETY: see above.
                    let row = unsafe { out.row_mut(t) };
                    if !self.session.program.embed(weight, rows[t] as usize, row) {
                        row.fill(f32::NAN);
                    }
                })
            }
            Op::Fill { value, out, .. } => {
                let to = self.session.buffer(out);
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe { to.row_mut(t).fill(value) })
            }
            Op::Norm { x, norm, group, out } => {
                let (from, to) = (self.session.buffer(x), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    self.norm(&norm, group).run(isa, from.start(t), from.width, to.start(t));
                })
            }
            Op::MatMul { x, weight, bias, out } => {
                let parts = vec![Part { weight, bias, out: out.0 }];
                self.project(worker, &Project { x: x.0, norm: None, parts, then: Then::Nothing })
            }
            Op::Affine { x, scale, divides, bias, out } => {
                let (from, to) = (self.session.buffer(x), self.session.buffer(out));
                let (scale, bias) = (self.vector(scale), self.vector(bias));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    std::ptr::copy(from.start(t), to.start(t), to.width);
                    ew::affine(to.row_mut(t), scale, divides, bias);
                })
            }
            Op::Rope { x, head_dim, first, rope, out } => {
                let (from, to) = (self.session.buffer(x), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    std::ptr::copy(from.start(t), to.start(t), to.width);
                    self.rotate(to.row_mut(t), t, head_dim, first, rope);
                })
            }
            Op::Temper { x, scale, length, out } => {
                let (from, to) = (self.session.buffer(x), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    let factor = Unary::Scale(temper(scale, length, self.step.positions[t]));
                    ew::unary(isa, factor, from.start(t), to.start(t), to.width);
                })
            }
            Op::MatMulHeads { x, weight, out } => self.mat_mul_heads(worker, x.0, weight, out.0),
            Op::Append { cache, k, v } => {
                let (k, v) = (self.session.buffer(k), v.map(|v| self.session.buffer(v)));
                // SAFETY: see above; every token has its own cells.
                self.rows(worker, self.step.tokens.len(), |t| unsafe {
                    self.append(cache, t, k.row(t), v.map_or(&[], |v| v.row(t)));
                })
            }
            Op::Attention { cache, q, scores, sinks, out } => {
                let sinks = self.vector(sinks);
                self.attention(worker, &Attend { sinks, ..Attend::new(self, cache, q.0, scores, out.0) })
            }
            Op::Unary { x, f, out } => {
                let (from, to) = (self.session.buffer(x), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    ew::unary(isa, f, from.start(t), to.start(t), to.width);
                })
            }
            Op::Binary { a, b, f, out } => {
                let (a, b, to) = (self.session.buffer(a), self.session.buffer(b), self.session.buffer(out));
                let (each, own) = (a.width / b.width, self.session.own.of(worker.index()).row);
                assert!(each * b.width == a.width && a.width == to.width);
                // SAFETY: see above; the scratch is this worker's and as long as the widest buffer.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    let mut by = b.start(t).cast_const();
                    if each > 1 {
                        let spread = std::slice::from_raw_parts_mut(own, a.width);
                        spread.chunks_exact_mut(each).zip(b.row(t)).for_each(|(to, b)| to.fill(*b));
                        by = own;
                    }
                    ew::binary(isa, f, a.start(t), by, to.start(t), to.width);
                })
            }
            Op::Route { logits, bias, ref routing, ids, weights } => {
                self.route(worker, logits.0, bias, routing, [ids.0, weights.0])
            }
            Op::MatMulExperts { x, ids, weight, scale, bias, out } => {
                self.mat_mul_experts(worker, &Product { x: x.0, ids: ids.0, weight, scale, bias, out: out.0 })
            }
            Op::Spread { x, weights, out } => {
                let [x, weights, to] = [x.0, weights.0, out.0].map(|id| self.session.buffer(id));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    for (to, weight) in to.row_mut(t).chunks_exact_mut(x.width).zip(weights.row(t)) {
                        to.iter_mut().zip(x.row(t)).for_each(|(to, x)| *to = weight * x);
                    }
                })
            }
            Op::Combine { x, weights, out } => self.combine(worker, x.0, weights.map(ValueId::from), out.0),
            Op::Columns { x, group, first, out } => {
                let len = self.plan().columns_len(x, group, out);
                let (x, to) = (self.session.buffer(x), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    let parts = to.row_mut(t).chunks_exact_mut(len);
                    for (x, out) in x.row(t).chunks_exact(group).zip(parts) {
                        out.copy_from_slice(&x[first..first + len]);
                    }
                })
            }
            Op::Join { a, b, n, out } => {
                let [a_len, b_len, b_step] = self.plan().join_lens([a.0, b.0], n, out);
                let (a, b, to) = (self.session.buffer(a), self.session.buffer(b), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.n_rows(out), |t| unsafe {
                    for (i, to) in to.row_mut(t).chunks_exact_mut(a_len + b_len).enumerate() {
                        to[..a_len].copy_from_slice(a.part(t, i * a_len, a_len));
                        to[a_len..].copy_from_slice(b.part(t, i * b_step, b_len));
                    }
                })
            }
            Op::Conv { x, weight, bias, silu, state, out } => {
                let (weight, bias) = (self.session.program.vector(weight), self.vector(bias));
                self.conv(worker, &Convolution { x: x.0, weight, bias, silu, state, out: out.0 })
            }
            Op::DeltaNet { q, k, v, g, beta, n_k, heads, scale, state, out } => {
                let shape = self.plan().delta_shape([q, v, g, beta], n_k, heads);
                let inputs = [q, k, v, g, beta].map(|id| id.0);
                self.delta_net(worker, &Delta { inputs, shape, scale, state, out: out.0 })
            }
            Op::SelectRows { x, out } => {
                let (x, out) = (self.session.buffer(x), self.session.buffer(out));
                // SAFETY: see above.
                self.rows(worker, self.step.outputs.len(), |i| unsafe {
                    out.row_mut(i).copy_from_slice(x.row(self.step.outputs[i] as usize));
                })
            }
        }
    }

    fn rotate(&self, x: &mut [f32], t: usize, head_dim: usize, first: usize, rope: RopeId) {
        // SAFETY: the tables are written before the first op of the step only.
        let row = unsafe { self.session.rope(rope.0 as usize).row(t) };
        ew::rope(self.isa(), x, head_dim, first, self.plan().rope(rope).pairs, row);
    }

    fn prepare_heads(&self, cache: CacheId, x: &mut [f32], t: usize, prep: HeadPrep) {
        let head_dim = self.plan().cache(cache).k;
        if let Some(norm) = &prep.norm {
            let start = x.as_mut_ptr();
            // SAFETY: x is the caller's, and may be overwritten by its own norm.
            unsafe { self.norm(norm, head_dim).run(self.isa(), start, x.len(), start) };
        }
        if let Some(rope) = prep.rope {
            self.rotate(x, t, head_dim, 0, rope);
        }
    }

    /// # Safety
    /// Nobody else uses token `t`'s cells of the cache.
    unsafe fn append(&self, cache: CacheId, t: usize, k: &[f32], v: &[f32]) {
        let shape = self.plan().cache(cache);
        let slot = slot(self.step.table(self.plan(), cache, t), self.step.positions[t] as usize);
        let own_v = shape.own_v();
        for (head, k) in k.chunks_exact(shape.k).enumerate() {
            let v = &v[head * own_v..][..own_v];
            // SAFETY: the caller's promise.
            unsafe { self.session.cache.put(self.isa(), cache, slot, head, k, v) };
        }
    }
}

/// The tiles of a [`Project`]'s matrices, dealt out in chunks.
struct TileChunks {
    n_tiles: usize,
    per_chunk: usize,
}

impl TileChunks {
    fn n(&self) -> usize {
        self.n_tiles.div_ceil(self.per_chunk)
    }

    fn tiles(&self, chunk: usize) -> Range<usize> {
        chunk * self.per_chunk..((chunk + 1) * self.per_chunk).min(self.n_tiles)
    }
}

impl Running<'_> {
    fn matrix(&self, part: &Part) -> &PackedMatrix {
        self.session.program.matrix(part.weight)
    }

    fn project(&self, worker: &Worker<'_>, project: &Project) -> Done {
        let n = self.n_rows(project.x);
        if n == 0 {
            return Ok(());
        }
        let (isa, x) = (self.isa(), self.session.buffer(project.x));
        let q8 = project.parts.iter().any(|part| self.matrix(part).format() == ActivationFormat::Q8);
        if n == 1 {
            return self.project_one(worker, project, q8);
        }
        // what float matrices read
        let input = project.norm.map_or(x, |(_, normed)| self.session.buffer(normed));
        if q8 || project.norm.is_some() {
            self.rows(worker, n, |t| {
                // SAFETY: x is not written in this phase; row t of the others is the chunk's.
                unsafe {
                    if let Some((norm, _)) = &project.norm {
                        self.norm(norm, x.width).run(isa, x.start(t), x.width, input.start(t));
                    }
                    if q8 {
                        self.session.q8.quantize_row(isa, t, input.row(t));
                    }
                }
            })?;
        }
        let chunks = self.tile_chunks(worker, project, n);
        worker.for_each(chunks.n(), |chunk| {
            // SAFETY: n rows of the input, which nobody writes in this phase.
            let x = unsafe { std::slice::from_raw_parts(input.ptr(), n * input.width) };
            let x = |format| match format {
                ActivationFormat::Q8 => (Activations::Q8(&self.session.q8), 0),
                ActivationFormat::F32 => (Activations::F32 { x, stride: input.width }, 0),
            };
            // SAFETY: the inputs are ready; the chunk's tiles are its own.
            unsafe { self.tiles(project, n, chunks.tiles(chunk), x) };
        })
    }

    /// One row: each worker that takes part prepares a copy of its own, which is cheaper than a meeting.
    fn project_one(&self, worker: &Worker<'_>, project: &Project, q8: bool) -> Done {
        let (isa, x) = (self.isa(), self.session.buffer(project.x));
        let chunks = self.tile_chunks(worker, project, 1);
        let mut phase = worker.phase(chunks.n());
        let mut input: Option<&[f32]> = None;
        while let Some(chunk) = phase.take() {
            let x = *input.get_or_insert_with(|| {
                // SAFETY: x is not written in this phase, which cannot end while this worker holds a chunk; the
                // scratch is this worker's and as long as the widest buffer.
                unsafe {
                    let mut row = x.row(0);
                    if let Some((norm, _)) = &project.norm {
                        let own = self.session.own.of(worker.index()).row;
                        self.norm(norm, x.width).run(isa, row.as_ptr(), x.width, own);
                        row = std::slice::from_raw_parts(own, x.width);
                    }
                    if q8 {
                        self.session.q8_own.quantize_row(isa, worker.index(), row);
                    }
                    row
                }
            });
            let x = |format| match format {
                ActivationFormat::Q8 => (Activations::Q8(&self.session.q8_own), worker.index()),
                ActivationFormat::F32 => (Activations::F32 { x, stride: 0 }, 0),
            };
            // SAFETY: the inputs are ready; the chunk's tiles are its own.
            unsafe { self.tiles(project, 1, chunks.tiles(chunk), x) };
        }
        phase.finish()
    }

    fn tile_chunks(&self, worker: &Worker<'_>, project: &Project, n_rows: usize) -> TileChunks {
        let first = self.matrix(&project.parts[0]);
        let n_tiles = match project.then {
            Then::Glu { .. } => first.n_tiles(), // and the same tiles of the second
            Then::Nothing | Then::AddTo { .. } => {
                project.parts.iter().map(|part| self.matrix(part).n_tiles()).sum()
            }
        };
        // for few rows the cost of a chunk is reading it, for many the computing
        let tile_bytes = (first.bytes() / first.n_tiles()).max(1);
        let least = CHUNK_BYTES.div_ceil(tile_bytes).div_ceil(n_rows);
        let even = n_tiles / (worker.n_workers() * CHUNKS_PER_WORKER);
        TileChunks { n_tiles, per_chunk: even.max(least).max(1) }
    }

    /// The products of some tiles with all `n` rows, and what follows them. `x` gives the activations in
    /// a matrix's format and the first of their rows.
    ///
    /// # Safety
    /// The activations are ready; nobody else uses the tiles' columns of the outputs.
    unsafe fn tiles<'x>(
        &self,
        project: &Project,
        n: usize,
        tiles: Range<usize>,
        x: impl Fn(ActivationFormat) -> (Activations<'x>, usize),
    ) {
        let isa = self.isa();
        let product = |part: &Part, tiles: Range<usize>| {
            let (matrix, out) = (self.matrix(part), self.session.buffer(part.out));
            let bias = self.vector(part.bias);
            let (x, row) = x(matrix.format());
            assert!(n <= out.rows && matrix.rows() == out.width);
            // a single row goes to row 0, wherever its activations are
            let stride = if n == 1 { 0 } else { out.width };
            // SAFETY: rows 0..n of `out`, columns of the tiles: the caller's promise.
            unsafe { matmul(isa, matrix, x, row..row + n, tiles, bias, out.ptr(), stride) };
        };
        let columns = |tiles: &Range<usize>, width: usize| {
            let from = tiles.start * TILE_ROWS;
            (from, (tiles.end * TILE_ROWS).min(width) - from)
        };
        match project.then {
            Then::Glu { f, out } => {
                let (gate, up) = (&project.parts[0], &project.parts[1]);
                product(gate, tiles.clone());
                product(up, tiles.clone());
                let [gate, up, out] = [gate.out, up.out, out].map(|id| self.session.buffer(id));
                let (from, len) = columns(&tiles, gate.width);
                for t in 0..n {
                    // SAFETY: the columns just computed.
                    unsafe {
                        let [gate, up, out] = [gate, up, out].map(|buffer| buffer.start(t).add(from));
                        ew::binary(isa, Binary::Glu(f), gate, up, out, len);
                    }
                }
            }
            Then::AddTo { sum } => {
                product(&project.parts[0], tiles.clone());
                let (out, sum) = (self.session.buffer(project.parts[0].out), self.session.buffer(sum));
                let (from, len) = columns(&tiles, out.width);
                for t in 0..n {
                    // SAFETY: the columns just computed, and the same of the sum.
                    unsafe { ew::add_assign(isa, sum.part_mut(t, from, len), out.part(t, from, len)) };
                }
            }
            Then::Nothing => {
                let mut before = 0;
                for part in &project.parts {
                    let n_tiles = self.matrix(part).n_tiles();
                    let clip = |tile: usize| tile.saturating_sub(before).min(n_tiles);
                    let here = clip(tiles.start)..clip(tiles.end);
                    if !here.is_empty() {
                        product(part, here);
                    }
                    before += n_tiles;
                }
            }
        }
    }
}

/// One attention op.
#[derive(Clone, Copy)]
struct Attend<'a> {
    cache: CacheId,
    shape: Cache,
    n_head: usize,
    /// Query heads per kv head.
    group: usize,
    q: Matrix,
    /// Elements from a task's query to the next.
    q_step: usize,
    scores: Scores,
    /// A score without a value for each query head.
    sinks: Option<&'a [f32]>,
    out: Matrix,
    tiles: &'a [Tile],
}

impl<'a> Attend<'a> {
    fn new(running: &Running<'a>, cache: CacheId, q: ValueId, scores: Scores, out: ValueId) -> Self {
        let (session, plan) = (running.session, &running.session.program.plan);
        let (shape, n_head) = (plan.cache(cache), plan.n_head(q, cache));
        let group = n_head / shape.n_head_kv;
        let tiles =
            session.tiles.iter().find(|(known, _)| *known == group).map_or(&[][..], |(_, tiles)| tiles);
        let (q, out) = (session.buffer(q), session.buffer(out));
        let q_step = session.cache.row(cache).unwrap_or(shape.k);
        Attend { cache, shape, n_head, group, q, q_step, scores, sinks: None, out, tiles }
    }

    /// Tasks of a tile.
    fn n_tasks(&self) -> usize {
        self.shape.n_head_kv * self.group.div_ceil(attention::task_heads(self.group))
    }

    fn task(&self, tile: Tile, i: usize) -> Task {
        let at_once = attention::task_heads(self.group);
        let parts = self.group.div_ceil(at_once);
        let (kv_head, first) = (i / parts, i % parts * at_once);
        let n = at_once.min(self.group - first);
        Task { tile, kv_head, head: kv_head * self.group + first, n_heads: n }
    }
}

/// Query heads of one kv head, over the tokens of a tile.
#[derive(Clone, Copy)]
struct Task {
    tile: Tile,
    kv_head: usize,
    /// The first, and how many.
    head: usize,
    n_heads: usize,
}

impl Task {
    fn n_rows(&self) -> usize {
        self.tile.n * self.n_heads
    }
}

impl Running<'_> {
    /// Positions up to the last that a tile's tokens see.
    fn seen(&self, attend: &Attend<'_>, tile: Tile) -> usize {
        let last = if attend.scores.causal { tile.first + tile.n - 1 } else { tile.last };
        self.step.positions[last] as usize + 1
    }

    /// Spans that hold what the tile's tokens see.
    fn spans(&self, attend: &Attend<'_>, tile: Tile) -> Range<usize> {
        let first = self.step.positions[tile.first] as usize;
        attention::spans(attend.shape.first_seen(first)..self.seen(attend, tile))
    }

    fn attention(&self, worker: &Worker<'_>, attend: &Attend<'_>) -> Done {
        let (tiles, of_tile) = (attend.tiles, attend.n_tasks());
        let n_tasks = tiles.len() * of_tile;
        // the last tiles see most: the longest tasks first
        let task = |i: usize| attend.task(tiles[tiles.len() - 1 - i / of_tile], i % of_tile);
        let spans = tiles.iter().map(|&tile| self.spans(attend, tile).len()).max().unwrap_or(0);
        let own = self.session.own.of(worker.index());
        if self.step.tokens.len() > SPLIT_TOKENS || spans == 1 {
            return worker.for_each(n_tasks, |i| {
                let task = task(i);
                let [all, part] = own.partials;
                // SAFETY: the scratch is this worker's; the cache is not written in this phase.
                unsafe {
                    self.scaled_queries(attend, task, own.q);
                    for (i, span) in self.spans(attend, task.tile).enumerate() {
                        let to = if i == 0 { all } else { part };
                        self.span(attend, task, own.q, span, to);
                        if i > 0 {
                            self.merge(attend, task, all, part);
                        }
                    }
                    self.write_heads(attend, task, all);
                }
            });
        }
        let n_rows = self.step.tokens.len() * attend.n_head;
        // of the span of that number among the task's
        let state = |task: Task, nth: usize| {
            let row = task.tile.first * attend.n_head + task.head * task.tile.n;
            self.session.splits.at(nth * n_rows + row)
        };
        worker.for_each(n_tasks * spans, |i| {
            let (task, nth) = (task(i / spans), i % spans);
            if let Some(span) = self.spans(attend, task.tile).nth(nth) {
                // SAFETY: the states of (task, span) are this chunk's.
                unsafe {
                    self.scaled_queries(attend, task, own.q);
                    self.span(attend, task, own.q, span, state(task, nth));
                }
            }
        })?;
        worker.for_each(n_tasks, |i| {
            let task = task(i);
            let all = state(task, 0);
            // SAFETY: the task's states are this chunk's, and so are its columns of the output.
            unsafe {
                for nth in 1..self.spans(attend, task.tile).len() {
                    self.merge(attend, task, all, state(task, nth));
                }
                self.write_heads(attend, task, all);
            }
        })
    }

    /// # Safety
    /// `to` is valid for the task's rows and used by nobody else; the queries are not being written.
    unsafe fn scaled_queries(&self, attend: &Attend<'_>, task: Task, to: *mut f32) {
        let k = attend.shape.k;
        for row in 0..task.n_rows() {
            // SAFETY: row by row as the heads stand in a token's row; what a query has beyond k is 0.
            unsafe {
                let token = task.tile.first + row / task.n_heads;
                let from = attend.q.part(token, (task.head + row % task.n_heads) * k, k);
                let to = std::slice::from_raw_parts_mut(to.add(row * attend.q_step), attend.q_step);
                for (to, from) in to.iter_mut().zip(from) {
                    *to = from * attend.scores.scale;
                }
                to[k..].fill(0.0);
            }
        }
    }

    /// # Safety
    /// As [`Span::run`].
    unsafe fn span(&self, attend: &Attend<'_>, task: Task, q: *const f32, span: usize, to: Partial) {
        let Tile { first, n, .. } = task.tile;
        let span = Span {
            cells: &self.session.cache,
            cache: attend.cache,
            kv_head: task.kv_head,
            table: self.step.table(self.plan(), attend.cache, first),
            positions: &self.step.positions[first..first + n],
            group: task.n_heads,
            head: task.head,
            n_head: attend.n_head,
            k: attend.q_step,
            window: attend.shape.window,
            scores: attend.scores,
            seen: self.seen(attend, task.tile),
            q,
            span,
            partial: to,
        };
        // SAFETY: the caller's promise.
        unsafe { span.run(self.isa()) };
    }

    /// # Safety
    /// Both hold the task's rows and are used by nobody else.
    unsafe fn merge(&self, attend: &Attend<'_>, task: Task, into: Partial, part: Partial) {
        let v_pad = self.session.cache.v_pad(attend.cache);
        for row in 0..task.n_rows() {
            // SAFETY: the caller's promise.
            unsafe { attention::merge_row(self.isa(), into.row(row, v_pad), part.row(row, v_pad), v_pad) };
        }
    }

    /// # Safety
    /// `from` holds the task's rows, and nobody else uses the heads' columns of the output.
    unsafe fn write_heads(&self, attend: &Attend<'_>, task: Task, from: Partial) {
        let (v, v_pad) = (attend.shape.v(), self.session.cache.v_pad(attend.cache));
        for row in 0..task.n_rows() {
            // SAFETY: the caller's promise.
            unsafe {
                let from = from.row(row, v_pad);
                let [largest, mut sum] = *from.state;
                let head = task.head + row % task.n_heads;
                if let Some(sinks) = attend.sinks {
                    sum += (sinks[head] - largest).exp();
                }
                let out = attend.out.part_mut(task.tile.first + row / task.n_heads, head * v, v);
                for (out, x) in out.iter_mut().zip(std::slice::from_raw_parts(from.out, v)) {
                    *out = x / sum;
                }
            }
        }
    }
}
