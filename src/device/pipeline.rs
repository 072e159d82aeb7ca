//! A model in parts on several devices, one after the other; what crosses a cut goes through the host's memory.

use std::sync::{Arc, Mutex, PoisonError};

use super::sampling::Draw;
use super::{Cancel, Device, Observer, Program, Progress, Session, SessionLimits, Step};
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::{Error, Result, memory};

/// A part's plan and the device that computes it.
#[derive(Clone)]
pub struct Stage {
    pub device: Arc<dyn Device>,
    pub plan: Arc<Plan>,
}

/// Loads the stages of `whole` in order. One stage is loaded as it is.
///
/// `progress` sees one load: the bytes of the file that all stages read.
pub fn load(
    whole: Arc<Plan>,
    stages: &[Stage],
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
    Ok(Arc::new(Pipeline { whole, programs }))
}

/// Bytes that the plan's weights take in the file.
fn file_bytes(plan: &Plan, file: &Gguf) -> u64 {
    let tensors = plan.weights.iter().filter_map(|weight| file.tensor(&weight.name));
    tensors.fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
}

struct Pipeline {
    whole: Arc<Plan>,
    /// At least one.
    programs: Vec<Arc<dyn Program>>,
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
        Ok(Box::new(PipelineSession { programs: self.programs.clone(), sessions }))
    }
}

struct PipelineSession {
    programs: Vec<Arc<dyn Program>>,
    /// One per program, at least one.
    sessions: Vec<Box<dyn Session>>,
}

impl PipelineSession {
    fn last(&self) -> Result<&dyn Session> {
        let last = self.sessions.last();
        last.map(|session| &**session).ok_or_else(|| Error::Internal("a pipeline without stages".into()))
    }
}

impl Session for PipelineSession {
    fn run(&mut self, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        for i in 0..self.sessions.len() {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            let (before, here) = self.sessions.split_at_mut(i);
            let left = match (before.last(), self.programs.get(i)) {
                (Some(session), Some(program)) => {
                    let n = program.plan().inputs.len();
                    memory::try_collect((0..n).map(|index| session.output(index)), "a step's inputs")?
                }
                _ => Vec::new(),
            };
            let inputs = if i == 0 { step.inputs } else { &left };
            here[0].run(&Step { inputs, ..*step }, cancel)?;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.sessions.iter_mut().try_for_each(|session| session.wait())
    }

    fn output(&self, index: usize) -> Result<&[f32]> {
        self.last()?.output(index)
    }

    fn makes_draws(&self) -> bool {
        self.sessions.last().is_some_and(|last| last.makes_draws())
    }

    fn sample(&mut self, draws: &[(usize, Draw<'_>)], tokens: &mut [u32]) -> Result<()> {
        self.sessions.last_mut().map_or(Ok(()), |last| last.sample(draws, tokens))
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
