//! A group's shared memory. Every byte knows whether it was written, and by which wave it was touched since
//! the last barrier.

use crate::counters::Counters;
use crate::memory::{Access, Words};
use crate::stop::LaneFault;

/// Bytes `0..size` of one group. Addresses in [`Access`] are LDS byte offsets.
pub struct Lds {}

impl Lds {
    pub fn new(_bytes: u32) -> Self {
        todo!()
    }

    pub fn load(
        &mut self,
        _wave: u32,
        _at: &Access<'_>,
        _out: &mut Words,
        _counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        todo!()
    }

    pub fn store(
        &mut self,
        _wave: u32,
        _at: &Access<'_>,
        _data: &Words,
        _counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        todo!()
    }

    pub fn atomic(
        &mut self,
        _wave: u32,
        _at: &Access<'_>,
        _old: &mut [u64; 64],
        _update: &mut dyn FnMut(usize, u64) -> u64,
        _counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        todo!()
    }

    /// All waves have met: accesses before and after no longer race.
    pub fn barrier(&mut self) {
        todo!()
    }
}
