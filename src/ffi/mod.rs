//! The C boundary: what `include/rocmforge.h` declares, one file per handle.
//!
//! Every exported function runs inside `guard::guard`, reads its arguments through `args` and
//! `sized`, and turns a failure into a status and the calling thread's last error. build.rs makes the
//! header from the files listed there; their doc comments are the header's.

// Each function's contract is its C documentation: pointers are NULL or valid as it says, handles are alive.
#![allow(clippy::missing_safety_doc, clippy::too_many_arguments)]

mod args;
mod failure;
mod guard;
mod handle;
mod log;
mod sized;

pub mod backend;
pub mod context;
pub mod device;
pub mod error;
pub mod generate;
pub mod meta;
pub mod model;
pub mod sampler;
pub mod status;
pub mod text;
pub mod token;
pub mod version;
pub mod with_error;

pub use backend::*;
pub use context::*;
pub use device::*;
pub use error::*;
pub use generate::*;
pub use log::{
    RF_LOG_DEBUG, RF_LOG_ERROR, RF_LOG_INFO, RF_LOG_OFF, RF_LOG_TRACE, RF_LOG_WARN, rf_log_callback,
};
pub use meta::*;
pub use model::*;
pub use sampler::*;
pub use status::*;
pub use text::*;
pub use token::*;
pub use version::*;
pub use with_error::*;
