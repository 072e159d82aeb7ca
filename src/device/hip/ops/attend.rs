//! Heads on their way to attention, and attention of tokens one by one.

use super::super::kernels::{self, *};
use super::super::memory::Span;
use super::super::stream::Stream;
use super::project::{Dest, LATENT_PAD, LATENT_VALUES, LayerCache, Tokens, Turns};
use super::{dim, holds, launch};
use crate::plan::Window;
use crate::{Error, Result};

/// The norm over each head of q or k, and its f32 weight.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    pub q: Option<Span<'a>>,
    pub k: Option<Span<'a>>,
    pub eps: f32,
}

/// Normalizes and rotates q (f32, n x n_head x head_dim) in place; k (n x n_head_kv x head_dim) and v, where keys do not
/// hold it, likewise on their way to the cache, v as it is. What `tokens` says of positions and blocks is within the cache.
#[allow(clippy::too_many_arguments)]
pub fn prepare_heads(
    stream: &Stream,
    n_head: usize,
    q: Span<'_>,
    k: Span<'_>,
    v: Option<Span<'_>>,
    norms: HeadNorms<'_>,
    turns: Option<Turns<'_>>,
    tokens: Tokens<'_>,
    cache: LayerCache<'_>,
) -> Result<()> {
    if tokens.n == 0 {
        return Ok(());
    }
    tokens.check()?;
    cache.check()?;
    if let Some(turns) = turns {
        turns.check(&cache)?;
    }
    let LayerCache { n_head_kv, head_dim, value_dim, head_pad, .. } = cache;
    if v.is_some() == cache.holds_values() {
        return Err(Error::Internal(format!("values for cells of {head_pad}: {}", v.is_some())));
    }
    let as_it_is = n_head == 0 && norms.q.is_none() && norms.k.is_none() && turns.is_none();
    if head_dim > LATENT_VALUES && !as_it_is {
        return Err(Error::Internal(format!(
            "norms or rotation of heads of {head_dim} on their way to the cache"
        )));
    }
    holds("q", q, &[tokens.n, n_head, head_dim], 4)?;
    holds("k", k, &[tokens.n, n_head_kv, head_dim], 4)?;
    if let Some(v) = v {
        holds("v", v, &[tokens.n, n_head_kv, value_dim], 4)?;
    }
    for norm in [norms.q, norms.k].into_iter().flatten() {
        holds("norm", norm, &[head_dim], 4)?;
    }
    let pointer = |span: Option<Span<'_>>| span.map_or(Ptr::default(), Span::ptr);
    let h = kernels::Heads {
        q: q.ptr(),
        k: k.ptr(),
        v: pointer(v),
        q_norm: pointer(norms.q),
        k_norm: pointer(norms.k),
        turns: pointer(turns.map(|turns| turns.table)),
        positions: tokens.positions.ptr(),
        sequences: tokens.sequences.ptr(),
        table: tokens.table.ptr(),
        k_cache: cache.k.ptr(),
        v_cache: cache.v.ptr(),
        n_head: dim("n_head", n_head)?,
        n_head_kv: dim("n_head_kv", n_head_kv)?,
        head_dim: dim("head_dim", head_dim)?,
        value_dim: dim("value_dim", value_dim)?,
        head_pad: dim("head_pad", head_pad)?,
        rest_at: dim("rest_at", if cache.holds_values() { LATENT_VALUES } else { head_pad })?,
        n_rot: dim("n_rot", turns.map_or(0, |turns| turns.n_rot))?,
        halves: u32::from(turns.is_some_and(|turns| turns.halves)),
        table_stride: dim("table_stride", tokens.table_stride)?,
        eps: norms.eps,
    };
    let n_heads = (n_head + n_head_kv + v.map_or(0, |_| n_head_kv)) as u64;
    launch(stream, PREPARE_HEADS, [tokens.n as u64, n_heads, 1], &HeadsArgs { h })
}

/// Which kernel takes heads padded to `head_pad` of which `per_kv` share a kv head, and how many of those at once.
pub(super) fn attend_kernel(head_pad: usize, per_kv: usize) -> Result<(Kernel<AttendArgs>, usize)> {
    let choices: &[(usize, Kernel<AttendArgs>)] = match head_pad {
        32 => &[(1, ATTEND_D32_H1), (4, ATTEND_D32_H4), (8, ATTEND_D32_H8)],
        64 => &[(1, ATTEND_D64_H1), (4, ATTEND_D64_H4), (8, ATTEND_D64_H8)],
        128 => &[(1, ATTEND_D128_H1), (4, ATTEND_D128_H4), (8, ATTEND_D128_H8)],
        256 => &[(1, ATTEND_D256_H1), (4, ATTEND_D256_H4)],
        512 => &[(1, ATTEND_D512_H1), (2, ATTEND_D512_H2)],
        LATENT_PAD => &[(1, ATTEND_LATENT_H1), (4, ATTEND_LATENT_H4)],
        _ => return Err(Error::Internal(format!("no attention kernel for heads padded to {head_pad}"))),
    };
    let (heads, kernel) =
        choices[choices.iter().position(|(n, _)| per_kv <= *n).unwrap_or(choices.len() - 1)];
    Ok((kernel, heads))
}

/// How queries and keys become weights.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// Factor on a product.
    pub scale: f32,
    /// Soft cap on what that gives; 0: none.
    pub cap: f32,
    /// Fall with the distance, as [`crate::plan::Scores`] has it; 0: none.
    pub alibi: f32,
    /// None: a token sees all positions up to its own.
    pub window: Option<Window>,
    /// u32, of each token the last position that it sees, of a sequence's tokens the same; None: its own.
    pub lasts: Option<Span<'a>>,
    /// f32, of each query head one more score without a value.
    pub sinks: Option<Span<'a>>,
}

impl Scores<'_> {
    /// Causal, with a factor and nothing else.
    pub const fn scaled(scale: f32) -> Self {
        Scores { scale, cap: 0.0, alibi: 0.0, window: None, lasts: None, sinks: None }
    }

    /// Of `n` tokens.
    pub(super) fn lasts(&self, n: usize) -> Result<Ptr> {
        let Some(lasts) = self.lasts else { return Ok(Ptr::default()) };
        holds("lasts", lasts, &[n], 4)?;
        Ok(lasts.ptr())
    }

    pub(super) fn sinks(&self, n_head: usize) -> Result<Ptr> {
        let Some(sinks) = self.sinks else { return Ok(Ptr::default()) };
        holds("sinks", sinks, &[n_head], 4)?;
        Ok(sinks.ptr())
    }

    /// The kernels' window and chunk.
    pub(super) fn window(&self) -> Result<[u32; 2]> {
        match self.window {
            None => Ok([UNBOUNDED; 2]),
            Some(window) if window.most() == 0 => Err(Error::param("a window of no positions")),
            Some(Window::Sliding(n)) => Ok([n.min(UNBOUNDED), UNBOUNDED]),
            Some(Window::Chunks(n)) => Ok([UNBOUNDED, n.min(UNBOUNDED)]),
        }
    }
}

/// How attention of tokens one by one is divided, and the scratch that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttendShape {
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Groups that share a head's positions, at most.
    pub splits: usize,
}

/// So many tokens at once are divided as one is.
const SPLIT_ALIKE: usize = 8;

impl AttendShape {
    /// Enough groups for a GPU of `compute_units` to be busy with `n` tokens.
    pub fn new(
        n: usize,
        n_head: usize,
        n_head_kv: usize,
        head_pad: usize,
        compute_units: usize,
    ) -> Result<Self> {
        let (_, heads) = attend_kernel(head_pad, n_head / n_head_kv.max(1))?;
        let groups = n_head_kv * (n_head / n_head_kv.max(1)).div_ceil(heads);
        let at_once = if n <= SPLIT_ALIKE { 1 } else { n };
        let splits = (2 * compute_units).div_ceil(groups.max(1).saturating_mul(at_once)).clamp(1, 64);
        Ok(AttendShape { n_head, n_head_kv, splits })
    }

    /// Elements of the partial results of up to `n` tokens, each divided like this one of as few as can be. None: beyond usize.
    pub fn part_floats(&self, n: usize, head_pad: usize) -> Option<usize> {
        // of more tokens each has its share of the splits, rounded up
        let few = n.min(SPLIT_ALIKE).checked_mul(self.splits)?;
        let splits = if n <= SPLIT_ALIKE { few } else { few.max(n.checked_add(self.splits)?) };
        splits.checked_mul(self.n_head)?.checked_mul(head_pad + 2)
    }
}

/// Scratch of [`attend`]; the tickets are zero before and after.
#[derive(Clone, Copy, Debug)]
pub struct AttendScratch<'a> {
    pub parts: Span<'a>,
    pub tickets: Span<'a>,
}

/// Which tokens of a step attend: indices, u32, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    pub tokens: Span<'a>,
    pub n: usize,
}

/// Attention of q (f32, n x n_head x head_dim) over the cache, token by token: each attends to the positions that `scores`
/// shows it, and reads them for itself. The result is n x n_head * value_dim; of `chosen` tokens alone, where there are any.
#[allow(clippy::too_many_arguments)]
pub fn attend(
    stream: &Stream,
    shape: AttendShape,
    q: Span<'_>,
    scores: Scores<'_>,
    tokens: Tokens<'_>,
    chosen: Option<Chosen<'_>>,
    cache: LayerCache<'_>,
    scratch: AttendScratch<'_>,
    to: Dest<'_>,
) -> Result<()> {
    let n = chosen.map_or(tokens.n, |chosen| chosen.n);
    if n == 0 {
        return Ok(());
    }
    tokens.check()?;
    cache.check()?;
    if let Some(chosen) = chosen {
        holds("chosen", chosen.tokens, &[n], 4)?;
    }
    let AttendShape { n_head, n_head_kv, splits } = shape;
    if n_head_kv == 0 || n_head_kv != cache.n_head_kv || !n_head.is_multiple_of(n_head_kv) {
        return Err(Error::Internal(format!("{n_head} heads on {} of the cache", cache.n_head_kv)));
    }
    holds("q", q, &[tokens.n, n_head, cache.head_dim], 4)?;
    let per_kv = n_head / n_head_kv;
    let (kernel, heads) = attend_kernel(cache.head_pad, per_kv)?;
    holds("parts", scratch.parts, &[n, n_head, splits, cache.head_pad + 2], 4)?;
    let groups = n_head_kv * per_kv.div_ceil(heads);
    holds("tickets", scratch.tickets, &[n, groups], 4)?;
    if to.rounded.is_some() && !cache.value_dim.is_multiple_of(super::Q8_BLOCK) {
        return Err(Error::Internal(format!("heads of {} are not whole blocks", cache.value_dim)));
    }
    let (out, oq, ods) = to.pointers(tokens.n, n_head * cache.value_dim)?;
    let [window, chunk] = scores.window()?;
    let a = Attend {
        q: q.ptr(),
        k: cache.k.ptr(),
        v: cache.v.ptr(),
        positions: tokens.positions.ptr(),
        sequences: tokens.sequences.ptr(),
        table: tokens.table.ptr(),
        chosen: chosen.map_or(Ptr::default(), |chosen| chosen.tokens.ptr()),
        parts: scratch.parts.ptr(),
        tickets: scratch.tickets.ptr(),
        out,
        oq,
        ods,
        sinks: scores.sinks(n_head)?,
        lasts: scores.lasts(tokens.n)?,
        n_head: dim("n_head", n_head)?,
        n_head_kv: dim("n_head_kv", n_head_kv)?,
        head_dim: dim("head_dim", cache.head_dim)?,
        value_dim: dim("value_dim", cache.value_dim)?,
        table_stride: dim("table_stride", tokens.table_stride)?,
        splits: dim("splits", splits)?,
        window,
        chunk,
        scale: scores.scale,
        cap: scores.cap,
        alibi: scores.alibi,
    };
    // a group beyond the blocks that a sequence can have would find no work
    let splits = splits.min(cache.n_blocks.max(1));
    launch(stream, kernel, [splits as u64, groups as u64, n as u64], &AttendArgs { a })
}
