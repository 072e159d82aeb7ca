//! The memory of a session: how large it is, and where in it everything lies.

use std::ops::Range;
use std::sync::Arc;

use super::description::Description;
use super::limits::Limits;
use super::memory::{Buffer, Pool, Span, aligned};
use super::ops::attend::{AttendScratch, AttendShape};
use super::ops::matmul::{HalfRows, half_stride};
use super::ops::project::{LayerCache, MATVEC_MAX_N, Turns, head_pad, wants_rounded};
use super::ops::{Q8_BLOCK, Quantized};
use super::sampler::DeviceSampler;
use super::schedule::Place;
use crate::device::{BLOCK_LEN, SessionLimits};
use crate::plan::storage::Slot;
use crate::plan::{Cache, CacheId, Plan, RopeId, RopePairs, Rows, StateId, ValueId};
use crate::{Error, Result};

/// Bytes of a session's caches, and the places in its scratch.
#[derive(Debug)]
pub struct Layout {
    /// One per cache of the plan.
    pub caches: Vec<CachePlace>,
    /// One per state of the plan: f32, the elements of each slot.
    states: Vec<Range<u64>>,
    /// Of both.
    pub cache_bytes: u64,
    /// Of the widest heads that attend; 0 where none does.
    pub widest_head: usize,
    /// One per slot of the plan.
    slots: Vec<Range<u64>>,
    /// Quants and factors of rounded rows, by [`Place`].
    rounded: [[Range<u64>; 2]; 2],
    /// f16 rows, and a factor each.
    half: [Range<u64>; 2],
    parts: Range<u64>,
    tickets: Range<u64>,
    /// Of each of the plan's ropes, for every position of the cache.
    turns: Vec<Range<u64>>,
    /// What a step says of its tokens.
    step: Range<u64>,
    pub scratch_bytes: u64,
    /// Entries of a row of logits, where the plan's first output is logits that can be drawn from; and what that takes.
    pub sampled_vocab: Option<usize>,
    pub sampler_bytes: u64,
}

/// A cache of the plan: f16 `[block][kv head][64 positions][head_pad]` each of keys and values.
#[derive(Debug)]
pub struct CachePlace {
    cache: Cache,
    head_pad: usize,
    n_blocks: usize,
    keys: Range<u64>,
    values: Range<u64>,
}

/// Places one behind the other, each aligned as an allocation is.
#[derive(Default)]
struct Places {
    end: u64,
    overflow: bool,
}

impl Places {
    fn take(&mut self, dims: &[usize], size: u64) -> Range<u64> {
        let start = self.end;
        let bytes = dims.iter().try_fold(size, |n, d| n.checked_mul(*d as u64));
        match bytes.and_then(aligned).and_then(|bytes| start.checked_add(bytes)) {
            Some(end) => self.end = end,
            None => self.overflow = true,
        }
        start..start.saturating_add(bytes.unwrap_or(0))
    }
}

impl Layout {
    /// # Errors
    /// `Error::OutOfMemory` for what is beyond u64, `Error::Unsupported` for heads that no kernel takes.
    pub fn new(plan: &Plan, limits: SessionLimits, card: &Limits) -> Result<Self> {
        let too_large = || Error::OutOfMemory {
            what: format!(
                "a session of {} positions and steps of {}",
                limits.n_blocks.saturating_mul(BLOCK_LEN),
                limits.max_tokens
            ),
            wanted: u64::MAX,
            free: 0,
            total: card.memory_total,
        };
        let mut cells = Places::default();
        let mut caches = Vec::with_capacity(plan.caches.len());
        for &cache in &plan.caches {
            let head_pad = head_pad(cache.k.max(cache.v))?;
            let mut take = || cells.take(&[limits.n_blocks, cache.n_head_kv, BLOCK_LEN, head_pad], 2);
            let (keys, values) = (take(), take());
            caches.push(CachePlace { cache, head_pad, n_blocks: limits.n_blocks, keys, values });
        }

        let states =
            plan.states.iter().map(|state| cells.take(&[limits.n_states, state.elements], 4)).collect();

        let mut places = Places::default();
        let slots =
            plan.slots().iter().map(|Slot { width, rows }| places.take(&[limits.rows(*rows), *width], 4));
        let slots = slots.collect();
        let most = limits.max_tokens.max(limits.max_outputs);
        // the longest row that is ever rounded to 8 bits; 0 where no matrix wants it
        let rounded_cols =
            plan.matrices().filter(|weight| wants_rounded(weight.ty)).map(|weight| weight.cols);
        let widest = rounded_cols.max().unwrap_or(0);
        let mut rounded =
            || [places.take(&[most, widest], 1), places.take(&[most, widest.div_ceil(Q8_BLOCK)], 8)];
        let rounded = [rounded(), rounded()];
        let cols = plan.matrices().map(|weight| weight.cols).max().unwrap_or(0);
        let half =
            [places.take(&[most, half_stride(cols).ok_or_else(too_large)?], 2), places.take(&[most], 4)];
        let few = limits.max_tokens.min(MATVEC_MAX_N);
        let (mut part, mut heads, mut widest_head) = (0, 0, 0);
        for (n_head, cache) in plan.attentions() {
            let head_pad = head_pad(cache.k.max(cache.v))?;
            let shape = AttendShape::new(n_head, cache.n_head_kv, head_pad, card.compute_units as usize)?;
            part = part.max(shape.part_floats(head_pad).ok_or_else(too_large)?);
            heads = heads.max(n_head);
            widest_head = widest_head.max(head_pad);
        }
        let parts = places.take(&[few, part], 4);
        let tickets = places.take(&[few, heads], 4);
        let positions = limits.n_blocks.checked_mul(BLOCK_LEN).ok_or_else(too_large)?;
        let turns = plan.ropes.iter().map(|rope| places.take(&[positions, rope.inv_freq.len()], 8)).collect();
        let step = places.take(&[Description::most_words(limits).ok_or_else(too_large)?], 4);
        if cells.overflow || places.overflow {
            return Err(too_large());
        }
        let logits = plan.outputs.first().map(|id| plan.value(*id));
        let logits = logits.filter(|value| value.rows == Rows::Outputs).map(|value| value.width);
        let sampled_vocab = logits.filter(|width| (1..=DeviceSampler::MAX_VOCAB).contains(width));
        Ok(Layout {
            caches,
            states,
            cache_bytes: cells.end,
            widest_head,
            slots,
            rounded,
            half,
            parts,
            tickets,
            turns,
            step,
            scratch_bytes: places.end,
            sampled_vocab,
            sampler_bytes: sampled_vocab.map_or(0, DeviceSampler::bytes),
        })
    }
}

/// A session's buffers, by what lies where in them.
#[derive(Debug)]
pub struct SessionMemory {
    pub layout: Layout,
    cache: Buffer,
    scratch: Buffer,
}

impl SessionMemory {
    pub fn new(pool: &Arc<Pool>, layout: Layout) -> Result<Self> {
        let cache = pool.alloc(layout.cache_bytes, "the cache")?;
        let scratch = pool.alloc(layout.scratch_bytes, "scratch")?;
        Ok(SessionMemory { layout, cache, scratch })
    }

    /// All of the caches and states.
    pub fn cells(&self) -> Span<'_> {
        self.cache.span()
    }

    fn place(&self, place: &Range<u64>) -> Result<Span<'_>> {
        self.scratch.span().part(place.clone())
    }

    /// The value's slot: rows of the value's width lie one behind the other from its beginning.
    pub fn value(&self, plan: &Plan, id: ValueId) -> Result<Span<'_>> {
        self.place(&self.layout.slots[plan.slot(id).0 as usize])
    }

    pub fn cache(&self, id: CacheId) -> Result<LayerCache<'_>> {
        let CachePlace { cache, head_pad, n_blocks, keys, values } = &self.layout.caches[id.0 as usize];
        Ok(LayerCache {
            k: self.cache.span().part(keys.clone())?,
            v: self.cache.span().part(values.clone())?,
            n_head_kv: cache.n_head_kv,
            head_dim: cache.k,
            head_pad: *head_pad,
            n_blocks: *n_blocks,
        })
    }

    pub fn state(&self, id: StateId) -> Result<Span<'_>> {
        self.cache.span().part(self.layout.states[id.0 as usize].clone())
    }

    /// Keys, or values, of a block in each of the caches.
    pub fn block(&self, block: u32) -> impl Iterator<Item = Result<Span<'_>>> {
        let both = |place: &CachePlace| {
            [(place.keys.clone(), place.n_blocks), (place.values.clone(), place.n_blocks)]
        };
        self.layout.caches.iter().flat_map(both).map(move |(place, n_blocks)| {
            let cells = self.cache.span().part(place)?;
            let bytes = cells.bytes() / n_blocks.max(1) as u64;
            cells.part(u64::from(block) * bytes..(u64::from(block) + 1) * bytes)
        })
    }

    pub fn rounded(&self, place: Place) -> Result<Quantized<'_>> {
        let [q, ds] = &self.layout.rounded[place as usize];
        Ok(Quantized { q: self.place(q)?, ds: self.place(ds)? })
    }

    pub fn half(&self) -> Result<HalfRows<'_>> {
        let [h, scale] = &self.layout.half;
        Ok(HalfRows { h: self.place(h)?, scale: self.place(scale)? })
    }

    /// The tickets must be zero before the first step.
    pub fn attend_scratch(&self) -> Result<AttendScratch<'_>> {
        Ok(AttendScratch {
            parts: self.place(&self.layout.parts)?,
            tickets: self.place(&self.layout.tickets)?,
        })
    }

    pub fn turns(&self, plan: &Plan, id: RopeId) -> Result<Turns<'_>> {
        let rope = plan.rope(id);
        Ok(Turns {
            table: self.place(&self.layout.turns[id.0 as usize])?,
            n_rot: 2 * rope.inv_freq.len(),
            halves: rope.pairs == RopePairs::Halves,
        })
    }

    /// Room for a step's description.
    pub fn step(&self) -> Result<Span<'_>> {
        self.place(&self.layout.step)
    }
}
