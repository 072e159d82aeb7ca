//! rf_token: ids and kinds of tokens.

#![allow(non_camel_case_types)]

use super::args::array;
use super::failure::{Failure, Outcome};

/// A token's id, 0 to n_vocab - 1.
pub type rf_token = i32;

/// No token.
pub const RF_TOKEN_NONE: i32 = -1;

/// Kinds of token, as GGUF numbers them: none is given.
pub const RF_TOKEN_UNDEFINED: i32 = 0;
/// Text.
pub const RF_TOKEN_NORMAL: i32 = 1;
/// Stands for text that the vocabulary lacks.
pub const RF_TOKEN_UNKNOWN: i32 = 2;
/// Marks the structure of a text, such as its end or the beginning of a message.
pub const RF_TOKEN_CONTROL: i32 = 3;
/// Text that is always one token.
pub const RF_TOKEN_USER_DEFINED: i32 = 4;
/// A placeholder.
pub const RF_TOKEN_UNUSED: i32 = 5;
/// One byte, for text that the vocabulary lacks.
pub const RF_TOKEN_BYTE: i32 = 6;

/// Token ids from C as the engine takes them.
///
/// # Safety
/// As `args::array`.
pub(super) unsafe fn token_ids<'a>(p: *const rf_token, n: usize, name: &str) -> Outcome<&'a [u32]> {
    // SAFETY: the caller's promise.
    let ids = unsafe { array(p, n, name) }?;
    if let Some(at) = ids.iter().position(|id| *id < 0) {
        return Err(Failure::param(format!("{name}[{at}] is {}, which is no token", ids[at])));
    }
    // SAFETY: i32 and u32 are alike in size and alignment.
    Ok(unsafe { std::slice::from_raw_parts(ids.as_ptr().cast(), ids.len()) })
}
