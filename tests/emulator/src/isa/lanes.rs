//! Which lane reads which: DPP, SDWA, permutes.

use crate::isa::parse::Encoding;
use crate::isa::{Inst, Table};

/// What DPP and SDWA do before (and after) the plain instruction in `inst.inner`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    #[default]
    None,
}

pub fn table(_: &mut Table) {}

/// The instruction that permutes sources into `wave::TEMP..` and then executes `plain` on them.
///
/// # Errors
///
/// Modifiers in `plain.mods.list` that are unknown.
pub fn wrap(plain: Inst, encoding: Encoding) -> Result<Inst, String> {
    Err(format!("{encoding:?} is unknown: {}", plain.text))
}
