//! The reference device: every op in plain f32, from its definition. Slow and obvious: the oracle that the
//! fast devices are tested against, itself tested against a peer's f32 logits.
//!
//! Weights stay in the file's map and are dequantized row by row as they are used. Scalars that many
//! terms add up to (a norm's mean, a softmax's denominator, an angle) are f64; tensors are f32.

pub mod ops;

use std::sync::Arc;

use super::cpu::system::check_session;
use super::plan::{Buffer, BufferId, CacheShape, Op, Plan, Rows, WeightId};
use super::{
    BLOCK_LEN, Cancel, Device, DeviceInfo, Needs, Observer, Program, Progress, Session, SessionLimits, Step,
};
use crate::gguf::{Gguf, dequant};
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
        let mut tensors = memory::vec(plan.weights.len(), "the weights' records")?;
        for weight in &plan.weights {
            let at = file.tensors().iter().position(|t| t.name == weight.name);
            let at = at.ok_or_else(|| Error::model(format!("the tensor {} is missing", weight.name)))?;
            let tensor = &file.tensors()[at];
            if (tensor.ty, tensor.row_len(), tensor.rows()) != (weight.ty, weight.cols, weight.rows) {
                return Err(Error::model(format!("the tensor {} is not what the plan states", weight.name)));
            }
            tensors.push(at);
        }
        let total = tensors.iter().map(|&at| file.tensors()[at].bytes).sum();
        if !progress(total, total) {
            return Err(Error::Cancelled);
        }
        Ok(Arc::new(ReferenceProgram { plan, file, tensors, threads: self.threads }))
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
    /// Index into the file's tensors, per weight of the plan.
    tensors: Vec<usize>,
    threads: usize,
}

impl ReferenceProgram {
    /// Dequantizes row `r` of a weight into `out` (`cols` long).
    fn weight_row(&self, id: WeightId, r: usize, out: &mut [f32]) -> Result<()> {
        let weight = self.plan.weight(id);
        let bytes = self.file.data(&self.file.tensors()[self.tensors[id.0 as usize]]);
        let row_bytes = bytes.len() / weight.rows;
        dequant::row(weight.ty, &bytes[r * row_bytes..(r + 1) * row_bytes], out)
    }

    /// A weight of one row.
    fn vector(&self, id: WeightId) -> Result<Vec<f32>> {
        let mut out = memory::filled(0.0, self.plan.weight(id).cols, "a weight")?;
        self.weight_row(id, 0, &mut out)?;
        Ok(out)
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
        let mut buffers = memory::vec(self.plan.buffers.len(), "activations")?;
        for buffer in &self.plan.buffers {
            buffers.push(zeros(buffer.name, &[max_rows(buffer, limits), buffer.width])?);
        }
        let CacheShape { n_head_kv, head_dim, .. } = self.plan.cache;
        let cells = cache_dims(self.plan.cache, limits);
        let cache = Cache {
            k: zeros("the cache", &cells)?,
            v: zeros("the cache", &cells)?,
            n_slots: limits.n_blocks * BLOCK_LEN,
            width: n_head_kv * head_dim,
        };
        Ok(Box::new(ReferenceSession { program: self, limits, buffers, cache, n_rows: 0, observer: None }))
    }
}

fn needs(plan: &Plan, limits: SessionLimits) -> Needs {
    let bytes = |dims: &[usize]| dims.iter().fold(4u64, |n, d| n.saturating_mul(*d as u64));
    let buffers = plan.buffers.iter().map(|buffer| bytes(&[max_rows(buffer, limits), buffer.width]));
    Needs {
        weights: 0,
        cache: bytes(&cache_dims(plan.cache, limits)).saturating_mul(2),
        scratch: buffers.fold(0, u64::saturating_add),
    }
}

fn max_rows(buffer: &Buffer, limits: SessionLimits) -> usize {
    match buffer.rows {
        Rows::Tokens => limits.max_tokens,
        Rows::Outputs => limits.max_outputs,
    }
}

/// Of keys, and of values.
fn cache_dims(shape: CacheShape, limits: SessionLimits) -> [usize; 5] {
    [shape.n_layers, limits.n_blocks, BLOCK_LEN, shape.n_head_kv, shape.head_dim]
}

fn zeros(what: &str, dims: &[usize]) -> Result<Vec<f32>> {
    // a product that overflows is more than there is, too
    memory::filled(0.0, dims.iter().fold(1, |n: usize, d| n.saturating_mul(*d)), what)
}

/// Keys and values, `n_layers x n_slots x width` each.
struct Cache {
    k: Vec<f32>,
    v: Vec<f32>,
    n_slots: usize,
    /// `n_head_kv * head_dim`
    width: usize,
}

impl Cache {
    /// Where the cell of `slot` in `layer` starts, in both `k` and `v`.
    fn at(&self, layer: usize, slot: usize) -> usize {
        (layer * self.n_slots + slot) * self.width
    }
}

struct ReferenceSession {
    program: Arc<ReferenceProgram>,
    limits: SessionLimits,
    /// One per buffer of the plan, at its most rows.
    buffers: Vec<Vec<f32>>,
    cache: Cache,
    /// Rows of the plan's output that the last step left.
    n_rows: usize,
    observer: Option<Observer>,
}

impl ReferenceSession {
    /// Rows of a buffer that `step` fills.
    fn rows(&self, id: BufferId, step: &Step<'_>) -> usize {
        match self.program.plan.buffer(id).rows {
            Rows::Tokens => step.tokens.len(),
            Rows::Outputs => step.outputs.len(),
        }
    }

    /// A copy of the filled rows of a buffer: an op may then write to the buffer it reads.
    fn input(&self, id: BufferId, step: &Step<'_>) -> Result<Vec<f32>> {
        let len = self.rows(id, step) * self.program.plan.buffer(id).width;
        memory::collect(self.buffers[id.0 as usize][..len].iter().copied(), "a step's activations")
    }

    /// The filled rows of a buffer.
    fn output_rows(&mut self, id: BufferId, step: &Step<'_>) -> &mut [f32] {
        let len = self.rows(id, step) * self.program.plan.buffer(id).width;
        &mut self.buffers[id.0 as usize][..len]
    }

    fn run_op(&mut self, op: &Op, step: &Step<'_>) -> Result<()> {
        let program = self.program.clone();
        let plan = &program.plan;
        match *op {
            Op::Embed { weight, out } => {
                let width = plan.weight(weight).cols;
                let out = self.output_rows(out, step);
                for (token, out) in step.tokens.iter().zip(out.chunks_exact_mut(width)) {
                    program.weight_row(weight, *token as usize, out)?;
                }
            }
            Op::RmsNorm { x, weight, eps, out } => {
                let (x, weight) = (self.input(x, step)?, program.vector(weight)?);
                ops::rms_norm(&x, &weight, eps, self.output_rows(out, step));
            }
            Op::MatMul { x, weight, bias, out } => {
                let x = self.input(x, step)?;
                let bias = bias.map(|bias| program.vector(bias)).transpose()?;
                let shape = plan.weight(weight);
                let row = |r: usize, out: &mut [f32]| program.weight_row(weight, r, out);
                let out = self.output_rows(out, step);
                ops::mat_mul(&x, shape.cols, shape.rows, row, bias.as_deref(), out, program.threads)?;
            }
            Op::Rope { x, head_dim, rope } => {
                let width = plan.buffer(x).width;
                let rows = self.output_rows(x, step).chunks_exact_mut(width);
                for (position, row) in step.positions.iter().zip(rows) {
                    ops::rope(row, head_dim, plan.rope(rope), *position)?;
                }
            }
            Op::KvAppend { layer, k, v } => {
                let (k, v) = (self.input(k, step)?, self.input(v, step)?);
                let width = self.cache.width;
                for (t, position) in step.positions.iter().enumerate() {
                    let at = self.cache.at(layer, step.slot(t, *position as usize));
                    self.cache.k[at..at + width].copy_from_slice(&k[t * width..][..width]);
                    self.cache.v[at..at + width].copy_from_slice(&v[t * width..][..width]);
                }
            }
            Op::Attention { layer, q, scale, out } => {
                let q = self.input(q, step)?;
                let len = q.len();
                let cache = &self.cache;
                let attend = |t: usize, out: &mut [f32]| {
                    let width = out.len();
                    let cells = (0..=step.positions[t] as usize)
                        .map(|position| cache.at(layer, step.slot(t, position)));
                    let cells = memory::collect(cells, "a token's cells")?;
                    let q = &q[t * width..][..width];
                    ops::attention(q, &cells, &cache.k, &cache.v, plan.cache, scale, out)
                };
                let out = &mut self.buffers[out.0 as usize][..len];
                ops::each_row(out, step.tokens.len(), program.threads, attend)?;
            }
            Op::Glu { gate, up, activation, out } => {
                let (gate, up) = (self.input(gate, step)?, self.input(up, step)?);
                ops::glu(&gate, &up, activation, self.output_rows(out, step));
            }
            Op::Add { a, b, out } => {
                let (a, b) = (self.input(a, step)?, self.input(b, step)?);
                for ((out, a), b) in self.output_rows(out, step).iter_mut().zip(a).zip(b) {
                    *out = a + b;
                }
            }
            Op::SelectRows { x, out } => {
                let width = plan.buffer(x).width;
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
    fn run(&mut self, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        let SessionLimits { max_tokens, max_outputs, .. } = self.limits;
        if step.tokens.len() > max_tokens || step.outputs.len() > max_outputs {
            return Err(Error::param(format!(
                "a step of {} tokens and {} outputs; the session was made for {max_tokens} and {max_outputs}",
                step.tokens.len(),
                step.outputs.len()
            )));
        }
        self.n_rows = 0;
        let plan = self.program.plan.clone();
        if let Some(input) = plan.input {
            let rows = self.output_rows(input, step);
            if rows.len() != step.input.len() {
                return Err(Error::param("a step's input is not a row per token"));
            }
            rows.copy_from_slice(step.input);
        }
        for op in &plan.ops {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            self.run_op(&op.op, step)?;
            if let Some(out) = op.op.output()
                && let Some(mut observer) = self.observer.take()
            {
                let rows = self.rows(out, step);
                observer(&op.name, rows, self.output_rows(out, step));
                self.observer = Some(observer);
            }
        }
        self.n_rows = self.rows(plan.output, step);
        Ok(())
    }

    fn output(&self) -> Result<&[f32]> {
        let output = self.program.plan.output;
        Ok(&self.buffers[output.0 as usize][..self.n_rows * self.program.plan.buffer(output).width])
    }

    fn copy_block(&mut self, from: u32, to: u32) -> Result<()> {
        for layer in 0..self.program.plan.cache.n_layers {
            let from = self.cache.at(layer, from as usize * BLOCK_LEN);
            let to = self.cache.at(layer, to as usize * BLOCK_LEN);
            let len = BLOCK_LEN * self.cache.width;
            self.cache.k.copy_within(from..from + len, to);
            self.cache.v.copy_within(from..from + len, to);
        }
        Ok(())
    }

    fn memory(&self) -> (u64, u64) {
        let bytes = |len: usize| (len * size_of::<f32>()) as u64;
        let scratch = self.buffers.iter().map(|b| bytes(b.len())).sum();
        (bytes(self.cache.k.len() + self.cache.v.len()), scratch)
    }

    fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }
}
