//! Mixtures of experts against their definitions: the choice, products of few and of many tokens with their experts, the
//! weighted sum. On every emulated card, or on a real GPU with ROCMFORGE_TEST_GPU=1.
//!
//! Oracles: `device::routing`, `device::reference` and `gguf::dequant`. Bounds on NMSE: ids are equal; 1e-10 for weights,
//! 1e-6 for products of the same 8-bit activations, 2e-7 for those of factors rounded to f16, 0 for sums.

use crate::common;

use common::gpu::{Gpu, Input, Output, Test, nmse};
use common::operands::{Rounded, bits, floats, load, products};
use common::tiny_model::{Rng, random_tensor};
use rocmforge::Error;
use rocmforge::device::hip::memory::{Buffer, Span};
use rocmforge::device::hip::ops::experts::{self, MOST_EXPERTS, Product, Sorting, TokenPairs};
use rocmforge::device::hip::ops::matmul::{HalfRows, MatMulTile, half_stride};
use rocmforge::device::hip::ops::project::{self, wants_rounded};
use rocmforge::device::hip::weight::Weight;
use rocmforge::device::reference::ops as reference;
use rocmforge::device::routing;
use rocmforge::gguf::TensorType;
use rocmforge::plan::{Binary, Gating, Routing, Unary};

use TensorType::*;

pub const TESTS: &[Test] = &[
    Test::new("choices", choices),
    Test::new("choices_of_groups", choices_of_groups),
    Test::new("choices_of_what_is_no_number", choices_of_what_is_no_number),
    Test::of_each_type("matvec", matvec),
    Test::new("matvec_shapes", matvec_shapes),
    Test::of_each_type("glu", glu),
    Test::new("sorting", sorting),
    Test::of_each_type("matmul", matmul),
    Test::new("matmul_shapes", matmul_shapes),
    Test::new("choices_of_shared_ids", choices_of_shared_ids),
    Test::new("spread", spread),
    Test::new("combine", combine),
    Test::new("shapes_beyond_a_buffer_are_refused", shapes_beyond_a_buffer_are_refused),
];

const PLAIN: Routing = Routing {
    gating: Gating::Softmax,
    n_used: 1,
    least_sum: 0.0,
    scale: 1.0,
    n_groups: 0,
    n_groups_used: 0,
    per_id: 1,
};

const GATINGS: [Gating; 3] = [Gating::Softmax, Gating::Sigmoid, Gating::SoftmaxOfChosen];

/// The choice of n tokens is that of the definition.
fn chosen(gpu: &Gpu, logits: &[f32], n_experts: usize, bias: Option<&[f32]>, by: &Routing) {
    let n = logits.len() / n_experts;
    let (mut ids, mut weights) = (vec![0u32; n * by.n_used], vec![0.0; n * by.n_used]);
    let mut scratch = vec![0.0; 2 * n_experts];
    for t in 0..n {
        let own = t * by.n_used..(t + 1) * by.n_used;
        let logits = &logits[t * n_experts..][..n_experts];
        routing::choose(logits, bias, by, &mut scratch, &mut ids[own.clone()], &mut weights[own]);
    }
    let (input, by_bias) = (gpu.input(logits), bias.map(|bias| gpu.input(bias)));
    let (to, weighed) = (gpu.output::<u32>(ids.len()), gpu.output::<f32>(ids.len()));
    let by_bias = by_bias.as_ref().map(Input::span);
    experts::route(&gpu.stream, input.span(), by_bias, by, to.span(), weighed.span(), n, n_experts).unwrap();
    let what = format!("{n} tokens, {n_experts} experts, bias {}, {by:?}", bias.is_some());
    assert_eq!(gpu.read::<u32>(&to), ids, "{what}");
    let got = gpu.read::<f32>(&weighed);
    let pairs = weights.iter().zip(&got);
    assert!(pairs.clone().all(|(want, got)| want.is_finite() == got.is_finite()), "{what}: {got:?}");
    let finite = |(want, got): (&f32, &f32)| want.is_finite().then_some((*want, *got));
    let (want, got): (Vec<f32>, Vec<f32>) = pairs.filter_map(finite).unzip();
    // weights of nothing are nothing
    let error = if want.iter().all(|want| *want == 0.0) { 0.0 } else { nmse(&want, &got) };
    assert!(error <= 1e-10, "{what}: NMSE {error:.1e}");
}

fn choices(gpu: &Gpu) {
    for (n, n_experts, n_used) in [
        (1, 1, 1),
        (3, 4, 2),
        (1, 31, 8),
        (2, 64, 6),
        (2, 65, 65),
        (gpu.pick(512, 3), 128, 8),
        (1, 512, 10),
        (2, MOST_EXPERTS, 70),
    ] {
        for gating in GATINGS {
            for (least_sum, scale) in [(0.0, 1.0), (6e-5, 2.5), (1e3, 1.0)] {
                let mut rng = Rng(51);
                let mut logits = floats(&mut rng, n * n_experts, 4.0);
                let bias = floats(&mut rng, n_experts, 0.3);
                let by = Routing { gating, n_used, least_sum, scale, ..PLAIN };
                chosen(gpu, &logits, n_experts, Some(&bias), &by);
                // equal ones too, those at the ends and zeros of both signs among them
                for at in (0..logits.len()).step_by(3) {
                    logits[at] = [2.0, 0.0, -0.0][at % 7 % 3];
                }
                chosen(gpu, &logits, n_experts, None, &by);
            }
        }
    }
}

/// Neighbours that share an id, and the weight of the expert of that id.
fn choices_of_shared_ids(gpu: &Gpu) {
    for (n_experts, n_used, per_id) in [(4, 2, 2), (9, 4, 3), (70, 8, 7), (256, 8, 2)] {
        for gating in GATINGS {
            let by = Routing { gating, n_used, least_sum: 1e-20, per_id, ..PLAIN };
            chosen(gpu, &floats(&mut Rng(59), 3 * n_experts, 3.0), n_experts, None, &by);
        }
    }
}

fn choices_of_groups(gpu: &Gpu) {
    for (n_experts, n_groups, n_groups_used, n_used) in
        [(6, 3, 1, 2), (6, 3, 2, 4), (8, 8, 3, 3), (256, 8, 4, 8), (128, 2, 2, 5), (1024, 1024, 9, 9)]
    {
        for gating in GATINGS {
            let mut rng = Rng(52);
            let mut logits = floats(&mut rng, 3 * n_experts, 3.0);
            let bias = floats(&mut rng, n_experts, 0.5);
            let by = Routing { gating, n_used, least_sum: 1e-20, n_groups, n_groups_used, ..PLAIN };
            chosen(gpu, &logits, n_experts, Some(&bias), &by);
            logits[n_experts..2 * n_experts].fill(1.0); // groups alike
            logits[2 * n_experts] = f32::NAN;
            logits[2 * n_experts + 1] = f32::NEG_INFINITY;
            chosen(gpu, &logits, n_experts, None, &by);
        }
    }
}

fn choices_of_what_is_no_number(gpu: &Gpu) {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for n_experts in [3, 70] {
            for gating in GATINGS {
                let by = Routing { gating, n_used: 3, ..PLAIN };
                let mut logits = floats(&mut Rng(53), n_experts, 3.0);
                logits[1] = odd;
                chosen(gpu, &logits, n_experts, None, &by);
                logits.fill(odd);
                chosen(gpu, &logits, n_experts, None, &by);
                logits[2] = 1.0;
                chosen(gpu, &logits, n_experts, None, &by);
            }
        }
    }
}

/// Different ids for each token; the first of `only`, so that others go without.
fn random_ids(rng: &mut Rng, n: usize, n_used: usize, only: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    for _ in 0..n {
        let mut left: Vec<u32> = (0..only as u32).collect();
        ids.extend((0..n_used).map(|_| left.swap_remove(rng.below(left.len()))));
    }
    ids
}

/// A matrix for each expert, with factors and biases.
struct Matrices {
    ty: TensorType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    weight: Weight,
    scale: Option<(Vec<f32>, Input)>,
    bias: Option<(Vec<f32>, Input)>,
}

impl Matrices {
    fn new(gpu: &Gpu, rng: &mut Rng, ty: TensorType, n_experts: usize, of: [usize; 2], with: bool) -> Self {
        let [rows, cols] = of;
        let bytes = random_tensor(rng, ty, n_experts * rows * cols, 1.0 / (cols as f32).sqrt());
        let weight = load(gpu, ty, n_experts * rows, cols, &bytes);
        let mut vector = |len: usize| {
            let values = floats(rng, len, 2.0);
            let on_card = gpu.input(&values);
            with.then_some((values, on_card))
        };
        let (scale, bias) = (vector(n_experts), vector(n_experts * rows));
        Matrices { ty, rows, cols, bytes, weight, scale, bias }
    }

    fn product<'a>(&'a self, dst: Span<'a>) -> Product<'a> {
        let [scale, bias] = [&self.scale, &self.bias].map(|v| v.as_ref().map(|(_, on_card)| on_card.span()));
        Product { weight: &self.weight, scale, bias, dst }
    }

    /// Of each pair, by the definition; x holds a row for each.
    fn times(&self, ids: &[u32], x: &[f32]) -> Vec<f32> {
        let bytes = self.ty.row_bytes(self.cols).unwrap() * self.rows;
        let mut all = Vec::new();
        for (id, x) in ids.iter().map(|id| *id as usize).zip(x.chunks_exact(self.cols)) {
            let of_it = products(self.ty, &self.bytes[id * bytes..][..bytes], x, None, self.rows, self.cols);
            let scale = self.scale.as_ref().map_or(1.0, |(scale, _)| scale[id]);
            let bias = |r: usize| self.bias.as_ref().map_or(0.0, |(bias, _)| bias[id * self.rows + r]);
            all.extend(of_it.iter().enumerate().map(|(r, x)| x * scale + bias(r)));
        }
        all
    }
}

/// A row of x for each pair, of those for each token.
fn for_pairs(x: &[f32], cols: usize, n_used: usize, each: bool) -> Vec<f32> {
    let copies = if each { 1 } else { n_used };
    x.chunks_exact(cols).flat_map(|row| row.repeat(copies)).collect()
}

/// A step of so many tokens.
#[derive(Clone, Copy, Debug)]
struct Case {
    ty: TensorType,
    rows: usize,
    cols: usize,
    n: usize,
    n_experts: usize,
    n_used: usize,
    /// Experts that are chosen at all.
    only: usize,
    each: bool,
    /// Factors and biases.
    with: bool,
}

impl Case {
    fn x_rows(&self) -> usize {
        if self.each { self.n * self.n_used } else { self.n }
    }

    fn pairs<'a>(&self, ids: &'a Input) -> TokenPairs<'a> {
        TokenPairs { ids: ids.span(), n: self.n, n_used: self.n_used, n_experts: self.n_experts }
    }

    /// Products of few tokens; `f`: with another matrix, and both in one.
    fn few(&self, gpu: &Gpu, f: Option<Binary>) {
        let Case { ty, rows, cols, n, n_experts, n_used, only, each, with } = *self;
        let mut rng = Rng(54);
        let ids = random_ids(&mut rng, n, n_used, only);
        let [gate, up] = [0; 2].map(|_| Matrices::new(gpu, &mut rng, ty, n_experts, [rows, cols], with));
        let x = floats(&mut rng, self.x_rows() * cols, 1.0);
        let plain = gpu.input(&x);
        let rounded = wants_rounded(ty).then(|| Rounded::new(gpu, &x, self.x_rows(), cols));
        let values = rounded.as_ref().map_or_else(|| x.clone(), |rounded| rounded.values(gpu));
        let input = rounded.as_ref().map_or(project::Input::Plain(plain.span()), Rounded::input);
        let (on_card, output) = (gpu.input(&ids), gpu.output::<f32>(n * n_used * rows));
        let (pairs, dst) = (self.pairs(&on_card), output.span());
        let values = for_pairs(&values, cols, n_used, each);
        let mut want = gate.times(&ids, &values);
        match f {
            None => experts::matvec(&gpu.stream, &gate.product(dst), pairs, input, each).unwrap(),
            Some(f) => {
                let both = want.iter().zip(up.times(&ids, &values));
                want = both.map(|(gate, up)| reference::binary(f, *gate, up)).collect();
                let unused = gpu.output::<f32>(n * n_used * rows);
                let products = [&gate, &up].map(|matrices| matrices.product(unused.span()));
                let [gate, up] = &products;
                experts::glu_matvec(&gpu.stream, f, gate, up, pairs, input, each, dst).unwrap();
                assert!(gpu.read::<f32>(&unused).iter().all(|x| x.is_nan()), "gate and up have a place");
            }
        }
        let error = nmse(&want, &gpu.read(&output));
        assert!(error <= 1e-6, "{self:?}, {f:?}: NMSE {error:.1e}");
    }

    /// Products of many, by each of the tiles.
    fn many(&self, gpu: &Gpu) {
        let Case { ty, rows, cols, n, n_experts, n_used, only, each, with } = *self;
        let mut rng = Rng(55);
        let ids = random_ids(&mut rng, n, n_used, only);
        let matrices = Matrices::new(gpu, &mut rng, ty, n_experts, [rows, cols], with);
        let x = floats(&mut rng, self.x_rows() * cols, 1.0);
        let want = matrices.times(&ids, &for_pairs(&x, cols, n_used, each));
        let (on_card, input) = (gpu.input(&ids), gpu.input(&x));
        let pairs = self.pairs(&on_card);
        let sorted = SortedPairs::new(gpu, n * n_used, n_experts);
        experts::sort(&gpu.stream, pairs, sorted.sorting()).unwrap();
        let h = gpu.output::<u16>(self.x_rows() * half_stride(cols).unwrap());
        let scale = gpu.output::<f32>(n * n_used);
        let half = HalfRows { h: h.span(), scale: scale.span() };
        experts::half_rows(&gpu.stream, input.span(), half, pairs, each, cols).unwrap();
        for tile in MatMulTile::ALL.into_iter().filter(|tile| tile.takes(ty, cols)) {
            let output = gpu.output::<f32>(n * n_used * rows);
            let product = matrices.product(output.span());
            experts::matmul_by(&gpu.stream, tile, &product, pairs, sorted.sorting(), half, each).unwrap();
            let error = nmse(&want, &gpu.read(&output));
            assert!(error <= 2e-7, "{self:?}, {tile:?}: NMSE {error:.1e}");
        }
    }
}

/// A type's block or so of columns.
fn cols_of(ty: TensorType) -> usize {
    match ty.block_len() {
        1 => 97,
        32 => 96,
        _ => 512,
    }
}

fn matvec(gpu: &Gpu, ty: TensorType) {
    let case = Case {
        ty,
        rows: 19,
        cols: cols_of(ty),
        n: 3,
        n_experts: 5,
        n_used: 2,
        only: 5,
        each: false,
        with: true,
    };
    case.few(gpu, None);
    Case { each: true, n: 8, with: false, ..case }.few(gpu, None);
}

fn matvec_shapes(gpu: &Gpu) {
    for ty in [F16, Q8_0, MXFP4] {
        for (rows, cols) in [(1, 32), (64, 2080), (33, 4864)] {
            for (n, n_experts, n_used) in [(1, 1, 1), (1, 8, 8), (4, 130, 3), (8, 2, 1)] {
                let case =
                    Case { ty, rows, cols, n, n_experts, n_used, only: n_experts, each: n == 1, with: true };
                case.few(gpu, None);
                case.few(gpu, Some(Binary::ClampedGlu));
            }
        }
    }
    if gpu.is_fast() {
        let (ty, each, with) = (Q4_K, false, false);
        Case { ty, rows: 768, cols: 2048, n: 8, n_experts: 128, n_used: 8, only: 128, each, with }
            .few(gpu, None);
    }
}

fn glu(gpu: &Gpu, ty: TensorType) {
    let cols = cols_of(ty);
    let case = Case { ty, rows: 21, cols, n: 2, n_experts: 4, n_used: 3, only: 4, each: false, with: false };
    case.few(gpu, Some(Binary::Glu(Unary::Silu)));
    Case { each: true, with: true, ..case }.few(gpu, Some(Binary::Glu(Unary::Gelu)));
    Case { n: 1, with: true, ..case }.few(gpu, Some(Binary::ClampedGlu));
}

/// Room for a sorting.
struct SortedPairs {
    pairs: Output,
    tokens: Output,
    tiles: Output,
}

impl SortedPairs {
    fn new(gpu: &Gpu, n_pairs: usize, n_experts: usize) -> Self {
        let [pairs, tokens] = [0; 2].map(|_| gpu.output::<u32>(n_pairs));
        SortedPairs { pairs, tokens, tiles: gpu.output::<u32>(experts::tile_words(n_pairs, n_experts)) }
    }

    fn sorting(&self) -> Sorting<'_> {
        Sorting { pairs: self.pairs.span(), tokens: self.tokens.span(), tiles: self.tiles.span() }
    }
}

/// Every pair has a place among those of its expert, and every place one tile of either side.
fn sorting(gpu: &Gpu) {
    for (n, n_experts, n_used, only) in [
        (1, 1, 1, 1),
        (9, 4, 2, 4),
        (200, 3, 2, 2),
        (65, 1, 1, 1),
        (100, MOST_EXPERTS, 4, MOST_EXPERTS),
        (gpu.pick(2048, 300), 128, 8, 128),
    ] {
        let what = format!("{n} tokens, {n_used} of {only} of {n_experts} experts");
        let ids = random_ids(&mut Rng(56), n, n_used, only);
        let (on_card, sorted) = (gpu.input(&ids), SortedPairs::new(gpu, n * n_used, n_experts));
        let pairs = TokenPairs { ids: on_card.span(), n, n_used, n_experts };
        experts::sort(&gpu.stream, pairs, sorted.sorting()).unwrap();
        let (order, tokens) = (gpu.read::<u32>(&sorted.pairs), gpu.read::<u32>(&sorted.tokens));
        let mut all = order.clone();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..(n * n_used) as u32), "{what}");
        assert!(order.iter().zip(&tokens).all(|(pair, token)| pair / n_used as u32 == *token), "{what}");
        let experts_of: Vec<u32> = order.iter().map(|pair| ids[*pair as usize]).collect();
        assert!(experts_of.is_sorted(), "{what}");
        let tiles = gpu.read::<u32>(&sorted.tiles);
        let mut tiles = tiles.chunks_exact(4);
        for side in [64, 128] {
            let mut covered = vec![0; order.len()];
            for tile in tiles.by_ref().take(order.len() / side + n_experts.min(order.len())) {
                let [expert, first, end, _] = tile else { unreachable!() };
                for place in (*first as usize..*end as usize).take(side) {
                    covered[place] += 1;
                    assert_eq!(experts_of[place], *expert, "{what}");
                }
            }
            assert!(covered.iter().all(|n| *n == 1), "{what}, tiles of {side}: {covered:?}");
        }
    }
}

fn matmul(gpu: &Gpu, ty: TensorType) {
    let cols = cols_of(ty);
    let case = Case { ty, rows: 70, cols, n: 12, n_experts: 4, n_used: 2, only: 4, each: false, with: true };
    case.many(gpu);
    Case { each: true, with: false, rows: 40, n: 80, n_experts: 2, n_used: 1, only: 2, ..case }.many(gpu);
}

fn matmul_shapes(gpu: &Gpu) {
    let plain =
        Case { ty: Q8_0, rows: 1, cols: 32, n: 9, n_experts: 1, n_used: 1, only: 1, each: false, with: true };
    for case in [
        plain,
        // all tokens of two experts, of many
        Case { rows: 65, cols: 64, n: 70, n_experts: 40, n_used: 2, only: 2, ..plain },
        // every expert a few
        Case { rows: 130, cols: 96, n: 20, n_experts: 30, n_used: 4, only: 30, each: true, ..plain },
        Case { ty: F16, rows: 17, cols: 40, n: 150, n_experts: 3, n_used: 3, only: 3, ..plain },
    ] {
        case.many(gpu);
    }
    if gpu.is_fast() {
        let large = Case { ty: Q4_K, rows: 768, cols: 2048, n_experts: 16, n_used: 8, only: 16, ..plain };
        Case { n: 100, ..large }.many(gpu);
        Case { n: 64, rows: 2048, cols: 768, each: true, ..large }.many(gpu);
    }
}

fn combine(gpu: &Gpu) {
    for (n, n_used, width) in [(1, 1, 1), (3, 2, 33), (2, 8, 1025), (gpu.pick(512, 2), 6, 4096)] {
        let mut rng = Rng(57);
        let (x, weights) = (floats(&mut rng, n * n_used * width, 2.0), floats(&mut rng, n * n_used, 1.0));
        let (input, on_card, output) = (gpu.input(&x), gpu.input(&weights), gpu.output::<f32>(n * width));
        for weighs in [true, false] {
            let mut want = vec![0.0; n * width];
            for (pair, x) in x.chunks_exact(width).enumerate() {
                let (sums, weight) = (&mut want[pair / n_used * width..][..width], weights[pair]);
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += if weighs { weight * x } else { *x });
            }
            let weights = weighs.then(|| on_card.span());
            let combine = |add| {
                let (input, output) = (input.span(), output.span());
                experts::combine(&gpu.stream, input, weights, add, output, n, n_used, width).unwrap();
            };
            combine(None);
            assert!(bits(&gpu.read(&output)) == bits(&want), "{n} x {n_used} x {width}, weights {weighs}");
            // in place, on top of itself
            combine(Some(output.span()));
            let twice: Vec<f32> = want.iter().map(|sum| sum + sum).collect();
            assert!(bits(&gpu.read(&output)) == bits(&twice), "{n} x {n_used} x {width}, added");
        }
    }
}

fn spread(gpu: &Gpu) {
    for (n, n_used, width) in [(1, 1, 1), (3, 2, 33), (2, 8, 1025), (gpu.pick(512, 2), 6, 4096)] {
        let mut rng = Rng(60);
        let (x, weights) = (floats(&mut rng, n * width, 2.0), floats(&mut rng, n * n_used, 1.0));
        let pairs = weights.iter().enumerate();
        let want: Vec<f32> = pairs
            .flat_map(|(pair, weight)| x[pair / n_used * width..][..width].iter().map(move |x| weight * x))
            .collect();
        let (input, weights, output) = (gpu.input(&x), gpu.input(&weights), gpu.output::<f32>(want.len()));
        experts::spread(&gpu.stream, input.span(), weights.span(), output.span(), n, n_used, width).unwrap();
        assert!(bits(&gpu.read(&output)) == bits(&want), "{n} x {n_used} x {width}");
    }
}

fn shapes_beyond_a_buffer_are_refused(gpu: &Gpu) {
    let buffer: Buffer = gpu.pool.alloc(4096, "a test's buffer").unwrap();
    let (all, s) = (buffer.span(), &gpu.stream);
    let part = all.part(0..64).unwrap();
    let weight = load(gpu, F32, 6, 8, &random_tensor(&mut Rng(58), F32, 48, 1.0));
    let two = Routing { n_used: 2, ..PLAIN };
    let route = |logits, bias, by: Routing, ids, weights, n_experts| {
        experts::route(s, logits, bias, &by, ids, weights, 20, n_experts)
    };
    let product = Product { weight: &weight, scale: None, bias: None, dst: all };
    let pairs = TokenPairs { ids: all, n: 20, n_used: 2, n_experts: 3 };
    let x = project::Input::Plain(all);
    let sorting = Sorting { pairs: all, tokens: all, tiles: all };
    let half = HalfRows { h: all, scale: all };
    let matvec = |product: Product<'_>, pairs, x| experts::matvec(s, &product, pairs, x, false);
    let matmul =
        |product: Product<'_>, sorting, half| experts::matmul(s, &product, pairs, sorting, half, false);
    let refused = [
        route(part, None, two, all, all, 3),
        route(all, Some(all.part(0..8).unwrap()), two, all, all, 3),
        route(all, None, two, part, all, 3),
        route(all, None, two, all, part, 3),
        route(all, None, two, all, all, 1),
        route(all, None, two, all, all, MOST_EXPERTS + 1),
        route(all, None, Routing { n_groups: 4, ..two }, all, all, 3),
        matvec(product, TokenPairs { ids: part, ..pairs }, x),
        matvec(product, pairs, project::Input::Plain(part)),
        matvec(Product { dst: part, ..product }, pairs, x),
        matvec(Product { scale: Some(all.part(0..8).unwrap()), ..product }, pairs, x),
        matvec(Product { bias: Some(all.part(0..8).unwrap()), ..product }, pairs, x),
        experts::sort(s, pairs, Sorting { pairs: part, ..sorting }),
        experts::sort(s, pairs, Sorting { tokens: part, ..sorting }),
        experts::sort(s, pairs, Sorting { tiles: part, ..sorting }),
        experts::sort(s, TokenPairs { n_experts: MOST_EXPERTS + 1, ..pairs }, sorting),
        matmul(product, Sorting { pairs: part, ..sorting }, half),
        matmul(product, sorting, HalfRows { scale: part, ..half }),
        matmul(product, sorting, HalfRows { h: part, ..half }),
        matmul(Product { dst: part, ..product }, sorting, half),
        experts::combine(s, all, Some(all), None, part, 20, 2, 8),
        experts::combine(s, all, Some(part), None, all, 20, 2, 8),
        experts::combine(s, all, None, Some(part), all, 20, 2, 8),
        experts::combine(s, part, None, None, all, 20, 2, 8),
        experts::spread(s, all, all, part, 20, 2, 8),
        experts::spread(s, all, part, all, 20, 2, 8),
        experts::spread(s, part, all, all, 20, 2, 8),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Param(_))), "case {i}: {result:?}");
    }
    s.synchronize().unwrap();
}
