//! What a template may use: memory of live values, instructions, stack. Every value charges the meter before its
//! memory is asked for and gives the charge back when it is dropped.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::memory;

use super::fault::{Fault, Kind, Result, limit_error, overflow_error};
use super::stack::Stack;

/// Containers inside containers. Dropping, printing and comparing a value takes stack for each level.
pub(super) const MAX_NESTING: u32 = 150;
/// Bytes copied or searched that cost one instruction.
const BYTES_PER_STEP: usize = 64;

/// Bounds of one rendering.
#[derive(Clone, Copy, Debug)]
pub(in crate::text) struct Limits {
    /// Bytes of all live values and the output.
    pub memory: usize,
    /// Bytes of the output.
    pub output: usize,
    pub steps: u64,
}

/// Memory that any template may use, and how much more per byte of its input, which it holds, cuts and puts together.
const MEMORY: usize = 64 << 20;
const MEMORY_PER_BYTE: usize = 16;
/// Output that any template may write, and how much more per byte of its input (JSON escapes one byte in six).
const OUTPUT: usize = 4 << 20;
const OUTPUT_PER_BYTE: usize = 8;
/// Instructions that any template may run, and how many more per byte of its input, per message, and per pair of
/// messages: some templates look back over all earlier ones at each.
const STEPS: u64 = 2_000_000;
const STEPS_PER_BYTE: u64 = 16;
const STEPS_PER_MESSAGE: u64 = 20_000;
const STEPS_PER_PAIR: u64 = 60;
const MAX_STEPS: u64 = 200_000_000;

impl Limits {
    /// For a conversation of `messages` messages, which with the tools are `bytes` bytes of JSON.
    pub fn new(messages: usize, bytes: usize) -> Self {
        let (n, size) = (messages as u64, bytes as u64);
        Self {
            memory: MEMORY.saturating_add(bytes.saturating_mul(MEMORY_PER_BYTE)),
            output: OUTPUT.saturating_add(bytes.saturating_mul(OUTPUT_PER_BYTE)),
            steps: STEPS
                .saturating_add(size.saturating_mul(STEPS_PER_BYTE))
                .saturating_add(n.saturating_mul(STEPS_PER_MESSAGE))
                .saturating_add(n.saturating_mul(n).saturating_mul(STEPS_PER_PAIR))
                .min(MAX_STEPS),
        }
    }
}

/// Something that can hold itself through other values, and is emptied when the rendering ends.
pub(super) trait Cyclic {
    fn clear(&self);
}

pub(super) struct Meter {
    limits: Limits,
    used: Cell<usize>,
    steps: Cell<u64>,
    /// Bytes of work that make no whole instruction yet.
    rest: Cell<usize>,
    stack: Stack,
    cyclic: RefCell<Cycles>,
}

#[derive(Default)]
struct Cycles {
    list: Vec<Rc<dyn Cyclic>>,
    /// Length at which the unused are dropped.
    sweep_at: usize,
}

/// The meter as values share it.
pub(super) type Rt = Rc<Meter>;

impl Meter {
    pub fn new(limits: Limits) -> Rt {
        Rc::new(Self {
            limits,
            used: Cell::new(0),
            steps: Cell::new(0),
            rest: Cell::new(0),
            stack: Stack::new(),
            cyclic: RefCell::default(),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// # Errors
    /// The rendering has run all its instructions.
    pub fn step(&self, steps: u64) -> Result<()> {
        let total = self.steps.get().saturating_add(steps);
        if total > self.limits.steps {
            return Err(limit_error(format!("it ran more than {} instructions", self.limits.steps)));
        }
        self.steps.set(total);
        Ok(())
    }

    /// Counts work on `bytes` bytes of text.
    pub fn work(&self, bytes: usize) -> Result<()> {
        let bytes = self.rest.get().saturating_add(bytes);
        self.rest.set(bytes % BYTES_PER_STEP);
        self.step((bytes / BYTES_PER_STEP) as u64)
    }

    /// For each call that recurses as the template asks: one instruction, and the stack is looked at.
    pub fn deeper(&self) -> Result<()> {
        self.step(1)?;
        self.stack.check()
    }

    fn take(&self, bytes: usize) -> Result<()> {
        memory::check().map_err(Fault::from_memory)?;
        match self.used.get().checked_add(bytes) {
            Some(used) if used <= self.limits.memory => {
                self.used.set(used);
                Ok(())
            }
            _ => Err(limit_error(format!(
                "it asked for {bytes} bytes more: too large, its values may take {} bytes, of which {} are in use",
                self.limits.memory,
                self.used.get()
            ))),
        }
    }

    /// # Errors
    /// The budget is too small for `bytes` more.
    pub fn charge(self: &Rc<Self>, bytes: usize) -> Result<Charge> {
        let mut charge = Charge { meter: self.clone(), bytes: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Room for `len` values, charged by the list that they become.
    pub fn list<T>(self: &Rc<Self>, len: usize) -> Result<Vec<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| overflow_error("a list is too large"))?;
        drop(self.charge(bytes)?);
        let mut list = Vec::new();
        list.try_reserve_exact(len).map_err(|_| no_memory(bytes))?;
        Ok(list)
    }

    /// Keeps `value` to be emptied at the end, so that no cycle outlives the rendering and no chain of them is
    /// dropped by recursion.
    pub fn register(&self, value: Rc<dyn Cyclic>) {
        let mut unused = Vec::new();
        {
            let mut cyclic = self.cyclic.borrow_mut();
            if cyclic.list.len() >= cyclic.sweep_at {
                let (kept, free) = std::mem::take(&mut cyclic.list)
                    .into_iter()
                    .partition(|value| Rc::strong_count(value) > 1);
                cyclic.list = kept;
                unused = free;
                cyclic.sweep_at = 2 * cyclic.list.len() + 64;
            }
            cyclic.list.push(value);
        }
        drop(unused);
    }

    /// Ends the rendering.
    pub fn clear(&self) {
        let list = std::mem::take(&mut self.cyclic.borrow_mut().list);
        for value in &list {
            value.clear();
        }
    }
}

pub(super) fn no_memory(bytes: usize) -> Fault {
    Fault::new(Kind::Memory, format!("{bytes} bytes wanted"))
}

/// Bytes taken from the budget until this is dropped.
pub(super) struct Charge {
    meter: Rt,
    bytes: usize,
}

impl Charge {
    /// Counts work as [`Meter::work`] does.
    pub fn work(&self, bytes: usize) -> Result<()> {
        self.meter.work(bytes)
    }

    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        self.meter.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.used.set(self.meter.used.get() - self.bytes);
    }
}
