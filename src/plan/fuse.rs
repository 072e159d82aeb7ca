//! Ops that a device runs as one: neighbours of the plan fused where that saves passes over activations, meetings of
//! threads, or launches. The list without fusion computes the same.

use std::ops::Range;

use super::*;

/// One matrix of a [`Project`]: a MatMul of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub weight: Matrix,
    pub bias: Option<Vector>,
    pub out: ValueId,
}

/// What follows the products, tile by tile.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    Nothing,
    /// `sum += parts[0].out`: the sum has the storage of what is added to.
    AddTo {
        sum: ValueId,
    },
    /// `out = f(parts[0].out) * parts[1].out`
    Glu {
        f: Unary,
        out: ValueId,
    },
}

/// Products of one input with one or more matrices.
#[derive(Clone, Debug)]
pub struct Project {
    pub x: ValueId,
    /// Over whole rows, applied to x first; the value is where the plan has the result, free to use or not.
    pub norm: Option<(Norm, ValueId)>,
    pub parts: Vec<Part>,
    pub then: Then,
}

/// What happens to one of q and k before the cache and the attention, all in the value's own storage.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadPrep {
    /// Over each head.
    pub norm: Option<Norm>,
    pub rope: Option<RopeId>,
}

/// One or more neighbouring ops of the plan.
#[derive(Clone, Debug)]
pub enum FusedOp {
    /// As the plan has it; products and their neighbours are a Project.
    Single(Op),
    Project(Project),
    /// Prepares q and k, appends k and v.
    PrepareHeads {
        cache: CacheId,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        q_prep: HeadPrep,
        k_prep: HeadPrep,
    },
}

/// The op, and the place in the plan of the last op it stands for.
#[derive(Clone, Debug)]
pub struct Placed {
    pub op: FusedOp,
    pub at: usize,
}

/// Bytes that either list of a plan's ops takes while it grows.
pub fn room(graph: &Graph) -> usize {
    graph.ops.len() * (4 * size_of::<Placed>() + 256)
}

/// One for each op of the plan.
pub fn unfused(graph: &Graph) -> Vec<Placed> {
    graph.ops.iter().enumerate().map(|(at, named)| Placed { op: single(&named.op), at }).collect()
}

pub(super) fn fused(graph: &Graph) -> Vec<Placed> {
    let uses = Uses::of(graph);
    let mut out = Vec::new();
    for segment in graph.segments() {
        let ops = &graph.ops[..segment.ops.end];
        let mut at = segment.ops.start;
        while at < ops.len() {
            let found = project(graph, ops, &uses, at).or_else(|| prepare_heads(graph, ops, &uses, at));
            let (op, n) = found.unwrap_or_else(|| (single(&ops[at].op), 1));
            at += n;
            out.push(Placed { op, at: at - 1 });
        }
    }
    out
}

/// The places of ops that some device runs as one, each in one range, in order: fused ops, and such neighbours of them as
/// devices join further. Storage that one op of a range reads is written by no other of it.
pub(super) fn together(graph: &Graph, fused: &[Placed]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut before: Option<&FusedOp> = None;
    for Placed { op, at } in fused {
        let joined = matches!(
            (before, op),
            (Some(FusedOp::Project(_)), FusedOp::PrepareHeads { .. })
                | (Some(FusedOp::Single(Op::SelectRows { .. })), FusedOp::Project(_))
        );
        match ranges.last_mut() {
            Some(last) if joined && graph.cuts.iter().all(|cut| cut.at != last.end) => last.end = at + 1,
            Some(last) => {
                let start = last.end;
                ranges.push(start..at + 1);
            }
            None => ranges.push(0..at + 1),
        }
        before = Some(op);
    }
    ranges
}

fn single(op: &Op) -> FusedOp {
    match *op {
        Op::MatMul { x, weight, bias, out } => {
            let parts = vec![Part { weight, bias, out: out.0 }];
            FusedOp::Project(Project { x: x.0, norm: None, parts, then: Then::Nothing })
        }
        ref op => FusedOp::Single(op.clone()),
    }
}

/// Where each value is read.
pub struct Uses {
    /// Per value the first and the last op that reads it.
    read: Vec<Option<(usize, usize)>>,
}

impl Uses {
    pub fn of(graph: &Graph) -> Uses {
        let mut read = vec![None; graph.values.len()];
        for (at, named) in graph.ops.iter().enumerate() {
            for id in named.op.inputs() {
                let (first, _) = *read[id.0 as usize].get_or_insert((at, at));
                read[id.0 as usize] = Some((first, at));
            }
        }
        for Segment { ops, outputs, .. } in graph.segments() {
            for id in outputs {
                let (first, last) = read[id.0 as usize].unwrap_or((ops.end, ops.end));
                read[id.0 as usize] = Some((first.min(ops.end), last.max(ops.end)));
            }
        }
        Uses { read }
    }

    /// The last op that reads the value. What a segment leaves is read where the segment ends, by the op that would follow.
    pub fn last(&self, id: ValueId) -> Option<usize> {
        self.read[id.0 as usize].map(|(_, last)| last)
    }

    /// Whether only ops of the range read the value.
    pub fn only_within(&self, id: ValueId, range: Range<usize>) -> bool {
        self.read[id.0 as usize].is_none_or(|(first, last)| range.contains(&first) && range.contains(&last))
    }
}

fn op(ops: &[NamedOp], at: usize) -> Option<&Op> {
    ops.get(at).map(|named| &named.op)
}

/// `[Norm] MatMul+ [Glu | Add]` from `at` on, and how many ops that is.
fn project(graph: &Graph, ops: &[NamedOp], uses: &Uses, at: usize) -> Option<(FusedOp, usize)> {
    let mut next = at;
    let mut normed = None;
    if let Op::Norm { x, norm, group, out } = *op(ops, at)?
        && group == graph.width(x)
    {
        normed = Some((x.0, norm, out.0));
        next += 1;
    }
    let Op::MatMul { x, .. } = *op(ops, next)? else {
        return None;
    };
    let first = next;
    let mut parts: Vec<Part> = Vec::new();
    while let Some(&Op::MatMul { x: input, weight, bias, out }) = op(ops, next)
        && input == x
    {
        parts.push(Part { weight, bias, out: out.0 });
        next += 1;
    }
    let (x, norm) = match normed {
        Some((before, norm, result)) if result == x.0 && uses.only_within(result, first..next) => {
            (before, Some((norm, result)))
        }
        Some(_) => return None,
        None => (x.0, None),
    };
    let mut then = Then::Nothing;
    match (parts.as_slice(), op(ops, next)) {
        (&[p], Some(&Op::Binary { a, b, f: Binary::Add, out }))
            if b.0 == p.out
                && a.0 != p.out
                && a.0 != x
                && graph.width(a) == graph.width(b)
                && uses.last(a.0) == Some(next)
                && uses.only_within(p.out, next..next + 1) =>
        {
            then = Then::AddTo { sum: out.0 };
            next += 1;
        }
        (&[g, u], Some(&Op::Binary { a, b, f: Binary::Glu(f), out }))
            if a.0 == g.out
                && b.0 == u.out
                && graph.width(g.out) == graph.width(u.out)
                && [g.out, u.out].iter().all(|id| uses.only_within(*id, next..next + 1)) =>
        {
            then = Then::Glu { f, out: out.0 };
            next += 1;
        }
        _ => {}
    }
    Some((FusedOp::Project(Project { x, norm, parts, then }), next - at))
}

/// Norms over the heads of q and k and their rotations, up to the Append and Attention that use them: stops before the
/// Attention.
fn prepare_heads(graph: &Graph, ops: &[NamedOp], uses: &Uses, at: usize) -> Option<(FusedOp, usize)> {
    // look ahead to learn which values become q and k
    let append = (at..(at + 5).min(ops.len())).find(|&i| matches!(op(ops, i), Some(Op::Append { .. })))?;
    let (Some(&Op::Append { cache, k, v: Some(v) }), Some(&Op::Attention { cache: read, q, .. })) =
        (op(ops, append), op(ops, append + 1))
    else {
        return None;
    };
    let dim = graph.cache(cache).k;
    if read != cache {
        return None;
    }
    // from the last op back: which value each of them has been before
    let (mut q_now, mut k_now) = (q.0, k.0);
    let (mut q_prep, mut k_prep) = (HeadPrep::default(), HeadPrep::default());
    for i in (at..append).rev() {
        let (x, out) = match *op(ops, i)? {
            Op::Norm { x, out, .. } | Op::Rope { x, out, .. } => (x.0, out.0),
            _ => return None,
        };
        let (now, prep) = match out {
            out if out == q_now => (&mut q_now, &mut q_prep),
            out if out == k_now => (&mut k_now, &mut k_prep),
            _ => return None,
        };
        match *op(ops, i)? {
            Op::Norm { norm, group, .. } if group == dim && prep.norm.is_none() => prep.norm = Some(norm),
            // the rotation comes last
            Op::Rope { head_dim, first: 0, rope, .. }
                if head_dim == dim && prep.norm.is_none() && prep.rope.is_none() =>
            {
                prep.rope = Some(rope);
            }
            _ => return None,
        }
        // the result takes the storage of what it is made of
        if uses.last(x) != Some(i) {
            return None;
        }
        *now = x;
    }
    Some((FusedOp::PrepareHeads { cache, q: q.0, k: k.0, v: v.0, q_prep, k_prep }, append + 1 - at))
}
