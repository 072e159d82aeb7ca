//! The paged key-value caches, in f16.
//!
//! `[block][cache] { K: [kv_head][k][BLOCK_LEN], V: [kv_head][BLOCK_LEN][v_pad] }`: keys stand transposed, so that the
//! scores of neighbouring positions are neighbouring lanes; a block stands together in all caches of its pool, so that what
//! is in use is few pages, whatever their size. Keys that hold their values stand as `[kv_head][BLOCK_LEN][k_pad]`: a sum over
//! positions then has neighbouring elements in neighbouring lanes, and a key is long enough for sums along it.

use half::f16;

use super::elementwise::to_f16;
use super::isa::Isa;
use super::memory::Zeroed;
use crate::device::{BLOCK_LEN, SessionLimits};
use crate::plan::{Cache, CacheId, Plan, Values};
use crate::{Error, Result, memory};

pub struct KvCache {
    /// One per pool of the plan.
    pools: Vec<Blocks>,
    caches: Vec<Place>,
}

/// The blocks of a pool.
struct Blocks {
    cells: Zeroed<f16>,
    /// Elements of a block in all of the pool's caches.
    block_len: usize,
    n_blocks: usize,
}

/// Where a cache's share of a block lies.
#[derive(Clone, Copy)]
struct Place {
    pool: usize,
    first: usize,
    cache: Cache,
    /// Lengths of a row of values and of accumulated output, rounded up to whole vectors of every path.
    v_pad: usize,
}

impl KvCache {
    pub fn new(plan: &Plan, limits: SessionLimits) -> Result<Self> {
        const WHAT: &str = "the key-value cache";
        let mut pools = memory::vec(plan.pools().len(), WHAT)?;
        for (window, len) in plan.pools().zip(Self::lens(plan, limits)) {
            pools.push(Blocks {
                cells: Zeroed::new(len, WHAT)?,
                block_len: 0,
                n_blocks: limits.blocks(window),
            });
        }
        let mut caches = memory::vec(plan.caches.len(), WHAT)?;
        for (id, cache) in (0..).map(CacheId).zip(&plan.caches) {
            let pool = plan.pool(id);
            let block_len = &mut pools[pool].block_len;
            caches.push(Place { pool, first: *block_len, cache: *cache, v_pad: pad_head(cache.v()) });
            *block_len += share(cache).unwrap_or(0);
        }
        Ok(KvCache { pools, caches })
    }

    /// Elements of each pool.
    fn lens(plan: &Plan, limits: SessionLimits) -> impl Iterator<Item = Option<usize>> {
        plan.pools().map(move |window| {
            let mut caches = plan.caches.iter().filter(|cache| cache.window == window);
            let block = caches.try_fold(0usize, |sum, cache| sum.checked_add(share(cache)?));
            block.and_then(|block| block.checked_mul(limits.blocks(window)))
        })
    }

    /// Bytes that the plan's caches take.
    pub fn bytes_of(plan: &Plan, limits: SessionLimits) -> u64 {
        Self::lens(plan, limits).map(Zeroed::<f16>::bytes_of).fold(0, u64::saturating_add)
    }

    pub fn bytes(&self) -> u64 {
        self.pools.iter().map(|pool| pool.cells.bytes()).sum()
    }

    /// Elements between two rows of a head's output: its value, in whole vectors.
    pub fn v_pad(&self, cache: CacheId) -> usize {
        self.place(cache).v_pad
    }

    /// Elements of a row of keys that hold their values; None: keys stand transposed.
    pub fn row(&self, cache: CacheId) -> Option<usize> {
        key_row(&self.place(cache).cache)
    }

    fn place(&self, cache: CacheId) -> &Place {
        &self.caches[cache.0 as usize]
    }

    fn block(&self, place: &Place, block: usize) -> *mut f16 {
        let Blocks { cells, block_len, n_blocks } = &self.pools[place.pool];
        assert!(block < *n_blocks);
        // SAFETY: inside the allocation, as just checked.
        unsafe { cells.ptr().add(block * block_len + place.first) }
    }

    /// Keys of a block, `k x BLOCK_LEN`; or `BLOCK_LEN` rows of keys that hold their values.
    pub fn k(&self, cache: CacheId, block: usize, kv_head: usize) -> *mut f16 {
        let place = self.place(cache);
        assert!(kv_head < place.cache.n_head_kv);
        let head = key_row(&place.cache).unwrap_or(place.cache.k) * BLOCK_LEN;
        // SAFETY: inside the block, as just checked.
        unsafe { self.block(place, block).add(kv_head * head) }
    }

    /// Values of a block, `BLOCK_LEN x v_pad`, what lies beyond v being 0; or the rows of keys that hold them.
    pub fn v(&self, cache: CacheId, block: usize, kv_head: usize) -> *mut f16 {
        let place = self.place(cache);
        if key_row(&place.cache).is_some() {
            return self.k(cache, block, kv_head);
        }
        assert!(kv_head < place.cache.n_head_kv);
        let keys = place.cache.n_head_kv * place.cache.k;
        // SAFETY: inside the block, as just checked.
        unsafe { self.block(place, block).add((keys + kv_head * place.v_pad) * BLOCK_LEN) }
    }

    /// Writes one cell of one head; `k` is as long as the cache's, and `v` as what values have beside keys.
    ///
    /// # Safety
    /// Nobody else uses the cell meanwhile.
    pub unsafe fn put(&self, isa: Isa, cache: CacheId, slot: usize, kv_head: usize, k: &[f32], v: &[f32]) {
        let Place { cache: shape, v_pad, .. } = *self.place(cache);
        assert!(k.len() == shape.k && v.len() == shape.own_v());
        let (block, at) = (slot / BLOCK_LEN, slot % BLOCK_LEN);
        let keys = self.k(cache, block, kv_head);
        if let Some(row) = key_row(&shape) {
            // SAFETY: row `at` of the block's keys; the caller's promise.
            let cell = unsafe { std::slice::from_raw_parts_mut(keys.add(at * row), shape.k) };
            return to_f16(isa, k, cell);
        }
        // SAFETY: row `at` of the block's values; the caller's promise.
        let values =
            unsafe { std::slice::from_raw_parts_mut(self.v(cache, block, kv_head).add(at * v_pad), v.len()) };
        to_f16(isa, v, values);
        for (i, part) in k.chunks(64).enumerate() {
            let mut rounded = [f16::ZERO; 64];
            to_f16(isa, part, &mut rounded[..part.len()]);
            for (j, x) in rounded[..part.len()].iter().enumerate() {
                // SAFETY: column `at` of the block's k rows of keys; the caller's promise.
                unsafe { *keys.add((i * 64 + j) * BLOCK_LEN + at) = *x };
            }
        }
    }

    /// Copies a block in all of a pool's caches.
    pub fn copy_block(&mut self, pool: usize, from: u32, to: u32) -> Result<()> {
        let Blocks { cells, block_len, n_blocks } = &self.pools[pool];
        let (from, to) = (from as usize, to as usize);
        if from >= *n_blocks || to >= *n_blocks {
            return Err(Error::param(format!("block {from} or {to} of a cache of {n_blocks}")));
        }
        // SAFETY: whole blocks inside the allocation; `copy` allows from == to; &mut: nobody else.
        unsafe {
            let start = cells.ptr();
            std::ptr::copy(start.add(from * block_len), start.add(to * block_len), *block_len);
        }
        Ok(())
    }
}

/// Elements of a cache's share of a block.
fn share(cache: &Cache) -> Option<usize> {
    let head = match key_row(cache) {
        Some(row) => row,
        None => cache.k.checked_add(pad_head(cache.v()))?,
    };
    head.checked_mul(cache.n_head_kv)?.checked_mul(BLOCK_LEN)
}

/// Elements of a row of keys that hold their values.
fn key_row(cache: &Cache) -> Option<usize> {
    match cache.values {
        Values::Own(_) => None,
        Values::InKeys(_) => Some(pad_head(cache.k)),
    }
}

/// Elements of a head's row of values or of accumulated output.
pub fn pad_head(v: usize) -> usize {
    v.next_multiple_of(super::simd::MAX_LANES)
}
