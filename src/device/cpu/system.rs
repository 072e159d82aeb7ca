//! What the operating system tells of processor and memory.

use crate::device::Needs;
use crate::{Error, Result};

/// (total, available) bytes of memory; 0 where unknown.
pub fn memory() -> (u64, u64) {
    meminfo().map(|(total, free, _)| (total, free)).unwrap_or_default()
}

/// Error::OutOfMemory for a session that would not fit if it had all of the machine's memory, swap included. What it
/// takes is only reserved: pages come with their first use.
pub fn check_session(needs: Needs) -> Result<()> {
    let Some((total, free, swap)) = meminfo() else { return Ok(()) };
    let wanted = needs.cache.saturating_add(needs.scratch);
    if wanted <= total.saturating_add(swap) {
        return Ok(());
    }
    Err(Error::OutOfMemory { what: "the context's cache and scratch".into(), wanted, free, total })
}

/// (total, available, swap). Linux counts what the page cache would give back as available, which sysinfo(2) does not.
#[cfg(target_os = "linux")]
fn meminfo() -> Option<(u64, u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?, field("SwapTotal:")?))
}

#[cfg(not(target_os = "linux"))]
fn meminfo() -> Option<(u64, u64, u64)> {
    None
}

/// The processor's marketing name, or "CPU".
pub fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.filter(|name| !name.is_empty()).unwrap_or("CPU").to_owned()
}
