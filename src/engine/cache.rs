//! The paged key-value cache: a pool of blocks with reference counts, a block table per sequence.
