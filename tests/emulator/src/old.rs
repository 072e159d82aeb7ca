//! A runtime from before ROCm 6: the same library without hipGetDevicePropertiesR0600.

use std::fs;
use std::io;
use std::path::Path;

const SYMBOL: &[u8] = b"\0hipGetDevicePropertiesR0600\0";

/// Copies `library`, an emulator, to `to`, with that symbol under a name that no one asks for: the loader finds
/// symbols by name, so for dlsym it is not there.
///
/// # Errors
/// Of the files; InvalidData: `library` has no such symbol.
pub fn write_old_runtime(library: &Path, to: &Path) -> io::Result<()> {
    let mut bytes = fs::read(library)?;
    let mut found = false;
    for at in 0..bytes.len().saturating_sub(SYMBOL.len()) {
        if bytes[at..].starts_with(SYMBOL) {
            bytes[at + SYMBOL.len() - 2] = b'x';
            found = true;
        }
    }
    if !found {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no symbol hipGetDevicePropertiesR0600"));
    }
    fs::write(to, bytes)
}
