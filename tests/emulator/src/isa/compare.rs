//! Vector comparisons: a lane mask to VCC or a scalar register (0 for inactive lanes), or to EXEC.
// Comparisons of NaN: neither a < b nor a >= b.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]

use crate::counters::Class::Vector;
use crate::isa::alu::{Done, Room, halves, lane_bits, map_lanes};
use crate::isa::float_alu::{f16s, f32_bits, f32s, f64s};
use crate::isa::floats::{class16, class32, class64};
use crate::isa::{Inst, Operand, Table};
use crate::stop::LaneFault;
use crate::wave::Wave;

type Mask = Result<u64, LaneFault>;

/// V_CMP and V_CMPX of one name, from one function that gives the mask.
macro_rules! pair {
    ($t:ident, $name:expr, |$i:ident, $w:ident| $mask:expr) => {{
        fn mask($i: &Inst, $w: &Wave) -> Mask {
            $mask
        }
        let outs = $t.generation.is_gfx9() as u8;
        $t.add(concat!("v_cmp_", $name), Vector, 1, |i, w, _| {
            let mask = mask(i, w)?;
            put(i, w, mask)
        });
        // Only gfx9 writes the mask to a register too.
        $t.add(concat!("v_cmpx_", $name), Vector, outs, |i, w, _| {
            let mask = mask(i, w)?;
            put(i, w, mask)?;
            w.set_exec(mask);
            Ok(())
        });
    }};
}

pub fn table(t: &mut Table) {
    macro_rules! each_integer {
        ($($op:literal |$a:ident, $b:ident| $f:expr;)*) => {$(
            pair!(t, concat!($op, "_i32"), |i, w| compare32(i, w, |x, y| { let ($a, $b) = (x as i32, y as i32); $f }));
            pair!(t, concat!($op, "_u32"), |i, w| compare32(i, w, |$a, $b| $f));
            pair!(t, concat!($op, "_i16"), |i, w| compare16(i, w, |x, y| { let ($a, $b) = (x as i16, y as i16); $f }));
            pair!(t, concat!($op, "_u16"), |i, w| compare16(i, w, |x, y| { let ($a, $b) = (x as u16, y as u16); $f }));
            pair!(t, concat!($op, "_i64"), |i, w| {
                compare64(i, w, true, |x, y| { let ($a, $b) = (x as i64, y as i64); $f })
            });
            pair!(t, concat!($op, "_u64"), |i, w| compare64(i, w, false, |$a, $b| $f));
        )*};
    }
    each_integer!(
        "lt" |a, b| a < b;
        "eq" |a, b| a == b;
        "le" |a, b| a <= b;
        "gt" |a, b| a > b;
        "ne" |a, b| a != b;
        "ge" |a, b| a >= b;
    );
    macro_rules! each_float {
        ($($op:literal |$a:ident, $b:ident| $f:expr;)*) => {$(
            pair!(t, concat!($op, "_f32"), |i, w| float32(i, w, |$a, $b| $f));
            pair!(t, concat!($op, "_f16"), |i, w| float16(i, w, |$a, $b| $f));
            pair!(t, concat!($op, "_f64"), |i, w| float64(i, w, |$a, $b| $f));
        )*};
    }
    each_float!(
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
    // Never and always.
    macro_rules! fixed {
        ($($type:literal)*) => {$(
            pair!(t, concat!("f_", $type), |_i, _w| Ok(0));
            pair!(t, concat!("t_", $type), |_i, w| Ok(w.exec()));
        )*};
    }
    fixed!("i16" "u16" "i32" "u32" "i64" "u64" "f16" "f32" "f64");
    for kind in ["f16", "f32", "f64"] {
        for compare in ["v_cmp", "v_cmpx"] {
            t.alias(&[&format!("{compare}_tru_{kind}")], &format!("{compare}_t_{kind}"));
        }
    }
    pair!(t, "class_f32", |i, w| {
        w.need(i.src[0], 1, w.exec())?;
        classes(i, w, |half| map_lanes(f32s(i, w, 0, half), class32))
    });
    pair!(t, "class_f16", |i, w| {
        w.need(i.src[0], 1, w.exec())?;
        classes(i, w, |half| map_lanes(f16s(i, w, 0, half), class16))
    });
    pair!(t, "class_f64", |i, w| {
        w.need(i.src[0], 2, w.exec())?;
        classes(i, w, |half| map_lanes(f64s(i, w, 0, half), class64))
    });
}

fn put(inst: &Inst, wave: &mut Wave, mask: u64) -> Done {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_mask(n, mask);
    }
    Ok(())
}

/// The mask of active lanes for which `f` holds.
#[inline(always)]
fn compare32(inst: &Inst, wave: &Wave, f: impl Fn(u32, u32) -> bool) -> Mask {
    let exec = wave.exec();
    let [mut x, mut y] = [Room::uninit(); 2];
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    let mut mask = 0;
    for (half, active) in halves(exec) {
        let a = wave.lanes(inst.src[0], half, &mut x);
        let b = wave.lanes(inst.src[1], half, &mut y);
        mask |= ((lane_bits(|l| f(a[l], b[l])) & active) as u64) << (32 * half);
    }
    Ok(mask)
}

#[inline(always)]
fn float32(inst: &Inst, wave: &Wave, f: impl Fn(f32, f32) -> bool) -> Mask {
    let exec = wave.exec();
    let [mut x, mut y] = [Room::uninit(); 2];
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    let mut mask = 0;
    for (half, active) in halves(exec) {
        let a = f32_bits(inst, wave, 0, half, &mut x);
        let b = f32_bits(inst, wave, 1, half, &mut y);
        let bits = lane_bits(|l| f(f32::from_bits(a[l]), f32::from_bits(b[l])));
        mask |= ((bits & active) as u64) << (32 * half);
    }
    Ok(mask)
}

/// The same for the other types, from the sources that `load` gives for each half.
macro_rules! compare {
    ($name:ident($($argument:ident: $kind:ty),*), $type:ty, $words:literal, |$i:ident, $w:ident, $k:ident, $half:ident| $load:expr) => {
        #[inline(never)]
        fn $name($i: &Inst, $w: &Wave, $($argument: $kind,)* f: fn($type, $type) -> bool) -> Mask {
            let exec = $w.exec();
            $w.need($i.src[0], $words, exec)?;
            $w.need($i.src[1], $words, exec)?;
            let mut mask = 0;
            for ($half, active) in halves(exec) {
                let load = |$k: usize| $load;
                let (a, b) = (load(0), load(1));
                let bits = lane_bits(|l| f(a[l], b[l]));
                mask |= ((bits & active) as u64) << (32 * $half);
            }
            Ok(mask)
        }
    };
}
compare!(compare16(), u32, 1, |i, w, k, half| w.lanes16(i.src[k], half, i.mods.op_sel >> k & 1 != 0));
compare!(compare64(signed: bool), u64, 2, |i, w, k, half| w.lanes64(i.src[k], half, signed));
compare!(float16(), half::f16, 1, |i, w, k, half| f16s(i, w, k, half));
compare!(float64(), f64, 2, |i, w, k, half| f64s(i, w, k, half));

/// Lanes whose class (one bit) is among those the second source asks for.
#[inline(always)]
fn classes(inst: &Inst, wave: &Wave, of: impl Fn(usize) -> [u32; 32]) -> Mask {
    let exec = wave.exec();
    wave.need(inst.src[1], 1, exec)?;
    let mut mask = 0;
    for (half, active) in halves(exec) {
        let (class, asked) = (of(half), wave.lanes32(inst.src[1], half));
        let bits = lane_bits(|l| class[l] & asked[l] != 0);
        mask |= ((bits & active) as u64) << (32 * half);
    }
    Ok(mask)
}
