//! Dequantization to f32, from each format's definition: the reference all fast paths are held to.

use super::TensorType;
use crate::Result;

/// Whether `row` below can turn `ty` into f32.
pub fn is_supported(_ty: TensorType) -> bool {
    todo!()
}

/// Dequantizes whole blocks: `bytes` holds `out.len()` elements of type `ty`.
pub fn row(_ty: TensorType, _bytes: &[u8], _out: &mut [f32]) -> Result<()> {
    todo!()
}

/// Names of the types `row` knows, comma-separated.
pub fn supported() -> String {
    todo!()
}
