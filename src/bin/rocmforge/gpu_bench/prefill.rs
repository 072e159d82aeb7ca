//! What a GPU multiplies a second in the kernels that take many tokens.

use anyhow::Result;
use rocmforge::device::BLOCK_LEN;
use rocmforge::device::hip::kernels::Signature;
use rocmforge::device::hip::loader::Loader;
use rocmforge::device::hip::memory::Buffer;
use rocmforge::device::hip::ops::attend::Scores;
use rocmforge::device::hip::ops::matmul::{self, Addends, HalfRows, MatMulTile};
use rocmforge::device::hip::ops::prefill::{self, Tiles};
use rocmforge::device::hip::ops::project::LayerCache;
use rocmforge::device::hip::weight::Weight;
use rocmforge::gguf::TensorType;

use super::{GpuBench, Shape};
use crate::interrupt;

/// Tokens of a step.
pub const TOKENS: usize = 512;
/// Weights of more rows are heads, which a prompt needs for its last token alone.
const MOST_ROWS: usize = 65_536;

/// Heads of Qwen2.5 0.5B and of Llama 3 8B: of queries, of keys, elements.
const HEADS: [(usize, usize, usize); 2] = [(14, 2, 64), (32, 8, 128)];
/// Positions before the step's.
const DEPTHS: [usize; 4] = [0, 512, 4096, 32_256];

/// One kernel at one task.
pub struct Figure {
    pub kernel: &'static str,
    /// A matrix, or heads and positions before them.
    pub task: String,
    pub n: usize,
    /// Additions and multiplications.
    pub operations: f64,
    /// Of one launch: median.
    pub seconds: f64,
}

impl Figure {
    pub fn new(signature: &Signature, task: String, operations: f64, seconds: f64) -> Self {
        Figure { kernel: signature.name, task, n: TOKENS, operations, seconds }
    }

    pub fn tera_a_second(&self) -> f64 {
        self.operations / self.seconds / 1e12
    }
}

impl GpuBench {
    /// Matrix products of every type by every tile, then attention, handed to `report` as they come.
    pub fn prefill(&self, shapes: &[Shape], mut report: impl FnMut(Figure) -> Result<()>) -> Result<()> {
        let mut loader = Loader::new(&self.pool)?;
        for &shape in shapes.iter().filter(|shape| shape.rows <= MOST_ROWS) {
            for ty in TensorType::supported().filter(|ty| shape.cols % ty.block_len() == 0) {
                interrupt::check()?;
                let weights = self.copies(&mut loader, ty, shape)?;
                for tile in MatMulTile::ALL.into_iter().filter(|tile| tile.takes(ty, shape.cols)) {
                    report(self.matmul(&weights, shape, tile)?)?;
                }
                drop(weights);
                self.pool.trim()?;
            }
        }
        for heads in HEADS {
            for depth in DEPTHS {
                interrupt::check()?;
                report(self.attention(heads, depth)?)?;
                self.pool.trim()?;
            }
        }
        Ok(())
    }

    pub(super) fn room(&self, elements: usize, bytes: usize) -> Result<Buffer> {
        Ok(self.pool.alloc(elements as u64 * bytes as u64, "a step's buffer")?)
    }

    fn matmul(&self, weights: &[Weight], shape: Shape, tile: MatMulTile) -> Result<Figure> {
        let Shape { rows, cols } = shape;
        let x = self.room(TOKENS * cols, 4)?;
        self.fill_with_values(&x)?;
        let (h, scale) =
            (self.room(TOKENS * cols.next_multiple_of(matmul::HALF_PAD), 2)?, self.room(TOKENS, 4)?);
        let dst = self.room(TOKENS * rows, 4)?;
        let half = HalfRows { h: h.span(), scale: scale.span() };
        matmul::half_rows(&self.stream, x.span(), half, TOKENS, cols)?;
        self.stream.synchronize()?;
        let seconds = self.time(|| {
            weights.iter().try_for_each(|weight| {
                let add = Addends::default();
                matmul::matmul_by(&self.stream, tile, weight, half, add, dst.span(), TOKENS)
            })
        })?;
        let signature = tile.kernel(weights[0].ty())?.signature();
        let operations = 2.0 * rows as f64 * cols as f64 * TOKENS as f64;
        Ok(Figure::new(signature, shape.to_string(), operations, seconds / weights.len() as f64))
    }

    fn attention(&self, heads: (usize, usize, usize), depth: usize) -> Result<Figure> {
        const AT_ONCE: usize = 8;
        let (n_head, n_head_kv, head_dim) = heads;
        let n_blocks = (depth + TOKENS).div_ceil(BLOCK_LEN);
        let (q, out) = (self.room(TOKENS * n_head * head_dim, 4)?, self.room(TOKENS * n_head * head_dim, 4)?);
        self.fill_with_values(&q)?;
        let cells = n_blocks * n_head_kv * BLOCK_LEN * head_dim;
        let (k, v) = (self.room(cells, 2)?, self.room(cells, 2)?);
        for cells in [&k, &v] {
            self.stream.fill(cells.span(), 0x2c)?; // 0.065 as f16
        }
        let host_tiles =
            prefill::attention_tiles((depth..depth + TOKENS).map(|position| (0, position as u32)), head_dim);
        let tiles = self.words(&host_tiles.concat())?;
        let table = self.words(&(0..n_blocks as u32).collect::<Vec<_>>())?;
        let (k, v) = (k.span(), v.span());
        let cache =
            LayerCache { k, v, n_head_kv, head_dim, value_dim: head_dim, head_pad: head_dim, n_blocks };
        let tiles = Tiles {
            tiles: tiles.span(),
            n_tiles: host_tiles.len(),
            table: table.span(),
            n_tables: 1,
            table_stride: n_blocks,
        };
        let scores = Scores::scaled(1.0 / (head_dim as f32).sqrt());
        let seconds = self.time(|| {
            (0..AT_ONCE).try_for_each(|_| {
                let (q, out) = (q.span(), out.span());
                prefill::prefill_attention(&self.stream, TOKENS, n_head, q, tiles, cache, scores, out)
            })
        })?;
        let pairs: usize = (depth..depth + TOKENS).map(|position| position + 1).sum();
        let operations = 4.0 * pairs as f64 * n_head as f64 * head_dim as f64;
        let signature = prefill::attention_kernel(head_dim)?.0.signature();
        let task = format!("{n_head}/{n_head_kv} heads of {head_dim} at {depth}");
        Ok(Figure::new(signature, task, operations, seconds / AT_ONCE as f64))
    }
}
