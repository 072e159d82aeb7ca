//! A device's memory and the way into it.
//!
//! ```text
//! mailbox    small parameters to the device, small results back, many times
//! staging    host bytes to the device and back, through two pinned buffers
//! pool       few large allocations, the buffers handed out of them
//!   arena    which parts of an allocation are taken
//! plain      numbers as bytes
//! ```

mod arena;
mod mailbox;
mod plain;
mod pool;
mod staging;

pub use arena::{ALIGNMENT, aligned};
pub use mailbox::Mailbox;
pub use plain::{bytes_of, bytes_of_mut};
pub use pool::{Buffer, CHUNK_BYTES, Pool, PoolUse, Span};
pub use staging::{HALF_BYTES, Pinned, Staging};
