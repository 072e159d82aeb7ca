//! What the user sees on standard error, and the end of standard output.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A line on standard error. A closed standard error loses it and nothing else.
pub fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the error says that nobody reads standard output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A byte progress bar that shows itself when standard error is a terminal and the work is long.
pub struct LoadBar {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl LoadBar {
    const PATIENCE: Duration = Duration::from_millis(400);

    pub fn new() -> Self {
        LoadBar { bar: None, start: Instant::now() }
    }

    pub fn set(&mut self, done: u64, total: u64) {
        if self.bar.is_none() && self.start.elapsed() > Self::PATIENCE && io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("loading [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Most memory this process has had resident, bytes; None where the system does not tell (Linux does).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// "1.23 GB": decimal units, as disks and networks count.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        _ if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        _ if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        _ => format!("{n} B"),
    }
}

/// Tokens per second; 0 when no time was measured.
pub fn rate(tokens: usize, micros: u64) -> f64 {
    if micros == 0 { 0.0 } else { tokens as f64 * 1e6 / micros as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_decimal_units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(bytes(2 << 30), "2.15 GB");
    }

    #[test]
    fn rates() {
        assert_eq!(rate(10, 0), 0.0);
        assert_eq!(rate(10, 500_000), 20.0);
    }
}
