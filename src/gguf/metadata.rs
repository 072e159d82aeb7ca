//! Typed key-value metadata.

/// One metadata value. Strings are UTF-8 as far as the file keeps its promise; bytes that are not
/// are replaced (U+FFFD).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one element type, kept packed.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// All pairs of a file, in file order, found by key.
#[derive(Clone, Debug, Default)]
pub struct Metadata {}

impl Metadata {
    /// From pairs in order; later duplicates of a key are dropped (the reader refuses them first).
    pub fn from_pairs(_pairs: Vec<(String, Value)>) -> Self {
        todo!()
    }
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        std::iter::empty()
    }
    pub fn at(&self, _index: usize) -> Option<(&str, &Value)> {
        todo!()
    }
    pub fn get(&self, _key: &str) -> Option<&Value> {
        todo!()
    }
    /// Any integer type that holds a non-negative value; Err(Error::Model) names key, found type and value.
    pub fn u64(&self, _key: &str) -> crate::Result<Option<u64>> {
        todo!()
    }
    /// f32 or f64.
    pub fn f32(&self, _key: &str) -> crate::Result<Option<f32>> {
        todo!()
    }
    pub fn bool(&self, _key: &str) -> crate::Result<Option<bool>> {
        todo!()
    }
    pub fn str(&self, _key: &str) -> crate::Result<Option<&str>> {
        todo!()
    }
    pub fn array(&self, _key: &str) -> crate::Result<Option<&Array>> {
        todo!()
    }
}
