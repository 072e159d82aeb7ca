//! Where a step's time goes: each kind of op by itself, in all layers one after the other.

use super::event::Event;
use super::graph::Graph;
use super::ops::project::MATVEC_MAX_N;
use super::program::HipProgram;
use super::schedule::{Scheduled, StepOp};
use super::session::{Description, HipSession};
use super::step::Running;
use crate::device::{OpTime, Step, StepTimes};
use crate::plan::fuse::{FusedOp, Project};
use crate::plan::{Plan, WeightId};
use crate::{Error, Result};

/// Repetitions before those that are timed.
const WARM_UPS: usize = 2;

/// Ops of one name.
struct Kind<'a> {
    name: String,
    ops: Vec<&'a StepOp>,
    bytes: u64,
}

impl HipSession {
    /// The step must be one that [`Step::check`] accepts.
    pub(super) fn times_of(&mut self, step: &Step<'_>, repetitions: usize) -> Result<StepTimes> {
        let description = self.describe(step)?;
        let kinds = kinds(&self.program, self.ops(description.n), step)?;
        let running = Running::new(self, description)?;
        let all: Vec<&StepOp> = self.ops(description.n).iter().map(|scheduled| &scheduled.op).collect();
        let whole = Work::new(self, description, &running, &all)?;
        let clock = Clock::new(self, repetitions)?;
        let mut ops = Vec::with_capacity(kinds.len());
        for Kind { name, ops: same, bytes } in kinds {
            let work = Work::new(self, description, &running, &same)?;
            let seconds = clock.time(&whole, &work)?;
            ops.push(OpTime { name, calls: same.len(), bytes, seconds });
        }
        Ok(StepTimes { ops, seconds: clock.time(&whole, &whole)? })
    }
}

/// Ops to be launched as a step launches them: steps of few tokens as a graph.
struct Work<'a> {
    session: &'a HipSession,
    running: &'a Running<'a>,
    ops: &'a [&'a StepOp],
    graph: Option<Graph>,
}

impl<'a> Work<'a> {
    fn new(
        session: &'a HipSession,
        description: Description,
        running: &'a Running<'a>,
        ops: &'a [&'a StepOp],
    ) -> Result<Self> {
        let mut work = Work { session, running, ops, graph: None };
        if description.n <= MATVEC_MAX_N {
            work.graph = Graph::capture(&session.stream, || work.launch_each())?;
        }
        Ok(work)
    }

    fn launch_each(&self) -> Result<()> {
        self.ops.iter().try_for_each(|op| self.running.op(op))
    }

    fn launch(&self) -> Result<()> {
        match &self.graph {
            Some(graph) => graph.launch(&self.session.stream),
            None => self.launch_each(),
        }
    }
}

struct Clock<'a> {
    session: &'a HipSession,
    start: Event,
    end: Event,
    repetitions: usize,
}

impl<'a> Clock<'a> {
    fn new(session: &'a HipSession, repetitions: usize) -> Result<Self> {
        if repetitions == 0 {
            return Err(Error::param("no repetitions to time"));
        }
        let card = session.stream.card();
        Ok(Clock { session, start: Event::new(card)?, end: Event::new(card)?, repetitions })
    }

    /// Seconds of `work`, the median. Before each, `whole` runs: the ops find sound values, and the device's caches
    /// hold what a step leaves in them, not the weights that the last repetition read.
    fn time(&self, whole: &Work<'_>, work: &Work<'_>) -> Result<f64> {
        let stream = &self.session.stream;
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
    let vector = |id: WeightId| 4 * program.plan.weight(id).cols as u64;
    Ok(match op {
        StepOp::Project { source, .. } if source.select && step.outputs.is_empty() => 0,
        StepOp::Project { project, .. } | StepOp::Qkv { project, .. } => weight_bytes(program, project)?,
        StepOp::Attention { .. } => cache_bytes(&program.plan, step),
        StepOp::Single(FusedOp::Embed { weight, .. }) => {
            let layout = program.matrix(*weight)?.layout();
            layout.file_bytes() / layout.rows.max(1) as u64 * step.tokens.len() as u64
        }
        StepOp::Single(FusedOp::RmsNorm { norm, .. }) => vector(norm.weight),
        StepOp::Single(FusedOp::PrepareHeads { q_prep, k_prep, .. }) => {
            [q_prep, k_prep].into_iter().filter_map(|prep| prep.norm).map(|norm| vector(norm.weight)).sum()
        }
        StepOp::Single(_) => 0,
    })
}

fn weight_bytes(program: &HipProgram, project: &Project) -> Result<u64> {
    let vector = |id: WeightId| 4 * program.plan.weight(id).cols as u64;
    let mut bytes = project.norm.map_or(0, |(norm, _)| vector(norm.weight));
    for part in &project.parts {
        bytes += program.matrix(part.weight)?.layout().file_bytes() + part.bias.map_or(0, vector);
    }
    Ok(bytes)
}

/// One layer's keys and values, f16, of each sequence up to its last token.
fn cache_bytes(plan: &Plan, step: &Step<'_>) -> u64 {
    let last = |t: &usize| step.sequences.get(t + 1) != step.sequences.get(*t);
    let cells: u64 = (0..step.tokens.len()).filter(last).map(|t| u64::from(step.positions[t]) + 1).sum();
    cells * (plan.cache.n_head_kv * plan.cache.head_dim * 2 * size_of::<half::f16>()) as u64
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
