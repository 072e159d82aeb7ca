//! Instructions: parsed from LLVM's disassembly once, executed on a wave.
//!
//! ```text
//! program     a kernel's instructions; Program::run executes a wave up to a barrier or its end
//!   parse       text -> Inst: mnemonic, operands, modifiers
//!   table       mnemonic -> handler
//!     scalar, vector, convert, compare, memory, lds_ops     (every target)
//!     lanes       DPP, permutes, SDWA: which lane reads which
//!     packed      VOP3P: packed arithmetic, dot products
//!     matrix      WMMA (gfx11, gfx12), MFMA (gfx908+): pure functions of register blocks
//! ```

pub mod lanes;
pub mod matrix;
pub mod packed;
