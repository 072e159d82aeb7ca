//! The CPU device. What it allocates is tested in a program of its own: tests/cpu_allocations.rs.

#[path = "../common/mod.rs"]
mod common;

mod matmul;
mod ops;
mod session;
