//! Tensor types: one row each, by which every reader of weights goes.

use super::dequant::{self, Rows};

/// Calls `$then!` with what is given behind its name, then the types that the library computes with, a row each:
///
/// `NAME = id in the file, name of its functions and kernels, float or quantized, elements of a block, its bytes, [bytes of
/// each of its planes on a GPU];`
///
/// The devices' tables are made of these rows: docs/adding.md tells what a type needs beside one.
macro_rules! computed_types {
    ($then:ident $($first:tt)*) => { $then! { $($first)*
        F32  =  0, f32,  float,       1,   4, [4];
        F16  =  1, f16,  float,       1,   2, [2];
        BF16 = 30, bf16, float,       1,   2, [2];
        Q4_0 =  2, q4_0, quantized,  32,  18, [16, 2];
        Q4_1 =  3, q4_1, quantized,  32,  20, [16, 4];
        Q5_0 =  6, q5_0, quantized,  32,  22, [16, 4, 2];
        Q5_1 =  7, q5_1, quantized,  32,  24, [16, 4, 4];
        Q8_0 =  8, q8_0, quantized,  32,  34, [32, 2];
        Q2_K = 10, q2_k, quantized, 256,  84, [64, 16, 4];
        Q3_K = 11, q3_k, quantized, 256, 110, [64, 32, 12, 2];
        Q4_K = 12, q4_k, quantized, 256, 144, [128, 16];
        Q5_K = 13, q5_k, quantized, 256, 176, [128, 32, 16];
        Q6_K = 14, q6_k, quantized, 256, 210, [128, 64, 16, 2];
        MXFP4 = 39, mxfp4, quantized, 32, 17, [16, 1];
    } };
}
pub(crate) use computed_types;

/// What the table knows of one type.
struct Format {
    ty: TensorType,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    /// None for a type that the library only names.
    dequant: Option<Rows>,
    is_float: bool,
}

macro_rules! tensor_types {
    (
        { $($other:ident = $other_id:literal, $other_len:literal, $other_bytes:literal;)* }
        $($name:ident = $id:literal, $function:ident, $kind:ident, $len:literal, $bytes:literal, $planes:tt;)*
    ) => {
        /// A tensor type of the container. The number is the file's id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[allow(non_camel_case_types)]
        pub enum TensorType {
            $($name = $id,)*
            $($other = $other_id,)*
        }

        /// The computed types first.
        const FORMATS: &[Format] = &[
            $(Format {
                ty: TensorType::$name,
                name: stringify!($name),
                block_len: $len,
                block_bytes: $bytes,
                dequant: Some(dequant::$function),
                is_float: is_float!($kind),
            },)*
            $(Format {
                ty: TensorType::$other,
                name: stringify!($other),
                block_len: $other_len,
                block_bytes: $other_bytes,
                dequant: None,
                is_float: false,
            },)*
        ];

        const N_SUPPORTED: usize = [$(TensorType::$name),*].len();
    };
}

macro_rules! is_float {
    (float) => {
        true
    };
    (quantized) => {
        false
    };
}

// The types that are only named, with the sizes of ggml's blocks. Q8_1 and Q8_K hold activations and are not found in
// files; the missing numbers were types that no longer exist, or belong to forks.
computed_types! { tensor_types {
    // id, elements and bytes of a block
    Q8_1    =  9,  32,  36;
    Q8_K    = 15, 256, 292;
    IQ2_XXS = 16, 256,  66;
    IQ2_XS  = 17, 256,  74;
    IQ3_XXS = 18, 256,  98;
    IQ1_S   = 19, 256,  50;
    IQ4_NL  = 20,  32,  18;
    IQ3_S   = 21, 256, 110;
    IQ2_S   = 22, 256,  82;
    IQ4_XS  = 23, 256, 136;
    I8      = 24,   1,   1;
    I16     = 25,   1,   2;
    I32     = 26,   1,   4;
    I64     = 27,   1,   8;
    F64     = 28,   1,   8;
    IQ1_M   = 29, 256,  56;
    TQ1_0   = 34, 256,  54;
    TQ2_0   = 35, 256,  66;
    NVFP4   = 40,  64,  36;
    Q1_0    = 41, 128,  18;
    Q2_0    = 42,  64,  18;
} }

/// One more than the largest id.
const IDS: usize = {
    let (mut ids, mut row) = (0, 0);
    while row < FORMATS.len() {
        let id = FORMATS[row].ty as usize;
        ids = if id < ids { ids } else { id + 1 };
        row += 1;
    }
    ids
};

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
    /// How many types the library computes with.
    pub const N_SUPPORTED: usize = N_SUPPORTED;

    /// Bytes of the largest block of a type that the library computes with.
    pub const LARGEST_BLOCK: usize = {
        let (mut most, mut row) = (0, 0);
        while row < N_SUPPORTED {
            let bytes = FORMATS[row].block_bytes;
            most = if bytes < most { most } else { bytes };
            row += 1;
        }
        most
    };

    /// Every type that has a name, in the order of their ids.
    pub fn all() -> impl Iterator<Item = Self> {
        ROW.iter().flatten().map(|row| FORMATS[*row as usize].ty)
    }

    /// The types that the library computes with, in the order of their ids.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::all().filter(|ty| ty.is_supported())
    }

    /// Their names, comma-separated.
    pub fn supported_names() -> String {
        Self::supported().map(Self::name).collect::<Vec<_>>().join(", ")
    }

    /// Whether the library computes with it: every device does with each of these types.
    pub const fn is_supported(self) -> bool {
        self.format().dequant.is_some()
    }

    /// F32, F16 and BF16. Products with their values take f32 activations; those with quantized types take activations
    /// rounded to 8 bits.
    pub const fn is_float(self) -> bool {
        self.format().is_float
    }

    /// Which of [`N_SUPPORTED`](Self::N_SUPPORTED) it is, counted in the order of the table; None where it is none.
    #[cfg(feature = "hip")]
    pub(crate) const fn supported_index(self) -> Option<usize> {
        match ROW[self as usize] {
            Some(row) if (row as usize) < N_SUPPORTED => Some(row as usize),
            _ => None,
        }
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
