//! Lane by lane on floats: sources with neg and abs, results with omod and clamp, denormals as MODE says.

use half::f16;

use crate::isa::Inst;
use crate::isa::alu::{Done, halves};
use crate::isa::floats::Float;
use crate::wave::Wave;

pub type F32s = [f32; 32];
pub type F16s = [f16; 32];
pub type F64s = [f64; 32];

/// f32 sources of 32 lanes.
#[inline(always)]
pub fn f32s(inst: &Inst, wave: &Wave, k: usize, half: usize) -> F32s {
    let mut bits = wave.lanes32(inst.src[k], half);
    let (neg, abs) = (inst.mods.neg >> k & 1, inst.mods.abs >> k & 1);
    if abs != 0 {
        bits = bits.map(|v| v & 0x7fff_ffff);
    }
    if neg != 0 {
        bits = bits.map(|v| v ^ 0x8000_0000);
    }
    let values = bits.map(f32::from_bits);
    if wave.denormals.flush_inputs { values.map(flush32) } else { values }
}

/// Writes f32 results.
#[inline(always)]
pub fn put_f32s(inst: &Inst, wave: &mut Wave, half: usize, active: u32, mut values: F32s) {
    if inst.mods.omod != 0 {
        let factor = [1.0, 2.0, 4.0, 0.5][inst.mods.omod as usize & 3];
        values = values.map(|v| v * factor);
    }
    if inst.mods.clamp {
        values = values.map(clamp32);
    }
    if wave.denormals.flush_outputs {
        values = values.map(flush32);
    }
    wave.put32(inst.dst[0], half, active, &values.map(f32::to_bits));
}

pub fn flush32(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

fn flush16(v: f16) -> f16 {
    if v.classify() == std::num::FpCategory::Subnormal { f16::ZERO.copysign(v) } else { v }
}

fn flush64(v: f64) -> f64 {
    if v.is_subnormal() { 0f64.copysign(v) } else { v }
}

/// To 0..=1; NaN becomes 0.
pub fn clamp32(v: f32) -> f32 {
    if v > 0.0 { v.min(1.0) } else { 0.0 }
}

fn clamp64(v: f64) -> f64 {
    if v > 0.0 { v.min(1.0) } else { 0.0 }
}

pub fn clamp16(v: f16) -> f16 {
    f16::from_f32(clamp32(v.to_f32()))
}

pub fn f16s(inst: &Inst, wave: &Wave, k: usize, half: usize) -> F16s {
    let bits = wave.lanes16(inst.src[k], half, inst.mods.op_sel >> k & 1 != 0);
    let keep = if inst.mods.abs >> k & 1 != 0 { 0x7fff } else { 0xffff };
    let flip = (inst.mods.neg as u32 >> k & 1) << 15;
    let values = bits.map(|v| f16::from_bits((v & keep ^ flip) as u16));
    if wave.denormals_16_64.flush_inputs { values.map(flush16) } else { values }
}

pub fn put_f16s(inst: &Inst, wave: &mut Wave, half: usize, active: u32, mut values: F16s) {
    if inst.mods.omod != 0 {
        let factor = [1.0, 2.0, 4.0, 0.5][inst.mods.omod as usize & 3];
        values = values.map(|v| f16::from_f32(v.to_f32() * factor));
    }
    if inst.mods.clamp {
        values = values.map(clamp16);
    }
    if wave.denormals_16_64.flush_outputs {
        values = values.map(flush16);
    }
    wave.put16(inst, half, active, &values.map(|v| v.to_bits() as u32));
}

pub fn f64s(inst: &Inst, wave: &Wave, k: usize, half: usize) -> F64s {
    let bits = wave.lanes_f64(inst.src[k], half);
    let keep = if inst.mods.abs >> k & 1 != 0 { u64::MAX >> 1 } else { u64::MAX };
    let flip = (inst.mods.neg as u64 >> k & 1) << 63;
    let values = bits.map(|v| f64::from_bits(v & keep ^ flip));
    if wave.denormals_16_64.flush_inputs { values.map(flush64) } else { values }
}

pub fn put_f64s(inst: &Inst, wave: &mut Wave, half: usize, active: u32, mut values: F64s) {
    if inst.mods.omod != 0 {
        let factor = [1.0, 2.0, 4.0, 0.5][inst.mods.omod as usize & 3];
        values = values.map(|v| v * factor);
    }
    if inst.mods.clamp {
        values = values.map(clamp64);
    }
    if wave.denormals_16_64.flush_outputs {
        values = values.map(flush64);
    }
    wave.put64(inst.dst[0], half, active, &values.map(f64::to_bits));
}

/// `f` of each lane's sources, for 1, 2 and 3 of them. Of f32 each use is compiled for itself, with
/// instructions on several lanes; the other types go through a pointer, which keeps the code small.
macro_rules! lanewise {
    ($one:ident($f1:ty) $two:ident($f2:ty) $three:ident($f3:ty): $words:literal, $load:ident, $store:ident, $inline:ident) => {
        #[inline($inline)]
        pub fn $one(inst: &Inst, wave: &mut Wave, f: $f1) -> Done {
            let exec = wave.exec();
            wave.need(inst.src[0], $words, exec)?;
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                $store(inst, wave, half, active, a.map(&f));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }

        #[inline($inline)]
        pub fn $two(inst: &Inst, wave: &mut Wave, f: $f2) -> Done {
            let exec = wave.exec();
            wave.need(inst.src[0], $words, exec)?;
            wave.need(inst.src[1], $words, exec)?;
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                let b = $load(inst, wave, 1, half);
                $store(inst, wave, half, active, std::array::from_fn(|l| f(a[l], b[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }

        #[inline($inline)]
        pub fn $three(inst: &Inst, wave: &mut Wave, f: $f3) -> Done {
            let exec = wave.exec();
            for k in 0..3 {
                wave.need(inst.src[k], $words, exec)?;
            }
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                let b = $load(inst, wave, 1, half);
                let c = $load(inst, wave, 2, half);
                $store(inst, wave, half, active, std::array::from_fn(|l| f(a[l], b[l], c[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }
    };
}
lanewise!(
    f32_1(impl Fn(f32) -> f32) f32_2(impl Fn(f32, f32) -> f32) f32_3(impl Fn(f32, f32, f32) -> f32):
    1, f32s, put_f32s, always
);
lanewise!(
    f16_1(fn(f16) -> f16) f16_2(fn(f16, f16) -> f16) f16_3(fn(f16, f16, f16) -> f16):
    1, f16s, put_f16s, never
);
lanewise!(
    f64_1(fn(f64) -> f64) f64_2(fn(f64, f64) -> f64) f64_3(fn(f64, f64, f64) -> f64):
    2, f64s, put_f64s, never
);

/// As [`f32_1`], through a pointer: for functions that take long anyway.
#[inline(never)]
pub fn f32_by(inst: &Inst, wave: &mut Wave, f: fn(f32) -> f32) -> Done {
    f32_1(inst, wave, f)
}

#[inline(never)]
pub fn f32_by2(inst: &Inst, wave: &mut Wave, f: fn(f32, f32) -> f32) -> Done {
    f32_2(inst, wave, f)
}

#[inline(never)]
pub fn f32_by3(inst: &Inst, wave: &mut Wave, f: fn(f32, f32, f32) -> f32) -> Done {
    f32_3(inst, wave, f)
}

/// `a * b + c`, rounded once. The three sources' lanes in, the sums out.
#[inline(always)]
pub fn fused(a: &F32s, b: &F32s, c: &F32s) -> F32s {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { fused_fma(a, b, c) };
    }
    std::array::from_fn(|l| a[l].mul_add(b[l], c[l]))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused_fma(a: &F32s, b: &F32s, c: &F32s) -> F32s {
    let mut sum = [0.0; 32];
    for l in 0..32 {
        sum[l] = a[l].mul_add(b[l], c[l]);
    }
    sum
}

/// V_FMA and its kin: the operands that multiply, and the one that is added.
pub fn fma32(inst: &Inst, wave: &mut Wave, a: usize, b: usize, c: Addend) -> Done {
    let exec = wave.exec();
    wave.need(inst.src[a], 1, exec)?;
    wave.need(inst.src[b], 1, exec)?;
    match c {
        Addend::Source(k) => wave.need(inst.src[k], 1, exec)?,
        Addend::Destination => wave.need(inst.dst[0], 1, exec)?,
    }
    for (half, active) in halves(exec) {
        let x = f32s(inst, wave, a, half);
        let y = f32s(inst, wave, b, half);
        let z = match c {
            Addend::Source(k) => f32s(inst, wave, k, half),
            Addend::Destination => old_f32s(inst, wave, half),
        };
        put_f32s(inst, wave, half, active, fused(&x, &y, &z));
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// What is added to a product.
#[derive(Clone, Copy)]
pub enum Addend {
    Source(usize),
    Destination,
}

/// What the destination held: the addend of V_FMAC.
#[inline(always)]
pub fn old_f32s(inst: &Inst, wave: &Wave, half: usize) -> F32s {
    let values = wave.lanes32(inst.dst[0], half).map(f32::from_bits);
    if wave.denormals.flush_inputs { values.map(flush32) } else { values }
}

/// `f(a, b, destination)` for the other float types.
macro_rules! accumulate {
    ($name:ident: $type:ty, $words:literal, $load:ident, $store:ident, $old:expr) => {
        #[inline(never)]
        pub fn $name(inst: &Inst, wave: &mut Wave, f: fn($type, $type, $type) -> $type) -> Done {
            let exec = wave.exec();
            wave.need(inst.src[0], $words, exec)?;
            wave.need(inst.src[1], $words, exec)?;
            wave.need(inst.dst[0], $words, exec)?;
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                let b = $load(inst, wave, 1, half);
                let old: fn(&Inst, &Wave, usize) -> [$type; 32] = $old;
                let c = old(inst, wave, half);
                $store(inst, wave, half, active, std::array::from_fn(|l| f(a[l], b[l], c[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }
    };
}
accumulate!(f32_onto: f32, 1, f32s, put_f32s, |i, w, half| old_f32s(i, w, half));
accumulate!(f16_onto: f16, 1, f16s, put_f16s, |i, w, half| {
    let high = i.mods.op_sel & 8 != 0;
    w.lanes16(i.dst[0], half, high).map(|v| f16::from_bits(v as u16))
});
accumulate!(f64_onto: f64, 2, f64s, put_f64s, |i, w, half| w.lanes_f64(i.dst[0], half).map(f64::from_bits));

/// Whether any of a float's payload says "signaling": used where hardware quiets what it passes on.
#[inline(always)]
pub fn quieted<F: Float>(x: F) -> F {
    if x.is_nan() { x.quiet() } else { x }
}
