//! The CPU device.

pub mod isa;
pub mod matmul;
