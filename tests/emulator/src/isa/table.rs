//! Mnemonic -> handler, for each generation of targets.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::counters::Class;
use crate::isa::{
    After, Generation, Handler, branch, compare, convert, float, lanes, lds_ops, matrix, memory_ops, packed,
    scalar, vector, vector16,
};

/// How the written operands fall into destinations and sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outs {
    /// So many destinations first.
    First(u8),
    /// One if the old value is asked for, else none (memory atomics).
    IfReturned,
    /// Operands are of no concern (waits, hints).
    Ignored,
}

#[derive(Clone, Copy)]
pub struct Entry {
    pub handler: Handler,
    pub class: Class,
    pub outs: Outs,
    pub after: After,
    /// VOP3P: op_sel has no entry for the destination.
    pub packed: bool,
    /// Its 16-bit result keeps the other half of the register on gfx9 too.
    pub keeps_high: bool,
}

/// All instructions of a generation.
pub struct Table {
    pub generation: Generation,
    entries: HashMap<String, Entry>,
}

impl Table {
    /// The table of a generation, made at its first use.
    pub fn of(generation: Generation) -> &'static Table {
        static TABLES: [OnceLock<Table>; Generation::ALL.len()] =
            [const { OnceLock::new() }; Generation::ALL.len()];
        TABLES[generation as usize].get_or_init(|| {
            let mut table = Table { generation, entries: HashMap::new() };
            branch::table(&mut table);
            scalar::table(&mut table);
            vector::table(&mut table);
            vector16::table(&mut table);
            float::table(&mut table);
            convert::table(&mut table);
            compare::table(&mut table);
            memory_ops::table(&mut table);
            lds_ops::table(&mut table);
            lanes::table(&mut table);
            packed::table(&mut table);
            matrix::table(&mut table);
            table
        })
    }

    /// Entry of a mnemonic without its suffix (_e32, _e64, _dpp, _sdwa).
    pub fn find(&self, mnemonic: &str) -> Option<&Entry> {
        self.entries.get(mnemonic)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    fn insert(&mut self, name: &str, entry: Entry) {
        assert!(self.entries.insert(name.to_owned(), entry).is_none(), "{name} stands in the table twice");
    }

    /// An instruction with `outs` destinations, which go before the sources.
    pub fn add(&mut self, name: &str, class: Class, outs: u8, handler: Handler) {
        let outs = Outs::First(outs);
        self.insert(
            name,
            Entry { handler, class, outs, after: After::Next, packed: false, keeps_high: false },
        );
    }

    /// VOP3P.
    pub fn packed(&mut self, name: &str, class: Class, handler: Handler) {
        let outs = Outs::First(1);
        self.insert(name, Entry { handler, class, outs, after: After::Next, packed: true, keeps_high: true });
    }

    /// A memory atomic: one destination if it returns the old value.
    pub fn atomic(&mut self, name: &str, handler: Handler) {
        let (class, outs) = (Class::Global, Outs::IfReturned);
        self.insert(
            name,
            Entry { handler, class, outs, after: After::Next, packed: false, keeps_high: false },
        );
    }

    /// One that takes no operands, or none that matter.
    pub fn plain(&mut self, name: &str, class: Class, after: After, handler: Handler) {
        self.insert(
            name,
            Entry { handler, class, outs: Outs::Ignored, after, packed: false, keeps_high: false },
        );
    }

    /// Other targets' names of an instruction that stands in the table.
    pub fn alias(&mut self, names: &[&str], of: &str) {
        let entry = *self.entries.get(of).unwrap_or_else(|| panic!("{of} is not in the table"));
        for name in names {
            self.insert(name, entry);
        }
    }

    pub fn keeps_high(&mut self, names: &[&str]) {
        for name in names {
            self.entries.get_mut(*name).unwrap_or_else(|| panic!("{name} is not in the table")).keeps_high =
                true;
        }
    }

    /// Has what follows after the instruction differ from the next one.
    pub fn after(&mut self, name: &str, after: After) {
        self.entries.get_mut(name).unwrap_or_else(|| panic!("{name} is not in the table")).after = after;
    }
}
