//! What the lane-by-lane instructions share: sources fetched 32 lanes at a time, results written under EXEC.

use std::mem::MaybeUninit;

use crate::isa::{Inst, Operand};
use crate::stop::LaneFault;
use crate::wave::{SGPRS, VCC, Wave};

/// 32 lanes of a register: half a wave64.
pub type Lanes = [u32; 32];
/// Where the lanes of a scalar operand, or of a modified one, are put.
pub type Room = MaybeUninit<Lanes>;
pub type Done = Result<(), LaneFault>;

/// `1 << lane`.
const BIT: Lanes = {
    let mut bits = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

/// High halves of flat addresses in LDS and in scratch memory.
pub const SHARED_BASE: u32 = 0x1_0000;
pub const PRIVATE_BASE: u32 = 0x2_0000;

impl Wave {
    /// A scalar operand's value, whether written or not.
    #[inline(always)]
    pub fn scalar32(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Sgpr(n) => self.sgpr[n as usize & (SGPRS - 1)],
            Operand::Scc => self.scc as u32,
            Operand::Vccz => (self.mask(VCC) == 0) as u32,
            Operand::Execz => (self.exec() == 0) as u32,
            Operand::SharedBase => SHARED_BASE,
            Operand::PrivateBase => PRIVATE_BASE,
            other => other.bits32(),
        }
    }

    /// The same of 64 bits; `signed` says how a literal extends.
    #[inline(always)]
    pub fn scalar64(&self, operand: Operand, signed: bool) -> u64 {
        match operand {
            Operand::Sgpr(n) => self.sgpr64(n),
            Operand::SharedBase => (SHARED_BASE as u64) << 32,
            Operand::PrivateBase => (PRIVATE_BASE as u64) << 32,
            Operand::Scc | Operand::Vccz | Operand::Execz => self.scalar32(operand) as u64,
            other => other.bits_i64(signed),
        }
    }

    /// 32 lanes of a source: of word `word` of the operand, where it has several.
    #[inline(always)]
    pub fn lanes32(&self, operand: Operand, half: usize) -> Lanes {
        match operand {
            Operand::Vgpr(n) => self.vgpr[n as usize].as_chunks::<32>().0[half],
            other => [self.scalar32(other); 32],
        }
    }

    /// The same without a copy: a register's own lanes, or `room` filled with the scalar.
    #[inline(always)]
    pub fn lanes<'a>(&'a self, operand: Operand, half: usize, room: &'a mut Room) -> &'a Lanes {
        match operand {
            Operand::Vgpr(n) => &self.vgpr[n as usize].as_chunks::<32>().0[half],
            other => room.write([self.scalar32(other); 32]),
        }
    }

    /// 32 lanes of an f16 source: the low half of each word, or the high one of a register.
    pub fn lanes16(&self, operand: Operand, half: usize, high: bool) -> Lanes {
        match operand {
            Operand::Vgpr(n) => {
                let shift = 16 * high as u32;
                {
                    let lanes = &self.vgpr[n as usize].as_chunks::<32>().0[half];
                    by_lane(|l| lanes[l] >> shift & 0xffff)
                }
            }
            Operand::Sgpr(_) => [self.scalar32(operand) >> (16 * high as u32) & 0xffff; 32],
            other => [other.bits16(); 32],
        }
    }

    /// 32 lanes of a 64-bit integer source.
    pub fn lanes64(&self, operand: Operand, half: usize, signed: bool) -> [u64; 32] {
        match operand {
            Operand::Vgpr(n) => {
                let low = &self.vgpr[n as usize].as_chunks::<32>().0[half];
                let high = &self.vgpr[n as usize + 1].as_chunks::<32>().0[half];
                by_lane(|l| low[l] as u64 | (high[l] as u64) << 32)
            }
            other => [self.scalar64(other, signed); 32],
        }
    }

    /// 32 lanes of an f64 source, as bits.
    pub fn lanes_f64(&self, operand: Operand, half: usize) -> [u64; 32] {
        match operand {
            Operand::Vgpr(_) | Operand::Sgpr(_) => self.lanes64(operand, half, false),
            other => [other.bits_f64(); 32],
        }
    }

    /// Writes the active ones of 32 lanes. Who calls it marks the register written.
    #[inline(always)]
    pub fn put32(&mut self, operand: Operand, half: usize, active: u32, values: &Lanes) {
        let Operand::Vgpr(n) = operand else { return };
        let register = &mut self.vgpr[n as usize].as_chunks_mut::<32>().0[half];
        if active == u32::MAX {
            *register = *values;
        } else {
            for lane in 0..32 {
                let keep = register[lane];
                register[lane] = if active & BIT[lane] != 0 { values[lane] } else { keep };
            }
        }
    }

    pub fn put64(&mut self, operand: Operand, half: usize, active: u32, values: &[u64; 32]) {
        let Operand::Vgpr(n) = operand else { return };
        self.put32(operand, half, active, &by_lane(|l| values[l] as u32));
        self.put32(Operand::Vgpr(n + 1), half, active, &by_lane(|l| (values[l] >> 32) as u32));
    }

    /// Writes 16 bits of each active lane: the high half, or the low one; the other one is kept or zeroed.
    pub fn put16(&mut self, inst: &Inst, half: usize, active: u32, values: &Lanes) {
        let operand = inst.dst[0];
        let old = self.lanes32(operand, half);
        let new = by_lane(|l| {
            let value = values[l] & 0xffff;
            if inst.mods.op_sel & 8 != 0 {
                old[l] & 0xffff | value << 16
            } else if inst.zero_high {
                value
            } else {
                old[l] & 0xffff_0000 | value
            }
        });
        self.put32(operand, half, active, &new);
    }

    /// Marks the lanes `active` of `count` registers written.
    #[inline(always)]
    pub fn wrote(&mut self, operand: Operand, count: u16, active: u64) {
        if let Operand::Vgpr(n) = operand {
            for k in n..n + count {
                self.vgpr_written[k as usize] |= active;
            }
        }
    }

    /// Lanes of `count` registers (or a scalar operand) that were written.
    #[inline(always)]
    pub fn written(&self, operand: Operand, count: u16) -> u64 {
        match operand {
            Operand::Vgpr(n) => (n..n + count).fold(u64::MAX, |all, k| all & self.vgpr_written[k as usize]),
            Operand::Sgpr(n) if self.need_sgprs(n, count as u32).is_err() => 0,
            _ => u64::MAX,
        }
    }

    /// Records for the lanes `active` of `count` registers which were written.
    #[inline(always)]
    pub fn set_written(&mut self, operand: Operand, count: u16, active: u64, written: u64) {
        if let Operand::Vgpr(n) = operand {
            for k in n..n + count {
                let old = self.vgpr_written[k as usize];
                self.vgpr_written[k as usize] = old & !active | written & active;
            }
        }
    }
}

/// Active lanes of each half that has any.
#[inline(always)]
pub fn halves(exec: u64) -> Halves {
    Halves { half: 0, rest: exec }
}

pub struct Halves {
    half: usize,
    /// Active lanes from this half on.
    rest: u64,
}

impl Iterator for Halves {
    type Item = (usize, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, u32)> {
        if self.rest as u32 == 0 {
            if self.rest == 0 {
                return None;
            }
            self.half += 1;
            self.rest >>= 32;
        }
        let item = (self.half, self.rest as u32);
        self.half += 1;
        self.rest >>= 32;
        Some(item)
    }
}

/// `f` of each of 32 lanes. (The standard library's from_fn and map are not reliably compiled to vector code.)
#[inline(always)]
pub fn by_lane<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; 32] {
    let mut out = [T::default(); 32];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = f(lane);
    }
    out
}

#[inline(always)]
pub fn map_lanes<A: Copy, B: Copy + Default>(a: [A; 32], f: impl Fn(A) -> B) -> [B; 32] {
    by_lane(|lane| f(a[lane]))
}

/// All ones in each lane whose bit is set.
#[inline(always)]
pub fn lane_masks(bits: u32) -> Lanes {
    by_lane(|lane| if bits & BIT[lane] != 0 { u32::MAX } else { 0 })
}

/// One bit per lane for which `f` holds.
#[inline(always)]
pub fn lane_bits(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for (lane, bit) in BIT.iter().enumerate() {
        bits |= if f(lane) { *bit } else { 0 };
    }
    bits
}

/// 32-bit integers: `f` of each lane's sources.
#[inline(always)]
pub fn int1(inst: &Inst, wave: &mut Wave, f: impl Fn(u32) -> u32) -> Done {
    let mut room = [Room::uninit(); 1];
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    for (half, active) in halves(exec) {
        let a = wave.lanes(inst.src[0], half, &mut room[0]);
        let values = by_lane(|l| f(a[l]));
        wave.put32(inst.dst[0], half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

#[inline(always)]
pub fn int2(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> u32) -> Done {
    let mut room = [Room::uninit(); 2];
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    for (half, active) in halves(exec) {
        let [x, y] = &mut room;
        let a = wave.lanes(inst.src[0], half, x);
        let b = wave.lanes(inst.src[1], half, y);
        let values = by_lane(|l| f(a[l], b[l]));
        wave.put32(inst.dst[0], half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

#[inline(always)]
pub fn int3(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32, u32) -> u32) -> Done {
    let mut room = [Room::uninit(); 3];
    let exec = wave.exec();
    for k in 0..3 {
        wave.need(inst.src[k], 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let [x, y, z] = &mut room;
        let a = wave.lanes(inst.src[0], half, x);
        let b = wave.lanes(inst.src[1], half, y);
        let c = wave.lanes(inst.src[2], half, z);
        let values = by_lane(|l| f(a[l], b[l], c[l]));
        wave.put32(inst.dst[0], half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// Moves, shuffles and bitwise operations: 32 bits from 32 bits, unwritten where a source is unwritten.
#[inline(always)]
pub fn bits1(inst: &Inst, wave: &mut Wave, f: impl Fn(u32) -> u32) -> Done {
    let mut room = [Room::uninit(); 1];
    let exec = wave.exec();
    let written = wave.written(inst.src[0], 1);
    for (half, active) in halves(exec) {
        let a = wave.lanes(inst.src[0], half, &mut room[0]);
        let values = by_lane(|l| f(a[l]));
        wave.put32(inst.dst[0], half, active, &values);
    }
    wave.set_written(inst.dst[0], 1, exec, written);
    Ok(())
}

#[inline(always)]
pub fn bits2(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32) -> u32) -> Done {
    let mut room = [Room::uninit(); 2];
    let exec = wave.exec();
    let written = wave.written(inst.src[0], 1) & wave.written(inst.src[1], 1);
    for (half, active) in halves(exec) {
        let [x, y] = &mut room;
        let a = wave.lanes(inst.src[0], half, x);
        let b = wave.lanes(inst.src[1], half, y);
        let values = by_lane(|l| f(a[l], b[l]));
        wave.put32(inst.dst[0], half, active, &values);
    }
    wave.set_written(inst.dst[0], 1, exec, written);
    Ok(())
}

#[inline(always)]
pub fn bits3(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u32, u32) -> u32) -> Done {
    let mut room = [Room::uninit(); 3];
    let exec = wave.exec();
    let written = wave.written(inst.src[0], 1) & wave.written(inst.src[1], 1) & wave.written(inst.src[2], 1);
    for (half, active) in halves(exec) {
        let [x, y, z] = &mut room;
        let a = wave.lanes(inst.src[0], half, x);
        let b = wave.lanes(inst.src[1], half, y);
        let c = wave.lanes(inst.src[2], half, z);
        let values = by_lane(|l| f(a[l], b[l], c[l]));
        wave.put32(inst.dst[0], half, active, &values);
    }
    wave.set_written(inst.dst[0], 1, exec, written);
    Ok(())
}
