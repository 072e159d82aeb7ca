//! The paged key-value cache: a pool of blocks with reference counts, a block table per sequence.
//!
//! Only the bookkeeping is here; the cells are the device's. Positions of a sequence are `0..len`, and
//! its table holds exactly the blocks they need. Sequences may share blocks (a common prefix); a block
//! is written only by the one sequence that holds it alone.

use crate::device::BLOCK_LEN;
use crate::{Error, Result, memory};

/// For messages.
const BOOKS: &str = "the books of the cache";

/// A block whose contents must be copied before the step writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    pub from: u32,
    pub to: u32,
}

#[derive(Debug)]
pub struct PagedCache {
    /// Table entries that refer to each block.
    references: Vec<u32>,
    /// Blocks without reference; the last is taken next.
    free: Vec<u32>,
    sequences: Vec<Sequence>,
    /// What the growth in progress did.
    grown: Vec<Grown>,
    copies: Vec<BlockCopy>,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    blocks: Vec<u32>,
    len: usize,
}

/// One sequence's part of a growth.
#[derive(Debug)]
struct Grown {
    sequence: usize,
    old_len: usize,
    /// The shared last block, replaced by a copy.
    shared: Option<u32>,
}

impl PagedCache {
    pub fn new(n_blocks: usize, n_sequences: usize) -> Result<Self> {
        Ok(PagedCache {
            references: memory::filled(0, n_blocks, BOOKS)?,
            free: memory::collect((0..n_blocks as u32).rev(), BOOKS)?,
            sequences: memory::filled(Sequence::default(), n_sequences, BOOKS)?,
            grown: memory::vec(n_sequences, BOOKS)?,
            copies: memory::vec(n_sequences, BOOKS)?,
        })
    }

    /// Positions in all.
    pub fn capacity(&self) -> usize {
        self.references.len() * BLOCK_LEN
    }

    pub fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len
    }

    pub fn blocks(&self, sequence: usize) -> &[u32] {
        &self.sequences[sequence].blocks
    }

    /// Positions that hold something, those of shared blocks counted once.
    pub fn used(&self) -> usize {
        let fill = |sequence: &Sequence, i: usize| (sequence.len - i * BLOCK_LEN).min(BLOCK_LEN);
        let mut used = 0;
        for (s, sequence) in self.sequences.iter().enumerate() {
            for (i, block) in sequence.blocks.iter().enumerate() {
                if self.references[*block as usize] == 1 {
                    used += fill(sequence, i);
                    continue;
                }
                // a shared block stands at the same place in each of its tables: it counts in the first
                let holds = |other: &&Sequence| other.blocks.get(i) == Some(block);
                if !self.sequences[..s].iter().any(|other| holds(&other)) {
                    let fills = self.sequences[s..].iter().filter(holds).map(|other| fill(other, i));
                    used += fills.max().unwrap_or(0);
                }
            }
        }
        used
    }

    /// Positions that `sequence` can still grow by.
    pub fn room(&self, sequence: usize) -> usize {
        let Sequence { blocks, len } = &self.sequences[sequence];
        let slack = blocks.len() * BLOCK_LEN - len;
        match blocks.last() {
            Some(last) if slack > 0 && self.references[*last as usize] > 1 => match self.free.len() {
                0 => 0,
                n => slack + (n - 1) * BLOCK_LEN,
            },
            _ => slack + self.free.len() * BLOCK_LEN,
        }
    }

    /// Grows each `(sequence, positions)`, all or none. The caller then performs [`copies`](Self::copies)
    /// and ends with [`commit`](Self::commit), or [`undo`](Self::undo) where a copy fails, or
    /// [`roll_back`](Self::roll_back) where a step fails.
    pub fn grow(&mut self, wanted: impl Iterator<Item = (usize, usize)>) -> Result<()> {
        let (mut total, mut full) = (0usize, false);
        for (sequence, n) in wanted {
            total = total.saturating_add(n);
            full = full || !self.grow_one(sequence, n).inspect_err(|_| self.undo())?;
        }
        if full {
            self.undo();
            let free = self.free.len() * BLOCK_LEN;
            return Err(Error::CacheFull { wanted: total, free, total: self.capacity() });
        }
        Ok(())
    }

    /// False when blocks ran out.
    fn grow_one(&mut self, sequence: usize, n: usize) -> Result<bool> {
        let Sequence { blocks, len } = &mut self.sequences[sequence];
        if blocks.capacity() == 0 {
            *blocks = memory::vec(self.references.len(), BOOKS)?; // a sequence in use never allocates again
        }
        self.grown.push(Grown { sequence, old_len: *len, shared: None });
        let new_len = len.saturating_add(n);
        if n > 0 && !len.is_multiple_of(BLOCK_LEN) {
            let last = &mut blocks[*len / BLOCK_LEN];
            if self.references[*last as usize] > 1 {
                let Some(to) = self.free.pop() else { return Ok(false) };
                self.references[to as usize] = 1;
                self.references[*last as usize] -= 1;
                self.copies.push(BlockCopy { from: *last, to });
                if let Some(grown) = self.grown.last_mut() {
                    grown.shared = Some(*last);
                }
                *last = to;
            }
        }
        while blocks.len() < new_len.div_ceil(BLOCK_LEN) {
            let Some(block) = self.free.pop() else { return Ok(false) };
            self.references[block as usize] = 1;
            blocks.push(block);
        }
        *len = new_len;
        Ok(true)
    }

    /// Blocks to copy before the grown positions are written.
    pub fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// Keeps the growth.
    pub fn commit(&mut self) {
        self.grown.clear();
        self.copies.clear();
    }

    /// Takes the growth back before any step has written to the cache: shared blocks are shared again.
    pub fn undo(&mut self) {
        while let Some(Grown { sequence, old_len, shared }) = self.grown.pop() {
            self.truncate(sequence, old_len);
            if let Some(shared) = shared {
                let last = &mut self.sequences[sequence].blocks[old_len / BLOCK_LEN];
                release(&mut self.references, &mut self.free, *last);
                self.references[shared as usize] += 1;
                *last = shared;
            }
        }
        self.copies.clear();
    }

    /// Takes the growth back after steps have written. A block that was copied stays copied: whoever was
    /// left alone with the original may have written to it.
    pub fn roll_back(&mut self) {
        while let Some(Grown { sequence, old_len, .. }) = self.grown.pop() {
            self.truncate(sequence, old_len);
        }
        self.copies.clear();
    }

    /// Forgets the positions from `len` on.
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let sequence = &mut self.sequences[sequence];
        sequence.len = sequence.len.min(len);
        let keep = sequence.len.div_ceil(BLOCK_LEN);
        // last first, so that the same blocks are taken again in the same order
        while sequence.blocks.len() > keep {
            if let Some(block) = sequence.blocks.pop() {
                release(&mut self.references, &mut self.free, block);
            }
        }
    }

    /// Makes `to`, emptied first, share the first `len` positions of `from`; `len` is at most from's,
    /// and the two differ.
    pub fn share(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        if self.sequences[to].blocks.capacity() == 0 {
            self.sequences[to].blocks = memory::vec(self.references.len(), BOOKS)?;
        }
        self.truncate(to, 0);
        let mut blocks = std::mem::take(&mut self.sequences[to].blocks);
        blocks.extend_from_slice(&self.sequences[from].blocks[..len.div_ceil(BLOCK_LEN)]);
        for block in &blocks {
            self.references[*block as usize] += 1;
        }
        self.sequences[to] = Sequence { blocks, len };
        Ok(())
    }
}

fn release(references: &mut [u32], free: &mut Vec<u32>, block: u32) {
    let count = &mut references[block as usize];
    *count -= 1;
    if *count == 0 {
        free.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every reference is counted, every block free or in a table, every table as long as its sequence needs.
    fn check(cache: &PagedCache) {
        let mut references = vec![0; cache.references.len()];
        for sequence in &cache.sequences {
            assert_eq!(sequence.blocks.len(), sequence.len.div_ceil(BLOCK_LEN));
            sequence.blocks.iter().for_each(|b| references[*b as usize] += 1);
        }
        assert_eq!(references, cache.references);
        let mut free = cache.free.clone();
        free.sort_unstable();
        let unused: Vec<u32> =
            (0..references.len() as u32).filter(|b| references[*b as usize] == 0).collect();
        assert_eq!(free, unused);
    }

    /// From the definition: the most that any sequence fills of each block.
    fn used(cache: &PagedCache) -> usize {
        let mut fill = vec![0; cache.references.len()];
        for sequence in &cache.sequences {
            for (i, block) in sequence.blocks.iter().enumerate() {
                let here = (sequence.len - i * BLOCK_LEN).min(BLOCK_LEN);
                fill[*block as usize] = here.max(fill[*block as usize]);
            }
        }
        fill.iter().sum()
    }

    fn tables(cache: &PagedCache) -> Vec<(Vec<u32>, usize)> {
        cache.sequences.iter().map(|s| (s.blocks.clone(), s.len)).collect()
    }

    #[test]
    fn a_shared_last_block_is_copied_by_whoever_writes_first() {
        let mut cache = PagedCache::new(8, 3).unwrap();
        cache.grow([(0, BLOCK_LEN + 10)].into_iter()).unwrap();
        cache.commit();
        cache.share(0, 1, BLOCK_LEN + 5).unwrap();
        assert_eq!(cache.used(), BLOCK_LEN + 10);
        assert_eq!(cache.blocks(1), cache.blocks(0));
        let shared = cache.blocks(0)[1];

        cache.grow([(1, 1)].into_iter()).unwrap();
        let [copy] = *cache.copies() else { panic!("{:?}", cache.copies()) };
        assert_eq!(copy, BlockCopy { from: shared, to: cache.blocks(1)[1] });
        cache.commit();
        assert_eq!(cache.blocks(0)[0], cache.blocks(1)[0], "the whole block stays shared");

        // sequence 0 is now alone with the original: no copy
        cache.grow([(0, 1)].into_iter()).unwrap();
        assert!(cache.copies().is_empty());
        cache.commit();
        check(&cache);
    }

    #[test]
    fn a_growth_that_does_not_fit_changes_nothing() {
        let mut cache = PagedCache::new(4, 3).unwrap();
        cache.grow([(0, BLOCK_LEN + 1)].into_iter()).unwrap();
        cache.commit();
        cache.share(0, 1, BLOCK_LEN + 1).unwrap();
        let (before, free) = (tables(&cache), cache.free.clone());
        let full = cache.grow([(1, 5), (2, BLOCK_LEN + 1)].into_iter()).unwrap_err();
        let total = 4 * BLOCK_LEN;
        assert!(
            matches!(full, Error::CacheFull { wanted, free, total: t }
                if wanted == BLOCK_LEN + 6 && free == 2 * BLOCK_LEN && t == total),
            "{full:?}"
        );
        assert_eq!(tables(&cache), before);
        assert_eq!(cache.free, free);
        check(&cache);
        assert!(cache.grow([(0, usize::MAX)].into_iter()).is_err());
        check(&cache);
    }

    proptest! {
        #[test]
        fn any_history_keeps_the_books(ops in prop::collection::vec((0..6u8, 0..4usize, 0..4usize, 0..200usize), 1..60)) {
            let mut cache = PagedCache::new(10, 4).unwrap();
            for (op, a, b, n) in ops {
                let room = cache.room(a);
                match op {
                    0 => {
                        let before = tables(&cache);
                        let fits = cache.grow([(a, n)].into_iter()).is_ok();
                        prop_assert_eq!(fits, n <= room);
                        if !fits {
                            prop_assert_eq!(&tables(&cache), &before);
                        }
                        cache.commit();
                    }
                    1 => {
                        let before = tables(&cache);
                        let others = [(a, n), ((a + 1) % 4, b)];
                        if cache.grow(others.into_iter()).is_ok() {
                            cache.undo();
                        }
                        prop_assert_eq!(&tables(&cache), &before);
                    }
                    2 => {
                        let len = cache.len(a);
                        if cache.grow([(a, n)].into_iter()).is_ok() {
                            cache.roll_back();
                        }
                        prop_assert_eq!(cache.len(a), len);
                    }
                    3 => cache.truncate(a, n),
                    _ if a != b => cache.share(a, b, n.min(cache.len(a))).unwrap(),
                    _ => {}
                }
                check(&cache);
                prop_assert_eq!(cache.used(), used(&cache));
                // a block written next belongs to one sequence
                for s in 0..4 {
                    prop_assert!(cache.used() <= cache.capacity());
                    let _ = cache.room(s);
                }
            }
        }
    }
}
