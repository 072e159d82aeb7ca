//! The paged key-value cache: what sequences hold, in a [`Pool`] of blocks for each window of the model's caches.
//!
//! The pool of caches without a window is there in any case, and has a block for all positions: it says how long sequences
//! are and whether they fit. The others are as large as their windows, so that a step takes its blocks when it begins; that it
//! finds them follows from [`SessionLimits::blocks`].

use std::ops::RangeInclusive;

use super::pool::{BlockCopy, Pool};
use crate::device::{BLOCK_LEN, SessionLimits};
use crate::plan::Window;
use crate::{Error, Result, memory};

#[derive(Debug)]
pub struct PagedCache {
    all: Pool,
    windowed: Vec<Pool>,
}

impl PagedCache {
    pub fn new(windows: &[Window], limits: SessionLimits) -> Result<Self> {
        let pool = |window| Pool::new(window, limits.blocks(window), limits.n_sequences);
        let windowed = windows.iter().map(|window| pool(Some(*window)));
        Ok(PagedCache {
            all: pool(None)?,
            windowed: memory::try_collect(windowed, "the books of the cache")?,
        })
    }

    fn pools(&mut self) -> impl Iterator<Item = &mut Pool> {
        std::iter::once(&mut self.all).chain(&mut self.windowed)
    }

    /// Positions in all.
    pub fn capacity(&self) -> usize {
        self.all.n_blocks() * BLOCK_LEN
    }

    pub fn len(&self, sequence: usize) -> usize {
        self.all.len(sequence)
    }

    /// The sequence's block table in each pool.
    pub fn tables(&self, sequence: usize) -> impl Iterator<Item = &[u32]> {
        std::iter::once(&self.all).chain(&self.windowed).map(move |pool| pool.table(sequence))
    }

    /// Positions that hold something, those of shared blocks counted once.
    pub fn used(&self) -> usize {
        self.all.used()
    }

    /// Positions that `sequence` can still grow by.
    pub fn room(&self, sequence: usize) -> usize {
        self.all.room(sequence)
    }

    /// Lengths, beside 0, that the sequence can go back to and be copied up to.
    pub fn kept(&self, sequence: usize) -> RangeInclusive<usize> {
        let least = self.windowed.iter().map(|pool| pool.least(sequence)).max();
        least.unwrap_or(0)..=self.len(sequence)
    }

    /// Grows each `(sequence, positions)`, all or none. The caller then performs [`copies`](Self::copies), lets each step
    /// [`advance`](Self::advance), and ends with [`commit`](Self::commit), or [`undo`](Self::undo) where a copy fails, or
    /// [`roll_back`](Self::roll_back) where a step fails.
    pub fn grow(&mut self, wanted: impl Iterator<Item = (usize, usize)>) -> Result<()> {
        let (mut total, mut full) = (0usize, false);
        for (sequence, n) in wanted.filter(|(_, n)| *n > 0) {
            total = total.saturating_add(n);
            full = full || !self.grow_one(sequence, n).inspect_err(|_| self.undo())?;
        }
        if full {
            self.undo();
            let free = self.all.n_free() * BLOCK_LEN;
            return Err(Error::CacheFull { wanted: total, free, total: self.capacity() });
        }
        Ok(())
    }

    /// False when blocks ran out.
    fn grow_one(&mut self, sequence: usize, n: usize) -> Result<bool> {
        self.reserve(sequence)?;
        let len = self.len(sequence).saturating_add(n);
        Ok(self.pools().all(|pool| pool.begin(sequence)) && self.all.extend(sequence, len))
    }

    fn reserve(&mut self, sequence: usize) -> Result<()> {
        let n_blocks = self.all.n_blocks();
        self.pools().try_for_each(|pool| pool.reserve(sequence, n_blocks))
    }

    /// Blocks to copy before the grown positions are written, and the pools that they are of.
    pub fn copies(&self) -> impl Iterator<Item = (usize, BlockCopy)> {
        let pools = std::iter::once(&self.all).chain(&self.windowed).enumerate();
        pools.flat_map(|(at, pool)| pool.copies().iter().map(move |copy| (at, *copy)))
    }

    /// Takes the blocks of a step of the growth, which brings each `(sequence, len)` to so many positions.
    pub fn advance(&mut self, step: impl Iterator<Item = (usize, usize)> + Clone) -> Result<()> {
        for pool in &mut self.windowed {
            pool.begin_step();
            if !step.clone().all(|(sequence, len)| pool.extend(sequence, len)) {
                return Err(Error::Internal("a step without a block of its window".into()));
            }
        }
        Ok(())
    }

    /// Keeps the growth.
    pub fn commit(&mut self) {
        self.pools().for_each(Pool::commit);
    }

    /// Takes the growth back before any step has written to the cache.
    pub fn undo(&mut self) {
        self.pools().for_each(Pool::undo);
    }

    /// Takes the growth back after steps have written.
    pub fn roll_back(&mut self) {
        self.pools().for_each(Pool::roll_back);
    }

    /// Forgets the positions from `len` on: 0, or one that is [kept](Self::kept).
    pub fn truncate(&mut self, sequence: usize, len: usize) {
        self.pools().for_each(|pool| pool.truncate(sequence, len));
    }

    /// Makes `to`, emptied first, share the first `len` positions of `from`; `len` is 0 or [kept](Self::kept), and the two
    /// differ.
    pub fn share(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        self.reserve(to)?;
        self.pools().for_each(|pool| pool.share(from, to, len));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::slot;
    use proptest::prelude::*;

    fn limits(n_blocks: usize, n_sequences: usize, max_tokens: usize) -> SessionLimits {
        SessionLimits { max_tokens, max_outputs: 1, n_blocks, n_sequences, n_states: 0 }
    }

    fn plain(n_blocks: usize, n_sequences: usize) -> PagedCache {
        PagedCache::new(&[], limits(n_blocks, n_sequences, 1)).unwrap()
    }

    fn check(cache: &mut PagedCache) {
        cache.pools().for_each(|pool| pool.check());
        assert_eq!(cache.used(), cache.all.used_by_definition());
        assert!(cache.used() <= cache.capacity());
    }

    fn blocks(cache: &PagedCache, sequence: usize) -> &[u32] {
        cache.all.table(sequence)
    }

    /// Tables without a window, and lengths.
    fn tables(cache: &PagedCache, n: usize) -> Vec<(Vec<u32>, usize)> {
        (0..n).map(|s| (blocks(cache, s).to_vec(), cache.len(s))).collect()
    }

    #[test]
    fn a_shared_last_block_is_copied_by_whoever_writes_first() {
        let mut cache = plain(8, 3);
        cache.grow([(0, BLOCK_LEN + 10)].into_iter()).unwrap();
        cache.commit();
        cache.share(0, 1, BLOCK_LEN + 5).unwrap();
        assert_eq!(cache.used(), BLOCK_LEN + 10);
        assert_eq!(blocks(&cache, 1), blocks(&cache, 0));
        let shared = blocks(&cache, 0)[1];

        cache.grow([(1, 1)].into_iter()).unwrap();
        let copies: Vec<_> = cache.copies().collect();
        assert_eq!(copies, [(0, BlockCopy { from: shared, to: blocks(&cache, 1)[1] })]);
        cache.commit();
        assert_eq!(blocks(&cache, 0)[0], blocks(&cache, 1)[0], "the whole block stays shared");

        // sequence 0 is now alone with the original: no copy
        cache.grow([(0, 1)].into_iter()).unwrap();
        assert_eq!(cache.copies().count(), 0);
        cache.commit();
        check(&mut cache);
    }

    #[test]
    fn a_growth_that_does_not_fit_changes_nothing() {
        let mut cache = plain(4, 3);
        cache.grow([(0, BLOCK_LEN + 1)].into_iter()).unwrap();
        cache.commit();
        cache.share(0, 1, BLOCK_LEN + 1).unwrap();
        let (before, free) = (tables(&cache, 3), cache.all.n_free());
        let full = cache.grow([(1, 5), (2, BLOCK_LEN + 1)].into_iter()).unwrap_err();
        let total = 4 * BLOCK_LEN;
        assert!(
            matches!(full, Error::CacheFull { wanted, free, total: t }
                if wanted == BLOCK_LEN + 6 && free == 2 * BLOCK_LEN && t == total),
            "{full:?}"
        );
        assert_eq!(tables(&cache, 3), before);
        assert_eq!(cache.all.n_free(), free);
        check(&mut cache);
        assert!(cache.grow([(0, usize::MAX)].into_iter()).is_err());
        check(&mut cache);
    }

    #[test]
    fn what_is_behind_a_window_stays_while_there_is_room() {
        // what a token sees lies in two blocks: twice these, one more, and one for 64 tokens
        let limits = limits(50, 1, 64);
        let window = Window::Sliding(65);
        assert_eq!(limits.blocks(Some(window)), 6);
        let mut cache = PagedCache::new(&[window], limits).unwrap();
        let grow = |cache: &mut PagedCache, n: usize| {
            for _ in 0..n {
                cache.grow([(0, 1)].into_iter()).unwrap();
                cache.advance([(0, cache.len(0))].into_iter()).unwrap();
                cache.commit();
                check(cache);
            }
        };
        grow(&mut cache, 6 * BLOCK_LEN);
        assert_eq!(cache.kept(0), 0..=384);
        grow(&mut cache, 1);
        assert_eq!(cache.kept(0), 128..=385, "a block is gone, whose last position 127 sees");
        grow(&mut cache, 1000);
        assert_eq!(cache.kept(0), (16 * BLOCK_LEN + 64)..=1385);
        cache.truncate(0, 16 * BLOCK_LEN + 64);
        check(&mut cache);
    }

    #[test]
    fn a_block_that_the_other_gives_back_is_not_copied() {
        let limits = limits(50, 2, 64);
        let window = Window::Sliding(1);
        assert_eq!(limits.blocks(Some(window)), 7);
        let mut cache = PagedCache::new(&[window], limits).unwrap();
        for len in (1..=7).map(|n| n * BLOCK_LEN) {
            cache.grow([(0, BLOCK_LEN)].into_iter()).unwrap();
            cache.advance([(0, len)].into_iter()).unwrap();
            cache.commit();
        }
        cache.share(0, 1, 10).unwrap();
        cache.grow([(1, 1)].into_iter()).unwrap();
        let copied: Vec<usize> = cache.copies().map(|(pool, _)| pool).collect();
        assert_eq!(copied, [0], "of the window's there is one holder left");
        cache.advance([(1, 11)].into_iter()).unwrap();
        cache.commit();
        check(&mut cache);
    }

    const N: usize = 3;

    /// The books beside what each cell would hold.
    struct Model {
        cache: PagedCache,
        max_tokens: usize,
        windows: Vec<Option<Window>>,
        cells: Vec<Vec<u32>>,
        sequences: Vec<Vec<u32>>,
    }

    impl Model {
        fn new(windows: &[Window], n_blocks: usize, max_tokens: usize) -> Self {
            let limits = limits(n_blocks, N, max_tokens);
            let cache = PagedCache::new(windows, limits).unwrap();
            let windows: Vec<_> = std::iter::once(None).chain(windows.iter().copied().map(Some)).collect();
            let cells = windows.iter().map(|w| vec![u32::MAX; limits.blocks(*w) * BLOCK_LEN]).collect();
            Model { cache, max_tokens, windows, cells, sequences: vec![Vec::new(); N] }
        }

        /// The tokens at the ends of their sequences, in `steps` steps or all that it takes; whether those were all.
        fn run(&mut self, mut wanted: Vec<(usize, Vec<u32>)>, steps: usize) -> bool {
            for (pool, BlockCopy { from, to }) in self.cache.copies() {
                let (from, to) = (from as usize * BLOCK_LEN, to as usize * BLOCK_LEN);
                self.cells[pool].copy_within(from..from + BLOCK_LEN, to);
            }
            for _ in 0..steps {
                let (mut room, mut runs) = (self.max_tokens, Vec::new());
                for (s, tokens) in &mut wanted {
                    let tokens: Vec<u32> = tokens.drain(..room.min(tokens.len())).collect();
                    room -= tokens.len();
                    if !tokens.is_empty() {
                        runs.push((*s, self.sequences[*s].len()));
                        self.sequences[*s].extend(tokens);
                    }
                }
                if runs.is_empty() {
                    return true;
                }
                self.cache.advance(runs.iter().map(|(s, _)| (*s, self.sequences[*s].len()))).unwrap();
                for (s, first) in &runs {
                    for (table, cells) in self.cache.tables(*s).zip(&mut self.cells) {
                        let new = self.sequences[*s].iter().enumerate().skip(*first);
                        new.for_each(|(position, token)| cells[slot(table, position)] = *token);
                    }
                }
                for (s, first) in &runs {
                    for ((table, cells), window) in self.cache.tables(*s).zip(&self.cells).zip(&self.windows)
                    {
                        let first = window.map_or(*first, |window| window.first(*first));
                        for (position, token) in self.sequences[*s].iter().enumerate().skip(first) {
                            assert_eq!(
                                cells[slot(table, position)],
                                *token,
                                "{s}: position {position}, {window:?}"
                            );
                        }
                    }
                }
            }
            wanted.iter().all(|(_, tokens)| tokens.is_empty())
        }

        /// The next token of every sequence would see what is there.
        fn check(&mut self) {
            check(&mut self.cache);
            for (s, tokens) in self.sequences.iter().enumerate() {
                assert_eq!(self.cache.len(s), tokens.len());
                for ((table, cells), window) in self.cache.tables(s).zip(&self.cells).zip(&self.windows) {
                    let first = window.map_or(0, |window| window.first(tokens.len()));
                    for (position, token) in tokens.iter().enumerate().skip(first) {
                        assert_eq!(
                            cells[slot(table, position)],
                            *token,
                            "{s}: position {position}, {window:?}"
                        );
                    }
                }
            }
        }
    }

    fn windows() -> impl Strategy<Value = Vec<Window>> {
        let window = prop_oneof![
            (1..300u32).prop_map(Window::Sliding),
            (1..300u32).prop_map(Window::Chunks),
            (1..70u32).prop_map(Window::Sliding),
            Just(Window::Chunks(64)),
        ];
        prop::collection::vec(window, 0..3)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// What steps see is what was written there, whatever the sequences went through; and no step lacks a block.
        #[test]
        fn any_history_keeps_the_books(
            windows in windows(),
            max_tokens in prop_oneof![1..8usize, 1..200usize],
            ops in prop::collection::vec((0..8u8, 0..N, 0..N, 0..700usize, 0..300usize), 1..60)
        ) {
            let mut model = Model::new(&windows, 40, max_tokens);
            let mut next = 0;
            for (op, a, b, n, m) in ops {
                let before = model.sequences.clone();
                let room = model.cache.room(a);
                let kept = model.cache.kept(a);
                prop_assert_eq!(*kept.end(), before[a].len());
                match op {
                    0..=4 => {
                        let mut wanted = vec![(a, n)];
                        if a != b && op % 2 == 0 {
                            wanted.push((b, m));
                        }
                        let held = tables(&model.cache, N);
                        let fits = model.cache.grow(wanted.iter().copied()).is_ok();
                        prop_assert!(wanted.len() > 1 || fits == (n <= room));
                        if !fits {
                            prop_assert_eq!(tables(&model.cache, N), held);
                        } else if op == 3 {
                            model.cache.undo();
                            prop_assert_eq!(tables(&model.cache, N), held);
                        } else {
                            let mut tokens = |n: usize| {
                                next += n as u32;
                                (next - n as u32..next).collect::<Vec<_>>()
                            };
                            let wanted = wanted.into_iter().map(|(s, n)| (s, tokens(n))).collect();
                            if model.run(wanted, if op == 4 { m % 5 } else { usize::MAX }) {
                                model.cache.commit();
                            } else {
                                model.cache.roll_back();
                                model.sequences = before;
                            }
                        }
                    }
                    5 | 6 => {
                        let to = n.min(before[a].len());
                        let to = if kept.contains(&to) || m % 4 > 0 { to.max(*kept.start()) } else { 0 };
                        if op == 5 {
                            model.cache.truncate(a, to);
                            model.sequences[a].truncate(to);
                        } else if a != b {
                            model.cache.share(a, b, to).unwrap();
                            model.sequences[b] = before[a][..to].to_vec();
                        }
                    }
                    _ if m % 4 > 0 => {}
                    _ => {
                        model.cache.truncate(a, 0);
                        model.sequences[a].clear();
                    }
                }
                model.check();
            }
        }
    }
}
