//! A step's ops, given to the stream one after the other.

use super::description::Described;
use super::memory::Span;
use super::ops::attend::{self, AttendShape, HeadNorms};
use super::ops::experts::{self, TokenPairs};
use super::ops::matmul::{self, Addends};
use super::ops::prefill;
use super::ops::project::{self, Dest, Input, MATVEC_MAX_N, Product, wants_rounded};
use super::ops::recurrent;
use super::ops::rope::{self, Heads};
use super::ops::rows::{self, Parts};
use super::ops::{self, Q8_BLOCK, Quantized, elementwise, norm};
use super::program::HipProgram;
use super::schedule::{Forms, Mixed, Place, Rounded, Source, StepOp};
use super::scratch::SessionMemory;
use super::stream::Stream;
use crate::plan::fuse::{HeadPrep, Part, Project, Then};
use crate::plan::*;
use crate::{Error, Result};

/// A step under way: its description is on the device.
pub struct Running<'a> {
    pub stream: &'a Stream,
    pub program: &'a HipProgram,
    pub memory: &'a SessionMemory,
    pub step: Described<'a>,
}

/// What a launcher does not get: the schedule has another op for it.
fn misplaced(op: &Op) -> Error {
    Error::Internal(format!("{} is scheduled otherwise", op.kind()))
}

/// What kernels that go on with the result take.
fn is_weighted_rms(norm: Norm) -> bool {
    norm.kind == NormKind::Rms && norm.weight.is_some() && norm.bias.is_none()
}

impl<'a> Running<'a> {
    fn plan(&self) -> &'a Plan {
        &self.program.plan
    }

    /// Tokens of the step.
    fn n(&self) -> usize {
        self.step.tokens.n
    }

    /// Rows of a value that the step fills.
    pub fn rows(&self, id: ValueId) -> usize {
        match self.plan().value(id).rows {
            Rows::Tokens => self.n(),
            Rows::Outputs => self.n_outputs(),
        }
    }

    fn n_outputs(&self) -> usize {
        self.step.outputs.bytes() as usize / size_of::<u32>()
    }

    fn value(&self, id: impl Into<ValueId>) -> Result<Span<'a>> {
        self.memory.value(self.plan(), id.into())
    }

    fn vector(&self, id: Option<Vector>) -> Result<Option<Span<'a>>> {
        id.map(|id| self.program.vector(id)).transpose()
    }

    /// Elements of a value that the step fills.
    fn len(&self, id: ValueId) -> usize {
        self.rows(id) * self.plan().width(id)
    }

    fn dest(&self, out: ValueId, to: Forms) -> Result<Dest<'a>> {
        let rounded = match to.rounded {
            Some(Rounded::Q8(place)) => Some(self.memory.rounded(place)?),
            Some(Rounded::F16) => return Err(Error::Internal("f16 rows of few tokens".into())),
            None => None,
        };
        Ok(Dest { plain: if to.plain { Some(self.value(out)?) } else { None }, rounded })
    }

    pub fn op(&self, op: &StepOp) -> Result<()> {
        match op {
            StepOp::Single(op) => self.single(op),
            StepOp::PrepareHeads { cache, q, k, v, q_prep, k_prep } => {
                self.prepare_heads(*cache, [*q, *k, *v], *q_prep, *k_prep)
            }
            StepOp::Project { project, source, to } => self.project(project, *source, *to),
            StepOp::Qkv { project, cache, rope } => self.qkv(project, *cache, *rope),
            StepOp::Attention { cache, q, scores: Scores { scale, cap, alibi, causal }, sinks, out, to } => {
                let window = self.plan().cache(*cache).window;
                let (lasts, sinks) = ((!causal).then_some(self.step.lasts), self.vector(*sinks)?);
                let scores = attend::Scores { scale: *scale, cap: *cap, alibi: *alibi, window, lasts, sinks };
                self.attention(*cache, *q, scores, *out, *to)
            }
            StepOp::Experts(mixed) => self.experts(mixed),
            StepOp::Norm { x, norm, out, to } => {
                let (n, width) = (self.rows(*x), self.plan().width(*x));
                let to = self.dest(*out, *to)?;
                norm::norm_to(self.stream, self.norm_of(*norm)?, self.value(*x)?, None, to, n, width)
            }
            StepOp::CombineTo { x, weights, add, out } => self.combine(*x, *weights, Some(*add), *out),
        }
    }

    fn single(&self, op: &Op) -> Result<()> {
        let stream = self.stream;
        match *op {
            Op::Embed { weight, by, out } => {
                let weight = self.program.matrix(weight)?;
                let rows = match by {
                    LookupBy::Token => self.step.ids,
                    LookupBy::Position => self.step.tokens.positions,
                };
                ops::embed(stream, weight, rows, self.value(out)?, self.n())
            }
            Op::Fill { value, out, .. } => {
                elementwise::fill(stream, value, self.value(out)?, self.len(out.0))
            }
            Op::Norm { x, norm, group, out } => self.norm(x.0, norm, group, out.0),
            Op::Affine { x, scale, divides, bias, out } => {
                let (scale, bias, n) = (self.vector(scale)?, self.vector(bias)?, self.rows(out.0));
                let (x, to, width) = (self.value(x)?, self.value(out)?, self.plan().width(out));
                elementwise::affine(stream, x, scale, divides, bias, to, n, width)
            }
            Op::Rope { x, head_dim, first, rope, out } => self.rope(x.0, head_dim, first, rope, out.0),
            Op::Temper { x, scale, length, out } => {
                let (from, to, positions) = (self.value(x)?, self.value(out)?, self.step.tokens.positions);
                rows::temper(stream, from, to, positions, self.n(), self.plan().width(x), scale, length)
            }
            Op::Append { cache, k, v } => self.append(cache, k.0, v.map(ValueId::from)),
            Op::Columns { x, group, first, out } => {
                let (width, len) = (self.plan().width(x), self.plan().columns_len(x, group, out));
                let from = Parts { width, first, step: group };
                let to = Parts { width: self.plan().width(out), first: 0, step: len };
                let (x, dst, n) = (self.value(x)?, self.value(out)?, self.rows(out.0));
                rows::columns(stream, x, from, dst, to, n, width / group, len)
            }
            Op::Join { a, b, n: n_parts, out } => {
                let plan = self.plan();
                let [a_len, b_len, b_step] = plan.join_lens([a.0, b.0], n_parts, out);
                let (width, step) = (plan.width(out), a_len + b_len);
                let (dst, n) = (self.value(out)?, self.rows(out.0));
                let from = Parts { width: plan.width(a), first: 0, step: a_len };
                let to = Parts { width, first: 0, step };
                rows::columns(stream, self.value(a)?, from, dst, to, n, n_parts, a_len)?;
                let from = Parts { width: plan.width(b), first: 0, step: b_step };
                let to = Parts { width, first: a_len, step };
                rows::columns(stream, self.value(b)?, from, dst, to, n, n_parts, b_len)
            }
            Op::Unary { x, f, out } => {
                elementwise::unary(stream, f, self.value(x)?, self.value(out)?, self.len(out.0))
            }
            Op::Binary { a, b, f, out } => self.binary(f, [a.0, b.0], out.0),
            Op::SelectRows { x, out } => {
                let (from, to, outputs) = (self.value(x)?, self.value(out)?, self.step.outputs);
                ops::select_rows(stream, from, outputs, to, self.n(), self.n_outputs(), self.plan().width(x))
            }
            Op::Route { logits, bias, ref routing, ids, weights } => {
                let (n, n_experts, bias) = (self.rows(ids.0), self.plan().width(logits), self.vector(bias)?);
                let (logits, ids, weights) = (self.value(logits)?, self.value(ids)?, self.value(weights)?);
                experts::route(stream, logits, bias, routing, ids, weights, n, n_experts)
            }
            Op::Spread { x, weights, out } => {
                let (n, n_used, width) = (self.rows(out.0), self.plan().width(weights), self.plan().width(x));
                let (x, weights, to) = (self.value(x)?, self.value(weights)?, self.value(out)?);
                experts::spread(stream, x, weights, to, n, n_used, width)
            }
            Op::Combine { x, weights, out } => self.combine(x.0, weights.map(ValueId::from), None, out.0),
            Op::MatMulHeads { x, weight, out } => self.heads(x.0, weight, out.0),
            Op::MatMul { .. } | Op::Attention { .. } | Op::MatMulExperts { .. } => Err(misplaced(op)),
            Op::Conv { x, weight, bias, silu, state, out } => {
                let width = self.plan().width(x);
                let k = self.plan().weight(weight).cols;
                let (weight, bias) = (self.program.vector(weight)?, self.vector(bias)?);
                let of = recurrent::Conv { weight, bias, k, silu };
                let (x, to, state) = (self.value(x)?, self.value(out)?, self.memory.state(state)?);
                recurrent::conv(stream, of, x, self.step.runs, state, to, width)
            }
            Op::DeltaNet { q, k, v, g, beta, n_k, heads, scale, state, out } => {
                let shape = self.plan().delta_shape([q, v, g, beta], n_k, heads);
                let inputs =
                    [self.value(q)?, self.value(k)?, self.value(v)?, self.value(g)?, self.value(beta)?];
                let (state, out) = (self.memory.state(state)?, self.value(out)?);
                recurrent::delta_net(stream, inputs, shape, scale, self.step.runs, state, out)
            }
        }
    }

    fn combine(
        &self,
        x: ValueId,
        weights: Option<ValueId>,
        add: Option<ValueId>,
        out: ValueId,
    ) -> Result<()> {
        let (n, width) = (self.rows(out), self.plan().width(out));
        let n_used = self.plan().width(x) / width;
        let [weights, add] = [weights, add].map(|id| id.map(|id| self.value(id)).transpose());
        let (x, out) = (self.value(x)?, self.value(out)?);
        experts::combine(self.stream, x, weights?, add?, out, n, n_used, width)
    }

    fn norm(&self, x: ValueId, norm: Norm, group: usize, out: ValueId) -> Result<()> {
        let (norm, n) = (self.norm_of(norm)?, self.len(x) / group.max(1));
        norm::norm(self.stream, norm, self.value(x)?, self.value(out)?, n, group)
    }

    fn norm_of(&self, Norm { kind, weight, bias, eps }: Norm) -> Result<norm::Norm<'a>> {
        Ok(norm::Norm { kind, weight: self.vector(weight)?, bias: self.vector(bias)?, eps })
    }

    fn rope(&self, x: ValueId, head_dim: usize, first: usize, rope: RopeId, out: ValueId) -> Result<()> {
        let turns = self.memory.turns(self.plan(), rope)?;
        let n_heads = self.plan().width(x) / head_dim.max(1);
        let heads = Heads { n_heads, head_dim, first, n_rot: turns.n_rot };
        let pairs = self.plan().rope(rope).pairs;
        let (from, to, positions) = (self.value(x)?, self.value(out)?, self.step.tokens.positions);
        rope::rope(self.stream, pairs, from, to, positions, turns.table, self.n(), heads)
    }

    fn append(&self, cache: CacheId, k: ValueId, v: Option<ValueId>) -> Result<()> {
        let v = v.map(|v| self.value(v)).transpose()?;
        let tokens = self.step.tokens_in(self.plan().pool(cache))?;
        let (k, cache) = (self.value(k)?, self.memory.cache(cache)?);
        let norms = HeadNorms { q: None, k: None, eps: 0.0 };
        attend::prepare_heads(self.stream, 0, k, k, v, norms, None, tokens, cache)
    }

    fn binary(&self, f: Binary, [a, b]: [ValueId; 2], out: ValueId) -> Result<()> {
        let (n, each) = (self.len(out), self.plan().width(a) / self.plan().width(b).max(1));
        elementwise::binary(self.stream, f, self.value(a)?, (self.value(b)?, each), self.value(out)?, n)
    }

    fn prepare_heads(
        &self,
        cache: CacheId,
        [q, k, v]: [ValueId; 3],
        q_prep: HeadPrep,
        k_prep: HeadPrep,
    ) -> Result<()> {
        let plan = self.plan();
        let head_dim = plan.cache(cache).k;
        let eps = |prep: HeadPrep| prep.norm.map(|norm| norm.eps);
        let same_eps = eps(q_prep).zip(eps(k_prep)).is_none_or(|(a, b)| a == b);
        let plain = [q_prep, k_prep].iter().filter_map(|prep| prep.norm).all(is_weighted_rms);
        if q_prep.rope != k_prep.rope || !same_eps || !plain {
            // each value stays in its slot all the way
            for (x, prep) in [(q, q_prep), (k, k_prep)] {
                if let Some(norm) = prep.norm {
                    self.norm(x, norm, head_dim, x)?;
                }
                if let Some(rope) = prep.rope {
                    self.rope(x, head_dim, 0, rope, x)?;
                }
            }
            return self.append(cache, k, Some(v));
        }
        let weight = |prep: HeadPrep| self.vector(prep.norm.and_then(|norm| norm.weight));
        let eps = eps(q_prep).or(eps(k_prep)).unwrap_or(0.0);
        let norms = HeadNorms { q: weight(q_prep)?, k: weight(k_prep)?, eps };
        let turns = q_prep.rope.map(|rope| self.memory.turns(plan, rope)).transpose()?;
        let tokens = self.step.tokens_in(plan.pool(cache))?;
        let (n_head, cache) = (plan.n_head(q, cache), self.memory.cache(cache)?);
        let (q, k, v) = (self.value(q)?, self.value(k)?, self.value(v)?);
        attend::prepare_heads(self.stream, n_head, q, k, Some(v), norms, turns, tokens, cache)
    }

    fn attention(
        &self,
        cache: CacheId,
        q: ValueId,
        scores: attend::Scores<'_>,
        out: ValueId,
        to: Forms,
    ) -> Result<()> {
        let (n_head, pool) = (self.plan().n_head(q, cache), self.plan().pool(cache));
        let (q, cache) = (self.value(q)?, self.memory.cache(cache)?);
        let chosen = (self.n() > MATVEC_MAX_N).then_some(self.step.short);
        if chosen.is_some() {
            let (tiles, out) = (self.step.tiles_in(pool)?, self.value(out)?);
            prefill::prefill_attention(self.stream, self.n(), n_head, q, tiles, cache, scores, out)?;
        }
        let n = chosen.map_or(self.n(), |chosen| chosen.n);
        let compute_units = self.stream.card().limits().compute_units as usize;
        let shape = AttendShape::new(n, n_head, cache.n_head_kv, cache.head_pad, compute_units)?;
        let (scratch, to) = (self.memory.attend_scratch()?, self.dest(out, to)?);
        attend::attend(self.stream, shape, q, scores, self.step.tokens_in(pool)?, chosen, cache, scratch, to)
    }

    /// The product of a part; `dst` other than its own value's where it is added to a sum.
    fn product(&self, part: &Part, then: Then) -> Result<Product<'a>> {
        let dst = match then {
            Then::AddTo { sum } => sum,
            Then::Nothing | Then::Glu { .. } => part.out,
        };
        Ok(Product {
            weight: self.program.matrix(part.weight)?,
            bias: self.vector(part.bias)?,
            dst: self.value(dst)?,
        })
    }

    /// The input of a product of few rows in the forms that its weights want: (rounded, plain).
    fn input(&self, project: &Project, source: Source, n: usize) -> Result<(Quantized<'a>, Span<'a>)> {
        let wants = |rounded: bool| {
            project.parts.iter().any(|part| wants_rounded(self.plan().weight(part.weight).ty) == rounded)
        };
        let cols = self.plan().width(project.x);
        let came = match source.rounded {
            Some(Rounded::Q8(place)) => Some(place),
            Some(Rounded::F16) | None => None,
        };
        let quantized = self.memory.rounded(came.unwrap_or(Place::First))?;
        let x = self.value(project.x)?;
        let Some((norm, normed)) = project.norm else {
            if wants(true) && came.is_none() {
                ops::quantize(self.stream, x, quantized, n, cols)?;
            }
            return Ok((quantized, x));
        };
        let plain = self.value(normed)?;
        if cols.is_multiple_of(Q8_BLOCK) {
            let to = Dest { plain: wants(false).then_some(plain), rounded: wants(true).then_some(quantized) };
            let rows = source.select.then_some(self.step.outputs);
            norm::norm_to(self.stream, self.norm_of(norm)?, x, rows, to, n, cols)?;
        } else {
            self.norm(project.x, norm, cols, normed)?;
        }
        Ok((quantized, plain))
    }

    fn project(&self, project: &Project, source: Source, to: Forms) -> Result<()> {
        let n = if source.select { self.n_outputs() } else { self.rows(project.x) };
        match n {
            0 => Ok(()),
            1..=MATVEC_MAX_N => self.project_few(project, source, to, n),
            _ => self.project_many(project, source, to, n),
        }
    }

    /// Matrix-vector products.
    fn project_few(&self, project: &Project, source: Source, to: Forms, n: usize) -> Result<()> {
        let (rounded, plain) = self.input(project, source, n)?;
        let input = |ty| if wants_rounded(ty) { Input::Rounded(rounded) } else { Input::Plain(plain) };
        let mut products = Vec::with_capacity(project.parts.len());
        for part in &project.parts {
            products.push(self.product(part, project.then)?);
        }
        if let (Then::Glu { f, out }, [gate, up], 1) = (project.then, &products[..], n)
            && project::glu_takes(f, gate.weight, up.weight)
        {
            let x = input(gate.weight.ty());
            project::glu_matvec(self.stream, f, gate, up, x, self.value(out)?)?;
        } else {
            let add = matches!(project.then, Then::AddTo { .. });
            for same in products.chunk_by(|a, b| a.weight.ty() == b.weight.ty()) {
                for three in same.chunks(3) {
                    project::matvec(self.stream, three, input(same[0].weight.ty()), n, add)?;
                }
            }
            self.glu(project)?;
        }
        match (project.then, to.rounded) {
            (Then::Glu { out, .. }, Some(Rounded::Q8(place))) => {
                let (x, to) = (self.value(out)?, self.memory.rounded(place)?);
                ops::quantize(self.stream, x, to, n, self.plan().width(out))
            }
            _ => Ok(()),
        }
    }

    /// The unit of two products, f32.
    fn glu(&self, project: &Project) -> Result<()> {
        match (project.then, &project.parts[..]) {
            (Then::Glu { f, out }, [gate, up]) => self.binary(Binary::Glu(f), [gate.out, up.out], out),
            _ => Ok(()),
        }
    }

    /// Matrix products of f16 rows.
    fn project_many(&self, project: &Project, source: Source, to: Forms, n: usize) -> Result<()> {
        let (x, cols, half) = (self.value(project.x)?, self.plan().width(project.x), self.memory.half()?);
        match (project.norm, source.rounded) {
            (Some((norm @ Norm { weight: Some(weight), eps, .. }, _)), _) if is_weighted_rms(norm) => {
                matmul::rms_norm_half(self.stream, x, self.program.vector(weight)?, half, n, cols, eps)?;
            }
            (Some((norm, normed)), _) => {
                self.norm(project.x, norm, cols, normed)?;
                matmul::half_rows(self.stream, self.value(normed)?, half, n, cols)?;
            }
            (None, Some(Rounded::F16)) => {}
            (None, Some(Rounded::Q8(_)) | None) => matmul::half_rows(self.stream, x, half, n, cols)?,
        }
        let add = matches!(project.then, Then::AddTo { .. });
        for part in &project.parts {
            let Product { weight, bias, dst } = self.product(part, project.then)?;
            matmul::matmul(self.stream, weight, half, Addends { bias, dst: add }, dst, n)?;
        }
        match (project.then, &project.parts[..], to.rounded) {
            (Then::Glu { f, out }, [gate, up], Some(Rounded::F16)) => {
                let (gate, up) = (self.value(gate.out)?, self.value(up.out)?);
                let width = self.plan().width(out);
                matmul::glu_half(self.stream, Binary::Glu(f), gate, up, half, n, width)
            }
            _ => self.glu(project),
        }
    }

    fn experts(&self, mixed: &Mixed) -> Result<()> {
        let (plan, n) = (self.plan(), self.rows(mixed.x));
        let Some(first) = mixed.parts.first().filter(|_| n > 0) else { return Ok(()) };
        let shape = plan.expert_shape(mixed.ids, first.weight, first.out);
        let ids = self.value(mixed.ids)?;
        let pairs = TokenPairs { ids, n, n_used: shape.n_used, n_experts: shape.n_experts };
        let each = plan.width(mixed.x) > shape.cols;
        let mut products = Vec::with_capacity(mixed.parts.len());
        for part in &mixed.parts {
            products.push(experts::Product {
                weight: self.program.matrix(part.weight)?,
                scale: self.vector(part.scale)?,
                bias: self.vector(part.bias)?,
                dst: self.value(part.out)?,
            });
        }
        match n {
            ..=MATVEC_MAX_N => self.experts_few(mixed, pairs, &products, each),
            _ => self.experts_many(mixed, pairs, &products, each),
        }
    }

    /// Products of heads: of experts of which every token has each.
    fn heads(&self, x: ValueId, weight: Experts, out: ValueId) -> Result<()> {
        let (shape, n) = (self.plan().head_shape(x, weight, out), self.rows(x));
        let ids = self.memory.head_ids(shape.n_used)?;
        let pairs = TokenPairs { ids, n, n_used: shape.n_used, n_experts: shape.n_experts };
        let (weight, dst) = (self.program.matrix(weight)?, self.value(out)?);
        let product = experts::Product { weight, scale: None, bias: None, dst };
        let (x, cols, rows) = (self.value(x)?, shape.cols, n * shape.n_used);
        if n > MATVEC_MAX_N {
            let (half, sorting) = (self.memory.half()?, self.memory.sorting()?);
            experts::sort(self.stream, pairs, sorting)?;
            experts::half_rows(self.stream, x, half, pairs, true, cols)?;
            return experts::matmul(self.stream, &product, pairs, sorting, half, true);
        }
        let input = if wants_rounded(shape.ty) {
            let rounded = self.memory.rounded(Place::First)?;
            ops::quantize(self.stream, x, rounded, rows, cols)?;
            Input::Rounded(rounded)
        } else {
            Input::Plain(x)
        };
        experts::matvec(self.stream, &product, pairs, input, true)
    }

    /// A matrix-vector product for each pair.
    fn experts_few(
        &self,
        mixed: &Mixed,
        pairs: TokenPairs<'_>,
        products: &[experts::Product<'_>],
        each: bool,
    ) -> Result<()> {
        let (x, cols) = (self.value(mixed.x)?, products[0].weight.cols());
        let rounded = self.memory.rounded(Place::First)?;
        let came = mixed.rounded == Some(Rounded::Q8(Place::First));
        if !came && products.iter().any(|product| wants_rounded(product.weight.ty())) {
            ops::quantize(self.stream, x, rounded, self.len(mixed.x) / cols, cols)?;
        }
        let input = |ty| if wants_rounded(ty) { Input::Rounded(rounded) } else { Input::Plain(x) };
        if let (Some((f, out)), [gate, up]) = (mixed.unit, products)
            && experts::glu_takes(f, gate.weight, up.weight)
        {
            let (x, to) = (input(gate.weight.ty()), self.value(out)?);
            return experts::glu_matvec(self.stream, f, gate, up, pairs, x, each, to);
        }
        for product in products {
            experts::matvec(self.stream, product, pairs, input(product.weight.ty()), each)?;
        }
        self.unit(mixed)
    }

    /// Matrix products of the f16 rows of each expert's pairs.
    fn experts_many(
        &self,
        mixed: &Mixed,
        pairs: TokenPairs<'_>,
        products: &[experts::Product<'_>],
        each: bool,
    ) -> Result<()> {
        let (x, cols) = (self.value(mixed.x)?, products[0].weight.cols());
        let (half, sorting) = (self.memory.half()?, self.memory.sorting()?);
        if mixed.sort {
            experts::sort(self.stream, pairs, sorting)?;
        }
        if mixed.rounded != Some(Rounded::F16) {
            experts::half_rows(self.stream, x, half, pairs, each, cols)?;
        }
        for product in products {
            experts::matmul(self.stream, product, pairs, sorting, half, each)?;
        }
        match (mixed.unit, products, mixed.to.rounded) {
            (Some((f, _)), [gate, up], Some(Rounded::F16)) => {
                let (n, width) = (pairs.n * pairs.n_used, gate.weight.rows() / pairs.n_experts);
                matmul::glu_half(self.stream, f, gate.dst, up.dst, half, n, width)
            }
            _ => self.unit(mixed),
        }
    }

    /// The unit of the products of gate and up, f32.
    fn unit(&self, mixed: &Mixed) -> Result<()> {
        match (mixed.unit, &mixed.parts[..]) {
            (Some((f, out)), [gate, up]) => self.binary(f, [gate.out, up.out], out),
            _ => Ok(()),
        }
    }

    fn qkv(&self, project: &Project, cache: CacheId, rope: RopeId) -> Result<()> {
        let source = Source { rounded: None, select: false };
        let (rounded, plain) = self.input(project, source, 1)?;
        let tokens = self.step.tokens_in(self.plan().pool(cache))?;
        let (turns, cache) = (self.memory.turns(self.plan(), rope)?, self.memory.cache(cache)?);
        let mut products = [None; 3];
        let mut types = Vec::with_capacity(products.len());
        for (product, part) in products.iter_mut().zip(&project.parts) {
            let made = self.product(part, Then::Nothing)?;
            if !types.contains(&made.weight.ty()) {
                types.push(made.weight.ty());
            }
            *product = Some(made);
        }
        for ty in types {
            let x = if wants_rounded(ty) { Input::Rounded(rounded) } else { Input::Plain(plain) };
            let same = products.map(|product| product.filter(|product| product.weight.ty() == ty));
            project::qkv(self.stream, same, x, turns, tokens, cache)?;
        }
        Ok(())
    }
}
