//! Shared by the integration tests; each uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod arch_weights;
pub mod archs;
pub mod backends;
#[cfg(feature = "hip")]
pub mod emulated;
pub mod generated;
pub mod gguf_writer;
pub mod golden;
#[cfg(feature = "hip")]
pub mod gpu;
pub mod logits;
pub mod models;
#[cfg(feature = "hip")]
pub mod operands;
pub mod tiny_model;
pub mod types;
pub mod variants_moe;
pub mod variants_norm;
pub mod variants_rms;
