//! A model in parts on several devices, of which one computes at a time; what crosses goes through the host's memory.

use std::sync::{Arc, Mutex, PoisonError};

use super::sampling::Draw;
use super::{Cancel, Device, Observer, Program, Progress, Session, SessionLimits, Step};
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::plan::split::Leg;
use crate::{Error, Result, memory};

/// A part's plan and the device that computes it.
#[derive(Clone)]
pub struct Stage {
    pub device: Arc<dyn Device>,
    pub plan: Arc<Plan>,
}

/// Loads the stages of `whole`, by whose number `legs` say how a step goes through them. One stage is loaded as it is.
///
/// `progress` sees one load: the bytes of the file that all stages read.
pub fn load(
    whole: Arc<Plan>,
    stages: &[Stage],
    legs: &[Leg],
    file: &Arc<Gguf>,
    progress: &mut Progress<'_>,
) -> Result<Arc<dyn Program>> {
    if let [Stage { device, plan }] = stages {
        return device.load(plan.clone(), file.clone(), progress);
    }
    if stages.is_empty() {
        return Err(Error::Internal("a pipeline without stages".into()));
    }
    let bytes: Vec<u64> = stages.iter().map(|stage| file_bytes(&stage.plan, file)).collect();
    let total = bytes.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
    let mut programs: Vec<Arc<dyn Program>> = Vec::with_capacity(stages.len());
    let mut before = 0u64;
    for (Stage { device, plan }, bytes) in stages.iter().zip(bytes) {
        let mut part = |done: u64, of: u64| {
            let here = u128::from(done.min(of)) * u128::from(bytes) / u128::from(of.max(1));
            progress(before.saturating_add(here as u64), total)
        };
        programs.push(device.load(plan.clone(), file.clone(), &mut part)?);
        before = before.saturating_add(bytes);
    }
    if !progress(total, total) {
        return Err(Error::Cancelled);
    }
    let turns = turns(legs, &programs)?;
    Ok(Arc::new(Pipeline { whole, programs, turns }))
}

/// A leg of a step: the program whose segment it is, and where its inputs come from.
struct Turn {
    program: usize,
    segment: usize,
    /// Of each input the program that has left it last, and among what.
    inputs: Vec<(usize, usize)>,
}

fn turns(legs: &[Leg], programs: &[Arc<dyn Program>]) -> Result<Vec<Turn>> {
    let wrong = || Error::Internal("parts do not fit their plan".into());
    let mut segments = vec![0; programs.len()];
    let mut turns = Vec::new();
    for (i, leg) in legs.iter().enumerate() {
        let segment = segments.get_mut(leg.part).ok_or_else(wrong)?;
        let mut inputs = Vec::new();
        // what the whole begins with a step brings along
        for id in if i == 0 { &[][..] } else { &leg.inputs } {
            let from = legs[..i]
                .iter()
                .rev()
                .find_map(|from| Some((from.part, from.outputs.iter().position(|left| left == id)?)));
            inputs.push(from.ok_or_else(wrong)?);
        }
        turns.push(Turn { program: leg.part, segment: *segment, inputs });
        *segment += 1;
    }
    let all = programs.iter().zip(segments).all(|(program, n)| program.plan().n_segments() == n);
    if all { Ok(turns) } else { Err(wrong()) }
}

/// Bytes that the plan's weights take in the file.
fn file_bytes(plan: &Plan, file: &Gguf) -> u64 {
    let tensors = plan.weights.iter().filter_map(|weight| file.tensor(&weight.name));
    tensors.fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
}

struct Pipeline {
    whole: Arc<Plan>,
    programs: Vec<Arc<dyn Program>>,
    /// At least one.
    turns: Vec<Turn>,
}

impl Program for Pipeline {
    fn plan(&self) -> &Arc<Plan> {
        &self.whole
    }

    fn weight_bytes(&self) -> u64 {
        self.programs.iter().map(|program| program.weight_bytes()).sum()
    }

    fn session(self: Arc<Self>, limits: SessionLimits) -> Result<Box<dyn Session>> {
        let sessions = self.programs.iter().map(|program| program.clone().session(limits));
        let sessions = sessions.collect::<Result<_>>()?;
        Ok(Box::new(PipelineSession { pipeline: self, sessions }))
    }
}

struct PipelineSession {
    pipeline: Arc<Pipeline>,
    /// One per program.
    sessions: Vec<Box<dyn Session>>,
}

impl PipelineSession {
    /// Of the program that ends a step.
    fn last(&self) -> Result<usize> {
        let last = self.pipeline.turns.last();
        last.map(|turn| turn.program).ok_or_else(|| Error::Internal("a pipeline without stages".into()))
    }
}

impl Session for PipelineSession {
    fn run_segment(&mut self, segment: usize, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        if segment > 0 {
            return Err(Error::Internal(format!("segment {segment} of a whole plan")));
        }
        for (i, turn) in self.pipeline.turns.iter().enumerate() {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            let (before, rest) = self.sessions.split_at_mut(turn.program);
            let Some((here, behind)) = rest.split_first_mut() else { continue };
            let left = turn.inputs.iter().map(|&(from, index)| match from.checked_sub(turn.program + 1) {
                Some(at) => behind[at].output(index),
                None => before[from].output(index),
            });
            let left = memory::try_collect(left, "a step's inputs")?;
            let inputs = if i == 0 { step.inputs } else { &left };
            here.run_segment(turn.segment, &Step { inputs, ..*step }, cancel)?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.sessions.iter_mut().try_for_each(|session| session.wait())
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        self.sessions[self.last()?].output(index)
    }

    fn makes_draws(&self) -> bool {
        self.last().is_ok_and(|last| self.sessions[last].makes_draws())
    }

    fn sample(&mut self, draws: &[(usize, Draw<'_>)], tokens: &mut [u32]) -> Result<()> {
        let last = self.last()?;
        self.sessions[last].sample(draws, tokens)
    }

    fn copy_block(&mut self, pool: usize, from: u32, to: u32) -> Result<()> {
        self.sessions.iter_mut().try_for_each(|session| session.copy_block(pool, from, to))
    }

    fn memory(&self) -> (u64, u64) {
        let each = self.sessions.iter().map(|session| session.memory());
        each.fold((0, 0), |(cache, scratch), (c, s)| (cache + c, scratch + s))
    }

    fn observe(&mut self, observer: Option<Observer>) {
        let shared = observer.map(|observer| Arc::new(Mutex::new(observer)));
        for session in &mut self.sessions {
            let shared = shared.clone();
            session.observe(shared.map(|shared| -> Observer {
                Box::new(move |name, rows, values| {
                    // what a panic of an observer leaves is still an observer
                    let mut observer = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    observer(name, rows, values);
                })
            }));
        }
    }
}
