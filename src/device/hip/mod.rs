//! GPUs: AMD's through the HIP runtime, NVIDIA's through the CUDA driver, one engine over both.
//!
//! ```text
//! device    HipDevice: what the rest of the library sees (the Device trait)
//!   session   one user of a program, the run of a step
//!     timing    where a step's time goes
//!     step      a step's ops, launch by launch
//!     scratch   a session's memory; description: what a step's kernels read of its tokens
//!     program   a plan's weights, and the ops as a GPU gets them (schedule), where it takes them (support)
//!       loader  from the file's blocks to a weight
//!     sampler   from logits to a token
//!     ops     one function per operation: shapes -> grid, arguments, launch
//!       weight    a matrix in planes; planes: how it lies in memory
//!       memory (pool, staging), graph, event, stream
//!       launch    checks against the limits, the call, the error that names the kernel
//!         card    one GPU: driver, index, limits, its kernels' functions
//!           launch_log    what was launched since the last good synchronization
//!           kernels       names, arguments, blocks of all kernels (the contract with kernels/)
//!           code_object   the embedded code objects and what their metadata says
//!           limits        read once, cached
//!             driver      the runtime's functions, opened at run time
//! ```
//! A file imports only from what stands below it.

pub mod card;
pub mod code_object;
mod description;
pub mod device;
pub mod driver;
pub mod event;
pub mod graph;
pub mod kernels;
pub mod launch;
mod launch_log;
pub mod limits;
pub mod loader;
pub mod memory;
pub mod ops;
pub mod planes;
pub mod program;
pub mod sampler;
mod schedule;
mod scratch;
pub mod session;
mod step;
pub mod stream;
mod support;
mod timing;
pub mod weight;
