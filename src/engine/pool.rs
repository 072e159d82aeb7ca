//! The blocks of the caches of one window: a pool with reference counts, a block table per sequence.
//!
//! Only the bookkeeping is here; the cells are the device's. Positions of a sequence are `0..len`, and its table has an entry
//! for each block of them. Sequences may share blocks (a common prefix); a block is written only by the one sequence that
//! holds it alone.
//!
//! What lies behind the windows of all positions to come is not needed any more. A block of it is given back when one is
//! wanted and none is free: until then a sequence can go back further. The entries of blocks that were given back are holes:
//! the table's first ones, and while a growth is under way a gap behind what the sequence would go back to.

use std::ops::Range;

use crate::device::{BLOCK_LEN, HOLE};
use crate::plan::Window;
use crate::{Result, memory};

/// For messages.
const BOOKS: &str = "the books of the cache";

/// A block whose contents must be copied before the step writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    pub from: u32,
    pub to: u32,
}

#[derive(Debug)]
pub struct Pool {
    window: Option<Window>,
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
    /// The first entry that is not given back; those before it are holes, but for `before`.
    first: usize,
    /// The first position of the step in progress; without one `len`.
    next: usize,
    /// Entries that a growth in progress must find again when it is taken back.
    before: Range<usize>,
}

/// One sequence's part of a growth.
#[derive(Debug)]
struct Grown {
    sequence: usize,
    old_len: usize,
    /// The shared last block, replaced by a copy.
    shared: Option<u32>,
}

impl Pool {
    pub fn new(window: Option<Window>, n_blocks: usize, n_sequences: usize) -> Result<Self> {
        Ok(Pool {
            window,
            references: memory::filled(0, n_blocks, BOOKS)?,
            free: memory::collect((0..n_blocks as u32).rev(), BOOKS)?,
            sequences: memory::filled(Sequence::default(), n_sequences, BOOKS)?,
            grown: memory::vec(n_sequences, BOOKS)?,
            copies: memory::vec(n_sequences, BOOKS)?,
        })
    }

    pub fn n_blocks(&self) -> usize {
        self.references.len()
    }

    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    pub fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len
    }

    pub fn table(&self, sequence: usize) -> &[u32] {
        &self.sequences[sequence].blocks
    }

    /// Positions that hold something, those of shared blocks counted once; of a pool without a window.
    pub fn used(&self) -> usize {
        // a block is full unless it is the last of all that hold it
        let mut unfilled = 0;
        for (s, Sequence { blocks, len, .. }) in self.sequences.iter().enumerate() {
            let Some((at, block)) = blocks.iter().enumerate().next_back() else { continue };
            let fill = |len: usize| (len - at * BLOCK_LEN).min(BLOCK_LEN);
            if self.references[*block as usize] == 1 {
                unfilled += BLOCK_LEN - fill(*len);
                continue;
            }
            // a shared block stands at the same place in each of its tables: it counts in the first
            let holds = |other: &&Sequence| other.blocks.get(at) == Some(block);
            if !self.sequences[..s].iter().any(|other| holds(&other)) {
                let fills = self.sequences[s..].iter().filter(holds).map(|other| fill(other.len));
                unfilled += BLOCK_LEN - fills.max().unwrap_or(0);
            }
        }
        (self.n_blocks() - self.n_free()) * BLOCK_LEN - unfilled
    }

    /// Positions that `sequence` can still grow by; of a pool without a window.
    pub fn room(&self, sequence: usize) -> usize {
        let Sequence { blocks, len, .. } = &self.sequences[sequence];
        let slack = blocks.len() * BLOCK_LEN - len;
        match blocks.last() {
            Some(last) if slack > 0 && self.references[*last as usize] > 1 => match self.free.len() {
                0 => 0,
                n => slack + (n - 1) * BLOCK_LEN,
            },
            _ => slack + self.free.len() * BLOCK_LEN,
        }
    }

    /// The least length, 0 apart, that the sequence can go back to.
    pub fn least(&self, sequence: usize) -> usize {
        self.window.map_or(0, |window| window.beyond(self.sequences[sequence].first * BLOCK_LEN))
    }

    /// Makes room for a table of `n_blocks`: a sequence in use never allocates again.
    pub fn reserve(&mut self, sequence: usize, n_blocks: usize) -> Result<()> {
        let blocks = &mut self.sequences[sequence].blocks;
        if blocks.capacity() == 0 {
            *blocks = memory::vec(n_blocks, BOOKS)?;
        }
        Ok(())
    }

    /// Begins to grow the sequence: its last block becomes its own. False when blocks ran out. Ends with
    /// [`commit`](Self::commit), [`undo`](Self::undo) or [`roll_back`](Self::roll_back).
    pub fn begin(&mut self, sequence: usize) -> bool {
        let Sequence { blocks, len, before, .. } = &mut self.sequences[sequence];
        let old_len = *len;
        if let Some(window) = self.window {
            *before = (window.first(old_len) / BLOCK_LEN).min(blocks.len())..blocks.len();
        }
        let shared = (!old_len.is_multiple_of(BLOCK_LEN)).then(|| blocks[old_len / BLOCK_LEN]);
        let shared = shared.filter(|last| self.references[*last as usize] > 1);
        self.grown.push(Grown { sequence, old_len, shared: None });
        if let Some(from) = shared {
            let Some(mut to) = self.take(sequence) else { return false };
            if self.references[from as usize] == 1 {
                // the others have just given it back
                release(&mut self.references, &mut self.free, &mut to);
                return true;
            }
            self.references[from as usize] -= 1;
            self.copies.push(BlockCopy { from, to });
            if let Some(grown) = self.grown.last_mut() {
                grown.shared = Some(from);
            }
            self.sequences[sequence].blocks[old_len / BLOCK_LEN] = to;
        }
        true
    }

    /// Begins a step of the growth: what earlier ones have computed is seen through windows alone.
    pub fn begin_step(&mut self) {
        for Grown { sequence, .. } in &self.grown {
            let sequence = &mut self.sequences[*sequence];
            sequence.next = sequence.len;
        }
    }

    /// Grows the sequence to `len` positions. False when blocks ran out.
    pub fn extend(&mut self, sequence: usize, len: usize) -> bool {
        while self.sequences[sequence].blocks.len() < len.div_ceil(BLOCK_LEN) {
            let Some(block) = self.take(sequence) else { return false };
            self.sequences[sequence].blocks.push(block);
        }
        self.sequences[sequence].len = len;
        true
    }

    /// A free block, or one that a sequence gives back, `sequence` before the others.
    fn take(&mut self, sequence: usize) -> Option<u32> {
        let n = self.sequences.len();
        if self.free.is_empty() && self.window.is_some() {
            (0..n).any(|i| self.give_back((sequence + i) % n));
        }
        let block = self.free.pop()?;
        self.references[block as usize] = 1;
        Some(block)
    }

    /// Gives back what lies behind the sequence's window until a block is free. False: nothing became free.
    fn give_back(&mut self, sequence: usize) -> bool {
        let Pool { window, references, free, sequences, .. } = self;
        let Sequence { blocks, first, next, before, .. } = &mut sequences[sequence];
        let seen = window.map_or(0, |window| window.first(*next) / BLOCK_LEN).min(blocks.len());
        while free.is_empty() && *first < seen {
            if !before.contains(first) {
                release(references, free, &mut blocks[*first]);
            }
            *first += 1;
        }
        !free.is_empty()
    }

    /// Blocks to copy before the grown positions are written.
    pub fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// Keeps the growth.
    pub fn commit(&mut self) {
        let Pool { references, free, sequences, grown, copies, .. } = self;
        for Grown { sequence, .. } in grown.drain(..) {
            let Sequence { blocks, len, first, next, before } = &mut sequences[sequence];
            let before = std::mem::take(before);
            if *first > before.end {
                // behind a gap they are of no use
                before.for_each(|at| release(references, free, &mut blocks[at]));
            } else {
                *first = before.start.min(*first);
            }
            *next = *len;
        }
        copies.clear();
    }

    /// Takes the growth back before any step has written to the cache: shared blocks are shared again.
    pub fn undo(&mut self) {
        while let Some(Grown { sequence, old_len, shared }) = self.grown.pop() {
            self.go_back(sequence, old_len);
            if let Some(shared) = shared {
                let last = &mut self.sequences[sequence].blocks[old_len / BLOCK_LEN];
                release(&mut self.references, &mut self.free, last);
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
            self.go_back(sequence, old_len);
        }
        self.copies.clear();
    }

    fn go_back(&mut self, sequence: usize, old_len: usize) {
        self.truncate(sequence, old_len);
        let Sequence { first, before, .. } = &mut self.sequences[sequence];
        *first = std::mem::take(before).start.min(*first);
    }

    /// Forgets the positions from `len` on: 0, or at least [`least`](Self::least).
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        let Pool { references, free, sequences, .. } = self;
        let Sequence { blocks, len: held, first, next, .. } = &mut sequences[sequence];
        *held = len.min(*held);
        let keep = held.div_ceil(BLOCK_LEN);
        // last first, so that the same blocks are taken again in the same order
        while blocks.len() > keep {
            if let Some(mut block) = blocks.pop().filter(|block| *block != HOLE) {
                release(references, free, &mut block);
            }
        }
        *first = keep.min(*first);
        *next = *held;
    }

    /// Makes `to`, emptied first, share the first `len` positions of `from`, for which room was [reserved](Self::reserve);
    /// `len` is one that `from` could go back to, and the two differ.
    pub fn share(&mut self, from: usize, to: usize, len: usize) {
        self.truncate(to, 0);
        let mut blocks = std::mem::take(&mut self.sequences[to].blocks);
        let Sequence { blocks: held, first, .. } = &self.sequences[from];
        blocks.extend_from_slice(&held[..len.div_ceil(BLOCK_LEN)]);
        let first = blocks.len().min(*first);
        for block in &blocks[first..] {
            self.references[*block as usize] += 1;
        }
        self.sequences[to] = Sequence { blocks, len, first, next: len, before: 0..0 };
    }
}

/// Takes a reference to the block out of a table.
fn release(references: &mut [u32], free: &mut Vec<u32>, block: &mut u32) {
    let count = &mut references[*block as usize];
    *count -= 1;
    if *count == 0 {
        free.push(*block);
    }
    *block = HOLE;
}

#[cfg(test)]
impl Pool {
    /// Every reference is counted, every block free or in a table, every table as long as its sequence needs, and what the next
    /// token sees in it.
    pub fn check(&self) {
        let mut references = vec![0; self.references.len()];
        for Sequence { blocks, len, first, next, before } in &self.sequences {
            assert_eq!((blocks.len(), *next, before.is_empty()), (len.div_ceil(BLOCK_LEN), *len, true));
            assert!(blocks[..*first].iter().all(|block| *block == HOLE));
            let seen = self.window.map_or(0, |window| window.first(*len) / BLOCK_LEN);
            assert!(*first <= seen.min(blocks.len()), "{blocks:?} from {first} on, {seen} is seen");
            blocks[*first..].iter().for_each(|b| references[*b as usize] += 1);
        }
        assert_eq!(references, self.references);
        let mut free = self.free.clone();
        free.sort_unstable();
        let unused: Vec<u32> =
            (0..references.len() as u32).filter(|b| references[*b as usize] == 0).collect();
        assert_eq!(free, unused);
        assert!(self.grown.is_empty() && self.copies.is_empty());
    }

    /// From the definition: the most that any sequence fills of each block.
    pub fn used_by_definition(&self) -> usize {
        let mut fill = vec![0; self.references.len()];
        for Sequence { blocks, len, .. } in &self.sequences {
            for (i, block) in blocks.iter().enumerate() {
                let here = (len - i * BLOCK_LEN).min(BLOCK_LEN);
                fill[*block as usize] = here.max(fill[*block as usize]);
            }
        }
        fill.iter().sum()
    }
}
