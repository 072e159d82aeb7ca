//! VOP3P: packed arithmetic, dot products, mixed precision.
//!
//! op_sel and op_sel_hi say which half of each source goes into the low and the high half of the result,
//! neg_lo and neg_hi which of these are negated. An inline constant stands in the low half; its high half is
//! zero (an integer's its sign).

use std::array::from_fn;

use half::f16;

use crate::counters::Class::{Dot, Vector};
use crate::isa::alu::{Done, Lanes, halves};
use crate::isa::float_alu::{F32s, fused};
use crate::isa::floats::{max, max_num, maximum, min, min_num, minimum};
use crate::isa::matrix::element::{Element, f16_to_f32, f32_to_bf16, f32_to_f16, f64_to_f16};
use crate::isa::{Generation, Inst, Operand, Table};
use crate::stop::Fault;
use crate::wave::Wave;

pub fn table(t: &mut Table) {
    integers(t);
    floats(t);
    dots(t);
    mixed(t);
    if matches!(t.generation, Generation::Gfx90a | Generation::Gfx940) {
        wide(t);
    }
}

fn integers(t: &mut Table) {
    t.packed("v_pk_add_u16", Vector, |i, w, _| {
        if i.mods.clamp {
            ints(i, w, |[a, b]| a.saturating_add(b))
        } else {
            ints(i, w, |[a, b]| a.wrapping_add(b))
        }
    });
    t.packed("v_pk_sub_u16", Vector, |i, w, _| {
        if i.mods.clamp {
            ints(i, w, |[a, b]| a.saturating_sub(b))
        } else {
            ints(i, w, |[a, b]| a.wrapping_sub(b))
        }
    });
    t.packed("v_pk_add_i16", Vector, |i, w, _| {
        if i.mods.clamp {
            ints(i, w, |[a, b]| (a as i16).saturating_add(b as i16) as u16)
        } else {
            ints(i, w, |[a, b]| a.wrapping_add(b))
        }
    });
    t.packed("v_pk_sub_i16", Vector, |i, w, _| {
        if i.mods.clamp {
            ints(i, w, |[a, b]| (a as i16).saturating_sub(b as i16) as u16)
        } else {
            ints(i, w, |[a, b]| a.wrapping_sub(b))
        }
    });
    t.packed("v_pk_mul_lo_u16", Vector, |i, w, _| ints(i, w, |[a, b]| a.wrapping_mul(b)));
    t.packed("v_pk_mad_u16", Vector, |i, w, _| mad(i, w, 0, u16::MAX as i64, |v| v as i64));
    t.packed("v_pk_mad_i16", Vector, |i, w, _| {
        mad(i, w, i16::MIN as i64, i16::MAX as i64, |v| v as i16 as i64)
    });
    t.packed("v_pk_lshlrev_b16", Vector, |i, w, _| ints(i, w, |[a, b]| b << (a & 15)));
    t.packed("v_pk_lshrrev_b16", Vector, |i, w, _| ints(i, w, |[a, b]| b >> (a & 15)));
    t.packed("v_pk_ashrrev_i16", Vector, |i, w, _| ints(i, w, |[a, b]| (b as i16 >> (a & 15)) as u16));
    t.packed("v_pk_max_u16", Vector, |i, w, _| ints(i, w, |[a, b]| a.max(b)));
    t.packed("v_pk_min_u16", Vector, |i, w, _| ints(i, w, |[a, b]| a.min(b)));
    t.packed("v_pk_max_i16", Vector, |i, w, _| ints(i, w, |[a, b]| (a as i16).max(b as i16) as u16));
    t.packed("v_pk_min_i16", Vector, |i, w, _| ints(i, w, |[a, b]| (a as i16).min(b as i16) as u16));
}

fn floats(t: &mut Table) {
    t.packed("v_pk_add_f16", Vector, |i, w, _| halfs(i, w, |[a, b]| f32_to_f16(f(a) + f(b))));
    t.packed("v_pk_mul_f16", Vector, |i, w, _| halfs(i, w, |[a, b]| f32_to_f16(f(a) * f(b))));
    t.packed("v_pk_fma_f16", Vector, |i, w, _| halfs(i, w, |[a, b, c]| fma16(a, b, c)));
    if t.generation == Generation::Gfx12 {
        t.packed("v_pk_min_num_f16", Vector, |i, w, _| halfs16(i, w, min_num));
        t.packed("v_pk_max_num_f16", Vector, |i, w, _| halfs16(i, w, max_num));
        t.packed("v_pk_minimum_f16", Vector, |i, w, _| halfs16(i, w, minimum));
        t.packed("v_pk_maximum_f16", Vector, |i, w, _| halfs16(i, w, maximum));
    } else {
        t.packed("v_pk_min_f16", Vector, |i, w, _| halfs16(i, w, min));
        t.packed("v_pk_max_f16", Vector, |i, w, _| halfs16(i, w, max));
    }
    // VOP2: the destination is the addend.
    t.add("v_pk_fmac_f16", Vector, 1, |i, w, _| {
        let sources = [i.src[0], i.src[1], i.dst[0]];
        pairs(i, w, &sources, [true; 3], |[a, b, c]| fma16(a, b, c))
    });
}

#[inline(always)]
fn halfs16(inst: &Inst, wave: &mut Wave, f: fn(f16, f16) -> f16) -> Done {
    halfs(inst, wave, |[a, b]| f(f16::from_bits(a), f16::from_bits(b)).to_bits())
}

/// f16 to f32.
#[inline(always)]
fn f(half: u16) -> f32 {
    f16_to_f32(half)
}

/// The product of two f16 is exact in f64, and so is its sum with a third one unless that is too far away to
/// bear on the rounding to f16.
#[inline(always)]
fn fma16(a: u16, b: u16, c: u16) -> u16 {
    f64_to_f16(f(a) as f64 * f(b) as f64 + f(c) as f64)
}

fn dots(t: &mut Table) {
    t.packed("v_dot2_f32_f16", Dot, |i, w, _| dot_floats(i, w, i.src[2], Element::F16));
    if t.generation >= Generation::Gfx940 {
        t.packed("v_dot2_f32_bf16", Dot, |i, w, _| dot_floats(i, w, i.src[2], Element::Bf16));
    }
    if t.generation.is_gfx9() || t.generation == Generation::Gfx10 {
        t.packed("v_dot2_i32_i16", Dot, |i, w, _| dot_signed(i, w, i.src[2], 16));
        t.packed("v_dot2_u32_u16", Dot, |i, w, _| dot_unsigned(i, w, 16));
        t.packed("v_dot4_i32_i8", Dot, |i, w, _| dot_signed(i, w, i.src[2], 8));
        t.packed("v_dot8_i32_i4", Dot, |i, w, _| dot_signed(i, w, i.src[2], 4));
        t.add("v_dot2c_f32_f16", Dot, 1, |i, w, _| dot_floats(i, w, i.dst[0], Element::F16));
        t.add("v_dot2c_i32_i16", Dot, 1, |i, w, _| dot_signed(i, w, i.dst[0], 16));
        t.add("v_dot4c_i32_i8", Dot, 1, |i, w, _| dot_signed(i, w, i.dst[0], 8));
        t.add("v_dot8c_i32_i4", Dot, 1, |i, w, _| dot_signed(i, w, i.dst[0], 4));
    }
    t.packed("v_dot4_u32_u8", Dot, |i, w, _| dot_unsigned(i, w, 8));
    t.packed("v_dot8_u32_u4", Dot, |i, w, _| dot_unsigned(i, w, 4));
    if t.generation >= Generation::Gfx11 {
        t.add("v_dot2_f16_f16", Dot, 1, |i, w, _| dot_short(i, w, f, f32_to_f16));
        t.add("v_dot2_bf16_bf16", Dot, 1, |i, w, _| {
            dot_short(i, w, |v| Element::Bf16.float(v as u32), f32_to_bf16)
        });
        t.add("v_dot2acc_f32_f16", Dot, 1, |i, w, _| dot_floats(i, w, i.dst[0], Element::F16));
        t.alias(&["v_dot2c_f32_f16"], "v_dot2acc_f32_f16");
        t.packed("v_dot4_i32_iu8", Dot, |i, w, _| dot_either(i, w, 8));
        t.packed("v_dot8_i32_iu4", Dot, |i, w, _| dot_either(i, w, 4));
    }
    if t.generation == Generation::Gfx12 {
        t.packed("v_dot4_f32_fp8_fp8", Dot, |i, w, _| dot_bytes(i, w, Element::Fp8, Element::Fp8));
        t.packed("v_dot4_f32_fp8_bf8", Dot, |i, w, _| dot_bytes(i, w, Element::Fp8, Element::Bf8));
        t.packed("v_dot4_f32_bf8_fp8", Dot, |i, w, _| dot_bytes(i, w, Element::Bf8, Element::Fp8));
        t.packed("v_dot4_f32_bf8_bf8", Dot, |i, w, _| dot_bytes(i, w, Element::Bf8, Element::Bf8));
    }
}

fn mixed(t: &mut Table) {
    t.packed("v_fma_mix_f32", Vector, |i, w, _| mix(i, w, fused, Into::Word));
    t.packed("v_fma_mixlo_f16", Vector, |i, w, _| mix(i, w, fused, Into::Low));
    t.packed("v_fma_mixhi_f16", Vector, |i, w, _| mix(i, w, fused, Into::High));
    if t.generation.is_gfx9() {
        t.packed("v_mad_mix_f32", Vector, |i, w, _| mix(i, w, unfused, Into::Word));
        t.packed("v_mad_mixlo_f16", Vector, |i, w, _| mix(i, w, unfused, Into::Low));
        t.packed("v_mad_mixhi_f16", Vector, |i, w, _| mix(i, w, unfused, Into::High));
    }
}

/// Pairs of 32-bit operands.
fn wide(t: &mut Table) {
    t.packed("v_pk_add_f32", Vector, |i, w, _| wides(i, w, |[a, b]| from_fn(|lane| a[lane] + b[lane])));
    t.packed("v_pk_mul_f32", Vector, |i, w, _| wides(i, w, |[a, b]| from_fn(|lane| a[lane] * b[lane])));
    t.packed("v_pk_fma_f32", Vector, |i, w, _| wides(i, w, |[a, b, c]| fused(&a, &b, &c)));
    t.packed("v_pk_mov_b32", Vector, |i, w, _| {
        let exec = w.exec();
        let sources = [0, 1].map(|k| word_of(i.src[k], i.mods.op_sel >> k & 1));
        let written = sources.map(|source| w.written(source, 1));
        for (half, active) in halves(exec) {
            let [low, high] = sources.map(|source| w.lanes32(source, half));
            w.put32(i.dst[0], half, active, &low);
            w.put32(word_of(i.dst[0], 1), half, active, &high);
        }
        for k in [0, 1] {
            w.set_written(word_of(i.dst[0], k), 1, exec, written[k as usize]);
        }
        Ok(())
    });
}

/// Word 0 or 1 of a 64-bit operand; a constant's high word is zero.
fn word_of(operand: Operand, word: u8) -> Operand {
    match operand {
        Operand::Vgpr(n) => Operand::Vgpr(n + word as u16),
        Operand::Sgpr(n) => Operand::Sgpr(n + word),
        other if word == 0 => other,
        _ => Operand::Int(0),
    }
}

/// 32 lanes of a packed 16-bit source; float constants are put in the low half.
#[inline(always)]
fn source(wave: &Wave, operand: Operand, half: usize, float: bool) -> Lanes {
    match operand {
        Operand::Float(_) if float => [operand.bits16(); 32],
        _ => wave.lanes32(operand, half),
    }
}

/// How sources become the operands of one half of the result.
#[derive(Clone, Copy)]
struct Choice {
    shift: [u32; 3],
    negate: [u16; 3],
}

impl Choice {
    /// Of the low and of the high half.
    fn of(inst: &Inst, float: bool) -> [Choice; 2] {
        let mods = &inst.mods;
        let choice = |select: u8, negate: u8| Choice {
            shift: [0, 1, 2].map(|k| 16 * (select >> k & 1) as u32),
            negate: [0, 1, 2].map(|k| if float { (negate >> k & 1) as u16 * 0x8000 } else { 0 }),
        };
        [choice(mods.op_sel, mods.neg_lo), choice(mods.op_sel_hi.unwrap_or(7), mods.neg_hi)]
    }

    #[inline(always)]
    fn take(&self, k: usize, word: u32) -> u16 {
        word.wrapping_shr(self.shift[k]) as u16 ^ self.negate[k]
    }
}

/// `f` of the low halves of the sources and of their high halves.
#[inline(always)]
fn pairs<const N: usize>(
    inst: &Inst,
    wave: &mut Wave,
    sources: &[Operand; 3],
    float: [bool; N],
    f: impl Fn([u16; N]) -> u16,
) -> Done {
    let exec = wave.exec();
    for &operand in &sources[..N] {
        wave.need(operand, 1, exec)?;
    }
    let [low, high] = Choice::of(inst, float[0]);
    for (half, active) in halves(exec) {
        let words: [Lanes; N] = from_fn(|k| source(wave, sources[k], half, float[k]));
        let mut result = [0; 32];
        for (choice, shift) in [(low, 0), (high, 16)] {
            for (lane, result) in result.iter_mut().enumerate() {
                let bits = f(from_fn(|k| choice.take(k, words[k][lane]))) as u32;
                *result |= bits.wrapping_shl(shift);
            }
        }
        wave.put32(inst.dst[0], half, active, &result);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

#[inline(always)]
fn ints<const N: usize>(inst: &Inst, wave: &mut Wave, f: impl Fn([u16; N]) -> u16) -> Done {
    pairs(inst, wave, &[inst.src[0], inst.src[1], inst.src[2]], [false; N], f)
}

#[inline(always)]
fn halfs<const N: usize>(inst: &Inst, wave: &mut Wave, f: impl Fn([u16; N]) -> u16) -> Done {
    let sources = [inst.src[0], inst.src[1], inst.src[2]];
    if inst.mods.clamp {
        return pairs(inst, wave, &sources, [true; N], |values| clamp16(f(values)));
    }
    pairs(inst, wave, &sources, [true; N], f)
}

/// To 0..=1; NaN to 0.
fn clamp16(value: u16) -> u16 {
    f32_to_f16(clamp(f(value)))
}

fn clamp(value: f32) -> f32 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

fn mad(inst: &Inst, wave: &mut Wave, least: i64, most: i64, wide: impl Fn(u16) -> i64) -> Done {
    let clamps = inst.mods.clamp;
    ints(inst, wave, |[a, b, c]| {
        let exact = wide(a) * wide(b) + wide(c);
        if clamps { exact.clamp(least, most) as u16 } else { exact as u16 }
    })
}

/// `f` of each lane's words of sources 0 and 1 and of `addend`.
#[inline(always)]
fn dot(inst: &Inst, wave: &mut Wave, addend: Operand, f: impl Fn(u32, u32, u32) -> u32) -> Done {
    let exec = wave.exec();
    let [a, b] = [inst.src[0], inst.src[1]];
    for operand in [a, b, addend] {
        wave.need(operand, 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let (a, b) = (wave.lanes32(a, half), wave.lanes32(b, half));
        let c = wave.lanes32(addend, half);
        let mut result = [0; 32];
        for (result, ((&a, &b), &c)) in result.iter_mut().zip(a.iter().zip(&b).zip(&c)) {
            *result = f(a, b, c);
        }
        wave.put32(inst.dst[0], half, active, &result);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// Products are exact in f32; they are added one after the other.
#[inline(always)]
fn dot_floats(inst: &Inst, wave: &mut Wave, addend: Operand, element: Element) -> Done {
    let exec = wave.exec();
    for operand in [inst.src[0], inst.src[1], addend] {
        wave.need(operand, 1, exec)?;
    }
    let negate = if inst.mods.neg_lo & 4 != 0 { 0x8000_0000 } else { 0 };
    for (half, active) in halves(exec) {
        let [a, b] = [0, 1].map(|k| source(wave, inst.src[k], half, true));
        let mut sums = wave.lanes32(addend, half).map(|word| f32::from_bits(word ^ negate));
        for choice in Choice::of(inst, true) {
            for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(&b)) {
                *sum += element.float(choice.take(0, a) as u32) * element.float(choice.take(1, b) as u32);
            }
        }
        if inst.mods.clamp {
            sums = sums.map(clamp);
        }
        wave.put32(inst.dst[0], half, active, &sums.map(f32::to_bits));
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// A 16-bit sum, rounded after each product and each addition. op_sel tells the halves of C and D.
#[inline(always)]
fn dot_short(inst: &Inst, wave: &mut Wave, wide: impl Fn(u16) -> f32, narrow: impl Fn(f32) -> u16) -> Done {
    let exec = wave.exec();
    let mods = &inst.mods;
    if (mods.neg | mods.abs) & 3 != 0 || mods.op_sel & 3 != 0 {
        return Err(Fault::UnknownOpcode.into());
    }
    for k in 0..3 {
        wave.need(inst.src[k], 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let [a, b] = [0, 1].map(|k| source(wave, inst.src[k], half, true));
        let c = wave.lanes16(inst.src[2], half, mods.op_sel & 4 != 0);
        let result = from_fn(|lane| {
            let c = wide(c[lane] as u16);
            let c = if mods.abs & 4 != 0 { c.abs() } else { c };
            let start = if mods.neg & 4 != 0 { -c } else { c };
            let sum = [0, 16].iter().fold(start, |sum, shift| {
                let [a, b] = [a, b].map(|words| wide((words[lane] >> shift) as u16));
                wide(narrow(sum + wide(narrow(a * b))))
            });
            narrow(if mods.clamp { clamp(sum) } else { sum }) as u32
        });
        wave.put16(inst, half, active, &result);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

#[inline(always)]
fn dot_bytes(inst: &Inst, wave: &mut Wave, a_is: Element, b_is: Element) -> Done {
    let negate = if inst.mods.neg_lo & 4 != 0 { 0x8000_0000 } else { 0 };
    dot(inst, wave, inst.src[2], |a, b, c| {
        let product = |k: u32| a_is.float(a >> k & 0xFF) * b_is.float(b >> k & 0xFF);
        [0, 8, 16, 24].iter().fold(f32::from_bits(c ^ negate), |sum, &k| sum + product(k)).to_bits()
    })
}

/// Bits `at..at + bits` of a word as an integer.
#[inline(always)]
fn part(word: u32, at: u32, bits: u32, signed: bool) -> i32 {
    // Wrapping: where a debug build checks for overflow, 32 lanes are not computed side by side.
    let (left, right) = (32u32.wrapping_sub(bits).wrapping_sub(at), 32u32.wrapping_sub(bits));
    let high = word.wrapping_shl(left);
    if signed { (high as i32).wrapping_shr(right) } else { high.wrapping_shr(right) as i32 }
}

/// Products of integers `bits` wide, 32 / `bits` of them.
#[inline(always)]
fn products(a: u32, b: u32, bits: u32, a_signed: bool, b_signed: bool) -> impl Iterator<Item = i32> {
    (0..32)
        .step_by(bits as usize)
        .map(move |at| part(a, at, bits, a_signed).wrapping_mul(part(b, at, bits, b_signed)))
}

#[inline(always)]
fn dot_signed(inst: &Inst, wave: &mut Wave, addend: Operand, bits: u32) -> Done {
    integer_dot(inst, wave, addend, bits, true, true)
}

/// neg_lo says which of A and B are signed.
#[inline(always)]
fn dot_either(inst: &Inst, wave: &mut Wave, bits: u32) -> Done {
    match inst.mods.neg_lo & 3 {
        0 => integer_dot(inst, wave, inst.src[2], bits, false, false),
        1 => integer_dot(inst, wave, inst.src[2], bits, true, false),
        2 => integer_dot(inst, wave, inst.src[2], bits, false, true),
        _ => integer_dot(inst, wave, inst.src[2], bits, true, true),
    }
}

#[inline(always)]
fn integer_dot(
    inst: &Inst,
    wave: &mut Wave,
    addend: Operand,
    bits: u32,
    a_signed: bool,
    b_signed: bool,
) -> Done {
    if inst.mods.clamp {
        return dot(inst, wave, addend, |a, b, c| {
            let sum = products(a, b, bits, a_signed, b_signed).fold(c as i32 as i64, |sum, p| sum + p as i64);
            sum.clamp(i32::MIN as i64, i32::MAX as i64) as u32
        });
    }
    dot(inst, wave, addend, |a, b, c| {
        products(a, b, bits, a_signed, b_signed).fold(c as i32, i32::wrapping_add) as u32
    })
}

/// A product of 16-bit integers fills all 32 bits.
#[inline(always)]
fn dot_unsigned(inst: &Inst, wave: &mut Wave, bits: u32) -> Done {
    if inst.mods.clamp {
        return dot(inst, wave, inst.src[2], |a, b, c| {
            products(a, b, bits, false, false).fold(c, |sum, p| sum.saturating_add(p as u32))
        });
    }
    dot(inst, wave, inst.src[2], |a, b, c| {
        products(a, b, bits, false, false).fold(c, |sum, p| sum.wrapping_add(p as u32))
    })
}

/// Where the result of a mixed instruction goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Into {
    Word,
    Low,
    High,
}

/// Product and sum rounded each.
#[inline(always)]
fn unfused(a: &F32s, b: &F32s, c: &F32s) -> F32s {
    from_fn(|lane| a[lane] * b[lane] + c[lane])
}

/// op_sel_hi says which sources are f16, op_sel which half those take.
#[inline(always)]
fn mix(inst: &Inst, wave: &mut Wave, f: impl Fn(&F32s, &F32s, &F32s) -> F32s, into: Into) -> Done {
    let exec = wave.exec();
    let mods = &inst.mods;
    let halfs = mods.op_sel_hi.unwrap_or(0);
    for k in 0..3 {
        wave.need(inst.src[k], 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let values: [F32s; 3] = from_fn(|k| {
            let bit = |mask: u8| mask >> k & 1 != 0;
            let values = if bit(halfs) {
                wave.lanes16(inst.src[k], half, bit(mods.op_sel)).map(|v| f16_to_f32(v as u16))
            } else {
                wave.lanes32(inst.src[k], half).map(f32::from_bits)
            };
            let values = if bit(mods.abs) { values.map(f32::abs) } else { values };
            if bit(mods.neg) { values.map(|v| -v) } else { values }
        });
        let mut result = wave.lanes32(inst.dst[0], half);
        for (result, value) in result.iter_mut().zip(f(&values[0], &values[1], &values[2])) {
            let value = if mods.clamp { clamp(value) } else { value };
            *result = match into {
                Into::Word => value.to_bits(),
                Into::Low => *result & 0xFFFF_0000 | f32_to_f16(value) as u32,
                Into::High => *result & 0xFFFF | (f32_to_f16(value) as u32) << 16,
            };
        }
        wave.put32(inst.dst[0], half, active, &result);
    }
    wave.wrote(inst.dst[0], 1, exec);
    Ok(())
}

/// `f` of one word of each source into the low word of the result, of another into the high one.
#[inline(always)]
fn wides<const N: usize>(inst: &Inst, wave: &mut Wave, f: impl Fn([F32s; N]) -> F32s) -> Done {
    let exec = wave.exec();
    let mods = &inst.mods;
    let sides = [(mods.op_sel, mods.neg_lo), (mods.op_sel_hi.unwrap_or(7), mods.neg_hi)];
    let sources =
        sides.map(|(select, _)| -> [Operand; N] { from_fn(|k| word_of(inst.src[k], select >> k & 1)) });
    for &operand in sources.iter().flatten() {
        wave.need(operand, 1, exec)?;
    }
    for (half, active) in halves(exec) {
        let results: [Lanes; 2] = from_fn(|side| {
            let values = f(from_fn(|k| {
                let negate = (sides[side].1 >> k & 1) as u32 * 0x8000_0000;
                wave.lanes32(sources[side][k], half).map(|word| f32::from_bits(word ^ negate))
            }));
            values.map(|value| if mods.clamp { clamp(value) } else { value }.to_bits())
        });
        wave.put32(inst.dst[0], half, active, &results[0]);
        wave.put32(word_of(inst.dst[0], 1), half, active, &results[1]);
    }
    wave.wrote(inst.dst[0], 2, exec);
    Ok(())
}
