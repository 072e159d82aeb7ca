//! A graph as an architecture writes it: values made by ops, weights checked against the file.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::Error;
use crate::gguf::{Gguf, TensorInfo};

/// What memory is for, in errors.
const PLAN: &str = "the plan";

/// Whether a file may have a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// It is no tensor of the architecture.
    Never,
    #[default]
    Optional,
    Required,
    /// A file may have it, and the model does not use it.
    Unused,
}

/// Whether a product's `.scale` applies, and when. Where it does not, the file may have it all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleOrder {
    #[default]
    Ignored,
    /// (W x) * scale + bias
    BeforeBias,
    /// (W x + bias) * scale
    AfterBias,
}

/// A product with the matrix `{name}.weight` and what may stand beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Linear {
    /// `{name}.bias`
    pub bias: Presence,
    /// `{name}.scale`
    pub scale: ScaleOrder,
}

/// Rows or elements of a tensor of `of` in all.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub first: usize,
    pub len: usize,
    pub of: usize,
}

impl Part {
    pub fn all(len: usize) -> Part {
        Part { first: 0, len, of: len }
    }
}

pub struct Builder<'a> {
    file: &'a Gguf,
    graph: Graph,
    /// Weights by tensor and where in it they begin.
    ids: HashMap<(String, usize, usize), WeightId>,
    /// Tensors of the file that are spoken for.
    known: HashSet<String>,
    /// In front of names of tensors, and of ops: "blk.3.".
    prefix: String,
    place: String,
}

impl<'a> Builder<'a> {
    pub fn new(file: &'a Gguf) -> Self {
        Builder {
            file,
            graph: Graph::default(),
            ids: HashMap::new(),
            known: HashSet::new(),
            prefix: String::new(),
            place: String::new(),
        }
    }

    pub fn width(&self, id: ValueId) -> usize {
        self.graph.width(id)
    }

    /// The ops that `build` adds are layer `layer`'s, and names of ops and tensors begin with "blk.{layer}.".
    pub fn layer<T>(&mut self, layer: usize, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.layer_again(layer, layer, build)
    }

    /// The same of the tensors of layer `layer` at another place among the layers, of which there may be several. The
    /// scales of products are the place's.
    pub fn layer_again<T>(
        &mut self,
        place: usize,
        layer: usize,
        build: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let first = self.graph.ops.len();
        // a layer has fewer ops and values; each of their names is small
        memory::reserve(&mut self.graph.ops, 128, PLAN)?;
        memory::reserve(&mut self.graph.values, 128, PLAN)?;
        self.prefix = format!("blk.{layer}.");
        self.place = format!("blk.{place}.");
        let built = build(self);
        self.prefix.clear();
        self.place.clear();
        memory::push(&mut self.graph.layers, first..self.graph.ops.len(), PLAN)?;
        memory::check()?;
        built
    }

    /// The tensor's name in the file.
    pub fn name(&self, name: &str) -> String {
        let prefix = if name.ends_with(".scale") { &self.place } else { &self.prefix };
        format!("{prefix}{name}")
    }

    pub fn tensor(&self, name: &str) -> Option<&'a TensorInfo> {
        self.file.tensor(&self.name(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    /// A tensor that the file may have and that the model does not use; `why` is for the reader of the architecture.
    pub fn ignore(&mut self, name: &str, _why: &str) -> Result<()> {
        self.know(self.name(name))
    }

    /// The same of all tensors of some layers.
    pub fn ignore_layers(&mut self, layers: Range<usize>, _why: &str) -> Result<()> {
        for tensor in self.file.tensors() {
            let layer = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            let layer = layer.and_then(|(layer, _)| layer.parse().ok());
            if layer.is_some_and(|layer| layers.contains(&layer)) {
                self.know(memory::text(&tensor.name, PLAN)?)?;
            }
        }
        Ok(())
    }

    fn know(&mut self, name: String) -> Result<()> {
        memory::reserve_set(&mut self.known, 1, PLAN)?;
        self.known.insert(name);
        Ok(())
    }

    /// The shape that is going to be asked for, before anything is sized by it.
    pub fn expect(&self, name: &str, cols: usize, rows: usize) -> Result<()> {
        let full = self.name(name);
        check_shape(self.file.tensor(&full).ok_or_else(|| missing(&full))?, cols, rows)
    }

    /// `rows` of the rows of a matrix of `cols` columns; missing, misshapen or of a type that cannot be computed with is
    /// an error.
    fn weight(&mut self, name: &str, cols: Part, rows: Part) -> Result<WeightId> {
        let full = self.name(name);
        let tensor = self.file.tensor(&full).ok_or_else(|| missing(&full))?;
        check_shape(tensor, cols.of, rows.of)?;
        self.weight_of(full, tensor, cols, rows)
    }

    fn weight_of(&mut self, full: String, tensor: &TensorInfo, cols: Part, rows: Part) -> Result<WeightId> {
        let key = (full, rows.first, cols.first);
        if let Some(id) = self.ids.get(&key)
            && self.graph.weight(*id).rows == rows.len
        {
            return Ok(*id);
        }
        if !tensor.ty.is_supported() {
            return Err(Error::Unsupported {
                what: "tensor type",
                name: format!("{} ({})", tensor.ty, key.0),
                supported: TensorType::supported_names(),
            });
        }
        self.know(key.0.clone())?;
        let id = WeightId(self.graph.weights.len() as u32);
        let weight = Weight {
            name: key.0.clone(),
            ty: tensor.ty,
            cols: cols.len,
            first_col: cols.first,
            rows: rows.len,
            first_row: rows.first,
        };
        memory::push(&mut self.graph.weights, weight, PLAN)?;
        memory::reserve_map(&mut self.ids, 1, PLAN)?;
        self.ids.insert(key, id);
        Ok(id)
    }

    pub fn matrix(&mut self, name: &str, cols: usize, rows: Part) -> Result<Matrix> {
        Ok(Matrix(self.weight(name, Part::all(cols), rows)?))
    }

    pub fn vector(&mut self, name: &str, part: Part) -> Result<Vector> {
        Ok(Vector(self.weight(name, part, Part::all(1))?))
    }

    /// A matrix of `rows` rows of `cols` columns for each of `n` experts.
    pub fn experts(&mut self, name: &str, cols: usize, rows: usize, n: usize) -> Result<Experts> {
        let full = self.name(name);
        let tensor = self.file.tensor(&full).ok_or_else(|| missing(&full))?;
        if tensor.dims != [cols as u64, rows as u64, n as u64, 1] {
            return Err(Error::model(format!(
                "the tensor {full} has shape {:?}; [{cols}, {rows}, {n}] is wanted",
                &tensor.dims[..tensor.n_dims]
            )));
        }
        Ok(Experts(self.weight_of(full, tensor, Part::all(cols), Part::all(rows * n))?))
    }

    /// A vector of `len` elements for each of `n` experts, which the file may, must or cannot have.
    pub fn expert_vectors(
        &mut self,
        name: &str,
        len: usize,
        n: usize,
        presence: Presence,
    ) -> Result<Option<Vector>> {
        self.vectors_if(name, Part::all(len), n, presence)
    }

    /// Rows of `cols` numbers each, read in f32.
    pub fn row_vectors(&mut self, name: &str, cols: usize, rows: Part) -> Result<Vector> {
        Ok(Vector(self.weight(name, Part::all(cols), rows)?))
    }

    /// A vector that the file may, must or cannot have.
    pub fn vector_if(&mut self, name: &str, part: Part, presence: Presence) -> Result<Option<Vector>> {
        self.vectors_if(name, part, 1, presence)
    }

    fn vectors_if(&mut self, name: &str, part: Part, n: usize, presence: Presence) -> Result<Option<Vector>> {
        match presence {
            Presence::Never => Ok(None),
            Presence::Unused => {
                self.know(self.name(name))?;
                Ok(None)
            }
            Presence::Optional if !self.has(name) => Ok(None),
            Presence::Optional | Presence::Required => {
                Ok(Some(Vector(self.weight(name, part, Part::all(n))?)))
            }
        }
    }

    fn value(&mut self, name: &'static str, width: usize, rows: Rows) -> ValueId {
        self.graph.values.push(Value { name, width, rows });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    fn op(&mut self, name: &str, op: Op) {
        let name = format!("{}{name}", self.place);
        self.graph.ops.push(NamedOp { name, op });
    }

    /// An op whose result is as `x` in shape.
    fn like(&mut self, name: &'static str, x: ValueId, op: impl FnOnce(Out) -> Op) -> ValueId {
        let Value { width, rows, .. } = *self.graph.value(x);
        self.shaped(name, width, rows, op)
    }

    fn shaped(
        &mut self,
        name: &'static str,
        width: usize,
        rows: Rows,
        op: impl FnOnce(Out) -> Op,
    ) -> ValueId {
        let out = self.value(name, width, rows);
        self.op(name, op(Out(out)));
        out
    }

    pub fn rope(&mut self, rope: Rope) -> RopeId {
        let at = self.graph.ropes.iter().position(|r| *r == rope);
        let at = at.unwrap_or_else(|| {
            self.graph.ropes.push(rope);
            self.graph.ropes.len() - 1
        });
        RopeId(at as u32)
    }

    pub fn cache(&mut self, cache: Cache) -> Result<CacheId> {
        memory::push(&mut self.graph.caches, cache, PLAN)?;
        Ok(CacheId(self.graph.caches.len() as u32 - 1))
    }

    pub fn state(&mut self, elements: usize) -> Result<StateId> {
        memory::push(&mut self.graph.states, State { elements }, PLAN)?;
        Ok(StateId(self.graph.states.len() as u32 - 1))
    }

    /// Rows of `{name}.weight`, of `n_vocab` rows, by the step's tokens.
    pub fn embed(&mut self, name: &'static str, width: usize, n_vocab: usize) -> Result<ValueId> {
        self.look_up(name, width, n_vocab, LookupBy::Token)
    }

    /// Rows of `{name}.weight`, which has one for each of `n` positions, by the tokens' positions.
    pub fn embed_positions(&mut self, name: &'static str, width: usize, n: usize) -> Result<ValueId> {
        self.look_up(name, width, n, LookupBy::Position)
    }

    fn look_up(&mut self, name: &'static str, width: usize, rows: usize, by: LookupBy) -> Result<ValueId> {
        let weight = Lookup(self.weight(&format!("{name}.weight"), Part::all(width), Part::all(rows))?);
        Ok(self.shaped(name, width, Rows::Tokens, |out| Op::Embed { weight, by, out }))
    }

    /// `width` times `value`, in as many rows as x has.
    pub fn fill(&mut self, name: &'static str, x: ValueId, width: usize, value: f32) -> ValueId {
        let rows = self.graph.value(x).rows;
        self.shaped(name, width, rows, |out| Op::Fill { like: In(x), value, out })
    }

    /// x times the rows `rows` of the matrix `tensor`, as the op `name`.
    pub fn product(
        &mut self,
        name: &'static str,
        tensor: &str,
        x: ValueId,
        rows: Part,
        bias: Option<Vector>,
    ) -> Result<ValueId> {
        let weight = self.matrix(tensor, self.graph.width(x), rows)?;
        let tokens = self.graph.value(x).rows;
        Ok(self.shaped(name, rows.len, tokens, |out| Op::MatMul { x: In(x), weight, bias, out }))
    }

    /// x times the rows `rows` of `{tensor}.weight`, with that part of its bias, as the op `name`.
    pub fn linear_part(
        &mut self,
        name: &'static str,
        tensor: &str,
        x: ValueId,
        rows: Part,
        linear: Linear,
    ) -> Result<ValueId> {
        let bias = self.vector_if(&format!("{tensor}.bias"), rows, linear.bias)?;
        let scale_name = format!("{tensor}.scale");
        let scale = match linear.scale {
            ScaleOrder::Ignored => {
                self.ignore(&scale_name, "the product is not scaled here")?;
                None
            }
            _ => self.vector_if(&scale_name, Part::all(1), Presence::Optional)?,
        };
        let late = scale.is_some() && linear.scale == ScaleOrder::BeforeBias;
        let at_once = bias.filter(|_| !late);
        let mut out = self.product(name, &format!("{tensor}.weight"), x, rows, at_once)?;
        if scale.is_some() {
            let bias = bias.filter(|_| late);
            let tokens = self.graph.value(x).rows;
            let to = self.value("scaled", rows.len, tokens);
            let x = Over(out);
            self.op(&format!("{name}_scale"), Op::Affine { x, scale, divides: false, bias, out: Out(to) });
            out = to;
        }
        Ok(out)
    }

    /// x times `{name}.weight`, of `rows` rows.
    pub fn linear(&mut self, name: &'static str, x: ValueId, rows: usize, linear: Linear) -> Result<ValueId> {
        self.linear_part(name, name, x, Part::all(rows), linear)
    }

    pub fn norm(&mut self, name: &'static str, x: ValueId, norm: Norm, group: usize) -> ValueId {
        self.like(name, x, |out| Op::Norm { x: Over(x), norm, group, out })
    }

    pub fn affine(
        &mut self,
        name: &'static str,
        x: ValueId,
        scale: Option<Vector>,
        bias: Option<Vector>,
    ) -> ValueId {
        self.like(name, x, |out| Op::Affine { x: Over(x), scale, divides: false, bias, out })
    }

    /// x / by
    pub fn divide(&mut self, name: &'static str, x: ValueId, by: Vector) -> ValueId {
        let scale = Some(by);
        self.like(name, x, |out| Op::Affine { x: Over(x), scale, divides: true, bias: None, out })
    }

    /// Rotates each head's elements from `first` on, as many as the table has.
    pub fn rotate(
        &mut self,
        name: &'static str,
        x: ValueId,
        head_dim: usize,
        first: usize,
        rope: RopeId,
    ) -> ValueId {
        self.like(name, x, |out| Op::Rope { x: Over(x), head_dim, first, rope, out })
    }

    pub fn temper(&mut self, x: ValueId, scale: f32, length: usize) -> ValueId {
        self.like("temper", x, |out| Op::Temper { x: Over(x), scale, length, out })
    }

    /// Each of `n` heads' part of x times its matrix of `{name}.weight`, of `rows` rows.
    pub fn mat_mul_heads(
        &mut self,
        name: &'static str,
        x: ValueId,
        rows: usize,
        n: usize,
    ) -> Result<ValueId> {
        let weight = self.experts(&format!("{name}.weight"), self.graph.width(x) / n, rows, n)?;
        let tokens = self.graph.value(x).rows;
        Ok(self.shaped(name, n * rows, tokens, |out| Op::MatMulHeads { x: In(x), weight, out }))
    }

    pub fn append(&mut self, cache: CacheId, k: ValueId, v: Option<ValueId>) {
        self.op("kv_append", Op::Append { cache, k: In(k), v: v.map(In) });
    }

    pub fn attention(
        &mut self,
        cache: CacheId,
        q: ValueId,
        scores: Scores,
        sinks: Option<Vector>,
    ) -> ValueId {
        let width = self.graph.n_head(q, cache) * self.graph.cache(cache).v();
        let rows = self.graph.value(q).rows;
        self.shaped("attention", width, rows, |out| Op::Attention { cache, q: In(q), scores, sinks, out })
    }

    pub fn unary(&mut self, name: &'static str, f: Unary, x: ValueId) -> ValueId {
        self.like(name, x, |out| Op::Unary { x: Over(x), f, out })
    }

    /// Of a and b, which is as wide or narrower.
    pub fn binary(&mut self, name: &'static str, f: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.like(name, a, |out| Op::Binary { a: Over(a), b: Over(b), f, out })
    }

    /// Ids and weights of each token's experts.
    pub fn route(&mut self, logits: ValueId, bias: Option<Vector>, routing: Routing) -> (ValueId, ValueId) {
        let rows = self.graph.value(logits).rows;
        let [ids, weights] =
            ["expert ids", "expert weights"].map(|name| self.value(name, routing.n_used, rows));
        let (to, by) = (Out(ids), Out(weights));
        self.op("ffn_route", Op::Route { logits: In(logits), bias, routing, ids: to, weights: by });
        (ids, weights)
    }

    /// The products of each token's experts with x, each of `rows` elements.
    pub fn mat_mul_experts(
        &mut self,
        name: &'static str,
        x: ValueId,
        ids: ValueId,
        rows: usize,
        (weight, scale, bias): (Experts, Option<Vector>, Option<Vector>),
    ) -> ValueId {
        let (width, tokens) = (self.graph.width(ids) * rows, self.graph.value(x).rows);
        self.shaped(name, width, tokens, |out| Op::MatMulExperts {
            x: In(x),
            ids: In(ids),
            weight,
            scale,
            bias,
            out,
        })
    }

    /// x times each of the weights, side by side: what experts read where weights are not for what they leave.
    pub fn spread(&mut self, x: ValueId, weights: ValueId) -> ValueId {
        let (width, rows) = (self.graph.width(x) * self.graph.width(weights), self.graph.value(x).rows);
        self.shaped("ffn_spread", width, rows, |out| Op::Spread { x: In(x), weights: In(weights), out })
    }

    /// The weighted sum of what each token's experts leave, `width` elements each.
    pub fn combine(&mut self, x: ValueId, weights: Option<ValueId>, width: usize) -> ValueId {
        let (rows, weights) = (self.graph.value(x).rows, weights.map(In));
        self.shaped("ffn_combine", width, rows, |out| Op::Combine { x: In(x), weights, out })
    }

    /// Of each `group` neighbouring elements of x the `len` from `first` on.
    pub fn columns(
        &mut self,
        name: &'static str,
        x: ValueId,
        group: usize,
        first: usize,
        len: usize,
    ) -> ValueId {
        let Value { width, rows, .. } = *self.graph.value(x);
        self.shaped(name, width / group * len, rows, |out| Op::Columns { x: In(x), group, first, out })
    }

    /// `len` elements for each of `n` groups: a's part, then b's, which one part of b may be for all groups.
    pub fn join(&mut self, name: &'static str, [a, b]: [ValueId; 2], n: usize, len: usize) -> ValueId {
        let rows = self.graph.value(a).rows;
        self.shaped(name, n * len, rows, |out| Op::Join { a: In(a), b: In(b), n, out })
    }

    /// The convolution of x's channels over `k` inputs, by the rows `channels` of the tensor `tensor`, with a state of its
    /// own.
    pub fn conv(
        &mut self,
        name: &'static str,
        tensor: &str,
        x: ValueId,
        (k, channels): (usize, Part),
        bias: Presence,
        silu: bool,
    ) -> Result<ValueId> {
        let weight = self.row_vectors(&format!("{tensor}.weight"), k, channels)?;
        let bias = self.vector_if(&format!("{tensor}.bias"), channels, bias)?;
        let state = self.state((k - 1) * channels.len)?;
        Ok(self.like(name, x, |out| Op::Conv { x: In(x), weight, bias, silu, state, out }))
    }

    /// The gated delta rule over `n_k` key heads, with a state of its own.
    pub fn delta_net(
        &mut self,
        [q, k, v, g, beta]: [ValueId; 5],
        n_k: usize,
        heads: KeyHeads,
        scale: f32,
    ) -> Result<ValueId> {
        let state = self.state(self.graph.width(q) / n_k * self.graph.width(v))?;
        let [q, k, g, beta] = [q, k, g, beta].map(In);
        Ok(self.like("delta_net", v, |out| Op::DeltaNet {
            q,
            k,
            v: In(v),
            g,
            beta,
            n_k,
            heads,
            scale,
            state,
            out,
        }))
    }

    pub fn select(&mut self, x: ValueId) -> ValueId {
        let width = self.graph.width(x);
        self.shaped("select", width, Rows::Outputs, |out| Op::SelectRows { x: In(x), out })
    }

    /// A file with tensors that nobody asked for is another architecture than it says: an error, for what it would
    /// compute is not what its maker meant.
    ///
    /// # Errors
    /// Error::Model names the first such tensor.
    pub fn finish(mut self, output: ValueId) -> Result<Plan> {
        let names = self.file.tensors().iter().map(|t| t.name.as_str());
        // a quantizer's note of the activations' range, which no product uses
        let mut unknown = names.filter(|name| !self.known.contains(*name) && !name.ends_with(".input_scale"));
        if let Some(name) = unknown.next() {
            let more = unknown.count();
            return Err(Error::model(format!(
                "the architecture has no tensor {name}{}",
                if more > 0 { format!(" (and {more} more of the file's)") } else { String::new() }
            )));
        }
        self.graph.outputs.push(output);
        Plan::new(self.graph)
    }
}

fn missing(name: &str) -> Error {
    Error::model(format!("the tensor {name} is missing"))
}

fn check_shape(tensor: &TensorInfo, cols: usize, rows: usize) -> Result<()> {
    if tensor.dims != [cols as u64, rows as u64, 1, 1] {
        return Err(Error::model(format!(
            "the tensor {} has shape {:?}; [{cols}, {rows}] is wanted",
            tensor.name,
            &tensor.dims[..tensor.n_dims]
        )));
    }
    Ok(())
}
