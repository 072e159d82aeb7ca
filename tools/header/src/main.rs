//! Writes include/rocmforge.h anew (`make header`).

use std::path::Path;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let header = rocmforge_header::generate(&root);
    std::fs::write(root.join("include/rocmforge.h"), header).expect("include/rocmforge.h is writable");
}
