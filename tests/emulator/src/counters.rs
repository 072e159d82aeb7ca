//! What a launch did, counted.

use std::collections::HashMap;

use crate::memory::LINE;

/// Classes of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Class {
    Scalar,
    ScalarMemory,
    Vector,
    /// Integer and float dot products of packed operands.
    Dot,
    /// WMMA, MFMA.
    Matrix,
    Lds,
    Global,
    Branch,
    /// Barriers, waits, messages, nops.
    Other,
}

impl Class {
    pub const ALL: [Class; CLASSES] = [
        Class::Scalar,
        Class::ScalarMemory,
        Class::Vector,
        Class::Dot,
        Class::Matrix,
        Class::Lds,
        Class::Global,
        Class::Branch,
        Class::Other,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Class::Scalar => "scalar",
            Class::ScalarMemory => "scalar_memory",
            Class::Vector => "vector",
            Class::Dot => "dot",
            Class::Matrix => "matrix",
            Class::Lds => "lds",
            Class::Global => "global",
            Class::Branch => "branch",
            Class::Other => "other",
        }
    }

    /// Executed once per active lane; the others once per wave.
    pub fn is_by_lane(self) -> bool {
        matches!(self, Class::Vector | Class::Dot | Class::Matrix | Class::Lds | Class::Global)
    }
}

pub const CLASSES: usize = 9;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Wave instructions by class, and their sum by lane (lanes active at each).
    pub waves: [u64; CLASSES],
    pub lanes: u64,
    /// Bytes that lanes asked of global memory.
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Cache lines (128 bytes) that wave instructions touched, summed over instructions.
    pub lines_read: u64,
    pub lines_written: u64,
    /// Extra cycles that LDS instructions took since lanes met in one of the 32 banks.
    pub bank_conflicts: u64,
    pub groups: u64,
    /// Kept where READS asks for it.
    pub reads: Option<Reads>,
}

/// Which bytes of which lines were read: what is left to fetch where a group's caches, or the whole card's, forget
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// By the group under way: a line's bytes, one bit each.
    by_group: HashMap<u64, u128>,
    lines: HashMap<u64, Line>,
}

/// Of one line, of [`LINE`] bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Those that were read, one bit each.
    pub bytes: u128,
    /// Groups that read some of it, and how many bytes each read, summed.
    pub groups: u64,
    pub bytes_by_groups: u64,
}

impl Reads {
    /// `bytes` > 0 at `addr`.
    pub fn note(&mut self, addr: u64, bytes: u64) {
        let end = addr + bytes;
        for line in addr / LINE..=(end - 1) / LINE {
            let first = addr.saturating_sub(line * LINE);
            let n = (end - line * LINE).min(LINE) - first;
            *self.by_group.entry(line).or_default() |= u128::MAX >> (LINE - n) << first;
        }
    }

    pub fn end_group(&mut self) {
        for (line, bytes) in self.by_group.drain() {
            let line = self.lines.entry(line).or_default();
            line.bytes |= bytes;
            line.groups += 1;
            line.bytes_by_groups += u64::from(bytes.count_ones());
        }
    }

    fn add(&mut self, other: &Reads) {
        for (line, of_it) in &other.lines {
            let line = self.lines.entry(*line).or_default();
            line.bytes |= of_it.bytes;
            line.groups += of_it.groups;
            line.bytes_by_groups += of_it.bytes_by_groups;
        }
    }

    /// Lines and their addresses, in no order.
    pub fn lines(&self) -> impl Iterator<Item = (u64, &Line)> {
        self.lines.iter().map(|(line, of_it)| (line * LINE, of_it))
    }
}

impl Counters {
    pub fn add(&mut self, other: &Counters) {
        for (a, b) in self.waves.iter_mut().zip(other.waves) {
            *a += b;
        }
        self.lanes += other.lanes;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.lines_read += other.lines_read;
        self.lines_written += other.lines_written;
        self.bank_conflicts += other.bank_conflicts;
        self.groups += other.groups;
        if let Some(other) = &other.reads {
            self.reads.get_or_insert_default().add(other);
        }
    }
}
