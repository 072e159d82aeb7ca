//! How a weight lies in device memory: the fields of its GGUF blocks apart, each in a plane of its own.

use super::kernels::{Planes, Ptr};
use super::memory::ALIGNMENT;
use crate::gguf::TensorType;
use crate::gguf::tensor_type::computed_types;
use crate::{Error, Result};

macro_rules! fields {
    (
        $ty:ident;
        $($name:ident = $id:literal, $function:ident, $kind:ident, $len:literal, $bytes:literal, $planes:tt;)*
    ) => {
        match $ty {
            $(TensorType::$name => Some(&$planes),)*
            _ => None,
        }
    };
}

/// Bytes per block of each plane, as [`Planes`] lists them; None for a type no kernel reads. A float type is one
/// plane of values.
pub const fn fields(ty: TensorType) -> Option<&'static [u64]> {
    computed_types!(fields ty;)
}

/// Columns that a lane of a matrix-vector kernel takes at a time: 16 bytes of the first plane, but 8 to 32 columns.
/// kernels/units.hpp is held to it. 1 for a type that no kernel reads.
pub fn unit_cols(ty: TensorType) -> u32 {
    let first = fields(ty).and_then(<[u64]>::first);
    first.map_or(1, |bytes| (16 * ty.block_len() as u64 / bytes).clamp(8, 32) as u32)
}

/// Where the planes of a `rows x cols` weight start, in bytes from its first; each at a multiple of [`ALIGNMENT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneLayout {
    pub ty: TensorType,
    pub rows: usize,
    pub cols: usize,
    pub n_blocks: u64,
    pub offsets: Vec<u64>,
    /// All planes with the gaps between them.
    pub bytes: u64,
}

impl PlaneLayout {
    /// # Errors
    /// `Error::Unsupported` for a type no kernel reads, `Error::Param` for rows that are not whole blocks, for
    /// dimensions beyond u32 (the kernels') or a size beyond u64.
    pub fn new(ty: TensorType, rows: usize, cols: usize) -> Result<Self> {
        let fields = fields(ty).ok_or_else(|| Error::Unsupported {
            what: "tensor type on a GPU",
            name: ty.name().to_owned(),
            supported: TensorType::supported_names(),
        })?;
        let refuse =
            |why: &str| Error::param(format!("a {ty} weight of {rows} rows of {cols} elements: {why}"));
        if u32::try_from(rows).is_err() || u32::try_from(cols).is_err() {
            return Err(refuse("dimensions beyond 32 bits"));
        }
        if cols == 0 || rows == 0 || !cols.is_multiple_of(ty.block_len()) {
            return Err(refuse(&format!("rows are not whole blocks of {}", ty.block_len())));
        }
        let n_blocks = rows as u64 * (cols / ty.block_len()) as u64; // below 2^64: each below 2^32
        let mut offsets = Vec::with_capacity(fields.len());
        let mut end = 0u64;
        for field in fields {
            offsets.push(end);
            end = n_blocks
                .checked_mul(*field)
                .and_then(|bytes| end.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT))
                .ok_or_else(|| refuse("more than 2^64 bytes"))?;
        }
        Ok(PlaneLayout { ty, rows, cols, n_blocks, offsets, bytes: end })
    }

    /// Bytes of the blocks as the file has them.
    pub fn file_bytes(&self) -> u64 {
        self.n_blocks * self.ty.block_bytes() as u64 // checked by `new`: the planes are no smaller
    }

    /// The planes of a weight that lies at `base`, from its block `first` on.
    pub fn planes(&self, base: Ptr, first: u64) -> Planes {
        let fields = fields(self.ty).unwrap_or_default();
        let mut planes = Planes::default();
        for ((plane, offset), field) in planes.0.iter_mut().zip(&self.offsets).zip(fields) {
            *plane = Ptr(base.0 + offset + first * field);
        }
        planes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_all_bytes_of_a_block() {
        for ty in TensorType::supported() {
            let fields = fields(ty).unwrap();
            assert_eq!(fields.iter().sum::<u64>(), ty.block_bytes() as u64, "{ty}");
            assert!(fields.is_sorted_by(|a, b| a >= b), "{ty}: the widest first");
            assert!(fields.len() <= Planes::default().0.len());
        }
    }

    #[test]
    fn planes_are_aligned_and_do_not_overlap() {
        let layout = PlaneLayout::new(TensorType::Q6_K, 3, 512).unwrap();
        assert_eq!(layout.n_blocks, 6);
        assert_eq!(layout.offsets, [0, 768, 1280, 1536]);
        assert_eq!(layout.bytes, 1792);
        assert_eq!(layout.file_bytes(), 6 * 210);
        let planes = layout.planes(Ptr(4096), 2);
        assert_eq!(planes.0.map(|p| p.0), [4096 + 256, 4096 + 768 + 128, 4096 + 1280 + 32, 4096 + 1536 + 4]);
        let floats = PlaneLayout::new(TensorType::BF16, 5, 3).unwrap();
        assert_eq!((floats.bytes, floats.planes(Ptr(256), 0).0[1]), (256, Ptr(0)));
    }

    #[test]
    fn what_cannot_lie_in_planes_is_refused() {
        use TensorType::*;
        assert!(matches!(PlaneLayout::new(IQ2_XXS, 16, 256), Err(Error::Unsupported { .. })));
        for (ty, rows, cols) in
            [(Q4_K, 16, 128), (Q8_0, 0, 32), (Q8_0, 1, 0), (F32, 1 << 32, 1), (F32, 1, 1 << 32)]
        {
            assert!(matches!(PlaneLayout::new(ty, rows, cols), Err(Error::Param(_))), "{ty} {rows} {cols}");
        }
        let most = u32::MAX as usize;
        assert!(matches!(PlaneLayout::new(F32, most, most), Err(Error::Param(_))));
    }
}
