//! The header's parser: bounded, checked, naming field and offset in every error.
//!
//! No number of the file is trusted before it is held against what is left of the file, and the
//! values of the metadata are read only when all else has been checked: a file that is refused costs
//! no more memory than its keys and its tensors' names. (One that is not: 24 bytes for each string of
//! an array, which takes 8 bytes and its text in the file.)

use std::collections::HashSet;
use std::fmt::{Arguments, Display};
use std::path::Path;

use super::metadata::TYPE_NAMES;
use super::{Array, Metadata, TensorInfo, TensorType, Value};
use crate::{Error, Result, memory};

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_STRING_BYTES: u64 = 1 << 30;
const MAX_ARRAY_LEN: u64 = 1 << 30;
const MAX_KEY_BYTES: u64 = u16::MAX as u64;
/// Names have at most one byte less.
const MAX_NAME_BYTES: u64 = 64;
const MAX_DIMS: u32 = 4;
/// Arrays of arrays: no writer is known to go beyond one level.
const MAX_ARRAY_DEPTH: usize = 4;

/// The fewest bytes that can hold a string (its length), a pair (key of one byte, type, value of one
/// byte) and a tensor of the directory (empty name, one dimension).
const MIN_STRING: u64 = 8;
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// Value types that are spoken of by name; the others are numbers and bools.
const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// What memory is for, in errors.
const KEYS: &str = "the file's metadata keys";
const VALUES: &str = "the file's metadata";
const TENSORS: &str = "the file's tensors";

/// What the front of one file says.
pub(super) struct Header {
    pub version: u32,
    pub metadata: Metadata,
    /// Where the value of each pair of `metadata` starts in the file.
    pub value_offsets: Vec<u64>,
    /// Their `file` is 0.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    pub fn read(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut c = Cursor { bytes, path, at: 0 };
        let version = version(&mut c)?;
        let n_tensors = c.count(format_args!("tensor count"), MIN_TENSOR)?;
        let n_pairs = c.count(format_args!("metadata pair count"), MIN_PAIR)?;
        let pairs = pairs(&mut c, n_pairs)?;
        let alignment = alignment(&c, &pairs)?;
        let tensors = tensors(&mut c, n_tensors, alignment)?;
        let value_offsets = memory::collect(pairs.iter().map(|pair| pair.at as u64), KEYS)?;
        Ok(Self { version, metadata: metadata(&c, pairs)?, value_offsets, tensors })
    }
}

/// The error for `field`, which starts at `offset` of `path`.
pub(super) fn format_error(path: &Path, field: impl Display, offset: u64, why: impl Display) -> Error {
    Error::Format { path: path.to_owned(), field: field.to_string(), offset, why: why.to_string() }
}

/// Reads forward through the file's bytes. `at` never passes their end.
struct Cursor<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn error<T>(&self, field: Arguments<'_>, offset: usize, why: impl Display) -> Result<T> {
        Err(format_error(self.path, field, offset as u64, why))
    }

    fn take(&mut self, field: Arguments<'_>, n: u64) -> Result<&'a [u8]> {
        if n > self.left() {
            let why = format!("{n} bytes wanted, {} left in the file", self.left());
            return self.error(field, self.at, why);
        }
        let start = self.at;
        self.at += n as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, field: Arguments<'_>) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N as u64)?);
        Ok(array)
    }

    fn u32(&mut self, field: Arguments<'_>) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: Arguments<'_>) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A number of things of at least `min_bytes` each, all of which follow.
    fn count(&mut self, field: Arguments<'_>, min_bytes: u64) -> Result<u64> {
        let start = self.at;
        let n = self.u64(field)?;
        if n > self.left() / min_bytes {
            let why = format!(
                "{n} entries of at least {min_bytes} bytes do not fit in the {} bytes left in the file",
                self.left()
            );
            return self.error(field, start, why);
        }
        Ok(n)
    }

    /// The bytes of a string.
    fn text(&mut self, field: Arguments<'_>, max_bytes: u64) -> Result<&'a [u8]> {
        let start = self.at;
        let n = self.u64(format_args!("{field}: length"))?;
        let why = if n > self.left() {
            format!("{n} bytes wanted, {} left in the file", self.left())
        } else if n > max_bytes {
            format!("{n} bytes, at most {max_bytes} are allowed")
        } else {
            return self.take(field, n);
        };
        self.error(format_args!("{field}: length"), start, why)
    }

    fn string(&mut self, field: Arguments<'_>, max_bytes: u64) -> Result<String> {
        mended(self.text(field, max_bytes)?)
    }

    /// Room for `n` things, but no more memory than there are bytes left: `n` is only a claim, and
    /// things in memory may be larger than in the file.
    fn reserve<T>(&self, n: u64) -> Result<Vec<T>> {
        memory::vec(n.min(self.left() / size_of::<T>() as u64) as usize, TENSORS)
    }
}

/// The text, with U+FFFD for what is not UTF-8; allocates exactly what that takes.
fn mended(text: &[u8]) -> Result<String> {
    if let Ok(text) = str::from_utf8(text) {
        return memory::text(text, VALUES);
    }
    let size =
        |chunk: std::str::Utf8Chunk<'_>| chunk.valid().len() + if chunk.invalid().is_empty() { 0 } else { 3 };
    let bytes = text.utf8_chunks().map(size).sum();
    let mut string = String::new();
    memory::asking(|| string.try_reserve_exact(bytes)).map_err(|_| memory::exhausted(VALUES, bytes))?;
    for chunk in text.utf8_chunks() {
        string.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            string.push(char::REPLACEMENT_CHARACTER);
        }
    }
    Ok(string)
}

fn version(c: &mut Cursor<'_>) -> Result<u32> {
    let magic: [u8; 4] = c.array(format_args!("magic"))?;
    if magic != MAGIC {
        let why = format!("\"{}\" is not \"GGUF\": not a GGUF file", magic.escape_ascii());
        return c.error(format_args!("magic"), 0, why);
    }
    let field = format_args!("version");
    match c.u32(field)? {
        version @ (2 | 3) => Ok(version),
        1 => c.error(field, 4, "version 1 is not supported (2 and 3 are): convert the model again"),
        swapped if matches!(swapped.swap_bytes(), 1..=3) => c.error(
            field,
            4,
            format!(
                "{swapped:#010x} is version {} with its bytes swapped: a big-endian file, which is not supported",
                swapped.swap_bytes()
            ),
        ),
        other => c.error(field, 4, format!("unknown version {other}; supported: 2, 3")),
    }
}

/// A pair whose value is well-formed, but not yet read.
struct Pair<'a> {
    key: &'a str,
    /// The value's type, and where it starts.
    ty: u32,
    at: usize,
}

fn pairs<'a>(c: &mut Cursor<'a>, n: u64) -> Result<Vec<Pair<'a>>> {
    let mut pairs = Vec::new();
    let mut keys = HashSet::new();
    for i in 0..n {
        let start = c.at;
        let key = c.text(format_args!("metadata key {i}"), MAX_KEY_BYTES)?;
        let key = match str::from_utf8(key) {
            Ok("") => return c.error(format_args!("metadata key {i}"), start, "the key is empty"),
            Ok(key) => key,
            Err(e) => {
                return c.error(format_args!("metadata key {i}"), start, format!("the key is not text: {e}"));
            }
        };
        memory::reserve_set(&mut keys, 1, KEYS)?;
        if !keys.insert(key) {
            let why = format!("key \"{}\" is there twice", Short(key));
            return c.error(format_args!("metadata key {i}"), start, why);
        }
        let type_at = c.at;
        let ty = c.u32(format_args!("metadata value {}: type", Short(key)))?;
        if ty as usize >= TYPE_NAMES.len() {
            return unknown_type(c, format_args!("metadata value {}: type", Short(key)), type_at, ty);
        }
        let at = c.at;
        check_value(c, format_args!("metadata value {}", Short(key)), ty, 0)?;
        memory::push(&mut pairs, Pair { key, ty, at }, KEYS)?;
    }
    Ok(pairs)
}

/// A name of the file in an error message: cut short, and no control characters.
pub(crate) struct Short<'a>(pub &'a str);

impl Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LONGEST: usize = 80; // characters
        let end = self.0.char_indices().nth(LONGEST).map_or(self.0.len(), |(end, _)| end);
        write!(f, "{}{}", self.0[..end].escape_debug(), if end < self.0.len() { "..." } else { "" })
    }
}

fn unknown_type<T>(c: &Cursor<'_>, field: Arguments<'_>, at: usize, ty: u32) -> Result<T> {
    let last = TYPE_NAMES.len() - 1;
    let why =
        format!("unknown value type {ty}; known: 0 ({}) to {last} ({})", TYPE_NAMES[0], TYPE_NAMES[last]);
    c.error(field, at, why)
}

/// The fewest bytes that a value of the known type `ty` takes.
fn min_bytes(ty: u32) -> u64 {
    match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        STRING => MIN_STRING,
        ARRAY => 4 + 8,
        _ => 8,
    }
}

/// Passes over a value of the known type `ty` that is `depth` arrays deep.
fn check_value(c: &mut Cursor<'_>, field: Arguments<'_>, ty: u32, depth: usize) -> Result<()> {
    match ty {
        STRING => c.text(field, MAX_STRING_BYTES).map(drop),
        ARRAY => check_array(c, field, depth),
        _ => c.take(field, min_bytes(ty)).map(drop),
    }
}

fn check_array(c: &mut Cursor<'_>, field: Arguments<'_>, depth: usize) -> Result<()> {
    let start = c.at;
    if depth == MAX_ARRAY_DEPTH {
        return c.error(field, start, format!("arrays nested more than {MAX_ARRAY_DEPTH} deep"));
    }
    let ty = c.u32(format_args!("{field}: element type"))?;
    if ty as usize >= TYPE_NAMES.len() {
        return unknown_type(c, format_args!("{field}: element type"), start, ty);
    }
    let length_at = c.at;
    let n = c.count(format_args!("{field}: length"), min_bytes(ty))?;
    if n > MAX_ARRAY_LEN {
        let why = format!("{n} elements, at most {MAX_ARRAY_LEN} are allowed");
        return c.error(format_args!("{field}: length"), length_at, why);
    }
    if ty == STRING || ty == ARRAY {
        (0..n).try_for_each(|i| check_value(c, format_args!("{field}[{i}]"), ty, depth + 1))
    } else {
        // `count` has made sure that the product is within the file.
        c.take(field, n * min_bytes(ty)).map(drop)
    }
}

fn metadata(c: &Cursor<'_>, pairs: Vec<Pair<'_>>) -> Result<Metadata> {
    let read = |pair: Pair<'_>| {
        let mut c = Cursor { at: pair.at, ..*c };
        let value = value(&mut c, format_args!("metadata value {}", Short(pair.key)), pair.ty)?;
        Ok((memory::text(pair.key, KEYS)?, value))
    };
    Metadata::from_pairs(memory::try_collect(pairs.into_iter().map(read), KEYS)?)
}

/// Reads a value that `check_value` has passed.
fn value(c: &mut Cursor<'_>, field: Arguments<'_>, ty: u32) -> Result<Value> {
    Ok(match ty {
        0 => Value::U8(u8::from_le_bytes(c.array(field)?)),
        1 => Value::I8(i8::from_le_bytes(c.array(field)?)),
        2 => Value::U16(u16::from_le_bytes(c.array(field)?)),
        3 => Value::I16(i16::from_le_bytes(c.array(field)?)),
        4 => Value::U32(u32::from_le_bytes(c.array(field)?)),
        5 => Value::I32(i32::from_le_bytes(c.array(field)?)),
        6 => Value::F32(f32::from_le_bytes(c.array(field)?)),
        7 => Value::Bool(c.array::<1>(field)? != [0]),
        STRING => Value::String(c.string(field, MAX_STRING_BYTES)?),
        ARRAY => Value::Array(array(c, field)?),
        10 => Value::U64(u64::from_le_bytes(c.array(field)?)),
        11 => Value::I64(i64::from_le_bytes(c.array(field)?)),
        _ => Value::F64(f64::from_le_bytes(c.array(field)?)),
    })
}

fn array(c: &mut Cursor<'_>, field: Arguments<'_>) -> Result<Array> {
    let ty = c.u32(field)?;
    let n = c.u64(field)?;
    Ok(match ty {
        0 => Array::U8(numbers(c, field, n, u8::from_le_bytes)?),
        1 => Array::I8(numbers(c, field, n, i8::from_le_bytes)?),
        2 => Array::U16(numbers(c, field, n, u16::from_le_bytes)?),
        3 => Array::I16(numbers(c, field, n, i16::from_le_bytes)?),
        4 => Array::U32(numbers(c, field, n, u32::from_le_bytes)?),
        5 => Array::I32(numbers(c, field, n, i32::from_le_bytes)?),
        6 => Array::F32(numbers(c, field, n, f32::from_le_bytes)?),
        7 => Array::Bool(numbers(c, field, n, |b: [u8; 1]| b != [0])?),
        STRING => Array::String(each(n, || c.string(field, MAX_STRING_BYTES))?),
        ARRAY => Array::Array(each(n, || array(c, field))?),
        10 => Array::U64(numbers(c, field, n, u64::from_le_bytes)?),
        11 => Array::I64(numbers(c, field, n, i64::from_le_bytes)?),
        _ => Array::F64(numbers(c, field, n, f64::from_le_bytes)?),
    })
}

fn numbers<T, const N: usize>(
    c: &mut Cursor<'_>,
    field: Arguments<'_>,
    n: u64,
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let bytes = c.take(field, n * N as u64)?;
    let mut all = memory::vec(n as usize, VALUES)?;
    all.extend(bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)));
    Ok(all)
}

fn each<T>(n: u64, mut read: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    let mut all = memory::vec(n as usize, VALUES)?;
    for _ in 0..n {
        all.push(read()?);
    }
    Ok(all)
}

fn alignment(c: &Cursor<'_>, pairs: &[Pair<'_>]) -> Result<u64> {
    const KEY: &str = "general.alignment";
    let Some(pair) = pairs.iter().find(|pair| pair.key == KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    let field = format_args!("metadata value {KEY}");
    if pair.ty != U32 {
        let why = format!("must be u32, but is {}", TYPE_NAMES[pair.ty as usize]);
        return c.error(field, pair.at, why);
    }
    match (Cursor { at: pair.at, ..*c }).u32(field)? {
        n if n.is_power_of_two() => Ok(n.into()),
        n => c.error(field, pair.at, format!("{n} is not a power of two")),
    }
}

/// The directory, and the place of each tensor's data: they follow each other in the directory's
/// order, each padded to the alignment, from the first aligned byte after the directory. llama.cpp
/// demands the same; a damaged offset would else show only as a model that talks nonsense.
fn tensors(c: &mut Cursor<'_>, n: u64, alignment: u64) -> Result<Vec<TensorInfo>> {
    let mut tensors: Vec<TensorInfo> = c.reserve(n)?;
    let mut offset_fields = c.reserve(n)?;
    let mut names = HashSet::new();
    for i in 0..n {
        let (info, offset_at) = tensor(c, i, &mut names)?;
        memory::push(&mut tensors, info, TENSORS)?;
        memory::push(&mut offset_fields, offset_at, TENSORS)?;
    }
    let data_start = (c.at as u64).next_multiple_of(alignment);
    let file_bytes = c.bytes.len() as u64;
    let mut expected: u64 = 0;
    for (info, at) in tensors.iter_mut().zip(offset_fields) {
        let field = format_args!("tensor {}: offset", Short(&info.name));
        if !info.offset.is_multiple_of(alignment) {
            let why = format!("{} is not a multiple of the alignment {alignment}", info.offset);
            return c.error(field, at, why);
        }
        if info.offset != expected {
            let why = format!("{}, but the tensors before it end at {expected}", info.offset);
            return c.error(field, at, why);
        }
        let end = data_start.checked_add(info.offset).and_then(|start| start.checked_add(info.bytes));
        match end {
            Some(end) if end <= file_bytes => {
                info.offset += data_start;
                // Cannot overflow: both are at most the file's length, and alignment is 32 bits.
                expected = (expected + info.bytes).next_multiple_of(alignment);
            }
            _ => {
                let why = format!(
                    "the {} bytes from {} of the data at byte {data_start} on pass the end of the file at \
                     {file_bytes}: is the file cut off?",
                    info.bytes, info.offset
                );
                return c.error(field, at, why);
            }
        }
    }
    Ok(tensors)
}

/// One entry, its `offset` still as the file has it, and where that field is.
fn tensor(c: &mut Cursor<'_>, i: u64, names: &mut HashSet<String>) -> Result<(TensorInfo, usize)> {
    let start = c.at;
    let name = c.string(format_args!("tensor {i}: name"), MAX_NAME_BYTES - 1)?;
    memory::reserve_set(names, 1, TENSORS)?;
    if !names.insert(memory::text(&name, TENSORS)?) {
        let why = format!("name \"{}\" is there twice", Short(&name));
        return c.error(format_args!("tensor {i}: name"), start, why);
    }
    let short = Short(&name);

    let at = c.at;
    let n_dims = c.u32(format_args!("tensor {short}: dimension count"))?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let why = format!("{n_dims} is not 1 to {MAX_DIMS}");
        return c.error(format_args!("tensor {short}: dimension count"), at, why);
    }
    let dims_at = c.at;
    let mut dims = [1; MAX_DIMS as usize];
    for (j, dim) in dims[..n_dims as usize].iter_mut().enumerate() {
        let at = c.at;
        *dim = c.u64(format_args!("tensor {short}: dimension {j}"))?;
        if *dim > i64::MAX as u64 {
            let why = format!("{} is negative", *dim as i64);
            return c.error(format_args!("tensor {short}: dimension {j}"), at, why);
        }
    }
    // Without the zeros, so that every partial product is in range too.
    let elements = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim.max(1)));
    if elements.is_none_or(|n| n > i64::MAX as u64) {
        let why = format!("{dims:?}: the number of elements overflows");
        return c.error(format_args!("tensor {short}: dimensions"), dims_at, why);
    }

    let at = c.at;
    let id = c.u32(format_args!("tensor {short}: type"))?;
    let Some(ty) = TensorType::from_id(id) else {
        let why = format!(
            "unknown tensor type {id} (ids 0 to {} are known, with gaps; forks give numbers of their own)",
            TensorType::all().last().map_or(0, |ty| ty as u32)
        );
        return c.error(format_args!("tensor {short}: type"), at, why);
    };
    let (block_len, block_bytes) = (ty.block_len() as u64, ty.block_bytes() as u64);
    if !dims[0].is_multiple_of(block_len) {
        let why = format!("rows of {} elements are not whole blocks of {block_len} ({ty})", dims[0]);
        return c.error(format_args!("tensor {short}: dimension 0"), dims_at, why);
    }
    let elements: u64 = dims.iter().product();
    let Some(bytes) = (elements / block_len).checked_mul(block_bytes) else {
        let why = format!("{dims:?} of {ty}: the size in bytes overflows");
        return c.error(format_args!("tensor {short}: dimensions"), dims_at, why);
    };

    let at = c.at;
    let offset = c.u64(format_args!("tensor {short}: offset"))?;
    Ok((TensorInfo { name, ty, dims, n_dims: n_dims as usize, file: 0, offset, bytes }, at))
}
