//! From a plan's fused ops to what a GPU is given for a step, by how many tokens the step has.

use super::ops::Q8_BLOCK;
use super::ops::elementwise::gate_code;
use super::ops::project::wants_rounded;
use crate::plan::fuse::{self, FusedOp, HeadPrep, Placed, Project, Then, Uses};
use crate::plan::*;

/// In which forms an op leaves its result for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forms {
    /// In the value's slot, f32.
    pub plain: bool,
    pub rounded: Option<Rounded>,
}

/// What products read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounded {
    /// 8 bits, for products of few rows.
    Q8(Place),
    /// f16 rows, for products of many; a session has one place for them.
    F16,
}

/// Of a session's two places for 8-bit rows, so that an op can read one and write the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// What norms and attention leave.
    First,
    /// What a gated unit leaves.
    Second,
}

impl Forms {
    pub const PLAIN: Forms = Forms { plain: true, rounded: None };
}

/// Where a [`Project`] finds its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The op before has left it so.
    pub rounded: Option<Rounded>,
    /// Read only the rows in `outputs`; x holds every token's row.
    pub select: bool,
}

impl Source {
    const PLAIN: Source = Source { rounded: None, select: false };
}

/// An op as a GPU gets it: one launch, or few.
#[derive(Clone, Debug)]
pub enum StepOp {
    /// As the plan has it: any but products, of experts too, and attention.
    Single(Op),
    PrepareHeads {
        cache: CacheId,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        q_prep: HeadPrep,
        k_prep: HeadPrep,
    },
    Project {
        project: Project,
        source: Source,
        to: Forms,
    },
    /// Of one token: a [`Project`] to q, k and v, rotation and cache.
    Qkv {
        project: Project,
        cache: CacheId,
        rope: RopeId,
    },
    Attention {
        cache: CacheId,
        q: ValueId,
        scores: Scores,
        sinks: Option<Vector>,
        out: ValueId,
        to: Forms,
    },
    Experts(Mixed),
    /// Of whole rows, for few tokens.
    Norm {
        x: ValueId,
        norm: Norm,
        out: ValueId,
        to: Forms,
    },
    /// The weighted sum of what experts made, on top of `add`.
    CombineTo {
        x: ValueId,
        weights: Option<ValueId>,
        add: ValueId,
        out: ValueId,
    },
}

/// Products of one input with each token's experts.
#[derive(Clone, Debug)]
pub struct Mixed {
    pub x: ValueId,
    pub ids: ValueId,
    pub parts: Vec<ExpertPart>,
    /// What is left of two products, gate and up, instead of them.
    pub unit: Option<(Binary, ValueId)>,
    /// How an op before has left the input.
    pub rounded: Option<Rounded>,
    pub to: Forms,
    /// Whether many tokens' pairs are yet to be sorted by these ids.
    pub sort: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct ExpertPart {
    pub weight: Experts,
    pub scale: Option<Vector>,
    pub bias: Option<Vector>,
    pub out: ValueId,
}

impl Mixed {
    /// The op by itself.
    fn single(op: &Op) -> Option<Mixed> {
        let Op::MatMulExperts { x, ids, weight, scale, bias, out } = *op else { return None };
        let parts = vec![ExpertPart { weight, scale, bias, out: out.0 }];
        Some(Mixed { x: x.0, ids: ids.0, parts, unit: None, rounded: None, to: Forms::PLAIN, sort: true })
    }
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

/// The op with its input and its result in f32.
fn alone(op: FusedOp) -> StepOp {
    match op {
        FusedOp::Project(project) => StepOp::Project { project, source: Source::PLAIN, to: Forms::PLAIN },
        FusedOp::PrepareHeads { cache, q, k, v, q_prep, k_prep } => {
            StepOp::PrepareHeads { cache, q, k, v, q_prep, k_prep }
        }
        FusedOp::Single(Op::Attention { cache, q, scores, sinks, out }) => {
            StepOp::Attention { cache, q: q.0, scores, sinks, out: out.0, to: Forms::PLAIN }
        }
        FusedOp::Single(op) => match Mixed::single(&op) {
            Some(mixed) => StepOp::Experts(mixed),
            None => StepOp::Single(op),
        },
    }
}

pub fn fused(plan: &Plan, size: Size) -> Vec<Scheduled> {
    let scheduler = Scheduler { plan, uses: Uses::of(plan), size };
    let ops_of = |segment: Segment<'_>| segment.part_of(plan.fused(), |placed| placed.at);
    plan.segments().flat_map(|segment| scheduled(&scheduler, ops_of(segment))).collect()
}

/// A segment's ops.
fn scheduled(scheduler: &Scheduler<'_>, ops: &[Placed]) -> Vec<Scheduled> {
    let mut scheduled: Vec<Scheduled> = Vec::new();
    // how the op before left the input of this one
    let mut left = Forms::PLAIN;
    // the value whose 8-bit rows lie in the first place
    let mut first = None;
    // the ids by which pairs have been sorted last
    let mut sorted = None;
    let mut i = 0;
    while let Some(placed) = ops.get(i) {
        let next = ops.get(i + 1);
        let came = |x: ValueId| left.rounded.or((first == Some(x)).then_some(Rounded::Q8(Place::First)));
        let (op, n) = if let Some((mut mixed, n)) = scheduler.experts(&ops[i..]) {
            mixed.rounded = came(mixed.x);
            mixed.sort = sorted.replace(mixed.ids) != Some(mixed.ids);
            (StepOp::Experts(mixed), n)
        } else if let Some(op) = next.and_then(|next| scheduler.joined(&placed.op, next)) {
            (op, 2)
        } else if let Some(op) = scheduler.norm(&ops[i..]) {
            (op, 1)
        } else {
            let came = match &placed.op {
                FusedOp::Project(Project { x, norm: None, .. }) => came(*x),
                _ => left.rounded,
            };
            (scheduler.op(&placed.op, came, next), 1)
        };
        if matches!(op, StepOp::Single(Op::MatMulHeads { .. })) {
            sorted = None; // it sorts pairs of its own
        }
        first = scheduler.first_place(&op, first);
        left = match op {
            StepOp::Project { to, .. } | StepOp::Attention { to, .. } => to,
            StepOp::Experts(Mixed { to, .. }) => to,
            // who wants a norm's rounded rows finds them in the first place
            StepOp::Norm { .. } | StepOp::CombineTo { .. } => Forms::PLAIN,
            StepOp::Single(_) | StepOp::PrepareHeads { .. } | StepOp::Qkv { .. } => Forms::PLAIN,
        };
        i += n;
        scheduled.push(Scheduled { op, at: ops[i - 1].at });
    }
    scheduled
}

struct Scheduler<'a> {
    plan: &'a Plan,
    uses: Uses,
    size: Size,
}

impl Scheduler<'_> {
    fn op(&self, op: &FusedOp, came: Option<Rounded>, next: Option<&Placed>) -> StepOp {
        match op {
            FusedOp::Project(project) => {
                let to = match project.then {
                    Then::Glu { f, out } => self.gated(f, out, next),
                    Then::Nothing | Then::AddTo { .. } => Forms::PLAIN,
                };
                let source = Source { rounded: came, select: false };
                StepOp::Project { project: project.clone(), source, to }
            }
            FusedOp::Single(Op::Attention { cache, q, scores, sinks, out }) => {
                let whole = self.plan.cache(*cache).v().is_multiple_of(Q8_BLOCK) && self.size != Size::Many;
                let to = if whole { self.rounded(out.0, next, Place::First) } else { Forms::PLAIN };
                let (cache, scores, sinks) = (*cache, *scores, *sinks);
                StepOp::Attention { cache, q: q.0, scores, sinks, out: out.0, to }
            }
            FusedOp::Single(_) | FusedOp::PrepareHeads { .. } => alone(op.clone()),
        }
    }

    /// A norm of whole rows of few tokens, with rounded rows where a product behind it wants them, and nothing before that
    /// takes their place.
    fn norm(&self, ops: &[Placed]) -> Option<StepOp> {
        let (Placed { op: FusedOp::Single(Op::Norm { x, norm, group, out }), .. }, behind) =
            ops.split_first()?
        else {
            return None;
        };
        let width = self.plan.width(x.0);
        if self.size == Size::Many || *group != width || !width.is_multiple_of(Q8_BLOCK) {
            return None;
        }
        let mut rounded = None;
        for Placed { op, .. } in behind {
            let wanted = match op {
                FusedOp::Project(project) if project.x == out.0 && project.norm.is_none() => {
                    self.rounds(project)
                }
                FusedOp::Single(Op::MatMulExperts { x, weight, .. }) if x.0 == out.0 => {
                    self.wants_rounded(*weight)
                }
                FusedOp::Single(Op::Route { .. }) => false,
                _ => break,
            };
            if wanted {
                rounded = Some(Rounded::Q8(Place::First));
                break;
            }
        }
        Some(StepOp::Norm { x: x.0, norm: *norm, out: out.0, to: Forms { plain: true, rounded } })
    }

    fn wants_rounded(&self, weight: impl Into<WeightId>) -> bool {
        wants_rounded(self.plan.weight(weight).ty)
    }

    /// Whether some of the products take rounded rows.
    fn rounds(&self, project: &Project) -> bool {
        project.parts.iter().any(|part| self.wants_rounded(part.weight))
    }

    /// The value whose 8-bit rows lie in the first place behind an op.
    fn first_place(&self, op: &StepOp, before: Option<ValueId>) -> Option<ValueId> {
        const FIRST: Option<Rounded> = Some(Rounded::Q8(Place::First));
        if self.size == Size::Many {
            return None;
        }
        match op {
            StepOp::Norm { out, to, .. } | StepOp::Attention { out, to, .. } if to.rounded == FIRST => {
                Some(*out)
            }
            StepOp::Norm { .. } | StepOp::Attention { .. } => before,
            StepOp::Project { project, source, .. } => match source.rounded {
                _ if project.norm.is_some() || source.select => None,
                _ if !self.rounds(project) => before,
                Some(Rounded::Q8(Place::First)) | None => Some(project.x),
                Some(Rounded::Q8(Place::Second) | Rounded::F16) => before,
            },
            StepOp::Experts(mixed) if mixed.parts.iter().any(|part| self.wants_rounded(part.weight)) => {
                Some(mixed.x)
            }
            StepOp::Experts(_) => before,
            StepOp::Qkv { .. } | StepOp::Single(Op::MatMulHeads { .. }) => None,
            StepOp::Single(_) | StepOp::PrepareHeads { .. } | StepOp::CombineTo { .. } => before,
        }
    }

    /// An op and the next as one.
    fn joined(&self, op: &FusedOp, next: &Placed) -> Option<StepOp> {
        match (op, &next.op) {
            (FusedOp::Project(project), FusedOp::PrepareHeads { cache, q, k, v, q_prep, k_prep })
                if self.size == Size::One =>
            {
                self.qkv(project, *cache, [*q, *k, *v], [*q_prep, *k_prep], next.at)
            }
            (FusedOp::Single(Op::SelectRows { x, out }), FusedOp::Project(project))
                if self.size != Size::Many =>
            {
                let project = self.selected(x.0, out.0, project, next.at)?;
                let source = Source { rounded: None, select: true };
                Some(StepOp::Project { project, source, to: Forms::PLAIN })
            }
            (
                FusedOp::Single(Op::Combine { x, weights, out }),
                FusedOp::Single(Op::Binary { a, b, f: Binary::Add, out: sum }),
            ) => self.combined(x.0, weights.map(ValueId::from), out.0, [a.0, b.0], sum.0, next.at),
            _ => None,
        }
    }

    /// A sum of what experts made, added to something on its way.
    fn combined(
        &self,
        x: ValueId,
        weights: Option<ValueId>,
        out: ValueId,
        [a, b]: [ValueId; 2],
        sum: ValueId,
        at: usize,
    ) -> Option<StepOp> {
        let plan = self.plan;
        let add = if a == out { b } else { a };
        // the sum is written while what experts made and their weights are read
        let apart = [Some(x), weights].iter().flatten().all(|id| plan.slot(*id) != plan.slot(sum));
        let alike = add != out && (a == out || b == out) && plan.width(a) == plan.width(b);
        (alike && apart && self.is_dead_behind(at, out)).then_some(StepOp::CombineTo {
            x,
            weights,
            add,
            out: sum,
        })
    }

    /// The products of experts that `ops` begin with: one, or gate and up with their unit; and how many ops that is.
    fn experts(&self, ops: &[Placed]) -> Option<(Mixed, usize)> {
        let product = |op: &Placed| match &op.op {
            FusedOp::Single(op) => Mixed::single(op),
            FusedOp::Project(_) | FusedOp::PrepareHeads { .. } => None,
        };
        let gate = product(ops.first()?)?;
        let (Some(up), Some(Placed { op: FusedOp::Single(Op::Binary { a, b, f, out }), at })) =
            (ops.get(1).and_then(product), ops.get(2))
        else {
            return Some((gate, 1));
        };
        let outs = [gate.parts[0].out, up.parts[0].out];
        let dead = outs.iter().all(|id| self.is_dead_behind(*at, *id));
        // the unit is written while the input and the ids are read
        let apart = [gate.x, gate.ids].iter().all(|id| self.plan.slot(*id) != self.plan.slot(*out));
        let alike = self.plan.width(outs[0]) == self.plan.width(outs[1]);
        if (gate.x, gate.ids, outs) != (up.x, up.ids, [a.0, b.0]) || !alike || !dead || !apart {
            return Some((gate, 1));
        }
        let parts = [gate.parts, up.parts].concat();
        let half = self.size == Size::Many && self.plan.value(*out).rows == Rows::Tokens;
        let next = ops.get(3).and_then(product).filter(|next| (next.x, next.ids) == (out.0, gate.ids));
        let to = match next {
            Some(_) if half && gate_code(*f).is_some() && self.is_dead_behind(ops[3].at, out.0) => {
                Forms { plain: false, rounded: Some(Rounded::F16) }
            }
            Some(_) | None => Forms::PLAIN,
        };
        Some((Mixed { parts, unit: Some((*f, out.0)), to, ..gate }, 3))
    }

    /// How a gated unit is best left for the op that comes next.
    fn gated(&self, f: Unary, out: ValueId, next: Option<&Placed>) -> Forms {
        match self.size {
            Size::One | Size::Few => self.rounded(out, next, Place::Second),
            // outputs of a step of many tokens may be few
            Size::Many
                if self.plan.value(out).rows == Rows::Outputs || gate_code(Binary::Glu(f)).is_none() =>
            {
                Forms::PLAIN
            }
            Size::Many => match self.reader(out, next) {
                Some((_, true)) => Forms { plain: false, rounded: Some(Rounded::F16) },
                Some((_, false)) | None => Forms::PLAIN,
            },
        }
    }

    /// How `out` is best left for the product that comes next, of few rows.
    fn rounded(&self, out: ValueId, next: Option<&Placed>, place: Place) -> Forms {
        let Some((project, is_last)) = self.reader(out, next) else { return Forms::PLAIN };
        if !self.plan.width(out).is_multiple_of(Q8_BLOCK) {
            return Forms::PLAIN;
        }
        let rounded = project.parts.iter().filter(|part| self.wants_rounded(part.weight)).count();
        let plain = rounded < project.parts.len() || !is_last;
        Forms { plain, rounded: (rounded > 0).then_some(Rounded::Q8(place)) }
    }

    /// The product that comes next, where it reads `out` as it is, and whether nothing behind it does.
    fn reader<'p>(&self, out: ValueId, next: Option<&'p Placed>) -> Option<(&'p Project, bool)> {
        match next {
            Some(Placed { op: FusedOp::Project(project), at })
                if project.x == out && project.norm.is_none() =>
            {
                Some((project, self.is_dead_behind(*at, out)))
            }
            _ => None,
        }
    }

    fn is_dead_behind(&self, at: usize, id: ValueId) -> bool {
        self.uses.last(id).is_none_or(|last| last <= at)
    }

    /// The product to q, k and v and the preparation that follows it up to op `at`.
    fn qkv(
        &self,
        project: &Project,
        cache: CacheId,
        [q, k, v]: [ValueId; 3],
        [q_prep, k_prep]: [HeadPrep; 2],
        at: usize,
    ) -> Option<StepOp> {
        let plan = self.plan;
        let rope = match (q_prep, k_prep) {
            (HeadPrep { norm: None, rope: Some(a) }, HeadPrep { norm: None, rope: Some(b) }) if a == b => a,
            _ => return None,
        };
        // what is rotated stays in its slot, and nothing else is written in between
        let slots = project.parts.iter().map(|part| plan.slot(part.out));
        let same = slots.eq([q, k, v].map(|id| plan.slot(id)));
        // keys and values are left in the cache alone
        let written = [k, v].iter().all(|id| self.is_dead_behind(at, *id));
        let Cache { k: head_dim, values, .. } = plan.cache(cache);
        if values != Values::Own(head_dim) {
            return None;
        }
        let whole = project.parts.iter().all(|part| plan.weight(part.weight).rows.is_multiple_of(head_dim));
        let fits = same && written && whole && head_dim.is_multiple_of(2);
        (fits && matches!(project.then, Then::Nothing)).then(|| StepOp::Qkv {
            project: project.clone(),
            cache,
            rope,
        })
    }

    /// The product of selected rows, where they are normalized on their way and nobody else wants them.
    fn selected(&self, x: ValueId, out: ValueId, project: &Project, at: usize) -> Option<Project> {
        let whole = self.plan.width(x).is_multiple_of(Q8_BLOCK);
        let joins = project.x == out && project.norm.is_some() && self.is_dead_behind(at, out) && whole;
        (joins && matches!(project.then, Then::Nothing)).then(|| Project { x, ..project.clone() })
    }
}
