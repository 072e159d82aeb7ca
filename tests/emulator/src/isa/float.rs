//! Vector float instructions, and the scalar ones of gfx11.5 and gfx12.
// Comparisons of NaN: neither a < b nor a >= b.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]

use half::f16;

use crate::counters::Class::{Scalar, Vector};
use crate::isa::alu::{Done, by_lane, halves};
use crate::isa::float_alu::{
    Addend, f16_1, f16_2, f16_3, f16_onto, f16s, f32_1, f32_2, f32_by, f32_by3, f32_onto, f32s, f64_1, f64_2,
    f64_3, f64_onto, f64s, fma32, put_f16s, put_f32s, put_f64s, quieted,
};
use crate::isa::floats::*;
use crate::isa::{Inst, Operand, Table};
use crate::wave::{VCC, Wave};

pub fn table(t: &mut Table) {
    single(t);
    half_precision(t);
    double(t);
    minima(t);
    division(t);
    scalar(t);
}

fn single(t: &mut Table) {
    t.add("v_add_f32", Vector, 1, |i, w, _| f32_2(i, w, |a, b| a + b));
    t.add("v_sub_f32", Vector, 1, |i, w, _| f32_2(i, w, |a, b| a - b));
    t.add("v_subrev_f32", Vector, 1, |i, w, _| f32_2(i, w, |a, b| b - a));
    t.add("v_mul_f32", Vector, 1, |i, w, _| f32_2(i, w, |a, b| a * b));
    t.add("v_mul_dx9_zero_f32", Vector, 1, |i, w, _| f32_2(i, w, mul_zero));
    t.alias(&["v_mul_legacy_f32"], "v_mul_dx9_zero_f32");
    t.add("v_fma_f32", Vector, 1, |i, w, _| fma32(i, w, 0, 1, Addend::Source(2)));
    t.add("v_fmac_f32", Vector, 1, |i, w, _| fma32(i, w, 0, 1, Addend::Destination));
    // a * constant + b; a * b + constant.
    t.add("v_fmamk_f32", Vector, 1, |i, w, _| fma32(i, w, 0, 1, Addend::Source(2)));
    t.add("v_fmaak_f32", Vector, 1, |i, w, _| fma32(i, w, 0, 1, Addend::Source(2)));
    t.add("v_fma_dx9_zero_f32", Vector, 1, |i, w, _| f32_by3(i, w, fma_zero));
    t.add("v_fmac_dx9_zero_f32", Vector, 1, |i, w, _| f32_onto(i, w, fma_zero));
    // Product and sum rounded each.
    t.add("v_mad_f32", Vector, 1, |i, w, _| f32_by3(i, w, |a, b, c| a * b + c));
    t.add("v_mac_f32", Vector, 1, |i, w, _| f32_onto(i, w, |a, b, c| a * b + c));
    t.add("v_madmk_f32", Vector, 1, |i, w, _| f32_by3(i, w, |a, b, c| a * b + c));
    t.add("v_madak_f32", Vector, 1, |i, w, _| f32_by3(i, w, |a, b, c| a * b + c));
    t.add("v_mad_legacy_f32", Vector, 1, |i, w, _| f32_by3(i, w, |a, b, c| mul_zero(a, b) + c));

    t.add("v_rcp_f32", Vector, 1, |i, w, _| f32_1(i, w, |a| 1.0 / a));
    t.alias(&["v_rcp_iflag_f32"], "v_rcp_f32");
    t.add("v_rsq_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| nearest32(a, rsq)));
    t.add("v_sqrt_f32", Vector, 1, |i, w, _| f32_by(i, w, f32::sqrt));
    t.add("v_exp_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| nearest32(a, f64::exp2)));
    t.add("v_log_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| nearest32(a, f64::log2)));
    t.alias(&["v_exp_legacy_f32"], "v_exp_f32");
    t.alias(&["v_log_legacy_f32"], "v_log_f32");
    t.add("v_sin_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| nearest32(a, sin_turns)));
    t.add("v_cos_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| nearest32(a, cos_turns)));
    t.add("v_fract_f32", Vector, 1, |i, w, _| f32_by(i, w, fract32));
    t.add("v_trunc_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| quieted(a.trunc())));
    t.add("v_ceil_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| quieted(a.ceil())));
    t.add("v_floor_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| quieted(a.floor())));
    t.add("v_rndne_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| quieted(a.round_ties_even())));
    t.add("v_frexp_mant_f32", Vector, 1, |i, w, _| f32_by(i, w, |a| frexp32(a).0));
    t.add("v_ldexp_f32", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.src[0], 1, exec)?;
        w.need(i.src[1], 1, exec)?;
        for (half, active) in halves(exec) {
            let a = f32s(i, w, 0, half);
            let b = w.lanes32(i.src[1], half);
            put_f32s(i, w, half, active, by_lane(|l| ldexp32(a[l], b[l] as i32)));
        }
        w.wrote(i.dst[0], 1, exec);
        Ok(())
    });
}

fn half_precision(t: &mut Table) {
    t.add("v_add_f16", Vector, 1, |i, w, _| f16_2(i, w, |a, b| f16_by2(a, b, |a, b| a + b)));
    t.add("v_sub_f16", Vector, 1, |i, w, _| f16_2(i, w, |a, b| f16_by2(a, b, |a, b| a - b)));
    t.add("v_subrev_f16", Vector, 1, |i, w, _| f16_2(i, w, |a, b| f16_by2(a, b, |a, b| b - a)));
    t.add("v_mul_f16", Vector, 1, |i, w, _| f16_2(i, w, |a, b| f16_by2(a, b, |a, b| a * b)));
    // These keep the high half on gfx9 too.
    t.add("v_fma_f16", Vector, 1, |i, w, _| f16_3(i, w, fma16));
    t.add("v_mad_f16", Vector, 1, |i, w, _| f16_3(i, w, mad16));
    t.keeps_high(&["v_fma_f16", "v_mad_f16"]);
    t.add("v_fma_legacy_f16", Vector, 1, |i, w, _| f16_3(i, w, fma16));
    t.add("v_mad_legacy_f16", Vector, 1, |i, w, _| f16_3(i, w, mad16));
    t.add("v_fmac_f16", Vector, 1, |i, w, _| f16_onto(i, w, fma16));
    t.add("v_mac_f16", Vector, 1, |i, w, _| f16_onto(i, w, mad16));
    t.add("v_fmamk_f16", Vector, 1, |i, w, _| f16_3(i, w, fma16));
    t.add("v_fmaak_f16", Vector, 1, |i, w, _| f16_3(i, w, fma16));
    t.add("v_madmk_f16", Vector, 1, |i, w, _| f16_3(i, w, mad16));
    t.add("v_madak_f16", Vector, 1, |i, w, _| f16_3(i, w, mad16));

    t.add("v_rcp_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, rcp)));
    t.add("v_rsq_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, rsq)));
    t.add("v_sqrt_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, f64::sqrt)));
    t.add("v_exp_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, f64::exp2)));
    t.add("v_log_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, f64::log2)));
    t.add("v_sin_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, sin_turns)));
    t.add("v_cos_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| nearest16(a, cos_turns)));
    t.add("v_fract_f16", Vector, 1, |i, w, _| {
        // Below 1 in f16 too.
        f16_1(i, w, |a| {
            f16_by(a, |a| if a.is_finite() { (a - a.floor()).min(0.999_511_7) } else { f32::NAN })
        })
    });
    t.add("v_trunc_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| f16_by(a, f32::trunc)));
    t.add("v_ceil_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| f16_by(a, f32::ceil)));
    t.add("v_floor_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| f16_by(a, f32::floor)));
    t.add("v_rndne_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| f16_by(a, f32::round_ties_even)));
    t.add("v_frexp_mant_f16", Vector, 1, |i, w, _| f16_1(i, w, |a| f16_by(a, |a| frexp32(a).0)));
    t.add("v_ldexp_f16", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.src[0], 1, exec)?;
        w.need(i.src[1], 1, exec)?;
        for (half, active) in halves(exec) {
            let a = f16s(i, w, 0, half);
            let b = w.lanes16(i.src[1], half, i.mods.op_sel & 2 != 0);
            let scaled = |l: usize| f16_from_f64(ldexp64(a[l].to_f64(), b[l] as i16 as i32));
            put_f16s(i, w, half, active, by_lane(scaled));
        }
        w.wrote(i.dst[0], 1, exec);
        Ok(())
    });
}

fn mad16(a: f16, b: f16, c: f16) -> f16 {
    f16_by2(f16_by2(a, b, |a, b| a * b), c, |ab, c| ab + c)
}

fn double(t: &mut Table) {
    t.add("v_add_f64", Vector, 1, |i, w, _| f64_2(i, w, |a, b| a + b));
    t.add("v_mul_f64", Vector, 1, |i, w, _| f64_2(i, w, |a, b| a * b));
    t.add("v_fma_f64", Vector, 1, |i, w, _| f64_3(i, w, |a, b, c| a.mul_add(b, c)));
    t.add("v_fmac_f64", Vector, 1, |i, w, _| f64_onto(i, w, |a, b, c| a.mul_add(b, c)));
    t.add("v_rcp_f64", Vector, 1, |i, w, _| f64_1(i, w, |a| 1.0 / a));
    t.add("v_rsq_f64", Vector, 1, |i, w, _| f64_1(i, w, rsq64));
    t.add("v_sqrt_f64", Vector, 1, |i, w, _| f64_1(i, w, f64::sqrt));
    t.add("v_fract_f64", Vector, 1, |i, w, _| f64_1(i, w, fract64));
    t.add("v_trunc_f64", Vector, 1, |i, w, _| f64_1(i, w, |a| quieted(a.trunc())));
    t.add("v_ceil_f64", Vector, 1, |i, w, _| f64_1(i, w, |a| quieted(a.ceil())));
    t.add("v_floor_f64", Vector, 1, |i, w, _| f64_1(i, w, |a| quieted(a.floor())));
    t.add("v_rndne_f64", Vector, 1, |i, w, _| f64_1(i, w, |a| quieted(a.round_ties_even())));
    t.add("v_frexp_mant_f64", Vector, 1, |i, w, _| f64_1(i, w, |a| frexp64(a).0));
    t.add("v_ldexp_f64", Vector, 1, |i, w, _| {
        let exec = w.exec();
        w.need(i.src[0], 2, exec)?;
        w.need(i.src[1], 1, exec)?;
        for (half, active) in halves(exec) {
            let a = f64s(i, w, 0, half);
            let b = w.lanes32(i.src[1], half);
            put_f64s(i, w, half, active, by_lane(|l| ldexp64(a[l], b[l] as i32)));
        }
        w.wrote(i.dst[0], 2, exec);
        Ok(())
    });
}

fn minima(t: &mut Table) {
    macro_rules! of {
        ($type:literal $two:ident) => {
            t.add(concat!("v_min_", $type), Vector, 1, |i, w, _| $two(i, w, min));
            t.add(concat!("v_max_", $type), Vector, 1, |i, w, _| $two(i, w, max));
            t.add(concat!("v_min_num_", $type), Vector, 1, |i, w, _| $two(i, w, min_num));
            t.add(concat!("v_max_num_", $type), Vector, 1, |i, w, _| $two(i, w, max_num));
            t.add(concat!("v_minimum_", $type), Vector, 1, |i, w, _| $two(i, w, minimum));
            t.add(concat!("v_maximum_", $type), Vector, 1, |i, w, _| $two(i, w, maximum));
        };
    }
    macro_rules! of_three {
        ($type:literal $three:ident) => {
            t.add(concat!("v_min3_", $type), Vector, 1, |i, w, _| $three(i, w, |a, b, c| min(min(a, b), c)));
            t.add(concat!("v_max3_", $type), Vector, 1, |i, w, _| $three(i, w, |a, b, c| max(max(a, b), c)));
            t.add(concat!("v_med3_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| med3(a, b, c, min, max))
            });
            t.add(concat!("v_minmax_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| max(min(a, b), c))
            });
            t.add(concat!("v_maxmin_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| min(max(a, b), c))
            });
            t.add(concat!("v_min3_num_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| min_num(min_num(a, b), c))
            });
            t.add(concat!("v_max3_num_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| max_num(max_num(a, b), c))
            });
            t.add(concat!("v_med3_num_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| med3(a, b, c, min_num, max_num))
            });
            t.add(concat!("v_minmax_num_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| max_num(min_num(a, b), c))
            });
            t.add(concat!("v_maxmin_num_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| min_num(max_num(a, b), c))
            });
            t.add(concat!("v_minimum3_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| minimum(minimum(a, b), c))
            });
            t.add(concat!("v_maximum3_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| maximum(maximum(a, b), c))
            });
            t.add(concat!("v_minimummaximum_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| maximum(minimum(a, b), c))
            });
            t.add(concat!("v_maximumminimum_", $type), Vector, 1, |i, w, _| {
                $three(i, w, |a, b, c| minimum(maximum(a, b), c))
            });
        };
    }
    of!("f32" f32_2);
    of!("f16" f16_2);
    of!("f64" f64_2);
    of_three!("f32" f32_by3);
    of_three!("f16" f16_3);
    t.keeps_high(&["v_min3_f16", "v_max3_f16", "v_med3_f16"]);
}

fn division(t: &mut Table) {
    t.add("v_div_scale_f32", Vector, 2, |i, w, _| {
        let exec = w.exec();
        for k in 0..3 {
            w.need(i.src[k], 1, exec)?;
        }
        let mut flags = 0;
        for (half, active) in halves(exec) {
            let [a, b, c] = [0, 1, 2].map(|k| f32s(i, w, k, half));
            let scaled = by_lane(|l| div_scale32(a[l], b[l], c[l]));
            flags |= mask(scaled.map(|s| s.1)) << (32 * half);
            put_f32s(i, w, half, active, scaled.map(|s| s.0));
        }
        w.wrote(i.dst[0], 1, exec);
        set_flags(i, w, flags & exec)
    });
    t.add("v_div_scale_f64", Vector, 2, |i, w, _| {
        let exec = w.exec();
        for k in 0..3 {
            w.need(i.src[k], 2, exec)?;
        }
        let mut flags = 0;
        for (half, active) in halves(exec) {
            let [a, b, c] = [0, 1, 2].map(|k| f64s(i, w, k, half));
            let scaled = by_lane(|l| div_scale64(a[l], b[l], c[l]));
            flags |= mask(scaled.map(|s| s.1)) << (32 * half);
            put_f64s(i, w, half, active, scaled.map(|s| s.0));
        }
        w.wrote(i.dst[0], 2, exec);
        set_flags(i, w, flags & exec)
    });
    t.add("v_div_fmas_f32", Vector, 1, |i, w, _| {
        let exec = w.exec();
        for k in 0..3 {
            w.need(i.src[k], 1, exec)?;
        }
        w.need_sgprs(VCC, w.lanes as u32 / 32)?;
        let vcc = w.vcc();
        for (half, active) in halves(exec) {
            let [a, b, c] = [0, 1, 2].map(|k| f32s(i, w, k, half));
            let scale = |l: usize| div_fmas32(a[l], b[l], c[l], vcc >> (32 * half + l) & 1 != 0);
            put_f32s(i, w, half, active, by_lane(scale));
        }
        w.wrote(i.dst[0], 1, exec);
        Ok(())
    });
    t.add("v_div_fmas_f64", Vector, 1, |i, w, _| {
        let exec = w.exec();
        for k in 0..3 {
            w.need(i.src[k], 2, exec)?;
        }
        w.need_sgprs(VCC, w.lanes as u32 / 32)?;
        let vcc = w.vcc();
        for (half, active) in halves(exec) {
            let [a, b, c] = [0, 1, 2].map(|k| f64s(i, w, k, half));
            let scale = |l: usize| div_fmas64(a[l], b[l], c[l], vcc >> (32 * half + l) & 1 != 0);
            put_f64s(i, w, half, active, by_lane(scale));
        }
        w.wrote(i.dst[0], 2, exec);
        Ok(())
    });
    t.add("v_div_fixup_f32", Vector, 1, |i, w, _| f32_by3(i, w, div_fixup32));
    t.add("v_div_fixup_f64", Vector, 1, |i, w, _| f64_3(i, w, div_fixup64));
    t.add("v_div_fixup_f16", Vector, 1, |i, w, _| f16_3(i, w, div_fixup16));
    t.keeps_high(&["v_div_fixup_f16"]);
    t.add("v_div_fixup_legacy_f16", Vector, 1, |i, w, _| f16_3(i, w, div_fixup16));
}

fn mask(bits: [bool; 32]) -> u64 {
    bits.iter().rev().fold(0, |all, &bit| all << 1 | bit as u64)
}

/// Inactive lanes get 0.
fn set_flags(inst: &Inst, wave: &mut Wave, flags: u64) -> Done {
    if let Operand::Sgpr(n) = inst.dst[1] {
        wave.set_mask(n, flags);
    }
    Ok(())
}

/// Of single values in scalar registers. V_S_* are the transcendental ones.
fn scalar(t: &mut Table) {
    macro_rules! one {
        ($($name:literal $f:expr;)*) => {$(
            t.add($name, Scalar, 1, |i, w, _| {
                let f: fn(f32) -> f32 = $f;
                let a = scalar32(i, w, 0)?;
                set_scalar32(i, w, f(a))
            });
        )*};
    }
    one!(
        "s_ceil_f32" |a| quieted(a.ceil());
        "s_floor_f32" |a| quieted(a.floor());
        "s_trunc_f32" |a| quieted(a.trunc());
        "s_rndne_f32" |a| quieted(a.round_ties_even());
        "v_s_exp_f32" |a| nearest32(a, f64::exp2);
        "v_s_log_f32" |a| nearest32(a, f64::log2);
        "v_s_rcp_f32" |a| 1.0 / a;
        "v_s_rsq_f32" |a| nearest32(a, rsq);
        "v_s_sqrt_f32" f32::sqrt;
    );
    macro_rules! two {
        ($($name:literal $f:expr;)*) => {$(
            t.add(concat!($name, "_f32"), Scalar, 1, |i, w, _| {
                let f: fn(f32, f32) -> f32 = $f;
                let (a, b) = (scalar32(i, w, 0)?, scalar32(i, w, 1)?);
                set_scalar32(i, w, f(a, b))
            });
        )*};
    }
    two!(
        "s_add" |a, b| a + b;
        "s_sub" |a, b| a - b;
        "s_mul" |a, b| a * b;
        "s_min" min;
        "s_max" max;
        "s_min_num" min_num;
        "s_max_num" max_num;
        "s_minimum" minimum;
        "s_maximum" maximum;
    );
    t.add("s_fmac_f32", Scalar, 1, |i, w, _| {
        w.need(i.dst[0], 1, 0)?;
        let (a, b, c) = (scalar32(i, w, 0)?, scalar32(i, w, 1)?, f32::from_bits(w.scalar32(i.dst[0])));
        set_scalar32(i, w, a.mul_add(b, c))
    });
    t.add("s_fmamk_f32", Scalar, 1, |i, w, _| {
        let (a, b, c) = (scalar32(i, w, 0)?, scalar32(i, w, 1)?, scalar32(i, w, 2)?);
        set_scalar32(i, w, a.mul_add(b, c))
    });
    t.alias(&["s_fmaak_f32"], "s_fmamk_f32");

    macro_rules! halves {
        ($($name:literal $f:expr;)*) => {$(
            t.add(concat!($name, "_f16"), Scalar, 1, |i, w, _| {
                let f: fn(f16, f16) -> f16 = $f;
                let (a, b) = (scalar16(i, w, 0)?, scalar16(i, w, 1)?);
                set_scalar16(i, w, f(a, b))
            });
        )*};
    }
    halves!(
        "s_add" |a, b| f16_by2(a, b, |a, b| a + b);
        "s_sub" |a, b| f16_by2(a, b, |a, b| a - b);
        "s_mul" |a, b| f16_by2(a, b, |a, b| a * b);
        "s_min" min;
        "s_max" max;
        "s_min_num" min_num;
        "s_max_num" max_num;
        "s_minimum" minimum;
        "s_maximum" maximum;
    );
    macro_rules! half {
        ($($name:literal $f:expr;)*) => {$(
            t.add($name, Scalar, 1, |i, w, _| {
                let a = scalar16(i, w, 0)?;
                let f: fn(f16) -> f16 = $f;
                set_scalar16(i, w, f(a))
            });
        )*};
    }
    half!(
        "s_ceil_f16" |a| f16_by(a, f32::ceil);
        "s_floor_f16" |a| f16_by(a, f32::floor);
        "s_trunc_f16" |a| f16_by(a, f32::trunc);
        "s_rndne_f16" |a| f16_by(a, f32::round_ties_even);
        "v_s_exp_f16" |a| nearest16(a, f64::exp2);
        "v_s_log_f16" |a| nearest16(a, f64::log2);
        "v_s_rcp_f16" |a| nearest16(a, rcp);
        "v_s_rsq_f16" |a| nearest16(a, rsq);
        "v_s_sqrt_f16" |a| nearest16(a, f64::sqrt);
    );
    t.add("s_fmac_f16", Scalar, 1, |i, w, _| {
        w.need(i.dst[0], 1, 0)?;
        let c = f16::from_bits(w.scalar32(i.dst[0]) as u16);
        let (a, b) = (scalar16(i, w, 0)?, scalar16(i, w, 1)?);
        set_scalar16(i, w, fma16(a, b, c))
    });

    t.add("s_cvt_f32_i32", Scalar, 1, |i, w, _| {
        w.need(i.src[0], 1, 0)?;
        set_scalar32(i, w, w.scalar32(i.src[0]) as i32 as f32)
    });
    t.add("s_cvt_f32_u32", Scalar, 1, |i, w, _| {
        w.need(i.src[0], 1, 0)?;
        set_scalar32(i, w, w.scalar32(i.src[0]) as f32)
    });
    t.add("s_cvt_i32_f32", Scalar, 1, |i, w, _| {
        let a = scalar32(i, w, 0)?;
        set_scalar32(i, w, f32::from_bits(a as i32 as u32))
    });
    t.add("s_cvt_u32_f32", Scalar, 1, |i, w, _| {
        let a = scalar32(i, w, 0)?;
        set_scalar32(i, w, f32::from_bits(a as u32))
    });
    t.add("s_cvt_f16_f32", Scalar, 1, |i, w, _| {
        let a = scalar32(i, w, 0)?;
        set_scalar16(i, w, f16::from_f32(a))
    });
    t.add("s_cvt_f32_f16", Scalar, 1, |i, w, _| {
        let a = scalar16(i, w, 0)?;
        set_scalar32(i, w, a.to_f32())
    });
    t.add("s_cvt_hi_f32_f16", Scalar, 1, |i, w, _| {
        w.need(i.src[0], 1, 0)?;
        set_scalar32(i, w, f16::from_bits((w.scalar32(i.src[0]) >> 16) as u16).to_f32())
    });
    t.add("s_cvt_pk_rtz_f16_f32", Scalar, 1, |i, w, _| {
        let (a, b) = (scalar32(i, w, 0)?, scalar32(i, w, 1)?);
        set_scalar32(i, w, f32::from_bits(f16_toward_zero(a) | f16_toward_zero(b) << 16))
    });

    macro_rules! compare {
        ($($name:literal $f:expr;)*) => {$(
            t.add(concat!("s_cmp_", $name, "_f32"), Scalar, 0, |i, w, _| {
                let f: fn(f32, f32) -> bool = $f;
                let (a, b) = (scalar32(i, w, 0)?, scalar32(i, w, 1)?);
                w.set_scc(f(a, b));
                Ok(())
            });
            t.add(concat!("s_cmp_", $name, "_f16"), Scalar, 0, |i, w, _| {
                let f: fn(f32, f32) -> bool = $f;
                let (a, b) = (scalar16(i, w, 0)?, scalar16(i, w, 1)?);
                w.set_scc(f(a.to_f32(), b.to_f32()));
                Ok(())
            });
        )*};
    }
    compare!(
        "lt" |a, b| a < b;
        "eq" |a, b| a == b;
        "le" |a, b| a <= b;
        "gt" |a, b| a > b;
        "lg" |a, b| a < b || a > b;
        "ge" |a, b| a >= b;
        "o" |a, b| !a.is_nan() && !b.is_nan();
        "u" |a, b| a.is_nan() || b.is_nan();
        "nge" |a, b| !(a >= b);
        "nlg" |a, b| !(a < b || a > b);
        "ngt" |a, b| !(a > b);
        "nle" |a, b| !(a <= b);
        "neq" |a, b| a != b;
        "nlt" |a, b| !(a < b);
    );
}

fn scalar32(inst: &Inst, wave: &Wave, k: usize) -> Result<f32, crate::stop::LaneFault> {
    wave.need(inst.src[k], 1, 0)?;
    let bits = wave.scalar32(inst.src[k]);
    let keep = if inst.mods.abs >> k & 1 != 0 { 0x7fff_ffff } else { u32::MAX };
    let value = f32::from_bits(bits & keep ^ (inst.mods.neg as u32 >> k & 1) << 31);
    Ok(if wave.denormals.flush_inputs { crate::isa::float_alu::flush32(value) } else { value })
}

fn set_scalar32(inst: &Inst, wave: &mut Wave, value: f32) -> Done {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr(n, value.to_bits());
    }
    Ok(())
}

fn scalar16(inst: &Inst, wave: &Wave, k: usize) -> Result<f16, crate::stop::LaneFault> {
    wave.need(inst.src[k], 1, 0)?;
    let bits = match inst.src[k] {
        Operand::Sgpr(_) => wave.scalar32(inst.src[k]),
        constant => constant.bits16(),
    };
    let keep = if inst.mods.abs >> k & 1 != 0 { 0x7fff } else { 0xffff };
    Ok(f16::from_bits((bits & keep) as u16 ^ (inst.mods.neg as u16 >> k & 1) << 15))
}

/// The high half becomes 0.
fn set_scalar16(inst: &Inst, wave: &mut Wave, value: f16) -> Done {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr(n, value.to_bits() as u32);
    }
    Ok(())
}
