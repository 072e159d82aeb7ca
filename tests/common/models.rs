//! The two real models that `make models` fetches.
#![allow(dead_code)]

use std::path::PathBuf;

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const QWEN25: &str = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf";

/// In `$ROCMFORGE_MODELS`, or `models/` at the root of the repository. Panics where it is missing.
pub fn path(name: &str) -> PathBuf {
    let folder = match std::env::var_os("ROCMFORGE_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models"),
    };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `make models`", path.display());
    path
}
