//! SDWA (gfx9): bytes and words of the sources, and of the destination.

use super::{Control, name_operands, set, whole};
use crate::group::Group;
use crate::isa::alu::Done;
use crate::isa::{Inst, Operand};
use crate::wave::{TEMP, Wave};

/// Bits of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Select {
    shift: u32,
    bits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unused {
    Pad,
    Sext,
    Preserve,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sdwa {
    src: [Select; 2],
    dst: Select,
    unused: Unused,
    /// Registers of the result.
    words: u16,
}

const RESULT: u16 = TEMP + 2;

impl Select {
    fn parse(text: Option<&str>) -> Option<Select> {
        let (shift, bits) = match text {
            None | Some("DWORD") => (0, 32),
            Some("WORD_0") => (0, 16),
            Some("WORD_1") => (16, 16),
            Some("BYTE_0") => (0, 8),
            Some("BYTE_1") => (8, 8),
            Some("BYTE_2") => (16, 8),
            Some("BYTE_3") => (24, 8),
            Some(_) => return None,
        };
        Some(Select { shift, bits })
    }

    fn mask(self) -> u32 {
        u32::MAX >> (32 - self.bits) << self.shift
    }

    fn get(self, value: u32, signed: bool) -> u32 {
        let high = value << (32 - self.bits - self.shift);
        if signed { (high as i32 >> (32 - self.bits)) as u32 } else { high >> (32 - self.bits) }
    }
}

/// None: modifiers that SDWA does not have.
pub fn wrap(mut plain: Inst) -> Option<Inst> {
    let value = |name| plain.mods.value(name);
    let unused = match value("dst_unused") {
        None | Some("UNUSED_PAD") => Unused::Pad,
        Some("UNUSED_SEXT") => Unused::Sext,
        Some("UNUSED_PRESERVE") => Unused::Preserve,
        Some(_) => return None,
    };
    let sdwa = Sdwa {
        src: [Select::parse(value("src0_sel"))?, Select::parse(value("src1_sel"))?],
        dst: Select::parse(value("dst_sel"))?,
        unused,
        words: if plain.mnemonic.starts_with("v_cvt_pk_f32") { 2 } else { 1 },
    };
    let outer = Inst { handler: execute, control: Control::Sdwa(sdwa), ..plain.clone() };
    for (k, src) in plain.src.iter_mut().take(2).enumerate().filter(|(_, src)| **src != Operand::None) {
        *src = Operand::Vgpr(TEMP + k as u16);
    }
    plain.mods.sext = 0;
    if plain.dst[0].is_vgpr() {
        plain.dst[0] = Operand::Vgpr(RESULT);
    }
    Some(Inst { inner: vec![plain], ..outer })
}

fn execute(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    let Control::Sdwa(sdwa) = &inst.control else { unreachable!("wrapped with it") };
    let exec = wave.exec();
    for k in 0..2 {
        if inst.src[k] != Operand::None {
            let (source, written) = whole(wave, inst.src[k]);
            let signed = inst.mods.sext >> k & 1 != 0;
            let temp = TEMP + k as u16;
            wave.vgpr[temp as usize] = source.map(|value| sdwa.src[k].get(value, signed));
            wave.vgpr_written[temp as usize] = written;
        }
    }
    let Operand::Vgpr(dst) = inst.dst[0] else {
        return inst.inner[0].execute(wave, group).map_err(|fault| name_operands(fault, inst));
    };
    // Instructions that accumulate read their destination.
    for word in 0..sdwa.words {
        let (from, to) = ((dst + word) as usize, (RESULT + word) as usize);
        wave.vgpr[to] = wave.vgpr[from];
        wave.vgpr_written[to] = wave.vgpr_written[from];
    }
    inst.inner[0].execute(wave, group).map_err(|fault| name_operands(fault, inst))?;
    let (mask, shift) = (sdwa.dst.mask(), sdwa.dst.shift);
    for word in 0..sdwa.words {
        let (result, written) = whole(wave, Operand::Vgpr(RESULT + word));
        let (old, _) = whole(wave, Operand::Vgpr(dst + word));
        let merged = std::array::from_fn(|lane| {
            let placed = result[lane] << shift & mask;
            match sdwa.unused {
                Unused::Pad => placed,
                Unused::Preserve => placed | old[lane] & !mask,
                Unused::Sext => {
                    let low = 32 - sdwa.dst.bits - shift;
                    ((placed << low) as i32 >> low) as u32
                }
            }
        });
        set(wave, Operand::Vgpr(dst + word), exec, &merged, written);
    }
    Ok(())
}
