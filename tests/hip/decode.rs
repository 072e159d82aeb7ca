//! Operations of a step of few tokens, with what is fused in them, against their definitions: on every emulated card, or
//! on a real GPU with ROCMFORGE_TEST_GPU=1.
//!
//! Oracles: `device::reference` and `gguf::dequant`, fed with the 8-bit activations and f16 cells that the kernels read.
//! Bounds on NMSE: 1e-10 for f32 ops, 1e-6 for products and attention; results rounded to 8 bits are those of the plain
//! ones, bit for bit.

use crate::common;

use common::gpu::{Gpu, Input as Buffer, Output, Test, nmse};
use common::operands::{Rounded, bits, floats, load, products};
use common::tiny_model::{Rng, random_tensor};
use half::f16;
use rocmforge::Error;
use rocmforge::device::BLOCK_LEN;
use rocmforge::device::hip::memory::Span;
use rocmforge::device::hip::ops::attend::{self, AttendScratch, AttendShape, Chosen, HeadNorms, Scores};
use rocmforge::device::hip::ops::norm::{Norm, norm_to};
use rocmforge::device::hip::ops::project::{
    self, Dest, Input, LayerCache, Product, Tokens, Turns, head_pad, wants_rounded,
};
use rocmforge::device::hip::ops::{self, Quantized};
use rocmforge::device::hip::weight::Weight;
use rocmforge::device::reference::ops as reference;
use rocmforge::gguf::TensorType;
use rocmforge::plan::{self, Binary, NormKind, Rope, RopePairs, Unary, Window};

use TensorType::*;

pub const TESTS: &[Test] = &[
    Test::new("norms", norms),
    Test::new("matvec_of_several", matvec_of_several),
    Test::new("qkv_types", qkv_types),
    Test::new("qkv_shapes", qkv_shapes),
    Test::new("glu_types", glu_types),
    Test::new("glu_shapes", glu_shapes),
    Test::new("prepare_heads", prepare_heads),
    Test::new("attend_16", |gpu| attend(gpu, 16)),
    Test::new("attend_64", |gpu| attend(gpu, 64)),
    Test::new("attend_80", |gpu| attend(gpu, 80)),
    Test::new("attend_128", |gpu| attend(gpu, 128)),
    Test::new("attend_256", |gpu| attend(gpu, 256)),
    Test::new("attend_512", |gpu| attend(gpu, 512)),
    Test::new("attend_odd_heads", attend_odd_heads),
    Test::new("attend_sharp", attend_sharp),
    Test::new("attend_windows", attend_windows),
    Test::new("attend_caps", attend_caps),
    Test::new("attend_sinks", attend_sinks),
    Test::new("attend_by_distance", attend_by_distance),
    Test::new("attend_to_later_positions", attend_to_later_positions),
    Test::new("shapes_beyond_a_buffer_are_refused", shapes_beyond_a_buffer_are_refused),
];

fn put(gpu: &Gpu, output: &Output, values: &[f32]) {
    gpu.write(output.span(), &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
}

/// Both, one or the other form of a result of n x cols.
struct Dests {
    plain: Option<Output>,
    rounded: Option<Rounded>,
}

impl Dests {
    fn new(gpu: &Gpu, n: usize, cols: usize, plain: bool, rounded: bool) -> Self {
        Dests {
            plain: plain.then(|| gpu.output::<f32>(n * cols)),
            rounded: rounded.then(|| Rounded::room(gpu, n, cols)),
        }
    }

    fn dest(&self) -> Dest<'_> {
        Dest {
            plain: self.plain.as_ref().map(Output::span),
            rounded: self.rounded.as_ref().map(Rounded::planes),
        }
    }

    /// Runs `op` with each choice of targets; the plain result, of which the rounded ones are the rounding.
    fn run(gpu: &Gpu, n: usize, cols: usize, what: &str, op: impl Fn(Dest<'_>)) -> Vec<f32> {
        let both = Dests::new(gpu, n, cols, true, true);
        op(both.dest());
        let got = gpu.read::<f32>(both.plain.as_ref().unwrap());
        both.rounded.as_ref().unwrap().is_of(gpu, &got, &format!("{what}, both"));
        let plain = Dests::new(gpu, n, cols, true, false);
        op(plain.dest());
        let alone = gpu.read::<f32>(plain.plain.as_ref().unwrap());
        assert!(bits(&got) == bits(&alone), "{what}: the plain result is another alone");
        let rounded = Dests::new(gpu, n, cols, false, true);
        op(rounded.dest());
        rounded.rounded.as_ref().unwrap().is_of(gpu, &got, &format!("{what}, rounded alone"));
        got
    }
}

/// Kinds of norms, with a weight, with a bias.
const NORMS: [(NormKind, bool, bool); 5] = [
    (NormKind::Rms, true, false),
    (NormKind::Rms, false, false),
    (NormKind::Rms, true, true),
    (NormKind::Layer, true, true),
    (NormKind::Layer, false, false),
];

fn norms(gpu: &Gpu) {
    for width in [32, 576, 896, 1056, 2048, 2080, 4096, 8224] {
        for rows in [None, Some([3u32, 0, 3])] {
            for (size, eps) in [(3.0, 1e-5), (1e-3, 1e-6)] {
                for (kind, weighted, biased) in NORMS {
                    norm_case(gpu, width, rows, (size, eps), kind, [weighted, biased]);
                }
            }
        }
    }
    // what is not finite spoils its own row alone
    let (n, width) = (3, 896);
    let mut x = floats(&mut Rng(32), n * width, 1.0);
    x[width + 40] = f32::NAN;
    let weight = vec![1.0; width];
    let (input, factors) = (gpu.input(&x), gpu.input(&weight));
    for kind in [NormKind::Rms, NormKind::Layer] {
        let norm = Norm { kind, weight: Some(factors.span()), bias: None, eps: 1e-5 };
        let got = Dests::run(gpu, n, width, "with a NaN", |to| {
            norm_to(&gpu.stream, norm, input.span(), None, to, n, width).unwrap();
        });
        for (row, got) in got.chunks_exact(width).enumerate() {
            assert!(got.iter().all(|x| x.is_nan() == (row == 1)), "row {row}");
        }
    }
}

fn norm_case(
    gpu: &Gpu,
    width: usize,
    rows: Option<[u32; 3]>,
    (size, eps): (f32, f32),
    kind: NormKind,
    with: [bool; 2],
) {
    let (n, n_x) = (3, 4);
    let mut rng = Rng(31);
    // a mean that is not small beside what it is subtracted from
    let x: Vec<f32> = floats(&mut rng, n_x * width, size).iter().map(|x| x + 0.4 * size).collect();
    let vectors = with.map(|with| with.then(|| floats(&mut rng, width, 2.0)));
    let [weight, bias] = vectors.each_ref().map(Option::as_deref);
    let input = gpu.input(&x);
    let on_card = [weight, bias].map(|vector| vector.map(|vector| gpu.input(vector)));
    let chosen = rows.map(|rows| gpu.input(&rows));
    let what = format!("{kind:?}, weight and bias {with:?}, {width} wide, rows {rows:?}, to {size}");
    let got = Dests::run(gpu, n, width, &what, |to| {
        let rows = chosen.as_ref().map(Buffer::span);
        let [weight, bias] = on_card.each_ref().map(|vector| vector.as_ref().map(Buffer::span));
        norm_to(&gpu.stream, Norm { kind, weight, bias, eps }, input.span(), rows, to, n, width).unwrap();
    });
    let rows = rows.unwrap_or([0, 1, 2]);
    let x: Vec<f32> = rows.iter().flat_map(|r| &x[*r as usize * width..][..width]).copied().collect();
    let mut want = vec![0.0; n * width];
    reference::norm(&x, kind, eps, width, [weight, bias], &mut want);
    let error = nmse(&want, &got);
    assert!(error <= 1e-10, "{what}: NMSE {error:.1e}");
    let [weight, bias] = on_card.each_ref().map(|vector| vector.as_ref().map(Buffer::span));
    let (from, in_place) = (gpu.input(&x), gpu.output::<f32>(n * width));
    gpu.stream.copy(from.span(), in_place.span()).unwrap();
    let to = Dest { plain: Some(in_place.span()), rounded: None };
    norm_to(&gpu.stream, Norm { kind, weight, bias, eps }, in_place.span(), None, to, n, width).unwrap();
    assert!(gpu.read::<f32>(&in_place) == got, "{what}: in place");
}

/// A weight with what it is made of.
struct Matrix {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    weight: Weight,
    bias: Option<(Vec<f32>, Buffer)>,
}

impl Matrix {
    fn new(gpu: &Gpu, rng: &mut Rng, ty: TensorType, rows: usize, cols: usize, with_bias: bool) -> Self {
        let bytes = random_tensor(rng, ty, rows * cols, 1.0 / (cols as f32).sqrt());
        let weight = load(gpu, ty, rows, cols, &bytes);
        let bias = with_bias.then(|| floats(rng, rows, 0.5)).map(|bias| {
            let on_card = gpu.input(&bias);
            (bias, on_card)
        });
        Matrix { ty, rows, cols, bytes, weight, bias }
    }

    fn bias(&self) -> Option<Span<'_>> {
        self.bias.as_ref().map(|(_, on_card)| on_card.span())
    }

    fn product<'a>(&'a self, dst: Span<'a>) -> Product<'a> {
        Product { weight: &self.weight, bias: self.bias(), dst }
    }

    /// By the definition, of `x` as the kernels read it.
    fn times(&self, x: &[f32]) -> Vec<f32> {
        let bias = self.bias.as_ref().map(|(bias, _)| &bias[..]);
        products(self.ty, &self.bytes, x, bias, self.rows, self.cols)
    }
}

/// n rows of activations as weights of a type want them.
struct Activations {
    plain: Buffer,
    rounded: Option<Rounded>,
    /// As the kernels read them.
    values: Vec<f32>,
}

impl Activations {
    fn new(gpu: &Gpu, rng: &mut Rng, ty: TensorType, n: usize, cols: usize) -> Self {
        let x = floats(rng, n * cols, 1.0);
        let plain = gpu.input(&x);
        let rounded = wants_rounded(ty).then(|| Rounded::new(gpu, &x, n, cols));
        let values = rounded.as_ref().map_or(x, |rounded| rounded.values(gpu));
        Activations { plain, rounded, values }
    }

    fn input(&self) -> Input<'_> {
        self.rounded.as_ref().map_or_else(|| Input::Plain(self.plain.span()), Rounded::input)
    }
}

fn matvec_of_several(gpu: &Gpu) {
    for ty in [F32, BF16, Q4_0, Q5_1, Q8_0, Q2_K, Q4_K, Q6_K] {
        // the second one: rows that teams share
        for cols in [512, 2304] {
            for rows in [&[67, 1][..], &[1, 5, 34], &[8, 8, 8], &[3, 130, 1]] {
                let mut rng = Rng(33);
                let matrices: Vec<Matrix> = rows
                    .iter()
                    .enumerate()
                    .map(|(i, rows)| Matrix::new(gpu, &mut rng, ty, *rows, cols, i % 2 == 1))
                    .collect();
                let x = Activations::new(gpu, &mut rng, ty, 8, cols);
                for n in [1, 2, 3, 8] {
                    for add in [false, true] {
                        let before: Vec<Vec<f32>> =
                            rows.iter().map(|rows| floats(&mut rng, n * rows, 1.0)).collect();
                        let outputs: Vec<Output> =
                            rows.iter().map(|rows| gpu.output::<f32>(n * rows)).collect();
                        if add {
                            outputs.iter().zip(&before).for_each(|(output, before)| put(gpu, output, before));
                        }
                        let products: Vec<Product<'_>> =
                            matrices.iter().zip(&outputs).map(|(m, to)| m.product(to.span())).collect();
                        project::matvec(&gpu.stream, &products, x.input(), n, add).unwrap();
                        for ((matrix, output), before) in matrices.iter().zip(&outputs).zip(&before) {
                            let mut want = matrix.times(&x.values[..n * cols]);
                            if add {
                                want.iter_mut().zip(before).for_each(|(want, before)| *want += before);
                            }
                            let error = nmse(&want, &gpu.read(output));
                            assert!(
                                error <= 1e-6,
                                "{ty} {} of {rows:?} x {cols}, {n} tokens, add {add}: NMSE {error:.1e}",
                                matrix.rows
                            );
                        }
                    }
                }
            }
        }
    }
}

/// A rotation, and its table for `n_positions`.
fn rotation(gpu: &Gpu, pairs: RopePairs, n_rot: usize, n_positions: usize) -> (Rope, Buffer) {
    let inv_freq: Vec<f32> = (0..n_rot / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / n_rot as f32)).collect();
    let rope = Rope { pairs, inv_freq: inv_freq.into(), magnitude: 1.25, long: None };
    let mut table = Vec::new();
    for position in 0..n_positions {
        for freq in rope.inv_freq.iter() {
            let (sin, cos) = (position as f64 * f64::from(*freq)).sin_cos();
            table.extend([cos as f32 * rope.magnitude, sin as f32 * rope.magnitude]);
        }
    }
    (rope, gpu.input(&table))
}

/// A layer's cache of keys and values, each cell poisoned until it is written.
struct Cache {
    k: Output,
    v: Output,
    n_blocks: usize,
    n_head_kv: usize,
    head_dim: usize,
    head_pad: usize,
}

const POISON: u16 = 0xffff;

/// A position's keys and values of all kv heads, where they are wanted.
struct Cell<'a> {
    block: u32,
    position: u32,
    values: [Option<&'a [f32]>; 2],
}

impl Cache {
    fn new(gpu: &Gpu, n_blocks: usize, n_head_kv: usize, head_dim: usize) -> Self {
        let head_pad = head_pad(head_dim).unwrap();
        let len = n_blocks * n_head_kv * BLOCK_LEN * head_pad;
        Cache {
            k: gpu.output::<u16>(len),
            v: gpu.output::<u16>(len),
            n_blocks,
            n_head_kv,
            head_dim,
            head_pad,
        }
    }

    fn layer(&self) -> LayerCache<'_> {
        LayerCache {
            k: self.k.span(),
            v: self.v.span(),
            n_head_kv: self.n_head_kv,
            head_dim: self.head_dim,
            value_dim: self.head_dim,
            head_pad: self.head_pad,
            n_blocks: self.n_blocks,
        }
    }

    /// Where the cell of a position in its block begins.
    fn cell(&self, block: u32, head: usize, position: u32) -> usize {
        let slot = position as usize % BLOCK_LEN;
        ((block as usize * self.n_head_kv + head) * BLOCK_LEN + slot) * self.head_pad
    }

    /// The cells hold what is wanted within an f16's rounding, and `pad` in their pads; all others, and what is not
    /// wanted, are as they were.
    fn holds(&self, gpu: &Gpu, cells: &[Cell<'_>], pad: u16, what: &str) {
        for (name, output, pick) in [("k", &self.k, 0), ("v", &self.v, 1)] {
            let mut got = gpu.read::<u16>(output);
            for Cell { block, position, values } in cells {
                let Some(want) = values[pick] else { continue };
                let mut held = Vec::new();
                for head in 0..self.n_head_kv {
                    let cell = &mut got[self.cell(*block, head, *position)..][..self.head_pad];
                    held.extend(cell[..self.head_dim].iter().map(|bits| f16::from_bits(*bits).to_f32()));
                    assert!(
                        cell[self.head_dim..].iter().all(|bits| *bits == pad),
                        "{what}: the pad of {name}'s cell at {position}, head {head}"
                    );
                    cell.fill(POISON);
                }
                for (i, (want, got)) in want.iter().zip(&held).enumerate() {
                    // half a unit of an f16's last place, and f32's error before
                    let bound = want.abs() * 2f32.powi(-11) * 1.01 + 1e-5;
                    assert!(
                        (want - got).abs() <= bound,
                        "{what}: {name} at {position}, element {i}: {got}, not {want}"
                    );
                }
            }
            let touched = got.iter().position(|bits| *bits != POISON);
            assert_eq!(touched, None, "{what}: another cell of {name} was written");
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct QkvCase {
    ty: TensorType,
    cols: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_rot: usize,
    pairs: RopePairs,
    bias: bool,
    position: u32,
    /// Of q, k and v those that are of the launch's type.
    present: [bool; 3],
}

fn qkv(gpu: &Gpu, case: QkvCase) {
    let QkvCase { ty, cols, n_head, n_head_kv, head_dim, n_rot, pairs, bias, position, present } = case;
    let mut rng = Rng(34);
    let what = format!("{case:?}");
    let cache = Cache::new(gpu, 5, n_head_kv, head_dim);
    // the second of two sequences
    let tables = [[0u32, 1, 2, 3, 4], [3, 0, 4, 1, 2]];
    let blocks = tables[1];
    let (rope, turns) = rotation(gpu, pairs, n_rot, blocks.len() * BLOCK_LEN);
    let matrices = [n_head, n_head_kv, n_head_kv]
        .map(|heads| Matrix::new(gpu, &mut rng, ty, heads * head_dim, cols, bias));
    let x = Activations::new(gpu, &mut rng, ty, 1, cols);
    let q = gpu.output::<f32>(n_head * head_dim);
    // no kernel writes these
    let unused = [0; 2].map(|_| gpu.output::<f32>(n_head_kv * head_dim));
    let outputs = [&q, &unused[0], &unused[1]];
    let products = std::array::from_fn(|i| present[i].then(|| matrices[i].product(outputs[i].span())));
    let [positions, sequences, table] = [&[position][..], &[1], tables.as_flattened()].map(|x| gpu.input(x));
    let tokens = Tokens {
        n: 1,
        positions: positions.span(),
        sequences: sequences.span(),
        table: table.span(),
        n_tables: 2,
        table_stride: blocks.len(),
    };
    let turns = Turns { table: turns.span(), n_rot, halves: pairs == RopePairs::Halves };
    project::qkv(&gpu.stream, products, x.input(), turns, tokens, cache.layer()).unwrap();

    let [mut want_q, mut want_k, want_v] = [0, 1, 2].map(|i| matrices[i].times(&x.values));
    reference::rope(&mut want_q, head_dim, 0, rope.pairs, (&rope.inv_freq, rope.magnitude), position)
        .unwrap();
    reference::rope(&mut want_k, head_dim, 0, rope.pairs, (&rope.inv_freq, rope.magnitude), position)
        .unwrap();
    let untouched = |output| gpu.read::<u32>(output).iter().all(|bits| *bits == u32::MAX);
    if present[0] {
        let error = nmse(&want_q, &gpu.read(&q));
        assert!(error <= 1e-6, "{what}: NMSE {error:.1e}");
    } else {
        assert!(untouched(&q), "{what}: q");
    }
    let block = blocks[position as usize / BLOCK_LEN];
    let values = [present[1].then_some(&want_k[..]), present[2].then_some(&want_v[..])];
    cache.holds(gpu, &[Cell { block, position, values }], POISON, &what);
    assert!(unused.iter().all(untouched), "{what}: k and v apart");
}

const QKV: QkvCase = QkvCase {
    ty: Q8_0,
    cols: 256,
    n_head: 4,
    n_head_kv: 2,
    head_dim: 64,
    n_rot: 64,
    pairs: RopePairs::Halves,
    bias: true,
    position: 145,
    present: [true; 3],
};

fn qkv_types(gpu: &Gpu) {
    for ty in TensorType::supported() {
        qkv(gpu, QkvCase { ty, ..QKV });
        qkv(gpu, QkvCase { ty, cols: 1280, n_head: 3, n_head_kv: 1, bias: false, ..QKV });
    }
    qkv(gpu, QkvCase { ty: F16, cols: 252, pairs: RopePairs::Consecutive, ..QKV });
    // as in files of mixed types
    for bits in 1..7 {
        qkv(gpu, QkvCase { ty: Q6_K, present: [0, 1, 2].map(|i| bits >> i & 1 == 1), ..QKV });
    }
}

fn qkv_shapes(gpu: &Gpu) {
    for ty in [Q8_0, BF16] {
        for pairs in [RopePairs::Consecutive, RopePairs::Halves] {
            for (head_dim, n_rot) in
                [(64, 64), (64, 32), (64, 0), (128, 128), (80, 80), (80, 20), (16, 16), (2, 2)]
            {
                for position in [0, 63, 64, 319] {
                    qkv(gpu, QkvCase { ty, head_dim, n_rot, pairs, position, ..QKV });
                }
            }
            // one kv head, as many as heads; rows that 2 and 4 teams share
            for (n_head, n_head_kv, cols) in [(7, 1, 256), (3, 3, 1056), (14, 2, 896), (5, 5, 2080)] {
                qkv(gpu, QkvCase { ty, n_head, n_head_kv, cols, pairs, ..QKV });
            }
        }
    }
}

/// The plain result, or with what it rounds to where rows are whole blocks.
fn glu(gpu: &Gpu, ty: TensorType, f: Unary, rows: usize, cols: usize, biases: [bool; 2], size: f32) {
    let mut rng = Rng(35);
    let what = format!("{ty} {f:?} {rows} x {cols}, biases {biases:?}, to {size}");
    let [mut gate, up] = biases.map(|bias| Matrix::new(gpu, &mut rng, ty, rows, cols, bias));
    if size != 1.0 {
        gate.bias = Some({
            let bias = floats(&mut rng, rows, size);
            let on_card = gpu.input(&bias);
            (bias, on_card)
        });
    }
    let x = Activations::new(gpu, &mut rng, ty, 1, cols);
    let output = gpu.output::<f32>(rows);
    let unused = gpu.output::<f32>(rows);
    let products = [&gate, &up].map(|matrix| matrix.product(unused.span()));
    project::glu_matvec(&gpu.stream, f, &products[0], &products[1], x.input(), output.span()).unwrap();
    let got = gpu.read::<f32>(&output);
    let both = gate.times(&x.values).into_iter().zip(up.times(&x.values));
    let want: Vec<f32> = both.map(|(gate, up)| reference::binary(Binary::Glu(f), gate, up)).collect();
    let error = nmse(&want, &got);
    assert!(error <= 1e-6, "{what}: NMSE {error:.1e}");
}

fn glu_types(gpu: &Gpu) {
    for ty in TensorType::supported() {
        glu(gpu, ty, Unary::Silu, 96, 512, [false; 2], 1.0);
        glu(gpu, ty, Unary::Gelu, 64, 1280, [true, false], 1.0);
    }
}

fn glu_shapes(gpu: &Gpu) {
    for ty in [Q8_0, F16] {
        for f in [Unary::Silu, Unary::Gelu] {
            for rows in [1, 31, 32, 33, 70, 160] {
                for (cols, biases) in [(32, [true; 2]), (96, [false, true]), (2336, [false; 2])] {
                    glu(gpu, ty, f, rows, cols, biases, 1.0);
                }
            }
            // where e^x ends
            glu(gpu, ty, f, 256, 64, [true; 2], 120.0);
        }
    }
}

/// Tokens of three sequences whose blocks are strewn over a cache.
struct Placed {
    sequences: Vec<u32>,
    positions: Vec<u32>,
    blocks: Vec<u32>,
    stride: usize,
    on_card: [Buffer; 3],
}

const N_SEQUENCES: usize = 3;

impl Placed {
    /// `stride` blocks a sequence.
    fn new(gpu: &Gpu, rng: &mut Rng, tokens: &[(u32, u32)], stride: usize) -> Self {
        let mut blocks: Vec<u32> = (0..(N_SEQUENCES * stride) as u32).collect();
        for i in (1..blocks.len()).rev() {
            blocks.swap(i, rng.below(i + 1));
        }
        let (sequences, positions): (Vec<u32>, Vec<u32>) = tokens.iter().copied().unzip();
        let on_card = [gpu.input(&positions), gpu.input(&sequences), gpu.input(&blocks)];
        Placed { sequences, positions, blocks, stride, on_card }
    }

    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, sequence: u32, position: u32) -> u32 {
        self.blocks[sequence as usize * self.stride + position as usize / BLOCK_LEN]
    }

    fn tokens(&self) -> Tokens<'_> {
        let [positions, sequences, table] = self.on_card.each_ref().map(Buffer::span);
        Tokens {
            n: self.positions.len(),
            positions,
            sequences,
            table,
            n_tables: N_SEQUENCES,
            table_stride: self.stride,
        }
    }
}

fn prepare_heads(gpu: &Gpu) {
    let tokens = [(1, 0), (0, 63), (2, 64), (2, 65), (0, 191), (1, 100)];
    let rotations = [None, Some(RopePairs::Consecutive), Some(RopePairs::Halves)];
    let heads = [(2, 2, 16), (4, 2, 64), (3, 1, 80), (8, 1, 128), (2, 1, 256), (1, 1, 512), (2, 1, 33)];
    for (n_head, n_head_kv, head_dim) in heads {
        for (pairs, [norm_q, norm_k], share) in rotations
            .into_iter()
            .flat_map(|pairs| [(pairs, [true; 2], 1), (pairs, [false; 2], 2), (pairs, [false, true], 1)])
        {
            let what = format!("{n_head}/{n_head_kv} x {head_dim}, {pairs:?}, norms {norm_q} {norm_k}");
            let mut rng = Rng(36);
            let (n, eps) = (tokens.len(), 1e-5);
            let placed = Placed::new(gpu, &mut rng, &tokens, 3);
            let cache = Cache::new(gpu, placed.n_blocks(), n_head_kv, head_dim);
            let n_rot = head_dim / share / 2 * 2;
            let (rope, table) =
                rotation(gpu, pairs.unwrap_or(RopePairs::Halves), n_rot, cache.n_blocks * BLOCK_LEN);
            let turns =
                pairs.map(|pairs| Turns { table: table.span(), n_rot, halves: pairs == RopePairs::Halves });
            let mut rows =
                [n_head, n_head_kv, n_head_kv].map(|heads| floats(&mut rng, n * heads * head_dim, 2.0));
            let weights = [0; 2].map(|_| floats(&mut rng, head_dim, 2.0));
            let on_card = weights.each_ref().map(|weight| gpu.input(weight));
            let norms =
                HeadNorms { q: norm_q.then(|| on_card[0].span()), k: norm_k.then(|| on_card[1].span()), eps };
            let q = gpu.output::<f32>(rows[0].len());
            put(gpu, &q, &rows[0]);
            let (k, v) = (gpu.input(&rows[1]), gpu.input(&rows[2]));
            attend::prepare_heads(
                &gpu.stream,
                n_head,
                q.span(),
                k.span(),
                Some(v.span()),
                norms,
                turns,
                placed.tokens(),
                cache.layer(),
            )
            .unwrap();

            for (i, has_norm) in [norm_q, norm_k].into_iter().enumerate() {
                if has_norm {
                    let plain = rows[i].clone();
                    reference::norm(
                        &plain,
                        NormKind::Rms,
                        eps,
                        head_dim,
                        [Some(&weights[i]), None],
                        &mut rows[i],
                    );
                }
                if pairs.is_some() {
                    let width = rows[i].len() / n;
                    for (row, position) in rows[i].chunks_exact_mut(width).zip(&placed.positions) {
                        reference::rope(
                            row,
                            head_dim,
                            0,
                            rope.pairs,
                            (&rope.inv_freq, rope.magnitude),
                            *position,
                        )
                        .unwrap();
                    }
                }
            }
            let [want_q, want_k, want_v] = rows;
            let error = nmse(&want_q, &gpu.read(&q));
            assert!(error <= 1e-10, "{what}: NMSE {error:.1e}");
            let width = n_head_kv * head_dim;
            let cells: Vec<_> = (0..n)
                .map(|t| {
                    let (sequence, position) = (placed.sequences[t], placed.positions[t]);
                    let values = [&want_k, &want_v].map(|rows| Some(&rows[t * width..][..width]));
                    Cell { block: placed.block(sequence, position), position, values }
                })
                .collect();
            cache.holds(gpu, &cells, 0, &what);
        }
    }
}

/// What is attended to, and by whom.
struct AttendCase {
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    splits: usize,
    /// (sequence, position) a token.
    tokens: Vec<(u32, u32)>,
    scores: Scores<'static>,
}

/// The first position that a token sees.
fn first_seen(scores: Scores<'_>, position: u32) -> u32 {
    scores.window.map_or(0, |window| window.first(position as usize) as u32)
}

impl AttendCase {
    fn run(&self, gpu: &Gpu) {
        self.run_with(gpu, None, false);
    }

    /// `sinks`: one a query head; `later`: tokens see all of their sequence.
    fn run_with(&self, gpu: &Gpu, sinks: Option<&[f32]>, later: bool) {
        let AttendCase { n_head, n_head_kv, head_dim, splits, ref tokens, scores } = *self;
        let what = format!(
            "{n_head}/{n_head_kv} x {head_dim}, {splits} splits, tokens {tokens:?}, {scores:?}, sinks {sinks:?}, later {later}"
        );
        let sinks_on_card = sinks.map(|sinks| gpu.input(sinks));
        let mut rng = Rng(37);
        let stride = tokens.iter().map(|(_, position)| *position as usize / BLOCK_LEN + 1).max().unwrap();
        let placed = Placed::new(gpu, &mut rng, tokens, stride);
        let cache = Cache::new(gpu, placed.n_blocks(), n_head_kv, head_dim);

        // Cells from what a sequence's tokens see up to its last position; the others stay NaN, which a read would show.
        let width = n_head_kv * head_dim;
        let mut keys_values = Vec::new();
        let len = cache.n_blocks * n_head_kv * BLOCK_LEN * cache.head_pad;
        let mut images = [vec![POISON; len], vec![POISON; len]];
        for sequence in 0..N_SEQUENCES as u32 {
            let of_it = tokens.iter().filter(|(of, _)| *of == sequence);
            let length = of_it.clone().map(|(_, position)| position + 1).max().unwrap_or(0);
            let start = of_it.map(|(_, position)| first_seen(scores, *position)).min().unwrap_or(0);
            let rows = [0; 2].map(|_| {
                let values = floats(&mut rng, length as usize * width, 1.0);
                values.into_iter().map(|x| f16::from_f32(x).to_f32()).collect::<Vec<f32>>()
            });
            for (image, rows) in images.iter_mut().zip(&rows) {
                for (position, row) in rows.chunks_exact(width).enumerate().skip(start as usize) {
                    for (head, values) in row.chunks_exact(head_dim).enumerate() {
                        let block = placed.block(sequence, position as u32);
                        let cell = &mut image[cache.cell(block, head, position as u32)..][..cache.head_pad];
                        cell.fill(0);
                        cell.iter_mut().zip(values).for_each(|(cell, x)| *cell = f16::from_f32(*x).to_bits());
                    }
                }
            }
            keys_values.push(rows);
        }
        for (image, output) in images.iter().zip([&cache.k, &cache.v]) {
            gpu.write(output.span(), &image.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
        }

        let n = tokens.len();
        let last = |sequence: u32| tokens.iter().filter(|(of, _)| *of == sequence).map(|(_, at)| *at).max();
        let lasts: Vec<u32> = tokens.iter().map(|(sequence, _)| last(*sequence).unwrap()).collect();
        let lasts_on_card = gpu.input(&lasts);
        let q = floats(&mut rng, n * n_head * head_dim, 1.0);
        let q_on_card = gpu.input(&q);
        let attend_shape = AttendShape { n_head, n_head_kv, splits };
        let parts = gpu.output::<f32>(n * n_head * splits * (cache.head_pad + 2));
        let tickets = gpu.output::<u32>(n * n_head);
        gpu.stream.fill(tickets.span(), 0).unwrap();
        let run = |chosen: Option<Chosen<'_>>, to: Dest<'_>| {
            let scratch = AttendScratch { parts: parts.span(), tickets: tickets.span() };
            let tokens = placed.tokens();
            let sinks = sinks_on_card.as_ref().map(Buffer::span);
            let scores = Scores { sinks, lasts: later.then(|| lasts_on_card.span()), ..scores };
            attend::attend(
                &gpu.stream,
                attend_shape,
                q_on_card.span(),
                scores,
                tokens,
                chosen,
                cache.layer(),
                scratch,
                to,
            )
            .unwrap();
            assert!(gpu.read::<u32>(&tickets).iter().all(|ticket| *ticket == 0), "{what}: tickets are left");
        };
        // calls after the first find the tickets as it left them
        let cols = n_head * head_dim;
        let got = if head_dim.is_multiple_of(ops::Q8_BLOCK) {
            Dests::run(gpu, n, cols, &what, |to| run(None, to))
        } else {
            let [first, second] = [0; 2].map(|_| {
                let plain = gpu.output::<f32>(n * cols);
                run(None, Dest { plain: Some(plain.span()), rounded: None });
                gpu.read::<f32>(&plain)
            });
            assert!(bits(&first) == bits(&second), "{what}: a second call gives another result");
            first
        };
        // some of them, in another order: their rows in the same bits, and nothing else
        let some: Vec<u32> = (0..n as u32).rev().step_by(2).collect();
        let (chosen, plain) = (gpu.input(&some), gpu.output::<f32>(n * cols));
        run(
            Some(Chosen { tokens: chosen.span(), n: some.len() }),
            Dest { plain: Some(plain.span()), rounded: None },
        );
        let of_some = gpu.read::<f32>(&plain);
        for (t, (got, all)) in of_some.chunks_exact(cols).zip(got.chunks_exact(cols)).enumerate() {
            match some.contains(&(t as u32)) {
                true => assert!(bits(got) == bits(all), "{what}: token {t} of {some:?} differs"),
                false => assert!(
                    got.iter().all(|x| x.to_bits() == u32::MAX),
                    "{what}: token {t}, not of {some:?}, was written"
                ),
            }
        }

        for (t, (sequence, position)) in tokens.iter().enumerate() {
            let [k, v] = &keys_values[*sequence as usize];
            let (first, own) = (first_seen(scores, *position) as usize, *position as usize);
            let slots: Vec<usize> = (first..=if later { lasts[t] as usize } else { own }).collect();
            let cells = reference::Cells { slots: &slots, first, own };
            let mut want = vec![0.0; cols];
            let Scores { scale, cap, alibi, .. } = scores;
            let heads = reference::Heads {
                n_head,
                n_head_kv,
                scores: plan::Scores { scale, cap, alibi, causal: !later },
            };
            let q = &q[t * cols..][..cols];
            let [k, v] =
                [k, v].map(|cells| reference::CellHeads { cells, width, step: head_dim, len: head_dim });
            reference::attention(q, cells, k, v, heads, sinks, &mut want).unwrap();
            let error = nmse(&want, &got[t * cols..][..cols]);
            assert!(error <= 1e-6, "{what}: token {t}: NMSE {error:.1e}");
        }
    }
}

fn attend(gpu: &Gpu, head_dim: usize) {
    let scores = Scores::scaled(1.0 / (head_dim as f32).sqrt());
    for per_kv in [1, 2, 3, 4, 7, 8, 16] {
        for splits in [1, 3, 64] {
            // kv heads beyond one with the fewer
            let n_head_kv = if per_kv < 4 { 2 } else { 1 };
            let mut tokens = vec![(2, 0), (0, 62), (1, 63), (1, 64), (0, 199)];
            if [1, 7].contains(&per_kv) && splits > 1 {
                tokens.push((2, 999));
            }
            AttendCase { n_head: per_kv * n_head_kv, n_head_kv, head_dim, splits, tokens, scores }.run(gpu);
        }
    }
    if gpu.is_fast() {
        let tokens = vec![(0, 32_000), (1, 5), (2, 9999)];
        AttendCase { n_head: 8, n_head_kv: 2, head_dim, splits: 64, tokens, scores }.run(gpu);
    }
}

/// Heads that are not whole 4 or 8 columns.
fn attend_odd_heads(gpu: &Gpu) {
    for head_dim in [1, 2, 6, 33, 100, 255] {
        let tokens = vec![(0, 70), (1, 0), (0, 7)];
        for (n_head, splits) in [(1, 1), (4, 3)] {
            let tokens = tokens.clone();
            AttendCase { n_head, n_head_kv: 1, head_dim, splits, tokens, scores: Scores::scaled(0.3) }
                .run(gpu);
        }
    }
}

/// Scores far apart: all but one position vanish, and whole splits with them.
fn attend_sharp(gpu: &Gpu) {
    for (splits, scale) in [(1, 30.0), (3, 30.0), (64, -30.0), (64, 0.0)] {
        let tokens = vec![(0, 299), (1, 130)];
        AttendCase { n_head: 4, n_head_kv: 2, head_dim: 64, splits, tokens, scores: Scores::scaled(scale) }
            .run(gpu);
    }
}

/// Windows that begin and end anywhere in blocks, shorter and longer than the sequence; what lies before them, as what lies
/// behind the token, is never read: see [`AttendCase::run`].
fn attend_windows(gpu: &Gpu) {
    for head_dim in [64, 256] {
        let sliding = [(1, 3), (2, 1), (63, 3), (64, 64), (65, 2), (130, 64), (1000, 3)];
        let sliding = sliding.map(|(n, splits)| (Window::Sliding(n), splits));
        let chunks = [(1, 2), (63, 1), (64, 3), (100, 64), (128, 2), (1000, 3)];
        let chunks = chunks.map(|(n, splits)| (Window::Chunks(n), splits));
        for (window, splits) in sliding.into_iter().chain(chunks) {
            let tokens = vec![(0, 0), (1, 63), (1, 64), (2, 127), (0, 299)];
            let scores = Scores { window: Some(window), ..Scores::scaled(0.2) };
            AttendCase { n_head: 6, n_head_kv: 2, head_dim, splits, tokens, scores }.run(gpu);
        }
    }
}

/// Caps far above the scores, among them, and far below.
fn attend_caps(gpu: &Gpu) {
    for (n_head, head_dim) in [(1, 64), (8, 128), (4, 80)] {
        for (cap, scale) in [(50.0, 0.3), (5.0, 1.0), (0.5, 3.0), (20.0, -30.0)] {
            for window in [None, Some(Window::Chunks(70))] {
                let tokens = vec![(0, 199), (1, 5)];
                let scores = Scores { cap, window, ..Scores::scaled(scale) };
                AttendCase { n_head, n_head_kv: 1, head_dim, splits: 3, tokens, scores }.run(gpu);
            }
        }
    }
}

/// Scores that fall with the distance: powers of two of heads and others, with caps and windows.
fn attend_by_distance(gpu: &Gpu) {
    for (n_head, head_dim) in [(1, 64), (8, 128), (6, 80), (3, 32), (5, 512)] {
        for (alibi, cap, window) in [(8.0, 0.0, None), (1.0, 5.0, Some(Window::Sliding(70)))] {
            let tokens = vec![(0, 299), (1, 5), (2, 64)];
            let scores = Scores { alibi, cap, window, ..Scores::scaled(0.3) };
            AttendCase { n_head, n_head_kv: 1, head_dim, splits: 3, tokens, scores }.run(gpu);
        }
    }
}

/// Tokens that see what stands behind them, up to the last of their sequence.
fn attend_to_later_positions(gpu: &Gpu) {
    for (n_head, head_dim, splits) in [(1, 64, 1), (8, 128, 64), (6, 80, 3), (2, 512, 3)] {
        for (alibi, window) in [(0.0, None), (2.0, None), (1.0, Some(Window::Sliding(70)))] {
            let tokens = vec![(0, 3), (0, 130), (0, 299), (1, 5), (2, 63), (2, 64)];
            let scores = Scores { alibi, window, ..Scores::scaled(0.3) };
            let case = AttendCase { n_head, n_head_kv: 1, head_dim, splits, tokens, scores };
            case.run_with(gpu, None, true);
        }
    }
}

/// Sinks far below the scores, among them, far above, and none at all; one split and many.
fn attend_sinks(gpu: &Gpu) {
    for (n_head, head_dim) in [(1, 64), (8, 128), (4, 80), (2, 512)] {
        for splits in [1, 64] {
            for (cap, window) in [(0.0, None), (5.0, Some(Window::Sliding(70)))] {
                let tokens = vec![(0, 299), (1, 5), (2, 0)];
                let scores = Scores { cap, window, ..Scores::scaled(0.3) };
                let sinks = [2.0, -1.5, 0.0, 9.0, f32::NEG_INFINITY, -300.0, 300.0, 4.0];
                let case = AttendCase { n_head, n_head_kv: 1, head_dim, splits, tokens, scores };
                case.run_with(gpu, Some(&sinks[..n_head]), false);
            }
        }
    }
}

fn shapes_beyond_a_buffer_are_refused(gpu: &Gpu) {
    let buffer = gpu.output::<u8>(1 << 16);
    let (all, s) = (buffer.span(), &gpu.stream);
    let part = |bytes: u64| all.part(0..bytes).unwrap();
    let x = Quantized { q: all, ds: all };
    let plain = Dest { plain: Some(all), rounded: None };
    let rounded = Dest { plain: None, rounded: Some(x) };

    let norm = |x, rows, weight, to, n, width| {
        let norm = Norm { kind: NormKind::Rms, weight: Some(weight), bias: None, eps: 1e-5 };
        norm_to(s, norm, x, rows, to, n, width)
    };
    let biased = |bias| {
        let norm = Norm { kind: NormKind::Layer, weight: None, bias: Some(bias), eps: 1e-5 };
        norm_to(s, norm, all, None, plain, 2, 128)
    };
    let mut refused = vec![
        norm(part(1023), None, all, plain, 2, 128),
        norm(all, Some(part(4)), all, plain, 2, 128),
        norm(all, None, part(508), plain, 2, 128),
        norm(all, None, all, Dest { plain: Some(part(1020)), rounded: None }, 2, 128),
        norm(
            all,
            None,
            all,
            Dest { plain: None, rounded: Some(Quantized { q: part(255), ds: all }) },
            2,
            128,
        ),
        norm(all, None, all, Dest { plain: None, rounded: Some(Quantized { q: all, ds: part(63) }) }, 2, 128),
        norm(all, None, all, plain, 2, 100),
        norm(all.part(4..4000).unwrap(), None, all, plain, 2, 128),
        norm(all, None, all, plain, usize::MAX, 128),
        biased(part(508)),
        biased(all.part(4..4000).unwrap()),
    ];

    let mut rng = Rng(38);
    let [q8, q8_wide, float] = [(Q8_0, 64, 64), (Q8_0, 64, 96), (F16, 64, 64)]
        .map(|(ty, rows, cols)| Matrix::new(gpu, &mut rng, ty, rows, cols, false));
    let product = |m, dst| Product { weight: m, bias: None, dst };
    let two = [product(&q8.weight, all), product(&q8.weight, part(252))];
    refused.extend([
        project::matvec(s, &two, Input::Rounded(x), 1, false),
        project::matvec(s, &two[..1], Input::Rounded(Quantized { q: part(64), ds: all }), 2, false),
        project::matvec(s, &[], Input::Rounded(x), 1, false),
        project::matvec(s, &[product(&float.weight, all)], Input::Plain(part(252)), 1, false),
        project::matvec(s, &two[..1], Input::Rounded(x), 9, false),
    ]);
    // weights and activations that do not go together are the caller's mistake, not the user's
    for result in [
        project::matvec(
            s,
            &[product(&q8.weight, all), product(&q8_wide.weight, all)],
            Input::Rounded(x),
            1,
            false,
        ),
        project::matvec(
            s,
            &[product(&q8.weight, all), product(&float.weight, all)],
            Input::Rounded(x),
            1,
            false,
        ),
        project::matvec(s, &[product(&q8.weight, all)], Input::Plain(all), 1, false),
        project::matvec(s, &[product(&float.weight, all)], Input::Rounded(x), 1, false),
        project::matvec(s, &[0; 4].map(|_| product(&q8.weight, all)), Input::Rounded(x), 1, false),
    ] {
        assert!(matches!(result, Err(Error::Internal(_))), "{result:?}");
    }

    let glu = |gate, up, x, dst| project::glu_matvec(s, Unary::Silu, gate, up, x, dst);
    let w = &product(&q8.weight, all);
    let short = &Product { bias: Some(part(252)), ..*w };
    refused.extend([
        glu(short, w, Input::Rounded(x), all),
        glu(w, short, Input::Rounded(x), all),
        glu(w, w, Input::Rounded(x), part(252)),
        glu(w, w, Input::Rounded(Quantized { q: part(63), ds: all }), all),
    ]);
    let other = project::glu_matvec(s, Unary::Relu, w, w, Input::Rounded(x), all);
    assert!(matches!(other, Err(Error::Internal(_))), "{other:?}");

    // one block of 64 positions, one kv head of 64: 8192 bytes each of k and v
    let cache =
        LayerCache { k: all, v: all, n_head_kv: 1, head_dim: 64, value_dim: 64, head_pad: 64, n_blocks: 1 };
    let turns = Turns { table: all, n_rot: 64, halves: true };
    let three = [0; 3].map(|_| Some(product(&q8.weight, all)));
    let one = Tokens { n: 1, positions: all, sequences: all, table: all, n_tables: 2, table_stride: 1 };
    let qkv = |turns, tokens, cache| project::qkv(s, three, Input::Rounded(x), turns, tokens, cache);
    refused.extend([
        qkv(Turns { table: part(64 * 32 * 8 - 1), ..turns }, one, cache),
        qkv(Turns { n_rot: 66, ..turns }, one, cache),
        qkv(Turns { n_rot: 3, ..turns }, one, cache),
        qkv(turns, Tokens { positions: part(3), ..one }, cache),
        qkv(turns, Tokens { sequences: part(3), ..one }, cache),
        qkv(turns, Tokens { table: part(4), ..one }, cache),
        qkv(turns, one, LayerCache { k: part(8191), ..cache }),
        qkv(turns, one, LayerCache { v: part(8191), ..cache }),
        qkv(turns, one, LayerCache { n_blocks: usize::MAX, ..cache }),
    ]);
    let two = qkv(turns, Tokens { n: 2, ..one }, cache);
    assert!(matches!(two, Err(Error::Internal(_))), "{two:?}");
    for cache in [
        LayerCache { n_head_kv: 2, ..cache },
        LayerCache { head_dim: 48, ..cache },
        LayerCache { head_dim: 0, ..cache },
        LayerCache { head_pad: 32, ..cache },
        LayerCache { head_pad: 128, ..cache },
    ] {
        let result = qkv(turns, one, cache);
        assert!(result.is_err(), "{cache:?}");
    }

    let tokens = Tokens { n: 2, positions: all, sequences: all, table: all, n_tables: 2, table_stride: 1 };
    let prepare = |n_head, q, k, v, q_norm, tokens, cache| {
        let norms = HeadNorms { q: q_norm, k: None, eps: 1e-5 };
        attend::prepare_heads(s, n_head, q, k, Some(v), norms, Some(turns), tokens, cache)
    };
    refused.extend([
        prepare(2, part(1023), all, all, None, tokens, cache),
        prepare(2, all, part(511), all, None, tokens, cache),
        prepare(2, all, all, part(511), None, tokens, cache),
        prepare(2, all, all, all, Some(part(252)), tokens, cache),
        prepare(2, all, all, all, None, Tokens { positions: part(4), ..tokens }, cache),
        prepare(2, all, all, all, None, Tokens { sequences: part(4), ..tokens }, cache),
        prepare(2, all, all, all, None, Tokens { table: part(4), ..tokens }, cache),
        prepare(2, all, all, all, None, tokens, LayerCache { k: part(8191), ..cache }),
    ]);
    // LDS holds heads of 512
    let wide = LayerCache { head_dim: 600, head_pad: 1024, n_blocks: 0, ..cache };
    assert!(prepare(1, all, all, all, None, tokens, wide).is_err());

    let shape = AttendShape { n_head: 2, n_head_kv: 1, splits: 2 };
    let scratch = AttendScratch { parts: all, tickets: all };
    let attend = |shape, q, tokens, cache, scratch, to| {
        attend::attend(s, shape, q, Scores::scaled(1.0), tokens, None, cache, scratch, to)
    };
    refused.extend([
        attend(shape, part(1023), tokens, cache, scratch, plain),
        attend(shape, all, Tokens { positions: part(4), ..tokens }, cache, scratch, plain),
        attend(shape, all, Tokens { sequences: part(4), ..tokens }, cache, scratch, plain),
        attend(shape, all, Tokens { table: part(4), ..tokens }, cache, scratch, plain),
        attend(shape, all, tokens, LayerCache { k: part(8191), ..cache }, scratch, plain),
        attend(shape, all, tokens, LayerCache { v: part(8191), ..cache }, scratch, plain),
        attend(
            shape,
            all,
            tokens,
            cache,
            AttendScratch { parts: part(2 * 2 * 2 * 66 * 4 - 1), ..scratch },
            plain,
        ),
        attend(shape, all, tokens, cache, AttendScratch { tickets: part(7), ..scratch }, plain),
        attend(shape, all, tokens, cache, scratch, Dest { plain: Some(part(1023)), rounded: None }),
        attend(
            shape,
            all,
            tokens,
            cache,
            scratch,
            Dest { plain: None, rounded: Some(Quantized { q: part(255), ds: all }) },
        ),
    ]);
    for (i, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Param(_))), "case {i}: {result:?}");
    }
    for (shape, cache, to) in [
        (
            AttendShape { n_head: 3, n_head_kv: 2, ..shape },
            LayerCache { n_head_kv: 2, n_blocks: 0, ..cache },
            plain,
        ),
        (AttendShape { n_head_kv: 2, ..shape }, cache, plain),
        (AttendShape { n_head_kv: 0, ..shape }, LayerCache { n_head_kv: 0, ..cache }, plain),
        (AttendShape { splits: 0, ..shape }, cache, plain),
        (AttendShape { n_head: 0, ..shape }, cache, plain),
        (shape, LayerCache { value_dim: 40, ..cache }, rounded),
        (shape, LayerCache { head_dim: 0, ..cache }, plain),
        (shape, LayerCache { head_pad: 96, n_blocks: 0, ..cache }, plain),
    ] {
        let result = attend(shape, all, tokens, cache, scratch, to);
        assert!(result.is_err(), "{shape:?} {cache:?}: {result:?}");
    }
    s.synchronize().unwrap();
    let untouched = gpu.read::<u8>(&buffer).iter().all(|byte| *byte == 0xff);
    assert!(untouched, "something was launched");
}
