//! The engine. What it allocates is tested in a program of its own: tests/engine_allocations.rs.

#[path = "../common/mod.rs"]
mod common;

mod context;
mod generate;
mod placement;
mod sampler;
