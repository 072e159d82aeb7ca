//! The GPU engine on the host's side: the build's choice of compilers, the code objects, the driver, calls that fail.

#[path = "../cli_common/mod.rs"]
mod cli_common;
#[path = "../common/mod.rs"]
mod common;

mod blocks;
mod build;
mod built;
mod code_objects;
mod driver;
mod faults;
mod instructions;
