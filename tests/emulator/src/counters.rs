//! What a launch did, counted.

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
    }
}
