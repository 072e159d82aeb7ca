//! The GPU as the rest of the library sees it.

use std::ffi::c_int;
use std::sync::Arc;

use super::card::{self, Card};
use super::code_object;
use super::driver::Driver;
use super::limits::Limits;
use super::memory::{HALF_BYTES, Pool, Staging, bytes_of, bytes_of_mut};
use super::ops;
use super::program::{self, HipProgram};
use super::scratch::Layout;
use super::stream::Stream;
use crate::device::{
    Device, DeviceChoice, DeviceInfo, GpuInfo, Memory, Needs, Program, Progress, SessionLimits,
};
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::{Error, Result};

/// One GPU with its kernels loaded.
#[derive(Debug)]
pub struct HipDevice {
    card: Arc<Card>,
    pool: Arc<Pool>,
}

impl HipDevice {
    /// Errors: those of [`Card::open`].
    pub fn open(choice: &DeviceChoice) -> Result<Self> {
        Ok(HipDevice::new(Card::open(choice)?))
    }

    fn new(card: Arc<Card>) -> Self {
        HipDevice { pool: Pool::new(Arc::clone(&card)), card }
    }

    /// Every GPU of the choice, in its order; at least one. Errors: as of [`open`](Self::open).
    pub fn open_all(choice: &DeviceChoice) -> Result<Vec<Self>> {
        let driver = Driver::get()?;
        let indices = card::find_all(driver, choice)?;
        indices.into_iter().map(|index| Ok(HipDevice::new(Card::new(driver, index)?))).collect()
    }

    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }
}

/// Describes every GPU that the runtime shows, by number, without loading kernels; an entry is an error where the
/// runtime does not tell of it. Errors: those of [`Driver::get`].
pub fn list() -> Result<Vec<Result<DeviceInfo>>> {
    let driver = Driver::get()?;
    let describe_one = |(index, limits): (usize, Result<Limits>)| {
        let (index, limits) = (index as c_int, limits?);
        let has_kernels = code_object::for_arch(index, &limits.arch_full).is_ok();
        let free = card::memory_free(driver, index);
        Ok(describe(driver, index, &limits, free, has_kernels))
    };
    Ok(card::all(driver).into_iter().enumerate().map(describe_one).collect())
}

/// The one of [`list`] that `DeviceChoice::Best` means.
pub fn best(listed: Vec<Result<DeviceInfo>>) -> Option<DeviceInfo> {
    let usable = |info: &DeviceInfo| info.gpu.as_ref().is_some_and(|gpu| gpu.has_kernels);
    let rank = |info: &DeviceInfo| {
        let integrated = info.gpu.as_ref().is_some_and(|gpu| gpu.integrated);
        (!integrated, info.memory_total)
    };
    // max_by_key takes the last of equals; here the first shall win
    listed.into_iter().rev().flatten().filter(usable).max_by_key(rank)
}

fn describe(driver: &Driver, index: c_int, limits: &Limits, free: u64, has_kernels: bool) -> DeviceInfo {
    DeviceInfo {
        name: limits.name.clone(),
        arch: limits.arch.clone(),
        memory_total: limits.memory_total,
        memory_free: free,
        compute_units: limits.compute_units as usize,
        gpu: Some(GpuInfo {
            index: u32::try_from(index).unwrap_or(0),
            runtime: format!("{} {}", driver.library(), driver.version_text()),
            max_threads_per_block: limits.max_threads_per_block,
            max_block: limits.max_block,
            max_grid: limits.max_grid,
            warp_size: limits.warp_size,
            shared_bytes_per_block: limits.shared_bytes_per_block,
            integrated: limits.integrated,
            has_kernels,
        }),
    }
}

impl Device for HipDevice {
    fn info(&self) -> DeviceInfo {
        let free = self.card.memory().map_or(0, |(free, _)| free);
        describe(self.card.driver(), self.card.index(), self.card.limits(), free, true)
    }

    fn memory(&self) -> Result<Memory> {
        let (free, total) = self.card.memory()?;
        Ok(Memory { free, total })
    }

    fn needs(&self, plan: &Plan, limits: SessionLimits) -> Result<Needs> {
        let weights = program::weight_bytes(plan)?;
        match Layout::new(plan, limits, self.card.limits()) {
            Ok(layout) => Ok(Needs {
                weights,
                cache: layout.cache_bytes,
                scratch: layout.scratch_bytes.saturating_add(layout.sampler_bytes),
            }),
            // beyond what can be counted
            Err(Error::OutOfMemory { .. }) => Ok(Needs { weights, cache: u64::MAX, scratch: u64::MAX }),
            Err(error) => Err(error),
        }
    }

    fn load(
        &self,
        plan: Arc<Plan>,
        file: Arc<Gguf>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Program>> {
        Ok(Arc::new(HipProgram::load(&self.pool, plan, &file, progress)?))
    }

    fn transpose(&self, src: &[f32], dst: &mut [f32], rows: usize, cols: usize) -> Result<()> {
        if rows.checked_mul(cols) != Some(src.len()) || src.len() != dst.len() {
            return Err(Error::param(format!(
                "a {rows} x {cols} transpose of {} elements into {}",
                src.len(),
                dst.len()
            )));
        }
        if src.is_empty() {
            return Ok(());
        }
        // a pool of its own, so that nothing of a rare operation is kept
        let bytes = size_of_val(src) as u64;
        let pool = Pool::with_chunks(Arc::clone(&self.card), bytes);
        let (from, to) = (pool.alloc(bytes, "a transpose")?, pool.alloc(bytes, "a transpose")?);
        let stream = Stream::new(&self.card)?;
        let mut staging = Staging::with_halves(&self.card, size_of_val(src).min(HALF_BYTES))?;
        staging.upload(&stream, bytes_of(src), from.span())?;
        ops::transpose(&stream, from.span(), to.span(), rows, cols)?;
        staging.download(&stream, to.span(), bytes_of_mut(dst))
    }
}
