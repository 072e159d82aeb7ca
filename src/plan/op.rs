//! The list of ops. The type of a field is its role; whatever concerns an op's values, weights and caches (what it reads
//! and writes, how its weights are used, numbers in a part of a plan, which storage can be shared) derives from that.

use super::{CacheId, RopeId, StateId, ValueId, WeightId};

/// Values that an op reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct In(pub ValueId);

/// A value that an op reads, and whose storage the op's result may take over: the op reads an element before it writes
/// the same element of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over(pub ValueId);

/// The value that an op computes. It shares storage with no value that the op reads, but for [`Over`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out(pub ValueId);

/// A weight whose rows are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup(pub WeightId);

/// A weight that is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix(pub WeightId);

/// A weight of a matrix for each expert, or for each head, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts(pub WeightId);

/// A weight that is read in f32: a norm's, a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(pub WeightId);

/// What an op wants with one of the ids it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    In(ValueId),
    Over(ValueId),
    Out(ValueId),
    Lookup(WeightId),
    Matrix(WeightId),
    Experts(WeightId),
    Vector(WeightId),
    Cache(CacheId),
    State(StateId),
    Rope(RopeId),
}

/// Numbers that a part of a plan gives to what it takes from the whole.
pub trait Renumber {
    fn value(&mut self, id: ValueId) -> ValueId;
    fn weight(&mut self, id: WeightId) -> WeightId;
    fn cache(&mut self, id: CacheId) -> CacheId;
    fn state(&mut self, id: StateId) -> StateId;
    fn rope(&mut self, id: RopeId) -> RopeId;
}

/// A field of an op.
trait Field {
    fn role(&self, see: &mut dyn FnMut(Role));
    fn renumber(&mut self, ids: &mut dyn Renumber);
}

macro_rules! roles {
    ($($role:ident $method:ident,)*) => { $(
        impl Field for $role {
            fn role(&self, see: &mut dyn FnMut(Role)) {
                see(Role::$role(self.0));
            }

            fn renumber(&mut self, ids: &mut dyn Renumber) {
                self.0 = ids.$method(self.0);
            }
        }
    )* };
}

roles! {
    In value,
    Over value,
    Out value,
    Lookup weight,
    Matrix weight,
    Experts weight,
    Vector weight,
}

macro_rules! id_fields {
    ($($id:ident $role:ident $method:ident,)*) => { $(
        impl Field for $id {
            fn role(&self, see: &mut dyn FnMut(Role)) {
                see(Role::$role(*self));
            }

            fn renumber(&mut self, ids: &mut dyn Renumber) {
                *self = ids.$method(*self);
            }
        }
    )* };
}

id_fields! {
    CacheId Cache cache,
    StateId State state,
    RopeId Rope rope,
}

macro_rules! plain_fields {
    ($($ty:ty)*) => { $(
        impl Field for $ty {
            fn role(&self, _: &mut dyn FnMut(Role)) {}

            fn renumber(&mut self, _: &mut dyn Renumber) {}
        }
    )* };
}

plain_fields! { usize f32 bool LookupBy Scores Unary Binary Routing KeyHeads }

impl<T: Field> Field for Option<T> {
    fn role(&self, see: &mut dyn FnMut(Role)) {
        self.iter().for_each(|field| field.role(see));
    }

    fn renumber(&mut self, ids: &mut dyn Renumber) {
        self.iter_mut().for_each(|field| field.renumber(ids));
    }
}

impl From<In> for ValueId {
    fn from(In(id): In) -> ValueId {
        id
    }
}

impl From<Over> for ValueId {
    fn from(Over(id): Over) -> ValueId {
        id
    }
}

impl From<Out> for ValueId {
    fn from(Out(id): Out) -> ValueId {
        id
    }
}

impl From<ValueId> for In {
    fn from(id: ValueId) -> In {
        In(id)
    }
}

/// What says which row of a weight a token looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupBy {
    /// The token's id.
    Token,
    /// The token's position. A step with a position beyond the weight's rows is an error.
    Position,
}

/// How attention makes scores of products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Factor on q.k.
    pub scale: f32,
    /// What `cap * tanh(score / cap)` makes of a score; 0: a score stays as it is.
    pub cap: f32,
    /// Press et al. 2021 (ALiBi): a score falls by the head's slope with each position between a token and the cell. The
    /// slopes of n heads, a power of two, are 2^(-alibi / n), 2^(-2 alibi / n), ...; of heads beyond such an n they are
    /// every second one of 2n heads. 0: scores do not fall.
    pub alibi: f32,
    /// A token sees no cells behind its own; otherwise all that its sequence has after the step.
    pub causal: bool,
}

impl Scores {
    /// Causal, with a factor and nothing else.
    pub fn scaled(scale: f32) -> Scores {
        Scores { scale, cap: 0.0, alibi: 0.0, causal: true }
    }

    /// By how much the scores of head `head` of `n_head` fall from one position to the next.
    pub fn slope(&self, head: usize, n_head: usize) -> f32 {
        let whole = 1 << n_head.max(1).ilog2();
        let (step, of) = if head < whole { (head + 1, whole) } else { (2 * (head - whole) + 1, 2 * whole) };
        if self.alibi == 0.0 { 0.0 } else { (-self.alibi * step as f32 / of as f32).exp2() }
    }
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// x * sigmoid(x)
    Silu,
    /// The tanh approximation of x * normal distribution's cdf (Hendrycks & Gimpel 2016, section 2).
    Gelu,
    /// max(x, 0)
    Relu,
    /// max(x, 0)^2
    Relu2,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// x * factor
    Scale(f32),
    /// cap * tanh(x / cap)
    SoftCap(f32),
    /// ln(1 + e^x)
    Softplus,
    /// The nearest number from the first to the second.
    Clamp(f32, f32),
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binary {
    /// a + b
    Add,
    /// a * b
    Mul,
    /// f(a) * b: a gated unit, with the gate first.
    Glu(Unary),
    /// g * sigmoid(1.702 g) * (u + 1), g = min(a, 7), u = b within -7 and 7: gpt-oss's gated unit.
    ClampedGlu,
}

/// What makes weights of a router's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function of each.
    Sigmoid,
    /// Softmax over the chosen experts' logits; the logits themselves select.
    SoftmaxOfChosen,
}

/// How a token's experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    pub gating: Gating,
    /// Experts of a token.
    pub n_used: usize,
    /// The chosen weights are divided by their sum, or by this where it is larger; 0: they are not.
    pub least_sum: f32,
    /// Factor on the weights.
    pub scale: f32,
    /// Experts stand in so many groups; only those of the `n_groups_used` groups with the largest sums of their two best
    /// are chosen from. 0 or 1: no groups.
    pub n_groups: usize,
    pub n_groups_used: usize,
    /// So many neighbouring experts share an id, the expert divided by it, and the weight of the expert of that id.
    pub per_id: usize,
}

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / sqrt(mean(x^2) + eps)
    Rms,
    /// (x - mean(x)) / sqrt(variance(x) + eps)
    Layer,
    /// x / sqrt(sum(x^2) + eps)
    L2,
}

/// Which key head a value head goes with, where there are more value heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeads {
    /// Value head h goes with key head h / (value heads / key heads).
    Blocks,
    /// Value head h goes with key head h % key heads.
    Turns,
}

impl KeyHeads {
    /// The key head of value head `h`, of `n_v` over `n_k`.
    pub fn of(self, h: usize, n_v: usize, n_k: usize) -> usize {
        match self {
            KeyHeads::Blocks => h / (n_v / n_k),
            KeyHeads::Turns => h % n_k,
        }
    }
}

/// A normalization: by `kind`, times the weight, plus the bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    pub kind: NormKind,
    pub weight: Option<Vector>,
    pub bias: Option<Vector>,
    pub eps: f32,
}

impl Field for Norm {
    fn role(&self, see: &mut dyn FnMut(Role)) {
        self.weight.role(see);
        self.bias.role(see);
    }

    fn renumber(&mut self, ids: &mut dyn Renumber) {
        self.weight.renumber(ids);
        self.bias.renumber(ids);
    }
}

macro_rules! ops {
    ($( $(#[$doc:meta])* $op:ident { $( $(#[$field_doc:meta])* $field:ident: $ty:ty, )* } )*) => {
        /// One operation, on rows of values.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $( $(#[$doc])* $op { $( $(#[$field_doc])* $field: $ty, )* }, )*
        }

        impl Op {
            /// "MatMul".
            pub fn kind(&self) -> &'static str {
                match self {
                    $( Op::$op { .. } => stringify!($op), )*
                }
            }

            /// Calls `see` for each id that the op holds, in the order of its fields.
            pub fn each(&self, see: &mut dyn FnMut(Role)) {
                match self {
                    $( Op::$op { $($field,)* } => { $( Field::role($field, see); )* } )*
                }
            }

            /// Replaces each id that the op holds.
            pub fn renumber(&mut self, ids: &mut dyn Renumber) {
                match self {
                    $( Op::$op { $($field,)* } => { $( Field::renumber($field, ids); )* } )*
                }
            }
        }
    };
}

ops! {
    /// `out[t] = weight.row(token[t])`, or of the position.
    Embed { weight: Lookup, by: LookupBy, out: Out, }

    /// `value` in each element, in as many rows as `like` has.
    Fill { like: In, value: f32, out: Out, }

    /// out = norm(x), over each `group` of neighbouring elements of a row: the whole row, or each head. The weight and
    /// the bias have `group` elements.
    Norm { x: Over, norm: Norm, group: usize, out: Out, }

    /// `out[t][r] = dot(weight.row(r), x[t]) + bias[r]`
    MatMul { x: In, weight: Matrix, bias: Option<Vector>, out: Out, }

    /// out = x * scale + bias, or x / scale + bias where `divides`. An element of either vector serves as many neighbouring
    /// elements of x as the widths say.
    Affine { x: Over, scale: Option<Vector>, divides: bool, bias: Option<Vector>, out: Out, }

    /// Rotates n_rot elements of each of the `width / head_dim` heads, from `first` on.
    Rope { x: Over, head_dim: usize, first: usize, rope: RopeId, out: Out, }

    /// Each row times 1 + scale * ln(1 + floor(position / length)): attention far behind what a model was trained on.
    Temper { x: Over, scale: f32, length: usize, out: Out, }

    /// The product of each head's matrix with the head's part of x, side by side as the heads are.
    MatMulHeads { x: In, weight: Experts, out: Out, }

    /// Writes k, and v where values are not in the keys, to each token's cell of the cache.
    Append { cache: CacheId, k: In, v: Option<In>, }

    /// Attention of q over the sequence's cells. Query head h reads kv head h / (n_head / n_head_kv); n_head is q's width /
    /// the cache's k. The result is n_head * v wide. A score is q.k times the scale, then capped, then less what its
    /// distance takes. Up to its own position a token sees what the cache's window shows it. A sink, one number for each
    /// query head, is one more score without a value.
    Attention { cache: CacheId, q: In, scores: Scores, sinks: Option<Vector>, out: Out, }

    /// out = f(x)
    Unary { x: Over, f: Unary, out: Out, }

    /// out = f(a, b). An element of b serves as many neighbouring elements of a as the widths say.
    Binary { a: Over, b: Over, f: Binary, out: Out, }

    /// Chooses each token's experts by its logits, plus the bias: ids and weights, the best first; of equals the first.
    /// An id is the bits of a u32. The bias takes part in the choice alone.
    Route { logits: In, bias: Option<Vector>, routing: Routing, ids: Out, weights: Out, }

    /// The product of each of a token's experts with x: `out[t][i] = W[ids[t][i]] x * scale[ids[t][i]] + bias[ids[t][i]]`
    /// for each chosen expert i. x has one row for all of a token's experts, or one for each side by side, as `out` has.
    MatMulExperts { x: In, ids: In, weight: Experts, scale: Option<Vector>, bias: Option<Vector>, out: Out, }

    /// x times each of the weights, side by side: `out[t][i] = weights[t][i] * x[t]`.
    Spread { x: In, weights: In, out: Out, }

    /// The sum of what a token's experts leave side by side: `out[t]` = sum of `weights[t][i] * x[t][i]`, in order; without
    /// weights of `x[t][i]`.
    Combine { x: In, weights: Option<In>, out: Out, }

    /// Of each `group` neighbouring elements of a row the `out's width * group / x's width` from `first` on.
    Columns { x: In, group: usize, first: usize, out: Out, }

    /// For each of `n` groups a's part, then b's: `a's width / n` elements, and what is left of `out's width / n`. Where
    /// b is as wide as one part, that serves all groups.
    Join { a: In, b: In, n: usize, out: Out, }

    /// Causal convolution of each channel over K inputs, then silu where `silu` says so: `out[t][c]` = sum over k of
    /// `weight[c][k] * x[t - K + 1 + k][c]`, plus `bias[c]`. The weight has a row of K numbers a channel. The state is
    /// the K - 1 rows of x before the step, the oldest first.
    Conv { x: In, weight: Vector, bias: Option<Vector>, silu: bool, state: StateId, out: Out, }

    /// Gated delta rule (Yang et al. 2024, "Gated Delta Networks"). Each value head has a matrix S, its share of the
    /// state, with a row for each element of a key and a column for each of a value. A token in turn makes of it
    /// S' = e^g S + k (beta (v - (e^g S)^T k))^T, and `out` is scale * S'^T q. beta has a number a value head; g has one
    /// too, or one for each row of S. q and k have `n_k` heads.
    DeltaNet {
        q: In, k: In, v: In, g: In, beta: In, n_k: usize, heads: KeyHeads, scale: f32, state: StateId, out: Out,
    }

    /// `out[i] = x[step.outputs[i]]`: keeps the rows whose logits are wanted.
    SelectRows { x: In, out: Out, }
}

impl Op {
    /// The values the op reads.
    pub fn inputs(&self) -> impl Iterator<Item = ValueId> {
        self.values(|role| match role {
            Role::In(id) | Role::Over(id) => Some(id),
            Role::Out(_)
            | Role::Lookup(_)
            | Role::Matrix(_)
            | Role::Experts(_)
            | Role::Vector(_)
            | Role::Cache(_)
            | Role::State(_)
            | Role::Rope(_) => None,
        })
    }

    /// Of the values the op reads those whose storage its result may take.
    pub fn overwritable(&self) -> impl Iterator<Item = ValueId> {
        self.values(|role| if let Role::Over(id) = role { Some(id) } else { None })
    }

    /// The values the op computes.
    pub fn outputs(&self) -> impl Iterator<Item = ValueId> {
        self.values(|role| if let Role::Out(id) = role { Some(id) } else { None })
    }

    /// Ids of at most [`MOST_VALUES`] fields, without allocating.
    fn values(&self, pick: impl Fn(Role) -> Option<ValueId>) -> impl Iterator<Item = ValueId> {
        let mut found = [None; MOST_VALUES];
        let mut n = 0;
        self.each(&mut |role| {
            if let Some(id) = pick(role) {
                found[n] = Some(id);
                n += 1;
            }
        });
        found.into_iter().flatten()
    }
}

/// Values in any one role that an op has at most.
const MOST_VALUES: usize = 8;
