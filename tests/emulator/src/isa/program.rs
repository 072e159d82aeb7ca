//! A kernel's instructions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::counters::Class;
use crate::group::Group;
use crate::isa::disassembly::Disassembly;
use crate::isa::inst::INSTRUCTION_BYTES;
use crate::isa::{After, Arch, Inst};
use crate::stop::{Fault, LaneFault};
use crate::wave::{Pause, Wave};

/// Cheap to clone (shared).
#[derive(Clone)]
pub struct Program {
    pub insts: Arc<[Inst]>,
    /// Where offset 0 of the code object lies in memory.
    base: u64,
    /// Offset in the code object -> index of the instruction.
    index: Arc<HashMap<u64, usize>>,
}

impl Program {
    /// The instructions of function `name`. What the emulator does not know is no error before it is executed.
    /// `base` is the address that the code object's offset 0 is loaded at: what s_getpc counts from.
    ///
    /// # Errors
    ///
    /// No such function.
    pub fn new(disassembly: &Disassembly, name: &str, arch: &Arch, base: u64) -> Result<Self, String> {
        let lines = disassembly.function(name).ok_or_else(|| format!("no machine code for {name}"))?;
        let mut insts: Vec<_> = lines
            .iter()
            .map(|line| Inst::parse(line, arch).unwrap_or_else(|_| Inst::unknown(line)))
            .collect();
        let index: HashMap<_, _> = insts.iter().enumerate().map(|(n, inst)| (inst.offset, n)).collect();
        for inst in insts.iter_mut().filter(|inst| inst.class == Class::Branch && inst.after == After::Next) {
            let words = inst.target as i64;
            let to = inst.next.wrapping_add_signed(words * INSTRUCTION_BYTES);
            inst.target = index.get(&to).copied().unwrap_or(usize::MAX);
        }
        Ok(Program { insts: insts.into(), base, index: Arc::new(index) })
    }

    /// The same, loaded elsewhere.
    pub fn at(self, base: u64) -> Self {
        Program { base, ..self }
    }

    /// Executes a wave from `wave.pc` on, up to a barrier or its end.
    ///
    /// # Errors
    ///
    /// The index of the instruction that stopped it, and why.
    pub fn run(&self, wave: &mut Wave, group: &mut Group<'_>) -> Result<Pause, (usize, LaneFault)> {
        wave.code = self.base;
        loop {
            let pc = wave.pc;
            let Some(inst) = self.insts.get(pc) else {
                let last = self.insts.len().saturating_sub(1);
                return Err((last, Fault::Launch("execution leaves the kernel".into()).into()));
            };
            wave.pc = pc + 1;
            wave.executed += 1;
            group.counters.waves[inst.class as usize] += 1;
            if inst.class.is_by_lane() {
                group.counters.lanes += wave.exec().count_ones() as u64;
            }
            inst.execute(wave, group).map_err(|fault| (pc, fault))?;
            match inst.after {
                After::Next => {}
                After::Pause(pause) => return Ok(pause),
                After::Jump => {
                    wave.pc = *self
                        .index
                        .get(&wave.jump.wrapping_sub(self.base))
                        .ok_or_else(|| (pc, Fault::Launch(format!("jump to {:#x}", wave.jump)).into()))?;
                }
            }
            if wave.executed > wave.limit {
                return Err((pc, Fault::Endless { executed: wave.executed }.into()));
            }
        }
    }
}
