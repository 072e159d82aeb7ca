//! rocmforge: an LLM inference engine for GGUF files.
//!
//! An architecture describes a model as a [`plan::Plan`], a device runs a plan, and a thin
//! C boundary (`ffi`) hands both to any language. Modules import only from those further down:
//! `ffi`, `bin` -> [`engine`] -> [`model`], [`text`], [`device`] -> [`plan`] -> [`gguf`] -> [`memory`] -> [`error`].

pub mod device;
pub mod engine;
pub mod error;
pub mod ffi;
mod fork;
pub mod gguf;
pub mod memory;
pub mod model;
mod panics;
pub mod plan;
pub mod text;
mod worker;

pub use error::{Error, Result};
