//! Ops that a device runs as one: neighbours of the plan fused where that saves passes over activations, meetings of
//! threads, or launches. The list without fusion computes the same.

use super::plan::*;

/// A norm over whole rows, computed where its result is used.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub weight: WeightId,
    pub eps: f32,
}

/// One matrix of a [`Project`].
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub out: BufferId,
}

/// What follows the products, tile by tile.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    Nothing,
    /// `into += parts[0].out`
    AddTo(BufferId),
    /// `parts[0].out = activation(parts[0].out) * parts[1].out`
    Glu(Activation),
}

/// Products of one input with one or more matrices.
#[derive(Clone, Debug)]
pub struct Project {
    pub x: BufferId,
    /// Applied to x first; the buffer is where the plan has the result, free to use or not.
    pub norm: Option<(Norm, BufferId)>,
    pub parts: Vec<Part>,
    pub then: Then,
}

/// What happens to one of q and k before the cache and the attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadPrep {
    /// Over each head.
    pub norm: Option<Norm>,
    pub rope: Option<RopeId>,
}

/// One or more neighbouring ops of the plan.
#[derive(Clone, Debug)]
pub enum FusedOp {
    Embed {
        weight: WeightId,
        out: BufferId,
    },
    RmsNorm {
        x: BufferId,
        norm: Norm,
        out: BufferId,
    },
    Project(Project),
    Rope {
        x: BufferId,
        head_dim: usize,
        rope: RopeId,
    },
    KvAppend {
        layer: usize,
        k: BufferId,
        v: BufferId,
    },
    /// Prepares q and k, appends k and v.
    PrepareHeads {
        layer: usize,
        q: BufferId,
        k: BufferId,
        v: BufferId,
        q_prep: HeadPrep,
        k_prep: HeadPrep,
    },
    Attention {
        layer: usize,
        q: BufferId,
        scale: f32,
        out: BufferId,
    },
    Glu {
        gate: BufferId,
        up: BufferId,
        activation: Activation,
        out: BufferId,
    },
    Add {
        a: BufferId,
        b: BufferId,
        out: BufferId,
    },
    SelectRows {
        x: BufferId,
        out: BufferId,
    },
}

/// The op, and the place in the plan of the last op it stands for.
#[derive(Clone, Debug)]
pub struct Placed {
    pub op: FusedOp,
    pub at: usize,
}

/// Bytes that either list of a plan's ops takes while it grows.
pub fn room(plan: &Plan) -> usize {
    plan.ops.len() * (4 * size_of::<Placed>() + 256)
}

/// One for each op of the plan.
pub fn unfused(plan: &Plan) -> Vec<Placed> {
    plan.ops.iter().enumerate().map(|(at, named)| Placed { op: single(&named.op), at }).collect()
}

pub fn fused(plan: &Plan) -> Vec<Placed> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < plan.ops.len() {
        let found = project(plan, at).or_else(|| prepare_heads(plan, at));
        let (op, n) = found.unwrap_or_else(|| (single(&plan.ops[at].op), 1));
        at += n;
        out.push(Placed { op, at: at - 1 });
    }
    out
}

fn single(op: &Op) -> FusedOp {
    match *op {
        Op::Embed { weight, out } => FusedOp::Embed { weight, out },
        Op::RmsNorm { x, weight, eps, out } => FusedOp::RmsNorm { x, norm: Norm { weight, eps }, out },
        Op::MatMul { x, weight, bias, out } => {
            let parts = vec![Part { weight, bias, out }];
            FusedOp::Project(Project { x, norm: None, parts, then: Then::Nothing })
        }
        Op::Rope { x, head_dim, rope } => FusedOp::Rope { x, head_dim, rope },
        Op::KvAppend { layer, k, v } => FusedOp::KvAppend { layer, k, v },
        Op::Attention { layer, q, scale, out } => FusedOp::Attention { layer, q, scale, out },
        Op::Glu { gate, up, activation, out } => FusedOp::Glu { gate, up, activation, out },
        Op::Add { a, b, out } => FusedOp::Add { a, b, out },
        Op::SelectRows { x, out } => FusedOp::SelectRows { x, out },
    }
}

fn op(plan: &Plan, at: usize) -> Option<&Op> {
    plan.ops.get(at).map(|named| &named.op)
}

/// Whether nobody reads what `buffer` holds before op `from`.
pub fn is_dead(plan: &Plan, from: usize, buffer: BufferId) -> bool {
    for named in &plan.ops[from..] {
        if named.op.inputs().contains(&Some(buffer)) {
            return false;
        }
        if named.op.output() == Some(buffer) {
            return true;
        }
    }
    buffer != plan.output
}

/// `[RmsNorm] MatMul+ [Glu | Add]` from `at` on, and how many ops that is.
fn project(plan: &Plan, at: usize) -> Option<(FusedOp, usize)> {
    let mut next = at;
    let mut norm = None;
    if let Op::RmsNorm { x, weight, eps, out } = *op(plan, at)?
        && x != out
        && plan.weight(weight).cols == plan.buffer(x).width
    {
        norm = Some((x, out, Norm { weight, eps }));
        next += 1;
    }
    let Op::MatMul { x, .. } = *op(plan, next)? else {
        return None;
    };
    let mut parts: Vec<Part> = Vec::new();
    while let Some(&Op::MatMul { x: input, weight, bias, out }) = op(plan, next) {
        // outputs are written while the input is still read
        let clashes = out == x || norm.is_some_and(|(x, ..)| x == out) || parts.iter().any(|p| p.out == out);
        if input != x || clashes {
            break;
        }
        parts.push(Part { weight, bias, out });
        next += 1;
    }
    if parts.is_empty() {
        return None;
    }
    let (x, norm) = match norm {
        Some((before, normed, norm)) if normed == x && is_dead(plan, next, normed) => {
            (before, Some((norm, normed)))
        }
        Some(_) => return None,
        None => (x, None),
    };
    let mut then = Then::Nothing;
    match (parts.as_slice(), op(plan, next)) {
        (&[p], Some(&Op::Add { a, b, out }))
            if a == out && b == p.out && a != b && a != x && is_dead(plan, next + 1, b) =>
        {
            then = Then::AddTo(a);
            next += 1;
        }
        (&[g, u], Some(&Op::Glu { gate, up, activation, out }))
            if gate == g.out && up == u.out && out == gate && is_dead(plan, next + 1, up) =>
        {
            then = Then::Glu(activation);
            next += 1;
        }
        _ => {}
    }
    Some((FusedOp::Project(Project { x, norm, parts, then }), next - at))
}

/// In-place norms and rotations of q and k up to the KvAppend and Attention that use them: stops
/// before the Attention.
fn prepare_heads(plan: &Plan, at: usize) -> Option<(FusedOp, usize)> {
    // look ahead to learn which buffers are q and k
    let append =
        (at..(at + 5).min(plan.ops.len())).find(|&i| matches!(op(plan, i), Some(Op::KvAppend { .. })))?;
    let (Some(&Op::KvAppend { layer, k, v }), Some(&Op::Attention { q, .. })) =
        (op(plan, append), op(plan, append + 1))
    else {
        return None;
    };
    let head_dim = plan.cache.head_dim;
    let (mut q_prep, mut k_prep) = (HeadPrep::default(), HeadPrep::default());
    for i in at..append {
        let prep_of = |x: BufferId| [x == q, x == k];
        match *op(plan, i)? {
            Op::RmsNorm { x, weight, eps, out } if x == out && plan.weight(weight).cols == head_dim => {
                let prep = match prep_of(x) {
                    [true, false] => &mut q_prep,
                    [false, true] => &mut k_prep,
                    _ => return None,
                };
                if prep.norm.is_some() || prep.rope.is_some() {
                    return None;
                }
                prep.norm = Some(Norm { weight, eps });
            }
            Op::Rope { x, head_dim: dim, rope } if dim == head_dim => {
                let prep = match prep_of(x) {
                    [true, false] => &mut q_prep,
                    [false, true] => &mut k_prep,
                    _ => return None,
                };
                if prep.rope.is_some() {
                    return None;
                }
                prep.rope = Some(rope);
            }
            _ => return None,
        }
    }
    Some((FusedOp::PrepareHeads { layer, q, k, v, q_prep, k_prep }, append + 1 - at))
}
