//! Mixtures of experts: a token's choice, the chosen experts' products, and their weighted sum.
//!
//! The (token, expert) pairs of a step are sorted by expert, so that each expert's weights are read once for all of its
//! tokens. Activations are prepared, and products left, in that order; then every pair's row goes to its place.

use super::matmul::{ActivationFormat, Activations, PackedMatrix, Q8Rows, matmul};
use super::memory::{Matrix, Zeroed};
use super::step::{Done, Running};
use super::team::Worker;
use crate::Result;
use crate::device::{SessionLimits, routing};
use crate::plan::{ExpertShape, Experts, Op, Plan, Routing, ValueId, Vector};

/// Scratch for the largest of a plan's products of experts.
pub struct ExpertScratch {
    /// Per pair in order of experts: `token * n_used + i`.
    pairs: Zeroed<u32>,
    /// Per expert where its pairs begin, and the number of pairs behind them.
    starts: Zeroed<u32>,
    /// A row per pair: activations for float weights, quantized activations, products.
    x: Zeroed<f32>,
    x_width: usize,
    q8: Q8Rows,
    products: Zeroed<f32>,
    /// Per worker: what a choice computes with.
    choice: Zeroed<f32>,
    choice_len: usize,
}

/// What an [`ExpertScratch`] has room for.
#[derive(Clone, Copy, Default)]
struct Room {
    n_experts: usize,
    n_used: usize,
    rows: usize,
    /// Columns of float weights, and of others.
    float_cols: usize,
    q8_cols: usize,
    /// Logits of a choice.
    n_logits: usize,
}

impl Room {
    fn of(plan: &Plan) -> Room {
        let mut room = Room::default();
        for ExpertShape { ty, n_experts, n_used, rows, cols } in plan.expert_products() {
            room.n_experts = room.n_experts.max(n_experts);
            room.n_used = room.n_used.max(n_used);
            room.rows = room.rows.max(rows);
            match ActivationFormat::of(ty) {
                ActivationFormat::F32 => room.float_cols = room.float_cols.max(cols),
                ActivationFormat::Q8 => room.q8_cols = room.q8_cols.max(cols),
            }
        }
        for named in &plan.ops {
            if let Op::Route { logits, routing, .. } = &named.op {
                room.n_logits = room.n_logits.max(plan.width(*logits));
                room.n_used = room.n_used.max(routing.n_used);
            }
        }
        room
    }

    fn pairs(&self, limits: SessionLimits) -> Option<usize> {
        limits.max_tokens.checked_mul(self.n_used)
    }

    /// f32 of a worker's choice: values and their copies, and what was chosen.
    fn choice_len(&self) -> usize {
        (2 * (self.n_logits + self.n_used)).next_multiple_of(32)
    }

    /// Elements of pairs, starts, x, products and choices.
    fn lens(&self, n_workers: usize, limits: SessionLimits) -> [Option<usize>; 5] {
        let pairs = self.pairs(limits);
        let wide = |width: usize| pairs.and_then(|n| n.checked_mul(width));
        [
            pairs,
            Some(self.n_experts + 1),
            wide(self.float_cols),
            wide(self.rows),
            self.choice_len().checked_mul(n_workers),
        ]
    }
}

impl ExpertScratch {
    pub fn new(plan: &Plan, n_workers: usize, limits: SessionLimits) -> Result<Self> {
        let room = Room::of(plan);
        let [pairs, starts, x, products, choice] = room.lens(n_workers, limits);
        Ok(ExpertScratch {
            pairs: Zeroed::new(pairs, "scratch of experts")?,
            starts: Zeroed::new(starts, "scratch of experts")?,
            x: Zeroed::new(x, "activations of experts")?,
            x_width: room.float_cols,
            q8: Q8Rows::new(room.pairs(limits).unwrap_or(0), room.q8_cols)?,
            products: Zeroed::new(products, "products of experts")?,
            choice: Zeroed::new(choice, "scratch of experts")?,
            choice_len: room.choice_len(),
        })
    }

    /// Bytes that [`new`](Self::new) allocates.
    pub fn needs(plan: &Plan, n_workers: usize, limits: SessionLimits) -> u64 {
        let room = Room::of(plan);
        let [pairs, starts, x, products, choice] = room.lens(n_workers, limits);
        let words = [pairs, starts].map(Zeroed::<u32>::bytes_of);
        let floats = [x, products, choice].map(Zeroed::<f32>::bytes_of);
        let q8 = Q8Rows::bytes_of(room.pairs(limits).unwrap_or(0), room.q8_cols) as u64;
        words.into_iter().chain(floats).fold(q8, u64::saturating_add)
    }

    pub fn bytes(&self) -> u64 {
        let words = self.pairs.bytes() + self.starts.bytes();
        words + self.x.bytes() + self.products.bytes() + self.choice.bytes() + self.q8.bytes() as u64
    }
}

/// A [`Op::MatMulExperts`].
#[derive(Clone, Copy)]
pub struct Product {
    pub x: ValueId,
    pub ids: ValueId,
    pub weight: Experts,
    pub scale: Option<Vector>,
    pub bias: Option<Vector>,
    pub out: ValueId,
}

impl Running<'_> {
    pub fn route(
        &self,
        worker: &Worker<'_>,
        logits: ValueId,
        bias: Option<Vector>,
        by: &Routing,
        [ids, weights]: [ValueId; 2],
    ) -> Done {
        let n = self.n_rows(logits);
        let [logits, ids, weights] = [logits, ids, weights].map(|id| self.session.buffer(id));
        let bias = self.vector(bias);
        let scratch = &self.session.experts;
        assert!((worker.index() + 1) * scratch.choice_len <= scratch.choice.len());
        self.rows(worker, n, |t| {
            // SAFETY: row t is the chunk's own, the logits are not written in this phase, and the scratch is this
            // worker's; ids and weights follow the two copies of the logits.
            unsafe {
                let own = scratch.choice.ptr().add(worker.index() * scratch.choice_len);
                let values = std::slice::from_raw_parts_mut(own, 2 * logits.width);
                let chosen =
                    std::slice::from_raw_parts_mut(own.add(2 * logits.width).cast::<u32>(), by.n_used);
                routing::choose(logits.row(t), bias, by, values, chosen, weights.row_mut(t));
                for (to, id) in ids.row_mut(t).iter_mut().zip(chosen) {
                    *to = f32::from_bits(*id);
                }
            }
        })
    }

    pub fn mat_mul_experts(&self, worker: &Worker<'_>, product: &Product) -> Done {
        let n = self.n_rows(product.x);
        if n == 0 {
            return Ok(());
        }
        let shape = self.plan().expert_shape(product.ids, product.weight, product.out);
        let matrices = self.session.program.experts(product.weight);
        worker.leader(|| self.sort_pairs(product.ids, n, shape))?;
        self.gather(worker, product, n, shape)?;
        self.multiply(worker, matrices, n * shape.n_used)?;
        self.scatter(worker, product, n, shape)
    }

    /// Sorts the step's pairs by expert; pairs of one stay in order.
    fn sort_pairs(&self, ids: ValueId, n: usize, shape: ExpertShape) {
        let ids = self.session.buffer(ids);
        let scratch = &self.session.experts;
        assert!(n * shape.n_used <= scratch.pairs.len() && shape.n_experts < scratch.starts.len());
        // SAFETY: the leader's own phase: nobody else uses the scratch or writes the ids.
        let (pairs, starts) = unsafe {
            let pairs = std::slice::from_raw_parts_mut(scratch.pairs.ptr(), n * shape.n_used);
            (pairs, std::slice::from_raw_parts_mut(scratch.starts.ptr(), shape.n_experts + 1))
        };
        // SAFETY: as above.
        let expert =
            |pair: usize| unsafe { ids.row(pair / shape.n_used)[pair % shape.n_used] }.to_bits() as usize;
        starts.fill(0);
        for pair in 0..n * shape.n_used {
            starts[expert(pair)] += 1;
        }
        let mut end = 0;
        for start in starts.iter_mut() {
            end += *start;
            *start = end;
        }
        // from the last pair back, each expert's end becomes its start
        for pair in (0..n * shape.n_used).rev() {
            let start = &mut starts[expert(pair)];
            *start -= 1;
            pairs[*start as usize] = pair as u32;
        }
    }

    /// The pair at place `place` of the order.
    fn pair(&self, place: usize) -> usize {
        assert!(place < self.session.experts.pairs.len());
        // SAFETY: inside; written by the leader before this phase.
        unsafe { *self.session.experts.pairs.ptr().add(place) as usize }
    }

    /// Activations in the order of experts.
    fn gather(&self, worker: &Worker<'_>, product: &Product, n: usize, shape: ExpertShape) -> Done {
        let (x, scratch) = (self.session.buffer(product.x), &self.session.experts);
        let each = x.width > shape.cols;
        let to = Matrix::new(scratch.x.ptr(), scratch.x.len() / scratch.x_width.max(1), scratch.x_width);
        self.rows(worker, n * shape.n_used, |place| {
            let pair = self.pair(place);
            let from = if each { pair % shape.n_used * shape.cols } else { 0 };
            // SAFETY: x is not written in this phase; row `place` of the scratch is the chunk's own.
            unsafe {
                let x = x.part(pair / shape.n_used, from, shape.cols);
                match ActivationFormat::of(shape.ty) {
                    ActivationFormat::Q8 => scratch.q8.quantize_row(self.isa(), place, x),
                    ActivationFormat::F32 => to.part_mut(place, 0, shape.cols).copy_from_slice(x),
                }
            }
        })
    }

    fn multiply(&self, worker: &Worker<'_>, matrices: &[PackedMatrix], n_pairs: usize) -> Done {
        let scratch = &self.session.experts;
        // tiles of a chunk: one expert's, some hundred rows
        const TILES: usize = 8;
        let chunks = matrices[0].n_tiles().div_ceil(TILES);
        let (rows, x_len) = (matrices[0].rows(), n_pairs * scratch.x_width);
        assert!(n_pairs * rows <= scratch.products.len() && x_len <= scratch.x.len());
        worker.for_each(matrices.len() * chunks, |chunk| {
            let (expert, first) = (chunk / chunks, chunk % chunks * TILES);
            // SAFETY: written by the leader before this phase; one more start than experts.
            let [from, to] = [expert, expert + 1].map(|i| unsafe { *scratch.starts.ptr().add(i) as usize });
            if from == to {
                return;
            }
            let matrix = &matrices[expert];
            let tiles = first..(first + TILES).min(matrix.n_tiles());
            // SAFETY: the activations are ready; the expert's rows of products, in the chunk's tiles, are its own.
            unsafe {
                let x = match matrix.format() {
                    ActivationFormat::Q8 => Activations::Q8(&scratch.q8),
                    ActivationFormat::F32 => Activations::F32 {
                        x: std::slice::from_raw_parts(scratch.x.ptr(), x_len),
                        stride: scratch.x_width,
                    },
                };
                matmul(self.isa(), matrix, x, from..to, tiles, None, scratch.products.ptr(), rows);
            }
        })
    }

    /// Products to their places, scaled and with their bias.
    fn scatter(&self, worker: &Worker<'_>, product: &Product, n: usize, shape: ExpertShape) -> Done {
        let (ids, out) = (self.session.buffer(product.ids), self.session.buffer(product.out));
        let products = Matrix::new(self.session.experts.products.ptr(), n * shape.n_used, shape.rows);
        let (scale, bias) = (self.vector(product.scale), self.vector(product.bias));
        self.rows(worker, n * shape.n_used, |place| {
            let pair = self.pair(place);
            let (t, i) = (pair / shape.n_used, pair % shape.n_used);
            // SAFETY: products and ids are not written in this phase; the pair's part of the row is the chunk's own.
            let (from, to, expert) = unsafe {
                let to = out.part_mut(t, i * shape.rows, shape.rows);
                (products.row(place), to, ids.row(t)[i].to_bits() as usize)
            };
            let factor = scale.map_or(1.0, |scale| scale[expert]);
            match bias.map(|bias| &bias[expert * shape.rows..][..shape.rows]) {
                None => to.iter_mut().zip(from).for_each(|(to, x)| *to = x * factor),
                Some(bias) => {
                    to.iter_mut().zip(from).zip(bias).for_each(|((to, x), bias)| *to = x * factor + bias);
                }
            }
        })
    }

    pub fn combine(&self, worker: &Worker<'_>, x: ValueId, weights: Option<ValueId>, out: ValueId) -> Done {
        let n = self.n_rows(out);
        let [x, out] = [x, out].map(|id| self.session.buffer(id));
        let weights = weights.map(|id| self.session.buffer(id));
        self.rows(worker, n, |t| {
            // SAFETY: x and the weights are not written in this phase; row t is the chunk's own.
            let (x, weights, out) = unsafe { (x.row(t), weights.map(|of| of.row(t)), out.row_mut(t)) };
            out.fill(0.0);
            for (i, x) in x.chunks_exact(out.len()).enumerate() {
                let weight = weights.map_or(1.0, |weights| weights[i]);
                out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
            }
        })
    }
}
