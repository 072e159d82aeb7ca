//! How many waves of a kernel fit a SIMD at once.

use super::metadata::{KernelInfo, Resources};
use super::targets::Target;

/// Waves by registers alone: what [`kernels`](super::super::kernels) states for each kernel.
pub fn waves_by_registers(target: &Target, used: &Resources) -> u32 {
    let registers = target.registers;
    let vgprs = used.vgprs.max(1).next_multiple_of(registers.granule);
    let mut waves = (registers.total / vgprs).min(registers.waves);
    if target.limited_by_sgprs {
        waves = waves.min(waves_by_sgprs(used.sgprs));
    }
    waves
}

/// GCN 3 to 5 and CDNA: 800 scalar registers a SIMD, given out by 16.
fn waves_by_sgprs(sgprs: u32) -> u32 {
    match sgprs {
        0..=80 => 10,
        81..=88 => 9,
        89..=100 => 8,
        _ => 7,
    }
}

/// Waves of a SIMD with blocks of `threads`, by registers and LDS together. 0 if the kernel cannot run.
pub fn waves(target: &Target, kernel: &KernelInfo, threads: u32) -> u32 {
    /// That share an LDS.
    const SIMDS: u64 = 4;
    let Some(used) = kernel.resources else { return 0 };
    let by_registers = waves_by_registers(target, &used);
    if kernel.lds_bytes == 0 {
        return by_registers;
    }
    let block_waves = u64::from(threads.div_ceil(used.wave_size.max(1)));
    let blocks = u64::from(target.lds) / kernel.lds_bytes;
    // a block of fewer waves than there are SIMDs leaves some of them idle
    let at_least = u64::from(blocks > 0);
    by_registers.min((blocks * block_waves / SIMDS).max(at_least) as u32)
}
