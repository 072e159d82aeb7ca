//! Each operation of the GPU engine against its definition: on every emulated card, or on a real GPU with
//! ROCMFORGE_TEST_GPU=1 (and there at larger shapes too).
//!
//! Oracles: `device::reference`, `gguf::dequant` (itself checked against the `gguf` Python package), or
//! a few lines in f64. Bounds on NMSE (sum of squared differences over sum of squares): 0 for copies,
//! 1e-10 for f32 ops, 1e-6 for products of the same 8-bit activations, 5e-4 for products of the unrounded ones.

use crate::common;

use common::gpu::{Gpu, Input, Output, Test, nmse};
use common::operands::{Rounded, bits, floats, load, products, words};
use common::tiny_model::{Rng, random_tensor};
use common::types::{extreme_blocks, quantized};
use rocmforge::Error;
use rocmforge::device::hip::memory::{Buffer, Span};
use rocmforge::device::hip::ops::elementwise::{affine, binary, fill, unary};
use rocmforge::device::hip::ops::norm::{Norm, norm};
use rocmforge::device::hip::ops::project::{self, Input as Operand, Product, wants_rounded};
use rocmforge::device::hip::ops::recurrent::{self, Conv, NO_SLOT, Runs};
use rocmforge::device::hip::ops::rope::{Heads, rope as rotate};
use rocmforge::device::hip::ops::{self, Quantized};
use rocmforge::device::hip::planes;
use rocmforge::device::hip::weight::Weight;
use rocmforge::device::reference::ops as reference;
use rocmforge::gguf::{TensorType, dequant};
use rocmforge::plan::{Binary, DeltaShape, KeyHeads, NormKind, Rope, RopePairs, Unary};

use TensorType::*;

pub const TESTS: &[Test] = &[
    Test::new("transpose", transpose),
    Test::slow("transpose_of_an_embedding", transpose_of_an_embedding),
    Test::new("copies", copies),
    Test::new("read", read),
    Test::new("split", split),
    Test::new("embed", embed),
    Test::new("norms", norms),
    Test::new("functions_of_one", functions_of_one),
    Test::new("functions_of_two", functions_of_two),
    Test::new("functions_of_a_narrow_operand", functions_of_a_narrow_operand),
    Test::new("filled", filled),
    Test::new("affine", affine_rows),
    Test::new("convolutions", convolutions),
    Test::new("delta_nets", delta_nets),
    Test::new("rope", rope),
    Test::new("quantize", quantize),
    Test::of_each_type("matvec", matvec),
    Test::new("matvec_extremes", matvec_extremes),
    Test::new("shapes_beyond_a_buffer_are_refused", shapes_beyond_a_buffer_are_refused),
];

fn transpose(gpu: &Gpu) {
    let small = [(1, 1), (32, 32), (31, 33), (1, 100), (100, 1), (65, 64), (896, 70), (5, 2000)];
    for (rows, cols) in small {
        check_transpose(gpu, rows, cols);
    }
    // rows of the embedding of Qwen2.5-0.5B
    check_transpose(gpu, gpu.pick(896, 8), 151_936);
    if gpu.is_fast() {
        check_transpose(gpu, 151_936, 896);
        check_transpose(gpu, 2_200_000, 3); // tiles on the grid's z too
    }
}

fn transpose_of_an_embedding(gpu: &Gpu) {
    check_transpose(gpu, 896, 151_936);
}

/// Any bits, NaNs among them, come through.
fn check_transpose(gpu: &Gpu, rows: usize, cols: usize) {
    let src = words(&mut Rng(rows as u64), rows * cols);
    let (input, output) = (gpu.input(&src), gpu.output::<u32>(rows * cols));
    ops::transpose(&gpu.stream, input.span(), output.span(), rows, cols).unwrap();
    let got = gpu.read::<u32>(&output);
    for (r, row) in src.chunks_exact(cols).enumerate() {
        for (c, value) in row.iter().enumerate() {
            assert_eq!(got[c * rows + r], *value, "{rows} x {cols}: row {r}, column {c}");
        }
    }
}

fn copies(gpu: &Gpu) {
    for n in [1, 15, 16, 17, 4099, 16_384, 40_007, gpu.pick(100_000_003, 50_000)] {
        let src: Vec<u8> = words(&mut Rng(2), n).into_iter().map(|word| word as u8).collect();
        let (input, output) = (gpu.input(&src), gpu.output::<u8>(n));
        gpu.stream.copy(input.span(), output.span()).unwrap();
        assert!(gpu.read::<u8>(&output) == src, "{n} bytes");
        // from and to odd addresses
        if n > 7 {
            let n = n as u64;
            let output = gpu.output::<u8>(n as usize);
            let (from, to) = (input.span().part(3..n - 2).unwrap(), output.span().part(1..n - 4).unwrap());
            gpu.stream.copy(from, to).unwrap();
            let got = gpu.read::<u8>(&output);
            let n = n as usize;
            assert!(
                got[1..n - 4] == src[3..n - 2] && got[0] == 0xff && got[n - 4..] == [0xff; 4],
                "{n} bytes"
            );
        }
    }
}

fn read(gpu: &Gpu) {
    for n in [4, 100, 8192, 8196, gpu.pick(30_000_000, 30_000)] {
        let src = words(&mut Rng(4), n);
        let (input, output) = (gpu.input(&src), gpu.output::<u32>(ops::read_words(4 * n as u64) as usize));
        ops::read(&gpu.stream, input.span(), output.span()).unwrap();
        let xor = |words: &[u32]| words.iter().fold(0, |all, word| all ^ word);
        assert_eq!(xor(&gpu.read(&output)), xor(&src), "{n} words");
    }
}

/// Blocks with their fields as they lie in the planes, one field behind the other.
fn split_blocks(gpu: &Gpu, ty: TensorType, bytes: &[u8]) -> Vec<u8> {
    let n_blocks = bytes.len() / ty.block_bytes();
    let weight = load(gpu, ty, 1, n_blocks * ty.block_len(), bytes);
    let on_device = gpu.bytes(weight.span());
    let mut blocks = Vec::with_capacity(bytes.len());
    for block in 0..n_blocks {
        for (first, field) in weight.layout().offsets.iter().zip(planes::fields(ty).unwrap()) {
            let (first, field) = (*first as usize, *field as usize);
            blocks.extend_from_slice(&on_device[first + block * field..][..field]);
        }
    }
    blocks
}

/// Each bit of a block gets a place of its own in the planes, the same in every block. (That kernels look for it there is
/// what `embed` tests.)
fn split(gpu: &Gpu) {
    for ty in quantized() {
        let size = ty.block_bytes();
        let n_bits = 8 * size;
        let mut single = vec![0u8; n_bits * size];
        for bit in 0..n_bits {
            single[bit * size + bit / 8] = 1 << (bit % 8);
        }
        let bits_of =
            |block: &[u8]| (0..n_bits).filter(|b| block[b / 8] >> (b % 8) & 1 == 1).collect::<Vec<_>>();
        let places: Vec<usize> =
            split_blocks(gpu, ty, &single).chunks_exact(size).flat_map(bits_of).collect();
        let mut sorted = places.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..n_bits), "{ty}: bits are lost or doubled");
        for n_blocks in [1, 3, 257, gpu.pick(100_001, 600)] {
            let mut rng = Rng(5);
            let bytes: Vec<u8> = (0..n_blocks * size).map(|_| rng.next() as u8).collect();
            let mut want = vec![0u8; bytes.len()];
            for (block, want) in bytes.chunks_exact(size).zip(want.chunks_exact_mut(size)) {
                bits_of(block).into_iter().for_each(|bit| want[places[bit] / 8] |= 1 << (places[bit] % 8));
            }
            assert!(split_blocks(gpu, ty, &bytes) == want, "{ty}, {n_blocks} blocks");
        }
    }
}

fn embed(gpu: &Gpu) {
    for ty in TensorType::supported() {
        let widths: &[usize] = match ty.block_len() {
            1 => &[1, 33, 576, 2081],
            32 => &[32, 576, 896, 2080],
            _ => &[256, 1024, 2304],
        };
        for &cols in widths {
            let rows = 7;
            let bytes = random_tensor(&mut Rng(6), ty, rows * cols, 1.0);
            let weight = load(gpu, ty, rows, cols, &bytes);
            let mut table = vec![0.0; rows * cols];
            dequant::row(ty, &bytes, &mut table).unwrap();
            let tokens = [3u32, 0, 6, 3, 7, u32::MAX];
            let (input, output) = (gpu.input(&tokens), gpu.output::<f32>(tokens.len() * cols));
            ops::embed(&gpu.stream, &weight, input.span(), output.span(), tokens.len()).unwrap();
            for (token, got) in tokens.iter().zip(gpu.read::<f32>(&output).chunks_exact(cols)) {
                match table.chunks_exact(cols).nth(*token as usize) {
                    Some(want) => assert!(bits(want) == bits(got), "{ty} x {cols}: row {token}"),
                    None => assert!(got.iter().all(|x| x.is_nan()), "{ty}: there is no row {token}"),
                }
            }
        }
    }
}

fn norms(gpu: &Gpu) {
    for (n, width) in
        [(1, 1), (3, 5), (2, 33), (9, 576), (1, 896), (2, 1000), (1, 4100), (gpu.pick(512, 1), 4096)]
    {
        for (size, eps) in [(3.0, 1e-5), (1e-3, 1e-6), (1e4, 1e-5)] {
            for (kind, with) in [
                (NormKind::Rms, [true, false]),
                (NormKind::Rms, [false, true]),
                (NormKind::Layer, [true, true]),
                (NormKind::Layer, [false, false]),
                (NormKind::L2, [false, false]),
                (NormKind::L2, [true, true]),
            ] {
                let mut rng = Rng(7);
                let x: Vec<f32> = floats(&mut rng, n * width, size).iter().map(|x| x + 0.4 * size).collect();
                let vectors = with.map(|with| with.then(|| floats(&mut rng, width, 2.0)));
                let [weight, bias] = vectors.each_ref().map(Option::as_deref);
                let mut want = vec![0.0; n * width];
                reference::norm(&x, kind, eps, width, [weight, bias], &mut want);
                let (input, output) = (gpu.input(&x), gpu.output::<f32>(n * width));
                let on_card = [weight, bias].map(|vector| vector.map(|vector| gpu.input(vector)));
                let [weight, bias] = on_card.each_ref().map(|vector| vector.as_ref().map(Input::span));
                for in_place in [false, true] {
                    if in_place {
                        gpu.stream.copy(input.span(), output.span()).unwrap();
                    }
                    let x = if in_place { output.span() } else { input.span() };
                    norm(&gpu.stream, Norm { kind, weight, bias, eps }, x, output.span(), n, width).unwrap();
                    let error = nmse(&want, &gpu.read(&output));
                    let what =
                        format!("{kind:?} of {n} x {width}, weight and bias {with:?}, in place {in_place}");
                    assert!(error <= 1e-10, "{what}: NMSE {error:.1e}");
                }
            }
        }
    }
}

const UNARY: [Unary; 10] = [
    Unary::Silu,
    Unary::Gelu,
    Unary::Relu,
    Unary::Relu2,
    Unary::Sigmoid,
    Unary::Scale(-1.7),
    Unary::SoftCap(30.0),
    Unary::SoftCap(2.5),
    Unary::Softplus,
    Unary::Clamp(-0.75, 60.0),
];

/// Values of both signs, small ones, and those where e^x ends.
fn arguments(n: usize, size: f32) -> Vec<f32> {
    let mut x = floats(&mut Rng(9), n, size);
    if n > 1000 {
        for (i, x) in x.iter_mut().take(400).enumerate() {
            *x = (88.0 + 0.01 * (i / 2) as f32) * if i % 2 == 0 { 1.0 } else { -1.0 };
        }
        x[400..404].copy_from_slice(&[-103.9, -104.1, -1e4, 100.0]);
    }
    x
}

const LENGTHS: [(usize, f32); 4] = [(1, 1.0), (1023, 1.0), (1025, 10.0), (4864, 90.0)];

fn functions_of_one(gpu: &Gpu) {
    for f in UNARY {
        for (n, size) in LENGTHS.into_iter().chain([(gpu.pick(5_000_000, 2000), 1.0)]) {
            let x = arguments(n, size);
            let want: Vec<f32> = x.iter().map(|x| reference::unary(f, *x)).collect();
            let (input, output) = (gpu.input(&x), gpu.output::<f32>(n));
            unary(&gpu.stream, f, input.span(), output.span(), n).unwrap();
            let got = gpu.read::<f32>(&output);
            let error = nmse(&want, &got);
            assert!(error <= 1e-10, "{f:?} of {n} to {size}: NMSE {error:.1e}");
            gpu.stream.copy(input.span(), output.span()).unwrap();
            unary(&gpu.stream, f, output.span(), output.span(), n).unwrap();
            assert!(bits(&gpu.read(&output)) == bits(&got), "{f:?} of {n}: in place");
        }
    }
}

fn functions_of_two(gpu: &Gpu) {
    let gates = UNARY.map(Binary::Glu);
    for f in [Binary::Add, Binary::Mul, Binary::ClampedGlu].into_iter().chain(gates) {
        for (n, size) in LENGTHS.into_iter().chain([(gpu.pick(5_000_000, 2000), 1.0)]) {
            let (a, b) = (arguments(n, size), floats(&mut Rng(10), n, 1.0));
            let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| reference::binary(f, *a, *b)).collect();
            let (a, b, output) = (gpu.input(&a), gpu.input(&b), gpu.output::<f32>(n));
            let check = |what: &str| {
                let got = gpu.read::<f32>(&output);
                let bound = if matches!(f, Binary::Glu(_) | Binary::ClampedGlu) { 1e-10 } else { 0.0 };
                let error = nmse(&want, &got);
                assert!(error <= bound, "{f:?} of {n} to {size}, {what}: NMSE {error:.1e}");
            };
            binary(&gpu.stream, f, a.span(), (b.span(), 1), output.span(), n).unwrap();
            check("apart");
            gpu.stream.copy(a.span(), output.span()).unwrap();
            binary(&gpu.stream, f, output.span(), (b.span(), 1), output.span(), n).unwrap();
            check("on the first");
            gpu.stream.copy(b.span(), output.span()).unwrap();
            binary(&gpu.stream, f, a.span(), (output.span(), 1), output.span(), n).unwrap();
            check("on the second");
        }
    }
}

/// Elements of the second operand that serve several of the first, within a run of 1,024 and across its end.
fn functions_of_a_narrow_operand(gpu: &Gpu) {
    for f in [Binary::Add, Binary::Mul, Binary::Glu(Unary::Sigmoid), Binary::ClampedGlu] {
        for (n, each) in [(2, 2), (33, 11), (2050, 205), (4864, 64), (5001, 3)] {
            let (a, b) = (arguments(n, 1.0), floats(&mut Rng(10), n / each, 1.0));
            let pairs = a.iter().enumerate();
            let want: Vec<f32> = pairs.map(|(i, a)| reference::binary(f, *a, b[i / each])).collect();
            let (a, b, output) = (gpu.input(&a), gpu.input(&b), gpu.output::<f32>(n));
            let bound = if matches!(f, Binary::Glu(_) | Binary::ClampedGlu) { 1e-10 } else { 0.0 };
            binary(&gpu.stream, f, a.span(), (b.span(), each), output.span(), n).unwrap();
            let got = gpu.read::<f32>(&output);
            assert!(nmse(&want, &got) <= bound, "{f:?} of {n} by {each}");
            gpu.stream.copy(a.span(), output.span()).unwrap();
            binary(&gpu.stream, f, output.span(), (b.span(), each), output.span(), n).unwrap();
            assert!(bits(&gpu.read(&output)) == bits(&got), "{f:?} of {n} by {each}: in place");
        }
    }
}

fn filled(gpu: &Gpu) {
    for (n, value) in [(1, 0.5), (1023, -3.0), (2049, f32::NEG_INFINITY)] {
        let output = gpu.output::<f32>(n + 1);
        fill(&gpu.stream, value, output.span(), n).unwrap();
        let got = gpu.read::<f32>(&output);
        assert!(got[..n].iter().all(|x| *x == value) && got[n].is_nan(), "{n} times {value}");
    }
}

fn affine_rows(gpu: &Gpu) {
    for (n, width) in [(1, 1usize), (3, 6), (2, 1024), (2, 1026), (4, 3000)] {
        let half = width.div_ceil(2);
        let lengths =
            [(1, 1), (width, 0), (0, width), (1, width), (width, width), (0, 0), (half, half), (half, width)];
        for ((scales, biases), divides) in lengths.into_iter().flat_map(|l| [(l, false), (l, true)]) {
            let mut rng = Rng(11);
            let x = floats(&mut rng, n * width, 2.0);
            let [scale, bias] = [scales, biases].map(|len| floats(&mut rng, len, 2.0));
            let at = |vector: &[f32], i: usize, none| match vector.len() {
                0 => none,
                len => vector[i % width / (width / len)],
            };
            let scaled = |i: usize, x: f32| match divides {
                true => x / at(&scale, i, 1.0),
                false => x * at(&scale, i, 1.0),
            };
            let each = x.iter().enumerate();
            let want: Vec<f32> = each.map(|(i, x)| scaled(i, *x) + at(&bias, i, 0.0)).collect();
            let (input, output) = (gpu.input(&x), gpu.output::<f32>(n * width));
            let on_card = [&scale, &bias].map(|vector| (!vector.is_empty()).then(|| gpu.input(vector)));
            let [scale, bias] = on_card.each_ref().map(|vector| vector.as_ref().map(Input::span));
            affine(&gpu.stream, input.span(), scale, divides, bias, output.span(), n, width).unwrap();
            assert_eq!(
                gpu.read::<f32>(&output),
                want,
                "{n} x {width}, {scales} scales, {divides}, {biases} biases"
            );
            gpu.stream.copy(input.span(), output.span()).unwrap();
            affine(&gpu.stream, output.span(), scale, divides, bias, output.span(), n, width).unwrap();
            assert_eq!(gpu.read::<f32>(&output), want, "{n} x {width}, in place");
        }
    }
}

/// Tokens of three sequences: two go on from slots 1 and 4, one begins; what they make of their states goes to 0, 2 and 5.
const RUNS: [usize; 3] = [3, 1, 6];
const SLOTS: [(Option<usize>, usize); 3] = [(Some(1), 0), (None, 5), (Some(4), 2)];
const N_SLOTS: usize = 6;

/// Runs `launch` with the tokens' runs and the states, and holds its result, and the states that it leaves, to those that
/// `token(state, t, out)` computes token by token. `lie`: as a card has a state.
fn check_states(
    gpu: &Gpu,
    what: &str,
    [width, elements]: [usize; 2],
    launch: impl Fn(Runs<'_>, Span<'_>, Span<'_>),
    token: impl Fn(&mut [f32], usize, &mut [f32]),
    lie: impl Fn(&[f32]) -> Vec<f32>,
) {
    let n = RUNS.iter().sum::<usize>();
    let mut first = 0;
    let mut runs: Vec<u32> = Vec::new();
    for (len, (read, write)) in RUNS.into_iter().zip(SLOTS) {
        let read = read.map_or(NO_SLOT, |slot| slot as u32);
        runs.extend([first, len as u32, read, write as u32]);
        first += len as u32;
    }
    let sequences: Vec<u32> = (0..3).flat_map(|s| std::iter::repeat_n(s, RUNS[s as usize])).collect();
    let states = floats(&mut Rng(18), N_SLOTS * elements, 1.0);
    let slot = |slot: usize| &states[slot * elements..][..elements];
    let (mut want, mut left) = (vec![0.0; n * width], states.clone());
    let mut t = 0;
    for (len, (read, write)) in RUNS.into_iter().zip(SLOTS) {
        let mut state = read.map_or(vec![0.0; elements], |read| slot(read).to_vec());
        for _ in 0..len {
            token(&mut state, t, &mut want[t * width..][..width]);
            t += 1;
        }
        left[write * elements..][..elements].copy_from_slice(&state);
    }
    let lies = |states: &[f32]| match elements {
        0 => Vec::new(),
        _ => states.chunks_exact(elements).flat_map(&lie).collect::<Vec<f32>>(),
    };
    let (runs, sequences) = (gpu.input(&runs), gpu.input(&sequences));
    let (before, output) = (gpu.input(&lies(&states)), gpu.output::<f32>(n * width));
    let state = gpu.output::<f32>(N_SLOTS * elements);
    gpu.stream.copy(before.span(), state.span()).unwrap();
    let runs = Runs { n, n_runs: 3, sequences: sequences.span(), runs: runs.span() };
    launch(runs, state.span(), output.span());
    let error = nmse(&want, &gpu.read(&output));
    assert!(error <= 1e-10, "{what}: NMSE {error:.1e}");
    let error = nmse(&lies(&left), &gpu.read(&state));
    assert!(error <= 1e-10, "{what}: the states: NMSE {error:.1e}");
}

fn convolutions(gpu: &Gpu) {
    let n = RUNS.iter().sum::<usize>();
    for (width, k, with_bias, silu) in
        [(1, 2, true, false), (300, 2, false, true), (256, 4, false, true), (100, 3, true, false)]
    {
        let mut rng = Rng(19);
        let (x, weight) = (floats(&mut rng, n * width, 1.0), floats(&mut rng, width * k, 1.0));
        let bias = with_bias.then(|| floats(&mut rng, width, 1.0));
        let (on_card, kernel) = (gpu.input(&x), gpu.input(&weight));
        let by = bias.as_ref().map(|bias| gpu.input(bias));
        let of = Conv { weight: kernel.span(), bias: by.as_ref().map(Input::span), k, silu };
        check_states(
            gpu,
            &format!("a convolution of {width} over {k}"),
            [width, (k - 1) * width],
            |runs, state, out| {
                recurrent::conv(&gpu.stream, of, on_card.span(), runs, state, out, width).unwrap();
            },
            |state, t, out| {
                reference::conv(state, &x[t * width..][..width], &weight, bias.as_deref(), out);
                if silu {
                    out.iter_mut().for_each(|out| *out = reference::unary(Unary::Silu, *out));
                }
            },
            <[f32]>::to_vec,
        );
    }
}

fn delta_nets(gpu: &Gpu) {
    let n = RUNS.iter().sum::<usize>();
    let plain = |n_k, n_v, k, v| DeltaShape { n_k, n_v, k, v, heads: KeyHeads::Blocks, g_by_row: false };
    for shape in [
        plain(1, 1, 4, 5),
        plain(2, 4, 20, 33),
        DeltaShape { heads: KeyHeads::Turns, ..plain(2, 4, 64, 16) },
        DeltaShape { g_by_row: true, ..plain(3, 3, 128, 40) },
        DeltaShape { g_by_row: true, heads: KeyHeads::Turns, ..plain(2, 6, 100, 17) },
        plain(1, 2, 128, 128),
        plain(1, 2, 256, 20),
        plain(2, 2, 160, 8),
    ] {
        let DeltaShape { n_k, n_v, k, v, g_by_row, .. } = shape;
        let widths = [n_k * k, n_k * k, n_v * v, if g_by_row { n_v * k } else { n_v }, n_v];
        let mut rng = Rng(20);
        let sigma = 1.0 / (k as f32).sqrt();
        let mut values = widths.map(|width| floats(&mut rng, n * width, 1.0));
        values[..2].iter_mut().flatten().for_each(|x| *x *= sigma);
        values[3].iter_mut().for_each(|g| *g = -g.abs());
        values[4].iter_mut().for_each(|beta| *beta = reference::unary(Unary::Sigmoid, *beta));
        let inputs = values.each_ref().map(|values| gpu.input(values));
        check_states(
            gpu,
            &format!("{shape:?}"),
            [n_v * v, n_v * k * v],
            |runs, state, out| {
                let inputs = inputs.each_ref().map(Input::span);
                recurrent::delta_net(&gpu.stream, inputs, shape, sigma, runs, state, out).unwrap();
            },
            |state, t, out| {
                let row = |i: usize| &values[i][t * widths[i]..][..widths[i]];
                let rows = [row(0), row(1), row(2), row(3), row(4)];
                reference::delta_net(state, shape, rows, sigma, out);
            },
            // a card has a head's columns one behind the other
            |state| {
                let head = |s: &[f32]| (0..k * v).map(|i| s[i % k * v + i / k]).collect::<Vec<_>>();
                state.chunks_exact(k * v).flat_map(head).collect()
            },
        );
    }
}

fn rope(gpu: &Gpu) {
    for pairs in [RopePairs::Consecutive, RopePairs::Halves] {
        for (n, n_heads, head_dim, first, n_rot) in [
            (1, 1, 2, 0, 2),
            (3, 9, 64, 0, 64),
            (2, 14, 64, 0, 64),
            (5, 3, 10, 0, 6),
            (2, 2, 256, 0, 256),
            (4, 2, 80, 0, 40),
            (3, 3, 192, 128, 64),
            (2, 2, 27, 5, 18),
        ] {
            let mut rng = Rng(10);
            let inv_freq: Vec<f32> =
                (0..n_rot / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / n_rot as f32)).collect();
            let rope = Rope { pairs, inv_freq: inv_freq.clone().into(), magnitude: 1.25, long: None };
            let n_positions = 300;
            let positions: Vec<u32> = (0..n).map(|t| [299, 0, 17, 1, 200][t]).collect();
            let mut table = Vec::new();
            for position in 0..n_positions {
                for freq in &inv_freq {
                    let (sin, cos) = (f64::from(position) * f64::from(*freq)).sin_cos();
                    table.extend([cos as f32 * rope.magnitude, sin as f32 * rope.magnitude]);
                }
            }
            let x = floats(&mut rng, n * n_heads * head_dim, 1.0);
            let mut want = x.clone();
            for (row, position) in want.chunks_exact_mut(n_heads * head_dim).zip(&positions) {
                reference::rope(
                    row,
                    head_dim,
                    first,
                    rope.pairs,
                    (&rope.inv_freq, rope.magnitude),
                    *position,
                )
                .unwrap();
            }
            let (input, output) = (gpu.input(&x), gpu.output::<f32>(x.len()));
            let (positions, table) = (gpu.input(&positions), gpu.input(&table));
            let (positions, table) = (positions.span(), table.span());
            let heads = Heads { n_heads, head_dim, first, n_rot };
            rotate(&gpu.stream, pairs, input.span(), output.span(), positions, table, n, heads).unwrap();
            let got = gpu.read::<f32>(&output);
            gpu.stream.copy(input.span(), output.span()).unwrap();
            rotate(&gpu.stream, pairs, output.span(), output.span(), positions, table, n, heads).unwrap();
            assert!(bits(&gpu.read(&output)) == bits(&got), "{pairs:?} {n} x {heads:?}: in place");
            let error = nmse(&want, &got);
            assert!(error <= 1e-12, "{pairs:?} {n} x {heads:?}: NMSE {error:.1e}");
            for (i, (x, got)) in x.iter().zip(&got).enumerate() {
                let rotated = (first..first + n_rot).contains(&(i % head_dim));
                assert!(rotated || x == got, "{pairs:?} {heads:?}: element {i} is not rotated");
            }
        }
    }
}

fn quantize(gpu: &Gpu) {
    for (n, cols) in [(1, 32), (1, 576), (3, 896), (2, 1024), (gpu.pick(512, 1), 4864)] {
        let mut x = floats(&mut Rng(12), n * cols, 3.0);
        // amax 127 makes the scale 1: halves go to the even neighbour
        x[..8].copy_from_slice(&[127.0, 0.5, 1.5, -0.5, -2.5, 3.49, -126.5, 2.500_001]);
        x[8..32].fill(0.25);
        if cols > 500 {
            x[32..64].fill(0.0);
            x[64..96].fill(1e-39);
            x[100] = f32::INFINITY;
            x[130] = f32::NAN;
            x[160] = 3e38;
        }
        let rounded = Rounded::new(gpu, &x, n, cols);
        rounded.is_of(gpu, &x, &format!("{n} x {cols}"));
    }
}

/// Products that make a mean.
const ENOUGH: usize = 64;

fn matvec(gpu: &Gpu, ty: TensorType) {
    let mut shapes: Vec<(usize, usize)> = match ty.block_len() {
        // rows that are not whole 16 bytes too
        1 => vec![(1, 1), (5, 97), (67, 576), (3, 2084)],
        32 => vec![(1, 32), (5, 96), (67, 576), (64, 896), (7, 2080), (3, 4864)],
        _ => vec![(1, 256), (67, 512), (5, 2304), (3, 4864)],
    };
    if gpu.is_fast() {
        shapes.extend([(896, 4864), (4096, 14_336), (14_336, 4096), (128_256, 2048)]);
        shapes.retain(|(_, cols)| cols.is_multiple_of(ty.block_len()));
    }
    shapes.retain(|(_, cols)| cols.is_multiple_of(ty.block_len()));
    for (rows, cols) in shapes {
        let mut rng = Rng(13);
        let sigma = 1.0 / (cols as f32).sqrt();
        let bytes = random_tensor(&mut rng, ty, rows * cols, sigma);
        let weight = load(gpu, ty, rows, cols, &bytes);
        let x = floats(&mut rng, project::MATVEC_MAX_N * cols, 1.0);
        let bias = floats(&mut rng, rows, 0.1);
        let on_card = gpu.input(&bias);
        let plain = gpu.input(&x);
        let rounded = wants_rounded(ty).then(|| Rounded::new(gpu, &x, project::MATVEC_MAX_N, cols));
        let values = rounded.as_ref().map_or_else(|| x.clone(), |rounded| rounded.values(gpu));
        let x_on_card = rounded.as_ref().map_or(Operand::Plain(plain.span()), Rounded::input);
        for n in 1..=project::MATVEC_MAX_N {
            let with_bias = n % 2 == 1;
            let host_bias = with_bias.then_some(&bias[..]);
            let output = gpu.output::<f32>(n * rows);
            let device_bias = with_bias.then(|| on_card.span());
            one_matvec(gpu, &weight, x_on_card, device_bias, &output, n, false);
            let got = gpu.read::<f32>(&output);
            for (what, x, bound) in [("rounded", &values, 1e-6), ("exact", &x, 5e-4)] {
                // a few products alone may have cancelled, and then rounding is all there is
                if what == "exact" && n * rows < ENOUGH {
                    continue;
                }
                let want = products(ty, &bytes, &x[..n * cols], host_bias, rows, cols);
                let error = nmse(&want, &got);
                assert!(error <= bound, "{ty} {rows} x {cols}, {n} tokens, {what} x: NMSE {error:.1e}");
            }
        }
    }
}

fn one_matvec(
    gpu: &Gpu,
    weight: &Weight,
    x: Operand<'_>,
    bias: Option<Span<'_>>,
    output: &Output,
    n: usize,
    add: bool,
) {
    let product = Product { weight, bias, dst: output.span() };
    project::matvec(&gpu.stream, &[product], x, n, add).unwrap();
}

/// Blocks at the ends of every field's range: all quants, sub-scales and signs at once; activations that are not
/// finite spoil their own token alone.
fn matvec_extremes(gpu: &Gpu) {
    let (rows, cols, n) = (3, 512, 3);
    for ty in quantized() {
        for fill in [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0, 0x55, 0xaa] {
            for scale in [1.0, -65504.0, 6e-8, 0.0] {
                let mut bytes = vec![0; ty.row_bytes(rows * cols).unwrap()];
                extreme_blocks(ty, &mut bytes, fill, scale);
                // one sign in each half, so that every partial sum is at its largest
                let mut x: Vec<f32> =
                    (0..n * cols).map(|i| if i % cols < 256 { 127.0 } else { -127.0 / 3.0 }).collect();
                x[cols + 77] = f32::INFINITY;
                let weight = load(gpu, ty, rows, cols, &bytes);
                let rounded = Rounded::new(gpu, &x, n, cols);
                let output = gpu.output::<f32>(n * rows);
                one_matvec(gpu, &weight, rounded.input(), None, &output, n, false);
                let got = gpu.read::<f32>(&output);
                let values = rounded.values(gpu);
                for t in [0, 2] {
                    let want = products(ty, &bytes, &values[t * cols..][..cols], None, rows, cols);
                    let error = nmse(&want, &got[t * rows..][..rows]);
                    assert!(error <= 1e-6, "{ty} of {fill:#04x}, scale {scale}, token {t}: NMSE {error:.1e}");
                }
                assert!(got[rows..2 * rows].iter().all(|x| !x.is_finite()), "{ty}: infinity in, {got:?} out");
            }
        }
    }
}

fn shapes_beyond_a_buffer_are_refused(gpu: &Gpu) {
    let buffer: Buffer = gpu.pool.alloc(4096, "a test's buffer").unwrap();
    let (all, s) = (buffer.span(), &gpu.stream);
    let part = all.part(0..1024).unwrap();
    let weight = load(gpu, Q8_0, 2, 64, &random_tensor(&mut Rng(16), Q8_0, 128, 1.0));
    let x = Quantized { q: all, ds: all };
    let heads = Heads { n_heads: 1, head_dim: 8, first: 0, n_rot: 8 };
    let plain = Norm { kind: NormKind::Layer, weight: None, bias: None, eps: 1e-5 };
    let matvec = |x, bias, dst, n| {
        project::matvec(s, &[Product { weight: &weight, bias, dst }], Operand::Rounded(x), n, false)
    };
    let refused = [
        ops::transpose(s, all, part, 32, 32),
        ops::transpose(s, part, all, 32, 32),
        ops::transpose(s, all, all, usize::MAX, usize::MAX),
        s.copy(all, part),
        ops::read(s, all.part(0..20).unwrap(), part),
        ops::read(s, all, all.part(0..2).unwrap()),
        ops::embed(s, &weight, part, all, 257),
        norm(s, Norm { weight: Some(part), ..plain }, all, all, 2, 512),
        norm(s, Norm { bias: Some(part), ..plain }, all, all, 2, 512),
        norm(s, plain, all, part, 1, 512),
        unary(s, Unary::Relu, part, all, 1024),
        unary(s, Unary::Relu, all, part, 1024),
        fill(s, 1.0, part, 257),
        binary(s, Binary::Add, all, (part, 1), all, 1024),
        binary(s, Binary::Glu(Unary::Silu), all, (part, 1), all, 1024),
        binary(s, Binary::Mul, all, (part, 3), all, 1023),
        binary(s, Binary::Mul, all, (all, 3), all, 1024),
        binary(s, Binary::Mul, all, (all, 0), all, 1024),
        affine(s, all, Some(all.part(0..36).unwrap()), false, None, all, 1, 512),
        affine(s, all, None, false, Some(all.part(0..0).unwrap()), all, 1, 512),
        affine(s, all, None, false, None, part, 1, 512),
        rotate(s, RopePairs::Halves, all, all, part, part, 257, heads),
        rotate(s, RopePairs::Halves, all, part, all, part, 33, heads),
        rotate(s, RopePairs::Halves, all, all, part, part, 1, Heads { n_rot: 10, ..heads }),
        rotate(s, RopePairs::Halves, all, all, part, part, 1, Heads { n_rot: 3, ..heads }),
        ops::quantize(s, all, x, 1, 33),
        ops::quantize(s, part, x, 1, 512),
        matvec(x, None, all, 9),
        matvec(x, Some(all.part(0..4).unwrap()), all, 1),
        matvec(x, None, all.part(0..4).unwrap(), 1),
        matvec(Quantized { q: all.part(0..32).unwrap(), ds: all }, None, all, 1),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Param(_))), "case {i}: {result:?}");
    }
    s.synchronize().unwrap();
}
