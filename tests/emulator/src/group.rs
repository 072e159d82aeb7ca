//! What the waves of a running group share.

use crate::counters::Counters;
use crate::lds::Lds;
use crate::memory::Memory;

pub struct Group<'a> {
    pub memory: &'a Memory,
    pub lds: Lds,
    pub counters: Counters,
}
