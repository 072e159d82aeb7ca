//! An open model: one or more mapped files, their metadata and their tensors.

use std::path::Path;

use super::{Metadata, TensorType};
use crate::Result;

/// One tensor of the directory. `dims[0]` is the length of a row (the fastest dimension).
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    pub ty: TensorType,
    /// 1 to 4 dimensions as the file lists them; missing ones are 1.
    pub dims: [u64; 4],
    pub n_dims: usize,
    /// Which file of a split holds it, and the byte offset from the start of that file.
    pub file: usize,
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    /// Elements per row.
    pub fn row_len(&self) -> usize {
        self.dims[0] as usize
    }
    /// Rows: the product of all other dimensions.
    pub fn rows(&self) -> usize {
        (self.dims[1] * self.dims[2] * self.dims[3]) as usize
    }
}

/// A GGUF model file (with its split parts), mapped read-only. Immutable, shared freely.
#[derive(Debug)]
pub struct Gguf {}

impl Gguf {
    /// Opens `path`; a split model is opened from its first part.
    pub fn open(_path: impl AsRef<Path>) -> Result<Self> {
        todo!()
    }
    /// The same checks over bytes in memory; `name` stands for the path in errors.
    pub fn from_bytes(_bytes: Vec<u8>, _name: &str) -> Result<Self> {
        todo!()
    }
    pub fn path(&self) -> &Path {
        todo!()
    }
    pub fn version(&self) -> u32 {
        todo!()
    }
    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        todo!()
    }
    pub fn metadata(&self) -> &Metadata {
        todo!()
    }
    /// In file order, over all parts.
    pub fn tensors(&self) -> &[TensorInfo] {
        todo!()
    }
    pub fn tensor(&self, _name: &str) -> Option<&TensorInfo> {
        todo!()
    }
    /// The tensor's bytes in the map. Panics if `info` is not one of this file's.
    pub fn data(&self, _info: &TensorInfo) -> &[u8] {
        todo!()
    }
    /// Tells the system that the tensor's pages are not needed soon (they are read again from the file if touched).
    pub fn forget_pages(&self, _info: &TensorInfo) {
        todo!()
    }
}
