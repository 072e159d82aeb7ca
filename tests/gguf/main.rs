//! GGUF files.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/counting.rs"]
mod counting;

mod dequant;
mod golden;
mod hostile;
mod mutations;
mod reader;
