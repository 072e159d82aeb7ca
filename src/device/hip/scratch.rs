//! The memory of a session: how large it is, and where in it everything lies.

use std::ops::Range;
use std::sync::Arc;

use super::description::Description;
use super::limits::Limits;
use super::memory::{Buffer, Pool, Span, aligned};
use super::ops::attend::{AttendScratch, AttendShape};
use super::ops::experts::{self, Sorting};
use super::ops::matmul::{HalfRows, half_stride};
use super::ops::project::{LATENT_PAD, LayerCache, MATVEC_MAX_N, Turns, cell_pad, wants_rounded};
use super::ops::{Q8_BLOCK, Quantized};
use super::sampler::DeviceSampler;
use super::schedule::Place;
use crate::device::{BLOCK_LEN, SessionLimits};
use crate::plan::storage::Slot;
use crate::plan::{Cache, CacheId, Op, Plan, RopeId, RopePairs, Rows, StateId, ValueId};
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
    /// Of a mixture's pairs: pairs, tokens, tiles.
    sorting: [Range<u64>; 3],
    /// Of products of so many heads: the heads' numbers, for each token of a step.
    head_ids: Vec<(usize, Range<u64>)>,
    parts: Range<u64>,
    tickets: Range<u64>,
    /// Of each of the plan's ropes, for every position of the cache.
    turns: Vec<Range<u64>>,
    /// What a step says of its tokens.
    step: Range<u64>,
    /// Values that a segment leaves, where there are several, one behind the other.
    gathered: Range<u64>,
    pub scratch_bytes: u64,
    /// Entries of a row of logits, where the plan's first output is logits that can be drawn from; and what that takes.
    pub sampled_vocab: Option<usize>,
    pub sampler_bytes: u64,
}

/// A cache of the plan: f16 `[block][kv head][64 positions][head_pad]` each of keys and values, or one of keys that hold
/// the values.
#[derive(Debug)]
pub struct CachePlace {
    cache: Cache,
    pool: usize,
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
        for (id, &cache) in (0..).map(CacheId).zip(&plan.caches) {
            let (head_pad, n_blocks) = (cell_pad(cache)?, limits.blocks(cache.window));
            let mut take = || cells.take(&[n_blocks, cache.n_head_kv, BLOCK_LEN, head_pad], 2);
            let keys = take();
            let values = if head_pad == LATENT_PAD { keys.clone() } else { take() };
            caches.push(CachePlace { cache, pool: plan.pool(id), head_pad, n_blocks, keys, values });
        }

        let states =
            plan.states.iter().map(|state| cells.take(&[limits.n_states, state.elements], 4)).collect();

        let mut places = Places::default();
        let slots =
            plan.slots().iter().map(|Slot { width, rows }| places.take(&[limits.rows(*rows), *width], 4));
        let slots = slots.collect();
        let most = limits.max_tokens.max(limits.max_outputs);
        let few = limits.max_tokens.min(MATVEC_MAX_N);
        let experts = Mixtures::of(plan);
        // the longest row that is ever rounded to 8 bits; 0 where no matrix wants it
        let rounded_cols =
            plan.matrices().filter(|weight| wants_rounded(weight.ty)).map(|weight| weight.cols);
        let widest = rounded_cols.max().unwrap_or(0);
        // of all rows of a step, dense; experts' are of few tokens, whole blocks
        let dense = most.checked_mul(widest.next_multiple_of(Q8_BLOCK)).ok_or_else(too_large)?;
        let quants = dense.max(few.checked_mul(experts.quants).ok_or_else(too_large)?);
        let mut rounded = || [places.take(&[quants], 1), places.take(&[quants / Q8_BLOCK], 8)];
        let rounded = [rounded(), rounded()];
        let cols = plan.matrices().map(|weight| weight.cols).max().unwrap_or(0);
        let token = half_stride(cols).ok_or_else(too_large)?.max(experts.half);
        let half = [places.take(&[most, token], 2), places.take(&[most, experts.n_used.max(1)], 4)];
        let pairs = most.checked_mul(experts.n_used).ok_or_else(too_large)?;
        let mut words = |n: usize| places.take(&[n], 4);
        let sorting = [words(pairs), words(pairs), words(experts::tile_words(pairs, experts.n_experts))];
        let mut numbers_of: Vec<usize> = plan.head_products().map(|shape| shape.n_used).collect();
        numbers_of.sort_unstable();
        numbers_of.dedup();
        let head_ids = numbers_of.into_iter().map(|n| (n, places.take(&[limits.max_tokens, n], 4))).collect();
        let (mut part, mut heads, mut widest_head) = (0, 0, 0);
        for (n_head, cache) in plan.attentions() {
            let head_pad = cell_pad(cache)?;
            let shape = AttendShape::new(1, n_head, cache.n_head_kv, head_pad, card.compute_units as usize)?;
            part = part.max(shape.part_floats(limits.max_tokens, head_pad).ok_or_else(too_large)?);
            heads = heads.max(n_head);
            widest_head = widest_head.max(head_pad);
        }
        let parts = places.take(&[part], 4);
        let tickets = places.take(&[limits.max_tokens, heads], 4);
        let positions = limits.n_blocks.checked_mul(BLOCK_LEN).ok_or_else(too_large)?;
        let turns = plan.ropes.iter().map(|rope| places.take(&[positions, rope.inv_freq.len()], 8)).collect();
        let step = places.take(&[Description::most_words(plan, limits).ok_or_else(too_large)?], 4);
        let several = plan.segments().filter(|segment| segment.outputs.len() > 1);
        let gathered = several.map(|segment| segment.outputs.iter().map(|id| plan.width(*id)).sum()).max();
        let gathered = places.take(&[most, gathered.unwrap_or(0)], 4);
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
            sorting,
            head_ids,
            parts,
            tickets,
            turns,
            step,
            gathered,
            scratch_bytes: places.end,
            sampled_vocab,
            sampler_bytes: sampled_vocab.map_or(0, DeviceSampler::bytes),
        })
    }
}

/// What a plan's products of experts ask for at most.
#[derive(Default)]
struct Mixtures {
    n_experts: usize,
    n_used: usize,
    /// Quants of a token's rows for weights that want them rounded, and f16 of a token's rows with their padding.
    quants: usize,
    half: usize,
}

impl Mixtures {
    fn of(plan: &Plan) -> Mixtures {
        let mut most = Mixtures::default();
        for named in &plan.ops {
            let (shape, width) = match named.op {
                Op::MatMulExperts { x, ids, weight, out, .. } => {
                    (plan.expert_shape(ids, weight, out), plan.width(x))
                }
                Op::MatMulHeads { x, weight, out } => (plan.head_shape(x, weight, out), plan.width(x)),
                _ => continue,
            };
            most.n_experts = most.n_experts.max(shape.n_experts);
            most.n_used = most.n_used.max(shape.n_used);
            if wants_rounded(shape.ty) {
                most.quants = most.quants.max(width);
            }
            let rows = width / shape.cols.max(1);
            let half = half_stride(shape.cols).and_then(|stride| stride.checked_mul(rows));
            most.half = most.half.max(half.unwrap_or(usize::MAX));
        }
        most
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
        let CachePlace { cache, head_pad, n_blocks, keys, values, .. } = &self.layout.caches[id.0 as usize];
        Ok(LayerCache {
            k: self.cache.span().part(keys.clone())?,
            v: self.cache.span().part(values.clone())?,
            n_head_kv: cache.n_head_kv,
            head_dim: cache.k,
            value_dim: cache.v(),
            head_pad: *head_pad,
            n_blocks: *n_blocks,
        })
    }

    pub fn state(&self, id: StateId) -> Result<Span<'_>> {
        self.cache.span().part(self.layout.states[id.0 as usize].clone())
    }

    /// Keys, or values, of a block in each of the pool's caches.
    pub fn block(&self, pool: usize, block: u32) -> impl Iterator<Item = Result<Span<'_>>> {
        let both = |CachePlace { keys, values, n_blocks, .. }: &CachePlace| {
            let own = (keys != values).then(|| (values.clone(), *n_blocks));
            std::iter::once((keys.clone(), *n_blocks)).chain(own)
        };
        let caches = self.layout.caches.iter().filter(move |place| place.pool == pool);
        caches.flat_map(both).map(move |(place, n_blocks)| {
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

    pub fn sorting(&self) -> Result<Sorting<'_>> {
        let [pairs, tokens, tiles] = &self.layout.sorting;
        Ok(Sorting { pairs: self.place(pairs)?, tokens: self.place(tokens)?, tiles: self.place(tiles)? })
    }

    /// Numbers of heads that products are of, for which [`head_ids`](Self::head_ids) must hold 0, 1, .. for each token.
    pub fn head_counts(&self) -> impl Iterator<Item = usize> {
        self.layout.head_ids.iter().map(|(n, _)| *n)
    }

    /// The numbers of `n_heads` heads, u32, for each token of a step.
    pub fn head_ids(&self, n_heads: usize) -> Result<Span<'_>> {
        let ids = self.layout.head_ids.iter().find(|(n, _)| *n == n_heads);
        let (_, place) = ids.ok_or_else(|| Error::Internal(format!("no numbers of {n_heads} heads")))?;
        self.place(place)
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

    pub fn gathered(&self) -> Result<Span<'_>> {
        self.place(&self.layout.gathered)
    }

    /// Room for a step's description.
    pub fn step(&self) -> Result<Span<'_>> {
        self.place(&self.layout.step)
    }
}
