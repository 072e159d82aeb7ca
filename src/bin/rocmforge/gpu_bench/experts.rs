//! The products of mixtures of experts: what is read a second of few tokens' experts, and multiplied of many.

use anyhow::Result;
use rocmforge::device::hip::loader::Loader;
use rocmforge::device::hip::ops::experts::{self, Product, Sorting, TokenPairs};
use rocmforge::device::hip::ops::matmul::{HalfRows, MatMulTile, half_stride};
use rocmforge::device::hip::ops::project::{self, Input};
use rocmforge::device::hip::ops::{self, Quantized};
use rocmforge::device::hip::weight::Weight;
use rocmforge::gguf::TensorType;

use super::prefill::TOKENS;
use super::{Figure, GpuBench, Shape, prefill};
use crate::interrupt;

/// A layer's experts, those of a token, and a matrix of each.
#[derive(Clone, Copy)]
struct Mixture {
    n_experts: usize,
    n_used: usize,
    shape: Shape,
    ty: TensorType,
}

const fn mixture(n_experts: usize, n_used: usize, rows: usize, cols: usize, ty: TensorType) -> Mixture {
    Mixture { n_experts, n_used, shape: Shape { rows, cols }, ty }
}

/// Up and down of Qwen3 30B A3B, and of gpt-oss 20B.
const MIXTURES: [Mixture; 3] = [
    mixture(128, 8, 768, 2048, TensorType::Q4_K),
    mixture(128, 8, 2048, 768, TensorType::Q6_K),
    mixture(32, 4, 2880, 2880, TensorType::MXFP4),
];

impl Mixture {
    /// Of each token as many experts, an even step apart: no two of few tokens share one while there are others.
    fn ids(&self, n: usize) -> Vec<u32> {
        (0..n * self.n_used).map(|pair| (pair * 5 % self.n_experts) as u32).collect()
    }
}

impl GpuBench {
    /// Each mixture's products of few tokens, then of many.
    pub fn mixtures(
        &self,
        mut few: impl FnMut(Figure) -> Result<()>,
        many: &mut Vec<prefill::Figure>,
    ) -> Result<()> {
        let mut loader = Loader::new(&self.pool)?;
        for mixture in MIXTURES {
            interrupt::check()?;
            let Shape { rows, cols } = mixture.shape;
            let all = Shape { rows: mixture.n_experts * rows, cols };
            let weights = self.copies(&mut loader, mixture.ty, all)?;
            for n in [1, project::MATVEC_MAX_N] {
                few(self.expert_matvec(&weights, mixture, n)?)?;
            }
            for tile in MatMulTile::ALL {
                many.push(self.expert_matmul(&weights, mixture, tile)?);
            }
            drop(weights);
            self.pool.trim()?;
        }
        Ok(())
    }

    fn expert_matvec(&self, weights: &[Weight], mixture: Mixture, n: usize) -> Result<Figure> {
        let Mixture { n_experts, n_used, shape, ty } = mixture;
        let host_ids = mixture.ids(n);
        let ids = self.words(&host_ids)?;
        let (x, dst) = (self.room(n * shape.cols, 4)?, self.room(n * n_used * shape.rows, 4)?);
        let (q, ds) = (self.room(n * shape.cols, 1)?, self.room(n * shape.cols / ops::Q8_BLOCK, 8)?);
        self.fill_with_values(&x)?;
        let rounded = Quantized { q: q.span(), ds: ds.span() };
        ops::quantize(&self.stream, x.span(), rounded, n, shape.cols)?;
        self.stream.synchronize()?;
        let pairs = TokenPairs { ids: ids.span(), n, n_used, n_experts };
        let seconds = self.time(|| {
            weights.iter().try_for_each(|weight| {
                let product = Product { weight, scale: None, bias: None, dst: dst.span() };
                experts::matvec(&self.stream, &product, pairs, Input::Rounded(rounded), false)
            })
        })?;
        let chosen = host_ids.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
        Ok(Figure {
            kernel: project::matvec_kernel(ty, 1)?.signature().name,
            ty,
            shape: Shape { rows: n_used * shape.rows, ..shape },
            n,
            bytes: weights[0].layout().file_bytes() / n_experts as u64 * chosen,
            seconds: seconds / weights.len() as f64,
        })
    }

    fn expert_matmul(
        &self,
        weights: &[Weight],
        mixture: Mixture,
        tile: MatMulTile,
    ) -> Result<prefill::Figure> {
        let Mixture { n_experts, n_used, shape, ty } = mixture;
        let n_pairs = TOKENS * n_used;
        let ids = self.words(&mixture.ids(TOKENS))?;
        let (x, dst) = (self.room(TOKENS * shape.cols, 4)?, self.room(n_pairs * shape.rows, 4)?);
        let stride = half_stride(shape.cols).unwrap_or(shape.cols);
        let (h, scale) = (self.room(TOKENS * stride, 2)?, self.room(n_pairs, 4)?);
        let (order, tokens) = (self.room(n_pairs, 4)?, self.room(n_pairs, 4)?);
        let tiles = self.room(experts::tile_words(n_pairs, n_experts), 4)?;
        self.fill_with_values(&x)?;
        let pairs = TokenPairs { ids: ids.span(), n: TOKENS, n_used, n_experts };
        let half = HalfRows { h: h.span(), scale: scale.span() };
        let sorting = Sorting { pairs: order.span(), tokens: tokens.span(), tiles: tiles.span() };
        experts::half_rows(&self.stream, x.span(), half, pairs, false, shape.cols)?;
        self.stream.synchronize()?;
        let seconds = self.time(|| {
            experts::sort(&self.stream, pairs, sorting)?;
            weights.iter().try_for_each(|weight| {
                let product = Product { weight, scale: None, bias: None, dst: dst.span() };
                experts::matmul_by(&self.stream, tile, &product, pairs, sorting, half, false)
            })
        })?;
        let operations = 2.0 * (shape.rows * shape.cols * n_pairs) as f64;
        let task = format!("{n_used} of {n_experts} x {shape}");
        Ok(prefill::Figure::new(
            tile.kernel(ty)?.signature(),
            task,
            operations,
            seconds / weights.len() as f64,
        ))
    }
}
