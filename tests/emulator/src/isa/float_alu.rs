//! Lane by lane on floats: sources with neg and abs, results with omod and clamp, denormals as MODE says.

use half::f16;

use crate::isa::Inst;
use crate::isa::alu::{Done, Lanes, Room, by_lane, halves, map_lanes};
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
        bits = by_lane(|l| bits[l] & 0x7fff_ffff);
    }
    if neg != 0 {
        bits = by_lane(|l| bits[l] ^ 0x8000_0000);
    }
    let values = by_lane(|l| f32::from_bits(bits[l]));
    if wave.denormals.flush_inputs { map_lanes(values, flush32) } else { values }
}

/// The bits of f32 sources, without a copy where nothing changes them.
#[inline(always)]
pub fn f32_bits<'a>(inst: &Inst, wave: &'a Wave, k: usize, half: usize, room: &'a mut Room) -> &'a Lanes {
    let plain = (inst.mods.neg | inst.mods.abs) >> k & 1 == 0 && !wave.denormals.flush_inputs;
    if plain {
        return wave.lanes(inst.src[k], half, room);
    }
    changed_bits(inst, wave, k, half, room)
}

#[inline(never)]
fn changed_bits<'a>(inst: &Inst, wave: &Wave, k: usize, half: usize, room: &'a mut Room) -> &'a Lanes {
    let lanes = wave.lanes32(inst.src[k], half);
    let (neg, abs) = (inst.mods.neg as u32 >> k & 1, inst.mods.abs as u32 >> k & 1);
    let (flip, keep) = (neg << 31, !(abs << 31));
    let values = by_lane(|l| lanes[l] & keep ^ flip);
    room.write(if wave.denormals.flush_inputs {
        by_lane(|l| flush32(f32::from_bits(values[l])).to_bits())
    } else {
        values
    })
}

/// Writes f32 results, given as bits.
#[inline(always)]
fn put_f32_bits(inst: &Inst, wave: &mut Wave, half: usize, active: u32, bits: &Lanes) {
    if inst.mods.omod == 0 && !inst.mods.clamp && !wave.denormals.flush_outputs {
        wave.put32(inst.dst[0], half, active, bits);
    } else {
        put_f32s(inst, wave, half, active, by_lane(|l| f32::from_bits(bits[l])));
    }
}

/// Writes f32 results.
pub fn put_f32s(inst: &Inst, wave: &mut Wave, half: usize, active: u32, mut values: F32s) {
    if inst.mods.omod != 0 {
        let factor = [1.0, 2.0, 4.0, 0.5][inst.mods.omod as usize & 3];
        values = map_lanes(values, |v| v * factor);
    }
    if inst.mods.clamp {
        values = map_lanes(values, clamp32);
    }
    if wave.denormals.flush_outputs {
        values = map_lanes(values, flush32);
    }
    wave.put32(inst.dst[0], half, active, &by_lane(|l| values[l].to_bits()));
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
    let values = map_lanes(bits, |v| f16::from_bits((v & keep ^ flip) as u16));
    if wave.denormals_16_64.flush_inputs { map_lanes(values, flush16) } else { values }
}

pub fn put_f16s(inst: &Inst, wave: &mut Wave, half: usize, active: u32, mut values: F16s) {
    if inst.mods.omod != 0 {
        let factor = [1.0, 2.0, 4.0, 0.5][inst.mods.omod as usize & 3];
        values = map_lanes(values, |v| f16::from_f32(v.to_f32() * factor));
    }
    if inst.mods.clamp {
        values = map_lanes(values, clamp16);
    }
    if wave.denormals_16_64.flush_outputs {
        values = map_lanes(values, flush16);
    }
    wave.put16(inst, half, active, &map_lanes(values, |v| v.to_bits() as u32));
}

pub fn f64s(inst: &Inst, wave: &Wave, k: usize, half: usize) -> F64s {
    let bits = wave.lanes_f64(inst.src[k], half);
    let keep = if inst.mods.abs >> k & 1 != 0 { u64::MAX >> 1 } else { u64::MAX };
    let flip = (inst.mods.neg as u64 >> k & 1) << 63;
    let values = map_lanes(bits, |v| f64::from_bits(v & keep ^ flip));
    if wave.denormals_16_64.flush_inputs { map_lanes(values, flush64) } else { values }
}

pub fn put_f64s(inst: &Inst, wave: &mut Wave, half: usize, active: u32, mut values: F64s) {
    if inst.mods.omod != 0 {
        let factor = [1.0, 2.0, 4.0, 0.5][inst.mods.omod as usize & 3];
        values = map_lanes(values, |v| v * factor);
    }
    if inst.mods.clamp {
        values = map_lanes(values, clamp64);
    }
    if wave.denormals_16_64.flush_outputs {
        values = map_lanes(values, flush64);
    }
    wave.put64(inst.dst[0], half, active, &map_lanes(values, f64::to_bits));
}

/// `f` of each lane's sources, for 1, 2 and 3 of them: each use is compiled for itself, to vector code.
#[inline(always)]
pub fn f32_1(inst: &Inst, wave: &mut Wave, f: impl Fn(f32) -> f32) -> Done {
    let exec = wave.exec();
    let mut room = Room::uninit();
    wave.need(inst.src[0], 1, exec)?;
    for (half, active) in halves(exec) {
        let a = f32_bits(inst, wave, 0, half, &mut room);
        let values = by_lane(|l| f(f32::from_bits(a[l])).to_bits());
        put_f32_bits(inst, wave, half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

#[inline(always)]
pub fn f32_2(inst: &Inst, wave: &mut Wave, f: impl Fn(f32, f32) -> f32) -> Done {
    let exec = wave.exec();
    let [mut x, mut y] = [Room::uninit(); 2];
    wave.need(inst.src[0], 1, exec)?;
    wave.need(inst.src[1], 1, exec)?;
    for (half, active) in halves(exec) {
        let a = f32_bits(inst, wave, 0, half, &mut x);
        let b = f32_bits(inst, wave, 1, half, &mut y);
        let values = by_lane(|l| f(f32::from_bits(a[l]), f32::from_bits(b[l])).to_bits());
        put_f32_bits(inst, wave, half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

#[inline(always)]
pub fn f32_3(inst: &Inst, wave: &mut Wave, f: impl Fn(f32, f32, f32) -> f32) -> Done {
    let exec = wave.exec();
    let [mut x, mut y, mut z] = [Room::uninit(); 3];
    for k in 0..3 {
        wave.need(inst.src[k], 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let a = f32_bits(inst, wave, 0, half, &mut x);
        let b = f32_bits(inst, wave, 1, half, &mut y);
        let c = f32_bits(inst, wave, 2, half, &mut z);
        let of = |lanes: &Lanes, l: usize| f32::from_bits(lanes[l]);
        let values = by_lane(|l| f(of(a, l), of(b, l), of(c, l)).to_bits());
        put_f32_bits(inst, wave, half, active, &values);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// The same for the other types, through a pointer, which keeps the code small.
macro_rules! lanewise {
    ($one:ident $two:ident $three:ident: $type:ty, $words:literal, $load:ident, $store:ident) => {
        #[inline(never)]
        pub fn $one(inst: &Inst, wave: &mut Wave, f: fn($type) -> $type) -> Done {
            let exec = wave.exec();
            wave.need(inst.src[0], $words, exec)?;
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                $store(inst, wave, half, active, by_lane(|l| f(a[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }

        #[inline(never)]
        pub fn $two(inst: &Inst, wave: &mut Wave, f: fn($type, $type) -> $type) -> Done {
            let exec = wave.exec();
            wave.need(inst.src[0], $words, exec)?;
            wave.need(inst.src[1], $words, exec)?;
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                let b = $load(inst, wave, 1, half);
                $store(inst, wave, half, active, by_lane(|l| f(a[l], b[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }

        #[inline(never)]
        pub fn $three(inst: &Inst, wave: &mut Wave, f: fn($type, $type, $type) -> $type) -> Done {
            let exec = wave.exec();
            for k in 0..3 {
                wave.need(inst.src[k], $words, exec)?;
            }
            for (half, active) in halves(exec) {
                let a = $load(inst, wave, 0, half);
                let b = $load(inst, wave, 1, half);
                let c = $load(inst, wave, 2, half);
                $store(inst, wave, half, active, by_lane(|l| f(a[l], b[l], c[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }
    };
}
lanewise!(f16_1 f16_2 f16_3: f16, 1, f16s, put_f16s);
lanewise!(f64_1 f64_2 f64_3: f64, 2, f64s, put_f64s);

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
    let [a, b, c] = [a, b, c].map(|lanes| by_lane(|l| lanes[l].to_bits()));
    map_lanes(fused_bits(&a, &b, &c), f32::from_bits)
}

/// The same, bits in and bits out.
#[inline(always)]
fn fused_bits(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the features that the function is compiled for.
        return unsafe { fused_fma(a, b, c) };
    }
    fused_lanes(a, b, c)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused_fma(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    fused_lanes(a, b, c)
}

#[inline(always)]
fn fused_lanes(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    by_lane(|l| f32::from_bits(a[l]).mul_add(f32::from_bits(b[l]), f32::from_bits(c[l])).to_bits())
}

/// V_FMA and its kin: the operands that multiply, and the one that is added.
pub fn fma32(inst: &Inst, wave: &mut Wave, a: usize, b: usize, c: Addend) -> Done {
    let mut room = [Room::uninit(); 3];
    let exec = wave.exec();
    wave.need(inst.src[a], 1, exec)?;
    wave.need(inst.src[b], 1, exec)?;
    match c {
        Addend::Source(k) => wave.need(inst.src[k], 1, exec)?,
        Addend::Destination => wave.need(inst.dst[0], 1, exec)?,
    }
    for (half, active) in halves(exec) {
        let [x, y, z] = &mut room;
        let x = f32_bits(inst, wave, a, half, x);
        let y = f32_bits(inst, wave, b, half, y);
        let z = match c {
            Addend::Source(k) => f32_bits(inst, wave, k, half, z),
            Addend::Destination if wave.denormals.flush_inputs => {
                let old = old_f32s(inst, wave, half);
                z.write(by_lane(|l| old[l].to_bits()))
            }
            Addend::Destination => wave.lanes(inst.dst[0], half, z),
        };
        let sums = fused_bits(x, y, z);
        put_f32_bits(inst, wave, half, active, &sums);
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
    let values = wave.lanes32(inst.dst[0], half);
    let values = by_lane(|l| f32::from_bits(values[l]));
    if wave.denormals.flush_inputs { map_lanes(values, flush32) } else { values }
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
                $store(inst, wave, half, active, by_lane(|l| f(a[l], b[l], c[l])));
            }
            wave.wrote(inst.dst[0], $words, exec);
            Ok(())
        }
    };
}
accumulate!(f32_onto: f32, 1, f32s, put_f32s, |i, w, half| old_f32s(i, w, half));
accumulate!(f16_onto: f16, 1, f16s, put_f16s, |i, w, half| {
    let high = i.mods.op_sel & 8 != 0;
    map_lanes(w.lanes16(i.dst[0], half, high), |v| f16::from_bits(v as u16))
});
accumulate!(f64_onto: f64, 2, f64s, put_f64s, |i, w, half| map_lanes(w.lanes_f64(i.dst[0], half), f64::from_bits));

/// Whether any of a float's payload says "signaling": used where hardware quiets what it passes on.
#[inline(always)]
pub fn quieted<F: Float>(x: F) -> F {
    if x.is_nan() { x.quiet() } else { x }
}
