//! Attention of many tokens.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::attend::Scores;
use super::project::{LATENT_PAD, LayerCache};
use super::{dim, holds, is_aligned, launch};
use crate::{Error, Result};

/// Most tokens of a tile, for heads padded to `head_pad`.
pub const fn tile_tokens(head_pad: usize) -> usize {
    if head_pad > 256 { 32 } else { 64 }
}

/// The tokens of a step in tiles as the kernel reads them: first token, how many, sequence, position of the first.
/// `tokens`: sequence (row of the table) and position of each. A tile's tokens are neighbours of one sequence, each at
/// the position behind the other's. Those with most to read come first: a GPU begins with them.
pub fn attention_tiles(tokens: impl IntoIterator<Item = (u32, u32)>, head_pad: usize) -> Vec<[u32; 4]> {
    let most = tile_tokens(head_pad) as u32;
    let mut tiles: Vec<[u32; 4]> = Vec::new();
    for (token, (sequence, position)) in (0..).zip(tokens) {
        match tiles.last_mut() {
            Some([_, count, last_sequence, first_position])
                if *last_sequence == sequence
                    && *count < most
                    && first_position.checked_add(*count) == Some(position) =>
            {
                *count += 1;
            }
            _ => tiles.push([token, 1, sequence, position]),
        }
    }
    tiles.sort_by_key(|[_, count, _, position]| std::cmp::Reverse(u64::from(*position) + u64::from(*count)));
    tiles
}

/// A step's tokens in tiles, and where their sequences lie in the cache; u32, on the device.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    /// As [`attention_tiles`] makes them, for the cache's head_pad.
    pub tiles: Span<'a>,
    pub n_tiles: usize,
    /// Of the cache's pool: `table_stride` entries from one sequence's to the next.
    pub table: Span<'a>,
    pub n_tables: usize,
    pub table_stride: usize,
}

/// The kernel for heads padded to `head_pad`, and how many groups make a head: those of wide heads make 128 elements
/// each.
pub fn attention_kernel(head_pad: usize) -> Result<(Kernel<PrefillAttentionArgs>, u64)> {
    match head_pad {
        32 => Ok((PREFILL_ATTENTION_D32, 1)),
        64 => Ok((PREFILL_ATTENTION_D64, 1)),
        128 => Ok((PREFILL_ATTENTION_D128, 1)),
        256 => Ok((PREFILL_ATTENTION_D256, 2)),
        512 => Ok((PREFILL_ATTENTION_D512, 4)),
        LATENT_PAD => Ok((PREFILL_ATTENTION_LATENT, 4)),
        _ => Err(Error::Internal(format!("no attention kernel for heads padded to {head_pad}"))),
    }
}

/// Attention of q (f32, n x n_head x head_dim, rotated) to the cells that `scores` shows each token, which the cache holds
/// already; out: f32, n x n_head x value_dim. What `tiles` says of tokens, positions and blocks is within n and the cache.
#[allow(clippy::too_many_arguments)]
pub fn prefill_attention(
    stream: &Stream,
    n: usize,
    n_head: usize,
    q: Span<'_>,
    tiles: Tiles<'_>,
    cache: LayerCache<'_>,
    scores: Scores<'_>,
    out: Span<'_>,
) -> Result<()> {
    let LayerCache { n_head_kv, head_dim, value_dim, head_pad, .. } = cache;
    let (kernel, slices) = attention_kernel(head_pad)?;
    cache.check()?;
    if n_head_kv == 0 || !n_head.is_multiple_of(n_head_kv) {
        return Err(Error::param(format!("{n_head} query heads over {n_head_kv} kv heads")));
    }
    holds("q", q, &[n, n_head, head_dim], 4)?;
    is_aligned("q", q, 16)?;
    holds("out", out, &[n, n_head, value_dim], 4)?;
    holds("tiles", tiles.tiles, &[tiles.n_tiles, 4], 4)?;
    is_aligned("tiles", tiles.tiles, 16)?;
    holds("table", tiles.table, &[tiles.n_tables, tiles.table_stride], 4)?;
    let [window, chunk] = scores.window()?;
    let args = PrefillAttentionArgs {
        q: q.ptr(),
        k: cache.k.ptr(),
        v: cache.v.ptr(),
        tiles: tiles.tiles.ptr(),
        table: tiles.table.ptr(),
        out: out.ptr(),
        sinks: scores.sinks(n_head)?,
        lasts: scores.lasts(n)?,
        n_head: dim("n_head", n_head)?,
        n_head_kv: dim("n_head_kv", n_head_kv)?,
        head_dim: dim("head_dim", head_dim)?,
        value_dim: dim("value_dim", value_dim)?,
        table_stride: dim("table_stride", tiles.table_stride)?,
        window,
        chunk,
        scale: scores.scale,
        cap: scores.cap,
        alibi: scores.alibi,
    };
    if n == 0 || n_head == 0 || head_dim == 0 || tiles.n_tiles == 0 {
        return Ok(());
    }
    launch(stream, kernel, [n_head as u64 * slices, tiles.n_tiles as u64, 1], &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_runs_of_one_sequence_the_deepest_first() {
        let run = |sequence: u32, first: u32, n: u32| (first..first + n).map(move |p| (sequence, p));
        let tokens = run(0, 0, 70).chain(run(2, 1000, 5)).chain(run(2, 2000, 1)).chain(run(1, 2001, 2));
        let want = [[76, 2, 1, 2001], [75, 1, 2, 2000], [70, 5, 2, 1000], [64, 6, 0, 64], [0, 64, 0, 0]];
        assert_eq!(attention_tiles(tokens, 128), want);
        assert_eq!(attention_tiles(run(0, 0, 33), 512), [[32, 1, 0, 32], [0, 32, 0, 0]]);
        assert_eq!(attention_tiles([], 64), [[0; 4]; 0]);
        assert_eq!(attention_tiles([(0, u32::MAX), (0, 0)], 64), [[0, 1, 0, u32::MAX], [1, 1, 0, 0]]);
    }
}
