//! The packed matrix product against its definition: every type, every instruction set here.
//!
//! Oracle: the tensor's bytes dequantized by `gguf::dequant` (itself checked against the `gguf` Python
//! package) and a dot product in f64.

use rocmforge::device::cpu::isa::Isa;
use rocmforge::device::cpu::matmul::{
    ActivationFormat, Activations, PackedMatrix, Q8Rows, SUPPORTED, TILE_ROWS, matmul,
};
use rocmforge::gguf::{TensorType, dequant};

use TensorType::*;

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.signed()).collect()
    }
}

/// Where a block of `ty` has its f16 scales.
fn scales_at(ty: TensorType) -> &'static [usize] {
    match ty {
        Q4_0 | Q5_0 | Q8_0 => &[0],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        _ => unreachable!("{ty} has no blocks"),
    }
}

fn is_float(ty: TensorType) -> bool {
    matches!(ty, F32 | F16 | BF16)
}

/// A tensor of random quants, sub-scales included, with f16 scales in -0.1..0.1.
fn tensor(ty: TensorType, n: usize, random: &mut Random) -> Vec<u8> {
    match ty {
        F32 => random.vec(n).into_iter().flat_map(f32::to_le_bytes).collect(),
        F16 => random.vec(n).into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        BF16 => random.vec(n).into_iter().flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        _ => {
            let n_bytes = ty.row_bytes(n).unwrap();
            let mut bytes: Vec<u8> = (0..n_bytes).map(|_| (random.next() >> 32) as u8).collect();
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                for &at in scales_at(ty) {
                    let scale = half::f16::from_f32(0.1 * random.signed());
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            bytes
        }
    }
}

/// A product to compute: weights and f32 activations.
struct Case {
    ty: TensorType,
    rows: usize,
    cols: usize,
    tokens: usize,
    bytes: Vec<u8>,
    x: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(ty: TensorType, rows: usize, cols: usize, tokens: usize) -> Self {
        let mut random = Random((rows * 1_000_003 + cols * 1009 + tokens) as u64 ^ (ty as u64) << 40);
        Case {
            ty,
            rows,
            cols,
            tokens,
            bytes: tensor(ty, rows * cols, &mut random),
            x: random.vec(tokens * cols),
            bias: random.vec(rows),
        }
    }

    fn pack(&self) -> PackedMatrix {
        let w = PackedMatrix::new(self.ty, self.rows, self.cols).unwrap();
        for t in 0..w.n_tiles() {
            // SAFETY: one thread.
            unsafe { w.pack_tile(t, &self.bytes) };
        }
        w
    }

    fn quantize(&self, isa: Isa) -> Q8Rows {
        let rows = Q8Rows::new(self.tokens, self.cols).unwrap();
        if !is_float(self.ty) {
            for (t, x) in self.x.chunks_exact(self.cols).enumerate() {
                // SAFETY: one thread, an available path.
                unsafe { rows.quantize_row(isa, t, x) };
            }
        }
        rows
    }

    fn activations<'a>(&'a self, rows: &'a Q8Rows, w: &PackedMatrix) -> Activations<'a> {
        match w.format() {
            ActivationFormat::Q8 => Activations::Q8(rows),
            ActivationFormat::F32 => Activations::F32 { x: &self.x, stride: self.cols },
        }
    }

    fn run(&self, isa: Isa) -> Vec<f32> {
        let (w, rows) = (self.pack(), self.quantize(isa));
        let mut out = vec![f32::NAN; self.tokens * self.rows];
        let x = self.activations(&rows, &w);
        let (tokens, tiles) = (0..self.tokens, 0..w.n_tiles());
        // SAFETY: packed and quantized above; one thread; `out` has every row of every token.
        unsafe { matmul(isa, &w, x, tokens, tiles, Some(&self.bias), out.as_mut_ptr(), self.rows) };
        out
    }

    /// (product, sum of magnitudes) by the definition, on activations `x`.
    fn expected(&self, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let mut weights = vec![0.0; self.rows * self.cols];
        dequant::row(self.ty, &self.bytes, &mut weights).unwrap();
        let (mut products, mut magnitudes) = (Vec::new(), Vec::new());
        for x in x.chunks_exact(self.cols) {
            for (w, bias) in weights.chunks_exact(self.cols).zip(&self.bias) {
                let terms = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                products.push(terms().sum::<f64>() + f64::from(*bias));
                magnitudes.push(terms().map(f64::abs).sum::<f64>() + f64::from(bias.abs()));
            }
        }
        (products, magnitudes)
    }

    /// The activations as the product sees them.
    fn rounded(&self, isa: Isa) -> Vec<f32> {
        let mut x = self.x.clone();
        if !is_float(self.ty) {
            let rows = self.quantize(isa);
            for (t, x) in x.chunks_exact_mut(self.cols).enumerate() {
                // SAFETY: one thread.
                unsafe { rows.dequantize_row(t, x) };
            }
        }
        x
    }

    /// Exact but for f32 rounding, on the activations as rounded.
    fn check(&self, isa: Isa) {
        let got = self.run(isa);
        let (want, magnitude) = self.expected(&self.rounded(isa));
        for (i, ((got, want), magnitude)) in got.iter().zip(&want).zip(&magnitude).enumerate() {
            let error = (f64::from(*got) - want).abs() / magnitude;
            assert!(
                error <= 1e-6,
                "{} {} {}x{}, token {} row {}: {got}, expected {want}, error {error:.1e}",
                isa.name(),
                self.ty,
                self.rows,
                self.cols,
                i / self.rows,
                i % self.rows,
            );
        }
    }
}

fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[test]
fn every_type_and_shape_is_the_product_of_the_rounded_activations() {
    for ty in SUPPORTED {
        for cols in [1usize, 7, 32, 50, 64, 96, 160, 256, 512, 768] {
            if !cols.is_multiple_of(ty.block_len()) {
                continue;
            }
            for (rows, tokens) in [(1, 1), (15, 2), (16, 3), (17, 5), (33, 8), (33, 9), (48, 17), (33, 1)] {
                let case = Case::new(ty, rows, cols, tokens);
                paths().for_each(|isa| case.check(isa));
            }
        }
    }
}

#[test]
fn rounding_the_activations_costs_little() {
    for ty in SUPPORTED {
        let case = Case::new(ty, 64, 768, 8);
        let (want, _) = case.expected(&case.x);
        let limit = if is_float(ty) { 1e-12 } else { 1e-4 };
        for isa in paths() {
            let got = case.run(isa);
            let error: f64 = got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).powi(2)).sum();
            let nmse = error / want.iter().map(|want| want.powi(2)).sum::<f64>();
            assert!(nmse <= limit, "{} {ty}: NMSE {nmse:.1e}", isa.name());
        }
    }
}

#[test]
fn a_token_alone_gives_the_same_bits() {
    for ty in SUPPORTED {
        for tokens in [2, 3, 5, 8, 9, 17, 31] {
            let case = Case::new(ty, 33, 512, tokens);
            for isa in paths() {
                let together = case.run(isa);
                let (w, rows) = (case.pack(), case.quantize(isa));
                let x = case.activations(&rows, &w);
                let mut apart = vec![f32::NAN; tokens * case.rows];
                for t in 0..tokens {
                    for tile in 0..w.n_tiles() {
                        let (out, bias) = (apart.as_mut_ptr(), Some(&case.bias[..]));
                        // SAFETY: as in `run`.
                        unsafe { matmul(isa, &w, x, t..t + 1, tile..tile + 1, bias, out, case.rows) };
                    }
                }
                let same = together.iter().zip(&apart).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} {ty}, {tokens} tokens", isa.name());
            }
        }
    }
}

#[test]
fn threads_share_the_packing_and_the_product() {
    struct Out(*mut f32);
    // SAFETY: each thread writes rows of its own tiles only.
    unsafe impl Sync for Out {}

    for ty in SUPPORTED {
        let case = Case::new(ty, 100, 256, 9);
        for isa in paths() {
            let w = PackedMatrix::new(ty, case.rows, case.cols).unwrap();
            let rows = case.quantize(isa);
            let mut shared = vec![f32::NAN; case.tokens * case.rows];
            let out = &Out(shared.as_mut_ptr());
            std::thread::scope(|scope| {
                for tiles in [0..3, 3..7] {
                    let (w, rows, case) = (&w, &rows, &case);
                    scope.spawn(move || {
                        // SAFETY: the threads' tiles are disjoint.
                        unsafe {
                            tiles.clone().for_each(|t| w.pack_tile(t, &case.bytes));
                            let x = case.activations(rows, w);
                            matmul(isa, w, x, 0..case.tokens, tiles, Some(&case.bias), out.0, case.rows);
                        }
                    });
                }
            });
            assert_eq!(shared, case.run(isa), "{} {ty}", isa.name());
        }
    }
}

#[test]
fn only_the_named_rows_and_tokens_are_written() {
    for ty in SUPPORTED {
        let case = Case::new(ty, 33, 256, 6);
        for isa in paths() {
            let (w, rows) = (case.pack(), case.quantize(isa));
            let x = case.activations(&rows, &w);
            let stride = 40;
            let mut out = vec![7.0f32; case.tokens * stride];
            // SAFETY: as in `run`.
            unsafe { matmul(isa, &w, x, 1..5, 1..w.n_tiles(), None, out.as_mut_ptr(), stride) };
            for (i, out) in out.iter().enumerate() {
                let (t, r) = (i / stride, i % stride);
                let named = (1..5).contains(&t) && (TILE_ROWS..case.rows).contains(&r);
                assert_eq!(*out != 7.0, named, "{} {ty}: token {t} row {r}", isa.name());
            }
        }
    }
}

/// Blocks at the ends of every field's range: all quants, sub-scales and signs at once.
#[test]
fn extreme_blocks_do_not_overflow() {
    for ty in SUPPORTED.into_iter().filter(|ty| !is_float(*ty)) {
        for fill in [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0, 0x55, 0xaa] {
            for (scale, x) in [(65504.0, 127.0), (-65504.0, 1.0), (6e-8, -1.0), (0.0, 1.0), (1.0, -127.0)] {
                let mut case = Case::new(ty, 17, 512, 9);
                // K types subtract their minimum: terms of one sign, lest they cancel.
                let min = if matches!(ty, Q2_K | Q4_K | Q5_K) { -scale } else { scale };
                for block in case.bytes.chunks_exact_mut(ty.block_bytes()) {
                    block.fill(fill);
                    for (&at, scale) in scales_at(ty).iter().zip([scale, min]) {
                        block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
                    }
                }
                // One sign in each half, so that every partial sum is at its largest.
                for (i, v) in case.x.iter_mut().enumerate() {
                    *v = if i % 512 < 256 { x } else { -x / 3.0 };
                }
                paths().for_each(|isa| case.check(isa));
            }
        }
    }
}

#[test]
fn activations_round_to_nearest_even_alike_on_every_path() {
    let mut random = Random(5);
    let mut x = random.vec(96);
    // amax 127 makes the scale 1: halves go to the even neighbour.
    x[..8].copy_from_slice(&[127.0, 0.5, 1.5, -0.5, -2.5, 3.49, -126.5, 2.500_001]);
    x[64..].fill(0.0);
    let mut rounded = vec![0.0; 96];
    for isa in paths() {
        let rows = Q8Rows::new(2, 96).unwrap();
        // SAFETY: one thread.
        unsafe {
            rows.quantize_row(isa, 1, &x);
            rows.dequantize_row(1, &mut rounded);
        }
        assert_eq!(rounded[..8], [127.0, 0.0, 2.0, 0.0, -2.0, 3.0, -126.0, 3.0], "{}", isa.name());
        let amax = x[32..64].iter().fold(0.0, |amax: f32, x| amax.max(x.abs()));
        for (x, rounded) in x[32..64].iter().zip(&rounded[32..64]) {
            assert!((x - rounded).abs() <= amax / 127.0 * 0.5001, "{}: {x} became {rounded}", isa.name());
        }
        assert!(rounded[64..].iter().all(|x| *x == 0.0));
    }
}

#[test]
fn what_is_not_finite_stays_so_and_tiny_values_vanish() {
    for ty in SUPPORTED {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = Case::new(ty, 17, 512, 3);
            case.x[512 + 300] = bad;
            for isa in paths() {
                let out = case.run(isa);
                assert!(out[..17].iter().chain(&out[34..]).all(|x| x.is_finite()), "{} {ty}", isa.name());
                assert!(out[17..34].iter().all(|x| !x.is_finite()), "{} {ty} {bad}", isa.name());
            }
        }
    }
    let mut case = Case::new(Q8_0, 17, 512, 1);
    case.x.fill(1e-39);
    paths().for_each(|isa| assert_eq!(case.run(isa), case.bias, "{}", isa.name()));
}

#[test]
fn what_cannot_be_packed_is_refused() {
    assert!(PackedMatrix::new(IQ2_XXS, 16, 256).is_err());
    assert!(PackedMatrix::new(Q4_K, 16, 128).is_err());
    assert!(PackedMatrix::new(F32, usize::MAX / 64, 1 << 20).is_err());
    assert!(PackedMatrix::new(Q8_0, 1 << 40, 1 << 20).is_err());
}
