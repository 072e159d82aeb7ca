//! One wave's registers, and which of them were written.

/// Scalar registers: s0..s105, then vcc, ttmp, m0, null and exec at their encodings' places.
pub const SGPRS: usize = 128;

pub struct Wave {
    /// 32 or 64.
    pub lanes: usize,
    /// Its number in the group.
    pub id: u32,
    /// Index into the program's instructions.
    pub pc: usize,
    pub exec: u64,
    pub vcc: u64,
    pub scc: bool,
    pub m0: u32,
    pub sgpr: [u32; SGPRS],
    /// One bit per scalar register that was written.
    pub sgpr_written: u128,
    /// `[register][lane]`; the accumulators of MFMA (a0...) follow the vector registers where a target has them.
    pub vgpr: Vec<[u32; 64]>,
    /// One bit per lane that was written, per register.
    pub vgpr_written: Vec<u64>,
}

/// Why a wave paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// At a barrier, which is the instruction before `pc`.
    Barrier,
    /// s_endpgm.
    End,
}
