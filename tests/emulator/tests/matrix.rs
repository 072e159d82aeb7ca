//! Matrix instructions against plain matrix products, with the lane layouts that AMD publishes per
//! instruction: the matrix instruction calculator's mappings, the examples of the CDNA3 manual's section
//! 7.1.3, and (gfx12) those that tinygrad's kernels use on such cards.

use amdhip64::isa::matrix::{Lanes, element, mfma, wmma};
use amdhip64::stop::Fault;

type Place = (usize, usize);

/// Small pseudo-random integers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, low: i32, high: i32) -> i32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        low + ((self.0 >> 33) % (high - low + 1) as u64) as i32
    }
}

/// Bits of a small integer in a format, and its width.
fn encode(format: &str, value: i32) -> (u32, usize) {
    match format {
        "f32" => ((value as f32).to_bits(), 32),
        "f16" => (half::f16::from_f32(value as f32).to_bits() as u32, 16),
        "bf16" => (half::bf16::from_f32(value as f32).to_bits() as u32, 16),
        "i32" => (value as u32, 32),
        "i8" => (value as u8 as u32, 8),
        "i4" => (value as u32 & 15, 4),
        other => panic!("{other}"),
    }
}

fn put(block: &mut [Lanes], (lane, item): Place, (bits, width): (u32, usize)) {
    let per = 32 / width;
    block[item / per][lane] |= bits << (item % per * width);
}

/// What an instruction should do, by the published mapping.
struct Case<'a> {
    name: &'a str,
    lanes: usize,
    /// m, n, k, blocks.
    shape: [usize; 4],
    input: &'a str,
    output: &'a str,
    /// (row or column, k, block) -> all lanes that hold it, and the item there.
    ab: &'a dyn Fn(usize, usize, usize) -> Vec<Place>,
    /// (row, column, block) -> lane, item.
    cd: &'a dyn Fn(usize, usize, usize) -> Place,
    /// Registers of A, B, C.
    registers: [usize; 3],
}

fn check(case: &Case<'_>, run: impl Fn(&[Lanes], &[Lanes], &[Lanes], &mut [Lanes])) {
    let [m, n, k, blocks] = case.shape;
    let [ra, rb, rc] = case.registers;
    let mut numbers = Numbers(case.name.len() as u64 * 977 + k as u64);
    let (low, high) = if case.input == "i4" { (-8, 7) } else { (-9, 9) };
    let mut a = vec![[0u32; 64]; ra];
    let mut b = vec![[0u32; 64]; rb];
    let mut c = vec![[0u32; 64]; rc];
    let mut want = vec![[0u32; 64]; rc];
    for block in 0..blocks {
        let av: Vec<i32> = (0..m * k).map(|_| numbers.next(low, high)).collect();
        let bv: Vec<i32> = (0..k * n).map(|_| numbers.next(low, high)).collect();
        for kk in 0..k {
            for i in 0..m {
                for place in (case.ab)(i, kk, block) {
                    put(&mut a, place, encode(case.input, av[i * k + kk]));
                }
            }
            for j in 0..n {
                for place in (case.ab)(j, kk, block) {
                    put(&mut b, place, encode(case.input, bv[kk * n + j]));
                }
            }
        }
        for i in 0..m {
            for j in 0..n {
                let start = numbers.next(-50, 50);
                let product: i32 = (0..k).map(|kk| av[i * k + kk] * bv[kk * n + j]).sum();
                // bf16 holds integers only up to 256.
                let start = if case.output == "bf16" { numbers.next(-100, 100) - product } else { start };
                let start = if case.output == "bf16" { start.clamp(-256, 256) } else { start };
                put(&mut c, (case.cd)(i, j, block), encode(case.output, start));
                put(&mut want, (case.cd)(i, j, block), encode(case.output, start + product));
            }
        }
    }
    let mut d = vec![[0u32; 64]; rc];
    run(&a, &b, &c, &mut d);
    for (register, (want, got)) in want.iter().zip(&d).enumerate() {
        for lane in 0..case.lanes {
            assert_eq!(got[lane], want[lane], "{} register {register} lane {lane}", case.name);
        }
    }
}

fn run_mfma(name: &str, case: &Case<'_>) {
    let mfma = mfma::Mfma::new(name, false, Default::default()).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(mfma.registers(), case.registers, "{name}");
    check(case, |a, b, c, d| mfma.multiply(a, b, c, d));
}

#[test]
fn mfma_32x32x8_f16() {
    // Calculator: A lane 32 * floor(k / 4) + i, GPR (floor(k / 2) % 2) half k % 2;
    // C GPR 4 * floor(i / 8) + i % 4, lane (32 * floor(i / 4)) % 64 + j.
    let case = Case {
        name: "32x32x8 f16",
        lanes: 64,
        shape: [32, 32, 8, 1],
        input: "f16",
        output: "f32",
        ab: &|i, k, _| vec![(32 * (k / 4) + i, 2 * ((k / 2) % 2) + k % 2)],
        cd: &|i, j, _| ((32 * (i / 4)) % 64 + j, 4 * (i / 8) + i % 4),
        registers: [2, 2, 16],
    };
    run_mfma("v_mfma_f32_32x32x8f16", &case);
    run_mfma("v_mfma_f32_32x32x8_f16", &case);
    let bf16 = Case { input: "bf16", ..case };
    run_mfma("v_mfma_f32_32x32x8bf16_1k", &bf16);
    run_mfma("v_mfma_f32_32x32x8_bf16", &bf16);
}

#[test]
fn mfma_16x16x16() {
    // CDNA kernels of tinygrad: A[row][k] in lane 16 (k / 4) + row, item k % 4; C in lane 16 (i / 4) + j, item i % 4.
    let case = Case {
        name: "16x16x16 f16",
        lanes: 64,
        shape: [16, 16, 16, 1],
        input: "f16",
        output: "f32",
        ab: &|i, k, _| vec![(16 * (k / 4) + i, k % 4)],
        cd: &|i, j, _| (16 * (i / 4) + j, i % 4),
        registers: [2, 2, 4],
    };
    run_mfma("v_mfma_f32_16x16x16f16", &case);
    run_mfma("v_mfma_f32_16x16x16_f16", &case);
    run_mfma("v_mfma_f32_16x16x16bf16_1k", &Case { input: "bf16", ..case });
    run_mfma("v_mfma_f32_16x16x16_bf16", &Case { input: "bf16", ..case });
    let bytes = Case { input: "i8", output: "i32", registers: [1, 1, 4], ..case };
    run_mfma("v_mfma_i32_16x16x16i8", &bytes);
}

#[test]
fn mfma_16x16x32_i8() {
    // Calculator: A lane 16 * floor(k / 8) + i, GPR floor(k / 4) % 2 byte k % 4; C GPR i % 4, lane 16 * floor(i / 4) + j.
    run_mfma(
        "v_mfma_i32_16x16x32_i8",
        &Case {
            name: "16x16x32 i8",
            lanes: 64,
            shape: [16, 16, 32, 1],
            input: "i8",
            output: "i32",
            ab: &|i, k, _| vec![(16 * (k / 8) + i, 4 * (k / 4 % 2) + k % 4)],
            cd: &|i, j, _| (16 * (i / 4) + j, i % 4),
            registers: [2, 2, 4],
        },
    );
}

#[test]
fn mfma_32x32x16_i8() {
    run_mfma(
        "v_mfma_i32_32x32x16_i8",
        &Case {
            name: "32x32x16 i8",
            lanes: 64,
            shape: [32, 32, 16, 1],
            input: "i8",
            output: "i32",
            ab: &|i, k, _| vec![(32 * (k / 8) + i, k % 8)],
            cd: &|i, j, _| ((32 * (i / 4)) % 64 + j, 4 * (i / 8) + i % 4),
            registers: [2, 2, 16],
        },
    );
}

#[test]
fn mfma_32x32x2_and_two_blocks_of_32x32x1_f32() {
    // Manual 7.1.3.1 and 7.1.3.2: lanes 32-63 hold the second column of A, or the second block.
    let cd = |i: usize, j: usize, block: usize| (j + 32 * (i / 4 % 2), i % 4 + 4 * (i / 8) + 16 * block);
    let case = Case {
        name: "32x32x2 f32",
        lanes: 64,
        shape: [32, 32, 2, 1],
        input: "f32",
        output: "f32",
        ab: &|i, k, _| vec![(i + 32 * k, 0)],
        cd: &cd,
        registers: [1, 1, 16],
    };
    run_mfma("v_mfma_f32_32x32x2f32", &case);
    run_mfma("v_mfma_f32_32x32x2_f32", &case);
    let blocks = Case {
        name: "32x32x1 f32, 2 blocks",
        shape: [32, 32, 1, 2],
        ab: &|i, _, block| vec![(i + 32 * block, 0)],
        registers: [1, 1, 32],
        ..case
    };
    run_mfma("v_mfma_f32_32x32x1_2b_f32", &blocks);
}

#[test]
fn mfma_4x4() {
    // Manual 7.1.3.3; calculator, 4x4x1: A lane 4 * block + i, C GPR i, lane 4 * block + j.
    let case = Case {
        name: "4x4x4 f16, 16 blocks",
        lanes: 64,
        shape: [4, 4, 4, 16],
        input: "f16",
        output: "f32",
        ab: &|i, k, block| vec![(4 * block + i, k)],
        cd: &|i, j, block| (4 * block + j, i),
        registers: [2, 2, 4],
    };
    run_mfma("v_mfma_f32_4x4x4f16", &case);
    run_mfma("v_mfma_f32_4x4x4_16b_f16", &case);
    let single = Case { shape: [4, 4, 1, 16], input: "f32", registers: [1, 1, 4], ..case };
    run_mfma("v_mfma_f32_4x4x1_16b_f32", &single);
    run_mfma("v_mfma_i32_4x4x4i8", &Case { input: "i8", output: "i32", registers: [1, 1, 4], ..case });
}

#[test]
fn mfma_16x16x4_f32_and_four_blocks() {
    let case = Case {
        name: "16x16x4 f32",
        lanes: 64,
        shape: [16, 16, 4, 1],
        input: "f32",
        output: "f32",
        ab: &|i, k, _| vec![(16 * k + i, 0)],
        cd: &|i, j, _| (16 * (i / 4) + j, i % 4),
        registers: [1, 1, 4],
    };
    run_mfma("v_mfma_f32_16x16x4f32", &case);
    run_mfma("v_mfma_f32_16x16x4_f32", &case);
    run_mfma(
        "v_mfma_f32_16x16x4_4b_f16",
        &Case {
            shape: [16, 16, 4, 4],
            input: "f16",
            ab: &|i, k, block| vec![(16 * block + i, k)],
            cd: &|i, j, block| (16 * (i / 4) + j, i % 4 + 4 * block),
            registers: [2, 2, 16],
            ..case
        },
    );
}

#[test]
fn mfma_f64_16x16x4() {
    // Manual 7.1.3.4: A[i][k] in lane i + 16 k; D[i][j] in lane j + 16 (i % 4), registers 2 (i / 4) and the next.
    let mfma = mfma::Mfma::new("v_mfma_f64_16x16x4_f64", false, Default::default()).unwrap();
    assert_eq!(mfma.registers(), [2, 2, 8]);
    let put = |block: &mut [Lanes], register: usize, lane: usize, value: f64| {
        block[register][lane] = value.to_bits() as u32;
        block[register + 1][lane] = (value.to_bits() >> 32) as u32;
    };
    let (mut a, mut b, mut c) = (vec![[0; 64]; 2], vec![[0; 64]; 2], vec![[0; 64]; 8]);
    let at = |i: usize, j: usize, n: usize| (i * n + j) as f64 * 0.1 - 3.0;
    for k in 0..4 {
        for i in 0..16 {
            put(&mut a, 0, i + 16 * k, at(i, k, 4));
            put(&mut b, 0, i + 16 * k, at(k, i, 16));
        }
    }
    for i in 0..16 {
        for j in 0..16 {
            put(&mut c, 2 * (i / 4), j + 16 * (i % 4), at(i, j, 16));
        }
    }
    let mut d = vec![[0; 64]; 8];
    mfma.multiply(&a, &b, &c, &mut d);
    for i in 0..16 {
        for j in 0..16 {
            let want = at(i, j, 16) + (0..4).map(|k| at(i, k, 4) * at(k, j, 16)).sum::<f64>();
            let (register, lane) = (2 * (i / 4), j + 16 * (i % 4));
            let got = f64::from_bits(d[register][lane] as u64 | (d[register + 1][lane] as u64) << 32);
            assert!((got - want).abs() < 1e-11, "{i} {j}: {got} {want}");
        }
    }
}

#[test]
fn mfma_broadcasts() {
    // Two blocks of 32x32x1: cbsz 1, abid 1 takes block 1 of A for both; blgp 1 the first 32 lanes of B for both.
    let modifiers = mfma::Modifiers { cbsz: 1, abid: 1, blgp: 1, clamp: false };
    let mfma = mfma::Mfma::new("v_mfma_f32_32x32x1f32", false, modifiers).unwrap();
    let a: Lanes = std::array::from_fn(|lane| (lane as f32).to_bits());
    let b: Lanes = std::array::from_fn(|lane| (lane as f32 + 1.0).to_bits());
    let mut d = vec![[0; 64]; 32];
    mfma.multiply(&[a], &[b], &[[0; 64]; 32], &mut d);
    for block in 0..2 {
        for i in 0..32 {
            for j in 0..32 {
                let got = f32::from_bits(d[i % 4 + 4 * (i / 8) + 16 * block][j + 32 * (i / 4 % 2)]);
                assert_eq!(got, (32 + i) as f32 * (j + 1) as f32, "block {block} {i} {j}");
            }
        }
    }
    let one_block = mfma::Mfma::new("v_mfma_f32_32x32x2f32", false, modifiers);
    assert!(one_block.is_none(), "one block of A, and cbsz asks for two");
}

#[test]
fn gfx90a_takes_16_bit_subnormals_as_zero() {
    for (flush, want) in [(false, 4.0 * 2f32.powi(-24)), (true, 0.0)] {
        let mfma = mfma::Mfma::new("v_mfma_f32_16x16x16f16", flush, Default::default()).unwrap();
        // The smallest subnormal, times one, four times in each of four lanes' k; only k < 4 is not zero.
        let a: Lanes = std::array::from_fn(|lane| if lane < 16 { 0x0001_0001 } else { 0 });
        let mut d = vec![[0; 64]; 4];
        mfma.multiply(&[a; 2], &[[0x3C00_3C00; 64]; 2], &[[0; 64]; 4], &mut d);
        assert_eq!(f32::from_bits(d[0][0]), want);
    }
}

fn run_wmma(name: &str, generation: wmma::Generation, modifiers: wmma::Modifiers, case: &Case<'_>) {
    let wmma = wmma::Wmma::new(name, generation, modifiers).unwrap_or_else(|| panic!("{name}"));
    let wmma::Registers { a, b, c } = wmma.registers(case.lanes);
    assert_eq!([a, b, c], case.registers, "{name}");
    check(case, |a, b, c, d| wmma.multiply(case.lanes, a, b, c, d).unwrap());
}

fn signed() -> wmma::Modifiers {
    wmma::Modifiers { neg_lo: [true, true, false], ..Default::default() }
}

#[test]
fn wmma_gfx11() {
    // Calculator: A lane i and i+16, also i+32 and i+48 in wave64, GPR k / (32 / bits);
    // C GPR floor((16 * i) / wave_width), lane ((16 * i) % wave_width) + j.
    for lanes in [32, 64] {
        let ab = |i: usize, k: usize, _: usize| (0..lanes / 16).map(|copy| (i + 16 * copy, k)).collect();
        let cd = |i: usize, j: usize, _: usize| ((16 * i) % lanes + j, 16 * i / lanes);
        let case = Case {
            name: "gfx11 f16",
            lanes,
            shape: [16, 16, 16, 1],
            input: "f16",
            output: "f32",
            ab: &ab,
            cd: &cd,
            registers: [8, 8, 256 / lanes],
        };
        let generation = wmma::Generation::Gfx11;
        run_wmma("v_wmma_f32_16x16x16_f16", generation, Default::default(), &case);
        let bf16 = Case { input: "bf16", ..case };
        run_wmma("v_wmma_f32_16x16x16_bf16", generation, Default::default(), &bf16);
        let i8 = Case { input: "i8", output: "i32", registers: [4, 4, 256 / lanes], ..case };
        run_wmma("v_wmma_i32_16x16x16_iu8", generation, signed(), &i8);
        let i4 = Case { input: "i4", output: "i32", registers: [2, 2, 256 / lanes], ..case };
        run_wmma("v_wmma_i32_16x16x16_iu4", generation, signed(), &i4);
        // A 16-bit accumulator in the low, or in the high halves.
        for high in [0, 1] {
            let modifiers = wmma::Modifiers { high: high == 1, ..Default::default() };
            let half = |i: usize, j: usize, _: usize| ((16 * i) % lanes + j, 2 * (16 * i / lanes) + high);
            let f16 = Case { output: "f16", cd: &half, ..case };
            run_wmma("v_wmma_f16_16x16x16_f16", generation, modifiers, &f16);
            let bf16 = Case { input: "bf16", output: "bf16", ..f16 };
            check_bf16_out(&bf16, generation, modifiers);
        }
    }
}

/// Sums here may exceed bf16's 8 bits: the product is taken from two values that keep it exact.
fn check_bf16_out(case: &Case<'_>, generation: wmma::Generation, modifiers: wmma::Modifiers) {
    let wmma = wmma::Wmma::new("v_wmma_bf16_16x16x16_bf16", generation, modifiers).unwrap();
    let registers = wmma.registers(case.lanes);
    let (mut a, mut b) = (vec![[0; 64]; registers.a], vec![[0; 64]; registers.b]);
    let mut c = vec![[0; 64]; registers.c];
    for i in 0..16 {
        // A is a diagonal of 2, B holds j + 3 k: the product is 2 (j + 3 i).
        for k in 0..16 {
            for place in (case.ab)(i, k, 0) {
                put(&mut a, place, encode("bf16", if i == k { 2 } else { 0 }));
                put(&mut b, place, encode("bf16", i as i32 + 3 * k as i32));
            }
        }
        for j in 0..16 {
            put(&mut c, (case.cd)(i, j, 0), encode("bf16", i as i32 - j as i32));
        }
    }
    let mut d = vec![[0; 64]; registers.c];
    wmma.multiply(case.lanes, &a, &b, &c, &mut d).unwrap();
    for i in 0..16 {
        for j in 0..16 {
            let (lane, item) = (case.cd)(i, j, 0);
            let got = d[item / 2][lane] >> (item % 2 * 16) & 0xFFFF;
            let want = 2 * (j as i32 + 3 * i as i32) + i as i32 - j as i32;
            assert_eq!(got, encode("bf16", want).0, "{i} {j}");
        }
    }
}

#[test]
fn wmma_gfx12() {
    // tinygrad's kernels for gfx1200: A[row][k] in lane row + 16 (k / 4 % 2), item k % 4 + 4 (k / 8);
    // C[i][j] in lane j + 16 (i / 8), item i % 8.
    let case = Case {
        name: "gfx12 f16",
        lanes: 32,
        shape: [16, 16, 16, 1],
        input: "f16",
        output: "f32",
        ab: &|i, k, _| vec![(i + 16 * (k / 4 % 2), k % 4 + 4 * (k / 8))],
        cd: &|i, j, _| (j + 16 * (i / 8), i % 8),
        registers: [4, 4, 8],
    };
    let generation = wmma::Generation::Gfx12;
    run_wmma("v_wmma_f32_16x16x16_f16", generation, Default::default(), &case);
    run_wmma("v_wmma_f32_16x16x16_bf16", generation, Default::default(), &Case { input: "bf16", ..case });
    let i8 = Case { input: "i8", output: "i32", registers: [2, 2, 8], ..case };
    run_wmma("v_wmma_i32_16x16x16_iu8", generation, signed(), &i8);
    run_wmma(
        "v_wmma_i32_16x16x16_iu4",
        generation,
        signed(),
        &Case { input: "i4", registers: [1, 1, 8], ..i8 },
    );
    run_wmma(
        "v_wmma_i32_16x16x32_iu4",
        generation,
        signed(),
        &Case {
            shape: [16, 16, 32, 1],
            input: "i4",
            ab: &|i, k, _| vec![(i + 16 * (k / 16), k % 16)],
            registers: [2, 2, 8],
            ..i8
        },
    );
    let f16 = Case { output: "f16", registers: [4, 4, 4], ..case };
    run_wmma("v_wmma_f16_16x16x16_f16", generation, Default::default(), &f16);
    check_bf16_out(&Case { input: "bf16", output: "bf16", ..f16 }, generation, Default::default());
}

#[test]
fn wmma_signs_and_saturation() {
    let ones = [[0xFFFF_FFFF; 64]; 4];
    for (neg_lo, want) in [
        ([false, false, false], 16 * 255 * 255),
        ([true, false, false], -16 * 255),
        ([false, true, false], -16 * 255),
        ([true, true, false], 16),
    ] {
        let modifiers = wmma::Modifiers { neg_lo, ..Default::default() };
        let wmma = wmma::Wmma::new("v_wmma_i32_16x16x16_iu8", wmma::Generation::Gfx11, modifiers).unwrap();
        let mut d = [[0; 64]; 8];
        wmma.multiply(32, &ones, &ones, &[[0; 64]; 8], &mut d).unwrap();
        assert_eq!(d[3][17] as i32, want);
    }
    for (clamp, want) in [(false, i32::MIN + 15), (true, i32::MAX)] {
        let modifiers = wmma::Modifiers { clamp, ..signed() };
        let wmma = wmma::Wmma::new("v_wmma_i32_16x16x16_iu8", wmma::Generation::Gfx11, modifiers).unwrap();
        let mut d = [[0; 64]; 8];
        wmma.multiply(32, &ones, &ones, &[[i32::MAX as u32; 64]; 8], &mut d).unwrap();
        assert_eq!(d[7][0] as i32, want);
    }
}

#[test]
fn wmma_gfx11_wants_duplicates_and_keeps_the_other_half() {
    let wmma =
        wmma::Wmma::new("v_wmma_f16_16x16x16_f16", wmma::Generation::Gfx11, Default::default()).unwrap();
    let mut a = [[0x3C00_3C00; 64]; 8];
    let b = [[0x4000_4000; 64]; 8];
    let mut d = [[0xABCD_EF01; 64]; 8];
    wmma.multiply(32, &a, &b, &[[0x7777_3C00; 64]; 8], &mut d).unwrap();
    assert_eq!(d[0][0], 0xABCD_0000 | half::f16::from_f32(33.0).to_bits() as u32);
    a[5][20] = 0;
    let fault = wmma.multiply(32, &a, &b, &[[0; 64]; 8], &mut d).unwrap_err();
    assert_eq!(fault.lane, Some(20));
    assert!(matches!(fault.fault, Fault::Launch(why) if why.contains("operand A, its register 5")));
}

#[test]
fn elements() {
    for bits in 0..=u16::MAX {
        let (want, got) = (half::f16::from_bits(bits).to_f32(), element::f16_to_f32(bits));
        assert!(want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(), "{bits:#x}");
    }
    use element::Element::*;
    // OCP 8-bit float specification, section 5: extreme values of E4M3 and E5M2.
    for (format, bits, want) in [
        (Fp8, 0x7E, 448.0),
        (Fp8, 0x08, 2f32.powi(-6)),
        (Fp8, 0x01, 2f32.powi(-9)),
        (Fp8, 0xC0, -2.0),
        (Bf8, 0x7B, 57344.0),
        (Bf8, 0x04, 2f32.powi(-14)),
        (Bf8, 0x01, 2f32.powi(-16)),
        (Bf8, 0xFC, f32::NEG_INFINITY),
        // CDNA3: the largest values are 240 and 57344.
        (Fp8Fnuz, 0x7F, 240.0),
        (Fp8Fnuz, 0x40, 1.0),
        (Fp8Fnuz, 0x01, 2f32.powi(-10)),
        (Bf8Fnuz, 0x7F, 57344.0),
        (Bf8Fnuz, 0x40, 1.0),
        (Bf8Fnuz, 0x01, 2f32.powi(-17)),
    ] {
        assert_eq!(format.float(bits), want, "{format:?} {bits:#x}");
    }
    for (format, bits) in [(Fp8, 0x7F), (Fp8, 0xFF), (Bf8, 0x7D), (Fp8Fnuz, 0x80), (Bf8Fnuz, 0x80)] {
        assert!(format.float(bits).is_nan(), "{format:?} {bits:#x}");
    }
}

#[test]
fn sixteen_bit_results_are_rounded_once() {
    // Just above the tie between 1 and the next f16; f32 in between would see the tie and round down.
    let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
    assert_eq!(element::f64_to_f16(above), 0x3C01);
    assert_eq!(element::f64_to_f16(1.0 + 2f64.powi(-11)), 0x3C00);
    assert_eq!(element::f64_to_f16(-above), 0xBC01);
    assert_eq!(element::f64_to_bf16(1.0 + 2f64.powi(-8) + 2f64.powi(-40)), 0x3F81);
    assert_eq!(element::f64_to_bf16(1.0 + 2f64.powi(-8)), 0x3F80);
    assert_eq!(element::f64_to_f16(1e300), 0x7C00);
    assert_eq!(element::f64_to_f16(-1e-300), 0x8000);
}

/// Through the instruction table: registers, constants, modifiers as LLVM writes them.
mod executed {
    use amdhip64::counters::Counters;
    use amdhip64::group::Group;
    use amdhip64::isa::{Arch, Inst};
    use amdhip64::lds::Lds;
    use amdhip64::memory::Memory;
    use amdhip64::stop::{Fault, LaneFault};
    use amdhip64::wave::{ACC, Wave};

    fn execute(arch: &str, wave: &mut Wave, text: &str) -> Result<(), LaneFault> {
        let inst =
            Inst::parse(text, &Arch::parse(arch).unwrap()).unwrap_or_else(|why| panic!("{text}: {why}"));
        let memory = Memory::default();
        let mut group = Group { memory: &memory, lds: Lds::new(0), counters: Counters::default() };
        inst.execute(wave, &mut group)
    }

    fn fill(wave: &mut Wave, registers: std::ops::Range<u16>, value: u32) {
        for n in registers {
            wave.set_vgpr(n, u64::MAX, &[value; 64]);
        }
    }

    #[test]
    fn wmma_of_gfx11() {
        let mut wave = Wave::new(32);
        fill(&mut wave, 8..16, 0x4000_3C00); // 1, 2
        fill(&mut wave, 16..24, 0x3C00_4200); // 3, 1
        execute("gfx1100", &mut wave, "v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], 1.0").unwrap();
        // EXEC does not matter.
        wave.set_exec(0);
        execute("gfx1100", &mut wave, "v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]").unwrap();
        assert_eq!(f32::from_bits(wave.vgpr[7][31]), 81.0);
        let negated = "v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7] neg_lo:[1,0,1]";
        execute("gfx1100", &mut wave, negated).unwrap();
        assert_eq!(f32::from_bits(wave.vgpr[0][0]), -81.0 - 24.0 + 16.0);
        let high = "v_wmma_f16_16x16x16_f16 v[24:31], v[8:15], v[16:23], 0.5 op_sel:[0,0,1]";
        execute("gfx1100", &mut wave, high).unwrap();
        assert_eq!(wave.vgpr[24][5], (half::f16::from_f32(40.5).to_bits() as u32) << 16);
    }

    #[test]
    fn integer_wmma_of_gfx12() {
        let mut wave = Wave::new(32);
        fill(&mut wave, 8..10, 0xFFFF_FFFF);
        fill(&mut wave, 10..12, 0x0202_0202);
        let text = "v_wmma_i32_16x16x16_iu8 v[0:7], v[8:9], v[10:11], 5 neg_lo:[1,0,0]";
        execute("gfx1201", &mut wave, text).unwrap();
        assert_eq!(wave.vgpr[3][17] as i32, 5 - 32);
    }

    #[test]
    fn mfma_into_accumulators() {
        let mut wave = Wave::new(64);
        fill(&mut wave, 0..2, 0x3C00_3C00);
        fill(&mut wave, 2..4, 0x4000_4000);
        for (arch, name) in [
            ("gfx908", "v_mfma_f32_32x32x8f16"),
            ("gfx90a", "v_mfma_f32_32x32x8f16"),
            ("gfx942", "v_mfma_f32_32x32x8_f16"),
        ] {
            execute(arch, &mut wave, &format!("{name} a[0:15], v[0:1], v[2:3], 0")).unwrap();
            execute(arch, &mut wave, &format!("{name} a[0:15], v[0:1], v[2:3], a[0:15]")).unwrap();
            execute(arch, &mut wave, "v_accvgpr_read_b32 v9, a15").unwrap();
            assert_eq!(f32::from_bits(wave.vgpr[9][63]), 32.0);
            assert_eq!(f32::from_bits(wave.vgpr[ACC as usize][0]), 32.0);
        }
        let text = "v_mfma_f64_16x16x4_f64 v[16:23], v[0:1], v[2:3], 0 neg:[1,0,0]";
        let one = 1f64.to_bits();
        for n in [0, 2] {
            fill(&mut wave, n..n + 1, one as u32);
            fill(&mut wave, n + 1..n + 2, (one >> 32) as u32);
        }
        execute("gfx942", &mut wave, text).unwrap();
        assert_eq!(wave.vgpr[17][3], ((-4f64).to_bits() >> 32) as u32);
    }

    #[test]
    fn unwritten_lanes_stop() {
        let mut wave = Wave::new(64);
        fill(&mut wave, 0..4, 0);
        wave.vgpr_written[3] &= !(1 << 40);
        let fault =
            execute("gfx942", &mut wave, "v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], 0").unwrap_err();
        assert_eq!(fault.lane, Some(40));
        assert_eq!(fault.fault, Fault::UnwrittenRegister { register: "v3".into() });
    }
}

#[test]
fn f32_to_f16_is_that_of_the_half_crate() {
    // Every exponent and sign, mantissas around each rounding boundary.
    for high in 0..1u32 << 9 {
        for mantissa in
            (0..1u32 << 10).flat_map(|m| [0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF].map(|low| m << 13 | low))
        {
            let value = f32::from_bits(high << 23 | mantissa);
            let (want, got) = (half::f16::from_f32(value), half::f16::from_bits(element::f32_to_f16(value)));
            assert!(
                want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(),
                "{value:e}: {got} {want}"
            );
        }
    }
}
