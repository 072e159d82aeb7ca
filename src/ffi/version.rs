//! Which library this is.

use std::ffi::c_char;

/// The interface this header describes: major version in the upper 16 bits, minor in the lower. Before
/// 1.0 each minor version is an interface of its own (and has its own SONAME).
pub const RF_ABI_VERSION: u32 = 1;

/// The interface the loaded library offers; compare with RF_ABI_VERSION. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rf_abi_version() -> u32 {
    RF_ABI_VERSION
}

/// The library's version, "0.1.0". Static, any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rf_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abi_version_is_the_packages() {
        let part = |text: &str| text.parse::<u32>().unwrap();
        let abi = part(env!("CARGO_PKG_VERSION_MAJOR")) << 16 | part(env!("CARGO_PKG_VERSION_MINOR"));
        assert_eq!(RF_ABI_VERSION, abi);
    }
}
