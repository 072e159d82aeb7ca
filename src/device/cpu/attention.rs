//! Attention over the paged cache: one kernel for decode and prefill.
//!
//! A task is some query heads of one kv head and a *tile* of consecutive tokens of a sequence; its rows are (token, query
//! head), token-major. Positions are taken in *spans* of [`SPAN_BLOCKS`] blocks: inside a
//! span block by block with a running maximum and sum (online softmax), spans then merged in order.
//! So a row's result does not depend on its neighbours, on the batch or on who computed which span.

use std::ops::Range;

use half::f16;

use super::elementwise::soft_cap;
use super::isa::Isa;
use super::kv_cache::KvCache;
use super::simd::{Kernel, Simd};
use crate::device::BLOCK_LEN;
use crate::plan::{CacheId, Scores, Window};

/// Blocks per span: 256 positions.
pub const SPAN_BLOCKS: usize = 4;

/// Rows of a task.
const TASK_ROWS: usize = 48;

/// Query heads of a task, of the `group` of a kv head: all, or even shares of them.
pub fn task_heads(group: usize) -> usize {
    group.div_ceil(group.div_ceil(TASK_ROWS))
}

/// Tokens per tile for a group of query heads.
pub fn tile_tokens(group: usize) -> usize {
    TASK_ROWS / task_heads(group)
}

/// Spans that hold the positions.
pub fn spans(positions: Range<usize>) -> Range<usize> {
    const LEN: usize = SPAN_BLOCKS * BLOCK_LEN;
    positions.start / LEN..positions.end.div_ceil(LEN)
}

/// Softmax state of rows over some positions: maximum and sum per row, and the unnormalized output.
#[derive(Clone, Copy)]
pub struct Partial {
    /// Per row: (largest score, sum of e^(score - largest)).
    pub state: *mut [f32; 2],
    /// `rows x v_pad`
    pub out: *mut f32,
}

impl Partial {
    /// From row `row` on.
    ///
    /// # Safety
    /// There is such a row.
    pub unsafe fn row(self, row: usize, v_pad: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Partial { state: self.state.add(row), out: self.out.add(row * v_pad) } }
    }
}

/// One span of one task.
pub struct Span<'a> {
    pub cells: &'a KvCache,
    pub cache: CacheId,
    pub kv_head: usize,
    /// Physical blocks of the sequence.
    pub table: &'a [u32],
    /// Position of each token of the tile.
    pub positions: &'a [u32],
    /// Query heads of the task, the first of them, and all of the op.
    pub group: usize,
    pub head: usize,
    pub n_head: usize,
    /// Elements of a query and a key, as they stand in memory.
    pub k: usize,
    pub window: Option<Window>,
    pub scores: Scores,
    /// Positions up to the last that the tile's tokens see.
    pub seen: usize,
    /// Scaled queries, `rows x k`.
    pub q: *const f32,
    pub span: usize,
    /// Written, not read.
    pub partial: Partial,
}

impl Span<'_> {
    /// # Safety
    /// The path is available. `q` and `partial` are valid for `positions.len() * group` rows and used by
    /// nobody else; the cells of positions up to each token's own are written and not being changed.
    pub unsafe fn run(self, isa: Isa) {
        // SAFETY: the caller's promise.
        unsafe { isa.run(self) }
    }

    /// The cells of the block that starts at `start` that row `row` sees.
    #[inline(always)]
    fn visible(&self, row: usize, start: usize) -> Range<usize> {
        let position = self.positions[row / self.group] as usize;
        let end = if self.scores.causal { position + 1 } else { self.seen };
        let cell = |position: usize| position.saturating_sub(start).min(BLOCK_LEN);
        cell(self.first_seen(position))..cell(end)
    }

    #[inline(always)]
    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| window.first(position))
    }

    /// Rows `row .. row + R` over one block.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize>(&self, row: usize, start: usize, k: *const f16, v: *const f16) {
        // positions rise with rows: the first row sees the earliest cells, the last the latest
        let (first, n_seen) = (self.visible(row, start).start, self.visible(row + R - 1, start).end);
        if first >= n_seen {
            return;
        }
        let v_pad = self.cells.v_pad(self.cache);
        let mut scores = std::mem::MaybeUninit::<[[f32; BLOCK_LEN]; R]>::uninit();
        let scores = scores.as_mut_ptr().cast::<f32>();
        // SAFETY: q holds R rows from `row`, K is k x BLOCK_LEN or BLOCK_LEN rows of k, `scores` R x BLOCK_LEN. V's
        // first n_seen rows are written cells; `out` holds R rows of v_pad, a multiple of the lanes.
        unsafe {
            let q = self.q.add(row * self.k);
            let v_step = match self.cells.row(self.cache) {
                None => {
                    products::<S, R>(q, self.k, k, [BLOCK_LEN; 2], self.k, scores, false);
                    v_pad
                }
                Some(step) => {
                    dots::<S, R>(q, k, step, n_seen, scores);
                    step
                }
            };
            if self.scores.cap != 0.0 {
                for i in (0..R * BLOCK_LEN).step_by(S::LANES) {
                    S::store(scores.add(i), soft_cap::<S>(S::load(scores.add(i)), self.scores.cap));
                }
            }
            if self.scores.alibi != 0.0 {
                for r in 0..R {
                    let own = self.positions[(row + r) / self.group] as f32 - start as f32;
                    let slope = self.scores.slope(self.head + (row + r) % self.group, self.n_head);
                    fall::<S>(scores.add(r * BLOCK_LEN), own, slope);
                }
            }
            let out = self.partial.out.add(row * v_pad);
            for r in 0..R {
                let visible = self.visible(row + r, start);
                let state = &mut *self.partial.state.add(row + r);
                let factor = softmax::<S>(scores.add(r * BLOCK_LEN), visible, state);
                if factor != 1.0 {
                    scale::<S>(out.add(r * v_pad), v_pad, factor);
                }
            }
            products::<S, R>(scores, BLOCK_LEN, v, [v_pad, v_step], n_seen, out, true);
        }
    }
}

impl Kernel for Span<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n_rows = self.positions.len() * self.group;
        let v_pad = self.cells.v_pad(self.cache);
        let earliest = self.first_seen(self.positions[0] as usize);
        let first = self.span * SPAN_BLOCKS;
        let end = (first + SPAN_BLOCKS).min(self.seen.div_ceil(BLOCK_LEN));
        let first = first.max(earliest / BLOCK_LEN);
        // SAFETY: by `Span::run`'s contract; blocks up to `end` are in the table.
        unsafe {
            for row in 0..n_rows {
                *self.partial.state.add(row) = [f32::NEG_INFINITY, 0.0];
            }
            self.partial.out.write_bytes(0, n_rows * v_pad);
            for at in first..end {
                let block = self.table[at] as usize;
                let k = self.cells.k(self.cache, block, self.kv_head).cast_const();
                let v = self.cells.v(self.cache, block, self.kv_head).cast_const();
                let start = at * BLOCK_LEN;
                let mut row = 0;
                while n_rows - row >= 4 {
                    self.block::<S, 4>(row, start, k, v);
                    row += 4;
                }
                match n_rows - row {
                    3 => self.block::<S, 3>(row, start, k, v),
                    2 => self.block::<S, 2>(row, start, k, v),
                    1 => self.block::<S, 1>(row, start, k, v),
                    _ => {}
                }
            }
        }
    }
}

/// Takes from BLOCK_LEN scores `slope` times each cell's distance from position `own`, both counted from the block's start.
#[inline(always)]
unsafe fn fall<S: Simd>(scores: *mut f32, own: f32, slope: f32) {
    const CELLS: [f32; BLOCK_LEN] = {
        let mut cells = [0.0; BLOCK_LEN];
        let mut i = 0;
        while i < BLOCK_LEN {
            cells[i] = i as f32;
            i += 1;
        }
        cells
    };
    for i in (0..BLOCK_LEN).step_by(S::LANES) {
        // SAFETY: `scores` and the cells are valid for BLOCK_LEN elements, a multiple of the lanes.
        unsafe {
            let away = S::sub(S::splat(own), S::load(CELLS.as_ptr().add(i)));
            let away = S::max(away, S::sub(S::splat(0.0), away));
            S::store(scores.add(i), S::mul_add(away, S::splat(-slope), S::load(scores.add(i))));
        }
    }
}

/// Turns BLOCK_LEN scores into e^(score - largest), 0 outside of `visible`, and brings the row's state up to
/// date. Returns the factor for what the row has accumulated under the old maximum.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: *mut f32, visible: Range<usize>, state: &mut [f32; 2]) -> f32 {
    // SAFETY: `scores` is valid for BLOCK_LEN elements, a multiple of the lanes.
    unsafe {
        let hidden = || (0..visible.start).chain(visible.end..BLOCK_LEN);
        for i in hidden() {
            *scores.add(i) = f32::NEG_INFINITY;
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for i in (0..BLOCK_LEN).step_by(S::LANES) {
            largest = S::max(largest, S::load(scores.add(i)));
        }
        let [old, sum] = *state;
        let new = old.max(S::largest(largest));
        if visible.is_empty() {
            scores.write_bytes(0, BLOCK_LEN);
            return 1.0;
        }
        let mut total = S::splat(0.0);
        for i in (0..BLOCK_LEN).step_by(S::LANES) {
            let e = S::exp(S::sub(S::load(scores.add(i)), S::splat(new)));
            total = S::add(total, e);
            S::store(scores.add(i), e);
        }
        for i in hidden() {
            *scores.add(i) = 0.0;
        }
        let factor = if new == old { 1.0 } else { S::largest(S::exp(S::splat(old - new))) };
        *state = [new, sum * factor + S::sum(total)];
        factor
    }
}

#[inline(always)]
unsafe fn scale<S: Simd>(out: *mut f32, len: usize, factor: f32) {
    for i in (0..len).step_by(S::LANES) {
        // SAFETY: `out` is valid for `len` elements, a multiple of the lanes.
        unsafe { S::store(out.add(i), S::mul(S::load(out.add(i)), S::splat(factor))) };
    }
}

/// scores (R x BLOCK_LEN) = a b: a is R x `width`, b the transpose of `n` f16 rows of `width` elements, a multiple of 16;
/// beyond n the scores are 0.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // r and p count registers
unsafe fn dots<S: Simd, const R: usize>(
    a: *const f32,
    b: *const f16,
    width: usize,
    n: usize,
    scores: *mut f32,
) {
    // rows of b at once
    const P: usize = 2;
    // SAFETY: the matrices are as stated; the row that an odd n lacks is taken twice.
    unsafe {
        for i in (0..n).step_by(P) {
            let rows: [usize; P] = std::array::from_fn(|p| (i + p).min(n - 1));
            let mut acc = [[S::splat(0.0); P]; R];
            for at in (0..width).step_by(S::LANES) {
                let cells: [S::V; P] = std::array::from_fn(|p| S::load_f16(b.add(rows[p] * width + at)));
                for r in 0..R {
                    let x = S::load(a.add(r * width + at));
                    for p in 0..P {
                        acc[r][p] = S::mul_add(x, cells[p], acc[r][p]);
                    }
                }
            }
            for r in 0..R {
                for p in 0..P {
                    *scores.add(r * BLOCK_LEN + rows[p]) = S::sum(acc[r][p]);
                }
            }
        }
        for r in 0..R {
            scores.add(r * BLOCK_LEN + n).write_bytes(0, BLOCK_LEN - n);
        }
    }
}

/// c = a b, or c += a b: a is R x `depth` (rows `a_stride` apart), b is f16, `depth` rows of `width`
/// elements (`b_stride` apart), c is R x `width`. `width` is a multiple of 16.
#[inline(always)]
unsafe fn products<S: Simd, const R: usize>(
    a: *const f32,
    a_stride: usize,
    b: *const f16,
    [width, b_stride]: [usize; 2],
    depth: usize,
    c: *mut f32,
    accumulate: bool,
) {
    let mut at = 0;
    // SAFETY: at + P * LANES <= width in each call.
    unsafe {
        // R x 4 accumulators and 4 columns of b fit in AVX-512's 32 registers; the others have 16
        if S::LANES == 16 {
            while width - at >= 64 {
                strip::<S, R, 4>(a, a_stride, b.add(at), [width, b_stride], depth, c.add(at), accumulate);
                at += 64;
            }
        }
        while width - at >= 2 * S::LANES {
            strip::<S, R, 2>(a, a_stride, b.add(at), [width, b_stride], depth, c.add(at), accumulate);
            at += 2 * S::LANES;
        }
        while at < width {
            strip::<S, R, 1>(a, a_stride, b.add(at), [width, b_stride], depth, c.add(at), accumulate);
            at += S::LANES;
        }
    }
}

/// The first P vectors of [`products`]' columns.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // r and p count registers
unsafe fn strip<S: Simd, const R: usize, const P: usize>(
    a: *const f32,
    a_stride: usize,
    b: *const f16,
    [width, b_stride]: [usize; 2],
    depth: usize,
    c: *mut f32,
    accumulate: bool,
) {
    // SAFETY: the matrices are as `products` states.
    unsafe {
        let mut acc = [[S::splat(0.0); P]; R];
        if accumulate {
            for r in 0..R {
                for p in 0..P {
                    acc[r][p] = S::load(c.add(r * width + p * S::LANES));
                }
            }
        }
        for i in 0..depth {
            let mut row = [S::splat(0.0); P];
            for p in 0..P {
                row[p] = S::load_f16(b.add(i * b_stride + p * S::LANES));
            }
            for r in 0..R {
                let x = S::splat(*a.add(r * a_stride + i));
                for p in 0..P {
                    acc[r][p] = S::mul_add(x, row[p], acc[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                S::store(c.add(r * width + p * S::LANES), acc[r][p]);
            }
        }
    }
}

/// Adds what `part` has seen to `into`, one row each of `len` outputs.
///
/// # Safety
/// The path is available; both are valid for one row and used by nobody else.
pub unsafe fn merge_row(isa: Isa, into: Partial, part: Partial, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let ([m1, s1], [m2, s2]) = (*into.state, *part.state);
        if s2 == 0.0 {
            return; // the row sees nothing of the span
        }
        let m = m1.max(m2);
        let (f1, f2) = ((m1 - m).exp(), (m2 - m).exp());
        *into.state = [m, s1 * f1 + s2 * f2];
        isa.run(Blend { a: into.out, fa: f1, b: part.out, fb: f2, len });
    }
}

/// a = a fa + b fb
struct Blend {
    a: *mut f32,
    fa: f32,
    b: *const f32,
    fb: f32,
    /// A multiple of the lanes.
    len: usize,
}

impl Kernel for Blend {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for i in (0..self.len).step_by(S::LANES) {
            // SAFETY: i + LANES <= len.
            unsafe {
                let b = S::mul(S::load(self.b.add(i)), S::splat(self.fb));
                S::store(self.a.add(i), S::mul_add(S::load(self.a.add(i)), S::splat(self.fa), b));
            }
        }
    }
}
