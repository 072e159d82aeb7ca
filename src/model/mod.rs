//! From a file's metadata to a [`Plan`](crate::device::plan::Plan): hyper-parameters and architectures.

pub mod arch;
mod config;

pub use config::{Config, RopeScaling};
