//! The way of weights from the file to a device.

use std::sync::Arc;

use super::memory::{Buffer, Pool, Staging, bytes_of};
use super::ops;
use super::planes::PlaneLayout;
use super::stream::Stream;
use super::weight::Weight;
use crate::gguf::TensorType;
use crate::{Error, Result};

/// Brings weights from the file to a device: its blocks travel as they are and are split into planes there.
#[derive(Debug)]
pub struct Loader {
    pool: Arc<Pool>,
    stream: Stream,
    staging: Staging,
    /// Blocks as in the file, before they are split.
    blocks: Buffer,
}

/// Blocks are split in pieces of a multiple of this, so that each piece's planes start 16-byte aligned.
const PIECE_BLOCKS: u64 = 256;

impl Loader {
    pub fn new(pool: &Arc<Pool>) -> Result<Self> {
        Self::with_staging(pool, Staging::new(pool.card())?)
    }

    /// Moves at most half of `staging` at a time; that must hold 256 blocks of any type.
    pub fn with_staging(pool: &Arc<Pool>, staging: Staging) -> Result<Self> {
        if (staging.half_bytes() as u64) < PIECE_BLOCKS * TensorType::LARGEST_BLOCK as u64 {
            return Err(Error::param(format!("staging of {} bytes is too small", staging.half_bytes())));
        }
        let blocks = pool.alloc(staging.half_bytes() as u64, "blocks on their way to a GPU")?;
        Ok(Loader { pool: Arc::clone(pool), stream: Stream::new(pool.card())?, staging, blocks })
    }

    /// `bytes`: the tensor as the file has it. `what` names it in errors. When this returns, `bytes` has been read;
    /// [`finish`](Self::finish) waits for the device.
    ///
    /// # Errors
    /// Those of [`PlaneLayout::new`], `Error::Param` where `bytes` is not of the size that type and shape make,
    /// `Error::OutOfMemory`, those of a launch.
    pub fn load(
        &mut self,
        ty: TensorType,
        rows: usize,
        cols: usize,
        bytes: &[u8],
        what: &str,
    ) -> Result<Weight> {
        let layout = PlaneLayout::new(ty, rows, cols)?;
        if bytes.len() as u64 != layout.file_bytes() {
            return Err(Error::param(format!(
                "{what}: {} bytes, {} expected",
                bytes.len(),
                layout.file_bytes()
            )));
        }
        let weight = Weight::uninit(&self.pool, layout, what)?;
        if ty.is_float() {
            let dst = weight.span().first(bytes.len() as u64)?;
            self.staging.upload(&self.stream, bytes, dst)?;
        } else {
            self.split(&weight, bytes)?;
        }
        Ok(weight)
    }

    /// f32 values as they are.
    pub fn load_floats(&mut self, values: &[f32], what: &str) -> Result<Buffer> {
        let buffer = self.pool.alloc(size_of_val(values) as u64, what)?;
        self.staging.upload(&self.stream, bytes_of(values), buffer.span())?;
        Ok(buffer)
    }

    fn split(&mut self, weight: &Weight, bytes: &[u8]) -> Result<()> {
        let block_bytes = weight.ty().block_bytes();
        let pieces = self.staging.half_bytes() / (block_bytes * PIECE_BLOCKS as usize);
        let mut first = 0;
        for piece in bytes.chunks(pieces * PIECE_BLOCKS as usize * block_bytes) {
            let blocks = self.blocks.span().first(piece.len() as u64)?;
            self.staging.upload(&self.stream, piece, blocks)?;
            let planes = weight.layout().planes(weight.span().ptr(), first);
            let n_blocks = (piece.len() / block_bytes) as u64;
            ops::split(&self.stream, weight.ty(), blocks, planes, n_blocks)?;
            first += n_blocks;
        }
        Ok(())
    }

    /// Waits until all that was loaded lies on the device.
    pub fn finish(&self) -> Result<()> {
        self.stream.synchronize()
    }
}

impl Drop for Loader {
    /// Waits, for its blocks go back to the pool.
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "weights may not have reached the device");
        }
    }
}
