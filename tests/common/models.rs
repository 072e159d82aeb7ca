//! What the tests read and the repository does not hold: two real models and the peer's chat templates.
#![allow(dead_code)]

use std::path::PathBuf;

pub const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub const QWEN25: &str = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf";

/// `$ROCMFORGE_MODELS`, or `models/` at the root of the repository.
fn folder() -> PathBuf {
    match std::env::var_os("ROCMFORGE_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models"),
    }
}

/// A model. Panics where it is missing.
pub fn path(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.is_file(), "{} is missing: run `make models`", path.display());
    path
}

/// The folder of the peer's chat templates. Panics where it is missing.
pub fn templates() -> PathBuf {
    let path = folder().join("templates");
    assert!(path.is_dir(), "{} is missing: run tools/get_templates.sh", path.display());
    path
}
