//! The C interface, called from Rust. What C itself can show is in tests/c; tests/ffi_memory.rs takes memory from all
//! threads of its program.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod gpu;
mod header;
