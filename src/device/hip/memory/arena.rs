//! Which parts of one large allocation are taken: offsets only, no memory.

use std::collections::BTreeMap;

/// Every part starts at a multiple of this: wide enough for any load and for a line of the last cache.
pub const ALIGNMENT: u64 = 256;

/// `size` as an arena hands it out; None beyond u64.
pub const fn aligned(size: u64) -> Option<u64> {
    match size {
        0 => Some(ALIGNMENT),
        size => size.checked_next_multiple_of(ALIGNMENT),
    }
}

/// Best fit over free parts, which never touch one another: neighbours are merged.
#[derive(Debug)]
pub struct Arena {
    size: u64,
    /// Free parts: offset -> length.
    free: BTreeMap<u64, u64>,
}

impl Arena {
    /// `size` is a multiple of [`ALIGNMENT`].
    pub fn new(size: u64) -> Self {
        debug_assert!(size.is_multiple_of(ALIGNMENT));
        Arena { size, free: BTreeMap::from([(0, size)]) }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes free, and the longest part among them.
    pub fn free(&self) -> (u64, u64) {
        let lengths = || self.free.values().copied();
        (lengths().sum(), lengths().max().unwrap_or(0))
    }

    pub fn is_empty(&self) -> bool {
        self.free.get(&0) == Some(&self.size)
    }

    /// Offset of a part of `size` bytes, an [`aligned`] size; None where no free part is as long.
    pub fn take(&mut self, size: u64) -> Option<u64> {
        let (&offset, &length) =
            self.free.iter().filter(|(_, length)| **length >= size).min_by_key(|(_, length)| **length)?;
        self.free.remove(&offset);
        if length > size {
            self.free.insert(offset + size, length - size);
        }
        Some(offset)
    }

    /// Gives back what `take` handed out, with the same size.
    pub fn give(&mut self, mut offset: u64, mut size: u64) {
        if let Some(length) = self.free.remove(&(offset + size)) {
            size += length;
        }
        if let Some((&before, &length)) = self.free.range(..offset).next_back()
            && before + length == offset
        {
            self.free.remove(&before);
            offset = before;
            size += length;
        }
        self.free.insert(offset, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_the_closest_fit_and_merges_what_comes_back() {
        let mut arena = Arena::new(16 * ALIGNMENT);
        let parts: Vec<u64> = [4, 1, 2, 1, 8].map(|n| arena.take(n * ALIGNMENT).unwrap()).to_vec();
        assert_eq!(arena.take(ALIGNMENT), None);
        arena.give(parts[0], 4 * ALIGNMENT);
        arena.give(parts[2], 2 * ALIGNMENT);
        assert_eq!(arena.take(2 * ALIGNMENT), Some(parts[2]), "the part of 2, not a piece of the part of 4");
        for (part, n) in [(1, 1), (4, 8), (2, 2), (3, 1)] {
            arena.give(parts[part], n * ALIGNMENT);
        }
        assert!(arena.is_empty());
    }

    #[test]
    fn sizes_are_rounded_up_and_never_wrap() {
        assert_eq!(aligned(0), Some(ALIGNMENT));
        assert_eq!(aligned(1), Some(ALIGNMENT));
        assert_eq!(aligned(257), Some(512));
        assert_eq!(aligned(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn parts_never_overlap_and_all_come_back(
            steps in prop::collection::vec((any::<bool>(), 1..40u64, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut arena = Arena::new(256 * ALIGNMENT);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (take, blocks, index) in steps {
                if take {
                    let size = blocks * ALIGNMENT;
                    let (_, longest) = arena.free();
                    match arena.take(size) {
                        Some(offset) => {
                            prop_assert!(offset.is_multiple_of(ALIGNMENT) && offset + size <= arena.size());
                            let apart = |&(o, s): &(u64, u64)| o + s <= offset || offset + size <= o;
                            prop_assert!(taken.iter().all(apart));
                            taken.push((offset, size));
                        }
                        None => prop_assert!(longest < size),
                    }
                } else if !taken.is_empty() {
                    let (offset, size) = taken.swap_remove(index.index(taken.len()));
                    arena.give(offset, size);
                }
                let used: u64 = taken.iter().map(|(_, size)| size).sum();
                prop_assert_eq!(arena.free().0 + used, arena.size());
            }
            for (offset, size) in taken {
                arena.give(offset, size);
            }
            prop_assert!(arena.is_empty());
        }
    }
}
