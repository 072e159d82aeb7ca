//! Instructions: parsed from LLVM's disassembly once, executed on a wave.
//!
//! ```text
//! program     a kernel's instructions; Program::run executes a wave up to a barrier or its end
//!   disassembly   llvm-objdump: what a code object's machine code says
//!   parse       text -> Inst: mnemonic, operands, modifiers
//!   table       mnemonic -> handler
//!     scalar, branch, vector, vector16, float, convert, compare, memory_ops, lds_ops
//!       floats    arithmetic on single numbers
//!     alu, float_alu   operands of 32 lanes at a time, results under EXEC
//!     lanes       DPP, permutes, SDWA: which lane reads which
//!     packed      VOP3P: packed arithmetic, dot products
//!     matrix      WMMA (gfx11, gfx12), MFMA (gfx908+): pure functions of register blocks
//!   inst        Inst, Operand, Modifiers
//! ```
//!
//! Names differ between targets, semantics mostly do not: a handler carries gfx11's name, the table lists
//! the others as aliases.
//!
//! # Registers nothing wrote
//!
//! Each scalar register, and each lane of a vector register, knows whether it was written (32 bits at a time:
//! a 16-bit write counts for all 32). Compilers move undefined values about, so moves, selects and shuffles
//! copy that knowledge; bitwise operations on vectors carry it on; everything else that reads an unwritten
//! register stops the wave. Bitwise operations on scalars need one written operand: a lane mask is built up
//! by or-ing the lanes of one iteration into what may be undefined before the first.

pub mod alu;
pub mod arch;
pub mod branch;
pub mod compare;
pub mod convert;
pub mod disassembly;
pub mod float;
pub mod float_alu;
pub mod floats;
pub mod inst;
pub mod lanes;
pub mod lds_ops;
pub mod matrix;
pub mod memory_ops;
pub mod packed;
pub mod parse;
pub mod program;
pub mod scalar;
pub mod table;
pub mod vector;
pub mod vector16;

pub use arch::{Arch, Generation};
pub use disassembly::{Disassembly, llvm_tool};
pub use inst::{After, Handler, Inst, Modifiers, Operand};
pub use program::Program;
pub use table::Table;
