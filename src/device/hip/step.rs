//! A step's ops, given to the stream one after the other.

use super::memory::Span;
use super::ops::attend::{self, AttendScratch, HeadNorms};
use super::ops::matmul::{self, Addends, HalfRows};
use super::ops::prefill::{self, Tiles};
use super::ops::project::{self, Input, MATVEC_MAX_N, Product, Target, Tokens, Turns, wants_rounded};
use super::ops::{self, Heads, Q8_BLOCK, Quantized};
use super::program::HipProgram;
use super::schedule::{Forms, Rounded, Source, StepOp};
use super::session::{Description, HipSession};
use super::weight::Weight;
use crate::Result;
use crate::device::fuse::{FusedOp, HeadPrep, Norm, Part, Project, Then};
use crate::device::plan::*;

/// A step under way: its description is on the device.
pub struct Running<'a> {
    session: &'a HipSession,
    program: &'a HipProgram,
    n: usize,
    n_outputs: usize,
    /// u32: a token each, an output each.
    tokens: Span<'a>,
    outputs: Span<'a>,
    tiles: Span<'a>,
    n_tiles: usize,
    described: Tokens<'a>,
}

impl<'a> Running<'a> {
    pub fn new(session: &'a HipSession, description: Description) -> Result<Self> {
        let Description { n, n_outputs, n_tables, n_tiles } = description;
        let all = session.part(session.layout.step.clone())?;
        let [tokens, positions, sequences, outputs, tiles, tables] = description.starts();
        let stride = session.table_stride();
        let part = |start: usize, len: usize| all.part(4 * start as u64..4 * (start + len) as u64);
        Ok(Running {
            session,
            program: &session.program,
            n,
            n_outputs,
            tokens: part(tokens, n)?,
            outputs: part(outputs, n_outputs)?,
            tiles: part(tiles, 4 * n_tiles)?,
            n_tiles,
            described: Tokens {
                n,
                positions: part(positions, n)?,
                sequences: part(sequences, n)?,
                table: part(tables, n_tables * stride)?,
                n_tables,
                table_stride: stride,
            },
        })
    }

    fn plan(&self) -> &'a Plan {
        &self.program.plan
    }

    /// Rows of a buffer that the step fills.
    pub fn rows(&self, id: BufferId) -> usize {
        match self.plan().buffer(id).rows {
            Rows::Tokens => self.n,
            Rows::Outputs => self.n_outputs,
        }
    }

    fn buffer(&self, id: BufferId) -> Result<Span<'a>> {
        self.session.buffer(id)
    }

    fn width(&self, id: BufferId) -> usize {
        self.plan().buffer(id).width
    }

    fn rounded(&self, place: Rounded) -> Result<Quantized<'a>> {
        let [q, ds] = &self.session.layout.rounded[place as usize];
        Ok(Quantized { q: self.session.part(q.clone())?, ds: self.session.part(ds.clone())? })
    }

    fn turns(&self, id: RopeId) -> Result<Turns<'a>> {
        let rope = self.plan().rope(id);
        Ok(Turns {
            table: self.session.part(self.session.layout.turns[id.0 as usize].clone())?,
            n_rot: 2 * rope.inv_freq.len(),
            halves: rope.pairs == RopePairs::Halves,
        })
    }

    fn target(&self, out: BufferId, to: Forms) -> Result<Target<'a>> {
        Ok(Target {
            plain: if to.plain { Some(self.buffer(out)?) } else { None },
            rounded: to.rounded.map(|place| self.rounded(place)).transpose()?,
        })
    }

    pub fn op(&self, op: &StepOp) -> Result<()> {
        match op {
            StepOp::Single(op) => self.single(op),
            StepOp::Project { project, source, to } => self.project(project, *source, *to),
            StepOp::Qkv { project, layer, rope } => self.qkv(project, *layer, *rope),
            StepOp::Attention { layer, q, scale, out, to } => self.attention(*layer, *q, *scale, *out, *to),
        }
    }

    fn single(&self, op: &FusedOp) -> Result<()> {
        let stream = &self.session.stream;
        match *op {
            FusedOp::Embed { weight, out } => {
                ops::embed(stream, self.program.matrix(weight)?, self.tokens, self.buffer(out)?, self.n)
            }
            FusedOp::RmsNorm { x, norm, out } => self.norm(x, norm, out),
            FusedOp::Rope { x, head_dim, rope } => self.rope(x, head_dim, rope),
            FusedOp::KvAppend { layer, k, v } => self.append(layer, k, v),
            FusedOp::PrepareHeads { layer, q, k, v, q_prep, k_prep } => {
                self.prepare_heads(layer, [q, k, v], q_prep, k_prep)
            }
            FusedOp::Glu { gate, up, activation, out } => {
                let n = self.rows(out) * self.width(out);
                ops::glu(stream, activation, self.buffer(gate)?, self.buffer(up)?, self.buffer(out)?, n)
            }
            FusedOp::Add { a, b, out } => {
                let n = self.rows(out) * self.width(out);
                ops::add(stream, self.buffer(a)?, self.buffer(b)?, self.buffer(out)?, n, n.max(1))
            }
            FusedOp::SelectRows { x, out } => {
                let (from, to) = (self.buffer(x)?, self.buffer(out)?);
                ops::select_rows(stream, from, self.outputs, to, self.n, self.n_outputs, self.width(x))
            }
            FusedOp::Project(_) | FusedOp::Attention { .. } => {
                Err(crate::Error::Internal("an op that is scheduled otherwise".into()))
            }
        }
    }

    /// Over each group of the norm's weight's length.
    fn norm(&self, x: BufferId, norm: Norm, out: BufferId) -> Result<()> {
        let group = self.plan().weight(norm.weight).cols;
        let n = self.rows(x) * (self.width(x) / group.max(1));
        let weight = self.program.vector(norm.weight)?;
        let (from, to) = (self.buffer(x)?, self.buffer(out)?);
        ops::rms_norm(&self.session.stream, from, weight, to, n, group, norm.eps)
    }

    fn rope(&self, x: BufferId, head_dim: usize, rope: RopeId) -> Result<()> {
        let turns = self.turns(rope)?;
        let heads = Heads { n_heads: self.width(x) / head_dim.max(1), head_dim, n_rot: turns.n_rot };
        let pairs = self.plan().rope(rope).pairs;
        let positions = self.described.positions;
        ops::rope(&self.session.stream, pairs, self.buffer(x)?, positions, turns.table, self.n, heads)
    }

    fn append(&self, layer: usize, k: BufferId, v: BufferId) -> Result<()> {
        let (k, v, cache) = (self.buffer(k)?, self.buffer(v)?, self.session.layer(layer)?);
        let norms = HeadNorms { q: None, k: None, eps: 0.0 };
        attend::prepare_heads(&self.session.stream, 0, k, k, v, norms, None, self.described, cache)
    }

    fn prepare_heads(
        &self,
        layer: usize,
        [q, k, v]: [BufferId; 3],
        q_prep: HeadPrep,
        k_prep: HeadPrep,
    ) -> Result<()> {
        let eps = |prep: HeadPrep| prep.norm.map(|norm| norm.eps);
        let same_eps = eps(q_prep).zip(eps(k_prep)).is_none_or(|(a, b)| a == b);
        if q_prep.rope != k_prep.rope || !same_eps {
            for (x, prep) in [(q, q_prep), (k, k_prep)] {
                if let Some(norm) = prep.norm {
                    self.norm(x, norm, x)?;
                }
                if let Some(rope) = prep.rope {
                    self.rope(x, self.plan().cache.head_dim, rope)?;
                }
            }
            return self.append(layer, k, v);
        }
        let norm = |prep: HeadPrep| prep.norm.map(|norm| self.program.vector(norm.weight)).transpose();
        let norms =
            HeadNorms { q: norm(q_prep)?, k: norm(k_prep)?, eps: eps(q_prep).or(eps(k_prep)).unwrap_or(0.0) };
        let turns = q_prep.rope.map(|rope| self.turns(rope)).transpose()?;
        let (cache, n_head) = (self.session.layer(layer)?, self.plan().cache.n_head);
        let (q, k, v) = (self.buffer(q)?, self.buffer(k)?, self.buffer(v)?);
        attend::prepare_heads(&self.session.stream, n_head, q, k, v, norms, turns, self.described, cache)
    }

    fn attention(&self, layer: usize, q: BufferId, scale: f32, out: BufferId, to: Forms) -> Result<()> {
        let session = self.session;
        let (q, to, cache) = (self.buffer(q)?, self.target(out, to)?, session.layer(layer)?);
        let scratch = AttendScratch {
            parts: session.part(session.layout.parts.clone())?,
            tickets: session.part(session.layout.tickets.clone())?,
        };
        if self.n > MATVEC_MAX_N && self.n_tiles > 0 {
            let Tokens { table, n_tables, table_stride, .. } = self.described;
            let tiles = Tiles { tiles: self.tiles, n_tiles: self.n_tiles, table, n_tables, table_stride };
            let n_head = self.plan().cache.n_head;
            let out = self.buffer(out)?;
            return prefill::prefill_attention(&session.stream, self.n, n_head, q, tiles, cache, scale, out);
        }
        let width = self.width(out);
        for first in (0..self.n).step_by(MATVEC_MAX_N) {
            let n = MATVEC_MAX_N.min(self.n - first);
            let word = |span: Span<'a>| span.part(4 * first as u64..4 * (first + n) as u64);
            let tokens = Tokens {
                n,
                positions: word(self.described.positions)?,
                sequences: word(self.described.sequences)?,
                ..self.described
            };
            let (q, to) = (rows_from(q, first, width)?, target_from(to, first, width)?);
            attend::attend(&session.stream, session.layout.attend, q, scale, tokens, cache, scratch, to)?;
        }
        Ok(())
    }

    /// A weight of a part, and its bias.
    fn weight(&self, part: &Part) -> Result<(&'a Weight, Option<Span<'a>>)> {
        let bias = part.bias.map(|bias| self.program.vector(bias)).transpose()?;
        Ok((self.program.matrix(part.weight)?, bias))
    }

    /// The input of a product in the forms that its weights want: (rounded, plain).
    fn input(&self, project: &Project, source: Source, n: usize) -> Result<(Quantized<'a>, Span<'a>)> {
        let wants = |rounded: bool| {
            project.parts.iter().any(|part| wants_rounded(self.plan().weight(part.weight).ty) == rounded)
        };
        let cols = self.plan().weight(project.parts[0].weight).cols;
        let stream = &self.session.stream;
        let quantized = self.rounded(source.rounded.unwrap_or(Rounded::First))?;
        let x = self.buffer(project.x)?;
        let Some((norm, normed)) = project.norm else {
            if wants(true) && source.rounded.is_none() {
                ops::quantize(stream, x, quantized, n, cols)?;
            }
            return Ok((quantized, x));
        };
        let normed_span = self.buffer(normed)?;
        if cols.is_multiple_of(Q8_BLOCK) {
            let to = Target {
                plain: wants(false).then_some(normed_span),
                rounded: wants(true).then_some(quantized),
            };
            let rows = source.select.then_some(self.outputs);
            let weight = self.program.vector(norm.weight)?;
            ops::rms_norm_to(stream, x, rows, weight, to, n, cols, norm.eps)?;
        } else {
            self.norm(project.x, norm, normed)?;
        }
        Ok((quantized, normed_span))
    }

    fn project(&self, project: &Project, source: Source, to: Forms) -> Result<()> {
        let n = if source.select { self.n_outputs } else { self.rows(project.x) };
        if n == 0 {
            return Ok(());
        }
        if n > MATVEC_MAX_N && !source.select {
            return self.project_many(project, source, to, n);
        }
        let (rounded, plain) = self.input(project, source, n)?;
        let input = |ty| if wants_rounded(ty) { Input::Rounded(rounded) } else { Input::Plain(plain) };
        let stream = &self.session.stream;
        let of = |id| self.plan().weight(id);

        if let (Then::Glu(activation), 1, [gate, up]) = (project.then, n, &project.parts[..]) {
            let (a, b) = (of(gate.weight), of(up.weight));
            if (a.ty, a.rows, a.cols) == (b.ty, b.rows, b.cols) {
                let (out, width) = (self.buffer(gate.out)?, a.rows);
                let (gate, up) = (self.weight(gate)?, self.weight(up)?);
                project::glu_matvec(stream, activation, gate, up, input(a.ty), out)?;
                return match to.rounded {
                    Some(place) => ops::quantize(stream, out, self.rounded(place)?, n, width),
                    None => Ok(()),
                };
            }
        }
        let add = matches!(project.then, Then::AddTo(_));
        let mut products = Vec::with_capacity(project.parts.len());
        for part in &project.parts {
            let (weight, bias) = self.weight(part)?;
            let dst = match project.then {
                Then::AddTo(into) => into,
                _ => part.out,
            };
            products.push(Product { weight, bias, dst: self.buffer(dst)? });
        }
        for first in (0..n).step_by(MATVEC_MAX_N) {
            let tokens = MATVEC_MAX_N.min(n - first);
            for same in products.chunk_by(|a, b| a.weight.ty() == b.weight.ty()) {
                let x = input_from(input(same[0].weight.ty()), first, same[0].weight.cols())?;
                let mut part = Vec::with_capacity(same.len());
                for product in same {
                    let dst = rows_from(product.dst, first, product.weight.rows())?;
                    part.push(Product { dst, ..*product });
                }
                for three in part.chunks(3) {
                    project::matvec(stream, three, x, tokens, add)?;
                }
            }
        }
        if let (Then::Glu(activation), [gate, up]) = (project.then, &project.parts[..]) {
            let (out, width) = (self.buffer(gate.out)?, self.width(gate.out));
            ops::glu(stream, activation, out, self.buffer(up.out)?, out, n * width)?;
            if let Some(place) = to.rounded {
                ops::quantize(stream, out, self.rounded(place)?, n, width)?;
            }
        }
        Ok(())
    }

    /// Of many tokens: matrix products of f16 rows.
    fn project_many(&self, project: &Project, source: Source, to: Forms, n: usize) -> Result<()> {
        let (session, stream) = (self.session, &self.session.stream);
        let [h, scale] = &session.layout.half;
        let half = HalfRows { h: session.part(h.clone())?, scale: session.part(scale.clone())? };
        let (x, cols) = (self.buffer(project.x)?, self.plan().weight(project.parts[0].weight).cols);
        match project.norm {
            Some((norm, _)) => {
                let weight = self.program.vector(norm.weight)?;
                matmul::rms_norm_half(stream, x, weight, half, n, cols, norm.eps)?;
            }
            None if source.rounded.is_none() => matmul::half_rows(stream, x, half, n, cols)?,
            None => {}
        }
        let add = matches!(project.then, Then::AddTo(_));
        for part in &project.parts {
            let (weight, bias) = self.weight(part)?;
            let dst = match project.then {
                Then::AddTo(into) => into,
                _ => part.out,
            };
            matmul::matmul(stream, weight, half, Addends { bias, dst: add }, self.buffer(dst)?, n)?;
        }
        if let (Then::Glu(activation), [gate, up]) = (project.then, &project.parts[..]) {
            let (out, up, width) = (self.buffer(gate.out)?, self.buffer(up.out)?, self.width(gate.out));
            if to.plain {
                ops::glu(stream, activation, out, up, out, n * width)?;
            } else {
                matmul::glu_half(stream, activation, out, up, half, n, width)?;
            }
        }
        Ok(())
    }

    fn qkv(&self, project: &Project, layer: usize, rope: RopeId) -> Result<()> {
        let source = Source { rounded: None, select: false };
        let (rounded, plain) = self.input(project, source, 1)?;
        let (turns, cache) = (self.turns(rope)?, self.session.layer(layer)?);
        let mut products = [None; 3];
        for (product, part) in products.iter_mut().zip(&project.parts) {
            let (weight, bias) = self.weight(part)?;
            *product = Some(Product { weight, bias, dst: self.buffer(part.out)? });
        }
        let mut types = Vec::with_capacity(3);
        for ty in products.iter().flatten().map(|product| product.weight.ty()) {
            if !types.contains(&ty) {
                types.push(ty);
            }
        }
        for ty in types {
            let x = if wants_rounded(ty) { Input::Rounded(rounded) } else { Input::Plain(plain) };
            let same = products.map(|product| product.filter(|product| product.weight.ty() == ty));
            project::qkv(&self.session.stream, same, x, turns, self.described, cache)?;
        }
        Ok(())
    }
}

/// Rows of f32 from `first` on.
fn rows_from(span: Span<'_>, first: usize, width: usize) -> Result<Span<'_>> {
    span.part((4 * first * width) as u64..span.bytes())
}

fn rounded_from(x: Quantized<'_>, first: usize, cols: usize) -> Result<Quantized<'_>> {
    let blocks = (first * cols / Q8_BLOCK) as u64;
    Ok(Quantized {
        q: x.q.part((first * cols) as u64..x.q.bytes())?,
        ds: x.ds.part(8 * blocks..x.ds.bytes())?,
    })
}

fn input_from(input: Input<'_>, first: usize, cols: usize) -> Result<Input<'_>> {
    Ok(match input {
        Input::Rounded(x) => Input::Rounded(rounded_from(x, first, cols)?),
        Input::Plain(x) => Input::Plain(rows_from(x, first, cols)?),
    })
}

fn target_from(target: Target<'_>, first: usize, cols: usize) -> Result<Target<'_>> {
    Ok(Target {
        plain: target.plain.map(|plain| rows_from(plain, first, cols)).transpose()?,
        rounded: target.rounded.map(|rounded| rounded_from(rounded, first, cols)).transpose()?,
    })
}
