//! Whole models against the truth.

#[path = "../common/mod.rs"]
mod common;

mod arch;
mod config;
mod gpu;
mod logits;
mod states;
mod windows;
