//! The one error type. Every variant carries what its reader needs to act.

use std::ops::RangeInclusive;
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

    /// The model keeps a recurrent state, or windows of positions, and goes back only to where they were kept; nothing was
    /// changed.
    #[error(
        "position {wanted} of the sequence cannot be gone back to: what the model remembers was kept at {} only",
        listed(kept)
    )]
    NotKept { wanted: usize, kept: Vec<RangeInclusive<usize>> },

    /// Memory could not be had; sizes in bytes, 0 where unknown.
    #[error("out of memory for {what}{}", sizes(*wanted, *free, *total))]
    OutOfMemory { what: String, wanted: u64, free: u64, total: u64 },

    /// No GPU runtime could be opened; `tried` lists the libraries with the loader's reasons.
    #[error("no GPU runtime: {tried}")]
    NoRuntime { tried: String },

    /// A GPU runtime is there, but no GPU that it can use; or fewer than asked for.
    #[error("no GPU: {0}")]
    NoGpu(String),

    /// The runtime lacks what this library calls.
    #[error("{library} is too old: {why}")]
    RuntimeTooOld { library: String, why: String },

    /// The library carries no kernels for this GPU.
    #[error(
        "no kernels for {arch} (device {device}); this library carries {carried}. Build one that does with \
         ROCm_ARCH={arch}, or compile kernels/ yourself and name their folder in ROCMFORGE_KERNEL_DIR"
    )]
    NoKernels { device: i32, arch: String, carried: String },

    /// A code object is missing, damaged or not what the host expects.
    #[error("kernels: {0}")]
    Kernels(String),

    /// The GPU fell out of use: reset, hung or unplugged. Its backend must be released.
    #[error("device {device} is lost: {failure}")]
    DeviceLost { device: i32, failure: Box<GpuFailure> },

    /// A call into the GPU's runtime failed.
    #[error("{0}")]
    Gpu(Box<GpuFailure>),

    /// Cancelled by the caller, from a callback or another thread.
    #[error("cancelled")]
    Cancelled,

    /// `what` belongs to the process that this one was forked from.
    #[error("the {what} came into use before this process was forked and stays with the parent; {instead}")]
    Forked { what: &'static str, instead: &'static str },

    /// A bug in this library.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A failed call into a GPU's runtime, or a launch that was refused before the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFailure {
    /// The runtime's function: "hipModuleLaunchKernel".
    pub call: &'static str,
    /// The runtime's error number and its name: 1, "hipErrorInvalidValue". 0 and "": refused before the call.
    pub code: i32,
    pub name: String,
    pub device: i32,
    /// "gfx1100".
    pub arch: String,
    /// The launch that failed, or the last one before a failed synchronization.
    pub launch: Option<LaunchShape>,
    /// What the reader needs beyond that: the limit that was exceeded, bytes wanted, the launches since the last
    /// good synchronization.
    pub detail: String,
}

/// What was launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    pub kernel: String,
    /// Blocks, and threads of a block.
    pub grid: [u64; 3],
    pub block: [u64; 3],
    /// Shared memory (LDS) in bytes, static and asked for.
    pub shared_bytes: u64,
}

impl std::fmt::Display for LaunchShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let LaunchShape { kernel, grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes } = self;
        write!(
            f,
            "kernel {kernel}, grid ({gx},{gy},{gz}), block ({bx},{by},{bz}), {shared_bytes} shared bytes"
        )
    }
}

impl std::fmt::Display for GpuFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.call)?;
        if self.code == 0 {
            write!(f, " not called")?;
        } else {
            write!(f, ": {} ({})", self.name, self.code)?;
        }
        if let Some(launch) = &self.launch {
            write!(f, "; {launch}")?;
        }
        write!(f, "; device {} ({})", self.device, self.arch)?;
        if !self.detail.is_empty() {
            write!(f, "; {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for GpuFailure {}

fn listed(positions: &[RangeInclusive<usize>]) -> String {
    let text = |range: &RangeInclusive<usize>| match range.end() - range.start() {
        0 => range.start().to_string(),
        _ => format!("{} to {}", range.start(), range.end()),
    };
    positions.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn sizes(wanted: u64, free: u64, total: u64) -> String {
    match wanted {
        0 => String::new(),
        _ => format!(": {wanted} bytes wanted, {free} free of {total}"),
    }
}

impl Error {
    pub fn param(text: impl Into<String>) -> Self {
        Error::Param(text.into())
    }

    pub fn model(text: impl Into<String>) -> Self {
        Error::Model(text.into())
    }
}
