//! Each op of the CPU device against the reference device: every instruction path of this processor,
//! 1 to 3 threads, odd sizes.
//!
//! Bounds on NMSE (sum of squared differences over sum of squares): 0 for copies, 1e-12 for f32 ops,
//! 1e-6 for attention (its cache rounds to f16), 5e-4 for products of 8-bit activations.

use crate::common;

use std::sync::{Arc, Mutex};

use common::gguf_writer::GgufWriter;
use common::tiny_model::{Rng, TinyModel, random_tensor};
use rocmforge::device::cpu::CpuDevice;
use rocmforge::device::cpu::isa::Isa;
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::device::{BLOCK_LEN, Cancel, Device, Session, SessionLimits, StateSlots, Step};
use rocmforge::gguf::{Gguf, TensorType};
use rocmforge::model::arch;
use rocmforge::plan::*;
use rocmforge::{Error, Result};

/// Every path this processor has, on 1 to 3 threads. Others are named, so that a run shows what it left out.
fn devices() -> Vec<(String, CpuDevice)> {
    let mut devices = Vec::new();
    for isa in Isa::ALL {
        if !isa.is_available() {
            println!("this processor cannot run the path {}", isa.name());
            continue;
        }
        for threads in 1..=3 {
            let device = CpuDevice::with_isa(threads, isa).unwrap();
            devices.push((format!("{} x{threads}", isa.name()), device));
        }
    }
    devices
}

fn nmse(want: &[f32], got: &[f32]) -> f64 {
    assert_eq!(want.len(), got.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = want.iter().zip(got).map(|(w, g)| square(w - g)).sum();
    error / want.iter().map(|w| square(*w)).sum::<f64>().max(f64::MIN_POSITIVE)
}

/// A graph and its file, put together by hand.
struct Bench {
    graph: Graph,
    file: GgufWriter,
    rng: Rng,
}

/// Ids of the rows that embeddings are taken from; steps use any of them.
const N_ROWS: usize = 97;

impl Bench {
    fn new(seed: u64) -> Self {
        Bench { graph: Graph::default(), file: GgufWriter::new(), rng: Rng(seed) }
    }

    fn weight(&mut self, ty: TensorType, cols: usize, rows: usize, sigma: f32) -> WeightId {
        let name = format!("w{}", self.graph.weights.len());
        let bytes = random_tensor(&mut self.rng, ty, cols * rows, sigma);
        let file = std::mem::take(&mut self.file);
        self.file = file.tensor(&name, ty, &[cols as u64, rows as u64], bytes);
        self.graph.weights.push(Weight::whole(name, ty, cols, rows));
        WeightId(self.graph.weights.len() as u32 - 1)
    }

    fn vector(&mut self, len: usize) -> Option<Vector> {
        Some(Vector(self.weight(TensorType::F32, len, 1, 1.0)))
    }

    /// An op and the value it writes.
    fn op(&mut self, width: usize, op: impl FnOnce(Out) -> Op) -> ValueId {
        self.op_of(width, Rows::Tokens, op)
    }

    fn value(&mut self, width: usize, rows: Rows) -> ValueId {
        self.graph.values.push(Value { name: "value", width, rows });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    fn op_of(&mut self, width: usize, rows: Rows, op: impl FnOnce(Out) -> Op) -> ValueId {
        let out = self.value(width, rows);
        let name = format!("op{}", self.graph.ops.len());
        self.graph.ops.push(NamedOp { name, op: op(Out(out)) });
        out
    }

    fn append(&mut self, cache: CacheId, k: ValueId, v: Option<ValueId>) {
        let name = format!("op{}", self.graph.ops.len());
        self.graph.ops.push(NamedOp { name, op: Op::Append { cache, k: In(k), v: v.map(In) } });
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(self.graph.width(a), |out| Op::Binary { a: Over(a), b: Over(b), f: Binary::Add, out })
    }

    /// A value of random f32 rows, one per id.
    fn input(&mut self, width: usize, sigma: f32) -> ValueId {
        let weight = Lookup(self.weight(TensorType::F32, width, N_ROWS, sigma));
        self.op(width, |out| Op::Embed { weight, by: LookupBy::Token, out })
    }

    /// Ends the plan: the rows of `x` are the "logits".
    fn finish(self, x: ValueId) -> (Arc<Plan>, Arc<Gguf>) {
        self.finish_with(x, &[])
    }

    /// The same, where `x` has not taken the storage of `kept`: they are read once more.
    fn finish_with(mut self, mut x: ValueId, kept: &[ValueId]) -> (Arc<Plan>, Arc<Gguf>) {
        for kept in kept {
            x = self.add(x, *kept);
        }
        let out = self.op_of(self.graph.width(x), Rows::Outputs, |out| Op::SelectRows { x: In(x), out });
        self.graph.outputs.push(out);
        let plan = Plan::new(self.graph).unwrap();
        (Arc::new(plan), Arc::new(Gguf::from_bytes(self.file.build(), "bench").unwrap()))
    }
}

/// A sequence's next tokens.
#[derive(Clone)]
struct Piece {
    sequence: usize,
    first: usize,
    tokens: Vec<u32>,
}

/// Runs steps, each of some sequences' pieces, all rows wanted; returns each step's logits. `tables`: of each of the plan's
/// pools one per sequence.
fn run(session: &mut dyn Session, tables: &[Vec<u32>], steps: &[Vec<Piece>]) -> Result<Vec<Vec<f32>>> {
    let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
    // each sequence has two slots of state, which it reads and writes in turns
    let mut now: Vec<Option<u32>> = vec![None; tables.len()];
    steps
        .iter()
        .map(|pieces| {
            let (mut tokens, mut positions, mut sequences) = (vec![], vec![], vec![]);
            for piece in pieces {
                for (i, token) in piece.tokens.iter().enumerate() {
                    tokens.push(*token);
                    positions.push((piece.first + i) as u32);
                    sequences.push(piece.sequence as u32);
                }
            }
            let outputs: Vec<u32> = (0..tokens.len() as u32).collect();
            let states: Vec<StateSlots> = (0..)
                .zip(&now)
                .map(|(s, now)| {
                    let write = 2 * s + u32::from(*now == Some(2 * s));
                    StateSlots { read: *now, write }
                })
                .collect();
            let step = Step {
                tokens: &tokens,
                positions: &positions,
                sequences: &sequences,
                tables: &tables,
                outputs: &outputs,
                inputs: &[],
                states: &states,
            };
            session.run(&step, &Cancel::default())?;
            for piece in pieces {
                now[piece.sequence] = Some(states[piece.sequence].write);
            }
            Ok(session.output(0).unwrap().to_vec())
        })
        .collect()
}

fn session(
    device: &dyn Device,
    plan: &Arc<Plan>,
    file: &Arc<Gguf>,
    limits: SessionLimits,
) -> Box<dyn Session> {
    let program = device.load(Arc::clone(plan), Arc::clone(file), &mut |_, _| true).unwrap();
    program.session(limits).unwrap()
}

fn ids(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.below(N_ROWS) as u32).collect()
}

/// One step of `n` tokens of one sequence from position `first` on, on every device; NMSE within `bound`.
fn check(what: &str, (plan, file): (Arc<Plan>, Arc<Gguf>), n: usize, first: usize, bound: f64) {
    let n_blocks = (first + n).div_ceil(BLOCK_LEN);
    let limits = SessionLimits { max_tokens: n, max_outputs: n, n_blocks, n_sequences: 8, n_states: 0 };
    let tables = [(0..n_blocks as u32).rev().collect()];
    let steps = [vec![Piece { sequence: 0, first, tokens: ids(n, 5) }]];
    let reference = ReferenceDevice::new(1);
    let want = run(&mut *session(&reference, &plan, &file, limits), &tables, &steps).unwrap().remove(0);
    for (name, device) in devices() {
        let got = run(&mut *session(&device, &plan, &file, limits), &tables, &steps).unwrap().remove(0);
        let error = nmse(&want, &got);
        assert!(error <= bound, "{what}, {n} tokens, {name}: NMSE {error:.1e}");
    }
}

#[test]
fn embeddings_and_selections_are_copies() {
    for (ty, width) in
        [(TensorType::F32, 7), (TensorType::F16, 33), (TensorType::Q8_0, 96), (TensorType::Q6_K, 256)]
    {
        for n in [1, 2, 61] {
            let mut bench = Bench::new(1);
            let weight = Lookup(bench.weight(ty, width, N_ROWS, 1.0));
            let x = bench.op(width, |out| Op::Embed { weight, by: LookupBy::Token, out });
            check(&format!("embed {ty}"), bench.finish(x), n, 0, 0.0);
        }
    }
}

/// Rows by position, more than one step's, and none beyond the last.
#[test]
fn rows_by_position() {
    let bench = |ty, width| {
        let mut bench = Bench::new(1);
        let x = bench.input(width, 1.0);
        let weight = Lookup(bench.weight(ty, width, 130, 1.0));
        let at = bench.op(width, |out| Op::Embed { weight, by: LookupBy::Position, out });
        let sum = bench.add(x, at);
        bench.finish(sum)
    };
    for (ty, width) in [(TensorType::F32, 7), (TensorType::F16, 33), (TensorType::Q8_0, 96)] {
        for (n, first) in [(1, 0), (61, 3), (9, 121)] {
            check(&format!("rows of {ty} by position"), bench(ty, width), n, first, 0.0);
        }
    }
    let (plan, file) = bench(TensorType::F32, 7);
    assert_eq!(plan.n_positions(), 130);
    let limits = SessionLimits { max_tokens: 9, max_outputs: 9, n_blocks: 3, n_sequences: 1, n_states: 0 };
    let steps = [vec![Piece { sequence: 0, first: 122, tokens: ids(9, 5) }]];
    let mut all: Vec<Box<dyn Device>> = vec![Box::new(ReferenceDevice::new(1))];
    all.extend(devices().into_iter().map(|(_, device)| Box::new(device) as Box<dyn Device>));
    for device in all {
        let mut session = session(&*device, &plan, &file, limits);
        let error = run(&mut *session, &[vec![0, 1, 2]], &steps).unwrap_err().to_string();
        assert!(error.contains("position 130") && error.contains("130 positions"), "{error}");
    }
}

#[test]
fn filled_rows() {
    for (n, value) in [(1, 0.5), (61, f32::NEG_INFINITY)] {
        let mut bench = Bench::new(1);
        let x = bench.input(5, 1.0);
        let filled = bench.op(33, |out| Op::Fill { like: In(x), value, out });
        // infinite where x does not show
        let out = bench.op(38, |out| Op::Join { a: In(filled), b: In(x), n: 1, out });
        let out = bench.op(38, |to| Op::Unary { x: Over(out), f: Unary::Clamp(-9.0, 9.0), out: to });
        check(&format!("filled with {value}"), bench.finish(out), n, 0, 0.0);
    }
}

#[test]
fn norms() {
    for (width, group) in [(1, 1), (5, 5), (15, 15), (33, 33), (576, 576), (60, 20), (128, 16), (1000, 1000)]
    {
        for kind in [NormKind::Rms, NormKind::Layer, NormKind::L2] {
            if (kind, group) == (NormKind::Layer, 1) {
                continue; // an element less its own mean is 0, and what is left is rounding
            }
            for (n, in_place, with) in [
                (1, false, [true, false]),
                (9, false, [false, true]),
                (9, true, [true, true]),
                (3, true, [false, false]),
            ] {
                let mut bench = Bench::new(2);
                let x = bench.input(width, 3.0);
                let [weight, bias] = with.map(|with| if with { bench.vector(group) } else { None });
                let norm = Norm { kind, weight, bias, eps: 1e-5 };
                let out = bench.op(width, |out| Op::Norm { x: Over(x), norm, group, out });
                let kept = if in_place { &[][..] } else { &[x] };
                check(
                    &format!("{kind:?} {width}/{group} {with:?}"),
                    bench.finish_with(out, kept),
                    n,
                    0,
                    1e-12,
                );
            }
        }
    }
}

#[test]
fn matrix_products() {
    use TensorType::*;
    for (ty, cols) in
        [(F32, 45), (F16, 64), (BF16, 96), (Q8_0, 96), (Q4_1, 64), (Q5_0, 32), (Q4_K, 256), (Q6_K, 512)]
    {
        let float = matches!(ty, F32 | F16 | BF16);
        for (rows, n, with_bias) in
            [(1, 1, false), (16, 2, true), (17, 3, false), (100, 1, true), (250, 37, true)]
        {
            let mut bench = Bench::new(3);
            let x = bench.input(cols, 1.0);
            let weight = Matrix(bench.weight(ty, cols, rows, 1.0));
            let bias = if with_bias { bench.vector(rows) } else { None };
            let out = bench.op(rows, |out| Op::MatMul { x: In(x), weight, bias, out });
            let bound = if float { 1e-12 } else { 5e-4 };
            check(&format!("{ty} {rows} x {cols}"), bench.finish(out), n, 0, bound);
        }
    }
}

#[test]
fn rope() {
    for (pairs, heads, head_dim, head_first, n_rot) in [
        (RopePairs::Halves, 3, 64, 0, 64),
        (RopePairs::Consecutive, 3, 64, 0, 64),
        (RopePairs::Halves, 1, 10, 0, 6),
        (RopePairs::Consecutive, 2, 10, 0, 6),
        (RopePairs::Halves, 2, 80, 0, 40),
        (RopePairs::Consecutive, 5, 2, 0, 2),
        (RopePairs::Halves, 2, 81, 7, 40),
        (RopePairs::Consecutive, 3, 24, 16, 8),
    ] {
        for (n, first) in [(1, 0), (1, 99_999), (70, 1000)] {
            let mut bench = Bench::new(4);
            let x = bench.input(heads * head_dim, 1.0);
            let inv_freq: Vec<f32> =
                (0..n_rot / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / n_rot as f32)).collect();
            bench.graph.ropes.push(Rope { pairs, inv_freq: inv_freq.into(), magnitude: 1.25, long: None });
            let width = heads * head_dim;
            let out = bench.op(width, |out| Op::Rope {
                x: Over(x),
                head_dim,
                first: head_first,
                rope: RopeId(0),
                out,
            });
            let kept = if n == 1 { &[][..] } else { &[x] };
            check(
                &format!("rope {pairs:?} {head_first} + {n_rot}/{head_dim}"),
                bench.finish_with(out, kept),
                n,
                first,
                1e-12,
            );
        }
    }
}

/// A session with room for more positions turns by the other table.
#[test]
fn rope_by_the_length_of_the_session() {
    let mut bench = Bench::new(4);
    let x = bench.input(2 * 24, 1.0);
    let freq = |base: f32| (0..10).map(|i| base.powf(-0.1 * i as f32)).collect::<Vec<f32>>();
    let long = LongTurns { beyond: 100, inv_freq: freq(3e4).into(), magnitude: 0.75 };
    let (pairs, inv_freq) = (RopePairs::Halves, freq(1e4).into());
    bench.graph.ropes.push(Rope { pairs, inv_freq, magnitude: 1.25, long: Some(long) });
    let rope = RopeId(0);
    let out = bench.op(48, |out| Op::Rope { x: Over(x), head_dim: 24, first: 0, rope, out });
    let (plan, file) = bench.finish(out);
    let reference = ReferenceDevice::new(1);
    let steps = [vec![Piece { sequence: 0, first: 70, tokens: ids(9, 5) }]];
    let limits =
        |n_blocks| SessionLimits { max_tokens: 9, max_outputs: 9, n_blocks, n_sequences: 1, n_states: 0 };
    let of = |device: &dyn Device, n_blocks| {
        let mut session = session(device, &plan, &file, limits(n_blocks));
        run(&mut *session, &[vec![0, 1]], &steps).unwrap().remove(0)
    };
    let (short, long) = (of(&reference, 2), of(&reference, 3));
    assert!(nmse(&short, &long) > 0.1);
    for (name, device) in devices() {
        for (n_blocks, want) in [(2, &short), (3, &long)] {
            let error = nmse(want, &of(&device, n_blocks));
            assert!(error <= 1e-12, "{n_blocks} blocks, {name}: NMSE {error:.1e}");
        }
    }
}

#[test]
fn parts_of_rows_are_copies() {
    for (groups, group, first, len) in [(1, 1, 0, 1), (3, 10, 7, 3), (2, 96, 0, 64), (5, 17, 4, 5)] {
        for (n, shared) in [(1, true), (9, false), (61, true)] {
            let mut bench = Bench::new(12);
            let x = bench.input(groups * group, 1.0);
            let part = bench.op(groups * len, |out| Op::Columns { x: In(x), group, first, out });
            let b = bench.input(if shared { 6 } else { groups * 6 }, 1.0);
            let width = groups * (len + 6);
            let out = bench.op(width, |out| Op::Join { a: In(part), b: In(b), n: groups, out });
            let what = format!("{len} of {group} from {first} on, {groups} times, and 6 {shared}");
            check(&what, bench.finish(out), n, 0, 0.0);
        }
    }
}

const FUNCTIONS: [Unary; 9] = [
    Unary::Silu,
    Unary::Gelu,
    Unary::Relu,
    Unary::Relu2,
    Unary::Sigmoid,
    Unary::Scale(-1.7),
    Unary::SoftCap(30.0),
    Unary::Softplus,
    Unary::Clamp(-0.75, 2.0),
];

#[test]
fn functions_and_gates() {
    for width in [1, 8, 31, 100, 1536] {
        for f in FUNCTIONS {
            for sigma in [1.0, 60.0] {
                for in_place in [false, true] {
                    let mut bench = Bench::new(5);
                    let (gate, up) = (bench.input(width, sigma), bench.input(width, 1.0));
                    let binary = Binary::Glu(f);
                    let out =
                        bench.op(width, |out| Op::Binary { a: Over(gate), b: Over(up), f: binary, out });
                    let out = bench.op(width, |to| Op::Unary { x: Over(out), f, out: to });
                    let kept = if in_place { &[][..] } else { &[gate, up] };
                    check(
                        &format!("{f:?} {width}, sigma {sigma}"),
                        bench.finish_with(out, kept),
                        7,
                        0,
                        1e-11,
                    );
                }
            }
        }
    }
}

#[test]
fn sums_products_and_factors() {
    for width in [1, 8, 31, 100, 1536] {
        for in_place in [false, true] {
            for f in [Binary::Add, Binary::Mul, Binary::ClampedGlu] {
                let mut bench = Bench::new(6);
                let (a, b) = (bench.input(width, 1.0), bench.input(width, 1.0));
                let out = bench.op(width, |out| Op::Binary { a: Over(a), b: Over(b), f, out });
                let kept = if in_place { &[][..] } else { &[a, b] };
                let bound = if f == Binary::ClampedGlu { 1e-12 } else { 0.0 };
                check(&format!("{f:?} {width}"), bench.finish_with(out, kept), 9, 0, bound);
            }
            for lengths in
                [[Some(1), None], [Some(width), Some(width)], [None, Some(width)], [Some(1), Some(1)]]
            {
                let mut bench = Bench::new(6);
                let x = bench.input(width, 1.0);
                let [scale, bias] = lengths.map(|len| len.and_then(|len| bench.vector(len)));
                let divides = false;
                let out = bench.op(width, |out| Op::Affine { x: Over(x), scale, divides, bias, out });
                let kept = if in_place { &[][..] } else { &[x] };
                check(&format!("{lengths:?} of {width}"), bench.finish_with(out, kept), 9, 0, 1e-12);
            }
        }
    }
}

/// What an element of the narrower operand does to its neighbours of the wider.
#[test]
fn narrow_operands_serve_neighbours() {
    for (width, narrow) in [(8, 1), (60, 20), (96, 3), (1536, 12), (66, 2)] {
        for (n, in_place) in [(1, true), (9, false), (61, true)] {
            for f in [Binary::Add, Binary::Mul, Binary::Glu(Unary::Gelu)] {
                let mut bench = Bench::new(6);
                let (a, b) = (bench.input(width, 1.0), bench.input(narrow, 1.0));
                let out = bench.op(width, |out| Op::Binary { a: Over(a), b: Over(b), f, out });
                let kept = if in_place { &[][..] } else { &[a] };
                let bound = if matches!(f, Binary::Glu(_)) { 1e-12 } else { 0.0 };
                check(&format!("{f:?} {width} by {narrow}"), bench.finish_with(out, kept), n, 0, bound);
            }
            for (divides, lengths) in [
                (false, [Some(narrow), Some(width)]),
                (true, [Some(narrow), None]),
                (true, [Some(width), Some(narrow)]),
            ] {
                let mut bench = Bench::new(6);
                let x = bench.input(width, 1.0);
                let [scale, bias] = lengths.map(|len| len.and_then(|len| bench.vector(len)));
                let out = bench.op(width, |out| Op::Affine { x: Over(x), scale, divides, bias, out });
                let kept = if in_place { &[][..] } else { &[x] };
                check(&format!("{lengths:?} of {width}"), bench.finish_with(out, kept), n, 0, 1e-12);
            }
        }
    }
}

/// A product whose gate or residual is narrower than it runs by itself, and comes to the same.
#[test]
fn narrow_operands_of_products() {
    for (f, n) in [Binary::Add, Binary::Glu(Unary::Silu)].into_iter().flat_map(|f| [(f, 1), (f, 9)]) {
        let mut bench = Bench::new(9);
        let (x, wide) = (bench.input(32, 1.0), bench.input(40, 1.0));
        let product = |bench: &mut Bench, rows| {
            let weight = Matrix(bench.weight(TensorType::F32, 32, rows, 1.0));
            bench.op(rows, |out| Op::MatMul { x: In(x), weight, bias: None, out })
        };
        let a = if f == Binary::Add { wide } else { product(&mut bench, 40) };
        let b = product(&mut bench, 8);
        let out = bench.op(40, |out| Op::Binary { a: Over(a), b: Over(b), f, out });
        check(&format!("{f:?} of a narrow product"), bench.finish(out), n, 0, 1e-11);
    }
}

/// A choice of experts, their products and the sum, of tokens that choose differently; each step by itself.
#[test]
fn mixtures_of_experts() {
    use TensorType::*;
    for (ty, bound) in [(F32, 1e-11), (F16, 1e-6), (Q8_0, 5e-4), (Q4_K, 5e-4)] {
        for (n_experts, n_used, each, n) in
            [(4, 1, false, 1), (5, 3, false, 40), (8, 2, true, 7), (3, 3, true, 1)]
        {
            let (cols, rows) = (256, 40);
            let mut bench = Bench::new(11);
            let logits = bench.input(n_experts, 2.0);
            let bias = bench.vector(n_experts);
            let x = bench.input(if each { n_used * cols } else { cols }, 1.0);
            let routing = Routing {
                gating: Gating::Sigmoid,
                n_used,
                least_sum: 1e-5,
                scale: 1.5,
                n_groups: 0,
                n_groups_used: 0,
                per_id: 1,
            };
            let weight = Experts(bench.weight(ty, cols, rows * n_experts, 1.0));
            let scale = bench.vector(n_experts);
            let by = bench.vector(n_experts * rows);
            let weights = bench.value(n_used, Rows::Tokens);
            let ids = bench.op(n_used, |ids| Op::Route {
                logits: In(logits),
                bias,
                routing,
                ids,
                weights: Out(weights),
            });
            let out = bench.op(n_used * rows, |out| Op::MatMulExperts {
                x: In(x),
                ids: In(ids),
                weight,
                scale,
                bias: by,
                out,
            });
            let sum = bench.op(rows, |to| Op::Combine { x: In(out), weights: Some(In(weights)), out: to });
            check(&format!("{n_used} of {n_experts} experts of {ty}"), bench.finish(sum), n, 0, bound);
        }
    }
}

/// Experts that read what their weights make of a row, and whose results are added as they are; several experts may share
/// their matrices.
#[test]
fn experts_of_weighted_inputs() {
    for (n_experts, n_used, per_id, n) in [(4, 1, 1, 1), (8, 3, 2, 40), (6, 4, 3, 7)] {
        let (cols, rows) = (48, 40);
        let mut bench = Bench::new(15);
        let logits = bench.input(n_experts, 2.0);
        let x = bench.input(cols, 1.0);
        let (gating, scale) = (Gating::Sigmoid, 1.0);
        let routing =
            Routing { gating, n_used, least_sum: 0.0, scale, n_groups: 0, n_groups_used: 0, per_id };
        let weight = Experts(bench.weight(TensorType::F32, cols, rows * (n_experts / per_id), 1.0));
        let by = bench.value(n_used, Rows::Tokens);
        let (logits, weights) = (In(logits), Out(by));
        let ids = bench.op(n_used, |ids| Op::Route { logits, bias: None, routing, ids, weights });
        let x = bench.op(n_used * cols, |out| Op::Spread { x: In(x), weights: In(by), out });
        let (x, ids, scale, bias) = (In(x), In(ids), None, None);
        let out = bench.op(n_used * rows, |out| Op::MatMulExperts { x, ids, weight, scale, bias, out });
        let sum = bench.op(rows, |to| Op::Combine { x: In(out), weights: None, out: to });
        check(&format!("{n_used} of {n_experts} experts, {per_id} an id"), bench.finish(sum), n, 0, 1e-11);
    }
}

/// Each head's matrix times its part, of one token and of many.
#[test]
fn products_of_heads() {
    use TensorType::*;
    for (ty, bound) in [(F32, 1e-11), (F16, 1e-6), (Q8_0, 5e-4), (Q4_K, 5e-4)] {
        for (heads, cols, rows, n) in [(1, 256, 7, 1), (3, 256, 40, 1), (5, 512, 17, 9), (2, 256, 300, 70)] {
            let mut bench = Bench::new(13);
            let x = bench.input(heads * cols, 1.0);
            let weight = Experts(bench.weight(ty, cols, rows * heads, 1.0));
            let out = bench.op(heads * rows, |out| Op::MatMulHeads { x: In(x), weight, out });
            check(&format!("{heads} heads of {rows} x {cols} {ty}"), bench.finish(out), n, 0, bound);
        }
    }
}

/// Steps of three sequences that begin, pause and end at different times, and three tables.
fn interleaved() -> (Vec<Vec<u32>>, Vec<Vec<Piece>>) {
    const LENGTHS: [[usize; 3]; 5] = [[5, 1, 0], [1, 2, 7], [0, 1, 1], [2, 40, 1], [1, 1, 1]];
    let mut at = [0; 3];
    let steps = LENGTHS.iter().enumerate().map(|(i, lengths)| {
        let pieces = (0..3).filter(|s| lengths[*s] > 0).map(|s| {
            let tokens = ids(lengths[s], (10 * i + s) as u64);
            at[s] += tokens.len();
            Piece { sequence: s, first: at[s] - tokens.len(), tokens }
        });
        pieces.collect()
    });
    let steps = steps.collect();
    (vec![vec![0], vec![1], vec![2]], steps)
}

const WITH_STATES: SessionLimits =
    SessionLimits { max_tokens: 64, max_outputs: 64, n_blocks: 3, n_sequences: 3, n_states: 6 };

/// Each step of [`interleaved`] against the reference.
fn check_states(what: &str, (plan, file): (Arc<Plan>, Arc<Gguf>), bound: f64) {
    let (tables, steps) = interleaved();
    let reference = ReferenceDevice::new(1);
    let want = run(&mut *session(&reference, &plan, &file, WITH_STATES), &tables, &steps).unwrap();
    for (name, device) in devices() {
        let got = run(&mut *session(&device, &plan, &file, WITH_STATES), &tables, &steps).unwrap();
        for (i, (want, got)) in want.iter().zip(&got).enumerate() {
            let error = nmse(want, got);
            assert!(error <= bound, "{what}, step {i}, {name}: NMSE {error:.1e}");
        }
    }
}

#[test]
fn temperature_by_position() {
    for (n, first) in [(1, 0), (1, 8191), (70, 8100)] {
        let mut bench = Bench::new(14);
        let x = bench.input(33, 1.0);
        let out = bench.op(33, |out| Op::Temper { x: Over(x), scale: 0.1, length: 1024, out });
        let kept = if n == 1 { &[][..] } else { &[x] };
        check("temper", bench.finish_with(out, kept), n, first, 0.0);
    }
}

#[test]
fn convolutions() {
    for (width, k, with_bias, silu) in [
        (1, 1, true, false),
        (5, 2, false, true),
        (64, 4, false, true),
        (100, 3, true, false),
        (200, 4, true, true),
    ] {
        let mut bench = Bench::new(21);
        let x = bench.input(width, 1.0);
        let weight = Vector(bench.weight(TensorType::F32, k, width, 1.0));
        let bias = if with_bias { bench.vector(width) } else { None };
        bench.graph.states.push(State { elements: (k - 1) * width });
        let state = StateId(0);
        let out = bench.op(width, |out| Op::Conv { x: In(x), weight, bias, silu, state, out });
        check_states(&format!("convolution of {width} over {k}"), bench.finish(out), 1e-12);
    }
}

/// Heads of a delta net: of keys and of values, and elements of each.
#[derive(Clone, Copy, Debug)]
struct DeltaHeads {
    n_k: usize,
    n_v: usize,
    k: usize,
    v: usize,
    heads: KeyHeads,
    g_by_row: bool,
}

fn delta_bench(of: DeltaHeads) -> (Arc<Plan>, Arc<Gguf>) {
    let DeltaHeads { n_k, n_v, k, v, heads, g_by_row } = of;
    let mut bench = Bench::new(22);
    let sigma = 1.0 / (k as f32).sqrt();
    let [q, key] = [0; 2].map(|_| In(bench.input(n_k * k, sigma)));
    let value = In(bench.input(n_v * v, 1.0));
    // a state that forgets, and betas of 0 to 1
    let x = bench.input(if g_by_row { n_v * k } else { n_v }, 1.0);
    let x = bench.op(bench.graph.width(x), |out| Op::Unary { x: Over(x), f: Unary::Softplus, out });
    let g = bench.op(bench.graph.width(x), |out| Op::Unary { x: Over(x), f: Unary::Scale(-0.3), out });
    let x = bench.input(n_v, 1.0);
    let beta = bench.op(n_v, |out| Op::Unary { x: Over(x), f: Unary::Sigmoid, out });
    bench.graph.states.push(State { elements: n_v * k * v });
    let (g, beta, state) = (In(g), In(beta), StateId(0));
    let out = bench.op(n_v * v, |out| Op::DeltaNet {
        q,
        k: key,
        v: value,
        g,
        beta,
        n_k,
        heads,
        scale: sigma,
        state,
        out,
    });
    bench.finish(out)
}

#[test]
fn delta_nets() {
    let plain = |n_k, n_v, k, v| DeltaHeads { n_k, n_v, k, v, heads: KeyHeads::Blocks, g_by_row: false };
    for of in [
        plain(1, 1, 4, 5),
        plain(2, 4, 20, 33),
        DeltaHeads { heads: KeyHeads::Turns, ..plain(2, 4, 16, 64) },
        DeltaHeads { g_by_row: true, ..plain(3, 3, 32, 80) },
        DeltaHeads { g_by_row: true, heads: KeyHeads::Turns, ..plain(2, 6, 12, 150) },
        plain(1, 2, 128, 128),
    ] {
        check_states(&format!("{of:?}"), delta_bench(of), 1e-11);
    }
}

/// What a token gets does not depend on the step that it is in, nor on the threads: bit for bit.
#[test]
fn delta_nets_are_the_same_in_any_batch() {
    let heads = KeyHeads::Turns;
    let (plan, file) = delta_bench(DeltaHeads { n_k: 2, n_v: 4, k: 40, v: 100, heads, g_by_row: false });
    let tokens = ids(60, 3);
    let piece = |at: usize, n: usize| Piece { sequence: 0, first: at, tokens: tokens[at..at + n].to_vec() };
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut all: Vec<Vec<f32>> = Vec::new();
        for threads in 1..=3 {
            let device = CpuDevice::with_isa(threads, isa).unwrap();
            for sizes in [&[60][..], &[1, 2, 5, 8, 9, 35], &[1; 60]] {
                let mut at = 0;
                let steps: Vec<_> = sizes
                    .iter()
                    .map(|n| {
                        at += n;
                        vec![piece(at - n, *n)]
                    })
                    .collect();
                let mut session = session(&device, &plan, &file, WITH_STATES);
                all.push(run(&mut *session, &[vec![0]], &steps).unwrap().concat());
            }
        }
        assert!(all.iter().all(|other| *other == all[0]), "{}", isa.name());
    }
}

/// Heads, elements of keys and values, window and scores of an attention.
#[derive(Clone, Copy, Debug)]
struct Heads {
    n_head: usize,
    n_head_kv: usize,
    k: usize,
    v: usize,
    /// Whether keys hold the values.
    in_keys: bool,
    window: Option<Window>,
    cap: f32,
    alibi: f32,
    causal: bool,
    sinks: bool,
}

impl Heads {
    fn plain(n_head: usize, n_head_kv: usize, head_dim: usize) -> Heads {
        let (k, v) = (head_dim, head_dim);
        Heads {
            n_head,
            n_head_kv,
            k,
            v,
            in_keys: false,
            window: None,
            cap: 0.0,
            alibi: 0.0,
            causal: true,
            sinks: false,
        }
    }

    fn latent(n_head: usize, n_head_kv: usize, k: usize, v: usize) -> Heads {
        Heads { in_keys: true, v, ..Heads::plain(n_head, n_head_kv, k) }
    }
}

/// Two layers of nothing but attention, the second over other rows and with as many heads for keys as for queries.
fn attention_bench(heads: Heads) -> (Arc<Plan>, Arc<Gguf>) {
    let mut bench = Bench::new(7);
    let mut sum = None;
    for layer in 0..2 {
        let Heads { n_head, n_head_kv, k, v, in_keys, window, cap, alibi, causal, sinks } = heads;
        let n_head_kv = if layer == 0 { n_head_kv } else { n_head };
        let values = if in_keys { Values::InKeys(v) } else { Values::Own(v) };
        bench.graph.caches.push(Cache { n_head_kv, k, values, window });
        let cache = CacheId(layer);
        let q = bench.input(n_head * k, 2.0);
        let keys = bench.input(n_head_kv * k, 2.0);
        let values = (!in_keys).then(|| bench.input(n_head_kv * v, 1.0));
        bench.append(cache, keys, values);
        let scores = Scores { scale: 1.0 / (k as f32).sqrt(), cap, alibi, causal };
        let sinks = if sinks { bench.vector(n_head) } else { None };
        let out = bench.op(n_head * v, |out| Op::Attention { cache, q: In(q), scores, sinks, out });
        sum = Some(sum.map_or(out, |sum| bench.add(sum, out)));
    }
    bench.finish(sum.unwrap())
}

/// Prefill in steps of uneven lengths and then decode, over three interleaved sequences whose blocks lie
/// scattered; blocks that hold another's large values are taken over first.
#[test]
fn attention_over_a_paged_cache() {
    use Window::{Chunks, Sliding};
    const LENGTHS: [[usize; 4]; 3] = [[1, 63, 230, 1], [40, 1, 1, 90], [300, 260, 5, 2]];
    let tables =
        |first| (first..first + 3).map(|s| (0..10).map(|b| (b * 3 + s) * 7 % 30).collect::<Vec<u32>>());
    let limits =
        SessionLimits { max_tokens: 512, max_outputs: 512, n_blocks: 30, n_sequences: 8, n_states: 0 };
    let mut steps = Vec::new();
    let mut at = [0; 3];
    for i in 0..4 {
        steps.push(Vec::new());
        for s in 0..3 {
            let n = LENGTHS[s][i];
            let tokens = ids(n, (10 * i + s) as u64);
            steps[i].push(Piece { sequence: s, first: at[s], tokens });
            at[s] += n;
        }
    }
    // few tokens at depth, several of one sequence among them
    steps.push(vec![
        Piece { sequence: 2, first: at[2], tokens: ids(3, 77) },
        Piece { sequence: 0, first: at[0], tokens: ids(1, 78) },
    ]);
    steps.push(vec![Piece { sequence: 2, first: at[2] + 3, tokens: ids(1, 79) }]);
    let plain =
        [(1, 1, 2), (3, 1, 16), (9, 3, 64), (14, 2, 64), (2, 2, 40), (4, 1, 128), (2, 1, 80), (60, 1, 6)]
            .map(|(n_head, n_head_kv, head_dim)| Heads::plain(n_head, n_head_kv, head_dim));
    let others = [
        Heads { v: 24, ..Heads::plain(4, 2, 40) },
        Heads { window: Some(Sliding(1)), ..Heads::plain(2, 1, 16) },
        Heads { window: Some(Sliding(32)), ..Heads::plain(6, 2, 32) },
        Heads { window: Some(Sliding(100)), cap: 3.0, ..Heads::plain(4, 2, 64) },
        Heads { window: Some(Sliding(300)), k: 16, v: 48, ..Heads::plain(3, 3, 0) },
        Heads { window: Some(Chunks(1)), ..Heads::plain(2, 1, 16) },
        Heads { window: Some(Chunks(64)), ..Heads::plain(6, 2, 32) },
        Heads { window: Some(Chunks(90)), cap: 3.0, sinks: true, ..Heads::plain(4, 2, 64) },
        Heads { window: Some(Chunks(301)), k: 16, v: 48, ..Heads::plain(3, 3, 0) },
        Heads { cap: 1.5, ..Heads::plain(3, 1, 20) },
        Heads { sinks: true, window: Some(Sliding(40)), ..Heads::plain(4, 2, 32) },
        Heads { sinks: true, ..Heads::plain(6, 3, 16) },
        Heads::latent(3, 1, 72, 64),
        Heads::latent(50, 1, 20, 13),
        Heads { window: Some(Sliding(90)), sinks: true, ..Heads::latent(6, 2, 33, 33) },
        Heads { alibi: 8.0, ..Heads::plain(4, 2, 32) },
        Heads { alibi: 4.0, cap: 2.0, window: Some(Sliding(70)), sinks: true, ..Heads::plain(14, 7, 40) },
        Heads { alibi: 1.0, ..Heads::latent(6, 1, 40, 24) },
        Heads { causal: false, ..Heads::plain(9, 3, 64) },
        Heads { causal: false, window: Some(Sliding(40)), cap: 3.0, ..Heads::plain(2, 1, 20) },
        Heads { causal: false, alibi: 8.0, sinks: true, ..Heads::plain(3, 1, 80) },
        Heads { causal: false, ..Heads::latent(5, 1, 72, 64) },
    ];
    for heads in plain.into_iter().chain(others) {
        let (plan, file) = attention_bench(heads);
        // those of windows are in another order
        let tables: Vec<_> = (0..plan.pools().len() as u32).flat_map(|pool| tables(4 * pool)).collect();
        let reference = ReferenceDevice::new(1);
        let want = run(&mut *session(&reference, &plan, &file, limits), &tables, &steps).unwrap();
        for (name, device) in devices() {
            let mut session = session(&device, &plan, &file, limits);
            let old: Vec<Piece> =
                (0..3).map(|s| Piece { sequence: s, first: 600, tokens: ids(40, 99) }).collect();
            run(&mut *session, &tables, &[old]).unwrap();
            let got = run(&mut *session, &tables, &steps).unwrap();
            for (i, (want, got)) in want.iter().zip(&got).enumerate() {
                let error = nmse(want, got);
                assert!(error <= 1e-6, "{heads:?}, step {i}, {name}: NMSE {error:.1e}");
            }
        }
    }
}

/// What a token gets does not depend on its neighbours in the step, nor on the threads: bit for bit.
#[test]
fn attention_is_the_same_in_any_batch() {
    let plain = Heads::plain(6, 2, 40);
    for window in [Window::Sliding(150), Window::Chunks(150)] {
        is_the_same_in_any_batch(Heads { window: Some(window), ..plain });
    }
    is_the_same_in_any_batch(Heads::latent(6, 1, 40, 24));
}

fn is_the_same_in_any_batch(heads: Heads) {
    let (plan, file) = attention_bench(heads);
    let limits =
        SessionLimits { max_tokens: 620, max_outputs: 620, n_blocks: 20, n_sequences: 8, n_states: 0 };
    let of_pool = |_| (0..2).map(|s| (0..10).map(|b| b * 2 + s).collect());
    let tables: Vec<Vec<u32>> = plan.pools().flat_map(of_pool).collect();
    let tokens = ids(620, 3);
    let piece = |s: usize, from: usize, to: usize| Piece {
        sequence: s,
        first: from,
        tokens: tokens[from..to].to_vec(),
    };
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut all: Vec<Vec<f32>> = Vec::new();
        for threads in 1..=3 {
            let device = CpuDevice::with_isa(threads, isa).unwrap();
            let fresh = || session(&device, &plan, &file, limits);
            let one = run(&mut *fresh(), &tables, &[vec![piece(0, 0, 620)]]).unwrap();
            all.push(one.concat());
            let sizes: &[usize] = &[1, 2, 5, 8, 9, 64, 300, 231];
            let mut steps = Vec::new();
            let mut at = 0;
            for n in sizes {
                steps.push(vec![piece(0, at, at + n)]);
                at += n;
            }
            assert_eq!(at, 620);
            all.push(run(&mut *fresh(), &tables, &steps).unwrap().concat());
            // beside another sequence, which is cut off the results
            let beside: Vec<Vec<Piece>> =
                steps.iter().map(|s| vec![s[0].clone(), Piece { sequence: 1, ..s[0].clone() }]).collect();
            let beside = beside.into_iter().filter(|s| s[0].tokens.len() <= 300).collect::<Vec<_>>();
            let got = run(&mut *fresh(), &tables, &beside).unwrap();
            let got: Vec<f32> = got.iter().flat_map(|rows| rows[..rows.len() / 2].to_vec()).collect();
            all.push(got);
        }
        for other in &all[1..] {
            assert!(all[0].iter().zip(other).all(|(a, b)| a == b), "{}", isa.name());
        }
    }
}

/// Ops by name and what they left in their buffers.
type Seen = Vec<(String, Vec<f32>)>;

/// Whole models, op by op and by name: close to the reference, and fused or not the same bits.
#[test]
fn tiny_models_op_by_op() {
    use TensorType::*;
    for (arch, types, tied) in [
        ("llama", vec![F32], false),
        ("llama", vec![Q8_0, Q4_1, F16], true),
        ("qwen2", vec![Q4_K, Q6_K, Q8_0, BF16], false),
        ("qwen3", vec![Q5_0, Q4_0, Q8_0], true),
    ] {
        let float = types == [F32];
        let model = TinyModel { tied, ..TinyModel::new(arch).types(&types) };
        let file = model.gguf();
        let plan = Arc::new(arch::plan(&file).unwrap().1);
        let limits =
            SessionLimits { max_tokens: 70, max_outputs: 70, n_blocks: 2, n_sequences: 8, n_states: 0 };
        let tables = [vec![1, 0]];
        let steps = [70, 1, 5, 1].map(|n| n);
        let mut at = 0;
        let steps = steps.map(|n| {
            at += n;
            vec![Piece { sequence: 0, first: at - n, tokens: ids(n, at as u64) }]
        });
        let watched = |device: &dyn Device| {
            let mut session = session(device, &plan, &file, limits);
            let seen: Arc<Mutex<Seen>> = Arc::default();
            let sink = Arc::clone(&seen);
            session.observe(Some(Box::new(move |name, rows, data| {
                assert!(rows > 0);
                sink.lock().unwrap().push((name.to_owned(), data.to_vec()));
            })));
            let logits = run(&mut *session, &tables, &steps).unwrap();
            let seen = std::mem::take(&mut *seen.lock().unwrap());
            (seen, logits)
        };
        let (want, _) = watched(&ReferenceDevice::new(1));
        for (name, device) in devices() {
            let (got, unfused) = watched(&device);
            let names = |list: &Seen| list.iter().map(|x| x.0.clone()).collect::<Vec<_>>();
            assert_eq!(names(&want), names(&got), "{arch} {name}");
            for ((op, want), (_, got)) in want.iter().zip(&got) {
                let error = nmse(want, got);
                // what the cache's f16 and the activations' 8 bits round off adds up over the layers
                let bound = if float { 1e-5 } else { 5e-3 };
                assert!(error <= bound, "{arch} {types:?}, {name}: {op}: NMSE {error:.1e}");
            }
            let fused = run(&mut *session(&device, &plan, &file, limits), &tables, &steps).unwrap();
            assert!(fused == unfused, "{arch} {types:?}, {name}: fused and unfused differ");
        }
    }
}

#[test]
fn transpose() {
    let mut rng = Rng(8);
    for (rows, cols) in [(1, 1), (1, 100), (31, 33), (64, 64), (200, 77), (0, 5)] {
        let src: Vec<f32> = (0..rows * cols).map(|_| rng.signed()).collect();
        for (name, device) in devices() {
            let mut dst = vec![f32::NAN; rows * cols];
            device.transpose(&src, &mut dst, rows, cols).unwrap();
            for r in 0..rows {
                for c in 0..cols {
                    assert_eq!(dst[c * rows + r], src[r * cols + c], "{name} {rows} x {cols}");
                }
            }
            assert!(matches!(device.transpose(&src, &mut dst, rows + 1, cols + 1), Err(Error::Param(_))));
        }
    }
}
