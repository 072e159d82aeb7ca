//! A stand-in libamdhip64.so: executes AMD code objects instruction by instruction, and stops at what
//! hardware would let pass or answer with silence.
//!
//! ```text
//! api       the exported hip* functions
//!   device    the emulated cards; streams, events, graphs, failures on order
//!   launch    a grid of groups: waves, barriers, counters
//!     isa       instructions: parsed from LLVM's disassembly, executed on a wave
//!       wave      registers of one wave, which of them were written
//!       lds       a group's shared memory: bounds, unwritten words, races, bank conflicts
//!       memory    allocations: bounds, cache lines touched
//!         mapping   address space: poisoned pages, gaps
//!     code_object   ELF, kernel descriptors, metadata
//!       stop, counters
//! ```

pub mod api;
pub mod card;
pub mod code;
pub mod code_object;
pub mod config;
pub mod counters;
pub mod group;
pub mod isa;
pub mod launch;
pub mod lds;
pub mod mapping;
pub mod memory;
pub mod old;
pub mod runtime;
pub mod stop;
pub mod stream;
pub mod wave;
