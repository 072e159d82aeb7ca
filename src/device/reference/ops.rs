//! The arithmetic of the ops, over plain slices.

use crate::plan::{Binary, DeltaShape, NormKind, RopePairs, Scores, Unary};
use crate::{Result, memory, worker};

/// Of the threads.
const NAME: &str = "reference";
/// What memory is for, in errors.
const SCRATCH: &str = "scratch";

/// Sum of products, in 32 partial sums: the compiler may then use vector registers, and the rounding
/// error grows with len / 32 rather than len.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 32];
    let (a, a_rest) = a.as_chunks::<32>();
    let (b, b_rest) = b.as_chunks::<32>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Every `group` of elements: what the kind says, times the weight, plus the bias (each `group` long).
pub fn norm(
    x: &[f32],
    kind: NormKind,
    eps: f32,
    group: usize,
    [weight, bias]: [Option<&[f32]>; 2],
    out: &mut [f32],
) {
    let n = group as f64;
    for (x, out) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        let mean = match kind {
            NormKind::Rms | NormKind::L2 => 0.0,
            NormKind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
        };
        let sum = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
        let square = match kind {
            NormKind::Rms | NormKind::Layer => sum / n,
            NormKind::L2 => sum,
        };
        let (mean, scale) = (mean as f32, (1.0 / (square + f64::from(eps)).sqrt()) as f32);
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = (x - mean) * scale * weight.map_or(1.0, |w| w[i]) + bias.map_or(0.0, |b| b[i]);
        }
    }
}

/// `out[t][r] = dot(row(r), x[t]) + bias[r]`. `row(r, buffer)` dequantizes a row of the weight: once per call,
/// for all tokens. Rows are divided among the threads.
pub fn mat_mul(
    x: &[f32],
    cols: usize,
    rows: usize,
    row: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    bias: Option<&[f32]>,
    out: &mut [f32],
    threads: usize,
) -> Result<()> {
    let n_tokens = x.len() / cols;
    if n_tokens == 0 {
        return Ok(());
    }
    // rows first..last of the product, transposed: [r - first][t]
    let part = |first: usize, last: usize| -> Result<Vec<f32>> {
        let mut weight = memory::filled(0.0, cols, SCRATCH)?;
        let mut product = memory::vec((last - first) * n_tokens, SCRATCH)?;
        for r in first..last {
            row(r, &mut weight)?;
            let bias = bias.map_or(0.0, |bias| bias[r]);
            product.extend(x.chunks_exact(cols).map(|x| dot(&weight, x) + bias));
        }
        Ok(product)
    };
    let mut scatter = |first: usize, product: &[f32]| {
        for (r, product) in product.chunks_exact(n_tokens).enumerate() {
            for (t, value) in product.iter().enumerate() {
                out[t * rows + first + r] = *value;
            }
        }
    };

    // threads cost some 50 us to start: as long as a small product takes
    let threads = if rows * cols * n_tokens < 1 << 17 { 1 } else { threads };
    let share = rows.div_ceil(threads);
    let starts = memory::collect((0..rows).step_by(share), SCRATCH)?;
    if starts.len() == 1 {
        scatter(0, &part(0, rows)?);
        return Ok(());
    }
    let part = &part;
    let works = starts.iter().map(|&first| move || part(first, (first + share).min(rows)));
    for (first, product) in starts.iter().zip(worker::each(NAME, worker::STACK, works)?) {
        scatter(*first, &product?);
    }
    Ok(())
}

/// Calls `f(t, row t of out)` for each of `n` rows, divided among the threads.
pub fn each_row(
    out: &mut [f32],
    n: usize,
    threads: usize,
    f: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let width = out.len() / n;
    let share = n.div_ceil(threads);
    let work = &|first: usize, rows: &mut [f32]| -> Result<()> {
        rows.chunks_exact_mut(width).enumerate().try_for_each(|(i, row)| f(first + i, row))
    };
    if share == n {
        return work(0, out);
    }
    let works = out.chunks_mut(share * width).enumerate().map(|(i, rows)| move || work(i * share, rows));
    worker::each(NAME, worker::STACK, works)?.into_iter().collect()
}

/// Rotates each head of `row`, from its element `first` on. The angle is computed in f64: its error is then that of `inv_freq` alone,
/// one part in 2^24, at any position.
pub fn rope(
    row: &mut [f32],
    head_dim: usize,
    first: usize,
    pairs: RopePairs,
    (inv_freq, magnitude): (&[f32], f32),
    position: u32,
) -> Result<()> {
    let half = inv_freq.len();
    let turns = inv_freq.iter().map(|freq| {
        let (sin, cos) = (f64::from(position) * f64::from(*freq)).sin_cos();
        (sin as f32 * magnitude, cos as f32 * magnitude)
    });
    let turns = memory::collect(turns, SCRATCH)?;
    for head in row.chunks_exact_mut(head_dim) {
        for (i, (sin, cos)) in turns.iter().enumerate() {
            let (a, b) = match pairs {
                RopePairs::Consecutive => (first + 2 * i, first + 2 * i + 1),
                RopePairs::Halves => (first + i, first + i + half),
            };
            let (x, y) = (head[a], head[b]);
            head[a] = x * cos - y * sin;
            head[b] = x * sin + y * cos;
        }
    }
    Ok(())
}

/// What attention knows of its heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub n_head: usize,
    pub n_head_kv: usize,
    pub scores: Scores,
}

/// Keys or values of a cache: cells of `width` elements, in which head i has the `len` elements from `i * step` on.
#[derive(Clone, Copy, Debug)]
pub struct CellHeads<'a> {
    pub cells: &'a [f32],
    pub width: usize,
    pub step: usize,
    pub len: usize,
}

impl<'a> CellHeads<'a> {
    fn at(&self, slot: usize, head: usize) -> &'a [f32] {
        &self.cells[slot * self.width + head * self.step..][..self.len]
    }
}

/// A token's cells: slots of neighbouring positions from `first` on, and the token's own position.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    pub slots: &'a [usize],
    pub first: usize,
    pub own: usize,
}

/// One token's attention to its cells. `sinks`: a score without a value for each head.
pub fn attention(
    q: &[f32],
    Cells { slots, first, own }: Cells<'_>,
    keys: CellHeads<'_>,
    values: CellHeads<'_>,
    Heads { n_head, n_head_kv, scores }: Heads,
    sinks: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let (k, v, group) = (keys.len, values.len, n_head / n_head_kv);
    let mut weights = memory::filled(0.0f32, slots.len(), SCRATCH)?;
    for (n, (q, out)) in q.chunks_exact(k).zip(out.chunks_exact_mut(v)).enumerate() {
        let (head, sink) = (n / group, sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[n]));
        let slope = scores.slope(n, n_head);
        for ((weight, slot), position) in weights.iter_mut().zip(slots).zip(first..) {
            let score = dot(q, keys.at(*slot, head)) * scores.scale;
            let capped = if scores.cap == 0.0 { score } else { unary(Unary::SoftCap(scores.cap), score) };
            *weight = capped - slope * own.abs_diff(position) as f32;
        }
        let max = weights.iter().copied().fold(sink, f32::max);
        weights.iter_mut().for_each(|w| *w = (*w - max).exp());
        let sum = weights.iter().map(|w| f64::from(*w)).sum::<f64>() + f64::from((sink - max).exp());
        out.fill(0.0);
        for (weight, slot) in weights.iter().zip(slots) {
            for (out, v) in out.iter_mut().zip(values.at(*slot, head)) {
                *out += weight * v;
            }
        }
        let scale = (1.0 / sum) as f32;
        out.iter_mut().for_each(|out| *out *= scale);
    }
    Ok(())
}

/// One token's convolution: each channel over the rows in `state`, the oldest first, and x, which then is the last of them.
/// The weight has a row a channel.
pub fn conv(state: &mut [f32], x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let (n, k) = (x.len(), weight.len() / x.len());
    for (c, out) in out.iter_mut().enumerate() {
        let earlier = (0..k - 1).map(|i| weight[c * k + i] * state[i * n + c]).sum::<f32>();
        *out = earlier + weight[c * k + k - 1] * x[c] + bias.map_or(0.0, |bias| bias[c]);
    }
    if k > 1 {
        state.copy_within(n.., 0);
        state[(k - 2) * n..].copy_from_slice(x);
    }
}

/// One token's gated delta rule over `state`, `[value head][k][v]`.
pub fn delta_net(
    state: &mut [f32],
    shape: DeltaShape,
    [q, k, v, g, beta]: [&[f32]; 5],
    scale: f32,
    out: &mut [f32],
) {
    let of = shape;
    for (head, s) in state.chunks_exact_mut(of.k * of.v).enumerate() {
        let at = of.heads.of(head, of.n_v, of.n_k) * of.k;
        let (q, k, v) = (&q[at..][..of.k], &k[at..][..of.k], &v[head * of.v..][..of.v]);
        for (i, row) in s.chunks_exact_mut(of.v).enumerate() {
            let g = if of.g_by_row { g[head * of.k + i] } else { g[head] };
            row.iter_mut().for_each(|s| *s *= g.exp());
        }
        for (j, v) in v.iter().enumerate() {
            let seen: f32 = k.iter().enumerate().map(|(i, k)| k * s[i * of.v + j]).sum();
            let delta = beta[head] * (v - seen);
            k.iter().enumerate().for_each(|(i, k)| s[i * of.v + j] += k * delta);
            let product: f32 = q.iter().enumerate().map(|(i, q)| q * s[i * of.v + j]).sum();
            out[head * of.v + j] = product * scale;
        }
    }
}

pub fn unary(f: Unary, x: f32) -> f32 {
    match f {
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::Gelu => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Unary::Relu => x.max(0.0),
        Unary::Relu2 => x.max(0.0) * x.max(0.0),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Scale(factor) => x * factor,
        Unary::SoftCap(cap) => cap * (x / cap).tanh(),
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Unary::Clamp(low, high) => x.max(low).min(high),
    }
}

pub fn binary(f: Binary, a: f32, b: f32) -> f32 {
    match f {
        Binary::Add => a + b,
        Binary::Mul => a * b,
        Binary::Glu(f) => unary(f, a) * b,
        Binary::ClampedGlu => {
            let (gate, up) = (a.min(7.0), b.clamp(-7.0, 7.0));
            gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_covers_whole_chunks_and_the_rest() {
        for n in [0, 1, 31, 32, 33, 80] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b = vec![2.0; n];
            assert_eq!(dot(&a, &b), (0..n).map(|i| 2.0 * i as f32).sum::<f32>());
        }
    }

    #[test]
    fn rope_keeps_lengths_and_turns_by_the_angle() {
        for (pairs, partner) in [(RopePairs::Consecutive, 1), (RopePairs::Halves, 2)] {
            let turns = (&[0.5, 0.25][..], 1.0);
            let mut head = [0.0; 6];
            head[0] = 1.0;
            head[5] = 7.0; // beyond n_rot = 4: untouched
            rope(&mut head, 6, 0, pairs, turns, 3).unwrap();
            assert!((head[0] - 1.5f32.cos()).abs() < 1e-6);
            assert!((head[partner] - 1.5f32.sin()).abs() < 1e-6);
            assert_eq!(head[5], 7.0);
            let mut behind = [0.0, 0.0, head[0], head[1], head[2], head[3]];
            rope(&mut behind, 6, 2, pairs, turns, 4).unwrap();
            assert!((behind[2] - 3.5f32.cos()).abs() < 1e-6);
            assert!((behind[2 + partner] - 3.5f32.sin()).abs() < 1e-6);
            assert_eq!(behind[..2], [0.0; 2]);
        }
    }

    #[test]
    fn attention_to_equal_keys_is_the_mean_of_the_values() {
        let heads = Heads { n_head: 2, n_head_kv: 1, scores: Scores::scaled(0.7) };
        let rows = |cells| CellHeads { cells, width: 2, step: 2, len: 2 };
        let (k, v) = (rows(&[1.0; 6]), rows(&[0.0, 3.0, 3.0, 6.0, 6.0, 0.0]));
        let mut out = [9.0; 4];
        let cells = Cells { slots: &[0, 1, 2], first: 0, own: 2 };
        attention(&[1.0, 2.0, 0.5, 0.5], cells, k, v, heads, None, &mut out).unwrap();
        for value in out {
            assert!((value - 3.0).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn scores_fall_with_the_distance() {
        let slopes = |n| -> Vec<f32> {
            (0..n).map(|h| Scores { alibi: 8.0, ..Scores::scaled(1.0) }.slope(h, n)).collect()
        };
        assert_eq!(slopes(2), [1.0 / 16.0, 1.0 / 256.0]);
        assert_eq!(slopes(4), [0.25, 1.0 / 16.0, 1.0 / 64.0, 1.0 / 256.0]);
        // the third of three is the first of four
        assert_eq!(slopes(3), [1.0 / 16.0, 1.0 / 256.0, 0.25]);
        assert_eq!(Scores::scaled(1.0).slope(0, 1), 0.0);
        // a key on each side of the token's own, as far away
        let heads = Heads { n_head: 1, n_head_kv: 1, scores: Scores { alibi: 1.0, ..Scores::scaled(0.0) } };
        let cells = Cells { slots: &[0, 1, 2], first: 4, own: 5 };
        let rows = |cells| CellHeads { cells, width: 1, step: 1, len: 1 };
        let mut out = [0.0];
        attention(&[1.0], cells, rows(&[1.0; 3]), rows(&[1.0, 0.0, 3.0]), heads, None, &mut out).unwrap();
        let far = (-0.5f32).exp();
        assert!((out[0] - 4.0 * far / (1.0 + 2.0 * far)).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn norms_work_by_groups() {
        let mut out = [0.0; 4];
        let x = [3.0, 4.0, 0.0, 2.0];
        norm(&x, NormKind::Layer, 0.0, 2, [None, Some(&[0.5, 0.0])], &mut out);
        assert_eq!(out, [-0.5, 1.0, -0.5, 1.0]);
        norm(&x, NormKind::Rms, 0.0, 2, [Some(&[1.0, 2.0]), None], &mut out);
        let (first, second) = (12.5f32.sqrt(), 2.0f32.sqrt());
        let want = [3.0 / first, 8.0 / first, 0.0, 4.0 / second];
        for (got, want) in out.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{out:?}");
        }
    }

    #[test]
    fn mat_mul_does_not_depend_on_threads() {
        let (cols, rows, n) = (257, 301, 3);
        let weight = |r: usize, out: &mut [f32]| {
            out.iter_mut().enumerate().for_each(|(c, w)| *w = ((r * 31 + c * 7) % 17) as f32 / 8.0 - 1.0);
            Ok(())
        };
        let x: Vec<f32> = (0..cols * n).map(|i| (i % 13) as f32 * 0.1 - 0.5).collect();
        let bias: Vec<f32> = (0..rows).map(|r| r as f32).collect();
        let mut one = vec![0.0; rows * n];
        mat_mul(&x, cols, rows, weight, Some(&bias), &mut one, 1).unwrap();
        for threads in [2, 3, 7] {
            let mut many = vec![0.0; rows * n];
            mat_mul(&x, cols, rows, weight, Some(&bias), &mut many, threads).unwrap();
            assert_eq!(one, many);
        }
        let mut row = vec![0.0; cols];
        weight(5, &mut row).unwrap();
        let want: f32 = row.iter().zip(&x[cols..]).map(|(w, x)| w * x).sum::<f32>() + 5.0;
        assert!((one[rows + 5] - want).abs() < 1e-3);
    }
}
