//! Mixtures of experts: the choice, the products of pairs of a token and an expert, and their weighted sum. A token's
//! pairs lie side by side, the best expert first.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::super::weight::Weight;
use super::elementwise::gate_code;
use super::matmul::{HalfRows, MatMulTile, half_rows_of};
use super::project::Input;
use super::{dim, holds, is_aligned, launch};
use crate::plan::{self, Binary, Gating};
use crate::{Error, Result};

/// Most experts that tokens choose from, as kernels/experts.hip has it.
pub const MOST_EXPERTS: usize = 1024;

/// Chooses each token's experts by its logits (f32, n x n_experts) and the bias (f32, n_experts): `ids` (u32) and
/// `weights` (f32), n x n_used.
#[allow(clippy::too_many_arguments)]
pub fn route(
    stream: &Stream,
    logits: Span<'_>,
    bias: Option<Span<'_>>,
    by: &plan::Routing,
    ids: Span<'_>,
    weights: Span<'_>,
    n: usize,
    n_experts: usize,
) -> Result<()> {
    let plan::Routing { gating, n_used, least_sum, scale, n_groups, n_groups_used, per_id } = *by;
    if !(1..=MOST_EXPERTS).contains(&n_experts) || !(1..=n_experts).contains(&n_used) || n_groups > n_experts
    {
        return Err(Error::param(format!("{n_used} of {n_experts} experts in {n_groups} groups")));
    }
    holds("logits", logits, &[n, n_experts], 4)?;
    if let Some(bias) = bias {
        holds("bias", bias, &[n_experts], 4)?;
    }
    holds("ids", ids, &[n, n_used], 4)?;
    holds("weights", weights, &[n, n_used], 4)?;
    if n == 0 {
        return Ok(());
    }
    let routing = Routing {
        n_experts: dim("n_experts", n_experts)?,
        n_used: dim("n_used", n_used)?,
        gating: match gating {
            Gating::Softmax => 0,
            Gating::Sigmoid => 1,
            Gating::SoftmaxOfChosen => 2,
        },
        least_sum,
        scale,
        n_groups: dim("n_groups", n_groups)?,
        n_groups_used: dim("n_groups_used", n_groups_used)?,
        per_id: dim("per_id", per_id.max(1))?,
    };
    let bias = bias.map_or(Ptr::default(), Span::ptr);
    let args = RouteArgs { logits: logits.ptr(), bias, ids: ids.ptr(), weights: weights.ptr(), routing };
    launch(stream, ROUTE, [n as u64, 1, 1], &args)
}

/// The pairs of n tokens: `ids` u32, n x n_used, each below n_experts.
#[derive(Clone, Copy, Debug)]
pub struct TokenPairs<'a> {
    pub ids: Span<'a>,
    pub n: usize,
    pub n_used: usize,
    pub n_experts: usize,
}

impl TokenPairs<'_> {
    /// How many. `Error::Param`: more than kernels count, or ids that are not there.
    fn len(&self) -> Result<u32> {
        holds("ids", self.ids, &[self.n, self.n_used], 4)?;
        if !(1..=MOST_EXPERTS).contains(&self.n_experts) {
            return Err(Error::param(format!("{} experts; 1 to {MOST_EXPERTS} are taken", self.n_experts)));
        }
        dim("pairs", self.n.saturating_mul(self.n_used))
    }

    fn kernel_args(&self, scales: [Ptr; 2], each: bool) -> Result<Pairs> {
        Ok(Pairs { ids: self.ids.ptr(), scales, n_used: dim("n_used", self.n_used)?, each: each.into() })
    }
}

/// A product of each pair with its expert's matrix: one of `n_experts` in the weight, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    pub weight: &'a Weight,
    /// f32, n_experts: factors on the products.
    pub scale: Option<Span<'a>>,
    /// f32, n_experts x rows of a matrix.
    pub bias: Option<Span<'a>>,
    /// f32, n x n_used x rows of a matrix.
    pub dst: Span<'a>,
}

impl Product<'_> {
    /// Rows of an expert's matrix.
    fn rows(&self, pairs: &TokenPairs<'_>) -> Result<usize> {
        let (all, n) = (self.weight.rows(), pairs.n_experts);
        if n == 0 || !all.is_multiple_of(n) {
            return Err(Error::Internal(format!("{all} rows of {n} experts")));
        }
        Ok(all / n)
    }

    /// (rows, scale, bias), with `dst` as long as the pairs' products.
    fn check(&self, pairs: &TokenPairs<'_>) -> Result<(u32, Ptr, Ptr)> {
        let rows = self.rows(pairs)?;
        if let Some(scale) = self.scale {
            holds("scale", scale, &[pairs.n_experts], 4)?;
        }
        if let Some(bias) = self.bias {
            holds("bias", bias, &[pairs.n_experts, rows], 4)?;
        }
        holds("dst", self.dst, &[pairs.n, pairs.n_used, rows], 4)?;
        let [scale, bias] = [self.scale, self.bias].map(|span| span.map_or(Ptr::default(), Span::ptr));
        Ok((dim("rows", rows)?, scale, bias))
    }
}

/// Rows of x: one for all of a token's pairs, or if `each` one for each.
fn x_rows(pairs: &TokenPairs<'_>, each: bool) -> usize {
    if each { pairs.n.saturating_mul(pairs.n_used) } else { pairs.n }
}

/// `dst[pair] = scale[expert] * w[expert] x + bias[expert]` of few tokens. x: a row a token, or if `each` a pair.
pub fn matvec(
    stream: &Stream,
    product: &Product<'_>,
    pairs: TokenPairs<'_>,
    x: Input<'_>,
    each: bool,
) -> Result<()> {
    let (ty, cols) = (product.weight.ty(), product.weight.cols());
    let (rows, scale, bias) = product.check(&pairs)?;
    let (q, ds) = x.pointers(ty, x_rows(&pairs, each), cols)?;
    if pairs.len()? == 0 {
        return Ok(());
    }
    let cols = dim("cols", cols)?;
    let shape = matvec_shape(ty, rows, cols, 1);
    let part = Part { w: product.weight.planes(), bias, dst: product.dst.ptr(), rows, first_group: 0 };
    let parts = Parts([part, Parts::NONE, Parts::NONE]);
    let of_pairs = pairs.kernel_args([scale, Ptr::default()], each)?;
    let args = MatVecArgs { parts, q, ds, cols, n: 1, sharing: shape.sharing, add: 0, pairs: of_pairs };
    launch(stream, MATVEC_N1.of(ty)?, grid(rows.div_ceil(shape.rows), pairs), &args)
}

fn grid(groups: u32, pairs: TokenPairs<'_>) -> [u64; 3] {
    [u64::from(groups), pairs.n_used as u64, pairs.n as u64]
}

/// Whether [`glu_matvec`] takes these.
pub fn glu_takes(f: Binary, gate: &Weight, up: &Weight) -> bool {
    let shape = |w: &Weight| (w.ty(), w.rows(), w.cols());
    gate_code(f).is_some() && shape(gate) == shape(up)
}

/// `dst[pair] = f(gate, up)` of the products that [`matvec`] makes of either, f32, n x n_used x rows. gate and up are of
/// one type and shape; their `dst` is not used.
#[allow(clippy::too_many_arguments)]
pub fn glu_matvec(
    stream: &Stream,
    f: Binary,
    gate: &Product<'_>,
    up: &Product<'_>,
    pairs: TokenPairs<'_>,
    x: Input<'_>,
    each: bool,
    dst: Span<'_>,
) -> Result<()> {
    let Some(code) = gate_code(f).filter(|_| glu_takes(f, gate.weight, up.weight)) else {
        return Err(Error::Internal(format!("{f:?} of experts of other shapes, or of no kernel")));
    };
    let (ty, cols) = (gate.weight.ty(), gate.weight.cols());
    let (rows, gate_scale, gate_bias) = Product { dst, ..*gate }.check(&pairs)?;
    let (_, up_scale, up_bias) = Product { dst, ..*up }.check(&pairs)?;
    let (q, ds) = x.pointers(ty, x_rows(&pairs, each), cols)?;
    if pairs.len()? == 0 {
        return Ok(());
    }
    let (gate, up) = (gate.weight.planes(), up.weight.planes());
    let to = Gated { gate, up, gate_bias, up_bias, dst: dst.ptr(), rows, f: code };
    let (cols, both) = (dim("cols", cols)?, dim("rows", 2 * rows as usize)?);
    let shape = matvec_shape(ty, both, cols, 1);
    let of_pairs = pairs.kernel_args([gate_scale, up_scale], each)?;
    let args = GluMatVecArgs { to, q, ds, cols, sharing: shape.sharing, pairs: of_pairs };
    launch(stream, GLU_MATVEC.of(ty)?, grid(both.div_ceil(shape.rows), pairs), &args)
}

/// Pairs in the order of their experts, for [`matmul`].
#[derive(Clone, Copy, Debug)]
pub struct Sorting<'a> {
    /// u32 a pair: its number, and its token's.
    pub pairs: Span<'a>,
    pub tokens: Span<'a>,
    /// [`tile_words`] u32.
    pub tiles: Span<'a>,
}

/// Tiles of so many places of one expert each that n_pairs pairs take at most.
fn most_tiles(n_pairs: usize, n_experts: usize, side: u64) -> usize {
    n_pairs / side as usize + n_experts.min(n_pairs)
}

/// Words of a [`Sorting`]'s tiles, of either side.
pub fn tile_words(n_pairs: usize, n_experts: usize) -> usize {
    MatMulTile::ALL.iter().map(|tile| 4 * most_tiles(n_pairs, n_experts, tile.side())).sum()
}

impl<'a> Sorting<'a> {
    fn check(&self, pairs: &TokenPairs<'_>) -> Result<u32> {
        let n = pairs.len()?;
        holds("pairs", self.pairs, &[n as usize], 4)?;
        holds("tokens", self.tokens, &[n as usize], 4)?;
        holds("tiles", self.tiles, &[tile_words(n as usize, pairs.n_experts)], 4)?;
        is_aligned("tiles", self.tiles, 16)?;
        Ok(n)
    }

    /// Where the tiles of a side lie, and how many there are at most.
    fn tiles(&self, tile: MatMulTile, n_pairs: usize, n_experts: usize) -> Result<(Span<'a>, usize)> {
        let [small, large] = MatMulTile::ALL.map(|tile| most_tiles(n_pairs, n_experts, tile.side()));
        let (first, n) = match tile {
            MatMulTile::Small => (0, small),
            MatMulTile::Large => (small, large),
        };
        Ok((self.tiles.part(16 * first as u64..16 * (first + n) as u64)?, n))
    }
}

/// Sorts the pairs of a step by expert.
pub fn sort(stream: &Stream, pairs: TokenPairs<'_>, to: Sorting<'_>) -> Result<()> {
    let n_pairs = to.check(&pairs)?;
    if n_pairs == 0 {
        return Ok(());
    }
    let most = |tile: MatMulTile| most_tiles(n_pairs as usize, pairs.n_experts, tile.side());
    let args = SortPairsArgs {
        ids: pairs.ids.ptr(),
        pairs: to.pairs.ptr(),
        tokens: to.tokens.ptr(),
        tiles: to.tiles.ptr(),
        n_pairs,
        n_used: dim("n_used", pairs.n_used)?,
        n_small: dim("tiles", most(MatMulTile::Small))?,
        n_large: dim("tiles", most(MatMulTile::Large))?,
    };
    launch(stream, SORT_PAIRS, [1, 1, 1], &args)
}

/// Rounds x (f32, n x cols, or if `each` n * n_used x cols) to f16 rows for [`matmul`].
pub fn half_rows(
    stream: &Stream,
    x: Span<'_>,
    dst: HalfRows<'_>,
    pairs: TokenPairs<'_>,
    each: bool,
    cols: usize,
) -> Result<()> {
    let copies = if each { 1 } else { pairs.n_used };
    half_rows_of(stream, x, dst, x_rows(&pairs, each), cols, copies)
}

/// [`matvec`]'s products of many tokens: pairs as [`sort`] leaves them, x as [`half_rows`] does, with a factor a pair.
pub fn matmul(
    stream: &Stream,
    product: &Product<'_>,
    pairs: TokenPairs<'_>,
    sorting: Sorting<'_>,
    x: HalfRows<'_>,
    each: bool,
) -> Result<()> {
    let w = product.weight;
    let n_pairs = pairs.len()? as usize;
    // rows of all experts beside each other, each with its share of the pairs
    let of_each = n_pairs.div_ceil(pairs.n_experts);
    let tile = MatMulTile::best(w.ty(), w.rows(), w.cols(), of_each, stream.card().limits().compute_units);
    matmul_by(stream, tile, product, pairs, sorting, x, each)
}

/// [`matmul`] by tiles of one's own choice, one that takes the weight.
#[allow(clippy::too_many_arguments)]
pub fn matmul_by(
    stream: &Stream,
    tile: MatMulTile,
    product: &Product<'_>,
    pairs: TokenPairs<'_>,
    sorting: Sorting<'_>,
    x: HalfRows<'_>,
    each: bool,
) -> Result<()> {
    let w = product.weight;
    let kernel = tile.kernel_for(w)?;
    let (rows, scale, bias) = product.check(&pairs)?;
    let n = sorting.check(&pairs)?;
    x.holds(x_rows(&pairs, each), w.cols())?;
    holds("scale", x.scale, &[n as usize], 4)?;
    if n == 0 {
        return Ok(());
    }
    let (tiles, n_tiles) = sorting.tiles(tile, n as usize, pairs.n_experts)?;
    let sorted = Sorted {
        tiles: tiles.ptr(),
        x_rows: if each { sorting.pairs } else { sorting.tokens }.ptr(),
        pairs: sorting.pairs.ptr(),
        scale,
    };
    let args = MatMulArgs {
        w: w.planes(),
        x: x.h.ptr(),
        scale: x.scale.ptr(),
        bias,
        dst: product.dst.ptr(),
        rows,
        cols: dim("cols", w.cols())?,
        n,
        add: 0,
        sorted,
    };
    launch(stream, kernel, [n_tiles as u64, u64::from(rows).div_ceil(tile.side()), 1], &args)
}

/// `dst[t][k] = weights[t][k] * x[t]`: x f32, n x width; weights f32, n x n_used; dst f32, n x n_used x width.
pub fn spread(
    stream: &Stream,
    x: Span<'_>,
    weights: Span<'_>,
    dst: Span<'_>,
    n: usize,
    n_used: usize,
    width: usize,
) -> Result<()> {
    holds("x", x, &[n, width], 4)?;
    holds("weights", weights, &[n, n_used], 4)?;
    holds("dst", dst, &[n, n_used, width], 4)?;
    if n == 0 || n_used == 0 || width == 0 {
        return Ok(());
    }
    let (pairs, width, n_used) = (n as u64 * n_used as u64, dim("width", width)?, dim("n_used", n_used)?);
    let args = SpreadArgs { x: x.ptr(), weights: weights.ptr(), dst: dst.ptr(), width, n_used };
    launch(stream, SPREAD, [pairs, u64::from(width).div_ceil(1024), 1], &args)
}

/// `dst[t]` = sum over k, in order, of `weights[t][k] * x[t][k]`, or of `x[t][k]` where there are no weights, on top of `add[t]` if
/// there is one, which dst may be: x f32, n x n_used x width; weights f32, n x n_used; add f32, n x width.
#[allow(clippy::too_many_arguments)]
pub fn combine(
    stream: &Stream,
    x: Span<'_>,
    weights: Option<Span<'_>>,
    add: Option<Span<'_>>,
    dst: Span<'_>,
    n: usize,
    n_used: usize,
    width: usize,
) -> Result<()> {
    holds("x", x, &[n, n_used, width], 4)?;
    if let Some(weights) = weights {
        holds("weights", weights, &[n, n_used], 4)?;
    }
    if let Some(add) = add {
        holds("add", add, &[n, width], 4)?;
    }
    holds("dst", dst, &[n, width], 4)?;
    if n == 0 || width == 0 {
        return Ok(());
    }
    let (width, n_used) = (dim("width", width)?, dim("n_used", n_used)?);
    let [weights, add] = [weights, add].map(|span| span.map_or(Ptr::default(), Span::ptr));
    let args = CombineArgs { x: x.ptr(), weights, add, dst: dst.ptr(), width, n_used };
    launch(stream, COMBINE, [n as u64, u64::from(width).div_ceil(1024), 1], &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_every_tile() {
        // all pairs of one expert, and of as many experts as there are
        for (n_pairs, n_experts) in [(1, 1), (63, 4), (64, 1), (65, 1), (4096, 128), (130, 128), (7, 1024)] {
            for side in [64, 128] {
                let most = most_tiles(n_pairs, n_experts, side);
                let of_one = n_pairs.div_ceil(side as usize);
                let spread = n_experts.min(n_pairs);
                let largest = n_pairs + 1 - spread;
                assert!(of_one <= most && spread - 1 + largest.div_ceil(side as usize) <= most);
            }
        }
    }
}
