//! The paged key-value cache, in f16.
//!
//! `[block][layer] { K: [kv_head][head_dim][BLOCK_LEN], V: [kv_head][BLOCK_LEN][head_pad] }`: keys
//! stand transposed, so that the scores of neighbouring positions are neighbouring lanes; a block stands together in all
//! layers, so that what is in use is few pages, whatever their size.

use half::f16;

use super::elementwise::to_f16;
use super::isa::Isa;
use super::memory::Zeroed;
use crate::device::BLOCK_LEN;
use crate::plan::CacheShape;
use crate::{Error, Result};

pub struct KvCache {
    cells: Zeroed<f16>,
    shape: CacheShape,
    n_blocks: usize,
    /// `head_dim` rounded up to whole vectors of every path.
    head_pad: usize,
}

impl KvCache {
    pub fn new(shape: CacheShape, n_blocks: usize) -> Result<Self> {
        let cells = Zeroed::new(Self::len(shape, n_blocks), "the key-value cache")?;
        Ok(KvCache { cells, shape, n_blocks, head_pad: pad_head(shape.head_dim) })
    }

    fn len(shape: CacheShape, n_blocks: usize) -> Option<usize> {
        let block = shape.head_dim.checked_add(pad_head(shape.head_dim));
        let block = block.and_then(|n| n.checked_mul(shape.n_head_kv)?.checked_mul(BLOCK_LEN));
        block.and_then(|n| n.checked_mul(shape.n_layers)?.checked_mul(n_blocks))
    }

    /// Bytes that such a cache takes.
    pub fn bytes_of(shape: CacheShape, n_blocks: usize) -> u64 {
        Zeroed::<f16>::bytes_of(Self::len(shape, n_blocks))
    }

    pub fn bytes(&self) -> u64 {
        self.cells.bytes()
    }

    pub fn head_pad(&self) -> usize {
        self.head_pad
    }

    /// Elements of a block of one layer.
    fn block_len(&self) -> usize {
        self.shape.n_head_kv * (self.shape.head_dim + self.head_pad) * BLOCK_LEN
    }

    fn block(&self, layer: usize, block: usize) -> *mut f16 {
        assert!(layer < self.shape.n_layers && block < self.n_blocks);
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.cells.ptr().add((block * self.shape.n_layers + layer) * self.block_len()) }
    }

    /// Keys of a block, `head_dim x BLOCK_LEN`.
    pub fn k(&self, layer: usize, block: usize, kv_head: usize) -> *mut f16 {
        assert!(kv_head < self.shape.n_head_kv);
        // SAFETY: inside the block, as just checked.
        unsafe { self.block(layer, block).add(kv_head * self.shape.head_dim * BLOCK_LEN) }
    }

    /// Values of a block, `BLOCK_LEN x head_pad`; what lies beyond head_dim is 0.
    pub fn v(&self, layer: usize, block: usize, kv_head: usize) -> *mut f16 {
        assert!(kv_head < self.shape.n_head_kv);
        let keys = self.shape.n_head_kv * self.shape.head_dim;
        // SAFETY: inside the block, as just checked.
        unsafe { self.block(layer, block).add((keys + kv_head * self.head_pad) * BLOCK_LEN) }
    }

    /// Writes one cell of one head; `k` and `v` are head_dim long.
    ///
    /// # Safety
    /// Nobody else uses the cell meanwhile.
    pub unsafe fn put(&self, isa: Isa, layer: usize, slot: usize, kv_head: usize, k: &[f32], v: &[f32]) {
        let head_dim = self.shape.head_dim;
        assert!(k.len() == head_dim && v.len() == head_dim);
        let (block, at) = (slot / BLOCK_LEN, slot % BLOCK_LEN);
        // SAFETY: row `at` of the block's values; the caller's promise.
        let values = unsafe {
            std::slice::from_raw_parts_mut(self.v(layer, block, kv_head).add(at * self.head_pad), head_dim)
        };
        to_f16(isa, v, values);
        let keys = self.k(layer, block, kv_head);
        for (i, part) in k.chunks(64).enumerate() {
            let mut rounded = [f16::ZERO; 64];
            to_f16(isa, part, &mut rounded[..part.len()]);
            for (j, x) in rounded[..part.len()].iter().enumerate() {
                // SAFETY: column `at` of the block's head_dim rows of keys; the caller's promise.
                unsafe { *keys.add((i * 64 + j) * BLOCK_LEN + at) = *x };
            }
        }
    }

    /// Copies a block in all layers.
    pub fn copy_block(&mut self, from: u32, to: u32) -> Result<()> {
        let (from, to) = (from as usize, to as usize);
        if from >= self.n_blocks || to >= self.n_blocks {
            return Err(Error::param(format!("block {from} or {to} of a cache of {}", self.n_blocks)));
        }
        if self.shape.n_layers > 0 {
            // SAFETY: whole blocks inside the allocation; `copy` allows from == to; &mut: nobody else.
            unsafe {
                let len = self.shape.n_layers * self.block_len();
                std::ptr::copy(self.block(0, from), self.block(0, to), len);
            }
        }
        Ok(())
    }
}

/// Elements of a head's row of values or of accumulated output.
pub fn pad_head(head_dim: usize) -> usize {
    head_dim.next_multiple_of(super::simd::MAX_LANES)
}
