//! Whole models on the GPU, against the reference device: every architecture and tensor type, steps of one, few and
//! many tokens, on every emulated card or on a real GPU with ROCMFORGE_TEST_GPU=1.
//!
//! Rounding activations to 8 bits is an error of about 0.4 % a product; through two layers the logits' normalized
//! mean squared error stays below 5e-3. Models of f32 weights are bound by the cache, which is of f16: 1e-5.

use crate::common;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use common::emulated::Emulator;
use common::gguf_writer::GgufWriter;
use common::gpu::{Test, nmse};
use common::logits::evaluate;
use common::tiny_model::{Rng, TinyModel, random_tensor};
use rocmforge::Error;
use rocmforge::device::hip::device::HipDevice;
use rocmforge::device::hip::graph::SWITCH;
use rocmforge::device::reference::ReferenceDevice;
use rocmforge::device::sampling::{Draw, WHOLE};
use rocmforge::device::{Cancel, Device, DeviceChoice, SessionLimits, Step};
use rocmforge::engine::{
    Backend, BackendParams, Batch, Context, ContextParams, DeviceKind, Model, ModelParams,
};
use rocmforge::gguf::Gguf;
use rocmforge::gguf::TensorType::{self, *};
use rocmforge::model::arch;
use rocmforge::plan::*;

pub const TESTS: &[Test] = &[
    Test::new("llama", |_| architecture("llama")),
    Test::new("qwen2", |_| architecture("qwen2")),
    Test::new("qwen3", |_| architecture("qwen3")),
    Test::new("floats", |_| types(TensorType::is_float)),
    Test::new("blocks_of_32", |_| types(|ty| ty.block_len() == 32)),
    Test::new("superblocks", |_| types(|ty| ty.block_len() == 256)),
    Test::new("mixed_types", |_| mixed_types()),
    Test::new("shapes", |_| shapes()),
    Test::new("mixtures", |_| mixtures()),
    Test::new("timing_of_mixtures", |_| timing_of_mixtures()),
    Test::new("ops_of_no_tiny_model", |_| ops_of_no_tiny_model()),
    Test::new("each_op", |_| each_op()),
    Test::new("sequences", |_| sequences()),
    Test::new("graphs_replay", |_| graphs_replay()).env(&[(SWITCH, "1")]),
    Test::new("timing", |_| timing()),
    Test::new("kernels_come_with_the_model", |_| kernels_come_with_the_model()).emulated_only(),
];

fn device() -> HipDevice {
    HipDevice::open(&DeviceChoice::Best).unwrap()
}

fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 37 + 11) % n_vocab) as u32).collect()
}

/// Logits of every position, in steps of 1, 3 and all of the tokens, are the reference's.
fn check(device: &HipDevice, what: &str, model: &TinyModel, n: usize) {
    let bound = if model.types.iter().all(|ty| ty.is_float()) { 1e-5 } else { 5e-3 };
    let (file, tokens) = (model.gguf(), tokens(n, model.n_vocab));
    let want = evaluate(&ReferenceDevice::new(0), file.clone(), &tokens, n);
    for chunk in [1, 3, n] {
        let got = evaluate(device, file.clone(), &tokens, chunk);
        let error = nmse(&want, &got);
        assert!(error <= bound, "{what}, steps of {chunk}: NMSE {error:.1e}");
        println!("{what}, steps of {chunk}: NMSE {error:.1e}");
    }
}

fn architecture(arch: &'static str) {
    let device = device();
    for ty in [F32, Q8_0] {
        check(&device, &format!("{arch} {ty}"), &TinyModel::new(arch).types(&[ty]), 20);
    }
    // long enough for two blocks of cache
    check(&device, arch, &TinyModel { n_layer: 1, ..TinyModel::new(arch).types(&[Q4_0]) }, 70);
}

fn types(wanted: fn(TensorType) -> bool) {
    let device = device();
    for ty in TensorType::supported().filter(|ty| wanted(*ty)) {
        check(&device, ty.name(), &TinyModel { n_layer: 1, ..TinyModel::new("llama").types(&[ty]) }, 12);
    }
}

/// As in files of "Q4_K_M": q, k and v of two types, gate and up of two.
fn mixed_types() {
    let device = device();
    for types in [&[Q4_K, Q4_K, Q4_K, Q6_K][..], &[Q5_0, Q8_0], &[F16, Q4_0, F32]] {
        check(&device, &format!("{types:?}"), &TinyModel::new("qwen2").types(types), 12);
    }
}

fn shapes() {
    let device = device();
    let base = || TinyModel { n_layer: 1, ..TinyModel::new("llama") };
    for (n_head, n_head_kv, head_dim) in
        [(4, 1, 16), (8, 1, 32), (2, 2, 80), (7, 1, 64), (9, 3, 64), (2, 1, 256)]
    {
        let model = TinyModel { n_head, n_head_kv, head_dim, tied: true, ..base().types(&[Q8_0, F32]) };
        check(&device, &format!("{n_head}/{n_head_kv} heads of {head_dim}"), &model, 12);
    }
    // widths that are not whole blocks of 32
    let model = TinyModel { n_embd: 76, n_ff: 100, n_head: 2, n_head_kv: 1, head_dim: 38, ..base() };
    check(&device, "odd widths", &model, 12);
    check(&device, "frequency factors", &TinyModel { rope_freqs: true, ..base() }, 12);
}

/// Two layers whose feed-forward is a mixture.
fn mixture(experts: [usize; 2], types: &[TensorType]) -> TinyModel {
    TinyModel { experts, ..TinyModel::new("llama").types(types) }
}

fn mixtures() {
    let device = device();
    check(&device, "2 of 6 experts", &mixture([6, 2], &[F32]), 12);
    check(&device, "an expert", &mixture([1, 1], &[F32]), 12);
    // Rounded activations may choose others of nearly equal experts: here all are chosen. Two types: of gate, up, down.
    for types in [&[Q8_0][..], &[MXFP4], &[F16], &[Q4_K, Q6_K]] {
        let model = TinyModel { n_layer: 1, ..mixture([3, 3], types) };
        check(&device, &format!("experts of {types:?}"), &model, 12);
    }
}

/// A plan by hand of what the models here do without: rows by position, narrow operands, quotients, bounds, rotations of
/// long sessions, attention by distance to later positions, experts of weighted inputs that share their matrices, filled
/// rows. Two sequences, in steps of many tokens, of one and of few.
fn ops_of_no_tiny_model() {
    const WIDTH: usize = 64;
    let (mut graph, mut file, mut rng) = (Graph::default(), GgufWriter::new(), Rng(61));
    let mut weight = |graph: &mut Graph, cols: usize, rows: usize, sigma: f32| {
        let name = format!("w{}", graph.weights.len());
        let bytes = random_tensor(&mut rng, F32, cols * rows, sigma);
        file = std::mem::take(&mut file).tensor(&name, F32, &[cols as u64, rows as u64], bytes);
        graph.weights.push(Weight::whole(name, F32, cols, rows));
        WeightId(graph.weights.len() as u32 - 1)
    };
    fn value(graph: &mut Graph, width: usize, rows: Rows) -> ValueId {
        graph.values.push(Value { name: "value", width, rows });
        ValueId(graph.values.len() as u32 - 1)
    }
    fn op(graph: &mut Graph, width: usize, op: impl FnOnce(Out) -> Op) -> ValueId {
        let out = value(graph, width, Rows::Tokens);
        graph.ops.push(NamedOp { name: format!("op{}", graph.ops.len()), op: op(Out(out)) });
        out
    }
    let g = &mut graph;
    let table = Lookup(weight(g, WIDTH, 40, 1.0));
    let a = op(g, WIDTH, |out| Op::Embed { weight: table, by: LookupBy::Token, out });
    let table = Lookup(weight(g, WIDTH, 30, 1.0));
    let b = op(g, WIDTH, |out| Op::Embed { weight: table, by: LookupBy::Position, out });
    let x = op(g, WIDTH, |out| Op::Binary { a: Over(a), b: Over(b), f: Binary::Add, out });
    let gates = op(g, 2, |out| Op::Columns { x: In(x), group: 32, first: 5, out });
    let x = op(g, WIDTH, |out| Op::Binary { a: Over(x), b: Over(gates), f: Binary::Mul, out });
    let [scale, bias] = [4, 16].map(|len| Some(Vector(weight(g, len, 1, 1.0))));
    let x = op(g, WIDTH, |out| Op::Affine { x: Over(x), scale, divides: true, bias, out });
    let x = op(g, WIDTH, |out| Op::Unary { x: Over(x), f: Unary::Clamp(-1.5, 2.0), out });

    let freq = |base: f32| (0..8).map(|i| base.powf(-0.1 * i as f32)).collect::<Vec<f32>>();
    let long = LongTurns { beyond: 64, inv_freq: freq(3e4).into(), magnitude: 0.75 };
    let (pairs, inv_freq) = (RopePairs::Halves, freq(1e2).into());
    g.ropes.push(Rope { pairs, inv_freq, magnitude: 1.25, long: Some(long) });
    g.caches.push(Cache { n_head_kv: 2, k: 32, values: Values::Own(32), window: None });
    let (rope, cache) = (RopeId(0), CacheId(0));
    let q = op(g, WIDTH, |out| Op::Rope { x: Over(x), head_dim: 32, first: 0, rope, out });
    g.ops.push(NamedOp { name: "append".into(), op: Op::Append { cache, k: In(q), v: Some(In(x)) } });
    let scores = Scores { scale: 0.2, cap: 0.0, alibi: 2.0, causal: false };
    let x = op(g, WIDTH, |out| Op::Attention { cache, q: In(q), scores, sinks: None, out });

    let logits = op(g, 6, |out| Op::Columns { x: In(x), group: WIDTH, first: 3, out });
    let routing = Routing {
        gating: Gating::Sigmoid,
        n_used: 3,
        least_sum: 0.0,
        scale: 1.0,
        n_groups: 0,
        n_groups_used: 0,
        per_id: 2,
    };
    let by = value(g, 3, Rows::Tokens);
    let (logits, weights) = (In(logits), Out(by));
    let ids = op(g, 3, |ids| Op::Route { logits, bias: None, routing, ids, weights });
    let spread = op(g, 3 * WIDTH, |out| Op::Spread { x: In(x), weights: In(by), out });
    let matrices = Experts(weight(g, WIDTH, 3 * 20, 0.2));
    let (x, ids, scale, bias) = (In(spread), In(ids), None, None);
    let each = op(g, 3 * 20, |out| Op::MatMulExperts { x, ids, weight: matrices, scale, bias, out });
    let sum = op(g, 20, |out| Op::Combine { x: In(each), weights: None, out });
    let filled = op(g, 11, |out| Op::Fill { like: In(sum), value: -0.25, out });
    let joined = op(g, 31, |out| Op::Join { a: In(filled), b: In(sum), n: 1, out });
    let out = value(g, 31, Rows::Outputs);
    g.ops.push(NamedOp { name: "select".into(), op: Op::SelectRows { x: In(joined), out: Out(out) } });
    g.outputs.push(out);
    let (plan, file) =
        (Arc::new(Plan::new(graph).unwrap()), Arc::new(Gguf::from_bytes(file.build(), "by hand").unwrap()));

    let limits = SessionLimits { max_tokens: 32, max_outputs: 32, n_blocks: 2, n_sequences: 2, n_states: 0 };
    let run = |device: &dyn Device| -> Vec<Vec<f32>> {
        let program = device.load(plan.clone(), file.clone(), &mut |_, _| true).unwrap();
        let mut session = program.session(limits).unwrap();
        let steps = [vec![(0, 0..12), (1, 0..9)], vec![(0, 12..13)], vec![(1, 9..12), (0, 13..15)]];
        let steps = steps.into_iter().chain((15..18).map(|at| vec![(0, at..at + 1)]));
        steps
            .map(|pieces| {
                let of =
                    |piece: &(u32, Range<u32>)| piece.1.clone().map(|at| (piece.0, at)).collect::<Vec<_>>();
                let (sequences, positions): (Vec<u32>, Vec<u32>) = pieces.iter().flat_map(of).unzip();
                let n = positions.len() as u32;
                let tokens: Vec<u32> = (0..n).map(|t| (t * 7 + positions[0]) % 40).collect();
                let outputs: Vec<u32> = (0..n).collect();
                let step = Step {
                    tokens: &tokens,
                    positions: &positions,
                    sequences: &sequences,
                    tables: &[&[1], &[0]],
                    states: &[],
                    outputs: &outputs,
                    inputs: &[],
                };
                session.run(&step, &Cancel::default()).unwrap();
                session.output(0).unwrap().to_vec()
            })
            .collect()
    };
    let (want, got) = (run(&ReferenceDevice::new(1)), run(&device()));
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        let error = nmse(want, got);
        println!("step {i}: NMSE {error:.1e}");
        assert!(error <= 1e-5, "step {i}: NMSE {error:.1e}");
    }
}

/// Products of experts must read those that are chosen.
fn timing_of_mixtures() {
    let backend =
        Backend::new(&BackendParams { device: DeviceKind::Hip, ..BackendParams::default() }).unwrap();
    let small =
        TinyModel { n_embd: 64, n_ff: 64, n_head: 1, n_head_kv: 1, n_vocab: 33, ..TinyModel::new("llama") };
    let model = TinyModel { experts: [4, 2], ..small };
    let matrix = 4 * (model.n_embd * model.n_ff) as u64;
    let model = Model::from_gguf(&backend, model.gguf(), ModelParams::default()).unwrap();
    let params = ContextParams { n_ctx: 128, n_batch: 16, n_seq_max: 1, ..ContextParams::default() };
    let mut context = Context::new(&model, &params).unwrap();
    for (n, chosen) in [(1, 2), (3, 4), (12, 4)] {
        let tokens = tokens(n, 33);
        let batch = Batch { tokens: &tokens, positions: None, sequences: None, want: None };
        let times = context.time_ops(&batch, 1).unwrap();
        let find = |name: &str| {
            let found = times.ops.iter().find(|op| op.name == name);
            found.unwrap_or_else(|| panic!("no {name}: {times:?}"))
        };
        let (down, unit) = (find("ffn_down_exps"), find("ffn_gate_exps..ffn_glu"));
        assert_eq!((down.calls, down.bytes), (2, 2 * chosen * matrix), "{n} tokens");
        assert_eq!((unit.calls, unit.bytes), (2, 2 * chosen * (2 * matrix + 4)), "{n} tokens");
    }
}

/// Names and results of ops.
type Seen = Vec<(String, Vec<f32>)>;

/// Every op's result, by name, is the reference's.
fn each_op() {
    let device = device();
    let dense = ["llama", "qwen2", "qwen3"].map(|arch| (arch, TinyModel::new(arch)));
    for (arch_name, model) in dense.into_iter().chain([("a mixture", mixture([4, 2], &[F32]))]) {
        let file = model.gguf();
        let tokens = tokens(9, 131);
        let ops_of = |device: &dyn Device| {
            let (_, plan) = arch::plan(&file).unwrap();
            let program = device.load(Arc::new(plan), file.clone(), &mut |_, _| true).unwrap();
            let limits =
                SessionLimits { max_tokens: 9, max_outputs: 9, n_blocks: 1, n_sequences: 8, n_states: 0 };
            let mut session = program.session(limits).unwrap();
            let seen: Arc<Mutex<Seen>> = Arc::default();
            let by_name = seen.clone();
            session.observe(Some(Box::new(move |name, _, values| {
                by_name.lock().unwrap().push((name.to_owned(), values.to_vec()));
            })));
            let step = Step {
                tokens: &tokens,
                positions: &[0, 1, 2, 3, 4, 5, 6, 7, 8],
                sequences: &[0; 9],
                tables: &[&[0]],
                outputs: &[1, 8],
                inputs: &[],
                states: &[],
            };
            session.run(&step, &Default::default()).unwrap();
            seen.lock().unwrap().clone()
        };
        let (want, got) = (ops_of(&ReferenceDevice::new(0)), ops_of(&device));
        let names = |ops: &[(String, Vec<f32>)]| ops.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&want), names(&got));
        for ((name, want), (_, got)) in want.iter().zip(&got) {
            let error = nmse(want, got);
            assert!(error <= 1e-5, "{arch_name} {name}: NMSE {error:.1e}");
        }
    }
}

/// Steps over ten sequences, with the tables of all in each: single tokens, a few, one of each, long runs beside single
/// tokens; logits of some of them.
fn sequences() {
    const N: u32 = 10;
    let runs: [&[(u32, usize)]; 14] = [
        &[(2, 1)],
        &[(7, 1)],
        &[(0, 1)],
        &[(2, 1)],
        &[(4, 3), (2, 1)],
        &[(9, 1), (7, 1), (4, 1)],
        &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1)],
        &[(3, 70), (2, 1), (9, 5), (0, 1)],
        &[(3, 1)],
        &[(9, 1)],
        &[(9, 2), (3, 4)],
        &[(6, 20), (5, 20)],
        &[(6, 1), (5, 1), (3, 1)],
        &[(2, 1)],
    ];
    let tables: Vec<[u32; 2]> = (0..N).map(|sequence| [2 * N - 1 - sequence, sequence]).collect();
    let tables: Vec<&[u32]> = tables.iter().map(|table| &table[..]).collect();
    let (gpu, reference) = (device(), ReferenceDevice::new(0));
    let file = TinyModel::new("qwen2").gguf();
    let limits = SessionLimits {
        max_tokens: 80,
        max_outputs: 80,
        n_blocks: 2 * N as usize,
        n_sequences: N as usize,
        n_states: 0,
    };
    let mut sessions = [&gpu as &dyn Device, &reference].map(|device| {
        let (_, plan) = arch::plan(&file).unwrap();
        let program = device.load(Arc::new(plan), file.clone(), &mut |_, _| true).unwrap();
        program.session(limits).unwrap()
    });
    let ids = tokens(400, 131);
    let (mut ids, mut lengths) = (ids.iter().copied(), [0; N as usize]);
    for (i, runs) in runs.iter().enumerate() {
        let (mut positions, mut sequences) = (Vec::new(), Vec::new());
        for &(sequence, n) in *runs {
            let length = &mut lengths[sequence as usize];
            positions.extend(*length..*length + n as u32);
            sequences.resize(positions.len(), sequence);
            *length += n as u32;
        }
        let n = positions.len() as u32;
        let step = Step {
            tokens: &ids.by_ref().take(n as usize).collect::<Vec<_>>(),
            positions: &positions,
            sequences: &sequences,
            tables: &tables,
            outputs: &(0..n).filter(|t| t % 3 == 0 || t + 1 == n).collect::<Vec<_>>(),
            inputs: &[],
            states: &[],
        };
        let [got, want] = sessions.each_mut().map(|session| {
            session.run(&step, &Default::default()).unwrap();
            session.output(0).unwrap()
        });
        for (row, (got, want)) in got.chunks_exact(131).zip(want.chunks_exact(131)).enumerate() {
            let error = nmse(want, got);
            assert!(error <= 1e-5, "step {i}, row {row}: NMSE {error:.1e}");
        }
        assert_eq!(got.len(), want.len());
    }
}

/// What a model's steps launch is loaded with it: what is refused fails then, and no step waits for a code object.
fn kernels_come_with_the_model() {
    let emulator = Emulator::open();
    for (arch_name, types, experts) in [
        ("llama", &[Q4_K, F16][..], [0; 2]),
        ("qwen2", &[Q8_0], [0; 2]),
        ("qwen3", &[F32, Q6_K], [0; 2]),
        ("llama", &[Q8_0, MXFP4], [4, 2]),
    ] {
        let device = device();
        let file = TinyModel { experts, ..TinyModel::new(arch_name).types(types) }.gguf();
        let load = || {
            let (_, plan) = arch::plan(&file).unwrap();
            device.load(Arc::new(plan), file.clone(), &mut |_, _| true)
        };
        emulator.fail("hipModuleLoadData:1:209");
        let error = load().err().expect("a refused code object").to_string();
        assert!(error.contains("hipModuleLoadData") && error.contains("loading the kernels of "), "{error}");
        emulator.fail("");
        let program = load().unwrap();
        assert!(emulator.calls("hipModuleLoadData") > 5, "loaded before");
        let limits =
            SessionLimits { max_tokens: 100, max_outputs: 9, n_blocks: 2, n_sequences: 8, n_states: 0 };
        let mut session = program.session(limits).unwrap();
        emulator.fail("");
        for n in [1, 2, 4, 8, 9, 100] {
            let (tokens, positions): (Vec<_>, Vec<_>) = (tokens(n, 131), (0..n as u32).collect());
            let outputs = [n as u32 - 1];
            let sequences = vec![0; n];
            let step = Step {
                tokens: &tokens,
                positions: &positions,
                sequences: &sequences,
                tables: &[&[0, 1]],
                outputs: &outputs,
                inputs: &[],
                states: &[],
            };
            // the second time it is recorded as a graph
            for _ in 0..2 {
                session.run(&step, &Default::default()).unwrap();
            }
        }
        let draw = Draw {
            top_k: 0,
            top_p: WHOLE / 2,
            min_p: f32::NEG_INFINITY,
            inverse_temperature: 1.0,
            uniform: 1,
            repeat_penalty: 1.0,
            penalties: &[],
        };
        session.sample(&[(0, draw)], &mut [0]).unwrap();
        assert_eq!(emulator.calls("hipModuleLoadData"), 0, "{arch_name}: a step loaded a code object");
        assert!(emulator.calls("hipModuleLaunchKernel") > 0);
    }
}

/// A step that comes again is a replayed graph; its tokens, positions and blocks are the new step's. The logits are, bit
/// for bit, those of kernels launched one by one.
fn graphs_replay() {
    let device = device();
    let file = TinyModel::new("llama").types(&[Q8_0]).gguf();
    let mixed = mixture([4, 2], &[Q8_0]).gguf();
    let tokens = tokens(70, 131);
    let of_one = evaluate(&device, file.clone(), &tokens, 1);
    let of_mixed = evaluate(&device, mixed.clone(), &tokens[..20], 1);
    // SAFETY: the test has a process of its own, and no other thread of it reads the environment now.
    unsafe { std::env::set_var(SWITCH, "0") };
    let one_by_one = evaluate(&device, file.clone(), &tokens, 1);
    let mixed_one_by_one = evaluate(&device, mixed, &tokens[..20], 1);
    let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&of_one) == bits(&one_by_one), "with graphs and without");
    assert!(bits(&of_mixed) == bits(&mixed_one_by_one), "a mixture with graphs and without");
    let want = evaluate(&ReferenceDevice::new(0), file.clone(), &tokens, 70);
    for (position, (want, got)) in want.chunks_exact(131).zip(of_one.chunks_exact(131)).enumerate() {
        let error = nmse(want, got);
        assert!(error <= 1e-2, "position {position}: NMSE {error:.1e}");
    }
}

/// Timing a step leaves the sequences as they are: what follows is, bit for bit, what it would have been.
fn timing() {
    let context = |device| {
        let backend = Backend::new(&BackendParams { device, ..BackendParams::default() }).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny/tiny.gguf");
        let model = Model::load(&backend, path, ModelParams::default()).unwrap();
        Context::new(&model, &ContextParams { n_ctx: 128, n_batch: 16, n_seq_max: 2, checkpoint_interval: 0 })
            .unwrap()
    };
    let tokens = tokens(20, 268);
    fn batch<'a>(tokens: &'a [u32], sequences: Option<&'a [u32]>) -> Batch<'a> {
        Batch { tokens, positions: None, sequences, want: None }
    }
    let [mut timed, mut plain] = [context(DeviceKind::Hip), context(DeviceKind::Hip)];
    for context in [&mut timed, &mut plain] {
        context.decode(&batch(&tokens[..7], None)).unwrap();
        // blocks shared: a step copies one before it writes
        context.kv_copy(0, 1, 7).unwrap();
    }
    let sequences = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    for (n, sequences) in [(1, None), (3, None), (12, Some(&sequences[..]))] {
        let times = timed.time_ops(&batch(&tokens[..n], sequences), 2).unwrap();
        assert!(times.seconds > 0.0 && times.ops.iter().all(|op| op.seconds > 0.0), "{times:?}");
        let attention = times.ops.iter().find(|op| op.name == "attention").unwrap();
        // cells of 64 bytes in two layers: what each sequence has and gets
        let cells = if sequences.is_some() { 7 + 3 + 7 + 9 } else { 7 + n as u64 };
        assert_eq!((attention.calls, attention.bytes), (2, 2 * 64 * cells));
        assert_eq!((timed.kv_len(0).unwrap(), timed.kv_len(1).unwrap(), timed.n_logits()), (7, 7, 0));
    }
    for n in [2, 1, 9] {
        let logits = [&mut timed, &mut plain].map(|context| {
            context.decode(&batch(&tokens[7..7 + n], None)).unwrap();
            context.logits(0).unwrap().to_vec()
        });
        assert_eq!(logits[0], logits[1]);
    }
    assert!(matches!(timed.time_ops(&batch(&tokens[..17], None), 1), Err(Error::Param(_))));
    assert!(matches!(timed.time_ops(&batch(&tokens[..1], None), 0), Err(Error::Param(_))));
    for kind in [DeviceKind::Cpu, DeviceKind::Reference] {
        let outcome = context(kind).time_ops(&batch(&tokens[..1], None), 1);
        assert!(matches!(outcome, Err(Error::Unsupported { .. })), "{outcome:?}");
    }
}
