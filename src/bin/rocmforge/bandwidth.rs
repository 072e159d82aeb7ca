//! How fast this machine reads memory: the limit that decode speed is judged by.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::interrupt;

/// Bytes read per pass: far beyond any cache.
const BYTES: usize = 2 << 30;
const PASSES: usize = 5;

/// Best of several passes of `threads` threads over 2 GiB, bytes per second.
pub fn measure(threads: usize) -> Result<f64> {
    let len = BYTES / size_of::<u64>();
    let mut buffer: Vec<u64> = Vec::new();
    buffer.try_reserve_exact(len).context("cannot have 2 GiB to measure with")?;
    // written, so that each page is memory of its own
    buffer.extend((0..len as u64).map(|i| i ^ 0x9E37_79B9_7F4A_7C15));
    let part = len.div_ceil(threads.max(1));

    let mut best = 0f64;
    for _ in 0..PASSES {
        interrupt::check()?;
        let start = Instant::now();
        std::thread::scope(|scope| {
            for chunk in buffer.chunks(part) {
                scope.spawn(move || black_box(chunk.iter().fold(0u64, |sum, x| sum.wrapping_add(*x))));
            }
        });
        best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}
