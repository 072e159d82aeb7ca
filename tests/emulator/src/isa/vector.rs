//! Vector integer and bitwise instructions, moves and selects.

use crate::counters::Class::Vector;
use crate::group::Group;
use crate::isa::alu::{Done, bits1, bits2, bits3, int2, int3};
use crate::isa::{Inst, Operand, Table};
use crate::wave::{TEMP, Wave};

pub fn table(t: &mut Table) {
    t.add("v_mov_b32", Vector, 1, |i, w, _| bits1(i, w, |a| a));
    t.add("v_not_b32", Vector, 1, |i, w, _| bits1(i, w, |a| !a));
    t.add("v_and_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| a & b));
    t.add("v_or_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| a | b));
    t.add("v_xor_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| a ^ b));
    t.add("v_lshlrev_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| b << (a & 31)));
    t.add("v_lshrrev_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| b >> (a & 31)));
    t.add("v_lshl_or_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a << (b & 31) | c));
    t.add("v_add_nc_u32", Vector, 1, |i, w, _| match i.mods.clamp {
        false => int2(i, w, |a, b| a.wrapping_add(b)),
        true => int2(i, w, |a, b| a.saturating_add(b)),
    });
    t.add("v_sub_nc_u32", Vector, 1, |i, w, _| match i.mods.clamp {
        false => int2(i, w, |a, b| a.wrapping_sub(b)),
        true => int2(i, w, |a, b| a.saturating_sub(b)),
    });
    t.add("v_add3_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.wrapping_add(b).wrapping_add(c)));
}

/// Both halves of a VOPD, one after the other.
pub fn each(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    inst.inner[0].execute(wave, group)?;
    inst.inner[1].execute(wave, group)
}

/// Halves that read each other's results.
pub fn swap(inst: &Inst, wave: &mut Wave, group: &mut Group<'_>) -> Done {
    let Operand::Vgpr(n) = inst.dst[0] else { return each(inst, wave, group) };
    let (n, temp) = (n as usize, TEMP as usize);
    let (old, old_written) = (wave.vgpr[n], wave.vgpr_written[n]);
    inst.inner[0].execute(wave, group)?;
    (wave.vgpr[temp], wave.vgpr_written[temp]) = (wave.vgpr[n], wave.vgpr_written[n]);
    (wave.vgpr[n], wave.vgpr_written[n]) = (old, old_written);
    inst.inner[1].execute(wave, group)?;
    (wave.vgpr[n], wave.vgpr_written[n]) = (wave.vgpr[temp], wave.vgpr_written[temp]);
    Ok(())
}
