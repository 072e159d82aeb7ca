//! From a plan's fused ops to what a GPU is given for a step, by how many tokens the step has.

use super::ops::Q8_BLOCK;
use super::ops::project::wants_rounded;
use crate::plan::fuse::{self, FusedOp, HeadPrep, Norm, Placed, Project, Then};
use crate::plan::*;

/// How an op leaves its result for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// In the plan's buffer, f32.
    pub plain: bool,
    /// Rounded to 8 bits in one of the session's two [`Rounded`] places; in steps of many tokens to f16, in the one
    /// place for that.
    pub rounded: Option<Rounded>,
}

/// Two places, so that an op can read one and write the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounded {
    /// Of what norms and attention leave.
    First,
    /// Of what a gated unit leaves.
    Second,
}

impl Forms {
    const PLAIN: Forms = Forms { plain: true, rounded: None };
}

/// Where a [`Project`] finds its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// It is rounded already, there.
    pub rounded: Option<Rounded>,
    /// Of the outputs' rows alone: x holds all tokens'.
    pub select: bool,
}

/// An op as a GPU gets it: one launch, or few.
#[derive(Clone, Debug)]
pub enum StepOp {
    /// As the plan has it.
    Single(FusedOp),
    Project {
        project: Project,
        source: Source,
        to: Forms,
    },
    /// Of one token: a [`Project`] to q, k and v, rotation and cache.
    Qkv {
        project: Project,
        layer: usize,
        rope: RopeId,
    },
    Attention {
        layer: usize,
        q: BufferId,
        scale: f32,
        out: BufferId,
        to: Forms,
    },
}

#[derive(Clone, Debug)]
pub struct Scheduled {
    pub op: StepOp,
    /// Place in the plan of the last op it stands for.
    pub at: usize,
}

/// Tokens of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One: products, rotation, cache and gates in as few launches as can be.
    One,
    /// Few: matrix-vector products.
    Few,
    /// Many: matrix products of f16 rows.
    Many,
}

/// One for each op of the plan.
pub fn unfused(plan: &Plan) -> Vec<Scheduled> {
    let single = |Placed { op, at }| Scheduled { op: alone(op), at };
    fuse::unfused(plan).into_iter().map(single).collect()
}

fn alone(op: FusedOp) -> StepOp {
    match op {
        FusedOp::Project(project) => {
            let source = Source { rounded: None, select: false };
            StepOp::Project { project, source, to: Forms::PLAIN }
        }
        FusedOp::Attention { layer, q, scale, out } => {
            StepOp::Attention { layer, q, scale, out, to: Forms::PLAIN }
        }
        op => StepOp::Single(op),
    }
}

pub fn fused(plan: &Plan, size: Size) -> Vec<Scheduled> {
    let ops = fuse::fused(plan);
    let mut scheduled: Vec<Scheduled> = Vec::new();
    // how the op before left the input of this one
    let mut left = Forms::PLAIN;
    let mut i = 0;
    while i < ops.len() {
        let Placed { op, at } = &ops[i];
        let mut at = *at;
        let forms = |out: BufferId, place| match (size, place) {
            (Size::Many, Rounded::First) => Forms::PLAIN,
            (Size::Many, Rounded::Second) => half_form(plan, ops.get(i + 1), out),
            _ => forms(plan, ops.get(i + 1), out, place),
        };
        let came = std::mem::replace(&mut left, Forms::PLAIN).rounded;
        let next = ops.get(i + 1).map(|placed| &placed.op);
        let op = match op {
            FusedOp::Project(project) => {
                let qkv = next.and_then(|next| qkv(plan, project, next)).filter(|_| size == Size::One);
                if let Some(op) = qkv {
                    i += 1;
                    at = ops[i].at;
                    op
                } else {
                    let to = match project.then {
                        Then::Glu(_) => forms(project.parts[0].out, Rounded::Second),
                        _ => Forms::PLAIN,
                    };
                    left = to;
                    let source = Source { rounded: came, select: false };
                    StepOp::Project { project: project.clone(), source, to }
                }
            }
            FusedOp::Attention { layer, q, scale, out } => {
                let whole = plan.cache.head_dim.is_multiple_of(Q8_BLOCK);
                let to = if whole { forms(*out, Rounded::First) } else { Forms::PLAIN };
                left = to;
                StepOp::Attention { layer: *layer, q: *q, scale: *scale, out: *out, to }
            }
            FusedOp::SelectRows { x, out } => {
                let selected = next.and_then(|next| select(plan, *x, *out, next, ops[i + 1].at));
                match selected.filter(|_| size != Size::Many) {
                    Some(project) => {
                        i += 1;
                        at = ops[i].at;
                        let source = Source { rounded: None, select: true };
                        StepOp::Project { project, source, to: Forms::PLAIN }
                    }
                    None => StepOp::Single(FusedOp::SelectRows { x: *x, out: *out }),
                }
            }
            op => alone(op.clone()),
        };
        scheduled.push(Scheduled { op, at });
        i += 1;
    }
    scheduled
}

/// How `out` is best left for the op that comes next.
fn forms(plan: &Plan, next: Option<&Placed>, out: BufferId, place: Rounded) -> Forms {
    let Some(Placed { op: FusedOp::Project(project), at }) = next else { return Forms::PLAIN };
    let width = plan.buffer(out).width;
    if project.x != out || project.norm.is_some() || !width.is_multiple_of(Q8_BLOCK) {
        return Forms::PLAIN;
    }
    let rounded = project.parts.iter().filter(|part| wants_rounded(plan.weight(part.weight).ty)).count();
    let plain = rounded < project.parts.len() || !fuse::is_dead(plan, at + 1, out);
    Forms { plain, rounded: (rounded > 0).then_some(place) }
}

/// A gated unit's result in f16 alone, where the product that comes next is all that reads it.
fn half_form(plan: &Plan, next: Option<&Placed>, out: BufferId) -> Forms {
    match next {
        Some(Placed { op: FusedOp::Project(project), at })
            if project.x == out && project.norm.is_none() && fuse::is_dead(plan, at + 1, out) =>
        {
            Forms { plain: false, rounded: Some(Rounded::Second) }
        }
        _ => Forms::PLAIN,
    }
}

/// The product to q, k and v and the preparation that follows it, as one op.
fn qkv(plan: &Plan, project: &Project, next: &FusedOp) -> Option<StepOp> {
    let FusedOp::PrepareHeads { layer, q, k, v, q_prep, k_prep } = *next else { return None };
    let rope = match (q_prep, k_prep) {
        (HeadPrep { norm: None, rope: Some(a) }, HeadPrep { norm: None, rope: Some(b) }) if a == b => a,
        _ => return None,
    };
    let outs: Vec<_> = project.parts.iter().map(|part| part.out).collect();
    let head_dim = plan.cache.head_dim;
    let whole = project.parts.iter().all(|part| plan.weight(part.weight).rows.is_multiple_of(head_dim));
    if outs != [q, k, v] || !whole || !head_dim.is_multiple_of(2) || !matches!(project.then, Then::Nothing) {
        return None;
    }
    Some(StepOp::Qkv { project: project.clone(), layer, rope })
}

/// The product of selected rows, where they are normalized on their way and nobody else wants them.
fn select(plan: &Plan, x: BufferId, out: BufferId, next: &FusedOp, at: usize) -> Option<Project> {
    let FusedOp::Project(project) = next else { return None };
    let (Norm { .. }, _) = project.norm?;
    let width = plan.buffer(x).width;
    if project.x != out || !fuse::is_dead(plan, at + 1, out) || !width.is_multiple_of(Q8_BLOCK) {
        return None;
    }
    Some(Project { x, ..project.clone() })
}
