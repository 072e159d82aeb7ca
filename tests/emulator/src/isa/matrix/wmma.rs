//! WMMA: one wave multiplies 16x16 matrices. Layouts are those of the RDNA3 and RDNA4 ISA manuals.
//!
//! With `e` the element's index in a lane's registers, low bits first:
//!
//! | | gfx11 | gfx12 |
//! |---|---|---|
//! | A[i][k] | lane `i` and again in each further 16 lanes, `e = k` | `E = 16 K / lanes` a lane: lane `i + 16 (k / E)`, `e = k % E` |
//! | B[k][j] | the same with `j` for `i` | the same with `j` for `i` |
//! | C, D [i][j] | `r = lanes / 16`: lane `j + 16 (i % r)`, `e = i / r` | `R = 256 / lanes`: lane `j + 16 (i / R)`, `e = i % R` |
//!
//! Which k a gfx12 lane holds does not show in the product, as A and B agree.
//! A 16-bit C or D takes half of each register on gfx11 (op_sel tells which; the other half is kept) and is
//! packed on gfx12. EXEC is ignored.

use super::element::{Element, f64_to_bf16, f64_to_f16};
use super::{Lanes, accumulate_i32, multiply_f64, multiply_i32};
use crate::stop::{Fault, LaneFault};

const N: usize = 16;

pub const MNEMONICS: &[&str] = &[
    "v_wmma_f32_16x16x16_f16",
    "v_wmma_f32_16x16x16_bf16",
    "v_wmma_f16_16x16x16_f16",
    "v_wmma_bf16_16x16x16_bf16",
    "v_wmma_i32_16x16x16_iu8",
    "v_wmma_i32_16x16x16_iu4",
];

/// Only there.
pub const GFX12_MNEMONICS: &[&str] = &[
    "v_wmma_i32_16x16x32_iu4",
    "v_wmma_f32_16x16x16_fp8_fp8",
    "v_wmma_f32_16x16x16_fp8_bf8",
    "v_wmma_f32_16x16x16_bf8_fp8",
    "v_wmma_f32_16x16x16_bf8_bf8",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    Gfx11,
    Gfx12,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    F32,
    F16,
    Bf16,
    I32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wmma {
    pub generation: Generation,
    pub k: usize,
    pub a: Element,
    pub b: Element,
    pub output: Output,
    pub modifiers: Modifiers,
}

/// As written behind the operands; entries for A, B, C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers {
    /// Integers: A, B signed. 16-bit floats: negates even elements. C: negates.
    pub neg_lo: [bool; 3],
    /// 16-bit floats: negates odd elements. C: absolute value, before the negation.
    pub neg_hi: [bool; 3],
    /// op_sel[2]: a 16-bit C and D lie in the high halves (gfx11).
    pub high: bool,
    pub clamp: bool,
}

/// Registers that an operand takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    pub a: usize,
    pub b: usize,
    pub c: usize,
}

impl Wmma {
    /// None: not a WMMA instruction of this generation.
    pub fn new(mnemonic: &str, generation: Generation, modifiers: Modifiers) -> Option<Wmma> {
        let (output, rest) = mnemonic.strip_prefix("v_wmma_")?.split_once('_')?;
        let (shape, inputs) = rest.split_once('_')?;
        let gfx12 = generation == Generation::Gfx12;
        let byte = |signed| if signed { Element::I8 } else { Element::U8 };
        let nibble = |signed| if signed { Element::I4 } else { Element::U4 };
        let [a_signed, b_signed, _] = modifiers.neg_lo;
        let (a, b) = match inputs {
            "f16" => (Element::F16, Element::F16),
            "bf16" => (Element::Bf16, Element::Bf16),
            "iu8" => (byte(a_signed), byte(b_signed)),
            "iu4" => (nibble(a_signed), nibble(b_signed)),
            "fp8_fp8" if gfx12 => (Element::Fp8, Element::Fp8),
            "fp8_bf8" if gfx12 => (Element::Fp8, Element::Bf8),
            "bf8_fp8" if gfx12 => (Element::Bf8, Element::Fp8),
            "bf8_bf8" if gfx12 => (Element::Bf8, Element::Bf8),
            _ => return None,
        };
        let output = match (output, a.bits()) {
            ("f32", 8) if a == Element::I8 || a == Element::U8 => return None,
            ("f32", 8 | 16) => Output::F32,
            ("f16", 16) if a == Element::F16 => Output::F16,
            ("bf16", 16) if a == Element::Bf16 => Output::Bf16,
            ("i32", 4) => Output::I32,
            ("i32", 8) if matches!(a, Element::I8 | Element::U8) => Output::I32,
            _ => return None,
        };
        let k = match shape {
            "16x16x16" => 16,
            "16x16x32" if gfx12 && a.bits() == 4 => 32,
            _ => return None,
        };
        Some(Wmma { generation, k, a, b, output, modifiers })
    }

    pub fn registers(&self, lanes: usize) -> Registers {
        let per_lane = match self.generation {
            Generation::Gfx11 => self.k,
            Generation::Gfx12 => N * self.k / lanes,
        };
        let input = (per_lane * self.a.bits()).div_ceil(32);
        let packed = self.generation == Generation::Gfx12 && self.narrow();
        Registers { a: input, b: input, c: N * N / lanes / if packed { 2 } else { 1 } }
    }

    /// A 16-bit C and D.
    fn narrow(&self) -> bool {
        matches!(self.output, Output::F16 | Output::Bf16)
    }

    /// `d = a * b + c`. `d` holds the destination's old content where halves of it are kept.
    pub fn multiply(
        &self,
        lanes: usize,
        a: &[Lanes],
        b: &[Lanes],
        c: &[Lanes],
        d: &mut [Lanes],
    ) -> Result<(), LaneFault> {
        if self.generation == Generation::Gfx11 {
            check_duplicates("A", lanes, a)?;
            check_duplicates("B", lanes, b)?;
        }
        let k = self.k;
        if self.output == Output::I32 {
            let mut rows = [0i32; N * 32];
            let mut columns = [0i32; N * 32];
            self.unpack(lanes, a, self.a, |i, k_at, raw| rows[i * k + k_at] = self.a.integer(raw));
            self.unpack(lanes, b, self.b, |j, k_at, raw| columns[k_at * N + j] = self.b.integer(raw));
            let mut sums = [0i32; N * N];
            multiply_i32(N, k, &rows[..N * k], &columns[..N * k], &mut sums);
            self.each_output(lanes, |at, register, lane, _| {
                d[register][lane] =
                    accumulate_i32(c[register][lane] as i32, sums[at], self.modifiers.clamp) as u32;
            });
            return Ok(());
        }
        let mut rows = [0f64; N * 32];
        let mut columns = [0f64; N * 32];
        self.unpack(lanes, a, self.a, |i, k_at, raw| {
            rows[i * k + k_at] = self.signed(0, k_at, self.a.float(raw));
        });
        self.unpack(lanes, b, self.b, |j, k_at, raw| {
            columns[k_at * N + j] = self.signed(1, k_at, self.b.float(raw));
        });
        let mut sums = [0f64; N * N];
        self.each_output(lanes, |at, register, lane, shift| {
            let raw = c[register][lane] >> shift;
            let value = match self.output {
                Output::F32 => f32::from_bits(raw),
                Output::F16 => Element::F16.float(raw & 0xFFFF),
                _ => Element::Bf16.float(raw & 0xFFFF),
            };
            let value = if self.modifiers.neg_hi[2] { value.abs() } else { value };
            sums[at] = if self.modifiers.neg_lo[2] { -value } else { value } as f64;
        });
        multiply_f64(N, k, &rows[..N * k], &columns[..N * k], &mut sums);
        self.each_output(lanes, |at, register, lane, shift| {
            let word = &mut d[register][lane];
            let narrow = match self.output {
                Output::F16 => f64_to_f16(sums[at]),
                Output::Bf16 => f64_to_bf16(sums[at]),
                _ => {
                    *word = (sums[at] as f32).to_bits();
                    return;
                }
            };
            *word = *word & !(0xFFFF << shift) | (narrow as u32) << shift;
        });
        Ok(())
    }

    fn signed(&self, operand: usize, k: usize, value: f32) -> f64 {
        let negate = [self.modifiers.neg_lo, self.modifiers.neg_hi][k % 2];
        if negate[operand] { -value as f64 } else { value as f64 }
    }

    /// Calls `put(row or column, k, raw bits)` for each element of A or B.
    #[inline(always)]
    fn unpack(
        &self,
        lanes: usize,
        block: &[Lanes],
        element: Element,
        mut put: impl FnMut(usize, usize, u32),
    ) {
        let bits = element.bits();
        let (lanes, per_lane) = match self.generation {
            Generation::Gfx11 => (N, self.k),
            Generation::Gfx12 => (lanes, N * self.k / lanes),
        };
        for e in 0..per_lane {
            for (lane, word) in block[e * bits / 32][..lanes].iter().enumerate() {
                let raw = word >> (e * bits % 32) & (u32::MAX >> (32 - bits));
                put(lane % N, lane / N * per_lane + e, raw);
            }
        }
    }

    /// Calls `visit(16 i + j, register, lane, shift)` for each element of C and D.
    fn each_output(&self, lanes: usize, mut visit: impl FnMut(usize, usize, usize, u32)) {
        let per_lane = N * N / lanes;
        for lane in 0..lanes {
            for e in 0..per_lane {
                let (i, register, shift) = match self.generation {
                    Generation::Gfx11 => (e * (lanes / N) + lane / N, e, 16 * self.modifiers.high as u32),
                    Generation::Gfx12 if self.narrow() => {
                        (lane / N * per_lane + e, e / 2, 16 * (e % 2) as u32)
                    }
                    Generation::Gfx12 => (lane / N * per_lane + e, e, 0),
                };
                visit(i * N + lane % N, register, lane, if self.narrow() { shift } else { 0 });
            }
        }
    }
}

/// gfx11 wants A and B in the first 16 lanes and again in each further 16; other contents are undefined.
fn check_duplicates(operand: &str, lanes: usize, block: &[Lanes]) -> Result<(), LaneFault> {
    for (register, words) in block.iter().enumerate() {
        for lane in N..lanes {
            if words[lane] != words[lane % N] {
                let why = format!(
                    "WMMA operand {operand}, its register {register}: {:#010x}, but lane {} holds {:#010x}; \
                     gfx11 wants lanes 0-15 repeated",
                    words[lane],
                    lane % N,
                    words[lane % N],
                );
                return Err(LaneFault { lane: Some(lane as u32), fault: Fault::Launch(why) });
            }
        }
    }
    Ok(())
}
