//! Tensor types by id, name and block size; the table every reader of weights goes by.

use super::dequant::{self, Rows};

/// What the table knows of one type.
struct Format {
    ty: TensorType,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    dequant: Option<Rows>,
}

macro_rules! tensor_types {
    ($($name:ident = $id:literal, $len:literal, $bytes:literal, $dequant:expr;)*) => {
        /// A tensor type of the container. The number is the file's id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[allow(non_camel_case_types)]
        pub enum TensorType {
            $($name = $id,)*
        }

        const FORMATS: &[Format] = &[$(Format {
            ty: TensorType::$name,
            name: stringify!($name),
            block_len: $len,
            block_bytes: $bytes,
            dequant: $dequant,
        }),*];
    };
}

// Sizes as ggml lays the blocks out. Q8_1 and Q8_K hold activations and are not found in files;
// the missing numbers were types that no longer exist, or belong to forks.
tensor_types! {
    // id, elements and bytes per block, dequantization
    F32     =  0,   1,   4, Some(dequant::f32);
    F16     =  1,   1,   2, Some(dequant::f16);
    Q4_0    =  2,  32,  18, Some(dequant::q4_0);
    Q4_1    =  3,  32,  20, Some(dequant::q4_1);
    Q5_0    =  6,  32,  22, Some(dequant::q5_0);
    Q5_1    =  7,  32,  24, Some(dequant::q5_1);
    Q8_0    =  8,  32,  34, Some(dequant::q8_0);
    Q8_1    =  9,  32,  36, None;
    Q2_K    = 10, 256,  84, Some(dequant::q2_k);
    Q3_K    = 11, 256, 110, Some(dequant::q3_k);
    Q4_K    = 12, 256, 144, Some(dequant::q4_k);
    Q5_K    = 13, 256, 176, Some(dequant::q5_k);
    Q6_K    = 14, 256, 210, Some(dequant::q6_k);
    Q8_K    = 15, 256, 292, None;
    IQ2_XXS = 16, 256,  66, None;
    IQ2_XS  = 17, 256,  74, None;
    IQ3_XXS = 18, 256,  98, None;
    IQ1_S   = 19, 256,  50, None;
    IQ4_NL  = 20,  32,  18, None;
    IQ3_S   = 21, 256, 110, None;
    IQ2_S   = 22, 256,  82, None;
    IQ4_XS  = 23, 256, 136, None;
    I8      = 24,   1,   1, None;
    I16     = 25,   1,   2, None;
    I32     = 26,   1,   4, None;
    I64     = 27,   1,   8, None;
    F64     = 28,   1,   8, None;
    IQ1_M   = 29, 256,  56, None;
    BF16    = 30,   1,   2, Some(dequant::bf16);
    TQ1_0   = 34, 256,  54, None;
    TQ2_0   = 35, 256,  66, None;
    MXFP4   = 39,  32,  17, None;
    NVFP4   = 40,  64,  36, None;
    Q1_0    = 41, 128,  18, None;
    Q2_0    = 42,  64,  18, None;
}

const IDS: usize = FORMATS[FORMATS.len() - 1].ty as usize + 1;

/// Row of `FORMATS` by id.
const ROW: [Option<u8>; IDS] = {
    let mut rows = [None; IDS];
    let mut row = 0;
    while row < FORMATS.len() {
        rows[FORMATS[row].ty as usize] = Some(row as u8);
        row += 1;
    }
    rows
};

impl TensorType {
    /// Every type of the table, in the order of their ids.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.iter().map(|format| format.ty)
    }

    pub fn from_id(id: u32) -> Option<Self> {
        let row = (*ROW.get(id as usize)?)?;
        Some(FORMATS[row as usize].ty)
    }

    const fn format(self) -> &'static Format {
        match ROW[self as usize] {
            Some(row) => &FORMATS[row as usize],
            None => unreachable!(),
        }
    }

    /// The name as the peers print it: "Q4_K", "F16".
    pub const fn name(self) -> &'static str {
        self.format().name
    }

    /// Elements per block.
    pub const fn block_len(self) -> usize {
        self.format().block_len
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.format().block_bytes
    }

    /// Bytes of a row of `len` elements; None unless `len` is whole blocks and fits.
    pub fn row_bytes(self, len: usize) -> Option<usize> {
        (len.is_multiple_of(self.block_len()))
            .then(|| (len / self.block_len()).checked_mul(self.block_bytes()))?
    }

    pub(super) fn dequant(self) -> Option<Rows> {
        self.format().dequant
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
