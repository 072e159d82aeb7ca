//! The command line.

#[path = "../cli_common/mod.rs"]
mod cli_common;
#[path = "../common/mod.rs"]
mod common;

mod chat;
mod flags;
mod generate;
mod gpu;
mod numbers;
mod terminal;
mod text;
mod usage;
