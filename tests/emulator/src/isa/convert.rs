//! Vector conversions.

use half::f16;

use crate::counters::Class::Vector;
use crate::isa::Inst;
use crate::isa::Table;
use crate::isa::alu::{Lanes, by_lane, halves, map_lanes};
use crate::isa::float_alu::{f16s, f32s, f64s, put_f16s, put_f32s, put_f64s};
use crate::isa::floats::{f16_toward_zero, frexp32, frexp64, to_bf16, to_snorm16, to_unorm16};
use crate::wave::Wave;

fn ints(inst: &Inst, wave: &Wave, k: usize, half: usize) -> Lanes {
    wave.lanes32(inst.src[k], half)
}

fn shorts(inst: &Inst, wave: &Wave, k: usize, half: usize) -> Lanes {
    wave.lanes16(inst.src[k], half, inst.mods.op_sel >> k & 1 != 0)
}

fn put_ints(inst: &Inst, wave: &mut Wave, half: usize, active: u32, values: Lanes) {
    wave.put32(inst.dst[0], half, active, &values);
}

fn put_shorts(inst: &Inst, wave: &mut Wave, half: usize, active: u32, values: Lanes) {
    wave.put16(inst, half, active, &values);
}

pub fn table(t: &mut Table) {
    // name: how the source loads, its words -> how the result is stored, its words; the function.
    macro_rules! one {
        ($($name:literal $load:ident $from:literal $store:ident $to:literal $f:expr;)*) => {$(
            t.add($name, Vector, 1, |i, w, _| {
                let exec = w.exec();
                w.need(i.src[0], $from, exec)?;
                for (half, active) in halves(exec) {
                    let a = $load(i, w, 0, half);
                    $store(i, w, half, active, map_lanes(a, $f));
                }
                w.wrote(i.dst[0], $to, exec);
                Ok(())
            });
        )*};
    }
    one!(
        "v_cvt_f32_i32" ints 1 put_f32s 1 |a| a as i32 as f32;
        "v_cvt_f32_u32" ints 1 put_f32s 1 |a| a as f32;
        "v_cvt_f64_i32" ints 1 put_f64s 2 |a| a as i32 as f64;
        "v_cvt_f64_u32" ints 1 put_f64s 2 |a| a as f64;
        // To integers: toward zero, NaN to 0, beyond the limits to the limits.
        "v_cvt_i32_f32" f32s 1 put_ints 1 |a| a as i32 as u32;
        "v_cvt_u32_f32" f32s 1 put_ints 1 |a| a as u32;
        "v_cvt_i32_f64" f64s 2 put_ints 1 |a| a as i32 as u32;
        "v_cvt_u32_f64" f64s 2 put_ints 1 |a| a as u32;
        "v_cvt_floor_i32_f32" f32s 1 put_ints 1 |a| a.floor() as i32 as u32;
        "v_cvt_nearest_i32_f32" f32s 1 put_ints 1 |a| (a + 0.5).floor() as i32 as u32;
        "v_cvt_f32_f64" f64s 2 put_f32s 1 |a| a as f32;
        "v_cvt_f64_f32" f32s 1 put_f64s 2 |a| a as f64;
        "v_cvt_f16_f32" f32s 1 put_f16s 1 f16::from_f32;
        "v_cvt_f32_f16" f16s 1 put_f32s 1 f16::to_f32;
        "v_cvt_f16_i16" shorts 1 put_f16s 1 |a| f16::from_f32(a as i16 as f32);
        "v_cvt_f16_u16" shorts 1 put_f16s 1 |a| f16::from_f32(a as f32);
        "v_cvt_i16_f16" f16s 1 put_shorts 1 |a| a.to_f32() as i16 as u16 as u32;
        "v_cvt_u16_f16" f16s 1 put_shorts 1 |a| a.to_f32() as u16 as u32;
        "v_cvt_norm_i16_f16" f16s 1 put_shorts 1 |a| to_snorm16(a.to_f32());
        "v_cvt_norm_u16_f16" f16s 1 put_shorts 1 |a| to_unorm16(a.to_f32());
        "v_cvt_i32_i16" shorts 1 put_ints 1 |a| a as i16 as u32;
        "v_cvt_u32_u16" shorts 1 put_ints 1 |a| a;
        "v_cvt_f32_ubyte0" ints 1 put_f32s 1 |a| (a & 255) as f32;
        "v_cvt_f32_ubyte1" ints 1 put_f32s 1 |a| (a >> 8 & 255) as f32;
        "v_cvt_f32_ubyte2" ints 1 put_f32s 1 |a| (a >> 16 & 255) as f32;
        "v_cvt_f32_ubyte3" ints 1 put_f32s 1 |a| (a >> 24) as f32;
        // Sixteenths of a four-bit signed number.
        "v_cvt_off_f32_i4" ints 1 put_f32s 1 |a| ((a << 28) as i32 >> 28) as f32 / 16.0;
        "v_cvt_f32_bf16" shorts 1 put_f32s 1 |a| f32::from_bits(a << 16);
        "v_frexp_exp_i32_f32" f32s 1 put_ints 1 |a| frexp32(a).1 as u32;
        "v_frexp_exp_i32_f64" f64s 2 put_ints 1 |a| frexp64(a).1 as u32;
        "v_frexp_exp_i16_f16" f16s 1 put_shorts 1 |a| frexp32(a.to_f32()).1 as u16 as u32;
    );
    t.alias(&["v_cvt_flr_i32_f32"], "v_cvt_floor_i32_f32");
    t.alias(&["v_cvt_rpi_i32_f32"], "v_cvt_nearest_i32_f32");

    // Two sources to the halves of a word.
    macro_rules! two {
        ($($name:literal $load:ident $f:expr;)*) => {$(
            t.add($name, Vector, 1, |i, w, _| {
                let exec = w.exec();
                w.need(i.src[0], 1, exec)?;
                w.need(i.src[1], 1, exec)?;
                for (half, active) in halves(exec) {
                    let a = map_lanes($load(i, w, 0, half), $f);
                    let b = map_lanes($load(i, w, 1, half), $f);
                    put_ints(i, w, half, active, by_lane(|l| a[l] | b[l] << 16));
                }
                w.wrote(i.dst[0], 1, exec);
                Ok(())
            });
        )*};
    }
    two!(
        "v_cvt_pk_rtz_f16_f32" f32s f16_toward_zero;
        "v_cvt_pk_f16_f32" f32s |a| f16::from_f32(a).to_bits() as u32;
        "v_cvt_pk_bf16_f32" f32s to_bf16;
        "v_cvt_pk_i16_f32" f32s |a| a as i16 as u16 as u32;
        "v_cvt_pk_u16_f32" f32s |a| a as u16 as u32;
        "v_cvt_pk_norm_i16_f32" f32s to_snorm16;
        "v_cvt_pk_norm_u16_f32" f32s to_unorm16;
        "v_cvt_pk_norm_i16_f16" f16s |a| to_snorm16(a.to_f32());
        "v_cvt_pk_norm_u16_f16" f16s |a| to_unorm16(a.to_f32());
        "v_cvt_pk_i16_i32" ints |a| (a as i32).clamp(i16::MIN as i32, i16::MAX as i32) as u16 as u32;
        "v_cvt_pk_u16_u32" ints |a| a.min(0xffff);
    );
    t.alias(&["v_cvt_pkrtz_f16_f32"], "v_cvt_pk_rtz_f16_f32");
    t.alias(&["v_cvt_pknorm_i16_f32"], "v_cvt_pk_norm_i16_f32");
    t.alias(&["v_cvt_pknorm_u16_f32"], "v_cvt_pk_norm_u16_f32");
    t.alias(&["v_cvt_pknorm_i16_f16"], "v_cvt_pk_norm_i16_f16");
    t.alias(&["v_cvt_pknorm_u16_f16"], "v_cvt_pk_norm_u16_f16");

    // One byte of the third source is replaced.
    t.add("v_cvt_pk_u8_f32", Vector, 1, |i, w, _| {
        let exec = w.exec();
        for k in 0..3 {
            w.need(i.src[k], 1, exec)?;
        }
        for (half, active) in halves(exec) {
            let a = f32s(i, w, 0, half);
            let (b, c) = (ints(i, w, 1, half), ints(i, w, 2, half));
            put_ints(i, w, half, active, by_lane(|l| with_byte(c[l], b[l], a[l])));
        }
        w.wrote(i.dst[0], 1, exec);
        Ok(())
    });

    // One byte of the destination is replaced.
    t.add("v_cvt_pkaccum_u8_f32", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.src[0], 1, exec)?;
        w.need(i.src[1], 1, exec)?;
        w.need(i.dst[0], 1, exec)?;
        for (half, active) in halves(exec) {
            let a = f32s(i, w, 0, half);
            let (b, old) = (ints(i, w, 1, half), w.lanes32(i.dst[0], half));
            put_ints(i, w, half, active, by_lane(|l| with_byte(old[l], b[l], a[l])));
        }
        w.wrote(i.dst[0], 1, exec);
        Ok(())
    });
}

/// `word` with `x`, as an unsigned byte, in place of byte `at` (its two low bits).
fn with_byte(word: u32, at: u32, x: f32) -> u32 {
    let shift = 8 * (at & 3);
    word & !(255 << shift) | (x as u8 as u32) << shift
}
