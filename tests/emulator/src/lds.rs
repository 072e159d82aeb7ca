//! A group's shared memory. Every byte knows whether it was written, and by which wave it was touched since
//! the last barrier.

use crate::counters::Counters;
use crate::memory::{Access, Lanes, Words, aligned};
use crate::stop::{Fault, LaneFault};

const BANKS: usize = 32;

/// Four bytes of LDS, and for each of them (little-endian, as in `value`) who touched it in `epoch`.
#[derive(Clone, Copy, Default)]
struct Word {
    value: u32,
    /// The epoch that `writer`, `reader` and `other` are of.
    epoch: u32,
    /// 0: nobody; wave + 1: that wave; [`ATOMIC`] + wave + 1: that wave by atomics only; [`ATOMICS`].
    writer: [u8; 4],
    /// The first wave that read, + 1, and the first after it that is another one, + 1.
    reader: [u8; 4],
    other: [u8; 4],
    /// The store instruction that wrote `stored` last.
    store: u32,
    /// Bytes that `store` wrote, one bit each.
    stored: u8,
    /// Bytes that anything ever wrote, one bit each.
    written: u8,
}

/// Marks a writer that wrote by atomics only: atomics of several waves do not race with each other.
const ATOMIC: u8 = 128;
/// Atomics of several waves.
const ATOMICS: u8 = 255;

/// Bytes `0..size` of one group. Addresses in [`Access`] are LDS byte offsets.
pub struct Lds {
    bytes: u32,
    words: Vec<Word>,
    /// Counts barriers.
    epoch: u32,
    /// Counts store instructions.
    store: u32,
}

/// A fault of a byte address; its lane is added where it is known.
type Race = (u32, bool);

impl Word {
    fn enter(&mut self, epoch: u32) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.writer = [0; 4];
            self.reader = [0; 4];
            self.other = [0; 4];
        }
    }

    /// Notes a read of `byte` by wave `me` - 1. Err: the other wave and whether it writes.
    fn read(&mut self, byte: usize, me: u8) -> Result<(), Race> {
        match self.writer[byte] {
            0 => {}
            writer if writer == me || writer == ATOMIC + me => {}
            writer => return Err((wave_of(writer), true)),
        }
        if self.reader[byte] == 0 {
            self.reader[byte] = me;
        } else if self.reader[byte] != me && self.other[byte] == 0 {
            self.other[byte] = me;
        }
        Ok(())
    }

    fn write(&mut self, byte: usize, me: u8) -> Result<(), Race> {
        match self.writer[byte] {
            0 => {}
            writer if writer == me || writer == ATOMIC + me => {}
            writer => return Err((wave_of(writer), true)),
        }
        self.read_by_others(byte, me)?;
        self.writer[byte] = me;
        Ok(())
    }

    fn atomic(&mut self, byte: usize, me: u8) -> Result<(), Race> {
        self.writer[byte] = match self.writer[byte] {
            0 => ATOMIC + me,
            writer if writer == me || writer == ATOMIC + me => writer,
            writer if writer > ATOMIC => ATOMICS,
            writer => return Err((wave_of(writer), true)),
        };
        self.read_by_others(byte, me)
    }

    /// `read` of all four bytes at once where that is simple; false: nothing was done.
    fn read_whole(&mut self, me: u8) -> bool {
        let mine = [me; 4];
        let first = self.reader[0];
        let simple = (self.writer == [0; 4] || self.writer == mine)
            && self.reader == [first; 4]
            && self.other == [self.other[0]; 4]
            && self.written == 0xf;
        if simple {
            match first {
                0 => self.reader = mine,
                first if first != me && self.other[0] == 0 => self.other = mine,
                _ => {}
            }
        }
        simple
    }

    /// `write` of all four bytes at once where that is simple; false: nothing was done.
    fn write_whole(&mut self, me: u8) -> bool {
        let mine = [me; 4];
        let simple = (self.writer == [0; 4] || self.writer == mine)
            && (self.reader == [0; 4] || self.reader == mine)
            && self.other == [0; 4];
        if simple {
            self.writer = mine;
        }
        simple
    }

    fn read_by_others(&self, byte: usize, me: u8) -> Result<(), Race> {
        match [self.reader[byte], self.other[byte]].into_iter().find(|&reader| reader != 0 && reader != me) {
            Some(reader) => Err((wave_of(reader), false)),
            None => Ok(()),
        }
    }
}

/// Of several atomic waves none is known: 0 stands for them.
fn wave_of(mark: u8) -> u32 {
    match mark {
        ATOMICS => 0,
        mark => u32::from(mark & (ATOMIC - 1)) - 1,
    }
}

impl Lds {
    /// Nothing of it written.
    pub fn new(bytes: u32) -> Self {
        Lds { bytes, words: vec![Word::default(); bytes.div_ceil(4) as usize], epoch: 1, store: 0 }
    }

    /// As new, for the next group.
    pub fn reset(&mut self) {
        self.words.fill(Word::default());
        (self.epoch, self.store) = (1, 0);
    }

    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    pub fn load(
        &mut self,
        wave: u32,
        at: &Access<'_>,
        out: &mut Words,
        counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        let me = wave as u8 + 1;
        for lane in at.lanes() {
            let addr = self.check(lane, at, at.bytes.min(4))?;
            if at.bytes >= 4 {
                for (i, out) in out.iter_mut().enumerate().take(at.bytes as usize / 4) {
                    out[lane] = self.load_word(lane, addr + i as u32 * 4, me)?;
                }
                continue;
            }
            let mut data = [0; 4];
            for (i, data) in data.iter_mut().enumerate().take(at.bytes as usize) {
                *data = self.load_byte(lane, addr + i as u32, me)?;
            }
            out[0][lane] = u32::from_le_bytes(data);
        }
        counters.bank_conflicts += conflicts(at, true);
        Ok(())
    }

    pub fn store(
        &mut self,
        wave: u32,
        at: &Access<'_>,
        data: &Words,
        counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        self.store += 1;
        for lane in at.lanes() {
            let addr = self.check(lane, at, at.bytes.min(4))?;
            if at.bytes >= 4 {
                for (i, data) in data.iter().enumerate().take(at.bytes as usize / 4) {
                    self.store_word(lane, addr + i as u32 * 4, wave, data[lane])?;
                }
                continue;
            }
            for (i, &value) in data[0][lane].to_le_bytes().iter().enumerate().take(at.bytes as usize) {
                self.store_byte(lane, addr + i as u32, wave, value)?;
            }
        }
        counters.bank_conflicts += conflicts(at, false);
        Ok(())
    }

    /// For each lane in turn: old value (4 or 8 bytes) to `update`, its result to LDS; the old values to `old`.
    pub fn atomic(
        &mut self,
        wave: u32,
        at: &Access<'_>,
        old: &mut [u64; 64],
        update: &mut dyn FnMut(usize, u64) -> u64,
        counters: &mut Counters,
    ) -> Result<(), LaneFault> {
        let me = wave as u8 + 1;
        for lane in at.lanes() {
            let addr = self.check(lane, at, at.bytes)?;
            let mut value = 0;
            for i in (0..at.bytes).rev() {
                let (word, byte) = self.touch(addr + i);
                if word.written & 1 << byte == 0 {
                    return Err(of(lane, Fault::UnwrittenLds { addr: addr + i }));
                }
                word.atomic(byte, me).map_err(|race| raced(lane, addr + i, race))?;
                value = value << 8 | u64::from(word.value.to_le_bytes()[byte]);
            }
            old[lane] = value;
            let new = update(lane, value);
            for (i, new) in (0..at.bytes / 4).zip([new as u32, (new >> 32) as u32]) {
                self.touch(addr + i * 4).0.value = new;
            }
        }
        counters.bank_conflicts += atomic_conflicts(at);
        Ok(())
    }

    /// All waves have met: accesses before and after no longer race.
    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    fn load_word(&mut self, lane: usize, addr: u32, me: u8) -> Result<u32, LaneFault> {
        let (word, _) = self.touch(addr);
        if word.read_whole(me) {
            return Ok(word.value);
        }
        let mut bytes = [0; 4];
        for (byte, addr) in bytes.iter_mut().zip(addr..) {
            *byte = self.load_byte(lane, addr, me)?;
        }
        Ok(u32::from_le_bytes(bytes))
    }

    fn load_byte(&mut self, lane: usize, addr: u32, me: u8) -> Result<u8, LaneFault> {
        let (word, byte) = self.touch(addr);
        if word.written & 1 << byte == 0 {
            return Err(of(lane, Fault::UnwrittenLds { addr }));
        }
        word.read(byte, me).map_err(|race| raced(lane, addr, race))?;
        Ok(word.value.to_le_bytes()[byte])
    }

    fn store_word(&mut self, lane: usize, addr: u32, wave: u32, value: u32) -> Result<(), LaneFault> {
        let store = self.store;
        let (word, _) = self.touch(addr);
        if word.store != store && word.write_whole(wave as u8 + 1) {
            word.value = value;
            word.store = store;
            word.stored = 0xf;
            word.written = 0xf;
            return Ok(());
        }
        for (value, addr) in value.to_le_bytes().into_iter().zip(addr..) {
            self.store_byte(lane, addr, wave, value)?;
        }
        Ok(())
    }

    fn store_byte(&mut self, lane: usize, addr: u32, wave: u32, value: u8) -> Result<(), LaneFault> {
        let store = self.store;
        let (word, byte) = self.touch(addr);
        word.write(byte, wave as u8 + 1).map_err(|race| raced(lane, addr, race))?;
        let mut bytes = word.value.to_le_bytes();
        if word.store != store {
            word.store = store;
            word.stored = 0;
        } else if word.stored & 1 << byte != 0 && bytes[byte] != value {
            // Two lanes of this instruction store different values: which one stays is not defined.
            return Err(raced(lane, addr, (wave, true)));
        }
        bytes[byte] = value;
        word.value = u32::from_le_bytes(bytes);
        word.stored |= 1 << byte;
        word.written |= 1 << byte;
        Ok(())
    }

    /// The address of a lane, if it is aligned and inside.
    fn check(&self, lane: usize, at: &Access<'_>, alignment: u32) -> Result<u32, LaneFault> {
        let addr = at.addr[lane];
        let end = addr.checked_add(at.bytes.into());
        if end.is_none_or(|end| end > self.bytes.into()) {
            let near = format!("the group has {} bytes of LDS", self.bytes);
            return Err(of(lane, Fault::OutOfBounds { addr, bytes: at.bytes, near }));
        }
        aligned(lane, addr, at.bytes, alignment)?;
        Ok(addr as u32)
    }

    /// The word that holds `addr`, made ready for this epoch, and which of its bytes that is.
    fn touch(&mut self, addr: u32) -> (&mut Word, usize) {
        let word = &mut self.words[addr as usize / 4];
        word.enter(self.epoch);
        (word, addr as usize % 4)
    }
}

fn of(lane: usize, fault: Fault) -> LaneFault {
    LaneFault { lane: Some(lane as u32), fault }
}

fn raced(lane: usize, addr: u32, (other_wave, other_writes): Race) -> LaneFault {
    of(lane, Fault::LdsRace { addr, other_wave, other_writes })
}

/// Lanes that are served at once, as masks of 32: as many as the banks' 128 bytes a cycle can serve. 16-byte
/// loads pair quarters of the wave (AMD's Composable Kernel documentation, "LDS bank conflicts").
fn phases(bytes: u32, load: bool) -> &'static [u32] {
    match (bytes, load) {
        (0..=4, _) => &[u32::MAX],
        (8, _) => &[0xffff, 0xffff_0000],
        (_, true) => &[0x00f0_000f, 0x000f_00f0, 0xf000_0f00, 0x0f00_f000],
        (_, false) => &[0xff, 0xff00, 0xff_0000, 0xff00_0000],
    }
}

/// Cycles more than without conflicts: in each phase a bank serves one word a cycle, to any number of lanes.
fn conflicts(at: &Access<'_>, load: bool) -> u64 {
    let mut sum = 0;
    for half in [0, 32] {
        for &phase in phases(at.bytes, load) {
            let lanes = Lanes(at.active & u64::from(phase) << half);
            // At most 32: `check` aligns.
            let mut words = [0u32; 64];
            let mut n = 0;
            let mut ascending = true;
            for lane in lanes {
                let first = at.addr[lane] as u32 / 4;
                let last = (at.addr[lane] as u32 + at.bytes - 1) / 4;
                for word in first..=last {
                    ascending &= n == 0 || words[n - 1] < word;
                    words[n] = word;
                    n += 1;
                }
            }
            let words = &mut words[..n];
            if ascending && n > 0 && (words[n - 1] - words[0]) as usize == n - 1 && n <= BANKS {
                continue;
            }
            let mut of_bank = [u32::MAX; BANKS];
            let one_each = words.iter().all(|&word| {
                let first = &mut of_bank[word as usize % BANKS];
                *first = if *first == u32::MAX { word } else { *first };
                *first == word
            });
            if one_each {
                continue;
            }
            words.sort_unstable();
            let mut in_bank = [0u64; BANKS];
            for (i, &word) in words.iter().enumerate() {
                in_bank[word as usize % BANKS] += u64::from(i == 0 || words[i - 1] != word);
            }
            sum += in_bank.into_iter().max().unwrap_or(0).saturating_sub(1);
        }
    }
    sum
}

/// An atomic occupies its bank for each lane, also where lanes share a word.
fn atomic_conflicts(at: &Access<'_>) -> u64 {
    let mut sum = 0;
    for half in [0, 32] {
        for &phase in phases(at.bytes, false) {
            let mut in_bank = [0u64; BANKS];
            for lane in Lanes(at.active & u64::from(phase) << half) {
                in_bank[at.addr[lane] as usize / 4 % BANKS] += 1;
            }
            sum += in_bank.into_iter().max().unwrap_or(0).saturating_sub(1);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each lane's address.
    fn each(address: impl Fn(u64) -> u64) -> [u64; 64] {
        std::array::from_fn(|lane| address(lane as u64))
    }

    struct Bench {
        lds: Lds,
        counters: Counters,
    }

    impl Bench {
        fn new(bytes: u32) -> Self {
            Bench { lds: Lds::new(bytes), counters: Counters::default() }
        }

        fn store(&mut self, wave: u32, addr: &[u64; 64], active: u64, bytes: u32) -> Result<(), Fault> {
            let data: Words = std::array::from_fn(|w| std::array::from_fn(|lane| (w * 64 + lane) as u32));
            let at = Access { addr, active, bytes };
            self.lds.store(wave, &at, &data, &mut self.counters).map_err(|f| f.fault)
        }

        fn load(&mut self, wave: u32, addr: &[u64; 64], active: u64, bytes: u32) -> Result<Words, Fault> {
            let mut out = [[0; 64]; 4];
            let at = Access { addr, active, bytes };
            self.lds.load(wave, &at, &mut out, &mut self.counters).map_err(|f| f.fault)?;
            Ok(out)
        }

        fn add(&mut self, wave: u32, addr: &[u64; 64], active: u64) -> Result<[u64; 64], Fault> {
            let mut old = [0; 64];
            let at = Access { addr, active, bytes: 4 };
            let counters = &mut self.counters;
            self.lds.atomic(wave, &at, &mut old, &mut |_, v| v + 1, counters).map_err(|f| f.fault)?;
            Ok(old)
        }
    }

    #[test]
    fn what_one_wave_wrote_another_reads_after_a_barrier() {
        let mut b = Bench::new(1024);
        let addr = each(|lane| lane * 16);
        b.store(0, &addr, u64::MAX, 16).unwrap();
        b.lds.barrier();
        let out = b.load(1, &addr, u64::MAX, 16).unwrap();
        assert_eq!(out[3][63], 3 * 64 + 63);
    }

    #[test]
    fn the_first_unwritten_byte_is_named() {
        let mut b = Bench::new(64);
        b.store(0, &each(|_| 8), 1, 2).unwrap();
        assert_eq!(b.load(0, &each(|_| 8), 1, 4).unwrap_err(), Fault::UnwrittenLds { addr: 10 });
        b.load(0, &each(|_| 8), 1, 2).unwrap();
        assert_eq!(b.add(0, &each(|_| 12), 1).unwrap_err(), Fault::UnwrittenLds { addr: 15 });
    }

    #[test]
    fn another_waves_word_between_barriers_is_a_race() {
        let race = |other_wave, other_writes| Fault::LdsRace { addr: 4, other_wave, other_writes };
        let four = each(|_| 4);
        let fresh = || {
            let mut b = Bench::new(64);
            b.store(7, &four, 1, 4).unwrap();
            b.lds.barrier();
            b
        };
        let mut b = fresh();
        b.store(2, &four, 1, 4).unwrap();
        assert_eq!(b.load(3, &four, 1, 4).unwrap_err(), race(2, true), "read after write");
        let mut b = fresh();
        b.load(2, &four, 1, 4).unwrap();
        assert_eq!(b.store(3, &four, 1, 4).unwrap_err(), race(2, false), "write after read");
        let mut b = fresh();
        b.load(3, &four, 1, 4).unwrap();
        b.load(2, &four, 1, 4).unwrap();
        assert_eq!(b.store(3, &four, 1, 4).unwrap_err(), race(2, false), "write after own and other read");
        let mut b = fresh();
        b.store(2, &four, 1, 4).unwrap();
        assert_eq!(b.store(3, &four, 1, 4).unwrap_err(), race(2, true), "write after write");
        let mut b = fresh();
        b.load(2, &four, 1, 4).unwrap();
        b.load(3, &four, 1, 4).unwrap();
        b.lds.barrier();
        b.store(2, &four, 1, 4).unwrap();
        b.load(2, &four, 1, 4).unwrap();
    }

    #[test]
    fn waves_may_write_bytes_of_one_word() {
        let mut b = Bench::new(64);
        b.store(0, &each(|_| 0), 1, 2).unwrap();
        b.store(1, &each(|_| 2), 1, 1).unwrap();
        b.load(1, &each(|_| 2), 1, 1).unwrap();
    }

    #[test]
    fn lanes_of_one_store_must_agree() {
        let mut b = Bench::new(64);
        let fault = b.store(5, &each(|_| 0), 0b11, 4).unwrap_err();
        assert_eq!(fault, Fault::LdsRace { addr: 0, other_wave: 5, other_writes: true });
        let same: Words = [[9; 64]; 4];
        let addr = each(|_| 32);
        let at = Access { addr: &addr, active: u64::MAX, bytes: 4 };
        b.lds.store(0, &at, &same, &mut b.counters).unwrap();
        let other: Words = [[10; 64]; 4];
        b.lds.store(0, &at, &other, &mut b.counters).unwrap();
    }

    #[test]
    fn atomics_race_with_plain_accesses_only() {
        let zero = each(|_| 0);
        let mut b = Bench::new(64);
        b.store(0, &zero, 1, 4).unwrap();
        b.lds.barrier();
        assert_eq!(b.add(0, &zero, 0b111).unwrap()[..3], [0, 1, 2]);
        b.load(0, &zero, 1, 4).unwrap();
        b.lds.barrier();
        b.add(1, &zero, 1).unwrap();
        b.add(2, &zero, 1).unwrap();
        b.load(2, &zero, 1, 4).unwrap_err();
        b.lds.barrier();
        b.store(1, &zero, 1, 4).unwrap();
        b.add(2, &zero, 1).unwrap_err();
        b.lds.barrier();
        b.load(1, &zero, 1, 4).unwrap();
        b.add(2, &zero, 1).unwrap_err();
    }

    #[test]
    fn outside_and_misaligned() {
        let mut b = Bench::new(62);
        b.store(0, &each(|_| 60), 1, 2).unwrap();
        assert!(matches!(
            b.store(0, &each(|_| 60), 1, 4),
            Err(Fault::OutOfBounds { addr: 60, bytes: 4, .. })
        ));
        assert!(matches!(b.load(0, &each(|_| u64::MAX), 1, 4), Err(Fault::OutOfBounds { .. })));
        assert_eq!(b.store(0, &each(|_| 2), 1, 4), Err(Fault::Misaligned { addr: 2, bytes: 4 }));
        b.store(0, &each(|_| 4), 1, 16).unwrap();
    }

    #[test]
    fn conflicts_are_counted_by_phase() {
        let cost = |bytes, load, active, address: &dyn Fn(u64) -> u64| {
            conflicts(&Access { addr: &each(address), active, bytes }, load)
        };
        let (w32, w64) = (u32::MAX.into(), u64::MAX);
        assert_eq!(cost(4, true, w64, &|l| l * 4), 0, "a row");
        assert_eq!(cost(4, true, w64, &|_| 40), 0, "one word to all");
        assert_eq!(cost(4, true, w32, &|l| l * 128), 31, "a column");
        assert_eq!(cost(4, true, w64, &|l| l * 128), 62, "a column, both halves");
        assert_eq!(cost(4, true, w32, &|l| l * 132), 0, "a padded column");
        assert_eq!(cost(4, true, w32, &|l| l * 8), 1, "every other word");
        assert_eq!(cost(1, true, w32, &|l| l), 0, "bytes of a word");
        assert_eq!(cost(8, true, w32, &|l| l * 8), 0, "two phases of 16 lanes");
        assert_eq!(cost(8, true, w32, &|l| l * 16), 2, "every other pair: one more cycle in each phase");
        assert_eq!(cost(16, false, w32, &|l| l * 16), 0, "four phases of 8 lanes");
        assert_eq!(cost(16, true, w32, &|l| l * 16), 0, "lanes 0..4 and 20..24 meet in no bank");
        assert_eq!(cost(16, false, w32, &|l| l * 128), 4 * 7);
        assert_eq!(cost(4, true, 0, &|l| l * 128), 0, "no lane");
        let addr = each(|_| 0);
        assert_eq!(atomic_conflicts(&Access { addr: &addr, active: w32, bytes: 4 }), 31);
    }
}
