//! One wave's registers, and which of them were written.

use crate::isa::Operand;
use crate::memory::Words;
use crate::stop::{Fault, LaneFault};

/// Scalar registers by number: s0..s105, then those below. One numbering for every target (gfx11's).
pub const SGPRS: usize = 128;
pub const VCC: u8 = 106;
/// ttmp0..ttmp15.
pub const TTMP: u8 = 108;
/// Reads as 0; what is written to it is lost.
pub const NULL: u8 = 124;
pub const M0: u8 = 125;
pub const EXEC: u8 = 126;

/// Vector registers by number: v0..v255, then a0..a255 (accumulators of CDNA), then the emulator's own.
pub const VGPRS: usize = 516;
pub const ACC: u16 = 256;
/// Four registers no program names: the permuted sources of DPP and SDWA, the halves of VOPD.
pub const TEMP: u16 = 512;

/// Denormal numbers of a float type, as the kernel descriptor's MODE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denormals {
    pub flush_inputs: bool,
    pub flush_outputs: bool,
}

impl Denormals {
    pub const KEPT: Denormals = Denormals { flush_inputs: false, flush_outputs: false };

    /// From a two-bit field of MODE: bit 0 allows denormal inputs, bit 1 denormal outputs.
    pub fn from_mode(bits: u32) -> Self {
        Denormals { flush_inputs: bits & 1 == 0, flush_outputs: bits & 2 == 0 }
    }
}

#[derive(Clone)]
pub struct Wave {
    /// 32 or 64.
    pub lanes: usize,
    /// Its number in the group.
    pub id: u32,
    /// Index into the program's instructions.
    pub pc: usize,
    pub scc: bool,
    pub scc_written: bool,
    /// s_, vcc, ttmp, null, m0 and exec, each at its number.
    pub sgpr: [u32; SGPRS],
    /// One bit per scalar register that was written.
    pub sgpr_written: u128,
    /// `[register][lane]`.
    pub vgpr: Vec<[u32; 64]>,
    /// One bit per lane that was written, per register.
    pub vgpr_written: Vec<u64>,
    /// Instructions executed, and how many are taken for an endless loop.
    pub executed: u64,
    pub limit: u64,
    /// Of f32; of f16 and f64.
    pub denormals: Denormals,
    pub denormals_16_64: Denormals,
    /// Where the running program's code starts in memory, for s_getpc.
    pub code: u64,
    /// Address that the last s_setpc or s_swappc jumps to.
    pub jump: u64,
    /// What a memory instruction moves.
    pub words: Box<Words>,
}

impl Wave {
    /// A wave of 32 or 64 lanes, all active, with no register written but exec.
    pub fn new(lanes: usize) -> Self {
        assert!(lanes == 32 || lanes == 64);
        let mut wave = Wave {
            lanes,
            id: 0,
            pc: 0,
            scc: false,
            scc_written: false,
            sgpr: [0; SGPRS],
            sgpr_written: 0,
            vgpr: vec![[0; 64]; VGPRS],
            vgpr_written: vec![0; VGPRS],
            executed: 0,
            limit: 1 << 30,
            denormals: Denormals::KEPT,
            denormals_16_64: Denormals::KEPT,
            code: 0,
            jump: 0,
            words: Box::new([[0; 64]; 4]),
        };
        wave.reset(0);
        wave
    }

    /// Back to the state of [`Wave::new`], at less cost.
    pub fn reset(&mut self, id: u32) {
        self.id = id;
        self.pc = 0;
        self.scc = false;
        self.scc_written = false;
        self.sgpr_written = 1 << NULL;
        self.vgpr_written.fill(0);
        self.executed = 0;
        self.set_sgpr64(NULL, 0);
        self.set_exec(self.all());
    }

    /// One bit per lane the wave has.
    #[inline(always)]
    pub fn all(&self) -> u64 {
        if self.lanes == 32 { 0xffff_ffff } else { u64::MAX }
    }

    #[inline(always)]
    pub fn sgpr64(&self, n: u8) -> u64 {
        let n = n as usize & (SGPRS - 1);
        self.sgpr[n] as u64 | (self.sgpr[(n + 1) & (SGPRS - 1)] as u64) << 32
    }

    /// Writes a scalar register and marks it written.
    #[inline(always)]
    pub fn set_sgpr(&mut self, n: u8, value: u32) {
        if n != NULL {
            self.sgpr[n as usize & (SGPRS - 1)] = value;
            self.sgpr_written |= 1 << (n & 127);
        }
    }

    #[inline(always)]
    pub fn set_sgpr64(&mut self, n: u8, value: u64) {
        if n != NULL {
            self.set_sgpr(n, value as u32);
            self.set_sgpr(n + 1, (value >> 32) as u32);
        }
    }

    /// Active lanes, one bit each.
    #[inline(always)]
    pub fn exec(&self) -> u64 {
        self.sgpr64(EXEC) & self.all()
    }

    pub fn set_exec(&mut self, mask: u64) {
        self.set_sgpr64(EXEC, mask);
    }

    /// The lane mask in a scalar register (wave32) or pair (wave64).
    #[inline(always)]
    pub fn mask(&self, n: u8) -> u64 {
        self.sgpr64(n) & self.all()
    }

    #[inline(always)]
    pub fn set_mask(&mut self, n: u8, mask: u64) {
        if self.lanes == 32 {
            self.set_sgpr(n, mask as u32);
        } else {
            self.set_sgpr64(n, mask);
        }
    }

    pub fn vcc(&self) -> u64 {
        self.mask(VCC)
    }

    pub fn set_scc(&mut self, scc: bool) {
        self.scc = scc;
        self.scc_written = true;
    }

    /// Writes the lanes `active` of a vector register and marks them written.
    pub fn set_vgpr(&mut self, n: u16, active: u64, values: &[u32; 64]) {
        let register = &mut self.vgpr[n as usize];
        for lane in 0..64 {
            if active >> lane & 1 != 0 {
                register[lane] = values[lane];
            }
        }
        self.vgpr_written[n as usize] |= active;
    }

    /// An error unless the lanes `active` of a vector register were written.
    #[inline(always)]
    pub fn need_vgpr(&self, n: u16, active: u64) -> Result<(), LaneFault> {
        let missing = active & !self.vgpr_written[n as usize];
        if missing == 0 { Ok(()) } else { Err(unwritten_vgpr(n, missing)) }
    }

    #[inline(always)]
    pub fn need_sgprs(&self, n: u8, count: u32) -> Result<(), LaneFault> {
        let bits = ((1u128 << count) - 1) << (n & 127);
        if n == NULL || bits & !self.sgpr_written == 0 {
            Ok(())
        } else {
            Err(unwritten_sgpr((bits & !self.sgpr_written).trailing_zeros() as u8))
        }
    }

    pub fn need_scc(&self) -> Result<(), LaneFault> {
        if self.scc_written {
            Ok(())
        } else {
            Err(Fault::UnwrittenRegister { register: "scc".into() }.into())
        }
    }

    /// An error unless `count` registers from an operand on were written (in the lanes `active`).
    #[inline(always)]
    pub fn need(&self, operand: Operand, count: u32, active: u64) -> Result<(), LaneFault> {
        match operand {
            Operand::Vgpr(n) => {
                for k in 0..count as u16 {
                    self.need_vgpr(n + k, active)?;
                }
                Ok(())
            }
            Operand::Sgpr(n) => self.need_sgprs(n, count),
            Operand::Scc => self.need_scc(),
            _ => Ok(()),
        }
    }
}

#[cold]
fn unwritten_vgpr(n: u16, missing: u64) -> LaneFault {
    let register = match n {
        0..ACC => format!("v{n}"),
        ACC..TEMP => format!("a{}", n - ACC),
        _ => format!("temporary {}", n - TEMP),
    };
    LaneFault { lane: Some(missing.trailing_zeros()), fault: Fault::UnwrittenRegister { register } }
}

#[cold]
fn unwritten_sgpr(n: u8) -> LaneFault {
    let register = match n {
        VCC => "vcc_lo".into(),
        107 => "vcc_hi".into(),
        TTMP..NULL => format!("ttmp{}", n - TTMP),
        NULL => "null".into(),
        M0 => "m0".into(),
        EXEC => "exec_lo".into(),
        127 => "exec_hi".into(),
        _ => format!("s{n}"),
    };
    Fault::UnwrittenRegister { register }.into()
}

/// Why a wave paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// At a barrier, which is the instruction before `pc`.
    Barrier,
    /// s_endpgm.
    End,
}
