//! The one error type. Every variant carries what its reader needs to act.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; `what` is the attempt ("open", "map", "read", ...).
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },

    /// The file is not a well-formed GGUF file.
    #[error("{}: {field} at byte {offset}: {why}", path.display())]
    Format {
        path: PathBuf,
        /// What was being read: "tensor blk.0.attn_q.weight: type", "metadata key 3: length".
        field: String,
        /// Byte offset in the file where `field` starts.
        offset: u64,
        why: String,
    },

    /// The file is well formed, but this model cannot be run from it: a key or tensor is missing,
    /// of the wrong type or shape, or out of range.
    #[error("model: {0}")]
    Model(String),

    #[error("unknown architecture '{name}'; supported: {supported}")]
    UnknownArchitecture { name: String, supported: String },

    /// Known to the format, not (yet) to this engine.
    #[error("unsupported {what}: {name}; supported: {supported}")]
    Unsupported { what: &'static str, name: String, supported: String },

    /// The caller's argument is wrong; nothing was changed.
    #[error("{0}")]
    Param(String),

    /// Text could not be turned into tokens or back.
    #[error("tokenizer: {0}")]
    Tokenizer(String),

    /// The file's chat template failed, ran too long or printed too much.
    #[error("chat template: {0}")]
    Template(String),

    /// The cache has no room for the step; nothing was changed.
    #[error("the cache is full: {wanted} more positions wanted, {free} of {total} free")]
    CacheFull { wanted: usize, free: usize, total: usize },

    /// Memory could not be had; sizes in bytes, `free` and `total` 0 where unknown.
    #[error("out of memory for {what}: {wanted} bytes wanted, {free} free of {total}")]
    OutOfMemory { what: String, wanted: u64, free: u64, total: u64 },

    /// Cancelled by the caller, from a callback or another thread.
    #[error("cancelled")]
    Cancelled,

    /// A bug in this library.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    pub fn param(text: impl Into<String>) -> Self {
        Error::Param(text.into())
    }

    pub fn model(text: impl Into<String>) -> Self {
        Error::Model(text.into())
    }
}
