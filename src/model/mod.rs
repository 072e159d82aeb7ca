//! From a file's metadata to a [`Plan`](crate::plan::Plan): hyper-parameters and architectures.

pub mod arch;
mod config;
mod keys;

pub use config::{Config, Hyper};
pub use keys::Keys;
