//! The CPU device.

mod attention;
mod device;
mod elementwise;
mod experts;
mod heads;
pub mod isa;
mod kv_cache;
pub mod matmul;
mod memory;
mod program;
mod recurrent;
mod session;
mod simd;
mod step;
pub mod system;
pub(crate) mod team;
mod turns;

pub use device::CpuDevice;
