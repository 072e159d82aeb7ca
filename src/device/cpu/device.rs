//! The device: a thread team on a chosen instruction path.

use std::sync::Arc;

use super::isa::Isa;
use super::program::CpuProgram;
use super::session::CpuSession;
use super::system;
use super::team::Team;
use crate::device::{Device, DeviceInfo, Needs, Program, Progress, SessionLimits};
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::{Error, Result};

/// Most threads a device is made with.
const MAX_THREADS: usize = 1024;

/// The processor. Its threads serve all programs and sessions, one step at a time.
pub struct CpuDevice {
    team: Arc<Team>,
    isa: Isa,
}

impl CpuDevice {
    /// `threads` 0: as many as the process may use. The path is [`Isa::choose`]'s.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_isa(threads, Isa::choose()?)
    }

    /// On a given path, which this processor must have.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Self> {
        if !isa.is_available() {
            return Err(Error::param(format!("this processor cannot run the path {}", isa.name())));
        }
        if threads > MAX_THREADS {
            return Err(Error::param(format!("{threads} threads; at most {MAX_THREADS}")));
        }
        let n = if threads == 0 { usual_threads() } else { threads };
        Ok(CpuDevice { team: Arc::new(Team::new(n)?), isa })
    }

    /// Describes the device that [`new`](Self::new) makes by default, without its threads.
    pub fn describe() -> Result<DeviceInfo> {
        Ok(describe(Isa::choose()?, usual_threads()))
    }
}

/// One per core that the process may use.
fn usual_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS)
}

fn describe(isa: Isa, threads: usize) -> DeviceInfo {
    let (memory_total, memory_free) = system::memory();
    DeviceInfo {
        name: system::processor_name(),
        arch: isa.name().to_owned(),
        memory_total,
        memory_free,
        compute_units: threads,
        gpu: None,
    }
}

impl Device for CpuDevice {
    fn info(&self) -> DeviceInfo {
        describe(self.isa, self.team.n_threads())
    }

    fn needs(&self, plan: &Plan, limits: SessionLimits) -> Result<Needs> {
        let weights = CpuProgram::needs(plan)?;
        let (cache, scratch) = CpuSession::needs(plan, self.team.n_threads(), limits);
        Ok(Needs { weights, cache, scratch })
    }

    fn load(
        &self,
        plan: Arc<Plan>,
        file: Arc<Gguf>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Program>> {
        let team = Arc::clone(&self.team);
        Ok(Arc::new(CpuProgram::load(plan, file, team, self.isa, progress)?))
    }

    fn transpose(&self, src: &[f32], dst: &mut [f32], rows: usize, cols: usize) -> Result<()> {
        if rows.checked_mul(cols) != Some(src.len()) || src.len() != dst.len() {
            return Err(Error::param(format!(
                "a {rows} x {cols} transpose of {} elements into {}",
                src.len(),
                dst.len()
            )));
        }
        /// Rows and columns of a square that is read and written while both fit in the first-level cache.
        const SIDE: usize = 32;
        let out = super::memory::Matrix::new(dst.as_mut_ptr(), cols, rows);
        self.team.run(&|worker| {
            worker.for_each(cols.div_ceil(SIDE), |strip| {
                let strip = strip * SIDE..((strip + 1) * SIDE).min(cols);
                for top in (0..rows).step_by(SIDE) {
                    let n = SIDE.min(rows - top);
                    for c in strip.clone() {
                        // SAFETY: each strip of dst's rows belongs to one chunk.
                        let to = unsafe { out.part_mut(c, top, n) };
                        for (i, to) in to.iter_mut().enumerate() {
                            *to = src[(top + i) * cols + c];
                        }
                    }
                }
            })
        })
    }
}
