//! A step's ops, as every worker of the team runs them.

use std::ops::Range;

use super::attention::{self, Partial, Span};
use super::elementwise as ew;
use super::isa::Isa;
use super::matmul::{ActivationFormat, Activations, PackedMatrix, TILE_ROWS, matmul};
use super::memory::Matrix;
use super::session::CpuSession;
use super::team::{Stopped, Worker};
use crate::plan::fuse::{FusedOp, HeadPrep, Norm, Part, Project, Then};
use crate::plan::{BufferId, Plan, Rows};
use crate::device::{Observer, Step};

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

    pub fn observe(&self, observer: &mut Option<Observer>, at: usize) {
        let named = &self.plan().ops[at];
        let Some(out) = named.op.output() else {
            return;
        };
        let (rows, buffer) = (self.n_rows(out), self.session.buffer(out));
        if let Some(observer) = observer {
            // SAFETY: the leader's own phase: nobody writes.
            let data = unsafe { std::slice::from_raw_parts(buffer.ptr(), rows * buffer.width) };
            observer(&named.name, rows, data);
        }
    }

    pub fn op(&self, worker: &Worker<'_>, op: &FusedOp) -> Done {
        let isa = self.isa();
        let buffer = |id| self.session.buffer(id);
        // SAFETY, of all blocks below: row t of the outputs is the chunk's own, inputs are not written in the
        // phase, and in-place ops make one mutable slice.
        match *op {
            FusedOp::Embed { weight, out } => {
                let out = buffer(out);
                self.rows(worker, self.step.tokens.len(), |t| {
                    // SAFETY: see above.
                    let row = unsafe { out.row_mut(t) };
                    if !self.session.program.embed(weight, self.step.tokens[t] as usize, row) {
                        row.fill(f32::NAN);
                    }
                })
            }
            FusedOp::RmsNorm { x, norm, out } => {
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
            FusedOp::Project(ref project) => self.project(worker, project),
            FusedOp::Rope { x, head_dim, rope } => {
                let (out, table) = (buffer(x), self.session.rope(rope.0 as usize));
                let pairs = self.plan().rope(rope).pairs;
                self.rows(worker, self.n_rows(x), |t| {
                    // SAFETY: see above.
                    unsafe { ew::rope(isa, out.row_mut(t), head_dim, pairs, table.row(t)) };
                })
            }
            FusedOp::KvAppend { layer, k, v } => {
                let (k, v) = (buffer(k), buffer(v));
                // SAFETY: see above; every token has its own cells.
                self.rows(worker, self.step.tokens.len(), |t| unsafe {
                    self.append(layer, t, k.row(t), v.row(t));
                })
            }
            FusedOp::PrepareHeads { layer, q, k, v, q_prep, k_prep } => {
                let (q, k, v) = (buffer(q), buffer(k), buffer(v));
                // SAFETY: see above; every token has its own cells.
                self.rows(worker, self.step.tokens.len(), |t| unsafe {
                    self.prepare_heads(q.row_mut(t), t, q_prep);
                    let k = k.row_mut(t);
                    self.prepare_heads(k, t, k_prep);
                    self.append(layer, t, k, v.row(t));
                })
            }
            FusedOp::Attention { layer, q, scale, out } => {
                self.attention(worker, Attend { layer, q: buffer(q), scale, out: buffer(out) })
            }
            FusedOp::Glu { gate, up, activation, out } => {
                let n = self.n_rows(gate);
                let (gate, up, out) = (buffer(gate), buffer(up), buffer(out));
                // SAFETY: see above.
                self.rows(worker, n, |t| unsafe {
                    let at = t * out.width;
                    let (gate, up, out_row) = (gate.ptr().add(at), up.ptr().add(at), out.ptr().add(at));
                    ew::glu(isa, activation, gate, up, out_row, out.width);
                })
            }
            FusedOp::Add { a, b, out } => {
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
            FusedOp::SelectRows { x, out } => {
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
                        ew::rms_norm(isa, x.row(t), self.vector(norm), norm.eps, input.row_mut(t));
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
                        let own = std::slice::from_raw_parts_mut(own, x.width);
                        ew::rms_norm(isa, row, self.vector(norm), norm.eps, own);
                        row = own;
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
            Then::Glu(_) => first.n_tiles(), // and the same tiles of the second
            _ => project.parts.iter().map(|part| self.matrix(part).n_tiles()).sum(),
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
            let bias = part.bias.map(|bias| self.session.program.vector(bias));
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
            Then::Glu(activation) => {
                let (gate, up) = (&project.parts[0], &project.parts[1]);
                product(gate, tiles.clone());
                product(up, tiles.clone());
                let (gate, up) = (self.session.buffer(gate.out), self.session.buffer(up.out));
                let (from, len) = columns(&tiles, gate.width);
                for t in 0..n {
                    // SAFETY: the columns just computed.
                    unsafe {
                        let gate = gate.part_mut(t, from, len).as_mut_ptr();
                        ew::glu(isa, activation, gate, up.part(t, from, len).as_ptr(), gate, len);
                    }
                }
            }
            Then::AddTo(into) => {
                product(&project.parts[0], tiles.clone());
                let (out, into) = (self.session.buffer(project.parts[0].out), self.session.buffer(into));
                let (from, len) = columns(&tiles, out.width);
                for t in 0..n {
                    // SAFETY: the columns just computed, and the same of the sum.
                    unsafe { ew::add_assign(isa, into.part_mut(t, from, len), out.part(t, from, len)) };
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

/// One layer's attention.
#[derive(Clone, Copy)]
struct Attend {
    layer: usize,
    q: Matrix,
    scale: f32,
    out: Matrix,
}

impl Running<'_> {
    fn group(&self) -> usize {
        self.plan().cache.n_head / self.plan().cache.n_head_kv
    }

    /// Positions that a tile's last token sees.
    fn seen(&self, tile: Tile) -> usize {
        self.step.positions[tile.first + tile.n - 1] as usize + 1
    }

    fn attention(&self, worker: &Worker<'_>, attend: Attend) -> Done {
        let n_kv = self.plan().cache.n_head_kv;
        let n_tasks = self.tiles.len() * n_kv;
        // the last tiles see most: the longest tasks first
        let task = |i: usize| (self.tiles[self.tiles.len() - 1 - i / n_kv], i % n_kv);
        let spans = self.tiles.iter().map(|&tile| attention::n_spans(self.seen(tile))).max().unwrap_or(0);
        let own = self.session.own.of(worker.index());
        if self.step.tokens.len() > SPLIT_TOKENS || spans == 1 {
            return worker.for_each(n_tasks, |i| {
                let (tile, kv_head) = task(i);
                let [all, part] = own.partials;
                // SAFETY: the scratch is this worker's; the cache is not written in this phase.
                unsafe {
                    self.scaled_queries(attend, tile, kv_head, own.q);
                    for span in 0..attention::n_spans(self.seen(tile)) {
                        let to = if span == 0 { all } else { part };
                        self.span(attend, tile, kv_head, own.q, span, to);
                        if span > 0 {
                            self.merge(tile, all, part);
                        }
                    }
                    self.write_heads(attend, tile, kv_head, all);
                }
            });
        }
        let n_rows = self.step.tokens.len() * self.plan().cache.n_head;
        let state = |tile: Tile, kv_head: usize, span: usize| {
            let row = tile.first * self.plan().cache.n_head + kv_head * self.group() * tile.n;
            self.session.splits.at(span * n_rows + row)
        };
        worker.for_each(n_tasks * spans, |i| {
            let (tile, kv_head) = task(i / spans);
            let span = i % spans;
            if span < attention::n_spans(self.seen(tile)) {
                // SAFETY: the states of (tile, head, span) are this chunk's.
                unsafe {
                    self.scaled_queries(attend, tile, kv_head, own.q);
                    self.span(attend, tile, kv_head, own.q, span, state(tile, kv_head, span));
                }
            }
        })?;
        worker.for_each(n_tasks, |i| {
            let (tile, kv_head) = task(i);
            let all = state(tile, kv_head, 0);
            // SAFETY: the states of (tile, head) are this chunk's, and so are their columns of the output.
            unsafe {
                for span in 1..attention::n_spans(self.seen(tile)) {
                    self.merge(tile, all, state(tile, kv_head, span));
                }
                self.write_heads(attend, tile, kv_head, all);
            }
        })
    }

    /// # Safety
    /// `to` is valid for the tile's rows and used by nobody else; the queries are not being written.
    unsafe fn scaled_queries(&self, attend: Attend, tile: Tile, kv_head: usize, to: *mut f32) {
        let len = self.group() * self.plan().cache.head_dim;
        for i in 0..tile.n {
            // SAFETY: the heads of a group stand side by side in a token's row, as they do in `to`.
            unsafe {
                let from = attend.q.part(tile.first + i, kv_head * len, len);
                let to = std::slice::from_raw_parts_mut(to.add(i * len), len);
                for (to, from) in to.iter_mut().zip(from) {
                    *to = from * attend.scale;
                }
            }
        }
    }

    /// # Safety
    /// As [`Span::run`].
    unsafe fn span(
        &self,
        attend: Attend,
        tile: Tile,
        kv_head: usize,
        q: *const f32,
        span: usize,
        to: Partial,
    ) {
        let span = Span {
            cache: &self.session.cache,
            layer: attend.layer,
            kv_head,
            table: self.step.tables[self.step.sequences[tile.first] as usize],
            positions: &self.step.positions[tile.first..tile.first + tile.n],
            group: self.group(),
            head_dim: self.plan().cache.head_dim,
            q,
            span,
            partial: to,
        };
        // SAFETY: the caller's promise.
        unsafe { span.run(self.isa()) };
    }

    /// # Safety
    /// Both hold the tile's rows and are used by nobody else.
    unsafe fn merge(&self, tile: Tile, into: Partial, part: Partial) {
        let head_pad = self.session.cache.head_pad();
        for row in 0..tile.n * self.group() {
            // SAFETY: the caller's promise.
            unsafe {
                attention::merge_row(self.isa(), into.row(row, head_pad), part.row(row, head_pad), head_pad)
            };
        }
    }

    /// # Safety
    /// `from` holds the tile's rows, and nobody else uses the heads' columns of the output.
    unsafe fn write_heads(&self, attend: Attend, tile: Tile, kv_head: usize, from: Partial) {
        let (group, head_dim) = (self.group(), self.plan().cache.head_dim);
        for row in 0..tile.n * group {
            // SAFETY: the caller's promise.
            unsafe {
                let from = from.row(row, self.session.cache.head_pad());
                let [_, sum] = *from.state;
                let head = kv_head * group + row % group;
                let out = attend.out.part_mut(tile.first + row / group, head * head_dim, head_dim);
                for (out, x) in out.iter_mut().zip(std::slice::from_raw_parts(from.out, head_dim)) {
                    *out = x / sum;
                }
            }
        }
    }
}
