//! Matrix instructions as pure functions of register blocks: a block is `[register][lane]`.
//!
//! Hardware's order of summation and its intermediate roundings are not published. Here products and sums
//! are taken in f64 in order of ascending k, starting from C, and rounded once (to nearest even) to the
//! output's format: closer to the true sum than hardware, so a kernel's tolerance has to cover the difference.
//! Integer sums are exact, then wrapped, or saturated where the instruction asks for it.

pub mod element;
pub mod mfma;
pub mod wmma;

use crate::counters::Class::{Matrix, Vector};
use crate::isa::alu::{Done, bits1};
use crate::isa::{Generation, Handler, Inst, Operand, Table};
use crate::stop::{Fault, LaneFault};
use crate::wave::Wave;

pub type Lanes = [u32; 64];

/// As many registers as C and D ever take.
const MOST: usize = 32;

pub fn table(t: &mut Table) {
    match t.generation {
        Generation::Gfx11 => add(t, wmma::MNEMONICS, |i, w, _| wmma(i, w, wmma::Generation::Gfx11)),
        Generation::Gfx12 => {
            add(t, wmma::MNEMONICS, |i, w, _| wmma(i, w, wmma::Generation::Gfx12));
            add(t, wmma::GFX12_MNEMONICS, |i, w, _| wmma(i, w, wmma::Generation::Gfx12));
        }
        Generation::Gfx9 => add(t, &mfma::mnemonics(false), |i, w, _| mfma(i, w, false)),
        Generation::Gfx90a => add(t, &mfma::mnemonics(false), |i, w, _| mfma(i, w, true)),
        Generation::Gfx940 => add(t, &mfma::mnemonics(true), |i, w, _| mfma(i, w, false)),
        Generation::Gfx10 => {}
    }
    if t.generation.is_gfx9() {
        t.add("v_accvgpr_read_b32", Vector, 1, |i, w, _| bits1(i, w, |a| a));
        t.alias(&["v_accvgpr_write_b32", "v_accvgpr_mov_b32"], "v_accvgpr_read_b32");
    }
}

fn add(t: &mut Table, mnemonics: &[&'static str], handler: Handler) {
    for name in mnemonics {
        t.packed(name, Matrix, handler);
    }
}

fn wmma(inst: &Inst, wave: &mut Wave, generation: wmma::Generation) -> Done {
    let mods = &inst.mods;
    let bits = |mask: u8| [0, 1, 2].map(|k| mask >> k & 1 != 0);
    let modifiers = wmma::Modifiers {
        neg_lo: bits(mods.neg_lo),
        neg_hi: bits(mods.neg_hi),
        high: mods.op_sel & 4 != 0,
        clamp: mods.clamp,
    };
    let wmma = wmma::Wmma::new(&inst.mnemonic, generation, modifiers).ok_or(Fault::UnknownOpcode)?;
    let wmma::Registers { a, b, c } = wmma.registers(wave.lanes);
    let narrow = matches!(wmma.output, wmma::Output::F16 | wmma::Output::Bf16);
    let mut d = [[0; 64]; MOST];
    let to = destination(inst)?;
    d[..c].copy_from_slice(&wave.vgpr[to..to + c]);
    let mut constant = [[0; 64]; MOST];
    wmma.multiply(
        wave.lanes,
        operand(wave, inst.src[0], a, false, &mut [])?,
        operand(wave, inst.src[1], b, false, &mut [])?,
        operand(wave, inst.src[2], c, narrow, &mut constant)?,
        &mut d[..c],
    )?;
    write(wave, to, &d[..c]);
    Ok(())
}

fn mfma(inst: &Inst, wave: &mut Wave, flush: bool) -> Done {
    let mods = &inst.mods;
    let value = |name| mods.value(name).map_or(Some(0), |text| text.parse().ok());
    let modifiers = || {
        let negated = mods.value("neg").map(|list| {
            list.split(',').enumerate().fold(0, |all, (k, bit)| all | (bit.contains('1') as u32) << k)
        });
        Some(mfma::Modifiers {
            cbsz: value("cbsz")?,
            abid: value("abid")?,
            blgp: negated.or(value("blgp"))?,
            clamp: mods.clamp,
        })
    };
    let mfma = modifiers()
        .and_then(|modifiers| mfma::Mfma::new(&inst.mnemonic, flush, modifiers))
        .ok_or(Fault::UnknownOpcode)?;
    let [a, b, c] = mfma.registers();
    let to = destination(inst)?;
    let (mut d, mut constant) = ([[0; 64]; MOST], [[0; 64]; MOST]);
    mfma.multiply(
        operand(wave, inst.src[0], a, false, &mut [])?,
        operand(wave, inst.src[1], b, false, &mut [])?,
        operand(wave, inst.src[2], c, false, &mut constant)?,
        &mut d[..c],
    );
    write(wave, to, &d[..c]);
    Ok(())
}

fn destination(inst: &Inst) -> Result<usize, Fault> {
    match inst.dst[0] {
        Operand::Vgpr(n) => Ok(n as usize),
        _ => Err(Fault::UnknownOpcode),
    }
}

/// The registers of an operand, all lanes of which must have been written; a constant is put in each lane and
/// register of `constant` (`narrow`: in both halves).
fn operand<'a>(
    wave: &'a Wave,
    operand: Operand,
    count: usize,
    narrow: bool,
    constant: &'a mut [Lanes],
) -> Result<&'a [Lanes], LaneFault> {
    if let Operand::Vgpr(n) = operand {
        wave.need(operand, count as u32, wave.all())?;
        return Ok(&wave.vgpr[n as usize..n as usize + count]);
    }
    let value = match operand {
        Operand::Int(_) | Operand::Float(_) if narrow => operand.bits16() * 0x1_0001,
        Operand::Int(_) | Operand::Float(_) => operand.bits32(),
        _ => return Err(Fault::UnknownOpcode.into()),
    };
    let block = constant.get_mut(..count).ok_or(Fault::UnknownOpcode)?;
    block.fill([value; 64]);
    Ok(block)
}

/// EXEC is ignored.
fn write(wave: &mut Wave, to: usize, block: &[Lanes]) {
    let all = wave.all();
    wave.vgpr[to..to + block.len()].copy_from_slice(block);
    for written in &mut wave.vgpr_written[to..to + block.len()] {
        *written |= all;
    }
}

/// `acc[i][j] += sum over k of a[i][k] * b[k][j]`, all row-major with `n` columns of 4, 16 or 32.
fn multiply_f64(n: usize, k: usize, a: &[f64], b: &[f64], acc: &mut [f64]) {
    match n {
        4 => multiply::<f64, 4>(k, a, b, acc, |sum, x, y| sum + x * y),
        16 => multiply::<f64, 16>(k, a, b, acc, |sum, x, y| sum + x * y),
        _ => multiply::<f64, 32>(k, a, b, acc, |sum, x, y| sum + x * y),
    }
}

/// The same in integers: at most 32 products of two bytes and no C, which cannot overflow.
fn multiply_i32(n: usize, k: usize, a: &[i32], b: &[i32], acc: &mut [i32]) {
    match n {
        4 => multiply::<i32, 4>(k, a, b, acc, |sum, x, y| sum + x * y),
        16 => multiply::<i32, 16>(k, a, b, acc, |sum, x, y| sum + x * y),
        _ => multiply::<i32, 32>(k, a, b, acc, |sum, x, y| sum + x * y),
    }
}

#[inline(always)]
fn multiply<T: Copy, const N: usize>(k: usize, a: &[T], b: &[T], acc: &mut [T], add: impl Fn(T, T, T) -> T) {
    let b = b.as_chunks::<N>().0;
    for (row, acc) in a.chunks_exact(k).zip(acc.as_chunks_mut::<N>().0) {
        let mut sums = *acc;
        for (&x, b) in row.iter().zip(b) {
            sums = std::array::from_fn(|j| add(sums[j], x, b[j]));
        }
        *acc = sums;
    }
}

/// `c + products`, wrapped or saturated to 32 bits.
fn accumulate_i32(c: i32, products: i32, clamp: bool) -> i32 {
    if clamp { c.saturating_add(products) } else { c.wrapping_add(products) }
}
