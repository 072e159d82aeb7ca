//! Ops with a recurrent state.

use super::super::kernels::*;
use super::super::memory::Span;
use super::super::stream::Stream;
use super::{dim, holds, is_aligned, launch};
use crate::plan::{DeltaShape, KeyHeads};
use crate::{Error, Result};

/// The step's tokens by sequence. `sequences`: u32 a token, below n_runs; `runs`: u32, for each sequence its first token, the
/// number of its tokens, the slot of state that is read ([`NO_SLOT`]: zeros) and the one that is written.
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a> {
    pub n: usize,
    pub n_runs: usize,
    pub sequences: Span<'a>,
    pub runs: Span<'a>,
}

/// In place of a slot of zeros.
pub const NO_SLOT: u32 = u32::MAX;

impl Runs<'_> {
    fn holds(&self) -> Result<()> {
        holds("sequences", self.sequences, &[self.n], 4)?;
        holds("runs", self.runs, &[self.n_runs, 4], 4)?;
        is_aligned("runs", self.runs, 16)
    }
}

/// A convolution of channels over `k` inputs, with silu behind it or not. weight: f32 `[channel][k]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    pub weight: Span<'a>,
    pub bias: Option<Span<'a>>,
    pub k: usize,
    pub silu: bool,
}

/// dst = the convolution of x, rows of `width`. `state`: f32 `[slot][k - 1][width]`.
pub fn conv(
    stream: &Stream,
    of: Conv<'_>,
    x: Span<'_>,
    runs: Runs<'_>,
    state: Span<'_>,
    dst: Span<'_>,
    width: usize,
) -> Result<()> {
    let Conv { weight, bias, k, silu } = of;
    holds("x", x, &[runs.n, width], 4)?;
    holds("dst", dst, &[runs.n, width], 4)?;
    holds("weight", weight, &[width, k], 4)?;
    bias.map_or(Ok(()), |bias| holds("bias", bias, &[width], 4))?;
    runs.holds()?;
    if runs.n == 0 || width == 0 {
        return Ok(());
    }
    if k == 0 {
        return Err(Error::param("a convolution over no input"));
    }
    let args = ConvArgs {
        x: x.ptr(),
        weight: weight.ptr(),
        bias: bias.map_or(Ptr::default(), Span::ptr),
        sequences: runs.sequences.ptr(),
        runs: runs.runs.ptr(),
        state: state.ptr(),
        dst: dst.ptr(),
        width: dim("width", width)?,
        k: dim("k", k)?,
        silu: u32::from(silu),
    };
    launch(stream, CONV_F32, [runs.n as u64, (width as u64).div_ceil(256), 1], &args)
}

/// The kernel for keys of `k` elements.
pub fn delta_kernel(k: usize) -> Result<Kernel<DeltaArgs>> {
    match k {
        1..=64 if k.is_multiple_of(4) => Ok(DELTA_NET_K64),
        65..=128 if k.is_multiple_of(4) => Ok(DELTA_NET_K128),
        129..=256 if k.is_multiple_of(4) => Ok(DELTA_NET_K256),
        _ => Err(Error::Unsupported {
            what: "key of a delta net on a GPU",
            name: format!("{k} elements"),
            supported: "multiples of 4 up to 256".into(),
        }),
    }
}

/// out = the gated delta rule over q, k, v, g, beta (f32, rows of heads). `state`: f32 `[slot][value head][v][k]`.
pub fn delta_net(
    stream: &Stream,
    inputs: [Span<'_>; 5],
    shape: DeltaShape,
    scale: f32,
    runs: Runs<'_>,
    state: Span<'_>,
    out: Span<'_>,
) -> Result<()> {
    let DeltaShape { n_k, n_v, k, v, heads, g_by_row } = shape;
    let kernel = delta_kernel(k)?;
    let widths = [[n_k, k], [n_k, k], [n_v, v], [n_v, if g_by_row { k } else { 1 }], [n_v, 1]];
    for ((name, span), [n_head, len]) in ["q", "k", "v", "g", "beta"].into_iter().zip(inputs).zip(widths) {
        holds(name, span, &[runs.n, n_head, len], 4)?;
        is_aligned(name, span, 16)?;
    }
    holds("state", state, &[n_v, v, k], 4)?;
    is_aligned("state", state, 16)?;
    holds("out", out, &[runs.n, n_v, v], 4)?;
    runs.holds()?;
    if n_k == 0 || !n_v.is_multiple_of(n_k) {
        return Err(Error::param(format!("{n_v} value heads over {n_k} key heads")));
    }
    if runs.n_runs == 0 || n_v == 0 || v == 0 {
        return Ok(());
    }
    let [q, key, value, g, beta] = inputs.map(Span::ptr);
    let d = Delta {
        q,
        k: key,
        v: value,
        g,
        beta,
        runs: runs.runs.ptr(),
        state: state.ptr(),
        out: out.ptr(),
        n_k: dim("n_k", n_k)?,
        n_v: dim("n_v", n_v)?,
        k_len: dim("k", k)?,
        v_len: dim("v", v)?,
        turns: u32::from(heads == KeyHeads::Turns),
        g_by_row: u32::from(g_by_row),
        scale,
    };
    launch(stream, kernel, [(v as u64).div_ceil(16), n_v as u64, runs.n_runs as u64], &DeltaArgs { d })
}
