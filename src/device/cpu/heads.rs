//! Products of heads: each head's matrix with its part of a row.

use super::matmul::{ActivationFormat, Activations, matmul};
use super::step::{Done, Running};
use super::team::Worker;
use crate::plan::{ExpertShape, Experts, ValueId};

/// Tiles of a chunk: some hundred rows of one head.
const TILES: usize = 8;

impl Running<'_> {
    pub fn mat_mul_heads(&self, worker: &Worker<'_>, x: ValueId, weight: Experts, out: ValueId) -> Done {
        let n = self.n_rows(x);
        if n == 0 {
            return Ok(());
        }
        let ExpertShape { n_experts: n_heads, rows, cols, ty, .. } = self.plan().head_shape(x, weight, out);
        let (x, out, q8) = (self.session.buffer(x), self.session.buffer(out), &self.session.q8_heads);
        let format = ActivationFormat::of(ty);
        if format == ActivationFormat::Q8 {
            self.rows(worker, n * n_heads, |row| {
                let (head, t) = (row / n, row % n);
                // SAFETY: x is not written in this phase; row `row` is the chunk's own.
                unsafe { q8.quantize_row(self.isa(), row, x.part(t, head * cols, cols)) };
            })?;
        }
        let matrices = self.session.program.experts(weight);
        let chunks = matrices[0].n_tiles().div_ceil(TILES);
        assert!(n <= out.rows && n <= x.rows && matrices.len() == n_heads);
        worker.for_each(n_heads * chunks, |chunk| {
            let (head, first) = (chunk / chunks, chunk % chunks * TILES);
            let matrix = &matrices[head];
            assert!(matrix.rows() == rows && matrix.cols() == cols);
            let tiles = first..(first + TILES).min(matrix.n_tiles());
            // SAFETY: n rows of x from the head's part on, which nobody writes in this phase; the tiles' columns of the
            // head's part of the output are the chunk's own.
            unsafe {
                let (activations, row) = match format {
                    ActivationFormat::Q8 => (Activations::Q8(q8), head * n),
                    ActivationFormat::F32 => {
                        let len = (n - 1) * x.width + cols;
                        let part = std::slice::from_raw_parts(x.ptr().add(head * cols), len);
                        (Activations::F32 { x: part, stride: x.width }, 0)
                    }
                };
                // token t's product is row `row + t` of what is multiplied
                let to = out.ptr().wrapping_add(head * rows).wrapping_sub(row * out.width);
                matmul(self.isa(), matrix, activations, row..row + n, tiles, None, to, out.width);
            }
        })
    }
}
