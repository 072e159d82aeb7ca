//! The C header, made from src/ffi.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// What the header shows, in its order.
const SOURCES: [&str; 14] = [
    "version",
    "status",
    "error",
    "log",
    "device",
    "backend",
    "token",
    "model",
    "meta",
    "text",
    "context",
    "sampler",
    "generate",
    "with_error",
];

/// Into OUT_DIR, where tests/ffi_header.rs compares it with the committed one; with RF_UPDATE_HEADER set also there.
pub fn write(root: &Path) {
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/ffi");
    println!("cargo:rerun-if-changed=include/rocmforge.h");
    println!("cargo:rerun-if-env-changed=RF_UPDATE_HEADER");
    let config =
        cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml is well-formed");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES {
        builder = builder.with_src(root.join("src/ffi").join(name).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().expect("src/ffi translates to C").write(&mut header);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("rocmforge.h"), &header).expect("OUT_DIR is writable");
    if env::var_os("RF_UPDATE_HEADER").is_some() {
        fs::create_dir_all(root.join("include")).expect("the source tree is writable");
        fs::write(root.join("include/rocmforge.h"), &header).expect("include/rocmforge.h is writable");
    }
}
