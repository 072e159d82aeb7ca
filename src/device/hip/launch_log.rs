//! The launches of a card whose end nobody has waited for: what a fault may be of.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use hip_sys::hiprt::hipStream_t;

use crate::error::LaunchShape;

/// A stream's handle as a number, to tell streams apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub(super) usize);

impl From<hipStream_t> for StreamId {
    fn from(stream: hipStream_t) -> Self {
        StreamId(stream.addr())
    }
}

/// One launch, as it is remembered until a synchronization shows that it went well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub stream: StreamId,
    pub kernel: &'static str,
    pub grid: [u64; 3],
    pub block: [u64; 3],
    pub shared_bytes: u64,
}

/// Stands for a replayed graph among the kernels' names.
pub(super) const GRAPH: &str = "a graph (ROCMFORGE_HIP_GRAPH=0 launches its kernels one by one)";

impl Record {
    pub fn shape(&self) -> LaunchShape {
        let Record { grid, block, shared_bytes, .. } = *self;
        LaunchShape { kernel: self.kernel.to_owned(), grid, block, shared_bytes }
    }
}

/// The launches of a card since each stream's last good synchronization, the newest [`Launches::KEPT`] of them.
#[derive(Debug, Default)]
pub(super) struct Launches {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Record>,
    /// Launches that made room for newer ones.
    dropped: u64,
}

impl Launches {
    const KEPT: usize = 32;

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keep(&self, record: Record) {
        let mut kept = self.lock();
        if kept.records.len() == Self::KEPT {
            kept.records.pop_front();
            kept.dropped += 1;
        }
        kept.records.push_back(record);
    }

    /// All launches of the stream went well.
    pub fn forget(&self, stream: StreamId) {
        let mut kept = self.lock();
        kept.records.retain(|record| record.stream != stream);
        kept.dropped = 0;
    }

    /// The last launch, and a text that names all, for the error of a failed synchronization.
    pub fn report(&self) -> (Option<LaunchShape>, String) {
        let kept = self.lock();
        let last = kept.records.iter().rev().find(|record| record.kernel != GRAPH);
        if kept.records.is_empty() {
            return (None, "no launch since the last good synchronization".into());
        }
        let mut names: Vec<(&str, usize)> = Vec::new();
        for record in &kept.records {
            match names.last_mut() {
                Some((name, times)) if *name == record.kernel => *times += 1,
                _ => names.push((record.kernel, 1)),
            }
        }
        let names: Vec<_> = names
            .into_iter()
            .map(|(name, times)| if times == 1 { name.to_owned() } else { format!("{name} x{times}") })
            .collect();
        let earlier = match kept.dropped {
            0 => String::new(),
            n => format!("{n} earlier ones, "),
        };
        let text = format!(
            "the fault is of a launch since the last good synchronization, in order: {earlier}{}; \
             HIP_LAUNCH_BLOCKING=1 tells which",
            names.join(", ")
        );
        (last.map(Record::shape), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kernel: &'static str, stream: usize) -> Record {
        Record { stream: StreamId(stream), kernel, grid: [1; 3], block: [64, 1, 1], shared_bytes: 0 }
    }

    #[test]
    fn a_fault_names_the_launches_since_the_last_good_synchronization() {
        let launches = Launches::default();
        assert_eq!(launches.report().1, "no launch since the last good synchronization");
        launches.keep(record("before", 1));
        launches.keep(record("elsewhere", 2));
        launches.forget(StreamId(1));
        for kernel in ["rms_norm", "matvec", "matvec", "add"] {
            launches.keep(record(kernel, 1));
        }
        let (last, text) = launches.report();
        assert_eq!(last.map(|shape| shape.kernel), Some("add".into()));
        assert!(text.contains("in order: elsewhere, rms_norm, matvec x2, add; HIP_"), "{text}");
        for _ in 0..Launches::KEPT {
            launches.keep(record("add", 1));
        }
        let (_, text) = launches.report();
        assert!(text.contains("in order: 5 earlier ones, add x32;"), "{text}");
    }
}
