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
use rocmforge::device::plan::*;
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::device::{BLOCK_LEN, Cancel, Device, Session, SessionLimits, Step};
use rocmforge::gguf::{Gguf, TensorType};
use rocmforge::model::arch;
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

/// A plan and its file, put together by hand.
struct Bench {
    plan: Plan,
    file: GgufWriter,
    rng: Rng,
}

/// Ids of the rows that embeddings are taken from; steps use any of them.
const N_ROWS: usize = 97;

impl Bench {
    fn new(seed: u64) -> Self {
        let plan = Plan {
            weights: Vec::new(),
            buffers: Vec::new(),
            ropes: Vec::new(),
            ops: Vec::new(),
            layers: Vec::new(),
            cache: CacheShape { n_layers: 1, n_head: 1, n_head_kv: 1, head_dim: 8 },
            input: None,
            output: BufferId(0),
        };
        Bench { plan, file: GgufWriter::new(), rng: Rng(seed) }
    }

    fn weight(&mut self, ty: TensorType, cols: usize, rows: usize, sigma: f32) -> WeightId {
        let name = format!("w{}", self.plan.weights.len());
        let bytes = random_tensor(&mut self.rng, ty, cols * rows, sigma);
        let file = std::mem::take(&mut self.file);
        self.file = file.tensor(&name, ty, &[cols as u64, rows as u64], bytes);
        self.plan.weights.push(Weight { name, ty, cols, rows });
        WeightId(self.plan.weights.len() as u32 - 1)
    }

    fn buffer(&mut self, width: usize, rows: Rows) -> BufferId {
        self.plan.buffers.push(Buffer { name: "buffer", width, rows });
        BufferId(self.plan.buffers.len() as u32 - 1)
    }

    fn op(&mut self, op: Op) {
        let name = format!("op{}", self.plan.ops.len());
        self.plan.ops.push(NamedOp { name, op });
    }

    /// A buffer of random f32 rows, one per id.
    fn input(&mut self, width: usize, sigma: f32) -> BufferId {
        let weight = self.weight(TensorType::F32, width, N_ROWS, sigma);
        let out = self.buffer(width, Rows::Tokens);
        self.op(Op::Embed { weight, out });
        out
    }

    /// Ends the plan: the rows of `x` are the "logits".
    fn finish(mut self, x: BufferId) -> (Arc<Plan>, Arc<Gguf>) {
        let out = self.buffer(self.plan.buffer(x).width, Rows::Outputs);
        self.op(Op::SelectRows { x, out });
        self.plan.output = out;
        (Arc::new(self.plan), Arc::new(Gguf::from_bytes(self.file.build(), "bench").unwrap()))
    }
}

/// A sequence's next tokens.
#[derive(Clone)]
struct Piece {
    sequence: usize,
    first: usize,
    tokens: Vec<u32>,
}

/// Runs steps, each of some sequences' pieces, all rows wanted; returns each step's logits.
fn run(session: &mut dyn Session, tables: &[Vec<u32>], steps: &[Vec<Piece>]) -> Result<Vec<Vec<f32>>> {
    let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
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
            let step = Step {
                tokens: &tokens,
                positions: &positions,
                sequences: &sequences,
                tables: &tables,
                outputs: &outputs,
                input: &[],
            };
            session.run(&step, &Cancel::default())?;
            Ok(session.output().unwrap().to_vec())
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
    let limits = SessionLimits { max_tokens: n, max_outputs: n, n_blocks };
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
            let weight = bench.weight(ty, width, N_ROWS, 1.0);
            let x = bench.buffer(width, Rows::Tokens);
            bench.op(Op::Embed { weight, out: x });
            check(&format!("embed {ty}"), bench.finish(x), n, 0, 0.0);
        }
    }
}

#[test]
fn rms_norm() {
    for (width, group) in [(1, 1), (5, 5), (15, 15), (33, 33), (576, 576), (60, 20), (128, 16), (1000, 1000)]
    {
        for (n, in_place) in [(1, false), (9, false), (9, true)] {
            let mut bench = Bench::new(2);
            let x = bench.input(width, 3.0);
            let weight = bench.weight(TensorType::F32, group, 1, 1.0);
            let out = if in_place { x } else { bench.buffer(width, Rows::Tokens) };
            bench.op(Op::RmsNorm { x, weight, eps: 1e-5, out });
            check(&format!("rms_norm {width}/{group}"), bench.finish(out), n, 0, 1e-12);
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
            let weight = bench.weight(ty, cols, rows, 1.0);
            let bias = with_bias.then(|| bench.weight(F32, rows, 1, 1.0));
            let out = bench.buffer(rows, Rows::Tokens);
            bench.op(Op::MatMul { x, weight, bias, out });
            let bound = if float { 1e-12 } else { 5e-4 };
            check(&format!("{ty} {rows} x {cols}"), bench.finish(out), n, 0, bound);
        }
    }
}

#[test]
fn rope() {
    for (pairs, heads, head_dim, n_rot) in [
        (RopePairs::Halves, 3, 64, 64),
        (RopePairs::Consecutive, 3, 64, 64),
        (RopePairs::Halves, 1, 10, 6),
        (RopePairs::Consecutive, 2, 10, 6),
        (RopePairs::Halves, 2, 80, 40),
        (RopePairs::Consecutive, 5, 2, 2),
    ] {
        for (n, first) in [(1, 0), (1, 99_999), (70, 1000)] {
            let mut bench = Bench::new(4);
            let x = bench.input(heads * head_dim, 1.0);
            let inv_freq: Vec<f32> =
                (0..n_rot / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / n_rot as f32)).collect();
            bench.plan.ropes.push(Rope { pairs, inv_freq: inv_freq.into(), magnitude: 1.25 });
            bench.op(Op::Rope { x, head_dim, rope: RopeId(0) });
            check(&format!("rope {pairs:?} {n_rot}/{head_dim}"), bench.finish(x), n, first, 1e-12);
        }
    }
}

#[test]
fn gates_and_sums() {
    for width in [1, 8, 31, 100, 1536] {
        for activation in [Activation::Silu, Activation::Gelu] {
            for sigma in [1.0, 60.0] {
                for in_place in [false, true] {
                    let mut bench = Bench::new(5);
                    let (gate, up) = (bench.input(width, sigma), bench.input(width, 1.0));
                    let out = if in_place { gate } else { bench.buffer(width, Rows::Tokens) };
                    bench.op(Op::Glu { gate, up, activation, out });
                    check(&format!("{activation:?} {width}, sigma {sigma}"), bench.finish(out), 7, 0, 1e-12);
                }
            }
        }
        for in_place in [false, true] {
            let mut bench = Bench::new(6);
            let (a, b) = (bench.input(width, 1.0), bench.input(width, 1.0));
            let out = if in_place { a } else { bench.buffer(width, Rows::Tokens) };
            bench.op(Op::Add { a, b, out });
            check(&format!("add {width}"), bench.finish(out), 9, 0, 0.0);
        }
    }
}

/// Two layers of nothing but attention, the second over other rows.
fn attention_bench(n_head: usize, n_head_kv: usize, head_dim: usize) -> (Arc<Plan>, Arc<Gguf>) {
    let mut bench = Bench::new(7);
    bench.plan.cache = CacheShape { n_layers: 2, n_head, n_head_kv, head_dim };
    let mut sum = None;
    for layer in 0..2 {
        let q = bench.input(n_head * head_dim, 2.0);
        let (k, v) = (bench.input(n_head_kv * head_dim, 2.0), bench.input(n_head_kv * head_dim, 1.0));
        bench.op(Op::KvAppend { layer, k, v });
        let out = bench.buffer(n_head * head_dim, Rows::Tokens);
        bench.op(Op::Attention { layer, q, scale: 1.0 / (head_dim as f32).sqrt(), out });
        match sum {
            None => sum = Some(out),
            Some(a) => bench.op(Op::Add { a, b: out, out: a }),
        }
    }
    bench.finish(sum.unwrap())
}

/// Prefill in steps of uneven lengths and then decode, over three interleaved sequences whose blocks lie
/// scattered; blocks that hold another's large values are taken over first.
#[test]
fn attention_over_a_paged_cache() {
    const LENGTHS: [[usize; 4]; 3] = [[1, 63, 230, 1], [40, 1, 1, 90], [300, 260, 5, 2]];
    let tables: Vec<Vec<u32>> = (0..3).map(|s| (0..10).map(|b| (b * 3 + s) * 7 % 30).collect()).collect();
    let limits = SessionLimits { max_tokens: 512, max_outputs: 512, n_blocks: 30 };
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
    for (n_head, n_head_kv, head_dim) in
        [(1, 1, 2), (3, 1, 16), (9, 3, 64), (14, 2, 64), (2, 2, 40), (4, 1, 128), (2, 1, 80), (60, 1, 6)]
    {
        let (plan, file) = attention_bench(n_head, n_head_kv, head_dim);
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
                assert!(
                    error <= 1e-6,
                    "heads {n_head}/{n_head_kv} of {head_dim}, step {i}, {name}: NMSE {error:.1e}"
                );
            }
        }
    }
}

/// What a token gets does not depend on its neighbours in the step, nor on the threads: bit for bit.
#[test]
fn attention_is_the_same_in_any_batch() {
    let (plan, file) = attention_bench(6, 2, 40);
    let limits = SessionLimits { max_tokens: 620, max_outputs: 620, n_blocks: 20 };
    let tables: Vec<Vec<u32>> = (0..2).map(|s| (0..10).map(|b| b * 2 + s).collect()).collect();
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
        let limits = SessionLimits { max_tokens: 70, max_outputs: 70, n_blocks: 2 };
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
