//! What a GPU can do: read once, before the first launch is checked against it.

use std::ffi::c_int;

use super::driver::{Attribute, Driver, Outcome, Platform, PropertiesLayout};
use crate::error::GpuFailure;
use crate::{Error, Result};

/// A device's limits, as its runtime states them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The card's own name: "AMD Radeon RX 7900 XTX".
    pub name: String,
    /// What kernels are compiled for: "gfx1100", "sm_90".
    pub arch: String,
    /// The same with its modes: "gfx90a:sramecc+:xnack-".
    pub arch_full: String,
    /// Threads of a block: in all, and along each axis.
    pub max_threads_per_block: u64,
    pub max_block: [u64; 3],
    /// Blocks of a grid along each axis.
    pub max_grid: [u64; 3],
    /// Threads in lockstep: 32 or 64.
    pub warp_size: u32,
    /// Shared memory (LDS) of a block in bytes.
    pub shared_bytes_per_block: u64,
    /// As the runtime counts them: on RDNA in pairs (work-group processors).
    pub compute_units: u32,
    /// Bytes.
    pub memory_total: u64,
    /// Shares the processor's memory.
    pub integrated: bool,
    /// 0 where the runtime does not tell.
    pub clock_khz: u32,
    pub memory_clock_khz: u32,
    pub memory_bus_bits: u32,
    pub l2_bytes: u64,
}

impl Limits {
    /// Asks the runtime about the device with that ordinal.
    pub fn read(driver: &Driver, device: c_int) -> Result<Limits> {
        let failed = |outcome: Outcome| {
            Error::Gpu(Box::new(GpuFailure {
                call: outcome.call,
                code: outcome.code,
                name: driver.api().error_name(outcome.code),
                device,
                arch: String::new(),
                launch: None,
                detail: "reading the device's limits".into(),
            }))
        };
        let handle = driver.handle(device).map_err(failed)?;
        let ask = |attribute| driver.attribute(handle, attribute).map_err(failed);
        // A limit that is missing or negative becomes 0, which `check` refuses where it matters.
        let number = |attribute| Ok::<_, Error>(u64::try_from(ask(attribute)?).unwrap_or(0));
        let extra = |attribute| {
            driver.attribute(handle, attribute).ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
        };

        let warp_size = u32::try_from(ask(Attribute::WarpSize)?).unwrap_or(0);
        let arch_full = match driver.api().properties(device) {
            None => format!("sm_{}{}", ask(Attribute::CapabilityMajor)?, ask(Attribute::CapabilityMinor)?),
            Some(properties) => {
                let (layout, bytes) = properties.map_err(failed)?;
                arch_name(layout, &bytes, warp_size)
                    .map_err(|why| unreadable(driver, device, &why))?
                    .to_owned()
            }
        };
        let limits = Limits {
            name: driver.device_name(handle).map_err(failed)?,
            arch: arch_full.split(':').next().unwrap_or_default().to_owned(),
            arch_full,
            max_threads_per_block: number(Attribute::MaxThreadsPerBlock)?,
            max_block: [
                number(Attribute::MaxBlockX)?,
                number(Attribute::MaxBlockY)?,
                number(Attribute::MaxBlockZ)?,
            ],
            max_grid: [
                number(Attribute::MaxGridX)?,
                number(Attribute::MaxGridY)?,
                number(Attribute::MaxGridZ)?,
            ],
            warp_size,
            shared_bytes_per_block: number(Attribute::SharedBytesPerBlock)?,
            compute_units: u32::try_from(ask(Attribute::ComputeUnits)?).unwrap_or(0),
            memory_total: driver.device_memory(handle).map_err(failed)?,
            integrated: extra(Attribute::Integrated) != 0,
            clock_khz: extra(Attribute::ClockRate),
            memory_clock_khz: extra(Attribute::MemoryClockRate),
            memory_bus_bits: extra(Attribute::MemoryBusWidth),
            l2_bytes: u64::from(extra(Attribute::L2Bytes)),
        };
        limits.check(driver.platform()).map_err(|why| unreadable(driver, device, &why))?;
        Ok(limits)
    }

    /// Numbers that no GPU has are a runtime misread, and every launch would be judged by them.
    fn check(&self, platform: Platform) -> Result<(), String> {
        let Limits { max_threads_per_block: threads, max_block, max_grid, warp_size, .. } = self;
        let warps: &[u32] = if platform == Platform::Hip { &[32, 64] } else { &[32] };
        if !warps.contains(warp_size) {
            return Err(format!("warp size {warp_size}"));
        }
        if !(64..=65_536).contains(threads) {
            return Err(format!("{threads} threads a block"));
        }
        if max_block.contains(&0) || max_block[0] < 64 || max_grid.contains(&0) || max_grid[0] < 65_535 {
            return Err(format!("blocks up to {max_block:?}, grids up to {max_grid:?}"));
        }
        if self.shared_bytes_per_block < 16 << 10 {
            return Err(format!("{} bytes of shared memory a block", self.shared_bytes_per_block));
        }
        if self.compute_units == 0 || self.memory_total == 0 {
            return Err(format!("{} compute units, {} bytes", self.compute_units, self.memory_total));
        }
        Ok(())
    }
}

fn unreadable(driver: &Driver, device: c_int, why: &str) -> Error {
    Error::NoGpu(format!(
        "{} {} gives limits for device {device} that make no sense ({why})",
        driver.library(),
        driver.version_text()
    ))
}

/// The architecture's name in a property struct. Its warp size, known from elsewhere, tells whether the bytes lie as
/// `layout` says: read with the other layout's offsets they would be nonsense without a warning.
fn arch_name(layout: PropertiesLayout, bytes: &[u8], warp_size: u32) -> Result<&str, String> {
    // Offsets of hip_runtime_api.h, compiled: warpSize, gcnArchName (256 bytes).
    let (warp_at, arch_at) = match layout {
        PropertiesLayout::Old => (276, 396),
        PropertiesLayout::R0600 => (308, 1160),
    };
    let field = |at: usize, len: usize| bytes.get(at..at + len).unwrap_or_default();
    let warp = field(warp_at, 4).try_into().map_or(0, u32::from_ne_bytes);
    if warp != warp_size {
        return Err(format!(
            "its properties, read in the {layout:?} layout, have warp size {warp}, its attributes {warp_size}"
        ));
    }
    let arch = field(arch_at, 256).split(|&b| b == 0).next().unwrap_or_default();
    match std::str::from_utf8(arch) {
        Ok(name) if name.starts_with("gfx") && name.len() > 3 => Ok(name),
        _ => Err(format!("architecture '{}'", arch.escape_ascii())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A property struct of one layout, all other bytes 0xee.
    fn properties(layout: PropertiesLayout, warp_size: u32, arch: &str) -> Vec<u8> {
        let (size, warp_at, arch_at) = match layout {
            PropertiesLayout::Old => (792, 276, 396),
            PropertiesLayout::R0600 => (1472, 308, 1160),
        };
        let mut bytes = vec![0xee; size];
        bytes[warp_at..warp_at + 4].copy_from_slice(&warp_size.to_ne_bytes());
        bytes[arch_at..arch_at + 256].fill(0);
        bytes[arch_at..arch_at + arch.len()].copy_from_slice(arch.as_bytes());
        bytes
    }

    #[test]
    fn each_layout_is_read_by_its_own_offsets() {
        for layout in [PropertiesLayout::Old, PropertiesLayout::R0600] {
            let bytes = properties(layout, 64, "gfx90a:sramecc+:xnack-");
            assert_eq!(arch_name(layout, &bytes, 64), Ok("gfx90a:sramecc+:xnack-"));
        }
    }

    #[test]
    fn a_layout_taken_for_the_other_is_noticed() {
        use PropertiesLayout::*;
        for (written, read) in [(Old, R0600), (R0600, Old)] {
            let mut bytes = properties(written, 32, "gfx1100");
            bytes.resize(8192, 0);
            let error = arch_name(read, &bytes, 32).unwrap_err();
            assert!(error.contains(&format!("read in the {read:?} layout")), "{error}");
        }
        let bytes = properties(Old, 32, "\u{1}x");
        assert_eq!(arch_name(Old, &bytes, 32), Err("architecture '\\x01x'".into()));
        assert!(arch_name(R0600, &bytes[..100], 32).is_err());
    }

    #[test]
    fn the_old_layout_is_that_of_hip_sys() {
        use hip_sys::hiprt::hipDeviceProp_t;
        use std::mem::offset_of;
        assert_eq!(size_of::<hipDeviceProp_t>(), 792);
        assert_eq!(offset_of!(hipDeviceProp_t, warpSize), 276);
        assert_eq!(offset_of!(hipDeviceProp_t, gcnArchName), 396);
    }

    #[test]
    fn limits_no_gpu_has_are_refused() {
        let good = Limits {
            max_threads_per_block: 1024,
            max_block: [1024; 3],
            max_grid: [i32::MAX as u64, 65_536, 65_536],
            warp_size: 32,
            shared_bytes_per_block: 65_536,
            compute_units: 48,
            memory_total: 24 << 30,
            ..Limits::default()
        };
        assert_eq!(good.check(Platform::Hip), Ok(()));
        assert_eq!(Limits { warp_size: 64, ..good.clone() }.check(Platform::Hip), Ok(()));
        let bad = [
            Limits { warp_size: 0, ..good.clone() },
            Limits { warp_size: 33, ..good.clone() },
            Limits { max_threads_per_block: 0, ..good.clone() },
            Limits { max_threads_per_block: 1 << 30, ..good.clone() },
            Limits { max_block: [1024, 0, 64], ..good.clone() },
            Limits { max_grid: [8, 1, 1], ..good.clone() },
            Limits { shared_bytes_per_block: 0, ..good.clone() },
            Limits { compute_units: 0, ..good.clone() },
            Limits { memory_total: 0, ..good.clone() },
        ];
        for limits in bad {
            assert!(limits.check(Platform::Hip).is_err(), "{limits:?}");
        }
        assert!(Limits { warp_size: 64, ..good }.check(Platform::Cuda).is_err());
    }
}
