//! The CPU device.

mod attention;
mod elementwise;
pub mod isa;
mod kv_cache;
mod memory;
mod simd;
mod system;
mod team;
