//! Where a step's time goes: each kind of op by itself, in all layers one after the other.

use super::event::Event;
use super::graph::Graph;
use super::ops::project::MATVEC_MAX_N;
use super::program::HipProgram;
use super::schedule::{ExpertPart, Mixed, Scheduled, StepOp};
use super::step::Running;
use crate::device::{OpTime, Step, StepTimes};
use crate::plan::fuse::Project;
use crate::plan::*;
use crate::{Error, Result};

/// Repetitions before those that are timed.
const WARM_UPS: usize = 2;

/// Ops of one name.
struct Kind<'a> {
    name: String,
    ops: Vec<&'a StepOp>,
    bytes: u64,
}

/// Times of a step that has been described, of all its ops and of those of each kind.
pub fn times(
    running: &Running<'_>,
    ops: &[Scheduled],
    step: &Step<'_>,
    repetitions: usize,
) -> Result<StepTimes> {
    let kinds = kinds(running.program, ops, step)?;
    let all: Vec<&StepOp> = ops.iter().map(|scheduled| &scheduled.op).collect();
    let whole = Work::new(running, &all)?;
    let clock = Clock::new(running, repetitions)?;
    let mut ops = Vec::with_capacity(kinds.len());
    for Kind { name, ops: same, bytes } in kinds {
        // By the end of a step other values have the place of ids. A choice of any logits names experts that there are:
        // it is made again before each op that reads it, and its time taken off.
        let choices = choices(&all, &same)?;
        let both: Vec<&StepOp> = match choices.is_empty() {
            true => same.clone(),
            false => choices.iter().zip(&same).flat_map(|(choice, op)| [*choice, *op]).collect(),
        };
        let mut seconds = clock.time(&whole, &Work::new(running, &both)?)?;
        if !choices.is_empty() {
            seconds -= clock.time(&whole, &Work::new(running, &choices)?)?;
        }
        let seconds = seconds.max(f64::MIN_POSITIVE);
        ops.push(OpTime { name, calls: same.len(), bytes, seconds });
    }
    Ok(StepTimes { ops, seconds: clock.time(&whole, &whole)? })
}

/// The choice of the ids that each op on experts reads, none of other ops.
fn choices<'a>(all: &[&'a StepOp], ops: &[&StepOp]) -> Result<Vec<&'a StepOp>> {
    let experts =
        ops.iter().filter_map(|op| if let StepOp::Experts(mixed) = op { Some(mixed) } else { None });
    let choice = |mixed: &Mixed| {
        let makes = |op: &&&StepOp| matches!(op, StepOp::Single(Op::Route { ids, .. }) if ids.0 == mixed.ids);
        let missing = || Error::Internal("experts that nobody chooses".into());
        all.iter().find(makes).copied().ok_or_else(missing)
    };
    experts.map(choice).collect()
}

/// Ops to be launched as a step launches them: steps of few tokens as a graph.
struct Work<'a> {
    running: &'a Running<'a>,
    ops: &'a [&'a StepOp],
    graph: Option<Graph>,
}

impl<'a> Work<'a> {
    fn new(running: &'a Running<'a>, ops: &'a [&'a StepOp]) -> Result<Self> {
        let mut work = Work { running, ops, graph: None };
        if running.step.tokens.n <= MATVEC_MAX_N {
            work.graph = Graph::capture(running.stream, || work.launch_each())?;
        }
        Ok(work)
    }

    fn launch_each(&self) -> Result<()> {
        self.ops.iter().try_for_each(|op| self.running.op(op))
    }

    fn launch(&self) -> Result<()> {
        match &self.graph {
            Some(graph) => graph.launch(self.running.stream),
            None => self.launch_each(),
        }
    }
}

struct Clock<'a> {
    running: &'a Running<'a>,
    start: Event,
    end: Event,
    repetitions: usize,
}

impl<'a> Clock<'a> {
    fn new(running: &'a Running<'a>, repetitions: usize) -> Result<Self> {
        if repetitions == 0 {
            return Err(Error::param("no repetitions to time"));
        }
        let card = running.stream.card();
        Ok(Clock { running, start: Event::new(card)?, end: Event::new(card)?, repetitions })
    }

    /// Seconds of `work`, the median. Before each, `whole` runs: the ops find sound values, and the device's caches
    /// hold what a step leaves in them, not the weights that the last repetition read.
    fn time(&self, whole: &Work<'_>, work: &Work<'_>) -> Result<f64> {
        let stream = self.running.stream;
        let mut times = Vec::with_capacity(self.repetitions);
        for i in 0..WARM_UPS + self.repetitions {
            whole.launch()?;
            self.start.record(stream)?;
            work.launch()?;
            self.end.record(stream)?;
            stream.synchronize()?;
            if i >= WARM_UPS {
                times.push(self.end.seconds_since(&self.start)?);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

/// The ops by name, in order of first appearance.
fn kinds<'a>(program: &HipProgram, ops: &'a [Scheduled], step: &Step<'_>) -> Result<Vec<Kind<'a>>> {
    let mut kinds: Vec<Kind<'a>> = Vec::new();
    let mut first = 0;
    for Scheduled { op, at } in ops {
        let name = name(&program.plan, first, *at);
        let bytes = bytes(program, op, step)?;
        match kinds.iter_mut().find(|kind| kind.name == name) {
            Some(kind) => {
                kind.ops.push(op);
                kind.bytes = kind.bytes.saturating_add(bytes);
            }
            None => kinds.push(Kind { name, ops: vec![op], bytes }),
        }
        first = at + 1;
    }
    Ok(kinds)
}

/// "attn_output", or "attn_norm..kv_append" for an op that stands for several of the plan's.
fn name(plan: &Plan, first: usize, last: usize) -> String {
    let [first, last] = [first, last].map(|at| without_layer(&plan.ops[at].name));
    if first == last { first.to_owned() } else { format!("{first}..{last}") }
}

/// "blk.3.attn_q" is "attn_q".
fn without_layer(name: &str) -> &str {
    let numbered = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match numbered {
        Some((layer, kind)) if layer.bytes().all(|digit| digit.is_ascii_digit()) => kind,
        _ => name,
    }
}

/// Bytes that the op must read of memory: its weights, or the cache. Activations are few, and in the device's caches.
fn bytes(program: &HipProgram, op: &StepOp, step: &Step<'_>) -> Result<u64> {
    let plan = &program.plan;
    let norm = |norm: Norm| [norm.weight, norm.bias].into_iter().flatten().map(|id| vector_bytes(plan, id));
    Ok(match op {
        StepOp::Project { source, .. } if source.select && step.outputs.is_empty() => 0,
        StepOp::Project { project, .. } | StepOp::Qkv { project, .. } => project_bytes(program, project)?,
        StepOp::Attention { cache, .. } => cache_bytes(plan.cache(*cache), step),
        StepOp::Norm { norm: of, .. } => norm(*of).sum(),
        StepOp::CombineTo { .. } => 0,
        StepOp::Experts(mixed) => expert_bytes(program, mixed, step.tokens.len())?,
        StepOp::PrepareHeads { q_prep, k_prep, .. } => {
            [q_prep, k_prep].into_iter().filter_map(|prep| prep.norm).flat_map(norm).sum()
        }
        StepOp::Single(op) => {
            let (mut bytes, mut found) = (0, Ok(()));
            op.each(&mut |role| match role {
                Role::Lookup(id) => match program.matrix(Lookup(id)) {
                    Ok(weight) => {
                        let layout = weight.layout();
                        bytes += layout.file_bytes() / layout.rows.max(1) as u64 * step.tokens.len() as u64;
                    }
                    Err(error) => found = Err(error),
                },
                Role::Vector(id) => bytes += vector_bytes(plan, Vector(id)),
                // of heads: a token has each
                Role::Experts(id) => match program.matrix(Experts(id)) {
                    Ok(weight) => bytes += weight.layout().file_bytes(),
                    Err(error) => found = Err(error),
                },
                Role::State(id) => bytes += (4 * plan.state(id).elements * step.states.len()) as u64,
                Role::Matrix(_)
                | Role::In(_)
                | Role::Over(_)
                | Role::Out(_)
                | Role::Cache(_)
                | Role::Rope(_) => {}
            });
            found?;
            bytes
        }
    })
}

fn vector_bytes(plan: &Plan, id: Vector) -> u64 {
    let weight = plan.weight(id);
    4 * (weight.rows * weight.cols) as u64
}

fn project_bytes(program: &HipProgram, project: &Project) -> Result<u64> {
    let plan = &program.plan;
    let norm = project.norm.map(|(norm, _)| [norm.weight, norm.bias]).into_iter().flatten();
    let vectors = norm.chain(project.parts.iter().map(|part| part.bias)).flatten();
    let mut bytes = vectors.map(|id| vector_bytes(plan, id)).sum();
    for part in &project.parts {
        bytes += program.matrix(part.weight)?.layout().file_bytes();
    }
    Ok(bytes)
}

/// Of the experts that n tokens choose, where no two tokens choose the same as long as there are others.
fn expert_bytes(program: &HipProgram, mixed: &Mixed, n: usize) -> Result<u64> {
    let plan = &program.plan;
    let mut bytes = 0;
    for ExpertPart { weight, scale, bias, out } in &mixed.parts {
        let shape = plan.expert_shape(mixed.ids, *weight, *out);
        let chosen = shape.n_experts.min(n.saturating_mul(shape.n_used)) as u64;
        let matrices = program.matrix(*weight)?.layout().file_bytes() / shape.n_experts.max(1) as u64;
        let vectors = [(scale, 1), (bias, shape.rows)].into_iter().filter(|(vector, _)| vector.is_some());
        bytes += chosen * (matrices + vectors.map(|(_, len)| 4 * len as u64).sum::<u64>());
    }
    Ok(bytes)
}

/// Keys and values, f16, that the tokens of each sequence attend to.
fn cache_bytes(cache: Cache, step: &Step<'_>) -> u64 {
    let Cache { n_head_kv, k, .. } = cache;
    let mut cells = 0;
    for run in
        (0..step.tokens.len()).collect::<Vec<_>>().chunk_by(|a, b| step.sequences[*a] == step.sequences[*b])
    {
        let (first, last) = (step.positions[run[0]], step.positions[run[run.len() - 1]]);
        cells += u64::from(last) + 1 - cache.first_seen(first as usize) as u64;
    }
    cells * (n_head_kv * (k + cache.own_v()) * size_of::<half::f16>()) as u64
}

#[cfg(test)]
mod tests {
    use super::without_layer;

    #[test]
    fn names_without_layers() {
        for (name, kind) in
            [("blk.13.attn_q", "attn_q"), ("output", "output"), ("blk.x.y", "blk.x.y"), ("blk.7", "blk.7")]
        {
            assert_eq!(without_layer(name), kind);
        }
    }
}
