//! Device memory: allocations, each access checked against them.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::counters::Counters;
use crate::mapping::Mapping;
use crate::stop::{Fault, LaneFault};

/// Bytes of a cache line.
pub const LINE: u64 = 128;

/// Memory is given out in multiples of it.
pub const PAGE: u64 = 4096;

/// Device addresses are host addresses less this: a host that follows a device pointer crashes, as with a card.
const DEVICE_BIAS: u64 = 1 << 44;

/// One memory instruction of a wave: the address each active lane asks for.
pub struct Access<'a> {
    pub addr: &'a [u64; 64],
    /// Lanes that take part, one bit each.
    pub active: u64,
    /// Bytes per lane: 1, 2, 4, 8, 12 or 16.
    pub bytes: u32,
}

impl Access<'_> {
    /// Active lanes, ascending.
    pub fn lanes(&self) -> Lanes {
        Lanes(self.active)
    }
}

/// The set bits of a lane mask, ascending.
#[derive(Clone, Copy)]
pub struct Lanes(pub u64);

impl Iterator for Lanes {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

/// A lane's data: up to four words, `[word][lane]`. Loads of 1 and 2 bytes leave them zero-extended.
pub type Words = [[u32; 64]; 4];

/// What an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The card's memory.
    Device,
    /// Pinned host memory: the host's address is the device's.
    Host,
    /// A loaded code object or kernel arguments: kernels may only read it.
    Constant,
}

struct Allocation {
    base: u64,
    /// Past the last byte.
    end: u64,
    kind: Kind,
    /// The how-manieth allocation it is.
    number: u64,
    mapping: Mapping,
}

/// Where an allocation lies.
#[derive(Clone, Copy)]
struct Range {
    base: u64,
    end: u64,
    /// Host address = device address + shift.
    shift: u64,
    writable: bool,
    /// That of the memory when this was looked up.
    generation: u64,
}

impl Range {
    const NONE: Range = Range { base: 0, end: 0, shift: 0, writable: false, generation: 0 };

    fn holds(&self, first: u64, end: u64) -> bool {
        self.base <= first && end <= self.end
    }
}

thread_local! {
    /// The allocation this thread accessed last.
    static LAST: Cell<Range> = const { Cell::new(Range::NONE) };
}

/// All allocations of a card. Running waves share it; to allocate and to free needs it alone.
pub struct Memory {
    /// By ascending base.
    live: Vec<Allocation>,
    /// (base, end, number) of what was freed.
    freed: Vec<(u64, u64, u64)>,
    /// Number of allocations ever made.
    count: u64,
    /// Bytes of [`Kind::Device`] that are allocated, in whole pages.
    used: u64,
    /// Changes with every allocation and differs between memories.
    generation: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { live: Vec::new(), freed: Vec::new(), count: 0, used: 0, generation: next_generation() }
    }
}

fn next_generation() -> u64 {
    static GENERATION: AtomicU64 = AtomicU64::new(1);
    GENERATION.fetch_add(1, Relaxed)
}

/// What [`Memory::find`] tells of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub base: u64,
    pub bytes: u64,
    pub kind: Kind,
}

impl Memory {
    /// `bytes` > 0, at a multiple of 4096, filled with [`crate::mapping::POISON`]. None: the host has no more.
    pub fn allocate(&mut self, bytes: u64, kind: Kind) -> Option<u64> {
        let mapping = Mapping::new(usize::try_from(bytes).ok()?).ok()?;
        let base = match kind {
            Kind::Host => mapping.address(),
            Kind::Device | Kind::Constant => mapping.address() - DEVICE_BIAS,
        };
        self.count += 1;
        self.generation = next_generation();
        if kind == Kind::Device {
            self.used += bytes.next_multiple_of(PAGE);
        }
        let at = self.live.partition_point(|a| a.base < base);
        let number = self.count;
        self.live.insert(at, Allocation { base, end: base + bytes, kind, number, mapping });
        Some(base)
    }

    /// False: `base` is not where a living allocation of this kind begins.
    pub fn free(&mut self, base: u64, kind: Kind) -> bool {
        let Ok(at) = self.live.binary_search_by_key(&base, |a| a.base) else { return false };
        if self.live[at].kind != kind {
            return false;
        }
        let old = self.live.remove(at);
        if kind == Kind::Device {
            self.used -= (old.end - old.base).next_multiple_of(PAGE);
        }
        self.generation = next_generation();
        // Kernel arguments come and go with each launch, and no one keeps their addresses.
        if kind != Kind::Constant {
            self.freed.push((old.base, old.end, old.number));
            old.mapping.retire();
        }
        true
    }

    /// Bytes of [`Kind::Device`] that are allocated, in whole pages.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// The allocation that holds `addr`.
    pub fn find(&self, addr: u64) -> Option<Found> {
        let a = self.allocation(addr)?;
        Some(Found { base: a.base, bytes: a.end - a.base, kind: a.kind })
    }

    /// Host address of `bytes` bytes at `addr`, which lie inside one allocation. Valid while that lives; kernels
    /// on other threads may access it too.
    pub fn host_pointer(&self, addr: u64, bytes: u64) -> Result<*mut u8, Fault> {
        let range = self.range(addr, addr.saturating_add(bytes));
        match range {
            Some(range) => Ok(addr.wrapping_add(range.shift) as *mut u8),
            None => Err(self.outside(addr, u32::try_from(bytes).unwrap_or(u32::MAX), "")),
        }
    }

    pub fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), Fault> {
        let to = self.host_pointer(addr, data.len() as u64)?;
        // SAFETY: data.len() bytes of one allocation; &mut self: no wave runs.
        unsafe { std::ptr::copy(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    pub fn read(&self, addr: u64, data: &mut [u8]) -> Result<(), Fault> {
        let from = self.host_pointer(addr, data.len() as u64)?.cast::<AtomicU8>();
        for (i, byte) in data.iter_mut().enumerate() {
            // SAFETY: i < data.len(), which lie in one allocation; atomic, since waves may run.
            *byte = unsafe { (*from.add(i)).load(Relaxed) };
        }
        Ok(())
    }

    /// Inside this memory, also where the two overlap.
    pub fn copy(&mut self, dst: u64, src: u64, bytes: u64) -> Result<(), Fault> {
        let (to, from) = (self.host_pointer(dst, bytes)?, self.host_pointer(src, bytes)?);
        // SAFETY: `bytes` bytes of one allocation each; &mut self: no wave runs.
        unsafe { std::ptr::copy(from, to, bytes as usize) };
        Ok(())
    }

    /// Repeats `pattern` over `bytes` bytes, a multiple of its length.
    pub fn fill(&mut self, dst: u64, pattern: &[u8], bytes: u64) -> Result<(), Fault> {
        let to = self.host_pointer(dst, bytes)?;
        // SAFETY: `bytes` bytes of one allocation; &mut self: no wave runs.
        let to = unsafe { std::slice::from_raw_parts_mut(to, bytes as usize) };
        match pattern {
            [value] => to.fill(*value),
            _ => to.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern)),
        }
        Ok(())
    }

    pub fn load(&self, at: &Access<'_>, out: &mut Words, counters: &mut Counters) -> Result<(), LaneFault> {
        if at.active == 0 {
            return Ok(());
        }
        let lines = self.each(at, false, |lane, host| match at.bytes {
            1 => {
                // SAFETY: `each` gives at.bytes bytes inside a living allocation.
                out[0][lane] = unsafe { byte(host, 0) }.into();
            }
            2 => {
                // SAFETY: as above.
                out[0][lane] = unsafe { u16::from_le_bytes([byte(host, 0), byte(host, 1)]) }.into();
            }
            _ => {
                for (word, out) in out.iter_mut().enumerate().take(at.bytes as usize / 4) {
                    // SAFETY: as above, and word * 4 + 4 <= at.bytes.
                    out[lane] = unsafe { load_word(host.add(word * 4)) };
                }
            }
        })?;
        counters.bytes_read += u64::from(at.active.count_ones() * at.bytes);
        counters.lines_read += lines;
        note(at, counters);
        Ok(())
    }

    pub fn store(&self, at: &Access<'_>, data: &Words, counters: &mut Counters) -> Result<(), LaneFault> {
        if at.active == 0 {
            return Ok(());
        }
        let lines = self.each(at, true, |lane, host| match at.bytes {
            1 | 2 => {
                let word = data[0][lane].to_le_bytes();
                for (i, &value) in word.iter().enumerate().take(at.bytes as usize) {
                    // SAFETY: `each` gives at.bytes writable bytes inside a living allocation.
                    unsafe { (*host.add(i).cast::<AtomicU8>()).store(value, Relaxed) };
                }
            }
            _ => {
                for (word, data) in data.iter().enumerate().take(at.bytes as usize / 4) {
                    // SAFETY: as above, and word * 4 + 4 <= at.bytes.
                    unsafe { store_word(host.add(word * 4), data[lane]) };
                }
            }
        })?;
        counters.bytes_written += u64::from(at.active.count_ones() * at.bytes);
        counters.lines_written += lines;
        Ok(())
    }

    /// For each lane in turn: old value (4 or 8 bytes) to `update`, its result to memory; the old values to `old`.
    /// `update` is called again for a lane whose word another group changed meanwhile: it must be a function of
    /// its arguments.
    pub fn atomic(
        &self,
        at: &Access<'_>,
        old: &mut [u64; 64],
        update: &mut dyn FnMut(usize, u64) -> u64,
        counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        if at.active == 0 {
            return Ok(());
        }
        for lane in at.lanes() {
            aligned(lane, at.addr[lane], at.bytes, at.bytes)?;
        }
        let lines = self.each(at, true, |lane, host| {
            old[lane] = if at.bytes == 8 {
                // SAFETY: `each` gives 8 bytes inside a living allocation, aligned as checked above.
                let word = unsafe { &*host.cast::<AtomicU64>() };
                let done = word.fetch_update(Relaxed, Relaxed, |value| Some(update(lane, value)));
                done.unwrap_or_else(|value| value)
            } else {
                // SAFETY: as above, 4 bytes.
                let word = unsafe { &*host.cast::<AtomicU32>() };
                let new = |value: u32| Some(update(lane, value.into()) as u32);
                word.fetch_update(Relaxed, Relaxed, new).unwrap_or_else(|value| value).into()
            };
        })?;
        let bytes = u64::from(at.active.count_ones() * at.bytes);
        counters.bytes_read += bytes;
        counters.bytes_written += bytes;
        counters.lines_read += lines;
        counters.lines_written += lines;
        note(at, counters);
        Ok(())
    }

    /// A scalar load of consecutive dwords; `addr` is a multiple of 4.
    pub fn scalar_load(&self, addr: u64, out: &mut [u32], counters: &mut Counters) -> Result<(), LaneFault> {
        let bytes = out.len() as u64 * 4;
        if !addr.is_multiple_of(4) {
            return Err(Fault::Misaligned { addr, bytes: bytes as u32 }.into());
        }
        let host = self.host_pointer(addr, bytes)?;
        for (i, out) in out.iter_mut().enumerate() {
            // SAFETY: inside one allocation, as host_pointer checked.
            *out = unsafe { load_word(host.add(i * 4)) };
        }
        counters.bytes_read += bytes;
        counters.lines_read += (addr + bytes - 1) / LINE - addr / LINE + 1;
        if let Some(reads) = &mut counters.reads {
            reads.note(addr, bytes);
        }
        Ok(())
    }

    /// Calls `access(lane, host address)` for each active lane once all are known to be inside allocations (not
    /// necessarily the same one). The number of lines touched. At least one lane is active.
    fn each(
        &self,
        at: &Access<'_>,
        writes: bool,
        mut access: impl FnMut(usize, *mut u8),
    ) -> Result<u64, LaneFault> {
        let (mut first, mut end) = (u64::MAX, 0);
        for lane in at.lanes() {
            first = first.min(at.addr[lane]);
            end = end.max(at.addr[lane].saturating_add(at.bytes.into()));
        }
        if let Some(range) = self.range(first, end)
            && (range.writable || !writes)
        {
            for lane in at.lanes() {
                access(lane, at.addr[lane].wrapping_add(range.shift) as *mut u8);
            }
            return Ok(lines(at));
        }
        let mut shifts = [0; 64];
        for lane in at.lanes() {
            let addr = at.addr[lane];
            let fault = |why| LaneFault { lane: Some(lane as u32), fault: self.outside(addr, at.bytes, why) };
            let range = self.range(addr, addr.saturating_add(at.bytes.into())).ok_or_else(|| fault(""))?;
            if writes && !range.writable {
                return Err(fault("kernels may only read it: "));
            }
            shifts[lane] = range.shift;
        }
        for lane in at.lanes() {
            access(lane, at.addr[lane].wrapping_add(shifts[lane]) as *mut u8);
        }
        Ok(lines(at))
    }

    /// Where the allocation lies that holds `first..end`.
    fn range(&self, first: u64, end: u64) -> Option<Range> {
        let last = LAST.get();
        if last.generation == self.generation && last.holds(first, end) {
            return Some(last);
        }
        let a = self.allocation(first)?;
        let range = Range {
            base: a.base,
            end: a.end,
            shift: a.mapping.address().wrapping_sub(a.base),
            writable: a.kind != Kind::Constant,
            generation: self.generation,
        };
        range.holds(first, end).then(|| {
            LAST.set(range);
            range
        })
    }

    fn allocation(&self, addr: u64) -> Option<&Allocation> {
        let a = &self.live[self.live.partition_point(|a| a.base <= addr).checked_sub(1)?];
        (addr < a.end).then_some(a)
    }

    /// The fault of an access outside; `near` names the allocation that it is in, was in, or is nearest to.
    fn outside(&self, addr: u64, bytes: u32, why: &str) -> Fault {
        let near = if let Some(&(base, end, number)) = self.freed.iter().find(|f| (f.0..f.1).contains(&addr))
        {
            format!("it was freed: allocation {number}, {} bytes at {base:#x}", end - base)
        } else {
            match self.live.iter().min_by_key(|a| a.base.saturating_sub(addr).max(addr.saturating_sub(a.end)))
            {
                None => "there is none".to_owned(),
                Some(a) => {
                    let place = match addr {
                        _ if addr < a.base => format!("{} bytes before", a.base - addr),
                        _ if addr >= a.end => format!("{} bytes past the end of", addr - a.end),
                        _ => format!("{} bytes into", addr - a.base),
                    };
                    let (size, base) = (a.end - a.base, a.base);
                    format!("{why}{place} allocation {}, {size} bytes at {base:#x}", a.number)
                }
            }
        };
        Fault::OutOfBounds { addr, bytes, near }
    }
}

/// Fails where `addr` is not a multiple of `to`.
pub fn aligned(lane: usize, addr: u64, bytes: u32, to: u32) -> Result<(), LaneFault> {
    if addr.is_multiple_of(to.into()) {
        return Ok(());
    }
    Err(LaneFault { lane: Some(lane as u32), fault: Fault::Misaligned { addr, bytes } })
}

/// What the lanes read, where that is kept.
fn note(at: &Access<'_>, counters: &mut Counters) {
    if let Some(reads) = &mut counters.reads {
        at.lanes().for_each(|lane| reads.note(at.addr[lane], at.bytes.into()));
    }
}

/// Number of distinct cache lines.
fn lines(at: &Access<'_>) -> u64 {
    let mut seen = [0u64; 128];
    let mut n = 0;
    let mut ascending = true;
    for lane in at.lanes() {
        let first = at.addr[lane] / LINE;
        let last = (at.addr[lane] + u64::from(at.bytes) - 1) / LINE;
        for line in first..=last {
            if n > 0 && seen[n - 1] == line {
                continue;
            }
            ascending &= n == 0 || seen[n - 1] < line;
            seen[n] = line;
            n += 1;
        }
    }
    let seen = &mut seen[..n];
    if ascending {
        return n as u64;
    }
    seen.sort_unstable();
    seen.chunk_by(|a, b| a == b).count() as u64
}

/// # Safety
/// `host + i` is inside a living mapping.
unsafe fn byte(host: *mut u8, i: usize) -> u8 {
    // SAFETY: the caller's.
    unsafe { (*host.add(i).cast::<AtomicU8>()).load(Relaxed) }
}

/// # Safety
/// `host` points to 4 bytes inside a living mapping, at any alignment.
unsafe fn load_word(host: *mut u8) -> u32 {
    // SAFETY: the caller's, and the alignment is looked at.
    unsafe {
        if host.addr().is_multiple_of(4) {
            (*host.cast::<AtomicU32>()).load(Relaxed)
        } else {
            u32::from_le_bytes([byte(host, 0), byte(host, 1), byte(host, 2), byte(host, 3)])
        }
    }
}

/// # Safety
/// `host` points to 4 writable bytes inside a living mapping, at any alignment.
unsafe fn store_word(host: *mut u8, value: u32) {
    // SAFETY: the caller's, and the alignment is looked at.
    unsafe {
        if host.addr().is_multiple_of(4) {
            (*host.cast::<AtomicU32>()).store(value, Relaxed);
        } else {
            for (i, value) in value.to_le_bytes().into_iter().enumerate() {
                (*host.add(i).cast::<AtomicU8>()).store(value, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::POISON;

    fn addresses(base: u64, stride: u64) -> [u64; 64] {
        std::array::from_fn(|lane| base + lane as u64 * stride)
    }

    #[test]
    fn a_row_of_lanes_reads_what_it_wrote_and_counts_its_lines() {
        let mut memory = Memory::default();
        let base = memory.allocate(4096, Kind::Device).unwrap();
        let mut counters = Counters::default();
        let addr = addresses(base, 16);
        let at = Access { addr: &addr, active: u32::MAX.into(), bytes: 16 };
        let data: Words = std::array::from_fn(|word| std::array::from_fn(|lane| (word * 100 + lane) as u32));
        memory.store(&at, &data, &mut counters).unwrap();
        let mut out: Words = [[7; 64]; 4];
        memory.load(&at, &mut out, &mut counters).unwrap();
        for word in 0..4 {
            assert_eq!(out[word][..32], data[word][..32]);
            assert_eq!(out[word][32..], [7; 32], "lanes that are off keep their register");
        }
        let mut bytes = [0; 20];
        memory.read(base + 16, &mut bytes).unwrap();
        assert_eq!(bytes[4..8], 101u32.to_le_bytes());
        assert_eq!((counters.bytes_written, counters.lines_written), (512, 4));
        assert_eq!((counters.bytes_read, counters.lines_read), (512, 4));
    }

    #[test]
    fn lines_are_distinct_ones_in_any_order() {
        let count = |addr: &[u64; 64], active, bytes| lines(&Access { addr, active, bytes });
        assert_eq!(count(&addresses(0, 4), u64::MAX, 4), 2);
        assert_eq!(count(&addresses(126, 4), 1, 4), 2, "across the end of a line");
        assert_eq!(count(&addresses(0, 128), u64::MAX, 4), 64);
        let back_and_forth = std::array::from_fn(|lane| (lane as u64 % 2) * 4096);
        assert_eq!(count(&back_and_forth, u64::MAX, 4), 2);
    }

    #[test]
    fn fresh_memory_is_poison_even_beyond_the_poison_file() {
        let mut memory = Memory::default();
        let bytes = (16 << 20) + 10_000;
        let base = memory.allocate(bytes, Kind::Device).unwrap();
        for at in [0, 4096, (16 << 20) - 2, 16 << 20, bytes - 2] {
            let mut word = [0; 2];
            memory.read(base + at, &mut word).unwrap();
            assert_eq!(u16::from_le_bytes(word), POISON, "at {at}");
        }
        assert!(f32::from_bits(u32::from(POISON) * 0x1_0001).is_nan());
    }

    #[test]
    fn the_byte_past_the_end_is_a_fault_of_its_lane_and_nothing_was_stored() {
        let mut memory = Memory::default();
        let base = memory.allocate(130, Kind::Device).unwrap();
        memory.write(base, &[1; 130]).unwrap();
        let addr = addresses(base, 4);
        let at = Access { addr: &addr, active: u64::MAX, bytes: 4 };
        let fault = memory.store(&at, &[[0; 64]; 4], &mut Counters::default()).unwrap_err();
        assert_eq!(fault.lane, Some(32));
        let Fault::OutOfBounds { addr, bytes: 4, near } = fault.fault else { panic!("{fault:?}") };
        assert_eq!(addr, base + 128);
        assert_eq!(near, format!("128 bytes into allocation 1, 130 bytes at {base:#x}"));
        let mut all = [0; 130];
        memory.read(base, &mut all).unwrap();
        assert_eq!(all, [1; 130]);
    }

    #[test]
    fn lanes_may_be_in_different_allocations() {
        let mut memory = Memory::default();
        let a = memory.allocate(4, Kind::Device).unwrap();
        let b = memory.allocate(4, Kind::Device).unwrap();
        memory.write(a, &1u32.to_le_bytes()).unwrap();
        memory.write(b, &2u32.to_le_bytes()).unwrap();
        let addr = std::array::from_fn(|lane| if lane % 2 == 0 { a } else { b });
        let mut out = [[0; 64]; 4];
        let at = Access { addr: &addr, active: 0b111, bytes: 4 };
        memory.load(&at, &mut out, &mut Counters::default()).unwrap();
        assert_eq!(out[0][..4], [1, 2, 1, 0]);
    }

    #[test]
    fn freed_memory_and_constants_refuse() {
        let mut memory = Memory::default();
        let base = memory.allocate(64, Kind::Device).unwrap();
        let mut out = [0];
        memory.scalar_load(base, &mut out, &mut Counters::default()).unwrap();
        assert_eq!(memory.used(), PAGE);
        assert!(!memory.free(base + 4, Kind::Device), "not where it begins");
        assert!(!memory.free(base, Kind::Host), "not what it is");
        assert!(memory.free(base, Kind::Device));
        assert!(!memory.free(base, Kind::Device), "twice");
        assert_eq!(memory.used(), 0);
        let fault = memory.scalar_load(base, &mut out, &mut Counters::default()).unwrap_err();
        let Fault::OutOfBounds { near, .. } = fault.fault else { panic!("{fault:?}") };
        assert!(near.starts_with("it was freed: allocation 1, 64 bytes"), "{near}");

        let constant = memory.allocate(64, Kind::Constant).unwrap();
        memory.write(constant, &[5; 64]).unwrap();
        memory.scalar_load(constant, &mut out, &mut Counters::default()).unwrap();
        let addr = [constant; 64];
        let at = Access { addr: &addr, active: 1, bytes: 4 };
        memory.store(&at, &[[0; 64]; 4], &mut Counters::default()).unwrap_err();
    }

    #[test]
    fn addresses_at_the_end_of_the_world_do_not_wrap() {
        let mut memory = Memory::default();
        memory.allocate(64, Kind::Device).unwrap();
        let addr = [u64::MAX - 1; 64];
        let at = Access { addr: &addr, active: 1, bytes: 16 };
        memory.load(&at, &mut [[0; 64]; 4], &mut Counters::default()).unwrap_err();
    }

    #[test]
    fn atomics_add_up_over_threads_and_want_alignment() {
        let mut memory = Memory::default();
        let base = memory.allocate(16, Kind::Device).unwrap();
        memory.write(base, &[0; 16]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let addr = [base + 8; 64];
                    let at = Access { addr: &addr, active: u64::MAX, bytes: 4 };
                    for _ in 0..100 {
                        let mut old = [0; 64];
                        memory.atomic(&at, &mut old, &mut |_, v| v + 1, &mut Counters::default()).unwrap();
                    }
                });
            }
        });
        let mut sum = [0; 4];
        memory.read(base + 8, &mut sum).unwrap();
        assert_eq!(u32::from_le_bytes(sum), 4 * 64 * 100);
        let addr = [base + 2; 64];
        let at = Access { addr: &addr, active: 1, bytes: 4 };
        let fault = memory.atomic(&at, &mut [0; 64], &mut |_, v| v, &mut Counters::default()).unwrap_err();
        assert_eq!(fault, LaneFault { lane: Some(0), fault: Fault::Misaligned { addr: base + 2, bytes: 4 } });
    }

    #[test]
    fn bytes_and_halves_at_any_place() {
        let mut memory = Memory::default();
        let base = memory.allocate(8, Kind::Device).unwrap();
        memory.write(base, &[1, 2, 3, 4, 5, 6, 7, 0x88]).unwrap();
        let mut out = [[0; 64]; 4];
        for (at, bytes, want) in [(7, 1, 0x88), (5, 2, 0x0706), (1, 4, 0x0504_0302)] {
            let addr = [base + at; 64];
            let at = Access { addr: &addr, active: 1, bytes };
            memory.load(&at, &mut out, &mut Counters::default()).unwrap();
            assert_eq!(out[0][0], want);
        }
        let addr = [base + 3; 64];
        let at = Access { addr: &addr, active: 1, bytes: 2 };
        memory.store(&at, &[[0xffff_abcd; 64]; 4], &mut Counters::default()).unwrap();
        let mut all = [0; 8];
        memory.read(base, &mut all).unwrap();
        assert_eq!(all, [1, 2, 3, 0xcd, 0xab, 6, 7, 0x88]);
    }
}
