//! The GGUF container: header, metadata, tensor directory, split files, tensor types.

pub mod dequant;
mod file;
mod metadata;
mod reader;
pub mod tensor_type;

pub use file::{Gguf, TensorInfo};
pub use metadata::{Array, Metadata, Value};
pub(crate) use reader::Short;
pub use tensor_type::TensorType;
