//! Products of weights with few tokens, and what is fused with them.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::super::weight::Weight;
use super::elementwise::gate_code;
use super::{Quantized, dim, holds, is_aligned, launch};
use crate::gguf::TensorType;
use crate::plan::{Binary, Cache, Unary, Values};
use crate::{Error, Result};

/// Most tokens a matrix-vector kernel takes.
pub const MATVEC_MAX_N: usize = 8;

/// Tokens as a weight's type wants them: rounded for quantized types, f32 (n x cols) for floats.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    Rounded(Quantized<'a>),
    Plain(Span<'a>),
}

/// Whether a weight of this type wants [`Input::Rounded`].
pub fn wants_rounded(ty: TensorType) -> bool {
    !ty.is_float()
}

/// A product of one of the weights that share an input.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    pub weight: &'a Weight,
    pub bias: Option<Span<'a>>,
    /// f32, n x rows.
    pub dst: Span<'a>,
}

impl<'a> Input<'a> {
    /// (q, ds) as kernels take them, for a weight of this type.
    pub(super) fn pointers(self, ty: TensorType, n: usize, cols: usize) -> Result<(Ptr, Ptr)> {
        match self {
            Input::Rounded(x) if wants_rounded(ty) => {
                x.holds(n, cols)?;
                Ok((x.q.ptr(), x.ds.ptr()))
            }
            Input::Plain(x) if !wants_rounded(ty) => {
                holds("x", x, &[n, cols], 4)?;
                is_aligned("x", x, 16)?;
                Ok((x.ptr(), Ptr::default()))
            }
            _ => Err(Error::Internal(format!("activations of another kind than {ty} weights take"))),
        }
    }
}

/// The matrix-vector kernel of a type for 1 to [`MATVEC_MAX_N`] tokens.
pub fn matvec_kernel(ty: TensorType, n: usize) -> Result<Kernel<MatVecArgs>> {
    match n {
        1 => MATVEC_N1.of(ty),
        2 => MATVEC_N2.of(ty),
        3..=4 => MATVEC_N4.of(ty),
        5..=MATVEC_MAX_N => MATVEC_N8.of(ty),
        _ => Err(Error::param(format!("{n} tokens; a matrix-vector kernel takes 1 to {MATVEC_MAX_N}"))),
    }
}

/// One to three weights of one type and width, checked, with their groups; the shape and the grid for all of them.
struct Group {
    parts: Parts,
    ty: TensorType,
    cols: usize,
    sharing: u32,
    grid: [u64; 3],
}

impl Group {
    /// A part that is None has no groups.
    fn new(products: [Option<Product<'_>>; 3], n: usize) -> Result<Self> {
        let Some(first) = products.iter().flatten().next() else {
            return Err(Error::param("no weight to multiply with"));
        };
        let (ty, cols) = (first.weight.ty(), first.weight.cols());
        if products.iter().flatten().any(|p| (p.weight.ty(), p.weight.cols()) != (ty, cols)) {
            return Err(Error::Internal("weights that do not share a launch".into()));
        }
        let mut rows = 0u32;
        for product in products.iter().flatten() {
            let of_one = dim("rows", product.weight.rows())?;
            rows = rows.checked_add(of_one).ok_or_else(|| Error::param("rows beyond 32 bits"))?;
        }
        let shape = matvec_shape(ty, rows, dim("cols", cols)?, dim("n", n)?);
        let mut parts = Parts([Parts::NONE; 3]);
        let mut groups = 0u32;
        for (part, product) in parts.0.iter_mut().zip(&products) {
            part.first_group = groups;
            let Some(product) = product else { continue };
            let rows = product.weight.rows();
            if let Some(bias) = product.bias {
                holds("bias", bias, &[rows], 4)?;
            }
            holds("dst", product.dst, &[n, rows], 4)?;
            *part = Part {
                w: product.weight.planes(),
                bias: product.bias.map_or(Ptr::default(), Span::ptr),
                dst: product.dst.ptr(),
                rows: dim("rows", rows)?,
                first_group: groups,
            };
            groups += part.rows.div_ceil(shape.rows);
        }
        Ok(Group { parts, ty, cols, sharing: shape.sharing, grid: [u64::from(groups), 1, 1] })
    }
}

/// Of each product `dst[t][r]` (f32) = `dot(w[r], x[t]) + bias[r]`, for n <= [`MATVEC_MAX_N`] tokens; `add`: added to
/// what dst holds. One to three weights of one type that share their input.
pub fn matvec(stream: &Stream, products: &[Product<'_>], x: Input<'_>, n: usize, add: bool) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    if products.len() > 3 {
        return Err(Error::Internal(format!("{} weights in a launch", products.len())));
    }
    let group = Group::new(std::array::from_fn(|i| products.get(i).copied()), n)?;
    let kernel = matvec_kernel(group.ty, n)?;
    let (q, ds) = x.pointers(group.ty, n, group.cols)?;
    let (cols, n) = (dim("cols", group.cols)?, dim("n", n)?);
    let (sharing, add) = (group.sharing, u32::from(add));
    let args = MatVecArgs { parts: group.parts, q, ds, cols, n, sharing, add, pairs: Pairs::default() };
    launch(stream, kernel, group.grid, &args)
}

/// Widths that heads are padded to in the cache.
const HEAD_PADS: [usize; 5] = [32, 64, 128, 256, 512];

/// Elements of a cache cell of heads of `head_dim`; `Error::Unsupported` where no kernel takes them.
pub fn head_pad(head_dim: usize) -> Result<usize> {
    HEAD_PADS.into_iter().find(|pad| head_dim <= *pad).ok_or_else(|| Error::Unsupported {
        what: "size of attention heads on a GPU",
        name: head_dim.to_string(),
        supported: "1 to 512".into(),
    })
}

/// Elements of a cell of keys that hold their values, and of those the value's: what a key has beyond it follows them.
pub const LATENT_PAD: usize = 576;
pub const LATENT_VALUES: usize = 512;

/// Elements of a cell of the cache; `Error::Unsupported` where no kernel takes them.
pub fn cell_pad(cache: Cache) -> Result<usize> {
    let Cache { k, values, .. } = cache;
    match values {
        Values::Own(v) => head_pad(k.max(v)),
        Values::InKeys(v) if v <= LATENT_VALUES && v <= k && k - v <= LATENT_PAD - LATENT_VALUES => {
            Ok(LATENT_PAD)
        }
        Values::InKeys(v) => Err(Error::Unsupported {
            what: "size of latent rows on a GPU",
            name: format!("{v} of {k}"),
            supported: "values of up to 512 elements, and up to 64 more in keys".into(),
        }),
    }
}

/// A layer's cache, as kernels read it: f16 `[block][kv head][64 positions][head_pad]`, keys and values; one for both where
/// head_pad is [`LATENT_PAD`].
#[derive(Clone, Copy, Debug)]
pub struct LayerCache<'a> {
    pub k: Span<'a>,
    pub v: Span<'a>,
    pub n_head_kv: usize,
    /// Elements of a head's key, and of its value.
    pub head_dim: usize,
    pub value_dim: usize,
    pub head_pad: usize,
    /// Blocks that each of k and v holds.
    pub n_blocks: usize,
}

impl LayerCache<'_> {
    pub(super) fn check(&self) -> Result<()> {
        for (name, span) in [("k", self.k), ("v", self.v)] {
            holds(name, span, &[self.n_blocks, self.n_head_kv, crate::device::BLOCK_LEN, self.head_pad], 2)?;
            is_aligned(name, span, 16)?;
        }
        let (k, v) = (self.head_dim, self.value_dim);
        let values = if self.holds_values() { Values::InKeys(v) } else { Values::Own(v) };
        let cache = Cache { n_head_kv: self.n_head_kv, k, values, window: None };
        if k == 0 || v == 0 || cell_pad(cache)? != self.head_pad {
            return Err(Error::Internal(format!("heads of {k} and {v} in cells of {}", self.head_pad)));
        }
        Ok(())
    }

    /// Whether keys hold the values.
    pub(super) fn holds_values(&self) -> bool {
        self.head_pad == LATENT_PAD
    }
}

/// How heads are rotated: `turns` (cos, sin) f32 pairs, `[position][n_rot / 2]`, for every position of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'a> {
    pub table: Span<'a>,
    pub n_rot: usize,
    pub halves: bool,
}

impl Turns<'_> {
    pub(super) fn check(&self, cache: &LayerCache<'_>) -> Result<()> {
        let positions = cache.n_blocks * crate::device::BLOCK_LEN;
        holds("turns", self.table, &[positions, self.n_rot / 2], 8)?;
        if self.n_rot > cache.head_dim || !self.n_rot.is_multiple_of(2) {
            return Err(Error::param(format!(
                "{} elements to rotate of heads of {}",
                self.n_rot, cache.head_dim
            )));
        }
        Ok(())
    }
}

/// What a step's kernels read of its tokens; u32, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    pub n: usize,
    pub positions: Span<'a>,
    /// Row of `table`, a token.
    pub sequences: Span<'a>,
    /// Of the cache's pool: `table_stride` entries from one sequence's to the next.
    pub table: Span<'a>,
    pub n_tables: usize,
    pub table_stride: usize,
}

impl Tokens<'_> {
    pub(super) fn check(&self) -> Result<()> {
        holds("positions", self.positions, &[self.n], 4)?;
        holds("sequences", self.sequences, &[self.n], 4)?;
        holds("table", self.table, &[self.n_tables, self.table_stride], 4)
    }
}

/// Queries of a step's only token to `products[0].dst` (f32), rotated; its keys and values to the cache. What `tokens`
/// says of its position and blocks is within the cache. `products`: those of q, k, v that are of one type; the dst of k
/// and v is not used.
pub fn qkv(
    stream: &Stream,
    products: [Option<Product<'_>>; 3],
    x: Input<'_>,
    turns: Turns<'_>,
    tokens: Tokens<'_>,
    cache: LayerCache<'_>,
) -> Result<()> {
    cache.check()?;
    turns.check(&cache)?;
    tokens.check()?;
    if tokens.n != 1 {
        return Err(Error::Internal(format!("q, k and v of {} tokens in a launch for one", tokens.n)));
    }
    let head_dim = cache.head_dim;
    if head_dim != cache.value_dim {
        return Err(Error::Internal(format!(
            "keys of {head_dim} and values of {} in one launch",
            cache.value_dim
        )));
    }
    let whole = products.iter().flatten().all(|p| p.weight.rows().is_multiple_of(head_dim.max(1)));
    let kv = products[1..].iter().flatten().all(|p| p.weight.rows() == cache.n_head_kv * head_dim);
    if head_dim == 0 || !head_dim.is_multiple_of(2) || !whole || !kv {
        return Err(Error::Internal(format!("q, k and v are not whole heads of {head_dim}")));
    }
    let group = Group::new(products, 1)?;
    let (q, ds) = x.pointers(group.ty, 1, group.cols)?;
    let to = Append {
        turns: turns.table.ptr(),
        positions: tokens.positions.ptr(),
        sequences: tokens.sequences.ptr(),
        table: tokens.table.ptr(),
        k: cache.k.ptr(),
        v: cache.v.ptr(),
        head_dim: dim("head_dim", head_dim)?,
        head_pad: dim("head_pad", cache.head_pad)?,
        n_head_kv: dim("n_head_kv", cache.n_head_kv)?,
        n_rot: dim("n_rot", turns.n_rot)?,
        halves: u32::from(turns.halves),
        table_stride: dim("table_stride", tokens.table_stride)?,
    };
    let cols = dim("cols", group.cols)?;
    let args = QkvArgs { parts: group.parts, q, ds, cols, sharing: group.sharing, to };
    launch(stream, QKV.of(group.ty)?, group.grid, &args)
}

/// Where an op leaves its result: f32, rounded to 8 bits, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dest<'a> {
    pub plain: Option<Span<'a>>,
    pub rounded: Option<Quantized<'a>>,
}

impl Dest<'_> {
    /// (dst, q, ds) for n rows of `cols`.
    pub(super) fn pointers(&self, n: usize, cols: usize) -> Result<(Ptr, Ptr, Ptr)> {
        if let Some(plain) = self.plain {
            holds("dst", plain, &[n, cols], 4)?;
            is_aligned("dst", plain, 16)?;
        }
        if let Some(rounded) = &self.rounded {
            rounded.holds(n, cols)?;
        }
        let (q, ds) = self.rounded.map_or(Default::default(), |x| (x.q.ptr(), x.ds.ptr()));
        Ok((self.plain.map_or(Ptr::default(), Span::ptr), q, ds))
    }
}

/// Whether [`glu_matvec`] takes these.
pub fn glu_takes(f: Unary, gate: &Weight, up: &Weight) -> bool {
    let shape = |w: &Weight| (w.ty(), w.rows(), w.cols());
    gate_code(Binary::Glu(f)).is_some() && shape(gate) == shape(up)
}

/// `dst[r] = f(dot(gate[r], x) + bias) * (dot(up[r], x) + bias)` of one token. gate and up are of one type and shape;
/// their `dst` is not used.
pub fn glu_matvec(
    stream: &Stream,
    f: Unary,
    gate: &Product<'_>,
    up: &Product<'_>,
    x: Input<'_>,
    dst: Span<'_>,
) -> Result<()> {
    let Some(code) = gate_code(Binary::Glu(f)).filter(|_| glu_takes(f, gate.weight, up.weight)) else {
        return Err(Error::Internal(format!(
            "a gate of {f:?} or of another shape than what it lets through"
        )));
    };
    let (ty, rows, cols) = (gate.weight.ty(), gate.weight.rows(), gate.weight.cols());
    for bias in [gate.bias, up.bias].into_iter().flatten() {
        holds("bias", bias, &[rows], 4)?;
    }
    let (q, ds) = x.pointers(ty, 1, cols)?;
    holds("dst", dst, &[rows], 4)?;
    let pointer = |span: Option<Span<'_>>| span.map_or(Ptr::default(), Span::ptr);
    let to = Gated {
        gate: gate.weight.planes(),
        up: up.weight.planes(),
        gate_bias: pointer(gate.bias),
        up_bias: pointer(up.bias),
        dst: dst.ptr(),
        rows: dim("rows", rows)?,
        f: code,
    };
    let (cols, both) = (dim("cols", cols)?, dim("rows", 2 * rows)?);
    let shape = matvec_shape(ty, both, cols, 1);
    let args = GluMatVecArgs { to, q, ds, cols, sharing: shape.sharing, pairs: Pairs::default() };
    launch(stream, GLU_MATVEC.of(ty)?, [u64::from(both.div_ceil(shape.rows)), 1, 1], &args)
}
