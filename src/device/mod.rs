//! What a device is: it loads a [`Plan`]'s weights, holds caches and runs steps.
//!
//! `Device` -> `load` -> `Program` (weights, shared) -> `session` -> `Session` (cache and scratch,
//! one user at a time). The engine above owns the block tables; a device only reads them.

mod cancel;
pub mod cpu;
#[cfg(feature = "hip")]
pub mod hip;
pub mod pipeline;
pub mod reference;
pub mod routing;
pub mod sampling;

use std::ops::Range;
use std::sync::Arc;

use crate::gguf::Gguf;
use crate::plan::{CacheId, Graph, Plan, Rope, Rows, Window};
use crate::{Error, Result};
pub use cancel::{Call, Cancel};
use sampling::Draw;

/// Positions per cache block, on every device.
pub const BLOCK_LEN: usize = 64;

/// In a block table: a block that was given back, since it lies behind a window.
pub const HOLE: u32 = u32::MAX;

/// What there is to know of a device before using it.
#[derive(Clone, Debug, Default)]
pub struct DeviceInfo {
    /// "AMD EPYC 9354" or the marketing name of a card.
    pub name: String,
    /// Instruction set or architecture in use: "avx512vnni", "avx2", "scalar", "gfx1100".
    pub arch: String,
    /// Bytes of memory in all and free at the time of asking; 0 where unknown.
    pub memory_total: u64,
    pub memory_free: u64,
    /// Threads the device computes with (CPU), or compute units (GPU; as its runtime counts them).
    pub compute_units: usize,
    /// None: no GPU.
    pub gpu: Option<GpuInfo>,
}

/// What there is to know of a GPU beyond that: the limits that its runtime states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuInfo {
    /// The runtime's number of it.
    pub index: u32,
    /// Library and version: "libamdhip64.so.6 6.3.42131".
    pub runtime: String,
    /// Threads of a block: in all, and along each axis.
    pub max_threads_per_block: u64,
    pub max_block: [u64; 3],
    /// Blocks of a grid along each axis.
    pub max_grid: [u64; 3],
    /// Threads in lockstep: 32 or 64.
    pub warp_size: u32,
    /// Shared memory (LDS) of a block, in bytes.
    pub shared_bytes_per_block: u64,
    /// It shares the processor's memory.
    pub integrated: bool,
    /// This library carries kernels for it.
    pub has_kernels: bool,
}

/// Which of several devices of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Of GPUs that this library has kernels for the one with the most memory; an integrated one only where there is
    /// no other.
    #[default]
    Best,
    /// By number, from 0. HIP_VISIBLE_DEVICES (for AMD, CUDA_VISIBLE_DEVICES for NVIDIA) decides which there are.
    Index(u32),
    /// By a part of its name or architecture, in upper or lower case: "7900", "gfx1100". Of several the best.
    Name(String),
    /// Several, by number; the model's layers go through them in this order.
    Indices(Vec<u32>),
    /// Each that this library has kernels for, in the runtime's order; integrated ones only where there is no other.
    All,
}

/// Called with (bytes done, bytes in all); false stops the load with [`Error::Cancelled`].
pub type Progress<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// Called after an op with its name, the row count and the op's output buffer (`rows x width`).
pub type Observer = Box<dyn FnMut(&str, usize, &[f32]) + Send>;

/// Bytes of a device's memory; total 0: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub free: u64,
    pub total: u64,
}

/// What something takes of a device's memory, in bytes; u64::MAX where a size is beyond that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of weights, outside the file's map.
    pub weights: u64,
    /// Of a session's cache and of its scratch.
    pub cache: u64,
    pub scratch: u64,
}

impl Needs {
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }
}

impl std::ops::Add for Needs {
    type Output = Needs;

    fn add(self, other: Needs) -> Needs {
        Needs {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            scratch: self.scratch.saturating_add(other.scratch),
        }
    }
}

impl std::iter::Sum for Needs {
    fn sum<I: Iterator<Item = Needs>>(all: I) -> Needs {
        all.fold(Needs::default(), std::ops::Add::add)
    }
}

pub trait Device: Send + Sync {
    fn info(&self) -> DeviceInfo;

    /// Its memory now; a device that cannot be asked any more is an error.
    fn memory(&self) -> Result<Memory> {
        let DeviceInfo { memory_free, memory_total, .. } = self.info();
        Ok(Memory { free: memory_free, total: memory_total })
    }

    /// What the plan's weights and one session of these limits would take, before anything is allocated.
    ///
    /// # Errors
    /// `Error::Unsupported` for a weight that the device does not take.
    fn needs(&self, plan: &Plan, limits: SessionLimits) -> Result<Needs>;

    /// Makes the plan's weights ready to compute with. Weights are found in `file` by name, with the
    /// type and shape that the plan states (the plan's builder has checked them).
    fn load(&self, plan: Arc<Plan>, file: Arc<Gguf>, progress: &mut Progress<'_>)
    -> Result<Arc<dyn Program>>;

    /// dst (cols x rows) = transpose of src (rows x cols), row-major. Lengths are `rows * cols`.
    fn transpose(&self, src: &[f32], dst: &mut [f32], rows: usize, cols: usize) -> Result<()>;
}

/// Most that a session will be asked for at once.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Tokens in a step.
    pub max_tokens: usize,
    /// Rows of logits in a step.
    pub max_outputs: usize,
    /// Cache blocks of [`BLOCK_LEN`] positions, of caches without a window; see [`blocks`](Self::blocks).
    pub n_blocks: usize,
    /// Sequences.
    pub n_sequences: usize,
    /// Slots of recurrent state, each for all of a sequence's states.
    pub n_states: usize,
}

impl SessionLimits {
    /// Most rows of such a value.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.max_tokens,
            Rows::Outputs => self.max_outputs,
        }
    }

    /// Radians per position of the rope's pairs, and the factor on cos and sin.
    pub fn turns<'r>(&self, rope: &'r Rope) -> (&'r [f32], f32) {
        match &rope.long {
            Some(long) if self.n_blocks > long.beyond.div_ceil(BLOCK_LEN) => (&long.inv_freq, long.magnitude),
            _ => (&rope.inv_freq, rope.magnitude),
        }
    }

    /// Cache blocks of the pool of caches of such a window: as many as steps over all sequences can want, which may all have
    /// to go back to where they began.
    pub fn blocks(&self, window: Option<Window>) -> usize {
        let Some(window) = window else { return self.n_blocks };
        // what the token behind a sequence's end sees lies in so many blocks
        let seen = 1 + (window.most() as usize).saturating_sub(1).div_ceil(BLOCK_LEN);
        // before the steps and in the last of them, whose tokens begin a block more than their number says
        let blocks = self.n_sequences.saturating_mul(2 * seen + 1);
        blocks.saturating_add(self.max_tokens.div_ceil(BLOCK_LEN)).min(self.n_blocks)
    }

    /// Most sequences of a step.
    pub fn max_tables(&self) -> usize {
        self.n_sequences.min(self.max_tokens)
    }
}

/// Where a step finds the recurrent state of a sequence, and where it leaves what it makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSlots {
    /// None: the sequence begins, its state is all zeros.
    pub read: Option<u32>,
    pub write: u32,
}

/// A plan with its weights on a device.
pub trait Program: Send + Sync {
    fn plan(&self) -> &Arc<Plan>;

    /// Bytes of weights held outside the file's map.
    fn weight_bytes(&self) -> u64;

    /// Allocates cache and scratch for one user.
    fn session(self: Arc<Self>, limits: SessionLimits) -> Result<Box<dyn Session>>;
}

/// One step's work. All slices but `outputs` and `tables` have one entry per token.
///
/// Tokens of a sequence stand in order of position. A sequence's cell for position `p` in a cache is [`slot`] by the table
/// of the cache's pool; a token at position `p` attends to the cells of its sequence that the cache's window shows it, up to
/// its own, which is included, and where attention is not causal up to the sequence's last token of the step. The engine
/// guarantees that ids are below n_vocab, that tables hold every block of those cells, and that no two sequences of a step
/// write one block.
///
/// Recurrent state is held in slots. A step reads one of a sequence's and writes another, so that the one it has read is
/// still there when the step fails; the engine guarantees that no slot is written and read, or written twice, in one step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub tokens: &'a [u32],
    pub positions: &'a [u32],
    /// Which of the step's sequences, per token; tokens of one are adjacent.
    pub sequences: &'a [u32],
    /// Block tables: physical block of each BLOCK_LEN positions, or [`HOLE`]. One per sequence for each of the plan's pools,
    /// those of a pool adjacent.
    pub tables: &'a [&'a [u32]],
    /// Per sequence the slots of the sequence's recurrent state; of a plan without states anything.
    pub states: &'a [StateSlots],
    /// Indices of the tokens whose logits are wanted, ascending.
    pub outputs: &'a [u32],
    /// Of each of the segment's inputs a row per token; empty where the plan begins with tokens.
    pub inputs: &'a [&'a [f32]],
}

impl Step<'_> {
    /// What the engine guarantees and what a session was made for: cheap enough to check in each step.
    pub fn check(&self, plan: &Plan, segment: usize, limits: SessionLimits) -> Result<()> {
        let n = self.tokens.len();
        if n == 0 || n > limits.max_tokens || self.outputs.len() > limits.max_outputs {
            return Err(Error::param(format!(
                "a step of {n} tokens and {} outputs; the session takes 1 to {} and up to {}",
                self.outputs.len(),
                limits.max_tokens,
                limits.max_outputs
            )));
        }
        let bad = |what: &str| Err(Error::param(format!("a step's {what}")));
        if self.positions.len() != n || self.sequences.len() != n {
            return bad("positions or sequences are not one per token");
        }
        if segment >= plan.n_segments() {
            return Err(Error::Internal(format!("segment {segment} of {}", plan.n_segments())));
        }
        let widths = plan.segment(segment).inputs.iter().map(|id| n * plan.width(*id));
        if !widths.eq(self.inputs.iter().map(|input| input.len())) {
            return bad("inputs are not a row per token");
        }
        if self.outputs.iter().any(|&t| t as usize >= n) {
            return bad("outputs name a token it does not have");
        }
        if let Some(far) = self.positions.iter().find(|at| **at as usize >= plan.n_positions()) {
            let most = plan.n_positions();
            return Err(Error::param(format!(
                "position {far} of a sequence; the model has {most} positions"
            )));
        }
        let n_sequences = self.n_sequences(plan);
        if n_sequences > limits.max_tables() || self.tables.len() != n_sequences * plan.pools().len() {
            return bad("block tables are more than the session's sequences");
        }
        for (sequence, run) in self.runs() {
            let positions = &self.positions[run];
            let (first, last) = (positions[0] as usize, positions[positions.len() - 1] as usize);
            let rises = positions.is_sorted_by(|a, b| a < b);
            if sequence >= n_sequences || last / BLOCK_LEN >= limits.n_blocks || !rises {
                return bad("positions do not rise or lie outside the block table");
            }
            for (pool, window) in plan.pools().enumerate() {
                let read = window.map_or(0, |window| window.first(first)) / BLOCK_LEN..=last / BLOCK_LEN;
                let Some(blocks) = self.tables[pool * n_sequences + sequence].get(read) else {
                    return bad("positions do not rise or lie outside the block table");
                };
                let n_blocks = limits.blocks(window);
                if blocks.iter().any(|block| *block as usize >= n_blocks) {
                    return bad("block tables name a block the cache does not have");
                }
            }
        }
        if !plan.states.is_empty() {
            let is_slot = |slot: u32| (slot as usize) < limits.n_states;
            let good =
                |s: &StateSlots| is_slot(s.write) && s.read != Some(s.write) && s.read.is_none_or(is_slot);
            if self.states.len() != n_sequences || !self.states.iter().all(good) {
                return bad("state slots are not one to read and another to write per sequence");
            }
        }
        Ok(())
    }

    /// Rows of such a value that the step computes.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens.len(),
            Rows::Outputs => self.outputs.len(),
        }
    }

    pub fn n_sequences(&self, plan: &Graph) -> usize {
        self.tables.len() / plan.pools().len()
    }

    /// The block table of token `t`'s sequence in the cache's pool.
    pub fn table(&self, plan: &Graph, cache: CacheId, t: usize) -> &[u32] {
        self.tables[plan.pool(cache) * self.n_sequences(plan) + self.sequences[t] as usize]
    }

    /// The step's tokens of each sequence: its number in the step, and the tokens.
    pub fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.sequences.chunk_by(|a, b| a == b).scan(0, |end, run| {
            let first = *end;
            *end += run.len();
            Some((run[0] as usize, first..*end))
        })
    }

    /// The last token of token `t`'s sequence.
    pub fn last_of(&self, t: usize) -> usize {
        let later = &self.sequences[t..];
        t + later.iter().take_while(|sequence| **sequence == later[0]).count() - 1
    }
}

/// Slot of the cell of a position, by the sequence's block table.
pub fn slot(table: &[u32], position: usize) -> usize {
    table[position / BLOCK_LEN] as usize * BLOCK_LEN + position % BLOCK_LEN
}

/// The factor of [`Op::Temper`](crate::plan::Op::Temper) at a position.
pub fn temper(scale: f32, length: usize, position: u32) -> f32 {
    let far = (position as usize / length) as f64;
    (1.0 + f64::from(scale) * far.ln_1p()) as f32
}

/// What ops of one kind take in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTime {
    /// Of the plan's op, without its layer: "attn_output"; where several run as one, the first and the last:
    /// "attn_norm..kv_append".
    pub name: String,
    /// Ops of that kind.
    pub calls: usize,
    /// Bytes of weights or of the cache that they must read, in all.
    pub bytes: u64,
    /// All of them, one after the other: median.
    pub seconds: f64,
}

/// Where a step's time goes.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimes {
    pub ops: Vec<OpTime>,
    /// Of the whole step: median.
    pub seconds: f64,
}

/// Cache and scratch of one user of a [`Program`].
pub trait Session: Send {
    /// Runs the plan, or the first segment of it where it has several.
    fn run(&mut self, step: &Step<'_>, cancel: &Cancel) -> Result<()> {
        self.run_segment(0, step, cancel)
    }

    /// Runs a segment of the plan. A step goes through all of them in order, with nothing but `inputs` changed between,
    /// and what one has left is taken before the next runs. A request of `cancel` ends it with `Error::Cancelled` after the op under way (on a GPU: the
    /// layers under way), also while other sessions have the device; the step's cache cells and the state slots that it
    /// writes are then undefined, all others untouched. May return before a device is done: what fails after that comes up
    /// in [`wait`](Self::wait) or whatever else needs the result.
    fn run_segment(&mut self, segment: usize, step: &Step<'_>, cancel: &Cancel) -> Result<()>;

    /// Waits until the last step is done.
    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    /// What the last segment to run left of its output `index`: logits, `outputs.len() x n_vocab`, or rows that another
    /// part of the model takes. Waits for the step.
    fn output(&self, index: usize) -> Result<&[f32]>;

    /// Whether the device draws tokens; else [`output`](Self::output) has the logits.
    fn makes_draws(&self) -> bool {
        false
    }

    /// Draws a token from each of the named rows of the logits that the last step left, once it is done, and waits for them.
    /// The logits stay as they are. `tokens` are as many as `draws`; after an error they hold nothing of use. Only where the
    /// device [`makes_draws`](Self::makes_draws).
    ///
    /// `Error::Param`: there is no such row. `Error::Model`: [`sampling`] calls the logits an error.
    fn sample(&mut self, _draws: &[(usize, Draw<'_>)], _tokens: &mut [u32]) -> Result<()> {
        Err(Error::Internal("a draw by a device that makes none".into()))
    }

    /// Times the step and each kind of its ops, `repetitions` times each. What the step writes (its cache cells, the
    /// output) is undefined afterwards.
    fn time_ops(&mut self, _step: &Step<'_>, _repetitions: usize) -> Result<StepTimes> {
        Err(Error::Unsupported {
            what: "device for timing by op",
            name: "not one GPU with the whole model".into(),
            supported: "one GPU with the whole model; the CPU logs its times with \
                        RUST_LOG=rocmforge::cpu::profile=trace"
                .into(),
        })
    }

    /// Copies one block of a pool, in all of its caches: for sequences that part ways inside a block.
    fn copy_block(&mut self, pool: usize, from: u32, to: u32) -> Result<()>;

    /// Bytes of cache and of scratch.
    fn memory(&self) -> (u64, u64);

    /// Watches each op's output from the next step on; None stops. Fused ops report the last of them.
    fn observe(&mut self, observer: Option<Observer>);
}
