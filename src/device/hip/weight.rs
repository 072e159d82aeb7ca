//! Weights in device memory.

use std::sync::Arc;

use super::kernels::Planes;
use super::memory::{Buffer, Pool, Span};
use super::planes::PlaneLayout;
use super::stream::Stream;
use crate::Result;
use crate::gguf::TensorType;

/// A matrix of `rows` rows of `cols` elements, in planes.
#[derive(Debug)]
pub struct Weight {
    layout: PlaneLayout,
    buffer: Buffer,
}

impl Weight {
    /// Room for a weight; nothing is written yet. `what` names it in errors.
    pub fn uninit(pool: &Arc<Pool>, layout: PlaneLayout, what: &str) -> Result<Weight> {
        let buffer = pool.alloc(layout.bytes, what)?;
        Ok(Weight { layout, buffer })
    }

    pub fn ty(&self) -> TensorType {
        self.layout.ty
    }

    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Bytes taken of the device.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes
    }

    pub fn layout(&self) -> &PlaneLayout {
        &self.layout
    }

    pub fn planes(&self) -> Planes {
        self.layout.planes(self.buffer.span().ptr(), 0)
    }

    /// The same weight at another place.
    pub fn duplicate(&self, stream: &Stream, what: &str) -> Result<Weight> {
        let copy = Weight::uninit(self.buffer.pool(), self.layout.clone(), what)?;
        stream.copy(self.span(), copy.span())?;
        Ok(copy)
    }

    /// All planes with the gaps between them.
    pub fn span(&self) -> Span<'_> {
        self.buffer.span()
    }
}
