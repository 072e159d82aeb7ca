//! The C header, made from src/ffi.

use std::path::Path;

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

/// The header of the sources under `root`.
///
/// # Panics
///
/// When they do not translate to C.
pub fn generate(root: &Path) -> String {
    let config =
        cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml is well-formed");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for name in SOURCES {
        builder = builder.with_src(root.join("src/ffi").join(name).with_extension("rs"));
    }
    let mut header = Vec::new();
    builder.generate().expect("src/ffi translates to C").write(&mut header);
    String::from_utf8(header).expect("cbindgen writes UTF-8")
}
