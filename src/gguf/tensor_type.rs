//! Tensor types by id, name and block size; the table every reader of weights goes by.

/// A tensor type of the container. The number is the file's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(non_camel_case_types)]
pub enum TensorType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

impl TensorType {
    pub fn from_id(_id: u32) -> Option<Self> {
        todo!()
    }

    /// The name as the peers print it: "Q4_K", "F16".
    pub fn name(self) -> &'static str {
        todo!()
    }

    /// Elements per block.
    pub fn block_len(self) -> usize {
        todo!()
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        todo!()
    }

    /// Bytes of a row of `len` elements; None unless `len` is whole blocks and fits.
    pub fn row_bytes(self, len: usize) -> Option<usize> {
        (len.is_multiple_of(self.block_len()))
            .then(|| (len / self.block_len()).checked_mul(self.block_bytes()))?
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
