//! One instruction, ready to execute.

use crate::counters::Class;
use crate::group::Group;
use crate::isa::lanes::Control;
use crate::stop::{Fault, LaneFault};
use crate::wave::{Pause, Wave};

/// Executes an instruction. `wave.pc` is already that of the next one.
pub type Handler = fn(&Inst, &mut Wave, &mut Group<'_>) -> Result<(), LaneFault>;

/// A register or constant. Wider operands name their first register; the handler knows how many it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Not there, or `off`.
    None,
    /// v0..v255; from [`crate::wave::ACC`] on a0..a255; from [`crate::wave::TEMP`] on the emulator's own.
    Vgpr(u16),
    /// s0.., vcc, ttmp, null, m0, exec: the numbers of [`crate::wave`].
    Sgpr(u8),
    /// An inline integer, -16..=64.
    Int(i32),
    /// A 32-bit literal: of a 64-bit integer the low half, of an f64 the high one.
    Literal(u32),
    /// An inline float, in the instruction's own float type: bits of the f32.
    Float(u32),
    Scc,
    Vccz,
    Execz,
    /// High halves of flat addresses: of LDS, of scratch memory.
    SharedBase,
    PrivateBase,
}

/// Bits of 1/(2*pi) as the hardware has them.
pub const INV_2PI_F32: u32 = 0x3e22_f983;
const INV_2PI_F16: u16 = 0x3118;
const INV_2PI_F64: u64 = 0x3fc4_5f30_6dc9_c882;

impl Operand {
    /// The constant as 32 bits; 0 if it is a register.
    #[inline(always)]
    pub fn bits32(self) -> u32 {
        match self {
            Operand::Int(v) => v as u32,
            Operand::Literal(v) | Operand::Float(v) => v,
            _ => 0,
        }
    }

    /// The constant as the low 16 bits of an f16 operand.
    #[inline(always)]
    pub fn bits16(self) -> u32 {
        match self {
            Operand::Int(v) => v as u16 as u32,
            Operand::Literal(v) => v & 0xffff,
            Operand::Float(INV_2PI_F32) => INV_2PI_F16 as u32,
            Operand::Float(v) => half::f16::from_f32(f32::from_bits(v)).to_bits() as u32,
            _ => 0,
        }
    }

    /// The constant as an f64 operand.
    pub fn bits_f64(self) -> u64 {
        match self {
            Operand::Int(v) => v as i64 as u64,
            Operand::Literal(v) => (v as u64) << 32,
            Operand::Float(INV_2PI_F32) => INV_2PI_F64,
            Operand::Float(v) => (f32::from_bits(v) as f64).to_bits(),
            _ => 0,
        }
    }

    /// The constant as a 64-bit integer; `signed` says how literals extend.
    pub fn bits_i64(self, signed: bool) -> u64 {
        match self {
            Operand::Literal(v) if signed => v as i32 as i64 as u64,
            Operand::Literal(v) => v as u64,
            _ => self.bits_f64(),
        }
    }

    pub fn is_vgpr(self) -> bool {
        matches!(self, Operand::Vgpr(_))
    }
}

/// What follows or surrounds the operands.
#[derive(Clone, Debug, Default)]
pub struct Modifiers {
    /// One bit per source.
    pub neg: u8,
    pub abs: u8,
    /// SDWA's `sext(...)`.
    pub sext: u8,
    pub clamp: bool,
    /// 0, 1 (*2), 2 (*4), 3 (/2).
    pub omod: u8,
    /// Bit per source: take the high half. Bit 3: write the high half. Also from names like v0.h.
    pub op_sel: u8,
    /// None where the text has none (it is then 1 for packed instructions, 0 for mixed ones).
    pub op_sel_hi: Option<u8>,
    pub neg_lo: u8,
    pub neg_hi: u8,
    /// Byte offset of memory instructions; offset0 of the two-address ones.
    pub offset: i32,
    pub offset1: i32,
    /// Atomics: the old value is returned.
    pub returns: bool,
    /// All as they stand in the text: `quad_perm:[1,0,3,2]`, `cbsz:1`, `glc`.
    pub list: Vec<Box<str>>,
}

impl Modifiers {
    /// The value behind `name:`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.list.iter().find_map(|m| m.strip_prefix(name)?.strip_prefix(':'))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.list.iter().any(|m| **m == *name)
    }
}

/// What comes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The instruction at `wave.pc`.
    Next,
    Pause(Pause),
    /// The instruction at the address `wave.jump`.
    Jump,
}

#[derive(Clone)]
pub struct Inst {
    pub handler: Handler,
    pub class: Class,
    pub after: After,
    /// Destinations: the second one is the carry out or the scale flag.
    pub dst: [Operand; 2],
    pub src: [Operand; 4],
    pub mods: Modifiers,
    /// 16-bit results zero the other half of the register (gfx9); else they keep it.
    pub zero_high: bool,
    /// Of a branch: index of the instruction it goes to, set when the whole program is known.
    pub target: usize,
    /// Byte offset of the next instruction in the code object (s_getpc).
    pub next: u64,
    pub control: Control,
    /// The plain instruction behind DPP or SDWA; the two halves of a VOPD.
    pub inner: Vec<Inst>,
    /// Byte offset in the code object.
    pub offset: u64,
    /// Without suffixes such as _e64.
    pub mnemonic: Box<str>,
    pub text: Box<str>,
}

impl Inst {
    /// Executes it alone on a wave.
    #[inline(always)]
    pub fn execute(&self, wave: &mut Wave, group: &mut Group<'_>) -> Result<(), LaneFault> {
        (self.handler)(self, wave, group)
    }
}

/// Unit of branch distances.
pub const INSTRUCTION_BYTES: i64 = 4;

impl Inst {
    /// Stops the wave that comes to it.
    pub fn unknown(text: &str) -> Inst {
        let (text, comment) = text.split_once("//").unwrap_or((text, ""));
        let offset =
            comment.split(':').next().and_then(|at| u64::from_str_radix(at.trim(), 16).ok()).unwrap_or(0);
        Inst {
            handler: |_, _, _| Err(Fault::UnknownOpcode.into()),
            class: Class::Other,
            after: After::Next,
            dst: [Operand::None; 2],
            src: [Operand::None; 4],
            mods: Modifiers::default(),
            zero_high: false,
            target: usize::MAX,
            next: offset,
            control: Control::None,
            inner: Vec::new(),
            offset,
            mnemonic: "".into(),
            text: text.trim().into(),
        }
    }
}

impl std::fmt::Debug for Inst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
