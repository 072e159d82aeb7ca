//! What the kernels of a step of one token ask of a gfx1100, counted by the emulator: that they read the weights once,
//! and (`-- --table`, `make paper`) the table of docs/PERFORMANCE.md, "On paper for AMD".
//!
//! Shapes are those of Qwen2.5-0.5B and of Llama 3 8B with as many columns as there; rows are cut to whole groups of
//! them, each of which does the same.

use crate::common;

use std::process::{Command, ExitCode};

use common::emulated::{self, Emulator};
use common::gpu::{Gpu, Test};
use rocmforge::device::BLOCK_LEN;
use rocmforge::device::hip::code_object::{self, CodeObjects, occupancy, targets};
use rocmforge::device::hip::kernels::SIGNATURES;
use rocmforge::device::hip::memory::{Buffer, Span};
use rocmforge::device::hip::ops::attend::{self, AttendScratch, AttendShape, Scores};
use rocmforge::device::hip::ops::norm::{Norm, norm_to};
use rocmforge::device::hip::ops::project::{self, Dest, Input, LayerCache, Product, Tokens, Turns};
use rocmforge::device::hip::ops::{self, Quantized};
use rocmforge::device::hip::planes::PlaneLayout;
use rocmforge::device::hip::weight::Weight;
use rocmforge::gguf::TensorType;
use rocmforge::plan::{NormKind, Unary};
use serde_json::Value;

use TensorType::*;

pub const CARD: &str = "gfx1100";
const READS: (&str, &str) = ("ROCMFORGE_EMULATOR_READS", "1");

pub const TESTS: &[Test] = &[
    Test::new("weights_are_read_once", weights_are_read_once).emulated_only().env(&[READS]),
    Test::new("other_inputs_are_read_once", other_inputs_are_read_once).emulated_only().env(&[READS]),
];

/// Set for the child that makes the table.
const TABLE: &str = "ROCMFORGE_PAPER_TABLE";

/// What `--table` asks for, and the child that it starts.
pub fn asked_for_the_table() -> Option<ExitCode> {
    if std::env::var_os(TABLE).is_some() {
        table(&Gpu::open());
        return Some(ExitCode::SUCCESS);
    }
    std::env::args().any(|arg| arg == "--table").then(|| {
        let child = Command::new(std::env::current_exe().unwrap())
            .env("ROCMFORGE_HIP_LIBRARY", emulated::library())
            .env("ROCMFORGE_EMULATOR_CARD", CARD)
            .env(READS.0, READS.1)
            .env(TABLE, "1")
            .status();
        if child.unwrap().success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Bytes that are read over bytes that must be, at most.
const GOAL: f64 = 1.05;
/// The same of whole lines, where groups share none: those at the ends of a group's rows are read by its neighbours too.
const GOAL_OF_LINES: f64 = 1.08;

const TYPES: [TensorType; 4] = [Q8_0, Q4_0, Q4_K, Q6_K];

struct Model {
    name: &'static str,
    width: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    head_dim: usize,
    n_vocab: usize,
    has_bias: bool,
}

const MODELS: [Model; 2] = [
    Model {
        name: "0.5B",
        width: 896,
        n_ff: 4864,
        n_head: 14,
        n_head_kv: 2,
        head_dim: 64,
        n_vocab: 151_936,
        has_bias: true,
    },
    Model {
        name: "8B",
        width: 4096,
        n_ff: 14_336,
        n_head: 32,
        n_head_kv: 8,
        head_dim: 128,
        n_vocab: 128_256,
        has_bias: false,
    },
];

/// What was read of some buffers, in bytes.
#[derive(Clone, Copy, Default)]
struct Read {
    /// The different ones of each group, summed.
    by_groups: u64,
    /// Whole lines of them.
    lines_by_groups: u64,
    /// The different lines of all groups together.
    lines: u64,
}

impl std::ops::AddAssign for Read {
    fn add_assign(&mut self, other: Read) {
        self.by_groups += other.by_groups;
        self.lines_by_groups += other.lines_by_groups;
        self.lines += other.lines;
    }
}

/// A launch on the emulator.
struct Counted {
    kernel: String,
    groups: u64,
    vector: u64,
    all: u64,
    conflicts: u64,
    /// (address, what was read of it), ascending.
    reads: Vec<(u64, Read)>,
}

const LINE: u64 = 128;

impl Counted {
    fn new(gpu: &Gpu, emulator: &Emulator, launch: impl FnOnce()) -> Self {
        launch();
        gpu.stream.synchronize().unwrap();
        let json = emulator.last_launch();
        let number = |value: &Value| value.as_u64().expect("a number");
        let instructions = json["instructions"].as_object().unwrap();
        Counted {
            kernel: json["kernel"].as_str().unwrap().to_owned(),
            groups: number(&json["groups"]),
            vector: number(&instructions["vector"]) + number(&instructions["dot"]),
            all: instructions.values().map(number).sum(),
            conflicts: number(&json["bank_conflicts"]),
            reads: json["reads"]
                .as_array()
                .unwrap()
                .iter()
                .map(|of| {
                    let read = Read {
                        by_groups: number(&of["bytes_by_groups"]),
                        lines_by_groups: number(&of["lines_by_groups"]) * LINE,
                        lines: number(&of["lines"]) * LINE,
                    };
                    (number(&of["allocation"]), read)
                })
                .collect(),
        }
    }

    fn of(&self, buffers: &[Span<'_>]) -> Read {
        let mut sum = Read::default();
        for buffer in buffers {
            let at = self.reads.binary_search_by_key(&buffer.ptr().0, |(base, _)| *base);
            sum += self.reads[at.expect("an allocation of its own, which was read")].1;
        }
        sum
    }

    fn of_all(&self) -> Read {
        let mut sum = Read::default();
        self.reads.iter().for_each(|(_, read)| sum += *read);
        sum
    }
}

/// A launch, and what it had to read.
struct Case {
    model: &'static str,
    what: String,
    counted: Counted,
    /// Elements and bytes of what must be read once.
    elements: u64,
    must: u64,
    read: Read,
}

impl Case {
    fn new(
        model: &'static str,
        what: String,
        counted: Counted,
        elements: u64,
        must: u64,
        buffers: &[Span<'_>],
    ) -> Self {
        let read = counted.of(buffers);
        Case { model, what, counted, elements, must, read }
    }

    fn is_within_the_goal(&self) {
        let Case { model, what, counted, must, read, .. } = self;
        let kernel = &counted.kernel;
        assert!(read.by_groups >= *must, "{kernel}, {model} {what}: {} of {must} bytes", read.by_groups);
        for (bytes, goal) in
            [(read.by_groups, GOAL), (read.lines, GOAL), (read.lines_by_groups, GOAL_OF_LINES)]
        {
            assert!(
                bytes as f64 <= goal * *must as f64,
                "{kernel}, {model} {what}: {bytes} bytes are read where {must} must be"
            );
        }
    }
}

struct Bench<'a> {
    gpu: &'a Gpu,
    emulator: Emulator,
    /// Rows of a weight at most.
    rows: usize,
}

impl Bench<'_> {
    fn buffer(&self, bytes: usize) -> Buffer {
        self.gpu.pool.trim().unwrap(); // each an allocation of its own
        self.gpu.pool.alloc(bytes as u64, "a test's buffer").unwrap()
    }

    /// What a kernel does depends on no value of it.
    fn weight(&self, ty: TensorType, rows: usize, cols: usize) -> Weight {
        self.gpu.pool.trim().unwrap();
        Weight::uninit(&self.gpu.pool, PlaneLayout::new(ty, rows, cols).unwrap(), "a test's weight").unwrap()
    }

    fn products(&self, model: &Model, ty: TensorType) -> Vec<Case> {
        let mut cases = Vec::new();
        let Model { width, n_ff, n_head, head_dim, n_vocab, .. } = *model;
        let whole = |cols: usize| cols.is_multiple_of(ty.block_len());
        if whole(width) {
            cases.push(self.qkv(model, ty));
            cases.push(self.glu(model, ty));
            cases.push(self.matvec(model, ty, "head", n_vocab, width, false));
        }
        if whole(n_head * head_dim) {
            cases.push(self.matvec(model, ty, "attention out", width, n_head * head_dim, true));
        }
        if whole(n_ff) {
            cases.push(self.matvec(model, ty, "down", width, n_ff, true));
        }
        cases
    }

    /// Room for one token as `quantize_q8` leaves it.
    fn input(&self, cols: usize) -> [Buffer; 2] {
        [self.buffer(cols), self.buffer(cols / ops::Q8_BLOCK * 8)]
    }

    fn matvec(&self, model: &Model, ty: TensorType, what: &str, rows: usize, cols: usize, add: bool) -> Case {
        let measured = rows.min(self.rows);
        let weight = self.weight(ty, measured, cols);
        let ([q, ds], dst) = (self.input(cols), self.buffer(4 * measured));
        let x = Input::Rounded(Quantized { q: q.span(), ds: ds.span() });
        let counted = Counted::new(self.gpu, &self.emulator, || {
            let product = Product { weight: &weight, bias: None, dst: dst.span() };
            project::matvec(&self.gpu.stream, &[product], x, 1, add).unwrap();
        });
        let what = format!("{what} {rows} x {cols}, {ty}");
        let elements = (measured * cols) as u64;
        Case::new(model.name, what, counted, elements, weight.layout().file_bytes(), &[weight.span()])
    }

    fn qkv(&self, model: &Model, ty: TensorType) -> Case {
        let Model { width: cols, n_head, n_head_kv, head_dim, .. } = *model;
        let rows = (n_head + 2 * n_head_kv) * head_dim;
        let (heads, kv) = match rows <= self.rows {
            true => (n_head, n_head_kv),
            false => ((self.rows / head_dim).saturating_sub(2).max(1), 1),
        };
        let weights = [heads, kv, kv].map(|heads| self.weight(ty, heads * head_dim, cols));
        let bias = self.buffer(4 * heads.max(kv) * head_dim);
        let ([q, ds], dst) = (self.input(cols), self.buffer(4 * heads * head_dim));
        let cache = [0; 2].map(|_| self.buffer(kv * BLOCK_LEN * head_dim * 2));
        let turns = self.buffer(BLOCK_LEN * head_dim / 2 * 8);
        let zero = self.gpu.input(&[0u32]);
        let x = Input::Rounded(Quantized { q: q.span(), ds: ds.span() });
        let counted = Counted::new(self.gpu, &self.emulator, || {
            let products = weights.each_ref().map(|weight| {
                Some(Product { weight, bias: model.has_bias.then(|| bias.span()), dst: dst.span() })
            });
            let turns = Turns { table: turns.span(), n_rot: head_dim, halves: model.has_bias };
            let cache = LayerCache {
                k: cache[0].span(),
                v: cache[1].span(),
                n_head_kv: kv,
                head_dim,
                value_dim: head_dim,
                head_pad: head_dim,
                n_blocks: 1,
            };
            let zero = zero.span();
            let tokens =
                Tokens { n: 1, positions: zero, sequences: zero, table: zero, n_tables: 1, table_stride: 1 };
            project::qkv(&self.gpu.stream, products, x, turns, tokens, cache).unwrap();
        });
        let elements = ((heads + 2 * kv) * head_dim * cols) as u64;
        let must = weights.iter().map(|weight| weight.layout().file_bytes()).sum();
        let what = format!("q, k, v {rows} x {cols}, {ty}");
        Case::new(model.name, what, counted, elements, must, &weights.each_ref().map(Weight::span))
    }

    fn glu(&self, model: &Model, ty: TensorType) -> Case {
        let (cols, rows) = (model.width, model.n_ff.min(self.rows));
        let weights = [0; 2].map(|_| self.weight(ty, rows, cols));
        let ([q, ds], dst) = (self.input(cols), self.buffer(4 * rows));
        let x = Input::Rounded(Quantized { q: q.span(), ds: ds.span() });
        let counted = Counted::new(self.gpu, &self.emulator, || {
            let [gate, up] = weights.each_ref().map(|weight| Product { weight, bias: None, dst: dst.span() });
            project::glu_matvec(&self.gpu.stream, Unary::Silu, &gate, &up, x, dst.span()).unwrap();
        });
        let must = weights.iter().map(|weight| weight.layout().file_bytes()).sum();
        let what = format!("gate, up 2 x {} x {cols}, {ty}", model.n_ff);
        let elements = 2 * (rows * cols) as u64;
        Case::new(model.name, what, counted, elements, must, &weights.each_ref().map(Weight::span))
    }

    fn norm(&self, model: &Model) -> Case {
        let width = model.width;
        let (x, weight, [q, ds]) = (self.buffer(4 * width), self.buffer(4 * width), self.input(width));
        let counted = Counted::new(self.gpu, &self.emulator, || {
            let to = Dest { plain: None, rounded: Some(Quantized { q: q.span(), ds: ds.span() }) };
            let norm = Norm { kind: NormKind::Rms, weight: Some(weight.span()), bias: None, eps: 1e-5 };
            norm_to(&self.gpu.stream, norm, x.span(), None, to, 1, width).unwrap();
        });
        let must = 2 * 4 * width as u64;
        let what = format!("norm {width}");
        Case::new(model.name, what, counted, width as u64, must, &[x.span(), weight.span()])
    }

    fn embed(&self, model: &Model) -> Case {
        let weight = self.weight(Q8_0, 4, model.width);
        let (token, dst) = (self.gpu.input(&[2u32]), self.buffer(4 * model.width));
        let counted = Counted::new(self.gpu, &self.emulator, || {
            ops::embed(&self.gpu.stream, &weight, token.span(), dst.span(), 1).unwrap();
        });
        let must = weight.layout().file_bytes() / 4;
        let what = format!("embedding {}, Q8_0", model.width);
        Case::new(model.name, what, counted, model.width as u64, must, &[weight.span()])
    }

    fn attend(&self, model: &Model, length: usize) -> Case {
        let Model { n_head, n_head_kv, head_dim, .. } = *model;
        let n_blocks = length.div_ceil(BLOCK_LEN);
        let cells = n_blocks * n_head_kv * BLOCK_LEN * head_dim;
        let [k, v] = [0; 2].map(|_| {
            let cache = self.buffer(2 * cells);
            self.gpu.stream.fill(cache.span(), 0).unwrap();
            cache
        });
        let compute_units = self.gpu.card.limits().compute_units as usize;
        let shape = AttendShape::new(1, n_head, n_head_kv, head_dim, compute_units).unwrap();
        let width = n_head * head_dim;
        let (q, [to_q, to_ds]) = (self.buffer(4 * width), self.input(width));
        self.gpu.stream.fill(q.span(), 0).unwrap();
        let parts = self.buffer(4 * shape.part_floats(1, head_dim).unwrap());
        let tickets = self.buffer(4 * n_head);
        self.gpu.stream.fill(tickets.span(), 0).unwrap();
        let (position, sequence) = (self.gpu.input(&[length as u32 - 1]), self.gpu.input(&[0u32]));
        let table = self.gpu.input(&(0..n_blocks as u32).collect::<Vec<_>>());
        let counted = Counted::new(self.gpu, &self.emulator, || {
            let tokens = Tokens {
                n: 1,
                positions: position.span(),
                sequences: sequence.span(),
                table: table.span(),
                n_tables: 1,
                table_stride: n_blocks,
            };
            let cache = LayerCache {
                k: k.span(),
                v: v.span(),
                n_head_kv,
                head_dim,
                value_dim: head_dim,
                head_pad: head_dim,
                n_blocks,
            };
            let scratch = AttendScratch { parts: parts.span(), tickets: tickets.span() };
            let to = Dest { plain: None, rounded: Some(Quantized { q: to_q.span(), ds: to_ds.span() }) };
            let scores = Scores::scaled(0.1);
            let (stream, q) = (&self.gpu.stream, q.span());
            attend::attend(stream, shape, q, scores, tokens, None, cache, scratch, to).unwrap();
        });
        let elements = 2 * (length * n_head_kv * head_dim) as u64;
        let what = format!("attention {n_head}/{n_head_kv} heads, {length} positions");
        Case::new(model.name, what, counted, elements, 2 * elements, &[k.span(), v.span()])
    }

    fn others(&self, model: &Model, lengths: &[usize]) -> Vec<Case> {
        let mut cases = vec![self.embed(model), self.norm(model)];
        cases.extend(lengths.iter().map(|length| self.attend(model, *length)));
        cases
    }
}

fn weights_are_read_once(gpu: &Gpu) {
    let bench = Bench { gpu, emulator: Emulator::open(), rows: 256 };
    for model in &MODELS {
        for ty in TYPES {
            for case in bench.products(model, ty) {
                case.is_within_the_goal();
                assert_eq!(case.counted.conflicts, 0, "{}: {}", case.counted.kernel, case.what);
            }
        }
    }
}

fn other_inputs_are_read_once(gpu: &Gpu) {
    let bench = Bench { gpu, emulator: Emulator::open(), rows: 256 };
    for model in &MODELS {
        for case in bench.others(model, &[1000]) {
            // a row of an embedding, of odd length, shares its lines with its neighbours
            if !case.what.starts_with("embedding") {
                case.is_within_the_goal();
            }
        }
    }
}

/// A Radeon RX 7900 XTX: SIMDs, clock, bytes a second of its memory (AMD's data sheet: 96 compute units of 2, game
/// clock 2.3 GHz, 960 GB/s).
const SIMDS: f64 = 192.0;
const CLOCK: f64 = 2.3e9;
const BANDWIDTH: f64 = 960e9;

fn table(gpu: &Gpu) {
    let bench = Bench { gpu, emulator: Emulator::open(), rows: 1024 };
    let objects = code_object::for_arch(0, CARD).unwrap();
    println!(
        "| | kernel | read | lines | once | others | instr | vector | issue | waves | VGPRs | conflicts |"
    );
    println!("| --- | --- |{}", " ---: |".repeat(10));
    for model in &MODELS {
        for ty in TYPES {
            bench.products(model, ty).iter().for_each(|case| line(&objects, case));
        }
        bench.others(model, &[1024, 16_384]).iter().for_each(|case| line(&objects, case));
    }
}

fn line(objects: &CodeObjects, case: &Case) {
    let Case { model, what, counted, elements, must, read } = case;
    let object = objects.open(&counted.kernel).expect("a kernel that was launched");
    let kernel = object.kernel(&counted.kernel).expect("the object has it");
    let signature = SIGNATURES.iter().find(|s| s.name == counted.kernel).expect("a kernel of the table");
    let target = targets::find(CARD).expect("a target");
    let waves = occupancy::waves(target, kernel, signature.block.iter().product());
    let over = |bytes: u64| bytes as f64 / *must as f64;
    // of a lane, for 32 elements
    let of_a_lane = |instructions: u64| instructions as f64 * 32.0 * 32.0 / *elements as f64;
    let issue = counted.vector as f64 / (SIMDS * CLOCK) / (*must as f64 / BANDWIDTH);
    println!(
        "| {model} {what} | `{}` | {:.3} | {:.3} | {:.3} | {:.2} | {:.0} | {:.0} | {:.2} | {waves} | {} | {:.1} |",
        counted.kernel,
        over(read.by_groups),
        over(read.lines_by_groups),
        over(read.lines),
        over(counted.of_all().by_groups - read.by_groups),
        of_a_lane(counted.all),
        of_a_lane(counted.vector),
        issue,
        kernel.resources.expect("an AMD kernel's").vgprs,
        counted.conflicts as f64 / counted.groups as f64,
    );
}
