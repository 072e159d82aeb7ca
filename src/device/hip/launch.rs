//! The one way to launch a kernel: checked against the card's limits before, against its errors after.

use std::ffi::c_void;

use hip_sys::hiprt::hipStream_t;

use super::card::Card;
use super::driver::Platform;
use super::kernels::{Args, Kernel};
use super::launch_log::{GRAPH, Record};
use super::limits::Limits;
use crate::error::GpuFailure;
use crate::{Error, Result};

/// Most arguments of a kernel.
const MAX_ARGS: usize = 18;

impl Card {
    /// Gives a kernel to the stream; `grid` counts blocks, `shared` bytes beyond those the kernel always has.
    ///
    /// Error::Gpu: the launch is beyond the card's limits (then the runtime was not called) or was refused; with
    /// HIP_LAUNCH_BLOCKING set also faults of the kernel. Faults come up else at the next synchronization, as
    /// Error::DeviceLost. Where the kernel is not loaded yet also the errors of [`load`](Card::load).
    ///
    /// # Safety
    /// The stream is alive and this card's; addresses in `args` are none or device memory that the kernel may use
    /// with these arguments and that stays alive until the stream has done the work.
    pub unsafe fn launch<A: Args>(
        &self,
        stream: hipStream_t,
        kernel: Kernel<A>,
        grid: [u64; 3],
        shared: u64,
        args: &A,
    ) -> Result<()> {
        let block = kernel.signature().block.map(u64::from);
        // SAFETY: the caller's promise.
        unsafe { self.launch_shape(stream, kernel, grid, block, shared, args) }
    }

    /// The same with a block of another shape than the kernel is compiled for: to try the checks.
    ///
    /// # Safety
    /// As [`launch`](Card::launch), and the kernel must bear the block, should the card.
    pub unsafe fn launch_shape<A: Args>(
        &self,
        stream: hipStream_t,
        kernel: Kernel<A>,
        grid: [u64; 3],
        block: [u64; 3],
        shared: u64,
        args: &A,
    ) -> Result<()> {
        const { assert!(A::ARGS.len() <= MAX_ARGS) };
        self.enter()?;
        let name = kernel.signature().name;
        let loaded = self.kernel(kernel.id())?;
        let shared_bytes = shared.saturating_add(loaded.static_shared);
        let record = Record { stream: stream.into(), kernel: name, grid, block, shared_bytes };
        if let Err(why) = check_shape(self.limits(), self.driver().platform(), &record) {
            return Err(self.refused(&record, why));
        }

        let base: *const u8 = std::ptr::from_ref(args).cast();
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGS];
        for (pointer, arg) in pointers.iter_mut().zip(A::ARGS) {
            *pointer = base.wrapping_add(arg.offset).cast_mut().cast();
        }
        // in range: check_shape held each to a limit of 32 bits
        let [gx, gy, gz] = grid.map(|n| n as u32);
        let [bx, by, bz] = block.map(|n| n as u32);
        let api = self.api();
        // an error that somebody else's call left behind is not this launch's
        let _ = api.take_last_error();
        // SAFETY: the function was loaded on this card; each pointer is to an argument of the size that the kernel's
        // metadata states, and the runtime copies them before it returns. The rest is the caller's promise.
        let mut outcome = unsafe {
            api.launch_kernel(
                loaded.function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared as u32,
                stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        let after = api.take_last_error();
        if outcome.is_ok() {
            outcome.code = after.code;
        }
        if !outcome.is_ok() {
            return Err(self.failed(outcome, Some(record.shape()), ""));
        }
        tracing::debug!(
            device = self.index(),
            stream = record.stream.0,
            kernel = name,
            ?grid,
            ?block,
            shared_bytes,
            "launch"
        );
        if self.launches_are_blocking() {
            // SAFETY: the stream is alive, the caller says.
            let outcome = unsafe { api.stream_synchronize(stream) };
            return match outcome.is_ok() {
                true => Ok(()),
                false => {
                    Err(self.failed(outcome, Some(record.shape()), "this launch, HIP_LAUNCH_BLOCKING is set"))
                }
            };
        }
        self.launches.keep(record);
        Ok(())
    }

    /// Remembers that a graph was replayed, for the report of a fault.
    pub fn note_graph(&self, stream: hipStream_t) {
        self.launches.keep(Record {
            stream: stream.into(),
            kernel: GRAPH,
            grid: [0; 3],
            block: [0; 3],
            shared_bytes: 0,
        });
    }

    #[cold]
    fn refused(&self, record: &Record, detail: String) -> Error {
        Error::Gpu(Box::new(GpuFailure {
            call: self.api().launch_call(),
            code: 0,
            name: String::new(),
            device: self.index(),
            arch: self.limits().arch.clone(),
            launch: Some(record.shape()),
            detail,
        }))
    }
}

/// What is wrong with the shape of a launch, if anything.
fn check_shape(limits: &Limits, platform: Platform, launch: &Record) -> std::result::Result<(), String> {
    let Record { grid, block, shared_bytes, .. } = launch;
    const AXES: [char; 3] = ['x', 'y', 'z'];
    for (axis, name) in AXES.iter().enumerate() {
        let (blocks, threads) = (grid[axis], block[axis]);
        if threads == 0 || threads > limits.max_block[axis] {
            return Err(format!("block.{name} is {threads}, must be 1 to {}", limits.max_block[axis]));
        }
        if blocks == 0 || blocks > limits.max_grid[axis] {
            return Err(format!("grid.{name} is {blocks}, must be 1 to {}", limits.max_grid[axis]));
        }
        // HIP counts a grid in threads, with 32 bits, and cuts what is beyond.
        if platform == Platform::Hip && blocks.saturating_mul(threads) > u64::from(u32::MAX) {
            return Err(format!("grid.{name} * block.{name} is {blocks} * {threads}, must be below 2^32"));
        }
    }
    let threads = block.iter().fold(1u64, |product, n| product.saturating_mul(*n));
    if threads > limits.max_threads_per_block {
        return Err(format!(
            "the block has {threads} threads, the device allows {}",
            limits.max_threads_per_block
        ));
    }
    if *shared_bytes > limits.shared_bytes_per_block {
        return Err(format!(
            "{shared_bytes} bytes of shared memory, the device allows {}",
            limits.shared_bytes_per_block
        ));
    }
    // beyond any limit above only where the runtime stated one of more than 32 bits
    let widest = grid.iter().chain(block).chain([shared_bytes]).max();
    if widest.is_some_and(|n| *n > u64::from(u32::MAX)) {
        return Err("a number of more than 32 bits".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::launch_log::StreamId;
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_threads_per_block: 1024,
            max_block: [1024, 1024, 1024],
            max_grid: [i32::MAX as u64, 65_536, 65_536],
            warp_size: 32,
            shared_bytes_per_block: 65_536,
            ..Limits::default()
        }
    }

    fn record(kernel: &'static str, stream: usize) -> Record {
        Record { stream: StreamId(stream), kernel, grid: [1; 3], block: [64, 1, 1], shared_bytes: 0 }
    }

    fn check(grid: [u64; 3], block: [u64; 3], shared_bytes: u64) -> Result<(), String> {
        check_shape(&limits(), Platform::Hip, &Record { grid, block, shared_bytes, ..record("k", 0) })
    }

    #[test]
    fn shapes_within_the_limits_pass() {
        // the transpose of [896, 151936]: cols / 32 by rows / 32
        assert_eq!(check([4748, 28, 1], [32, 32, 1], 4224), Ok(()));
        assert_eq!(check([1, 65_536, 65_536], [1024, 1, 1], 65_536), Ok(()));
        assert_eq!(check([(1 << 26) - 1, 1, 1], [64, 1, 1], 0), Ok(()));
    }

    #[test]
    fn every_axis_is_held_to_its_limit() {
        let refused =
            |grid, block, shared, why: &str| assert_eq!(check(grid, block, shared), Err(why.into()));
        refused([1; 3], [64, 64, 1], 0, "the block has 4096 threads, the device allows 1024");
        refused([1; 3], [2048, 1, 1], 0, "block.x is 2048, must be 1 to 1024");
        refused([1; 3], [32, 0, 1], 0, "block.y is 0, must be 1 to 1024");
        refused([1; 3], [1, 1, u64::MAX], 0, "block.z is 18446744073709551615, must be 1 to 1024");
        refused([0, 1, 1], [32, 1, 1], 0, "grid.x is 0, must be 1 to 2147483647");
        refused([1, 65_537, 1], [32, 1, 1], 0, "grid.y is 65537, must be 1 to 65536");
        refused([1, 1, 1 << 40], [32, 1, 1], 0, "grid.z is 1099511627776, must be 1 to 65536");
        refused([1 << 26, 1, 1], [64, 1, 1], 0, "grid.x * block.x is 67108864 * 64, must be below 2^32");
        refused([1; 3], [64, 1, 1], 65_537, "65537 bytes of shared memory, the device allows 65536");
    }

    #[test]
    fn cuda_counts_a_grid_in_blocks() {
        let launch = Record { grid: [1 << 30, 1, 1], block: [1024, 1, 1], ..record("k", 0) };
        assert_eq!(check_shape(&limits(), Platform::Cuda, &launch), Ok(()));
    }
}
