//! Compiles kernels/ for every GPU and names the shared library.

#[cfg(feature = "hip")]
#[path = "tools/build/cards.rs"]
mod cards;
#[cfg(feature = "hip")]
#[path = "tools/build/compiler.rs"]
mod compiler;
#[cfg(feature = "hip")]
#[path = "tools/build/kernels.rs"]
mod kernels;
#[cfg(feature = "hip")]
#[allow(dead_code)] // the library needs more of it
#[path = "src/device/hip/code_object/targets.rs"]
mod targets;

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "hip")]
    {
        let root = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        if let Err(message) = kernels::embed(std::path::Path::new(&root)) {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
        }
    }
    name_library();
}

/// SONAME: each minor version before 1.0, each major version from then on, is an interface of its own. And a
/// shared library with undefined symbols shall fail here, not at the user's.
fn name_library() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let part = |name: &str| env::var(format!("CARGO_PKG_VERSION_{name}")).expect("cargo sets the version");
    let interface = match part("MAJOR").as_str() {
        "0" => format!("0.{}", part("MINOR")),
        major => major.to_owned(),
    };
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,librocmforge.so.{interface}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
}
