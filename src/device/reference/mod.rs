//! The reference device: every op in plain f32, from its definition. Slow and obvious: the oracle that the
//! fast devices are tested against, itself tested against a peer's f32 logits.
//!
//! Weights stay in the file's map and are dequantized row by row as they are used. Scalars that many
//! terms add up to (a norm's mean, a softmax's denominator, an angle) are f64; tensors are f32.

pub mod ops;

use std::sync::Arc;

use super::cpu::system::check_session;
use super::{
    BLOCK_LEN, Cancel, Device, DeviceInfo, Needs, Observer, Program, Progress, Session, SessionLimits, Step,
    routing, slot, temper,
};
use crate::gguf::{Gguf, dequant};
use crate::plan::storage::Slot;
use crate::plan::weights::Source;
use crate::plan::{
    CacheId, ExpertShape, LookupBy, Op, Plan, Segment, StateId, Unary, ValueId, Values, Vector, WeightId,
};
use crate::{Error, Result, memory};

/// Computes matrix products and attention with `threads` threads; the results do not depend on how many.
#[derive(Debug)]
pub struct ReferenceDevice {
    threads: usize,
}

impl ReferenceDevice {
    /// `threads` 0: one per core this process may use.
    pub fn new(threads: usize) -> Self {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        ReferenceDevice { threads }
    }
}

impl Device for ReferenceDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: "reference".into(),
            arch: "f32".into(),
            compute_units: self.threads,
            ..DeviceInfo::default()
        }
    }

    fn needs(&self, plan: &Plan, limits: SessionLimits) -> Result<Needs> {
        Ok(needs(plan, limits))
    }

    fn load(
        &self,
        plan: Arc<Plan>,
        file: Arc<Gguf>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Program>> {
        let weights = plan.weights.iter().map(|weight| Source::find(&file, weight));
        let weights = memory::try_collect(weights, "the weights' records")?;
        let total = weights.iter().map(Source::bytes).sum();
        if !progress(total, total) {
            return Err(Error::Cancelled);
        }
        Ok(Arc::new(ReferenceProgram { plan, file, weights, threads: self.threads }))
    }

    fn transpose(&self, src: &[f32], dst: &mut [f32], rows: usize, cols: usize) -> Result<()> {
        let len = rows.checked_mul(cols);
        if len != Some(src.len()) || len != Some(dst.len()) {
            return Err(Error::param(format!(
                "transpose of {rows} x {cols}: the source has {} elements, the destination {}",
                src.len(),
                dst.len()
            )));
        }
        for r in 0..rows {
            for c in 0..cols {
                dst[c * rows + r] = src[r * cols + c];
            }
        }
        Ok(())
    }
}

struct ReferenceProgram {
    plan: Arc<Plan>,
    file: Arc<Gguf>,
    /// One per weight of the plan.
    weights: Vec<Source>,
    threads: usize,
}

impl ReferenceProgram {
    /// Dequantizes row `r` of a weight into `out` (`cols` long).
    fn weight_row(&self, id: impl Into<WeightId>, r: usize, out: &mut [f32]) -> Result<()> {
        let id = id.into();
        let bytes = self.weights[id.0 as usize].row(&self.file, r);
        let bytes = bytes.ok_or_else(|| Error::Internal(format!("row {r} of weight {}", id.0)))?;
        dequant::row(self.plan.weight(id).ty, bytes, out)
    }

    fn vector(&self, id: Option<Vector>) -> Result<Option<Vec<f32>>> {
        id.map(|Vector(id)| self.weights[id.0 as usize].vector(&self.file)).transpose()
    }
}

impl Program for ReferenceProgram {
    fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    fn weight_bytes(&self) -> u64 {
        0
    }

    fn session(self: Arc<Self>, limits: SessionLimits) -> Result<Box<dyn Session>> {
        check_session(needs(&self.plan, limits))?;
        let mut slots = memory::vec(self.plan.slots().len(), "activations")?;
        for slot in self.plan.slots() {
            slots.push(zeros("activations", &[max_rows(slot, limits), slot.width])?);
        }
        let mut caches = memory::vec(self.plan.caches.len(), "the cache")?;
        for cache in &self.plan.caches {
            let [k, v] = [cache.n_head_kv * cache.k, cache.n_head_kv * cache.own_v()];
            let cells = |width| zeros("the cache", &[limits.blocks(cache.window), BLOCK_LEN, width]);
            caches.push([Cells { values: cells(k)?, width: k }, Cells { values: cells(v)?, width: v }]);
        }
        let mut states = memory::vec(self.plan.states.len(), "recurrent state")?;
        for state in &self.plan.states {
            states.push(zeros("recurrent state", &[limits.n_states, state.elements])?);
        }
        let left = Vec::new();
        Ok(Box::new(ReferenceSession { program: self, limits, slots, caches, states, left, observer: None }))
    }
}

fn needs(plan: &Plan, limits: SessionLimits) -> Needs {
    let bytes = |dims: &[usize]| dims.iter().fold(4u64, |n, d| n.saturating_mul(*d as u64));
    let slots = plan.slots().iter().map(|slot| bytes(&[max_rows(slot, limits), slot.width]));
    let caches = plan.caches.iter().map(|cache| {
        let width = cache.n_head_kv.saturating_mul(cache.k + cache.own_v());
        bytes(&[limits.blocks(cache.window), BLOCK_LEN, width])
    });
    let states = plan.states.iter().map(|state| bytes(&[limits.n_states, state.elements]));
    Needs {
        weights: 0,
        cache: caches.chain(states).fold(0, u64::saturating_add),
        scratch: slots.fold(0, u64::saturating_add),
    }
}

fn max_rows(slot: &Slot, limits: SessionLimits) -> usize {
    limits.rows(slot.rows)
}

fn zeros(what: &str, dims: &[usize]) -> Result<Vec<f32>> {
    // a product that overflows is more than there is, too
    memory::filled(0.0, dims.iter().fold(1, |n: usize, d| n.saturating_mul(*d)), what)
}

/// Keys or values, `n_slots x width`.
struct Cells {
    values: Vec<f32>,
    /// `n_head_kv` heads; 0 for values that are in the keys.
    width: usize,
}

impl Cells {
    /// The first `len` of each head's `step` elements.
    fn heads(&self, step: usize, len: usize) -> ops::CellHeads<'_> {
        ops::CellHeads { cells: &self.values, width: self.width, step, len }
    }
}

struct ReferenceSession {
    program: Arc<ReferenceProgram>,
    limits: SessionLimits,
    /// One per slot of the plan, at its most rows.
    slots: Vec<Vec<f32>>,
    /// Per cache of the plan: keys and values.
    caches: Vec<[Cells; 2]>,
    /// Per state of the plan: a row of elements per slot.
    states: Vec<Vec<f32>>,
    /// What the last segment to run left, and how many rows of it.
    left: Vec<(ValueId, usize)>,
    observer: Option<Observer>,
}

impl ReferenceSession {
    fn n_rows(&self, id: ValueId, step: &Step<'_>) -> usize {
        step.rows(self.program.plan.value(id).rows)
    }

    /// A copy of the step's rows of a value: an op may then write where it reads.
    fn input(&self, id: impl Into<ValueId>, step: &Step<'_>) -> Result<Vec<f32>> {
        let id = id.into();
        let rows = self.value(id, self.n_rows(id, step));
        memory::collect(rows.iter().copied(), "a step's activations")
    }

    /// The first rows of a value.
    fn value(&self, id: ValueId, rows: usize) -> &[f32] {
        let plan = &self.program.plan;
        &self.slots[plan.slot(id).0 as usize][..rows * plan.width(id)]
    }

    /// The step's rows of a value.
    fn output_rows(&mut self, id: impl Into<ValueId>, step: &Step<'_>) -> &mut [f32] {
        let id = id.into();
        let plan = &self.program.plan;
        let len = self.n_rows(id, step) * plan.width(id);
        let slot = plan.slot(id);
        &mut self.slots[slot.0 as usize][..len]
    }

    fn cache(&self, id: CacheId) -> &[Cells; 2] {
        &self.caches[id.0 as usize]
    }

    /// A sequence's state before the step.
    fn state(&self, id: StateId, table: usize, step: &Step<'_>) -> Result<Vec<f32>> {
        let (elements, of) = (self.program.plan.state(id).elements, &self.states[id.0 as usize]);
        match step.states[table].read {
            Some(slot) => {
                let slot = &of[slot as usize * elements..][..elements];
                memory::collect(slot.iter().copied(), "recurrent state")
            }
            None => zeros("recurrent state", &[elements]),
        }
    }

    fn set_state(&mut self, id: StateId, table: usize, step: &Step<'_>, state: &[f32]) {
        let slot = step.states[table].write as usize;
        self.states[id.0 as usize][slot * state.len()..][..state.len()].copy_from_slice(state);
    }

    fn run_op(&mut self, op: &Op, step: &Step<'_>) -> Result<()> {
        let program = self.program.clone();
        let plan = &program.plan;
        match *op {
            Op::Embed { weight, by, out } => {
                let width = plan.width(out);
                let rows = match by {
                    LookupBy::Token => step.tokens,
                    LookupBy::Position => step.positions,
                };
                let out = self.output_rows(out, step);
                for (row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
                    program.weight_row(weight, *row as usize, out)?;
                }
            }
            Op::Fill { value, out, .. } => self.output_rows(out, step).fill(value),
            Op::Norm { x, norm, group, out } => {
                let x = self.input(x, step)?;
                let (weight, bias) = (program.vector(norm.weight)?, program.vector(norm.bias)?);
                let out = self.output_rows(out, step);
                ops::norm(&x, norm.kind, norm.eps, group, [weight.as_deref(), bias.as_deref()], out);
            }
            Op::MatMul { x, weight, bias, out } => {
                let x = self.input(x, step)?;
                let bias = program.vector(bias)?;
                let shape = plan.weight(weight);
                let row = |r: usize, out: &mut [f32]| program.weight_row(weight, r, out);
                let out = self.output_rows(out, step);
                ops::mat_mul(&x, shape.cols, shape.rows, row, bias.as_deref(), out, program.threads)?;
            }
            Op::Affine { x, scale, divides, bias, out } => {
                let width = plan.width(out);
                let x = self.input(x, step)?;
                let (scale, bias) = (program.vector(scale)?, program.vector(bias)?);
                let [scale, bias] =
                    [(scale, 1.0), (bias, 0.0)].map(|(vector, plain)| vector.unwrap_or(vec![plain]));
                let rows = self.output_rows(out, step).chunks_exact_mut(width).zip(x.chunks_exact(width));
                for (out, x) in rows {
                    for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
                        let [scale, bias] = [&scale, &bias].map(|vector| vector[i / (width / vector.len())]);
                        *out = if divides { x / scale } else { x * scale } + bias;
                    }
                }
            }
            Op::Rope { x, head_dim, first, rope, out } => {
                let (width, rope) = (plan.width(x), plan.rope(rope));
                let turns = self.limits.turns(rope);
                let x = self.input(x, step)?;
                let out = self.output_rows(out, step);
                out.copy_from_slice(&x);
                for (position, row) in step.positions.iter().zip(out.chunks_exact_mut(width)) {
                    ops::rope(row, head_dim, first, rope.pairs, turns, *position)?;
                }
            }
            Op::Temper { x, scale, length, out } => {
                let width = plan.width(x);
                let x = self.input(x, step)?;
                let rows = self.output_rows(out, step).chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((out, x), position) in rows.zip(step.positions) {
                    let factor = temper(scale, length, *position);
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor);
                }
            }
            Op::MatMulHeads { x, weight, out } => {
                let ExpertShape { n_experts: n, rows, cols, .. } = plan.head_shape(x, weight, out);
                let x = self.input(x, step)?;
                let parts = self.output_rows(out, step).chunks_exact_mut(rows);
                for (at, (out, x)) in parts.zip(x.chunks_exact(cols)).enumerate() {
                    let row = |r: usize, out: &mut [f32]| program.weight_row(weight, at % n * rows + r, out);
                    ops::mat_mul(x, cols, rows, row, None, out, program.threads)?;
                }
            }
            Op::Append { cache, k, v } => {
                let v = v.map_or(Ok(Vec::new()), |v| self.input(v, step))?;
                let written = [self.input(k, step)?, v];
                for (Cells { values, width }, rows) in self.caches[cache.0 as usize].iter_mut().zip(&written)
                {
                    for (t, position) in step.positions.iter().enumerate() {
                        let slot = slot(step.table(plan, cache, t), *position as usize);
                        values[slot * *width..][..*width].copy_from_slice(&rows[t * *width..][..*width]);
                    }
                }
            }
            Op::Attention { cache, q, scores, sinks, out } => {
                let sinks = program.vector(sinks)?;
                let n_head = plan.n_head(q, cache);
                let q = self.input(q, step)?;
                let (q_width, of) = (q.len() / step.tokens.len(), plan.cache(cache));
                let [keys, own] = self.cache(cache);
                let k = keys.heads(of.k, of.k);
                let v = match of.values {
                    Values::Own(v) => own.heads(v, v),
                    Values::InKeys(v) => keys.heads(of.k, v),
                };
                let shape = ops::Heads { n_head, n_head_kv: of.n_head_kv, scores };
                let attend = |t: usize, out: &mut [f32]| {
                    let own = step.positions[t] as usize;
                    let first = of.first_seen(own);
                    let last = if scores.causal { own } else { step.positions[step.last_of(t)] as usize };
                    let table = step.table(plan, cache, t);
                    let slots = memory::collect((first..=last).map(|p| slot(table, p)), "a token's cells")?;
                    let q = &q[t * q_width..][..q_width];
                    let cells = ops::Cells { slots: &slots, first, own };
                    ops::attention(q, cells, k, v, shape, sinks.as_deref(), out)
                };
                let mut result = zeros("a step's activations", &[step.tokens.len(), plan.width(out)])?;
                ops::each_row(&mut result, step.tokens.len(), program.threads, attend)?;
                self.output_rows(out, step).copy_from_slice(&result);
            }
            Op::Unary { x, f, out } => {
                let x = self.input(x, step)?;
                for (out, x) in self.output_rows(out, step).iter_mut().zip(x) {
                    *out = ops::unary(f, x);
                }
            }
            Op::Binary { a, b, f, out } => {
                let each = plan.width(a) / plan.width(b);
                let (a, b) = (self.input(a, step)?, self.input(b, step)?);
                for (i, (out, a)) in self.output_rows(out, step).iter_mut().zip(a).enumerate() {
                    *out = ops::binary(f, a, b[i / each]);
                }
            }
            Op::Route { logits, bias, routing, ids, weights } => {
                let n = plan.width(logits);
                let (logits, bias) = (self.input(logits, step)?, program.vector(bias)?);
                let mut scratch = zeros("scratch", &[2 * n])?;
                let mut chosen = memory::filled(0, routing.n_used, "scratch")?;
                let mut by = zeros("scratch", &[routing.n_used])?;
                for (t, logits) in logits.chunks_exact(n).enumerate() {
                    routing::choose(logits, bias.as_deref(), &routing, &mut scratch, &mut chosen, &mut by);
                    let place = t * routing.n_used..(t + 1) * routing.n_used;
                    self.output_rows(weights, step)[place.clone()].copy_from_slice(&by);
                    for (to, id) in self.output_rows(ids, step)[place].iter_mut().zip(&chosen) {
                        *to = f32::from_bits(*id);
                    }
                }
            }
            Op::MatMulExperts { x, ids, weight, scale, bias, out } => {
                let shape = plan.expert_shape(ids, weight, out);
                let (x_width, each) = (plan.width(x), plan.width(x) > shape.cols);
                let (x, ids) = (self.input(x, step)?, self.input(ids, step)?);
                let (scale, bias) = (program.vector(scale)?, program.vector(bias)?);
                let out = self.output_rows(out, step);
                for ((at, id), out) in ids.iter().enumerate().zip(out.chunks_exact_mut(shape.rows)) {
                    let (t, i, expert) = (at / shape.n_used, at % shape.n_used, id.to_bits() as usize);
                    let from = t * x_width + if each { i * shape.cols } else { 0 };
                    let row =
                        |r: usize, out: &mut [f32]| program.weight_row(weight, expert * shape.rows + r, out);
                    let x = &x[from..from + shape.cols];
                    ops::mat_mul(x, shape.cols, shape.rows, row, None, out, program.threads)?;
                    let bias = bias.as_ref().map(|bias| &bias[expert * shape.rows..][..shape.rows]);
                    for (r, out) in out.iter_mut().enumerate() {
                        *out = *out * scale.as_ref().map_or(1.0, |scale| scale[expert])
                            + bias.map_or(0.0, |bias| bias[r]);
                    }
                }
            }
            Op::Spread { x, weights, out } => {
                let (width, n_used) = (plan.width(x), plan.width(weights));
                let (x, weights) = (self.input(x, step)?, self.input(weights, step)?);
                let parts = self.output_rows(out, step).chunks_exact_mut(width);
                for (i, (out, weight)) in parts.zip(weights).enumerate() {
                    let x = &x[i / n_used * width..][..width];
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = weight * x);
                }
            }
            Op::Combine { x, weights, out } => {
                let (width, n_used) = (plan.width(out), plan.width(x) / plan.width(out));
                let x = self.input(x, step)?;
                let weights = weights.map(|weights| self.input(weights, step)).transpose()?;
                for (t, out) in self.output_rows(out, step).chunks_exact_mut(width).enumerate() {
                    out.fill(0.0);
                    for i in t * n_used..(t + 1) * n_used {
                        for (out, x) in out.iter_mut().zip(&x[i * width..][..width]) {
                            *out += weights.as_ref().map_or(1.0, |weights| weights[i]) * x;
                        }
                    }
                }
            }
            Op::Columns { x, group, first, out } => {
                let len = plan.columns_len(x, group, out);
                let x = self.input(x, step)?;
                let parts = self.output_rows(out, step).chunks_exact_mut(len);
                for (x, out) in x.chunks_exact(group).zip(parts) {
                    out.copy_from_slice(&x[first..first + len]);
                }
            }
            Op::Join { a, b, n, out } => {
                let [a_len, b_len, b_step] = plan.join_lens([a.0, b.0], n, out);
                let (a_width, b_width) = (plan.width(a), plan.width(b));
                let (a, b) = (self.input(a, step)?, self.input(b, step)?);
                let parts = self.output_rows(out, step).chunks_exact_mut(a_len + b_len);
                for (i, out) in parts.enumerate() {
                    let (t, group) = (i / n, i % n);
                    out[..a_len].copy_from_slice(&a[t * a_width + group * a_len..][..a_len]);
                    out[a_len..].copy_from_slice(&b[t * b_width + group * b_step..][..b_len]);
                }
            }
            Op::Conv { x, weight, bias, silu, state, out } => {
                let width = plan.width(x);
                let x = self.input(x, step)?;
                let (weight, bias) = (program.vector(Some(weight))?, program.vector(bias)?);
                let weight = weight.unwrap_or_default();
                for (table, run) in step.runs() {
                    let mut before = self.state(state, table, step)?;
                    for t in run {
                        let x = &x[t * width..][..width];
                        let out = &mut self.output_rows(out, step)[t * width..][..width];
                        ops::conv(&mut before, x, &weight, bias.as_deref(), out);
                        if silu {
                            out.iter_mut().for_each(|out| *out = ops::unary(Unary::Silu, *out));
                        }
                    }
                    self.set_state(state, table, step, &before);
                }
            }
            Op::DeltaNet { q, k, v, g, beta, n_k, heads, scale, state, out } => {
                let shape = plan.delta_shape([q, v, g, beta], n_k, heads);
                let inputs = [q, k, v, g, beta];
                let widths = inputs.map(|id| plan.width(id));
                let mut values = memory::vec(inputs.len(), "a step's activations")?;
                for id in inputs {
                    values.push(self.input(id, step)?);
                }
                let width = plan.width(out);
                for (table, run) in step.runs() {
                    let mut s = self.state(state, table, step)?;
                    for t in run {
                        let row = |i: usize| &values[i][t * widths[i]..][..widths[i]];
                        let out = &mut self.output_rows(out, step)[t * width..][..width];
                        ops::delta_net(&mut s, shape, [row(0), row(1), row(2), row(3), row(4)], scale, out);
                    }
                    self.set_state(state, table, step, &s);
                }
            }
            Op::SelectRows { x, out } => {
                let width = plan.width(x);
                let x = self.input(x, step)?;
                let rows = self.output_rows(out, step).chunks_exact_mut(width);
                for (row, out) in step.outputs.iter().zip(rows) {
                    out.copy_from_slice(&x[*row as usize * width..][..width]);
                }
            }
        }
        Ok(())
    }
}

impl Session for ReferenceSession {
    fn run_segment(&mut self, segment: usize, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        let plan = self.program.plan.clone();
        step.check(&plan, segment, self.limits)?;
        self.left.clear();
        let Segment { ops, inputs, outputs } = plan.segment(segment);
        for (id, input) in inputs.iter().zip(step.inputs) {
            self.output_rows(*id, step).copy_from_slice(input);
        }
        for op in &plan.ops[ops] {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            self.run_op(&op.op, step)?;
            if let Some(mut observer) = self.observer.take() {
                for id in op.op.outputs() {
                    let rows = self.n_rows(id, step);
                    observer(&op.name, rows, self.value(id, rows));
                }
                self.observer = Some(observer);
            }
        }
        self.left = outputs.iter().map(|id| (*id, self.n_rows(*id, step))).collect();
        Ok(())
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        let left = self.left.get(index);
        let (id, rows) =
            *left.ok_or_else(|| Error::param(format!("the last step left no output {index}")))?;
        Ok(self.value(id, rows))
    }

    fn copy_block(&mut self, pool: usize, from: u32, to: u32) -> Result<()> {
        let plan = &self.program.plan;
        let caches = (0..).map(CacheId).zip(&mut self.caches);
        for (_, cells) in caches.filter(|(id, _)| plan.pool(*id) == pool) {
            for Cells { values, width } in cells {
                let len = BLOCK_LEN * *width;
                let from = from as usize * len;
                values.copy_within(from..from + len, to as usize * len);
            }
        }
        Ok(())
    }

    fn memory(&self) -> (u64, u64) {
        let bytes = |len: usize| (len * size_of::<f32>()) as u64;
        let cache = self.caches.iter().flatten().map(|cells| bytes(cells.values.len())).sum::<u64>();
        let states = self.states.iter().map(|state| bytes(state.len())).sum::<u64>();
        (cache + states, self.slots.iter().map(|slot| bytes(slot.len())).sum())
    }

    fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }
}
