//! The GPU as the rest of the library sees it.

use std::ffi::c_int;
use std::sync::Arc;

use hip_sys::hiprt::hipStream_t;

use super::card::{self, Card};
use super::code_object;
use super::driver::{Driver, code};
use super::kernels::{Ptr, TRANSPOSE_F32, TransposeArgs};
use super::limits::Limits;
use crate::device::plan::Plan;
use crate::device::{Device, DeviceChoice, DeviceInfo, GpuInfo, Program, Progress};
use crate::gguf::Gguf;
use crate::{Error, Result};

/// One GPU with its kernels loaded.
#[derive(Debug)]
pub struct HipDevice {
    card: Arc<Card>,
}

impl HipDevice {
    /// Errors: those of [`Card::open`].
    pub fn open(choice: &DeviceChoice) -> Result<Self> {
        Ok(HipDevice { card: Card::open(choice)? })
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

    fn load(&self, _: Arc<Plan>, _: Arc<Gguf>, _: &mut Progress<'_>) -> Result<Arc<dyn Program>> {
        Err(Error::Unsupported {
            what: "device for models",
            name: format!(
                "{} (kernels for a part of a model's operations are there, so far)",
                self.info().name
            ),
            supported: "CPU".into(),
        })
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
        Transposition::new(&self.card, src.len())?.run(src, dst, rows, cols)
    }
}

/// Device memory and a stream for one transpose.
struct Transposition<'a> {
    card: &'a Card,
    stream: hipStream_t,
    src: u64,
    dst: u64,
}

impl<'a> Transposition<'a> {
    fn new(card: &'a Card, n: usize) -> Result<Self> {
        let mut this = Transposition { card, stream: std::ptr::null_mut(), src: 0, dst: 0 };
        let bytes = n * size_of::<f32>();
        card.enter()?;
        let api = card.api();
        // SAFETY: addresses of handles to fill; drop gives back what was had.
        unsafe {
            card.check(api.stream_create(&mut this.stream, 1))?;
            for address in [&mut this.src, &mut this.dst] {
                let outcome = api.malloc(address, bytes);
                if outcome.code == code::OUT_OF_MEMORY {
                    let (free, total) = card.memory()?;
                    let what = "a transpose".into();
                    return Err(Error::OutOfMemory { what, wanted: bytes as u64, free, total });
                }
                card.check(outcome)?;
            }
        }
        Ok(this)
    }

    fn run(&self, src: &[f32], dst: &mut [f32], rows: usize, cols: usize) -> Result<()> {
        let card = self.card;
        let api = card.api();
        let too_long = |n: usize| Error::param(format!("{n} is too long a side for a transpose on a GPU"));
        let args = TransposeArgs {
            src: Ptr(self.src),
            dst: Ptr(self.dst),
            rows: u32::try_from(rows).map_err(|_| too_long(rows))?,
            cols: u32::try_from(cols).map_err(|_| too_long(cols))?,
        };
        let [tile_cols, tile_rows, _] = TRANSPOSE_F32.signature().block.map(u64::from);
        let across = u64::from(args.cols).div_ceil(tile_cols);
        let down = u64::from(args.rows).div_ceil(tile_rows).min(card.limits().max_grid[1]);
        // SAFETY: both allocations hold `src.len() == dst.len() == rows * cols` floats, and so do the slices, which
        // outlive the work: whatever fails, the stream is waited for.
        let result = unsafe {
            card.check(api.memcpy_to_device(self.src, src.as_ptr().cast(), size_of_val(src), self.stream))
                .and_then(|()| card.launch(self.stream, TRANSPOSE_F32, [across, down, 1], 0, &args))
                .and_then(|()| {
                    card.check(api.memcpy_to_host(
                        dst.as_mut_ptr().cast(),
                        self.dst,
                        size_of_val(dst),
                        self.stream,
                    ))
                })
        };
        // SAFETY: the stream is alive.
        let waited = card.check_waited(unsafe { api.stream_synchronize(self.stream) }, self.stream.into());
        result.and(waited)
    }
}

impl Drop for Transposition<'_> {
    fn drop(&mut self) {
        for address in [self.src, self.dst] {
            if address != 0 {
                // SAFETY: from malloc, freed once, no work under way.
                self.card.release(|api| unsafe { api.free(address) });
            }
        }
        if !self.stream.is_null() {
            // SAFETY: from stream_create, destroyed once.
            self.card.release(|api| unsafe { api.stream_destroy(self.stream) });
        }
    }
}
