//! Recurrent state of sequences: a pool of slots with reference counts.
//!
//! Only the bookkeeping is here; what is in a slot is the device's. A sequence that holds positions has a slot with the
//! state behind the last of them. A step reads that slot and writes another, so that a growth can be taken back. State
//! goes nowhere but forward, so slots are also kept at checkpoints on the way, for sequences to go back to or to be copied
//! up to: where the length is a multiple of the interval, the latest few of them.

use crate::device::StateSlots;
use crate::{Error, Result, memory};

/// For messages.
const BOOKS: &str = "the books of recurrent state";

/// Checkpoints that a sequence keeps at most.
const MOST_KEPT: usize = 3;

/// Slots of a sequence beside its checkpoints: before a growth, and what a step of it reads and writes.
const IN_USE: usize = 3;

/// Slots that `n_sequences` take at most, of up to `positions` positions each.
pub fn n_slots(n_sequences: usize, positions: usize, interval: usize) -> usize {
    n_sequences.saturating_mul(IN_USE + most_kept(positions, interval))
}

fn most_kept(positions: usize, interval: usize) -> usize {
    MOST_KEPT.min(positions / interval)
}

#[derive(Debug)]
pub struct States {
    interval: usize,
    most_kept: usize,
    /// Sequences, checkpoints and growths that hold each slot.
    references: Vec<u32>,
    /// Slots without reference; the last is taken next.
    free: Vec<u32>,
    sequences: Vec<Sequence>,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    /// Behind the last position; None: there is none.
    now: Option<u32>,
    /// Length and slot, the shortest first.
    kept: Vec<(usize, u32)>,
    /// What the growth in progress began with.
    before: Option<Before>,
}

#[derive(Clone, Copy, Debug)]
struct Before {
    len: usize,
    slot: Option<u32>,
    /// What the last step of the growth reads.
    read: Option<u32>,
}

impl States {
    /// Of sequences of up to `positions` positions each.
    pub fn new(n_sequences: usize, positions: usize, interval: usize) -> Result<Self> {
        let n_slots = n_slots(n_sequences, positions, interval);
        let most_kept = most_kept(positions, interval);
        let mut sequences = memory::vec(n_sequences, BOOKS)?;
        for _ in 0..n_sequences {
            let kept = memory::vec(most_kept + 1, BOOKS)?;
            sequences.push(Sequence { kept, ..Sequence::default() });
        }
        Ok(States {
            interval,
            most_kept,
            references: memory::filled(0, n_slots, BOOKS)?,
            free: memory::collect((0..n_slots as u32).rev(), BOOKS)?,
            sequences,
        })
    }

    /// Whether a step should end where a sequence has so many positions, for a checkpoint.
    pub fn ends_at(&self, len: usize) -> bool {
        self.most_kept > 0 && len.is_multiple_of(self.interval)
    }

    /// The slots of a step that brings the sequence from `from` to `to` positions; part of a growth until
    /// [`commit`](Self::commit) or [`roll_back`](Self::roll_back).
    pub fn advance(&mut self, sequence: usize, from: usize, to: usize) -> Result<StateSlots> {
        let States { references, free, .. } = self;
        let now = self.sequences[sequence].now;
        let hold = |references: &mut Vec<u32>| now.iter().for_each(|slot| references[*slot as usize] += 1);
        let before = match self.sequences[sequence].before {
            Some(before) => {
                before.read.iter().for_each(|slot| release(references, free, *slot));
                Before { read: now, ..before }
            }
            None => {
                hold(references);
                Before { len: from, slot: now, read: now }
            }
        };
        self.sequences[sequence].before = Some(before);
        self.sequences[sequence].now = None;
        let write =
            self.free.pop().ok_or_else(|| Error::Internal("recurrent state without a slot".into()))?;
        self.references[write as usize] = 1;
        self.sequences[sequence].now = Some(write);
        if self.ends_at(to) {
            self.keep(sequence, to, write);
        }
        Ok(StateSlots { read: now, write })
    }

    fn keep(&mut self, sequence: usize, len: usize, slot: u32) {
        let States { references, free, .. } = self;
        let kept = &mut self.sequences[sequence].kept;
        references[slot as usize] += 1;
        kept.push((len, slot));
        if kept.len() > self.most_kept {
            let (_, oldest) = kept.remove(0);
            release(references, free, oldest);
        }
    }

    /// Keeps all growths.
    pub fn commit(&mut self) {
        let States { references, free, sequences, .. } = self;
        for sequence in sequences {
            if let Some(before) = sequence.before.take() {
                let held = [before.slot, before.read];
                held.into_iter().flatten().for_each(|slot| release(references, free, slot));
            }
        }
    }

    /// Takes all growths back. The checkpoints that they took the place of are gone.
    pub fn roll_back(&mut self) {
        for at in 0..self.sequences.len() {
            let Some(before) = self.sequences[at].before.take() else { continue };
            self.forget_beyond(at, before.len);
            let States { references, free, sequences, .. } = self;
            let now = std::mem::replace(&mut sequences[at].now, before.slot);
            [now, before.read].into_iter().flatten().for_each(|slot| release(references, free, slot));
        }
    }

    /// What a sequence of `len` positions can go back to or be copied up to, the shortest first.
    pub fn possible(&self, sequence: usize, len: usize) -> impl Iterator<Item = usize> {
        let kept = self.sequences[sequence].kept.iter().map(|(kept, _)| *kept);
        std::iter::once(0).chain(kept.filter(move |kept| *kept < len)).chain((len > 0).then_some(len))
    }

    /// The slot behind the first `wanted` of the `len` positions.
    fn slot(&self, sequence: usize, len: usize, wanted: usize) -> Result<Option<u32>> {
        let Sequence { now, kept, .. } = &self.sequences[sequence];
        match kept.iter().find(|(kept, _)| *kept == wanted) {
            _ if wanted == 0 => Ok(None),
            _ if wanted == len => Ok(*now),
            Some((_, slot)) => Ok(Some(*slot)),
            None => Err(Error::Internal(format!("recurrent state behind position {wanted}"))),
        }
    }

    /// Forgets the sequence.
    pub fn clear(&mut self, sequence: usize) {
        self.set(sequence, None);
        self.forget_beyond(sequence, 0);
    }

    /// Goes back from `len` positions to the first `to`, which is [possible](Self::possible).
    pub fn truncate(&mut self, sequence: usize, len: usize, to: usize) -> Result<()> {
        let slot = self.slot(sequence, len, to)?;
        self.set(sequence, slot);
        self.forget_beyond(sequence, to);
        Ok(())
    }

    /// Makes `to` a copy of the first `wanted` of the `len` positions of `from`, which is [possible](Self::possible).
    pub fn share(&mut self, from: usize, len: usize, to: usize, wanted: usize) -> Result<()> {
        let slot = self.slot(from, len, wanted)?;
        self.clear(to);
        self.set(to, slot);
        for at in 0..self.sequences[from].kept.len() {
            let (kept, slot) = self.sequences[from].kept[at];
            if kept <= wanted {
                self.keep(to, kept, slot);
            }
        }
        Ok(())
    }

    fn set(&mut self, sequence: usize, slot: Option<u32>) {
        let States { references, free, sequences, .. } = self;
        slot.iter().for_each(|slot| references[*slot as usize] += 1);
        let before = std::mem::replace(&mut sequences[sequence].now, slot);
        before.iter().for_each(|slot| release(references, free, *slot));
    }

    /// Forgets the checkpoints of more than `len` positions.
    fn forget_beyond(&mut self, sequence: usize, len: usize) {
        let States { references, free, sequences, .. } = self;
        let kept = &mut sequences[sequence].kept;
        while let Some((_, slot)) = kept.pop_if(|(kept, _)| *kept > len) {
            release(references, free, slot);
        }
    }
}

fn release(references: &mut [u32], free: &mut Vec<u32>, slot: u32) {
    let count = &mut references[slot as usize];
    *count -= 1;
    if *count == 0 {
        free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const N: usize = 3;
    const INTERVAL: usize = 10;

    /// The books beside what each slot would hold: the positions whose tokens its state has seen.
    struct Model {
        states: States,
        slots: Vec<Vec<u32>>,
        sequences: Vec<Vec<u32>>,
    }

    impl Model {
        fn new() -> Self {
            let states = States::new(N, 1000, INTERVAL).unwrap();
            let slots = vec![Vec::new(); states.references.len()];
            Model { states, slots, sequences: vec![Vec::new(); N] }
        }

        /// One step: the tokens of each of some sequences up to where a step ends.
        fn step(&mut self, wanted: &mut [(usize, Vec<u32>)]) {
            let mut writes = Vec::new();
            for (s, tokens) in wanted {
                let from = self.sequences[*s].len();
                let n = (1..tokens.len()).find(|n| self.states.ends_at(from + n)).unwrap_or(tokens.len());
                if n == 0 {
                    continue;
                }
                let slots = self.states.advance(*s, from, from + n).unwrap();
                let mut state = slots.read.map_or(Vec::new(), |slot| self.slots[slot as usize].clone());
                assert_eq!(state, self.sequences[*s], "the state that is read is of other positions");
                state.extend(tokens.drain(..n));
                self.sequences[*s].clone_from(&state);
                writes.push((slots, state));
            }
            // all are read before any is written: none may be both
            for (i, (slots, state)) in writes.iter().enumerate() {
                let others = writes.iter().enumerate().filter(|(j, _)| *j != i);
                assert!(slots.read != Some(slots.write));
                assert!(others.clone().all(|(_, (other, _))| other.write != slots.write));
                assert!(others.clone().all(|(_, (other, _))| other.read != Some(slots.write)));
                self.slots[slots.write as usize].clone_from(state);
            }
        }

        fn grow(&mut self, mut wanted: Vec<(usize, Vec<u32>)>) {
            while wanted.iter().any(|(_, tokens)| !tokens.is_empty()) {
                self.step(&mut wanted);
            }
        }

        /// Every reference is counted, and every sequence has the state of its positions.
        fn check(&self) {
            let mut references = vec![0; self.slots.len()];
            for (sequence, tokens) in self.states.sequences.iter().zip(&self.sequences) {
                assert!(sequence.before.is_none() && sequence.kept.len() <= MOST_KEPT);
                assert!(sequence.kept.is_sorted_by_key(|(len, _)| *len));
                let now = sequence.now.map(|slot| (tokens.len(), slot));
                assert_eq!(now.is_some(), !tokens.is_empty());
                for (len, slot) in sequence.kept.iter().copied().chain(now) {
                    references[slot as usize] += 1;
                    assert_eq!(self.slots[slot as usize], tokens[..len]);
                }
            }
            assert_eq!(references, self.states.references);
            let mut free = self.states.free.clone();
            free.sort_unstable();
            let unused: Vec<u32> =
                (0..references.len() as u32).filter(|slot| references[*slot as usize] == 0).collect();
            assert_eq!(free, unused);
        }
    }

    #[test]
    fn the_last_checkpoints_are_kept() {
        let mut model = Model::new();
        model.grow(vec![(0, (0..57).collect())]);
        model.states.commit();
        assert!(model.states.possible(0, 57).eq([0, 30, 40, 50, 57]));
        assert!(model.states.truncate(0, 57, 35).is_err() && model.states.share(0, 57, 1, 35).is_err());
        model.check();
    }

    proptest! {
        #[test]
        fn any_history_keeps_the_books(
            ops in prop::collection::vec((0..6u8, 0..N, 0..N, 0..70usize, 0..30usize), 1..60)
        ) {
            let mut model = Model::new();
            let mut next = 0;
            for (op, a, b, n, m) in ops {
                let before = model.sequences.clone();
                let len = before[a].len();
                match op {
                    0..=2 => {
                        let mut tokens = |n: usize| {
                            next += n as u32;
                            (next - n as u32..next).collect::<Vec<_>>()
                        };
                        let mut wanted = vec![(a, tokens(n))];
                        if a != b {
                            wanted.push((b, tokens(m)));
                        }
                        if op == 2 {
                            model.step(&mut wanted);
                        } else {
                            model.grow(wanted);
                        }
                        if op == 0 {
                            model.states.commit();
                        } else {
                            model.states.roll_back();
                            model.sequences = before;
                        }
                    }
                    3 => {
                        let to = model.states.possible(a, len).filter(|to| *to <= n).max().unwrap();
                        prop_assert!(to <= n.min(len) && (to == 0 || to == len || to.is_multiple_of(INTERVAL)));
                        model.states.truncate(a, len, to).unwrap();
                        model.sequences[a].truncate(to);
                    }
                    4 => {
                        let to = n.min(len);
                        let goes = model.states.truncate(a, len, to).is_ok();
                        prop_assert_eq!(goes, model.states.possible(a, len).any(|possible| possible == to));
                        if goes {
                            model.sequences[a].truncate(to);
                        }
                    }
                    _ if a != b => {
                        let to = model.states.possible(a, len).filter(|to| *to <= n).max().unwrap();
                        model.states.share(a, len, b, to).unwrap();
                        model.sequences[b] = before[a][..to].to_vec();
                    }
                    _ => {}
                }
                model.check();
            }
        }
    }
}
