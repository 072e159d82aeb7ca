//! The Plan: a model's forward pass as data. A flat list of ops over values that are written once, built once per model
//! by an architecture ([`crate::model::arch`]) and run by any device. Token count, positions and cache length belong to
//! a step, never to the plan.
//!
//! A [`Graph`] is what an architecture says; a [`Plan`] adds what derives from it for all devices: which ops run as one
//! ([`fuse`]), and where each value is stored ([`storage`]).

pub mod builder;
pub mod fuse;
pub mod op;
pub mod split;
pub mod storage;
pub mod weights;
mod words;

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::gguf::TensorType;
use crate::{Result, memory};
use fuse::Placed;
pub use op::{
    Binary, Experts, Gating, In, KeyHeads, Lookup, LookupBy, Matrix, Norm, NormKind, Op, Out, Over, Role,
    Routing, Scores, Unary, Vector,
};
use storage::{Slot, SlotId, Storage};

macro_rules! ids {
    ($($(#[$doc:meta])* $id:ident)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $id(pub u32);
    )* };
}

ids! {
    /// Index into [`Graph::weights`].
    WeightId
    /// Index into [`Graph::values`].
    ValueId
    /// Index into [`Graph::ropes`].
    RopeId
    /// Index into [`Graph::caches`].
    CacheId
    /// Index into [`Graph::states`].
    StateId
}

/// Rows of a tensor of the file that the plan reads, or elements of a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// The tensor's.
    pub name: String,
    pub ty: TensorType,
    /// Elements of a row.
    pub cols: usize,
    /// The tensor's element that a row begins with: other than 0 in vectors only.
    pub first_col: usize,
    /// A vector has one row.
    pub rows: usize,
    /// The tensor's row that is row 0.
    pub first_row: usize,
}

impl Weight {
    /// A whole tensor.
    pub fn whole(name: impl Into<String>, ty: TensorType, cols: usize, rows: usize) -> Weight {
        Weight { name: name.into(), ty, cols, first_col: 0, rows, first_row: 0 }
    }
}

/// How many rows of a value a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One per token of the step.
    Tokens,
    /// One per token whose logits are wanted.
    Outputs,
}

/// f32 activations, `rows x width`, row-major, written by one op.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Of the op that writes it, or what it is: "logits".
    pub name: &'static str,
    pub width: usize,
    pub rows: Rows,
}

/// Which elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (0,1), (2,3), ...: llama.
    Consecutive,
    /// (0, n_rot/2), (1, n_rot/2 + 1), ...: qwen and most others.
    Halves,
}

/// One table of rotations; angle of pair `i` at position `p` is `p * inv_freq[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub pairs: RopePairs,
    /// Radians per position, one per pair (n_rot / 2), all scaling already applied.
    pub inv_freq: Arc<[f32]>,
    /// Factor on cos and sin (yarn's magnitude scaling; 1 elsewhere).
    pub magnitude: f32,
    /// What longer sessions turn by instead.
    pub long: Option<LongTurns>,
}

/// The rotations of sessions with room for more positions of a sequence than a model was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct LongTurns {
    /// Positions up to which a session does without.
    pub beyond: usize,
    /// As many as the rope has.
    pub inv_freq: Arc<[f32]>,
    pub magnitude: f32,
}

/// What a sequence remembers for one or more layers: a cell a position, in f16, each `n_head_kv` heads of a key and a
/// value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    pub n_head_kv: usize,
    /// Elements of a head's key.
    pub k: usize,
    pub values: Values,
    /// None: a token sees all positions up to its own.
    pub window: Option<Window>,
}

/// Which of the positions up to its own a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many, its own included.
    Sliding(u32),
    /// Those of its chunk: at each multiple of so many positions a new one begins.
    Chunks(u32),
}

impl Window {
    /// Positions that a token sees at most.
    pub fn most(self) -> u32 {
        let (Window::Sliding(n) | Window::Chunks(n)) = self;
        n
    }

    /// The first position that a token at `position` sees.
    pub fn first(self, position: usize) -> usize {
        match self {
            Window::Sliding(n) => (position + 1).saturating_sub(n as usize),
            Window::Chunks(n) => position - position % n.max(1) as usize,
        }
    }

    /// The first position whose token sees nothing before `first`.
    pub fn beyond(self, first: usize) -> usize {
        match self {
            Window::Sliding(_) if first == 0 => 0,
            Window::Sliding(n) => first + n as usize - 1,
            Window::Chunks(n) => first.next_multiple_of(n.max(1) as usize),
        }
    }
}

/// Where a head's value is, and how many elements it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Beside the key.
    Own(usize),
    /// The key's first elements: latent attention, whose rows serve as both.
    InKeys(usize),
}

impl Cache {
    /// Elements of a head's value.
    pub fn v(&self) -> usize {
        let (Values::Own(v) | Values::InKeys(v)) = self.values;
        v
    }

    /// Elements that a head's value takes beside its key.
    pub fn own_v(&self) -> usize {
        match self.values {
            Values::Own(v) => v,
            Values::InKeys(_) => 0,
        }
    }

    /// The first position that a token at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| window.first(position))
    }
}

/// What a sequence remembers for a layer as a whole, f32: each step makes a new one of it. How a device orders the
/// elements is its own affair; all zeros is how a sequence begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub elements: usize,
}

/// Heads of a [`Op::DeltaNet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    pub n_k: usize,
    pub n_v: usize,
    /// Elements of a key, and of a value.
    pub k: usize,
    pub v: usize,
    pub heads: KeyHeads,
    /// g has a number for each element of a key, not one a head.
    pub g_by_row: bool,
}

/// The matrices of a product of experts, each `rows x cols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    pub ty: TensorType,
    pub n_experts: usize,
    /// Experts of a token.
    pub n_used: usize,
    pub rows: usize,
    pub cols: usize,
}

/// An op and its name, unique in the plan: "blk.3.attn_q", "output".
#[derive(Clone, Debug)]
pub struct NamedOp {
    pub name: String,
    pub op: Op,
}

/// A place inside a part of a model where others compute in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The op that follows.
    pub at: usize,
    /// What others take before that, and what they bring: values of Rows::Tokens.
    pub outputs: Vec<ValueId>,
    pub inputs: Vec<ValueId>,
}

/// Ops that run without others in between: a whole model, or what lies between two cuts of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub ops: Range<usize>,
    pub inputs: &'a [ValueId],
    pub outputs: &'a [ValueId],
}

impl Segment<'_> {
    /// What belongs to the segment of a list in the plan's order; `at`: an entry's place in the plan.
    pub fn part_of<'a, T>(&self, list: &'a [T], at: impl Fn(&T) -> usize) -> &'a [T] {
        let [start, end] =
            [self.ops.start, self.ops.end].map(|op| list.partition_point(|entry| at(entry) < op));
        &list[start..end]
    }
}

/// A model as its architecture describes it.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub weights: Vec<Weight>,
    pub values: Vec<Value>,
    pub ropes: Vec<Rope>,
    pub caches: Vec<Cache>,
    /// Of caches, each once, in the order of their pools. [`Plan::new`] adds those that are missing; a part of a model has those
    /// of the whole.
    pub windows: Vec<Window>,
    pub states: Vec<State>,
    /// An op stands behind those that compute what it reads.
    pub ops: Vec<NamedOp>,
    /// The ops of each layer, in order; what stands before and behind them belongs to none.
    pub layers: Vec<Range<usize>>,
    /// In a part of a model that begins inside it: the values (Rows::Tokens) that a step brings along.
    pub inputs: Vec<ValueId>,
    /// What a step leaves: logits (Rows::Outputs, n_vocab wide) or, in a part of a model, what other parts go on with.
    pub outputs: Vec<ValueId>,
    /// In a part of a model: where other parts compute in between, in order.
    pub cuts: Vec<Cut>,
    /// Tensors of the file that the model does not use, and why.
    pub ignored: Vec<(String, &'static str)>,
}

impl Graph {
    pub fn n_segments(&self) -> usize {
        self.cuts.len() + 1
    }

    /// Number `index`, below [`n_segments`](Self::n_segments).
    pub fn segment(&self, index: usize) -> Segment<'_> {
        let (start, inputs) = match index.checked_sub(1) {
            Some(before) => (self.cuts[before].at, &self.cuts[before].inputs),
            None => (0, &self.inputs),
        };
        let (end, outputs) = match self.cuts.get(index) {
            Some(cut) => (cut.at, &cut.outputs),
            None => (self.ops.len(), &self.outputs),
        };
        Segment { ops: start..end, inputs, outputs }
    }

    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        (0..self.n_segments()).map(|index| self.segment(index))
    }

    pub fn weight(&self, id: impl Into<WeightId>) -> &Weight {
        &self.weights[id.into().0 as usize]
    }

    pub fn value(&self, id: impl Into<ValueId>) -> &Value {
        &self.values[id.into().0 as usize]
    }

    pub fn width(&self, id: impl Into<ValueId>) -> usize {
        self.value(id).width
    }

    pub fn rope(&self, id: RopeId) -> &Rope {
        &self.ropes[id.0 as usize]
    }

    pub fn cache(&self, id: CacheId) -> Cache {
        self.caches[id.0 as usize]
    }

    /// The pool of the cache's blocks: caches of one window share one. Pool 0 is that of caches without a window.
    pub fn pool(&self, id: CacheId) -> usize {
        let window = self.cache(id).window;
        window.and_then(|window| self.windows.iter().position(|w| *w == window)).map_or(0, |at| at + 1)
    }

    /// The windows of all pools.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = Option<Window>> + Clone {
        (0..1 + self.windows.len()).map(|pool| pool.checked_sub(1).map(|at| self.windows[at]))
    }

    pub fn state(&self, id: StateId) -> State {
        self.states[id.0 as usize]
    }

    /// Of a delta net by its values q, v, g and beta.
    pub fn delta_shape(&self, [q, v, g, beta]: [In; 4], n_k: usize, heads: KeyHeads) -> DeltaShape {
        let (n_v, g_width) = (self.width(beta), self.width(g));
        let (k, v) = (self.width(q) / n_k, self.width(v) / n_v);
        DeltaShape { n_k, n_v, k, v, heads, g_by_row: g_width != n_v }
    }

    /// Positions that the tables looked up by position have rows for.
    fn n_positions(&self) -> usize {
        let rows = self.ops.iter().filter_map(|named| match named.op {
            Op::Embed { weight, by: LookupBy::Position, .. } => Some(self.weight(weight).rows),
            _ => None,
        });
        rows.min().unwrap_or(usize::MAX)
    }

    /// Whether some attention shows tokens what stands behind them: those of a sequence then belong in one step.
    pub fn sees_later(&self) -> bool {
        self.ops.iter().any(|named| matches!(named.op, Op::Attention { scores, .. } if !scores.causal))
    }

    /// Query heads of an attention over the cache.
    pub fn n_head(&self, q: impl Into<ValueId>, cache: CacheId) -> usize {
        self.width(q) / self.cache(cache).k
    }

    /// The weights that products read, once for each product.
    pub fn matrices(&self) -> impl Iterator<Item = &Weight> {
        self.ops.iter().flat_map(|named| {
            let mut found = [None; 4];
            let mut n = 0;
            named.op.each(&mut |role| {
                if let Role::Matrix(id) = role {
                    found[n] = Some(id);
                    n += 1;
                }
            });
            found.into_iter().flatten().map(|id| self.weight(id))
        })
    }

    /// Products of heads, as products in which a token has all experts.
    pub fn head_products(&self) -> impl Iterator<Item = ExpertShape> {
        self.ops.iter().filter_map(|named| match named.op {
            Op::MatMulHeads { x, weight, out } => Some(self.head_shape(x, weight, out)),
            _ => None,
        })
    }

    /// The shape of a product of heads: as many experts as heads, and a token has all.
    pub fn head_shape(&self, x: impl Into<ValueId>, weight: Experts, out: impl Into<ValueId>) -> ExpertShape {
        let weight = self.weight(weight);
        let n = self.width(x) / weight.cols;
        ExpertShape { ty: weight.ty, n_experts: n, n_used: n, rows: self.width(out) / n, cols: weight.cols }
    }

    /// Products of experts.
    pub fn expert_products(&self) -> impl Iterator<Item = ExpertShape> {
        self.ops.iter().filter_map(|named| match named.op {
            Op::MatMulExperts { ids, weight, out, .. } => Some(self.expert_shape(ids, weight, out)),
            _ => None,
        })
    }

    /// The shape of a product of experts.
    pub fn expert_shape(
        &self,
        ids: impl Into<ValueId>,
        weight: Experts,
        out: impl Into<ValueId>,
    ) -> ExpertShape {
        let (weight, n_used) = (self.weight(weight), self.width(ids));
        let rows = self.width(out) / n_used;
        ExpertShape { ty: weight.ty, n_experts: weight.rows / rows, n_used, rows, cols: weight.cols }
    }

    /// Elements that [`Op::Columns`] takes of each group.
    pub fn columns_len(&self, x: impl Into<ValueId>, group: usize, out: impl Into<ValueId>) -> usize {
        self.width(out) * group / self.width(x)
    }

    /// Elements of a's part and of b's in a group of [`Op::Join`], and from one group's part of b to the next: 0 where
    /// one serves all.
    pub fn join_lens(&self, [a, b]: [ValueId; 2], n: usize, out: impl Into<ValueId>) -> [usize; 3] {
        let a_len = self.width(a) / n;
        let b_len = self.width(out) / n - a_len;
        [a_len, b_len, if self.width(b) == n * b_len { b_len } else { 0 }]
    }

    /// Attention ops of the plan: query heads and cache.
    pub fn attentions(&self) -> impl Iterator<Item = (usize, Cache)> {
        self.ops.iter().filter_map(|named| match named.op {
            Op::Attention { cache, q, .. } => Some((self.n_head(q, cache), self.cache(cache))),
            _ => None,
        })
    }
}

impl From<Lookup> for WeightId {
    fn from(Lookup(id): Lookup) -> WeightId {
        id
    }
}

impl From<Matrix> for WeightId {
    fn from(Matrix(id): Matrix) -> WeightId {
        id
    }
}

impl From<Experts> for WeightId {
    fn from(Experts(id): Experts) -> WeightId {
        id
    }
}

impl From<Vector> for WeightId {
    fn from(Vector(id): Vector) -> WeightId {
        id
    }
}

/// A graph, its fused ops and its storage.
#[derive(Clone, Debug)]
pub struct Plan {
    graph: Graph,
    fused: Vec<Placed>,
    storage: Storage,
    n_positions: usize,
}

impl Plan {
    /// # Errors
    /// Error::OutOfMemory.
    pub fn new(mut graph: Graph) -> Result<Plan> {
        for window in graph.caches.iter().filter_map(|cache| cache.window) {
            if !graph.windows.contains(&window) {
                memory::push(&mut graph.windows, window, "the plan")?;
            }
        }
        let (fused, storage) =
            memory::with_room(fuse::room(&graph) + storage::room(&graph), "the plan", || {
                let fused = fuse::fused(&graph);
                let storage = Storage::assign(&graph, &fused);
                (fused, storage)
            })?;
        let n_positions = graph.n_positions();
        Ok(Plan { graph, fused, storage, n_positions })
    }

    /// Positions that a sequence may have: fewer than usize::MAX where a table has a row for each.
    pub fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// The ops, with neighbours that run as one. The list without fusion computes the same.
    pub fn fused(&self) -> &[Placed] {
        &self.fused
    }

    /// What a session stores values in.
    pub fn slots(&self) -> &[Slot] {
        &self.storage.slots
    }

    /// Where the value is stored while it is needed.
    pub fn slot(&self, id: impl Into<ValueId>) -> SlotId {
        self.storage.of[id.into().0 as usize]
    }
}

impl Deref for Plan {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        &self.graph
    }
}
