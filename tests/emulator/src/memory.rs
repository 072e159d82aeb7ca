//! Device memory: allocations, each access checked against them.

use crate::counters::Counters;
use crate::stop::LaneFault;

/// One memory instruction of a wave: the address each active lane asks for.
pub struct Access<'a> {
    pub addr: &'a [u64; 64],
    /// Lanes that take part, one bit each.
    pub active: u64,
    /// Bytes per lane: 1, 2, 4, 8, 12 or 16.
    pub bytes: u32,
}

/// A lane's data: up to four words, `[word][lane]`. Loads of 1 and 2 bytes leave them zero-extended.
pub type Words = [[u32; 64]; 4];

/// All allocations of a card. Device addresses are host addresses.
#[derive(Default)]
pub struct Memory {}

impl Memory {
    pub fn load(
        &self,
        _at: &Access<'_>,
        _out: &mut Words,
        _counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        todo!()
    }

    pub fn store(&self, _at: &Access<'_>, _data: &Words, _counters: &mut Counters) -> Result<(), LaneFault> {
        todo!()
    }

    /// For each lane in turn: old value (4 or 8 bytes) to `update`, its result to memory; the old values to `old`.
    pub fn atomic(
        &self,
        _at: &Access<'_>,
        _old: &mut [u64; 64],
        _update: &mut dyn FnMut(usize, u64) -> u64,
        _counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        todo!()
    }

    /// A scalar load of consecutive dwords.
    pub fn scalar_load(
        &self,
        _addr: u64,
        _out: &mut [u32],
        _counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        todo!()
    }
}
