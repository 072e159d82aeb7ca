//! What the GPU engine does with many tokens at once, against its definition: f16 activations, matrix products,
//! attention. On every emulated card, or on a real GPU with ROCMFORGE_TEST_GPU=1 (and there at larger shapes too).
//!
//! Bounds are on NMSE, the sum of squared differences over the sum of squares. Rounding to f16 errs by at most 2^-11
//! of a value, evenly spread: by 2^-22 / 3 = 8e-8 of its square at most, in the mean over a binade by 4e-8. So does a
//! sum of products of which one factor was rounded, errors and products being of random sign alike; twice that if both
//! were. What is left when the oracle rounds alike is the order of f32 sums: 1e-10.

use crate::common;

use std::num::FpCategory;

use common::gpu::{Gpu, Input, Output, Test, nmse};
use common::operands::{floats, load};
use common::tiny_model::{Rng, random_tensor};
use common::types::{extreme_blocks, quantized};
use half::f16;
use rocmforge::Error;
use rocmforge::device::BLOCK_LEN;
use rocmforge::device::hip::memory::Buffer;
use rocmforge::device::hip::ops::attend::Scores;
use rocmforge::device::hip::ops::matmul::{self as ops, Addends, HalfRows, MatMulTile};
use rocmforge::device::hip::ops::prefill::{Tiles, attention_tiles, prefill_attention};
use rocmforge::device::hip::ops::project::LayerCache;
use rocmforge::device::hip::ops::project::head_pad;
use rocmforge::device::reference::ops as reference;
use rocmforge::gguf::{TensorType, dequant};
use rocmforge::plan::{self, Binary, NormKind, Unary, Window};

use TensorType::*;

pub const TESTS: &[Test] = &[
    Test::new("half_rows", half_rows),
    Test::new("half_rows_at_the_ends", half_rows_at_the_ends),
    Test::new("rms_norm_half", rms_norm_half),
    Test::new("glu_half", glu_half),
    Test::of_each_type("matmul", matmul),
    Test::new("matmul_adds", matmul_adds),
    Test::new("matmul_extremes", matmul_extremes),
    Test::new("attention_of_one_sequence", attention_of_one_sequence),
    Test::new("attention_of_grouped_heads", attention_of_grouped_heads),
    Test::new("attention_of_odd_heads", attention_of_odd_heads),
    Test::new("attention_of_wide_heads", attention_of_wide_heads),
    Test::new("attention_at_a_depth", attention_at_a_depth),
    Test::new("attention_of_large_and_odd_values", attention_of_large_and_odd_values),
    Test::new("attention_of_windows", attention_of_windows),
    Test::new("attention_with_caps", attention_with_caps),
    Test::new("attention_by_distance", attention_by_distance),
    Test::new("attention_to_later_positions", attention_to_later_positions),
    Test::new("attention_with_sinks", attention_with_sinks),
    Test::new("shapes_beyond_a_buffer_are_refused", shapes_beyond_a_buffer_are_refused),
];

/// One value rounded to f16.
const ONE_ROUNDED: f64 = 1e-7;
/// Both factors of a product.
const BOTH_ROUNDED: f64 = 2e-7;
/// Queries and weights of attention, both rounded; the softmax turns a score's error into as much of a weight's, so
/// scores of up to 60 may err by more than [`BOTH_ROUNDED`].
const ATTENTION: f64 = 1e-6;
/// Rounded alike: f32 sums in another order.
const SAME_ROUNDING: f64 = 1e-10;

/// The same for sums of so many columns. NVIDIA's matrix units cut what f32 does not hold instead of rounding it, so
/// that the error of a long sum grows with its length: 2.9e-10 of 14,336 columns on an H100.
fn same_rounding(cols: usize) -> f64 {
    SAME_ROUNDING * (cols as f64 / 4096.0).max(1.0).powi(2)
}

/// Room for f16 rows, and what a kernel has left in it.
struct Half {
    h: Output,
    scale: Output,
    n: usize,
    cols: usize,
}

impl Half {
    fn uninit(gpu: &Gpu, n: usize, cols: usize) -> Self {
        let stride = ops::half_stride(cols).unwrap();
        Half { h: gpu.output::<u16>(n * stride), scale: gpu.output::<f32>(n), n, cols }
    }

    fn of(gpu: &Gpu, x: &[f32], n: usize, cols: usize) -> Self {
        let (input, half) = (gpu.input(x), Half::uninit(gpu, n, cols));
        ops::half_rows(&gpu.stream, input.span(), half.rows(), n, cols).unwrap();
        gpu.stream.synchronize().unwrap();
        half
    }

    fn rows(&self) -> HalfRows<'_> {
        HalfRows { h: self.h.span(), scale: self.scale.span() }
    }

    fn scales(&self, gpu: &Gpu) -> Vec<f32> {
        gpu.read(&self.scale)
    }

    /// n x cols values; what is behind a row is zero.
    fn values(&self, gpu: &Gpu) -> Vec<f32> {
        let (h, scales) = (gpu.read::<u16>(&self.h), self.scales(gpu));
        let mut values = Vec::with_capacity(self.n * self.cols);
        for (row, scale) in h.chunks_exact(h.len() / self.n).zip(scales) {
            let (row, pad) = row.split_at(self.cols);
            let is_clean = scale.is_nan() || pad.iter().all(|bits| *bits == 0);
            assert!(is_clean, "{} columns: {pad:?} behind them", self.cols);
            values.extend(row.iter().map(|bits| f16::from_bits(*bits).to_f32() * scale));
        }
        values
    }
}

/// The power of two that leaves a row's largest magnitude in [2^14, 2^15).
fn power_of_two(row: &[f32]) -> f32 {
    let most = row.iter().fold(0f32, |most, x| most.max(x.abs()));
    (-126 + 1..=127 - 14).map(|e| 2f32.powi(e)).find(|scale| most / scale < 32768.0).expect("finite values")
}

fn half_rows(gpu: &Gpu) {
    for (n, cols) in
        [(1, 1), (3, 5), (2, 33), (9, 576), (2, 896), (2, 4864), (2, 8193), (gpu.pick(512, 2), 14_336)]
    {
        for size in [1.0, 1e-6, 3e9] {
            let x = floats(&mut Rng(1), n * cols, size);
            let half = Half::of(gpu, &x, n, cols);
            let (scales, values) = (half.scales(gpu), half.values(gpu));
            for ((x, scale), values) in x.chunks_exact(cols).zip(scales).zip(values.chunks_exact(cols)) {
                assert_eq!(scale, power_of_two(x), "{n} x {cols} to {size}");
                let want: Vec<f32> = x.iter().map(|x| f16::from_f32(x / scale).to_f32() * scale).collect();
                assert_eq!(values, want, "{n} x {cols} to {size}");
            }
        }
    }
}

/// Rows of zeros, at the ends of f32, and not finite; each by itself.
fn half_rows_at_the_ends(gpu: &Gpu) {
    for cols in [5, 64, 9000] {
        let ordinary = floats(&mut Rng(2), cols, 1.0);
        let with = |value: f32| {
            let mut row = ordinary.clone();
            row[cols - 1] = value;
            row
        };
        let rows = [
            vec![0.0; cols],
            with(3e38),
            with(-1e30),
            vec![f32::MIN_POSITIVE; cols],
            vec![1e-42; cols],
            with(f32::INFINITY),
            with(f32::NAN),
            with(f32::NEG_INFINITY),
            ordinary.clone(),
        ];
        let half = Half::of(gpu, &rows.concat(), rows.len(), cols);
        let (scales, values) = (half.scales(gpu), half.values(gpu));
        for ((i, row), values) in rows.iter().enumerate().zip(values.chunks_exact(cols)) {
            if (5..8).contains(&i) {
                assert!(scales[i].is_nan() && values.iter().all(|x| x.is_nan()), "row {i} of {cols}");
                continue;
            }
            assert!(scales[i].is_normal(), "row {i} of {cols}: {}", scales[i]);
            let most = row.iter().fold(0f32, |most, x| most.max(x.abs()));
            for (x, value) in row.iter().zip(values) {
                // half a unit in the last place, of the smallest normal f16 at least
                let bound = (x.abs() / 2048.0).max(most * 2f32.powi(-39)).max(scales[i] * 2f32.powi(-25));
                assert!((x - value).abs() <= bound, "row {i} of {cols}: {x:e}, {value:e}");
            }
        }
    }
}

fn rms_norm_half(gpu: &Gpu) {
    for (n, cols) in [(1, 1), (3, 5), (9, 576), (2, 896), (2, 8200), (gpu.pick(512, 2), 4096)] {
        for (size, eps) in [(3.0, 1e-5), (1e-3, 1e-6), (1e4, 1e-5)] {
            let mut rng = Rng(3);
            let (mut x, weight) = (floats(&mut rng, n * cols, size), floats(&mut rng, cols, 2.0));
            let mut want = vec![0.0; n * cols];
            reference::norm(&x, NormKind::Rms, eps, cols, [Some(&weight), None], &mut want);
            if n > 2 {
                x[cols + cols / 2] = f32::NAN;
            }
            let (input, factors) = (gpu.input(&x), gpu.input(&weight));
            let half = Half::uninit(gpu, n, cols);
            ops::rms_norm_half(&gpu.stream, input.span(), factors.span(), half.rows(), n, cols, eps).unwrap();
            let mut got = half.values(gpu);
            if n > 2 {
                let row = cols..2 * cols;
                assert!(got[row.clone()].iter().all(|x| x.is_nan()), "{n} x {cols}: a NaN is lost");
                got[row.clone()].copy_from_slice(&want[row]);
            }
            let error = nmse(&want, &got);
            assert!(error <= ONE_ROUNDED, "{n} x {cols}: NMSE {error:.1e}");
        }
    }
}

fn glu_half(gpu: &Gpu) {
    for f in [Binary::Glu(Unary::Silu), Binary::Glu(Unary::Gelu), Binary::ClampedGlu] {
        for (n, cols, size) in
            [(1, 1, 1.0), (3, 13, 1.0), (2, 4864, 10.0), (2, 8300, 90.0), (gpu.pick(512, 1), 14_336, 3.0)]
        {
            let mut rng = Rng(4);
            let (gate, up) = (floats(&mut rng, n * cols, size), floats(&mut rng, n * cols, 1.0));
            let both = gate.iter().zip(&up);
            let want: Vec<f32> = both.map(|(gate, up)| reference::binary(f, *gate, *up)).collect();
            let (gate, up, half) = (gpu.input(&gate), gpu.input(&up), Half::uninit(gpu, n, cols));
            ops::glu_half(&gpu.stream, f, gate.span(), up.span(), half.rows(), n, cols).unwrap();
            let error = nmse(&want, &half.values(gpu));
            assert!(error <= ONE_ROUNDED, "{f:?} of {n} x {cols}: NMSE {error:.1e}");
        }
    }
}

/// What a product is made of, on the host.
struct Product {
    rows: usize,
    cols: usize,
    weight: Vec<f32>,
    x: Vec<f32>,
}

impl Product {
    /// n x rows sums in f64, by several threads.
    fn compute(&self) -> Vec<f32> {
        let n = self.x.len() / self.cols;
        let mut out = vec![0.0; n * self.rows];
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        reference::each_row(&mut out, n, threads, |t, out| {
            let x = &self.x[t * self.cols..][..self.cols];
            for (out, w) in out.iter_mut().zip(self.weight.chunks_exact(self.cols)) {
                *out = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32;
            }
            Ok(())
        })
        .unwrap();
        out
    }
}

/// Weights as the card's tiles see them. The matrix instructions of CDNA2 take subnormal f16 for zero.
fn rounded(gpu: &Gpu, values: &[f32]) -> Vec<f32> {
    let flushes = gpu.card.limits().arch == "gfx90a";
    let round = |x: f32| match f16::from_f32(x) {
        half if flushes && half.classify() == FpCategory::Subnormal => 0.0,
        half => half.to_f32(),
    };
    values.iter().map(|x| round(*x)).collect()
}

fn tiles(ty: TensorType, cols: usize) -> impl Iterator<Item = MatMulTile> {
    MatMulTile::ALL.into_iter().filter(move |tile| tile.takes(ty, cols))
}

/// Products that make a mean.
const ENOUGH: usize = 64;

fn matmul(gpu: &Gpu, ty: TensorType) {
    // rows, cols, tokens: odd ones, around a tile's sides, an odd number of steps
    let mut shapes = match ty.block_len() {
        1 => vec![(1, 1, 9), (17, 7, 9), (65, 40, 33), (20, 100, 70), (17, 33, 9), (130, 64, 9), (9, 8, 129)],
        32 => vec![(1, 32, 9), (17, 96, 33), (65, 64, 70), (130, 160, 9), (9, 32, 129)],
        _ => vec![(1, 256, 9), (17, 512, 33), (65, 256, 70), (130, 256, 9), (9, 256, 129)],
    };
    if gpu.is_fast() {
        shapes.extend([(896, 4864, 512), (4096, 4096, 512), (14_336, 4096, 77), (128, 14_336, 1000)]);
    }
    for (rows, cols, n) in shapes {
        let mut rng = Rng(5);
        let bytes = random_tensor(&mut rng, ty, rows * cols, 1.0 / (cols as f32).sqrt());
        let weight = load(gpu, ty, rows, cols, &bytes);
        let mut values = vec![0.0; rows * cols];
        dequant::row(ty, &bytes, &mut values).unwrap();
        let x = floats(&mut rng, n * cols, 1.0);
        let half = Half::of(gpu, &x, n, cols);
        let rounded_x = half.values(gpu);
        let oracle = |weight: &[f32], x: &[f32]| {
            Product { rows, cols, weight: weight.to_vec(), x: x.to_vec() }.compute()
        };
        let want = [
            ("both rounded", same_rounding(cols), oracle(&rounded(gpu, &values), &rounded_x)),
            ("rounded x", ONE_ROUNDED, oracle(&values, &rounded_x)),
            ("exact", BOTH_ROUNDED, oracle(&values, &x)),
        ];
        for tile in tiles(ty, cols) {
            let output = gpu.output::<f32>(n * rows);
            let add = Addends::default();
            ops::matmul_by(&gpu.stream, tile, &weight, half.rows(), add, output.span(), n).unwrap();
            let got = gpu.read::<f32>(&output);
            for (what, bound, want) in &want {
                // a few products alone may have cancelled, and then rounding is all there is
                if *bound >= ONE_ROUNDED && n * rows < ENOUGH {
                    continue;
                }
                let error = nmse(want, &got);
                assert!(
                    error <= *bound,
                    "{ty} {rows} x {cols}, {n} tokens, {tile:?}, {what}: NMSE {error:.1e}"
                );
            }
        }
    }
}

fn matmul_adds(gpu: &Gpu) {
    for (rows, cols, n) in [(65, 64, 70), (17, 96, 9)] {
        let mut rng = Rng(6);
        let bytes = random_tensor(&mut rng, Q8_0, rows * cols, 0.1);
        let weight = load(gpu, Q8_0, rows, cols, &bytes);
        let mut values = vec![0.0; rows * cols];
        dequant::row(Q8_0, &bytes, &mut values).unwrap();
        let half = Half::of(gpu, &floats(&mut rng, n * cols, 1.0), n, cols);
        let product = Product { rows, cols, weight: rounded(gpu, &values), x: half.values(gpu) }.compute();
        let (bias, residual) = (floats(&mut rng, rows, 1.0), floats(&mut rng, n * rows, 1.0));
        let on_card: Input = gpu.input(&bias);
        for tile in MatMulTile::ALL {
            for (with_bias, with_dst) in [(false, true), (true, false), (true, true)] {
                let output = gpu.output::<f32>(n * rows);
                let before: Vec<u8> = residual.iter().flat_map(|x| x.to_le_bytes()).collect();
                gpu.write(output.span(), &before);
                let add = Addends { bias: with_bias.then(|| on_card.span()), dst: with_dst };
                ops::matmul_by(&gpu.stream, tile, &weight, half.rows(), add, output.span(), n).unwrap();
                let want: Vec<f32> = product
                    .iter()
                    .enumerate()
                    .map(|(i, product)| {
                        let bias = if with_bias { bias[i % rows] } else { 0.0 };
                        product + bias + if with_dst { residual[i] } else { 0.0 }
                    })
                    .collect();
                let error = nmse(&want, &gpu.read(&output));
                assert!(
                    error <= SAME_ROUNDING,
                    "{tile:?}, bias {with_bias}, dst {with_dst}: NMSE {error:.1e}"
                );
            }
        }
    }
}

/// Blocks at the ends of every field's range; activations and weights that are not finite spoil their own token or row
/// alone.
fn matmul_extremes(gpu: &Gpu) {
    let (rows, cols, n) = (5, 512, 10);
    for ty in quantized() {
        for fill in [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0, 0x55, 0xaa] {
            for scale in [0.015, -0.5, 0.0] {
                let mut bytes = vec![0; ty.row_bytes(rows * cols).unwrap()];
                let row_bytes = ty.row_bytes(cols).unwrap();
                for (row, bytes) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                    // row 3 is not finite
                    let scale = if row == 3 { f32::INFINITY } else { scale };
                    extreme_blocks(ty, bytes, fill, scale);
                }
                let weight = load(gpu, ty, rows, cols, &bytes);
                let mut values = vec![0.0; rows * cols];
                dequant::row(ty, &bytes, &mut values).unwrap();
                // one sign in each half, so that every partial sum is at its largest
                let mut x: Vec<f32> =
                    (0..n * cols).map(|i| if i % cols < 256 { 127.0 } else { -127.0 / 3.0 }).collect();
                x[2 * cols + 77] = f32::INFINITY;
                let half = Half::of(gpu, &x, n, cols);
                let mut finite = half.values(gpu);
                finite[2 * cols..3 * cols].fill(0.0);
                // a row whose scale was infinity; but an exponent has none, and times zeros is zero
                let row_is_finite =
                    values[3 * cols..4 * cols].iter().all(|value| f16::from_f32(*value).is_finite());
                let want = Product { rows, cols, weight: rounded(gpu, &values), x: finite }.compute();
                for tile in MatMulTile::ALL {
                    let output = gpu.output::<f32>(n * rows);
                    let add = Addends::default();
                    ops::matmul_by(&gpu.stream, tile, &weight, half.rows(), add, output.span(), n).unwrap();
                    let mut got = gpu.read::<f32>(&output);
                    let mut want = want.clone();
                    for (i, (got, want)) in got.iter_mut().zip(&mut want).enumerate() {
                        if i / rows == 2 {
                            assert!(got.is_nan(), "{ty} of {fill:#04x}: {got}, from infinity");
                        } else if i % rows == 3 && !row_is_finite {
                            assert!(!got.is_finite(), "{ty} of {fill:#04x}: {got}, by infinity");
                        } else {
                            continue;
                        }
                        (*got, *want) = (0.0, 0.0);
                    }
                    let error = nmse(&want, &got);
                    assert!(
                        error <= SAME_ROUNDING,
                        "{ty} of {fill:#04x}, scale {scale}, {tile:?}: NMSE {error:.1e}"
                    );
                }
            }
        }
    }
}

/// Heads, and tokens of several sequences: (first position, how many) each, in the order of the step.
struct Attention<'a> {
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    sequences: &'a [(usize, usize)],
    cap: f32,
    alibi: f32,
    window: Option<Window>,
    causal: bool,
    sinks: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Causal, without anything else.
    const PLAIN: Attention<'static> = Attention {
        n_head: 1,
        n_head_kv: 1,
        head_dim: 64,
        sequences: &[],
        cap: 0.0,
        alibi: 0.0,
        window: None,
        causal: true,
        sinks: None,
    };
}

/// What the card is given and what should come of it.
struct Case {
    q: Vec<f32>,
    /// f16 bits, as the cache lies in memory.
    k: Vec<u16>,
    v: Vec<u16>,
    table: Vec<u32>,
    table_stride: usize,
    n_blocks: usize,
    head_pad: usize,
    tiles: Vec<[u32; 4]>,
    /// Of each token the last position of its sequence.
    lasts: Vec<u32>,
    scores: Scores<'static>,
    want: Vec<f32>,
}

impl Attention<'_> {
    fn n(&self) -> usize {
        self.sequences.iter().map(|(_, n)| n).sum()
    }

    /// Queries, keys and values up to such sizes; blocks in a random order, and NaN in every cell without a position.
    fn case(&self, rng: &mut Rng, q_size: f32, v_size: f32) -> Case {
        let Attention { n_head, n_head_kv, head_dim, sequences, cap, alibi, window, causal, sinks } = *self;
        let head_pad = head_pad(head_dim).unwrap();
        let width = n_head_kv * head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let scores = plan::Scores { scale, cap, alibi, causal };
        let heads = reference::Heads { n_head, n_head_kv, scores };
        let q = floats(rng, self.n() * n_head * head_dim, q_size);

        let lengths: Vec<usize> = sequences.iter().map(|(first, n)| first + n).collect();
        let table_stride = lengths.iter().max().unwrap().div_ceil(BLOCK_LEN) + 1;
        let n_blocks = lengths.iter().map(|n| n.div_ceil(BLOCK_LEN)).sum::<usize>() + 2;
        let mut free: Vec<u32> = (0..n_blocks as u32).collect();
        let cell_len = n_blocks * n_head_kv * BLOCK_LEN * head_pad;
        let nan = f16::NAN.to_bits();
        let (mut k_cells, mut v_cells) = (vec![nan; cell_len], vec![nan; cell_len]);
        // blocks that no sequence has do not exist
        let mut table = vec![u32::MAX; sequences.len() * table_stride];
        let mut want = Vec::new();
        let mut token = 0;
        for (s, ((first, _), length)) in sequences.iter().zip(&lengths).enumerate() {
            let [mut k, mut v] = [1.0, v_size].map(|size| rounded_to_f16(&floats(rng, length * width, size)));
            // two keys alike that outweigh the rest
            if *length > 40 {
                let (from, to) = (3 * width, 33 * width);
                k[from..from + width].iter_mut().for_each(|k| *k = 2.0 * k.signum());
                k.copy_within(from..from + width, to);
                v.copy_within(from..from + width, to);
            }
            let blocks = &mut table[s * table_stride..][..length.div_ceil(BLOCK_LEN)];
            blocks.iter_mut().for_each(|block| *block = free.swap_remove(rng.below(free.len())));
            for position in 0..*length {
                for head in 0..n_head_kv {
                    let block = blocks[position / BLOCK_LEN] as usize;
                    let cell = ((block * n_head_kv + head) * BLOCK_LEN + position % BLOCK_LEN) * head_pad;
                    let at = position * width + head * head_dim;
                    for (cells, values) in [(&mut k_cells, &k), (&mut v_cells, &v)] {
                        cells[cell..cell + head_pad].fill(0);
                        for (cell, value) in cells[cell..].iter_mut().zip(&values[at..at + head_dim]) {
                            *cell = f16::from_f32(*value).to_bits();
                        }
                    }
                }
            }
            // blocks that nobody sees any more may be another's
            let seen = window.map_or(0, |window| window.first(*first));
            table[s * table_stride..][..seen / BLOCK_LEN].fill(u32::MAX);
            for position in *first..*length {
                let seen = window.map_or(0, |window| window.first(position));
                let slots: Vec<usize> = (seen..if causal { position + 1 } else { *length }).collect();
                let cells = reference::Cells { slots: &slots, first: seen, own: position };
                let mut out = vec![0.0; n_head * head_dim];
                let q = &q[token * n_head * head_dim..][..n_head * head_dim];
                let [k, v] = [&k, &v].map(|cells| reference::CellHeads {
                    cells,
                    width,
                    step: head_dim,
                    len: head_dim,
                });
                reference::attention(q, cells, k, v, heads, sinks, &mut out).unwrap();
                want.extend(out);
                token += 1;
            }
        }
        let tokens = sequences
            .iter()
            .enumerate()
            .flat_map(|(s, (first, n))| (*first..first + n).map(move |position| (s as u32, position as u32)));
        let tiles = attention_tiles(tokens, head_pad);
        let (k, v) = (k_cells, v_cells);
        Case {
            q,
            k,
            v,
            table,
            table_stride,
            n_blocks,
            head_pad,
            tiles,
            lasts: sequences.iter().flat_map(|(first, n)| vec![(first + n - 1) as u32; *n]).collect(),
            scores: Scores { cap, alibi, window, ..Scores::scaled(scale) },
            want,
        }
    }

    fn run(&self, gpu: &Gpu, case: &Case) -> Vec<f32> {
        let Attention { n_head, n_head_kv, head_dim, .. } = *self;
        let inputs = [gpu.input(&case.k), gpu.input(&case.v)];
        let (q, table) = (gpu.input(&case.q), gpu.input(&case.table));
        let on_card = gpu.input(&case.tiles.concat());
        let out = gpu.output::<f32>(case.q.len());
        let sinks = self.sinks.map(|sinks| gpu.input(sinks));
        let lasts = gpu.input(&case.lasts);
        let lasts = (!self.causal).then(|| lasts.span());
        let scores = Scores { sinks: sinks.as_ref().map(Input::span), lasts, ..case.scores };
        let cache = LayerCache {
            k: inputs[0].span(),
            v: inputs[1].span(),
            n_head_kv,
            head_dim,
            value_dim: head_dim,
            head_pad: case.head_pad,
            n_blocks: case.n_blocks,
        };
        let tiles = Tiles {
            tiles: on_card.span(),
            n_tiles: case.tiles.len(),
            table: table.span(),
            n_tables: self.sequences.len(),
            table_stride: case.table_stride,
        };
        prefill_attention(&gpu.stream, self.n(), n_head, q.span(), tiles, cache, scores, out.span()).unwrap();
        gpu.read(&out)
    }

    fn check(&self, gpu: &Gpu, q_size: f32, v_size: f32) {
        let case = self.case(&mut Rng(8), q_size, v_size);
        let error = nmse(&case.want, &self.run(gpu, &case));
        let Attention { n_head, n_head_kv, head_dim, sequences, cap, alibi, window, causal, sinks } = self;
        assert!(
            error <= ATTENTION,
            "{n_head} / {n_head_kv} heads of {head_dim}, {sequences:?}, q to {q_size}, cap {cap}, alibi {alibi}, \
             window {window:?}, causal {causal}, sinks {sinks:?}: NMSE {error:.1e}"
        );
    }
}

fn rounded_to_f16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| f16::from_f32(*x).to_f32()).collect()
}

fn attention_of_one_sequence(gpu: &Gpu) {
    for (first, n) in [(0, 1), (0, 9), (0, 64), (0, 65), (63, 2), (5, 130)] {
        Attention { n_head: 2, n_head_kv: 2, head_dim: 16, sequences: &[(first, n)], ..Attention::PLAIN }
            .check(gpu, 3.0, 1.0);
        Attention { n_head: 1, n_head_kv: 1, head_dim: 64, sequences: &[(first, n)], ..Attention::PLAIN }
            .check(gpu, 3.0, 1.0);
    }
    if gpu.is_fast() {
        for head_dim in [64, 128] {
            Attention {
                n_head: 8,
                n_head_kv: 2,
                head_dim,
                sequences: &[(0, 512), (300, 200)],
                ..Attention::PLAIN
            }
            .check(gpu, 3.0, 1.0);
        }
    }
}

fn attention_of_grouped_heads(gpu: &Gpu) {
    for (n_head, n_head_kv) in [(3, 1), (14, 2), (8, 1), (4, 4)] {
        let sequences = &[(0, 33), (100, 9), (62, 5)];
        Attention { n_head, n_head_kv, head_dim: 64, sequences, ..Attention::PLAIN }.check(gpu, 3.0, 1.0);
    }
}

fn attention_of_odd_heads(gpu: &Gpu) {
    for head_dim in [1, 33, 80, 126, 128] {
        Attention { n_head: 2, n_head_kv: 1, head_dim, sequences: &[(0, 40), (90, 9)], ..Attention::PLAIN }
            .check(gpu, 3.0, 1.0);
    }
}

fn attention_of_wide_heads(gpu: &Gpu) {
    for head_dim in [200, 256, 300, 512] {
        Attention { n_head: 2, n_head_kv: 1, head_dim, sequences: &[(0, 40), (70, 9)], ..Attention::PLAIN }
            .check(gpu, 3.0, 1.0);
    }
}

fn attention_at_a_depth(gpu: &Gpu) {
    let depth = gpu.pick(32_000, 1000);
    for head_dim in [64, 128] {
        Attention {
            n_head: 2,
            n_head_kv: 1,
            head_dim,
            sequences: &[(depth, 20), (0, 9)],
            ..Attention::PLAIN
        }
        .check(gpu, 3.0, 1.0);
    }
}

/// Scores that leave one key alone, queries and values far from 1, a query that is not finite.
fn attention_of_large_and_odd_values(gpu: &Gpu) {
    for head_dim in [64, 128] {
        let attention =
            Attention { n_head: 2, n_head_kv: 1, head_dim, sequences: &[(20, 70)], ..Attention::PLAIN };
        for (q_size, v_size) in [(60.0, 1.0), (1e-6, 1.0), (3.0, 6e4), (0.0, 1.0)] {
            attention.check(gpu, q_size, v_size);
        }
        let mut case = attention.case(&mut Rng(9), 3.0, 1.0);
        let row = 2 * head_dim;
        // the second head of token 37
        case.q[37 * row + head_dim + 5] = f32::INFINITY;
        let got = attention.run(gpu, &case);
        let (before, rest) = got.split_at(37 * row + head_dim);
        let (spoilt, behind) = rest.split_at(head_dim);
        assert!(spoilt.iter().all(|x| x.is_nan()), "{spoilt:?}");
        let rest = [before, behind].concat();
        let want = [&case.want[..before.len()], &case.want[before.len() + head_dim..]].concat();
        let error = nmse(&want, &rest);
        assert!(error <= ATTENTION, "beside a query that is not finite: NMSE {error:.1e}");
    }
}

/// Windows that begin anywhere in a step of keys, for whole tiles and for tokens of one; tokens that see none of a step's
/// keys.
fn attention_of_windows(gpu: &Gpu) {
    for head_dim in [64, 128, 256, 512] {
        let sliding = [1, 20, 32, 63, 64, 70, 200].map(Window::Sliding);
        for window in sliding.into_iter().chain([1, 20, 64, 75, 152, 1000].map(Window::Chunks)) {
            let sequences = &[(0, 70), (150, 66), (90, 1)];
            let window = Some(window);
            Attention { n_head: 2, head_dim, sequences, window, ..Attention::PLAIN }.check(gpu, 3.0, 1.0);
        }
    }
}

fn attention_with_caps(gpu: &Gpu) {
    for head_dim in [64, 256] {
        for (cap, q_size) in [(50.0, 3.0), (5.0, 30.0), (0.5, 3.0)] {
            for window in [None, Some(Window::Sliding(40))] {
                let sequences = &[(0, 70), (150, 9)];
                Attention { n_head: 2, head_dim, sequences, cap, window, ..Attention::PLAIN }
                    .check(gpu, q_size, 1.0);
            }
        }
    }
}

/// Scores that fall with the distance: powers of two of heads and others, with caps and windows.
fn attention_by_distance(gpu: &Gpu) {
    for (n_head, head_dim) in [(1, 64), (6, 40), (3, 128), (2, 512)] {
        for (alibi, cap, window) in [(8.0, 0.0, None), (1.0, 5.0, Some(Window::Sliding(40)))] {
            let sequences = &[(0, 70), (150, 9)];
            Attention { n_head, head_dim, sequences, cap, alibi, window, ..Attention::PLAIN }
                .check(gpu, 3.0, 1.0);
        }
    }
}

/// Tokens that see what stands behind them, in tiles behind theirs too.
fn attention_to_later_positions(gpu: &Gpu) {
    for head_dim in [16, 64, 128, 256, 512] {
        for (alibi, window) in
            [(0.0, None), (2.0, None), (0.0, Some(Window::Sliding(40))), (1.0, Some(Window::Sliding(1)))]
        {
            let sequences = &[(0, 150), (30, 9), (63, 1)];
            Attention { n_head: 2, head_dim, sequences, alibi, window, causal: false, ..Attention::PLAIN }
                .check(gpu, 3.0, 1.0);
        }
    }
}

/// Sinks far below the scores, among them, far above, and none at all.
fn attention_with_sinks(gpu: &Gpu) {
    for head_dim in [64, 512] {
        for (cap, window) in [(0.0, None), (5.0, Some(Window::Chunks(40)))] {
            let sequences = &[(0, 70), (150, 9)];
            let sinks: &[f32] = &[1.0, -300.0, 7.0, f32::NEG_INFINITY];
            let sinks = Some(sinks);
            Attention { n_head: 4, head_dim, sequences, cap, window, sinks, ..Attention::PLAIN }
                .check(gpu, 3.0, 1.0);
        }
    }
}

fn shapes_beyond_a_buffer_are_refused(gpu: &Gpu) {
    let buffer: Buffer = gpu.pool.alloc(4096, "a test's buffer").unwrap();
    let (all, s) = (buffer.span(), &gpu.stream);
    let part = all.part(0..1024).unwrap();
    let odd = all.part(4..4096).unwrap();
    let weight = load(gpu, Q8_0, 2, 64, &random_tensor(&mut Rng(7), Q8_0, 128, 1.0));
    let (rows, silu) = (HalfRows { h: all, scale: all }, Binary::Glu(Unary::Silu));
    let (plain, bias) = (Addends::default(), Addends { bias: Some(all.part(0..4).unwrap()), dst: false });
    let refused = [
        ops::half_rows(s, part, rows, 2, 200),
        ops::half_rows(s, odd, rows, 1, 64),
        ops::half_rows(s, all, HalfRows { h: part, scale: all }, 1, 520),
        ops::half_rows(s, all, HalfRows { h: odd, scale: all }, 1, 64),
        ops::half_rows(s, all, HalfRows { h: all, scale: all.part(0..8).unwrap() }, 3, 64),
        ops::half_rows(s, all, rows, 1, usize::MAX),
        ops::rms_norm_half(s, all, part, rows, 1, 512, 1e-5),
        ops::rms_norm_half(s, part, all, rows, 1, 512, 1e-5),
        ops::glu_half(s, silu, all, part, rows, 1, 512),
        ops::glu_half(s, silu, part, all, rows, 1, 512),
        ops::matmul(s, &weight, rows, plain, part, 129),
        ops::matmul(s, &weight, HalfRows { h: part, scale: all }, plain, all, 9),
        ops::matmul(s, &weight, HalfRows { h: all, scale: all.part(0..32).unwrap() }, plain, all, 9),
        ops::matmul(s, &weight, rows, bias, all, 9),
        ops::matmul(s, &weight, rows, plain, all, usize::MAX),
    ];
    let tiles = Tiles { tiles: all, n_tiles: 1, table: all, n_tables: 1, table_stride: 1 };
    let cache =
        LayerCache { k: all, v: all, n_head_kv: 1, head_dim: 16, value_dim: 16, head_pad: 32, n_blocks: 1 };
    let scores = Scores::scaled(1.0);
    let attend = |n, q, tiles, cache, out| prefill_attention(s, n, 1, q, tiles, cache, scores, out);
    let refused = refused.into_iter().chain([
        attend(65, all, tiles, cache, all),
        attend(9, odd, tiles, cache, all),
        attend(17, all, tiles, cache, part),
        attend(9, all, Tiles { n_tiles: 257, ..tiles }, cache, all),
        attend(9, all, Tiles { tiles: odd, ..tiles }, cache, all),
        attend(9, all, Tiles { table_stride: 1025, ..tiles }, cache, all),
        attend(9, all, tiles, LayerCache { n_blocks: 2, ..cache }, all),
        attend(9, all, tiles, LayerCache { n_head_kv: 2, ..cache }, all),
    ]);
    for (i, result) in refused.enumerate() {
        assert!(matches!(result, Err(Error::Param(_))), "case {i}: {result:?}");
    }
    s.synchronize().unwrap();
}
