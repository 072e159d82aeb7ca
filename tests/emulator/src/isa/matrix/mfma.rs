//! MFMA: one wave of 64 multiplies one or more blocks of small matrices. Layouts are those of the CDNA3 ISA
//! manual, section 7.1.4, which also covers gfx908 and gfx90a:
//!
//! - A[block][i][k] lies in lane `i + M (block + B (k / L))`, element `k % L`, where `L = K M B / 64`;
//!   B[block][k][j] the same with `j`, `N` for `i`, `M`.
//! - C, D[block][i][j]: with `H` = 4 rows in consecutive registers (1 for f64), `P = ceil(64 H / (M N))` blocks
//!   side by side, `R = 64 / P / N` groups side by side:
//!   lane `j + N (i / H % R + R (block % P))`, element `i % H + H (i / (H R) + M / (H R) (block / P))`.
//!
//! EXEC is ignored.

use super::element::Element;
use super::{Lanes, accumulate_i32, multiply_f64, multiply_i32};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    F64,
    F32,
    I32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mfma {
    /// Sizes of a block: A is m x k, B k x n.
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub blocks: usize,
    pub a: Element,
    pub b: Element,
    pub output: Output,
    /// gfx90a takes subnormal 16-bit inputs, and f32 results of 16-bit inputs, as zero.
    pub flush: bool,
    pub modifiers: Modifiers,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// Of each 2^cbsz consecutive blocks of A, number abid is taken for all.
    pub cbsz: u32,
    pub abid: u32,
    /// Which lanes' B is taken (0: each its own); f64 on gfx942: negates A, B, C (bits 0, 1, 2).
    pub blgp: u32,
    pub clamp: bool,
}

/// Elements of A or B in all lanes, at most.
const ITEMS: usize = 512;

/// Mnemonics on gfx908 and gfx90a, and on gfx942 and newer; m, n, k, blocks; input and output.
type Row = (&'static str, &'static str, [usize; 4], (Element, Element), Output);

const ROWS: &[Row] = {
    use Element::*;
    use Output::{F32 as OF32, F64 as OF64, I32 as OI32};
    &[
        ("v_mfma_f32_32x32x1f32", "v_mfma_f32_32x32x1_2b_f32", [32, 32, 1, 2], (F32, F32), OF32),
        ("v_mfma_f32_16x16x1f32", "v_mfma_f32_16x16x1_4b_f32", [16, 16, 1, 4], (F32, F32), OF32),
        ("v_mfma_f32_4x4x1f32", "v_mfma_f32_4x4x1_16b_f32", [4, 4, 1, 16], (F32, F32), OF32),
        ("v_mfma_f32_32x32x2f32", "v_mfma_f32_32x32x2_f32", [32, 32, 2, 1], (F32, F32), OF32),
        ("v_mfma_f32_16x16x4f32", "v_mfma_f32_16x16x4_f32", [16, 16, 4, 1], (F32, F32), OF32),
        ("v_mfma_f32_32x32x4f16", "v_mfma_f32_32x32x4_2b_f16", [32, 32, 4, 2], (F16, F16), OF32),
        ("v_mfma_f32_16x16x4f16", "v_mfma_f32_16x16x4_4b_f16", [16, 16, 4, 4], (F16, F16), OF32),
        ("v_mfma_f32_4x4x4f16", "v_mfma_f32_4x4x4_16b_f16", [4, 4, 4, 16], (F16, F16), OF32),
        ("v_mfma_f32_32x32x8f16", "v_mfma_f32_32x32x8_f16", [32, 32, 8, 1], (F16, F16), OF32),
        ("v_mfma_f32_16x16x16f16", "v_mfma_f32_16x16x16_f16", [16, 16, 16, 1], (F16, F16), OF32),
        ("v_mfma_f32_32x32x4bf16_1k", "v_mfma_f32_32x32x4_2b_bf16", [32, 32, 4, 2], (Bf16, Bf16), OF32),
        ("v_mfma_f32_16x16x4bf16_1k", "v_mfma_f32_16x16x4_4b_bf16", [16, 16, 4, 4], (Bf16, Bf16), OF32),
        ("v_mfma_f32_4x4x4bf16_1k", "v_mfma_f32_4x4x4_16b_bf16", [4, 4, 4, 16], (Bf16, Bf16), OF32),
        ("v_mfma_f32_32x32x8bf16_1k", "v_mfma_f32_32x32x8_bf16", [32, 32, 8, 1], (Bf16, Bf16), OF32),
        ("v_mfma_f32_16x16x16bf16_1k", "v_mfma_f32_16x16x16_bf16", [16, 16, 16, 1], (Bf16, Bf16), OF32),
        ("v_mfma_f32_32x32x2bf16", "", [32, 32, 2, 2], (Bf16, Bf16), OF32),
        ("v_mfma_f32_16x16x2bf16", "", [16, 16, 2, 4], (Bf16, Bf16), OF32),
        ("v_mfma_f32_4x4x2bf16", "", [4, 4, 2, 16], (Bf16, Bf16), OF32),
        ("v_mfma_f32_32x32x4bf16", "", [32, 32, 4, 1], (Bf16, Bf16), OF32),
        ("v_mfma_f32_16x16x8bf16", "", [16, 16, 8, 1], (Bf16, Bf16), OF32),
        ("v_mfma_i32_32x32x4i8", "v_mfma_i32_32x32x4_2b_i8", [32, 32, 4, 2], (I8, I8), OI32),
        ("v_mfma_i32_16x16x4i8", "v_mfma_i32_16x16x4_4b_i8", [16, 16, 4, 4], (I8, I8), OI32),
        ("v_mfma_i32_4x4x4i8", "v_mfma_i32_4x4x4_16b_i8", [4, 4, 4, 16], (I8, I8), OI32),
        ("v_mfma_i32_32x32x8i8", "", [32, 32, 8, 1], (I8, I8), OI32),
        ("v_mfma_i32_16x16x16i8", "", [16, 16, 16, 1], (I8, I8), OI32),
        ("", "v_mfma_i32_32x32x16_i8", [32, 32, 16, 1], (I8, I8), OI32),
        ("", "v_mfma_i32_16x16x32_i8", [16, 16, 32, 1], (I8, I8), OI32),
        ("", "v_mfma_f32_16x16x32_fp8_fp8", [16, 16, 32, 1], (Fp8Fnuz, Fp8Fnuz), OF32),
        ("", "v_mfma_f32_16x16x32_fp8_bf8", [16, 16, 32, 1], (Fp8Fnuz, Bf8Fnuz), OF32),
        ("", "v_mfma_f32_16x16x32_bf8_fp8", [16, 16, 32, 1], (Bf8Fnuz, Fp8Fnuz), OF32),
        ("", "v_mfma_f32_16x16x32_bf8_bf8", [16, 16, 32, 1], (Bf8Fnuz, Bf8Fnuz), OF32),
        ("", "v_mfma_f32_32x32x16_fp8_fp8", [32, 32, 16, 1], (Fp8Fnuz, Fp8Fnuz), OF32),
        ("", "v_mfma_f32_32x32x16_fp8_bf8", [32, 32, 16, 1], (Fp8Fnuz, Bf8Fnuz), OF32),
        ("", "v_mfma_f32_32x32x16_bf8_fp8", [32, 32, 16, 1], (Bf8Fnuz, Fp8Fnuz), OF32),
        ("", "v_mfma_f32_32x32x16_bf8_bf8", [32, 32, 16, 1], (Bf8Fnuz, Bf8Fnuz), OF32),
        ("v_mfma_f64_16x16x4f64", "v_mfma_f64_16x16x4_f64", [16, 16, 4, 1], (F64, F64), OF64),
        ("v_mfma_f64_4x4x4f64", "v_mfma_f64_4x4x4_4b_f64", [4, 4, 4, 4], (F64, F64), OF64),
    ]
};

/// All of gfx908 and gfx90a, or of gfx942.
pub fn mnemonics(gfx940: bool) -> Vec<&'static str> {
    let names = ROWS.iter().map(|&(old, new, ..)| if gfx940 { new } else { old });
    names.filter(|name| !name.is_empty()).collect()
}

impl Mfma {
    /// None: not an MFMA instruction, or modifiers it does not take.
    pub fn new(mnemonic: &str, flush: bool, modifiers: Modifiers) -> Option<Mfma> {
        let &(_, _, [m, n, k, blocks], (a, b), output) =
            ROWS.iter().find(|(old, new, ..)| mnemonic == *old || mnemonic == *new)?;
        let Modifiers { cbsz, abid, blgp, .. } = modifiers;
        if blgp > 7 || cbsz > blocks.ilog2() || abid >= 1 << cbsz {
            return None;
        }
        Some(Mfma { m, n, k, blocks, a, b, output, flush: flush && a.bits() == 16, modifiers })
    }

    /// Registers of A, of B, and of each of C and D.
    pub fn registers(&self) -> [usize; 3] {
        let words = if self.output == Output::F64 { 2 } else { 1 };
        [
            self.m * self.k * self.blocks / 64 * self.a.bits() / 32,
            self.n * self.k * self.blocks / 64 * self.b.bits() / 32,
            self.m * self.n * self.blocks / 64 * words,
        ]
        .map(|registers| registers.max(1))
    }

    /// `d = a * b + c`.
    pub fn multiply(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        match self.output {
            Output::I32 => self.multiply_integers(a, b, c, d),
            Output::F32 | Output::F64 => self.multiply_floats(a, b, c, d),
        }
    }

    fn multiply_integers(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        let &Mfma { m, n, k, .. } = self;
        let (mut rows, mut columns) = ([0i32; ITEMS], [0i32; ITEMS]);
        self.each_input(m, |i, at, block, lane, e| {
            rows[(block * m + i) * k + at] = self.a.integer(raw(a, self.a, self.lane_a(lane), e));
        });
        self.each_input(n, |j, at, block, lane, e| {
            columns[(block * k + at) * n + j] = self.b.integer(raw(b, self.b, self.lane_b(lane), e));
        });
        for (block, (rows, columns)) in
            rows.chunks(m * k).zip(columns.chunks(k * n)).take(self.blocks).enumerate()
        {
            let mut sums = [0i32; 1024];
            multiply_i32(n, k, rows, columns, &mut sums[..m * n]);
            self.each_output(block, |at, register, lane| {
                d[register][lane] =
                    accumulate_i32(c[register][lane] as i32, sums[at], self.modifiers.clamp) as u32;
            });
        }
    }

    fn multiply_floats(&self, a: &[Lanes], b: &[Lanes], c: &[Lanes], d: &mut [Lanes]) {
        let &Mfma { m, n, k, .. } = self;
        let wide = self.output == Output::F64;
        let [negate_a, negate_b, negate_c] =
            [1, 2, 4].map(|bit| if wide && self.modifiers.blgp & bit != 0 { -1.0 } else { 1.0 });
        let (mut rows, mut columns) = ([0f64; ITEMS], [0f64; ITEMS]);
        self.each_input(m, |i, at, block, lane, e| {
            let value = self.input(a, self.a, self.lane_a(lane), e);
            rows[(block * m + i) * k + at] = negate_a * value;
        });
        self.each_input(n, |j, at, block, lane, e| {
            let value = self.input(b, self.b, self.lane_b(lane), e);
            columns[(block * k + at) * n + j] = negate_b * value;
        });
        for (block, (rows, columns)) in
            rows.chunks(m * k).zip(columns.chunks(k * n)).take(self.blocks).enumerate()
        {
            let mut sums = [0f64; 1024];
            self.each_output(block, |at, register, lane| {
                sums[at] = negate_c
                    * if wide { double(c, register, lane) } else { f32::from_bits(c[register][lane]) as f64 };
            });
            multiply_f64(n, k, rows, columns, &mut sums[..m * n]);
            self.each_output(block, |at, register, lane| {
                if wide {
                    d[register][lane] = sums[at].to_bits() as u32;
                    d[register + 1][lane] = (sums[at].to_bits() >> 32) as u32;
                    return;
                }
                let sum = sums[at] as f32;
                let sum = if self.flush && sum.is_subnormal() { 0f32.copysign(sum) } else { sum };
                d[register][lane] = sum.to_bits();
            });
        }
    }

    /// Element `e` of a lane of A or B.
    #[inline(always)]
    fn input(&self, block: &[Lanes], element: Element, lane: usize, e: usize) -> f64 {
        if element == Element::F64 {
            return double(block, 2 * e, lane);
        }
        let raw = raw(block, element, lane, e);
        let exponent = if element == Element::Bf16 { 0x7F80 } else { 0x7C00 };
        if self.flush && raw & exponent == 0 { 0.0 } else { element.float(raw) as f64 }
    }

    /// Calls `visit(i, k, block, lane, e)` for each element of A (`rows` = m), or with j for i of B (`rows` = n).
    #[inline(always)]
    fn each_input(&self, rows: usize, mut visit: impl FnMut(usize, usize, usize, usize, usize)) {
        let per_lane = self.k * rows * self.blocks / 64;
        for lane in 0..64 {
            let (row, group) = (lane % rows, lane / rows);
            let (block, first) = (group % self.blocks, group / self.blocks * per_lane);
            for e in 0..per_lane {
                visit(row, first + e, block, lane, e);
            }
        }
    }

    /// The lane whose A is taken for that of `lane`.
    fn lane_a(&self, lane: usize) -> usize {
        let Modifiers { cbsz, abid, .. } = self.modifiers;
        if cbsz == 0 {
            return lane;
        }
        let (row, group) = (lane % self.m, lane / self.m);
        row + self.m * ((group >> cbsz << cbsz) + abid as usize)
    }

    /// The lane whose B is taken for that of `lane`.
    fn lane_b(&self, lane: usize) -> usize {
        match self.modifiers.blgp {
            _ if self.output == Output::F64 => lane,
            0 => lane,
            1 => lane % 32,
            2 => lane % 32 + 32,
            3 => (lane + 16) % 64,
            quarter => lane % 16 + 16 * (quarter as usize - 4),
        }
    }

    /// Calls `visit(n i + j, register, lane)` for each element of a block of C and D.
    fn each_output(&self, block: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let &Mfma { m, n, .. } = self;
        let (group, words): (usize, usize) = if self.output == Output::F64 { (1, 2) } else { (4, 1) };
        let side_blocks = (64 * group).div_ceil(m * n);
        let side_groups = 64 / side_blocks / n;
        for i in 0..m {
            let across = i / group % side_groups + side_groups * (block % side_blocks);
            let down = i / (group * side_groups) + m / (group * side_groups) * (block / side_blocks);
            for j in 0..n {
                visit(i * n + j, words * (i % group + group * down), j + n * across);
            }
        }
    }
}

/// Bits of element `e` of a lane.
#[inline(always)]
fn raw(block: &[Lanes], element: Element, lane: usize, e: usize) -> u32 {
    let at = e * element.bits();
    block[at / 32][lane] >> (at % 32) & (u32::MAX >> (32 - element.bits()))
}

fn double(block: &[Lanes], register: usize, lane: usize) -> f64 {
    f64::from_bits(block[register][lane] as u64 | (block[register + 1][lane] as u64) << 32)
}
