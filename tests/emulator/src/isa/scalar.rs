//! Scalar instructions.

use crate::counters::Class::Scalar;
use crate::isa::alu::Done;
use crate::isa::{Inst, Operand, Table};
use crate::wave::Wave;

pub fn table(t: &mut Table) {
    t.add("s_mov_b32", Scalar, 1, |i, w, _| move32(i, w, |a| a));
    t.add("s_add_u32", Scalar, 1, |i, w, _| {
        int2(i, w, |a, b| {
            let (sum, carry) = a.overflowing_add(b);
            (sum, Some(carry))
        })
    });
}

fn set32(inst: &Inst, wave: &mut Wave, value: u32) {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr(n, value);
    }
}

/// A move: unwritten stays unwritten.
fn move32(inst: &Inst, wave: &mut Wave, f: impl Fn(u32) -> u32) -> Done {
    let written = wave.written(inst.src[0], 1) != 0;
    let value = f(wave.scalar32(inst.src[0]));
    set32(inst, wave, value);
    if !written && let Operand::Sgpr(n) = inst.dst[0] {
        wave.sgpr_written &= !(1 << n);
    }
    Ok(())
}

/// Arithmetic on 32 bits; SCC where `f` gives one.
fn int2(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> (u32, Option<bool>)) -> Done {
    wave.need(inst.src[0], 1, 0)?;
    wave.need(inst.src[1], 1, 0)?;
    let (value, scc) = f(wave.scalar32(inst.src[0]), wave.scalar32(inst.src[1]));
    set32(inst, wave, value);
    if let Some(scc) = scc {
        wave.set_scc(scc);
    }
    Ok(())
}
