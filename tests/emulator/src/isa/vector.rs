//! Vector integer and bitwise instructions of 32 and 64 bits, moves and selects.

use crate::counters::Class::Vector;
use crate::group::Group;
use crate::isa::alu::{
    Done, Room, bits1, bits2, bits3, by_lane, halves, int1, int2, int3, lane_bits, lane_masks,
};
use crate::isa::scalar::{first, sign_bits};
use crate::isa::{Inst, Operand, Table};
use crate::stop::LaneFault;
use crate::wave::{TEMP, VCC, Wave};

pub fn table(t: &mut Table) {
    moves(t);
    bitwise(t);
    arithmetic(t);
    products(t);
    carries(t);
    wide(t);
    bytes(t);
}

fn moves(t: &mut Table) {
    t.add("v_mov_b32", Vector, 1, |i, w, _| bits1(i, w, |a| a));
    t.add("v_mov_b64", Vector, 1, |i, w, _| {
        let exec = w.exec();
        let written = w.written(i.src[0], 2);
        for (half, active) in halves(exec) {
            let a = w.lanes64(i.src[0], half, false);
            w.put64(i.dst[0], half, active, &a);
        }
        w.set_written(i.dst[0], 2, exec, written);
        Ok(())
    });
    t.add("v_cndmask_b32", Vector, 1, |i, w, _| {
        let exec = w.exec();
        let [mut x, mut y] = [Room::uninit(); 2];
        let mask = condition(i, w)?;
        let written = w.written(i.src[0], 1) & !mask | w.written(i.src[1], 1) & mask;
        let neg = [0, 1].map(|k| (i.mods.neg as u32 >> k & 1) << 31);
        let keep = [0, 1].map(|k| if i.mods.abs >> k & 1 != 0 { 0x7fff_ffff } else { u32::MAX });
        for (half, active) in halves(exec) {
            let a = w.lanes(i.src[0], half, &mut x);
            let b = w.lanes(i.src[1], half, &mut y);
            let mask = lane_masks((mask >> (32 * half)) as u32);
            let chosen =
                by_lane(|l| (b[l] & keep[1] ^ neg[1]) & mask[l] | (a[l] & keep[0] ^ neg[0]) & !mask[l]);
            w.put32(i.dst[0], half, active, &chosen);
        }
        w.set_written(i.dst[0], 1, exec, written);
        Ok(())
    });
    t.add("v_swap_b32", Vector, 1, |i, w, _| {
        let exec = w.exec();
        let (x, y) = (i.dst[0], i.src[0]);
        let (x_written, y_written) = (w.written(x, 1), w.written(y, 1));
        for (half, active) in halves(exec) {
            let (a, b) = (w.lanes32(x, half), w.lanes32(y, half));
            w.put32(x, half, active, &b);
            w.put32(y, half, active, &a);
        }
        w.set_written(x, 1, exec, y_written);
        w.set_written(y, 1, exec, x_written);
        Ok(())
    });
}

/// The lane mask that a select goes by: the third source, or VCC.
pub fn condition(inst: &Inst, wave: &Wave) -> Result<u64, LaneFault> {
    match inst.src[2] {
        Operand::None => {
            wave.need_sgprs(VCC, wave.lanes as u32 / 32)?;
            Ok(wave.vcc())
        }
        Operand::Sgpr(n) => {
            wave.need_sgprs(n, wave.lanes as u32 / 32)?;
            Ok(wave.mask(n))
        }
        constant => Ok(wave.scalar64(constant, true) & wave.all()),
    }
}

fn bitwise(t: &mut Table) {
    t.add("v_not_b32", Vector, 1, |i, w, _| bits1(i, w, |a| !a));
    t.add("v_bfrev_b32", Vector, 1, |i, w, _| bits1(i, w, u32::reverse_bits));
    t.add("v_and_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| a & b));
    t.add("v_or_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| a | b));
    t.add("v_xor_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| a ^ b));
    t.add("v_xnor_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| !(a ^ b)));
    t.add("v_lshlrev_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| b << (a & 31)));
    t.add("v_lshrrev_b32", Vector, 1, |i, w, _| bits2(i, w, |a, b| b >> (a & 31)));
    t.add("v_ashrrev_i32", Vector, 1, |i, w, _| bits2(i, w, |a, b| (b as i32 >> (a & 31)) as u32));
    t.add("v_and_or_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a & b | c));
    t.add("v_or3_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a | b | c));
    t.add("v_xor3_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a ^ b ^ c));
    t.add("v_lshl_or_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a << (b & 31) | c));
    t.add("v_bfi_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a & b | !a & c));
    t.add("v_bfe_u32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| a >> (b & 31) & ((1 << (c & 31)) - 1)));
    t.add("v_bfe_i32", Vector, 1, |i, w, _| {
        bits3(i, w, |a, b, c| {
            let (field, unused) = (a as i32 >> (b & 31), 32 - (c & 31));
            if unused == 32 { 0 } else { (field << unused >> unused) as u32 }
        })
    });
    t.add("v_bfm_b32", Vector, 1, |i, w, _| int2(i, w, |a, b| ((1 << (a & 31)) - 1) << (b & 31)));
    t.add("v_alignbit_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| (pair(a, b) >> (c & 31)) as u32));
    t.add("v_alignbyte_b32", Vector, 1, |i, w, _| {
        bits3(i, w, |a, b, c| (pair(a, b) >> (8 * (c & 3))) as u32)
    });
    t.add("v_perm_b32", Vector, 1, |i, w, _| bits3(i, w, |a, b, c| permute_bytes(pair(a, b), c)));
    t.add("v_bcnt_u32_b32", Vector, 1, |i, w, _| int2(i, w, |a, b| a.count_ones().wrapping_add(b)));
    t.add("v_clz_i32_u32", Vector, 1, |i, w, _| int1(i, w, |a| first(a.leading_zeros(), 32)));
    t.add("v_ctz_i32_b32", Vector, 1, |i, w, _| int1(i, w, |a| first(a.trailing_zeros(), 32)));
    t.add("v_cls_i32", Vector, 1, |i, w, _| int1(i, w, sign_bits));
    t.alias(&["v_ffbh_u32"], "v_clz_i32_u32");
    t.alias(&["v_ffbl_b32"], "v_ctz_i32_b32");
    t.alias(&["v_ffbh_i32"], "v_cls_i32");
    // Bit `4 a + 2 b + c` of the truth table decides.
    t.add("v_bitop3_b32", Vector, 1, |i, w, _| {
        let table = i.mods.value("bitop3").and_then(crate::isa::parse::integer).unwrap_or(0);
        bits3(i, w, |a, b, c| {
            (0..8).filter(|bit| table >> bit & 1 != 0).fold(0, |all, bit| {
                let pick = |v: u32, of: u32| if bit >> of & 1 != 0 { v } else { !v };
                all | pick(a, 2) & pick(b, 1) & pick(c, 0)
            })
        })
    });
}

fn arithmetic(t: &mut Table) {
    t.add("v_add_nc_u32", Vector, 1, |i, w, _| saturating(i, w, u32::wrapping_add, u32::saturating_add));
    t.add("v_sub_nc_u32", Vector, 1, |i, w, _| saturating(i, w, u32::wrapping_sub, u32::saturating_sub));
    t.add("v_subrev_nc_u32", Vector, 1, |i, w, _| {
        saturating(i, w, |a, b| b.wrapping_sub(a), |a, b| b.saturating_sub(a))
    });
    t.add("v_add_nc_i32", Vector, 1, |i, w, _| {
        saturating(i, w, u32::wrapping_add, |a, b| (a as i32).saturating_add(b as i32) as u32)
    });
    t.add("v_sub_nc_i32", Vector, 1, |i, w, _| {
        saturating(i, w, u32::wrapping_sub, |a, b| (a as i32).saturating_sub(b as i32) as u32)
    });
    t.alias(&["v_add_u32"], "v_add_nc_u32");
    t.alias(&["v_sub_u32"], "v_sub_nc_u32");
    t.alias(&["v_subrev_u32"], "v_subrev_nc_u32");
    t.alias(&["v_add_i32"], "v_add_nc_i32");
    t.alias(&["v_sub_i32"], "v_sub_nc_i32");
    t.add("v_add3_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.wrapping_add(b).wrapping_add(c)));
    t.add("v_lshl_add_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| (a << (b & 31)).wrapping_add(c)));
    t.add("v_add_lshl_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.wrapping_add(b) << (c & 31)));
    t.add("v_xad_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| (a ^ b).wrapping_add(c)));
    t.add("v_min_u32", Vector, 1, |i, w, _| int2(i, w, u32::min));
    t.add("v_max_u32", Vector, 1, |i, w, _| int2(i, w, u32::max));
    t.add("v_min3_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.min(b).min(c)));
    t.add("v_max3_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.max(b).max(c)));
    t.add("v_med3_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.max(b).min(a.min(b).max(c))));
    t.add("v_minmax_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.min(b).max(c)));
    t.add("v_maxmin_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.max(b).min(c)));
    t.add("v_min_i32", Vector, 1, |i, w, _| int2(i, w, |a, b| (a as i32).min(b as i32) as u32));
    t.add("v_max_i32", Vector, 1, |i, w, _| int2(i, w, |a, b| (a as i32).max(b as i32) as u32));
    t.add("v_min3_i32", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.min(b).min(c)));
    t.add("v_max3_i32", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.max(b).max(c)));
    t.add("v_med3_i32", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.max(b).min(a.min(b).max(c))));
    t.add("v_minmax_i32", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.min(b).max(c)));
    t.add("v_maxmin_i32", Vector, 1, |i, w, _| signed3(i, w, |a, b, c| a.max(b).min(c)));
}

fn products(t: &mut Table) {
    t.add("v_mul_lo_u32", Vector, 1, |i, w, _| int2(i, w, u32::wrapping_mul));
    t.alias(&["v_mul_lo_i32"], "v_mul_lo_u32");
    t.add("v_mul_hi_u32", Vector, 1, |i, w, _| int2(i, w, |a, b| ((a as u64 * b as u64) >> 32) as u32));
    t.add("v_mul_hi_i32", Vector, 1, |i, w, _| {
        int2(i, w, |a, b| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32)
    });
    t.add("v_mul_u32_u24", Vector, 1, |i, w, _| int2(i, w, |a, b| u24(a).wrapping_mul(u24(b))));
    t.add("v_mul_i32_i24", Vector, 1, |i, w, _| int2(i, w, |a, b| i24(a).wrapping_mul(i24(b)) as u32));
    t.add("v_mul_hi_u32_u24", Vector, 1, |i, w, _| {
        int2(i, w, |a, b| ((u24(a) as u64 * u24(b) as u64) >> 32) as u32)
    });
    t.add("v_mul_hi_i32_i24", Vector, 1, |i, w, _| {
        int2(i, w, |a, b| ((i24(a) as i64 * i24(b) as i64) >> 32) as u32)
    });
    t.add("v_mad_u32_u24", Vector, 1, |i, w, _| {
        let clamp = i.mods.clamp;
        int3(i, w, |a, b, c| {
            let sum = u24(a) as u64 * u24(b) as u64;
            if clamp { (sum + c as u64).min(u32::MAX as u64) as u32 } else { (sum as u32).wrapping_add(c) }
        })
    });
    t.add("v_mad_i32_i24", Vector, 1, |i, w, _| {
        let clamp = i.mods.clamp;
        int3(i, w, |a, b, c| clamped(i24(a) as i64 * i24(b) as i64 + c as i32 as i64, clamp))
    });
    t.add("v_mad_u64_u32", Vector, 2, |i, w, _| {
        mad64(i, w, false, |a, b, c| {
            let sum = a as u128 * b as u128 + c as u128;
            (sum as u64, sum >> 64 != 0)
        })
    });
    t.add("v_mad_i64_i32", Vector, 2, |i, w, _| {
        mad64(i, w, true, |a, b, c| {
            let (product, sum) = (a as i32 as i128 * b as i32 as i128, c as i64 as i128);
            let sum = product + sum;
            (sum as u64, sum >> 64 & 1 != 0)
        })
    });
    t.alias(&["v_mad_co_u64_u32"], "v_mad_u64_u32");
    t.alias(&["v_mad_co_i64_i32"], "v_mad_i64_i32");
}

fn carries(t: &mut Table) {
    t.add("v_add_co_u32", Vector, 2, |i, w, _| carry(i, w, false, |a, b, c| a + b + c));
    t.add("v_sub_co_u32", Vector, 2, |i, w, _| carry(i, w, false, |a, b, c| a.wrapping_sub(b + c)));
    t.add("v_subrev_co_u32", Vector, 2, |i, w, _| carry(i, w, false, |a, b, c| b.wrapping_sub(a + c)));
    t.add("v_add_co_ci_u32", Vector, 2, |i, w, _| carry(i, w, true, |a, b, c| a + b + c));
    t.add("v_sub_co_ci_u32", Vector, 2, |i, w, _| carry(i, w, true, |a, b, c| a.wrapping_sub(b + c)));
    t.add("v_subrev_co_ci_u32", Vector, 2, |i, w, _| carry(i, w, true, |a, b, c| b.wrapping_sub(a + c)));
    t.alias(&["v_addc_co_u32"], "v_add_co_ci_u32");
    t.alias(&["v_subb_co_u32"], "v_sub_co_ci_u32");
    t.alias(&["v_subbrev_co_u32"], "v_subrev_co_ci_u32");
}

fn wide(t: &mut Table) {
    t.add("v_lshlrev_b64", Vector, 1, |i, w, _| shift64(i, w, |a, b| b << (a & 63)));
    t.add("v_lshrrev_b64", Vector, 1, |i, w, _| shift64(i, w, |a, b| b >> (a & 63)));
    t.add("v_ashrrev_i64", Vector, 1, |i, w, _| shift64(i, w, |a, b| (b as i64 >> (a & 63)) as u64));
    t.add("v_lshl_add_u64", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.src[0], 2, exec)?;
        w.need(i.src[1], 1, exec)?;
        w.need(i.src[2], 2, exec)?;
        for (half, active) in halves(exec) {
            let a = w.lanes64(i.src[0], half, false);
            let b = w.lanes32(i.src[1], half);
            let c = w.lanes64(i.src[2], half, false);
            let sums = by_lane(|l| (a[l] << (b[l] & 7)).wrapping_add(c[l]));
            w.put64(i.dst[0], half, active, &sums);
        }
        w.wrote(i.dst[0], 2, exec);
        Ok(())
    });
}

fn bytes(t: &mut Table) {
    t.add("v_sad_u8", Vector, 1, |i, w, _| int3(i, w, |a, b, c| sad8(a, b).wrapping_add(c)));
    t.add("v_sad_hi_u8", Vector, 1, |i, w, _| int3(i, w, |a, b, c| (sad8(a, b) << 16).wrapping_add(c)));
    t.add("v_msad_u8", Vector, 1, |i, w, _| {
        int3(i, w, |a, b, c| {
            let masked = std::iter::zip(a.to_le_bytes(), b.to_le_bytes()).filter(|&(_, b)| b != 0);
            masked.fold(c, |sum, (a, b)| sum.wrapping_add(a.abs_diff(b) as u32))
        })
    });
    t.add("v_sad_u16", Vector, 1, |i, w, _| {
        int3(i, w, |a, b, c| {
            let (low, high) = ((a as u16).abs_diff(b as u16), (a >> 16).abs_diff(b >> 16));
            c.wrapping_add(low as u32).wrapping_add(high)
        })
    });
    t.add("v_sad_u32", Vector, 1, |i, w, _| int3(i, w, |a, b, c| a.abs_diff(b).wrapping_add(c)));
    t.add("v_lerp_u8", Vector, 1, |i, w, _| {
        int3(i, w, |a, b, c| {
            (0..4).fold(0, |all, k| {
                let byte = |v: u32| v >> (8 * k) & 255;
                all | ((byte(a) + byte(b) + (byte(c) & 1)) >> 1) << (8 * k)
            })
        })
    });
    t.add("v_prng_b32", Vector, 1, |i, w, _| int1(i, w, |a| (a << 1) ^ ((a >> 31) * 197)));
}

/// `high:low`.
fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn u24(a: u32) -> u32 {
    a & 0xff_ffff
}

fn i24(a: u32) -> i32 {
    (a << 8) as i32 >> 8
}

fn clamped(sum: i64, clamp: bool) -> u32 {
    if clamp { sum.clamp(i32::MIN as i64, i32::MAX as i64) as u32 } else { sum as u32 }
}

fn sad8(a: u32, b: u32) -> u32 {
    std::iter::zip(a.to_le_bytes(), b.to_le_bytes()).map(|(a, b)| a.abs_diff(b) as u32).sum()
}

/// Each byte of `selectors` names a byte of `bytes` (0-7), a sign (8-11), 0 (12) or 255.
fn permute_bytes(bytes: u64, selectors: u32) -> u32 {
    let bytes = bytes.to_le_bytes();
    u32::from_le_bytes(selectors.to_le_bytes().map(|selector| match selector {
        0..8 => bytes[selector as usize],
        8..12 => (bytes[2 * (selector as usize - 8) + 1] as i8 >> 7) as u8,
        12 => 0,
        _ => 255,
    }))
}

#[inline(always)]
fn signed3(inst: &Inst, wave: &mut Wave, f: impl Fn(i32, i32, i32) -> i32) -> Done {
    int3(inst, wave, |a, b, c| f(a as i32, b as i32, c as i32) as u32)
}

/// `clamp` asks for saturation.
#[inline(always)]
fn saturating(
    inst: &Inst,
    wave: &mut Wave,
    wrapping: impl Fn(u32, u32) -> u32,
    saturating: impl Fn(u32, u32) -> u32,
) -> Done {
    if inst.mods.clamp { int2(inst, wave, saturating) } else { int2(inst, wave, wrapping) }
}

/// 32-bit sums of `f`, whose bit 32 is the carry; the carries of active lanes go to the second destination.
#[inline(always)]
fn carry(inst: &Inst, wave: &mut Wave, takes_carry: bool, f: impl Fn(u64, u64, u64) -> u64) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    let carry_in = if takes_carry { condition(inst, wave)? } else { 0 };
    let [mut x, mut y] = [Room::uninit(); 2];
    let mut carries = 0u64;
    for (half, active) in halves(exec) {
        let a = wave.lanes(inst.src[0], half, &mut x);
        let b = wave.lanes(inst.src[1], half, &mut y);
        let carry_in = lane_masks((carry_in >> (32 * half)) as u32);
        let sum = |lane: usize| f(a[lane] as u64, b[lane] as u64, (carry_in[lane] & 1) as u64);
        let mut sums = by_lane(|lane| sum(lane) as u32);
        let out = lane_bits(|lane| sum(lane) >> 32 & 1 != 0);
        if inst.mods.clamp {
            // Saturates: sums upwards, differences downwards.
            let limit = if inst.mnemonic.starts_with("v_add") { u32::MAX } else { 0 };
            for lane in (0..32).filter(|lane| out >> lane & 1 != 0) {
                sums[lane] = limit;
            }
        }
        wave.put32(inst.dst[0], half, active, &sums);
        carries |= (out as u64) << (32 * half);
    }
    wave.wrote(inst.dst[0], 1, exec);
    if let Operand::Sgpr(n) = inst.dst[1] {
        wave.set_mask(n, carries & exec);
    }
    Ok(())
}

#[inline(always)]
fn shift64(inst: &Inst, wave: &mut Wave, f: impl Fn(u32, u64) -> u64) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    let written = wave.written(inst.src[1], 2);
    for (half, active) in halves(exec) {
        let a = wave.lanes32(inst.src[0], half);
        let b = wave.lanes64(inst.src[1], half, true);
        wave.put64(inst.dst[0], half, active, &by_lane(|l| f(a[l], b[l])));
    }
    wave.set_written(inst.dst[0], 2, exec, written);
    Ok(())
}

#[inline(always)]
fn mad64(inst: &Inst, wave: &mut Wave, signed: bool, f: impl Fn(u32, u32, u64) -> (u64, bool)) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    // Compilers that want the sum's low half alone leave the high half of what is added undefined.
    wave.need(inst.src[2], 1, exec)?;
    let whole = wave.written(inst.src[2], 2);
    let mut carries = 0u64;
    for (half, active) in halves(exec) {
        let a = wave.lanes32(inst.src[0], half);
        let b = wave.lanes32(inst.src[1], half);
        let c = wave.lanes64(inst.src[2], half, signed);
        let mut sums = [0; 32];
        for lane in 0..32 {
            let (sum, carry) = f(a[lane], b[lane], c[lane]);
            sums[lane] = sum;
            carries |= (carry as u64) << (32 * half + lane);
        }
        wave.put64(inst.dst[0], half, active, &sums);
    }
    wave.wrote(inst.dst[0], 1, exec);
    if let Operand::Vgpr(low) = inst.dst[0] {
        wave.set_written(Operand::Vgpr(low + 1), 1, exec, whole);
    }
    if let Operand::Sgpr(n) = inst.dst[1] {
        wave.set_mask(n, carries & exec);
    }
    Ok(())
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
