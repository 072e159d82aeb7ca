//! Vector integer and bitwise instructions of 16 bits, and those that widen or pack them.

use crate::counters::Class::Vector;
use crate::isa::alu::{Done, by_lane, halves};
use crate::isa::vector::condition;
use crate::isa::{Inst, Table};
use crate::wave::Wave;

pub fn table(t: &mut Table) {
    t.add("v_add_nc_u16", Vector, 1, |i, w, _| saturating(i, w, |a, b| (a + b, u16::MAX as i32), 0));
    t.add("v_sub_nc_u16", Vector, 1, |i, w, _| saturating(i, w, |a, b| (a - b, u16::MAX as i32), 0));
    t.add("v_subrev_u16", Vector, 1, |i, w, _| saturating(i, w, |a, b| (b - a, u16::MAX as i32), 0));
    t.add("v_add_nc_i16", Vector, 1, |i, w, _| {
        saturating(i, w, |a, b| (a as i16 as i32 + b as i16 as i32, i16::MAX as i32), i16::MIN as i32)
    });
    t.add("v_sub_nc_i16", Vector, 1, |i, w, _| {
        saturating(i, w, |a, b| (a as i16 as i32 - b as i16 as i32, i16::MAX as i32), i16::MIN as i32)
    });
    t.alias(&["v_add_u16"], "v_add_nc_u16");
    t.alias(&["v_sub_u16"], "v_sub_nc_u16");
    t.alias(&["v_add_i16"], "v_add_nc_i16");
    t.alias(&["v_sub_i16"], "v_sub_nc_i16");
    t.add("v_mul_lo_u16", Vector, 1, |i, w, _| two(i, w, u16::wrapping_mul));
    t.add("v_mad_u16", Vector, 1, |i, w, _| mad(i, w, |a, b, c| a as i64 * b as i64 + c as i64, 0, 0xffff));
    t.add("v_mad_i16", Vector, 1, |i, w, _| {
        let sum = |a, b, c| a as i16 as i64 * b as i16 as i64 + c as i16 as i64;
        mad(i, w, sum, i16::MIN as i64, i16::MAX as i64)
    });
    t.alias(&["v_mad_legacy_u16"], "v_mad_u16");
    t.alias(&["v_mad_legacy_i16"], "v_mad_i16");
    t.keeps_high(&["v_mad_u16", "v_mad_i16"]);

    t.add("v_min_u16", Vector, 1, |i, w, _| two(i, w, u16::min));
    t.add("v_max_u16", Vector, 1, |i, w, _| two(i, w, u16::max));
    t.add("v_min_i16", Vector, 1, |i, w, _| two(i, w, |a, b| (a as i16).min(b as i16) as u16));
    t.add("v_max_i16", Vector, 1, |i, w, _| two(i, w, |a, b| (a as i16).max(b as i16) as u16));
    t.add("v_min3_u16", Vector, 1, |i, w, _| three(i, w, |a, b, c| a.min(b).min(c)));
    t.add("v_max3_u16", Vector, 1, |i, w, _| three(i, w, |a, b, c| a.max(b).max(c)));
    t.add("v_med3_u16", Vector, 1, |i, w, _| three(i, w, |a, b, c| a.max(b).min(a.min(b).max(c))));
    t.add("v_min3_i16", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.min(b).min(c)));
    t.add("v_max3_i16", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.max(b).max(c)));
    t.add("v_med3_i16", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.max(b).min(a.min(b).max(c))));
    t.keeps_high(&["v_min3_u16", "v_max3_u16", "v_med3_u16", "v_min3_i16", "v_max3_i16", "v_med3_i16"]);

    t.add("v_and_b16", Vector, 1, |i, w, _| two(i, w, |a, b| a & b));
    t.add("v_or_b16", Vector, 1, |i, w, _| two(i, w, |a, b| a | b));
    t.add("v_xor_b16", Vector, 1, |i, w, _| two(i, w, |a, b| a ^ b));
    t.add("v_not_b16", Vector, 1, |i, w, _| one(i, w, |a| !a));
    t.add("v_mov_b16", Vector, 1, |i, w, _| {
        let written = w.written(i.src[0], 1);
        let exec = w.exec();
        move_halves(i, w, |w, half| w.lanes16(i.src[0], half, i.mods.op_sel & 1 != 0));
        w.set_written(i.dst[0], 1, exec, written);
        Ok(())
    });
    t.add("v_cndmask_b16", Vector, 1, |i, w, _| {
        let exec = w.exec();
        let mask = condition(i, w)?;
        let written = w.written(i.src[0], 1) & !mask | w.written(i.src[1], 1) & mask;
        move_halves(i, w, |w, half| {
            let a = w.lanes16(i.src[0], half, i.mods.op_sel & 1 != 0);
            let b = w.lanes16(i.src[1], half, i.mods.op_sel & 2 != 0);
            by_lane(|l| if mask >> (32 * half + l) & 1 != 0 { b[l] } else { a[l] })
        });
        w.set_written(i.dst[0], 1, exec, written);
        Ok(())
    });
    t.add("v_swap_b16", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.dst[0], 1, exec)?;
        w.need(i.src[0], 1, exec)?;
        let mut back = i.clone();
        (back.dst[0], back.src[0]) = (i.src[0], i.dst[0]);
        back.mods.op_sel = (i.mods.op_sel & 1) << 3 | i.mods.op_sel >> 3 & 1;
        for (half, active) in halves(exec) {
            let to = w.lanes16(i.src[0], half, i.mods.op_sel & 1 != 0);
            let from = w.lanes16(i.dst[0], half, i.mods.op_sel & 8 != 0);
            w.put16(i, half, active, &to);
            w.put16(&back, half, active, &from);
        }
        Ok(())
    });
    t.add("v_lshlrev_b16", Vector, 1, |i, w, _| two(i, w, |a, b| b << (a & 15)));
    t.add("v_lshrrev_b16", Vector, 1, |i, w, _| two(i, w, |a, b| b >> (a & 15)));
    t.add("v_ashrrev_i16", Vector, 1, |i, w, _| two(i, w, |a, b| (b as i16 >> (a & 15)) as u16));

    // 16 bits in, 32 out.
    t.add("v_mad_u32_u16", Vector, 1, |i, w, _| {
        let clamp = i.mods.clamp;
        widening(i, w, |a, b, c| {
            let product = a as u32 * b as u32;
            if clamp { product.saturating_add(c) } else { product.wrapping_add(c) }
        })
    });
    t.add("v_mad_i32_i16", Vector, 1, |i, w, _| {
        let clamp = i.mods.clamp;
        widening(i, w, |a, b, c| {
            let product = a as i16 as i32 * b as i16 as i32;
            if clamp {
                product.saturating_add(c as i32) as u32
            } else {
                product.wrapping_add(c as i32) as u32
            }
        })
    });
    t.add("v_pack_b32_f16", Vector, 1, |i, w, _| {
        let exec = w.exec();
        let written = w.written(i.src[0], 1) & w.written(i.src[1], 1);
        let flip = [0, 1].map(|k| (i.mods.neg as u32 >> k & 1) << 15);
        let keep = [0, 1].map(|k| if i.mods.abs >> k & 1 != 0 { 0x7fff } else { 0xffff });
        for (half, active) in halves(exec) {
            let [a, b] = [0, 1].map(|k| {
                let lanes = w.lanes16(i.src[k], half, i.mods.op_sel >> k & 1 != 0);
                lanes.map(|v| v & keep[k] ^ flip[k])
            });
            w.put32(i.dst[0], half, active, &by_lane(|l| a[l] | b[l] << 16));
        }
        w.set_written(i.dst[0], 1, exec, written);
        Ok(())
    });
    t.add("v_sat_pk_u8_i16", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.src[0], 1, exec)?;
        let byte = |v: u32| (v as i16).clamp(0, 255) as u32;
        for (half, active) in halves(exec) {
            let a = w.lanes32(i.src[0], half);
            w.put16(i, half, active, &a.map(|v| byte(v) | byte(v >> 16) << 8));
        }
        w.wrote(i.dst[0], 1, exec);
        Ok(())
    });
}

fn lanes(inst: &Inst, wave: &Wave, k: usize, half: usize) -> [u32; 32] {
    // A float as an integer operand stands for its f32 bits on gfx10 and later; none of them fits in 16 bits.
    wave.lanes16(inst.src[k], half, inst.mods.op_sel >> k & 1 != 0)
}

#[inline(never)]
fn each(inst: &Inst, wave: &mut Wave, sources: usize, f: &dyn Fn([u16; 3]) -> u16) -> Done {
    let exec = wave.exec();
    for k in 0..sources {
        wave.need(inst.src[k], 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let [a, b, c] = [0, 1, 2].map(|k| lanes(inst, wave, k, half));
        let values = by_lane(|l| f([a[l] as u16, b[l] as u16, c[l] as u16]) as u32);
        wave.put16(inst, half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

fn one(inst: &Inst, wave: &mut Wave, f: impl Fn(u16) -> u16) -> Done {
    each(inst, wave, 1, &|[a, _, _]| f(a))
}

fn two(inst: &Inst, wave: &mut Wave, f: impl Fn(u16, u16) -> u16) -> Done {
    each(inst, wave, 2, &|[a, b, _]| f(a, b))
}

fn three(inst: &Inst, wave: &mut Wave, f: impl Fn(u16, u16, u16) -> u16) -> Done {
    each(inst, wave, 3, &|[a, b, c]| f(a, b, c))
}

fn signed3(inst: &Inst, wave: &mut Wave, f: impl Fn(i16, i16, i16) -> i16) -> Done {
    three(inst, wave, |a, b, c| f(a as i16, b as i16, c as i16) as u16)
}

/// `f` gives the result and the greatest value that clamp lets pass; `least` is the least one.
fn saturating(inst: &Inst, wave: &mut Wave, f: impl Fn(i32, i32) -> (i32, i32), least: i32) -> Done {
    let clamp = inst.mods.clamp;
    two(inst, wave, |a, b| {
        let (value, most) = f(a as i32, b as i32);
        if clamp { value.clamp(least, most) as u16 } else { value as u16 }
    })
}

fn mad(inst: &Inst, wave: &mut Wave, f: impl Fn(u16, u16, u16) -> i64, least: i64, most: i64) -> Done {
    let clamp = inst.mods.clamp;
    three(inst, wave, |a, b, c| {
        let value = f(a, b, c);
        if clamp { value.clamp(least, most) as u16 } else { value as u16 }
    })
}

fn widening(inst: &Inst, wave: &mut Wave, f: impl Fn(u16, u16, u32) -> u32) -> Done {
    let exec = wave.exec();
    for k in 0..3 {
        wave.need(inst.src[k], 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let [a, b] = [0, 1].map(|k| lanes(inst, wave, k, half));
        let c = wave.lanes32(inst.src[2], half);
        let sums = by_lane(|l| f(a[l] as u16, b[l] as u16, c[l]));
        wave.put32(inst.dst[0], half, active, &sums);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// Writes 16 bits a lane without saying whether they count as written.
fn move_halves(inst: &Inst, wave: &mut Wave, f: impl Fn(&Wave, usize) -> [u32; 32]) {
    for (half, active) in halves(wave.exec()) {
        let values = f(wave, half);
        wave.put16(inst, half, active, &values);
    }
}
