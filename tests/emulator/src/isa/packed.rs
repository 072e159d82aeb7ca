//! VOP3P: packed arithmetic, dot products.

use crate::isa::Table;

pub fn table(_: &mut Table) {}
