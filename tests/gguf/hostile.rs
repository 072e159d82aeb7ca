//! Hand-made files for every limit of the format and every class of attack known from other readers:
//! each is an error that names the field and the byte where it starts.
use crate::common;

use common::gguf_writer::{GgufWriter, put_string};
use rocmforge::Error;
use rocmforge::gguf::{Array, Gguf, TensorType, Value};

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// First byte after magic, version and the two counts.
const FIRST_PAIR: usize = 24;

/// Bytes of a file, field by field.
struct Raw(Vec<u8>);

impl Raw {
    fn header(version: u32, tensors: u64, pairs: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(pairs)
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn string(mut self, v: &str) -> Self {
        put_string(&mut self.0, v);
        self
    }
    fn zeros(mut self, n: usize) -> Self {
        self.0.resize(self.0.len() + n, 0);
        self
    }
    /// One tensor "w".
    fn tensor(self, dims: &[u64], ty: u32, offset: u64) -> Self {
        let raw = self.string("w").u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &d| raw.u64(d)).u32(ty).u64(offset)
    }
    #[track_caller]
    fn fails(self, field: &str, offset: usize, why: &str) {
        fails(self.0, field, offset, why);
    }
}

/// Where the parts of the tensor "w" are, when it is all that follows the header.
mod at {
    pub const N_DIMS: usize = super::FIRST_PAIR + 8 + 1;
    pub const DIMS: usize = N_DIMS + 4;
    pub const fn ty(n_dims: usize) -> usize {
        DIMS + 8 * n_dims
    }
    pub const fn offset(n_dims: usize) -> usize {
        ty(n_dims) + 4
    }
}

#[track_caller]
fn fails(bytes: Vec<u8>, wanted_field: &str, wanted_offset: usize, wanted_why: &str) {
    let error = Gguf::from_bytes(bytes, "hostile.gguf").expect_err("must not be accepted");
    let text = error.to_string();
    let Error::Format { field, offset, why, .. } = error else { panic!("{text}") };
    assert_eq!((field.as_str(), offset), (wanted_field, wanted_offset as u64), "{text}");
    assert!(why.contains(wanted_why), "{text}");
    let start = format!("hostile.gguf: {wanted_field} at byte {wanted_offset}: ");
    assert!(text.starts_with(&start), "{text}");
}

fn accepted(bytes: Vec<u8>) -> Gguf {
    Gguf::from_bytes(bytes, "accepted.gguf").unwrap_or_else(|e| panic!("{e}"))
}

// The front.

#[test]
fn no_gguf() {
    fails(Vec::new(), "magic", 0, "4 bytes wanted, 0 left");
    fails(b"GG".to_vec(), "magic", 0, "4 bytes wanted, 2 left");
    fails(b"ggjt\x03\0\0\0".to_vec(), "magic", 0, "\"ggjt\" is not \"GGUF\"");
    fails(b"PK\x03\x04".to_vec(), "magic", 0, "not a GGUF file");
    fails(vec![0xff; 100], "magic", 0, "not a GGUF file");
}

#[test]
fn versions() {
    Raw::header(1, 0, 0).fails("version", 4, "version 1 is not supported");
    Raw::header(0, 0, 0).fails("version", 4, "unknown version 0");
    Raw::header(4, 0, 0).fails("version", 4, "unknown version 4; supported: 2, 3");
    Raw::header(u32::MAX, 0, 0).fails("version", 4, "unknown version");
    for version in [1u32, 2, 3] {
        Raw::header(version.swap_bytes(), 0, 0).fails("version", 4, "big-endian");
    }
    for version in [2, 3] {
        assert_eq!(accepted(Raw::header(version, 0, 0).0).version(), version);
    }
}

#[test]
fn every_truncation_of_a_small_file() {
    let whole = GgufWriter::new()
        .meta("general.architecture", "llama")
        .meta("a.float", 1.5f32)
        .meta("a.list", vec!["one", "", "three"])
        .meta("a.bools", vec![true, false])
        .meta("a.nested", Array::Array(vec![Array::U16(vec![1, 2]), Array::U16(vec![])]))
        .tensor("one", TensorType::Q4_0, &[64, 2], vec![1; 72])
        .f32_tensor("two", &[3], &[1.0, 2.0, 3.0])
        .build();
    accepted(whole.clone());
    for length in 0..whole.len() {
        let error = Gguf::from_bytes(whole[..length].to_vec(), "cut.gguf").expect_err("cut off");
        let Error::Format { field, offset, .. } = &error else { panic!("{length}: {error}") };
        assert!(!field.is_empty() && *offset <= length as u64, "{length}: {error}");
    }
}

#[test]
fn a_download_that_stopped() {
    let mut bytes = GgufWriter::new().tensor("w", TensorType::F32, &[1000], vec![0; 4000]).build();
    bytes.truncate(2000);
    fails(bytes, "tensor w: offset", at::offset(1), "the file at 2000: is the file cut off?");
}

// Counts. CVE-2024-23605: the number of pairs overflows an allocation's size.

#[test]
fn cve_2024_23605_pair_count() {
    for n in [1, 1 << 32, i64::MAX as u64, u64::MAX, u64::MAX / 56 + 1] {
        Raw::header(3, 0, n).fails("metadata pair count", 16, "do not fit in the 0 bytes left");
    }
    Raw::header(3, 0, 2).zeros(27).fails("metadata pair count", 16, "do not fit in the 27 bytes left");
}

#[test]
fn tensor_count() {
    for n in [1, 1 << 32, i64::MAX as u64, u64::MAX, u64::MAX / 96 + 1] {
        Raw::header(3, n, 0).fails("tensor count", 8, "do not fit in the 8 bytes left");
    }
}

// Strings and keys. CVE-2024-21802 and its kin: lengths that nobody checks.

#[test]
fn string_lengths() {
    for n in [15, 1 << 30, 1 << 31, (1 << 32) - 1, 1 << 32, i64::MAX as u64, u64::MAX] {
        Raw::header(3, 0, 1).u64(n).zeros(14).fails(
            "metadata key 0: length",
            FIRST_PAIR,
            "bytes wanted, 14 left",
        );
        Raw::header(3, 0, 1).string("k").u32(STRING).u64(n).zeros(14).fails(
            "metadata value k: length",
            FIRST_PAIR + 9 + 4,
            "bytes wanted, 14 left",
        );
        Raw::header(3, 0, 1).string("k").u32(ARRAY).u32(STRING).u64(1).u64(n).zeros(14).fails(
            "metadata value k[0]: length",
            FIRST_PAIR + 9 + 4 + 12,
            "bytes wanted, 14 left",
        );
        Raw::header(3, 1, 0).u64(n.max(64)).zeros(26).fails(
            "tensor 0: name: length",
            FIRST_PAIR,
            "bytes wanted, 26 left",
        );
    }
}

#[test]
fn keys() {
    Raw::header(3, 0, 1).string("").u32(U32).u32(0).zeros(2).fails("metadata key 0", FIRST_PAIR, "empty");
    let mut raw = Raw::header(3, 0, 1).u64(2);
    raw.0.extend([b'a', 0xff]);
    raw.u32(U32).u32(0).fails("metadata key 0", FIRST_PAIR, "not text");
    let long = "k".repeat(65536);
    Raw::header(3, 0, 1).string(&long).u32(U32).u32(0).fails(
        "metadata key 0: length",
        FIRST_PAIR,
        "at most 65535",
    );
    accepted(Raw::header(3, 0, 1).string(&long[1..]).u32(U32).u32(0).0);
    let pair = |raw: Raw| raw.string("some.key").u32(U32).u32(7);
    let one = FIRST_PAIR + 8 + 8 + 4 + 4;
    pair(pair(Raw::header(3, 0, 2))).fails("metadata key 1", one, "\"some.key\" is there twice");
}

#[test]
fn text_that_is_not_utf8_is_mended() {
    let mut raw = Raw::header(3, 0, 1).string("k").u32(STRING).u64(3);
    raw.0.extend([b'a', 0xff, b'b']);
    assert_eq!(accepted(raw.0).metadata().str("k").unwrap(), Some("a\u{fffd}b"));
}

#[test]
fn names_in_messages_are_short_and_visible() {
    let key = format!("\x1b[2J\n{}", "x".repeat(5000));
    let error = Gguf::from_bytes(Raw::header(3, 0, 1).string(&key).u32(13).0, "h").unwrap_err().to_string();
    assert!(error.contains("\\u{1b}[2J\\nxxx") && error.len() < 300 && !error.contains('\x1b'), "{error}");
}

// Values.

#[test]
fn value_types() {
    let ty = FIRST_PAIR + 9;
    for unknown in [13, 14, 255, 1 << 31, u32::MAX] {
        Raw::header(3, 0, 1).string("k").u32(unknown).zeros(8).fails(
            "metadata value k: type",
            ty,
            &format!("unknown value type {unknown}"),
        );
        Raw::header(3, 0, 1).string("k").u32(ARRAY).u32(unknown).u64(0).fails(
            "metadata value k: element type",
            ty + 4,
            &format!("unknown value type {unknown}"),
        );
    }
    // A value cut off, in a file that is long enough for a smallest pair.
    for id in [2, 3, 4, 5, 6, 8, 9, 10, 11, 12] {
        let left = if id <= 3 { 1 } else { 3 };
        let field = match id {
            8 => "metadata value key: length",
            9 => "metadata value key: element type",
            _ => "metadata value key",
        };
        Raw::header(3, 0, 1).string("key").u32(id).zeros(left).fails(field, ty + 2 + 4, "left in the file");
    }
}

#[test]
fn array_lengths() {
    let length = FIRST_PAIR + 9 + 4 + 4;
    for (ty, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (8, 8), (9, 12), (10, 8), (12, 8)]
    {
        for n in [
            240 / size + 1,
            1 << 30,
            u64::MAX / size,
            (u64::MAX / size).saturating_add(1),
            i64::MAX as u64,
            u64::MAX,
        ] {
            Raw::header(3, 0, 1).string("k").u32(ARRAY).u32(ty).u64(n).zeros(240).fails(
                "metadata value k: length",
                length,
                "do not fit in the 240 bytes left",
            );
        }
        let file = accepted(Raw::header(3, 0, 1).string("k").u32(ARRAY).u32(ty).u64(240 / size).zeros(240).0);
        assert_eq!(file.metadata().array("k").unwrap().unwrap().len() as u64, 240 / size);
    }
}

/// Lengths that the file has room for, but nobody has use for; the file is a hole on the disk.
#[test]
fn lengths_beyond_the_limits() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let open = |name: &str, raw: Raw, wanted: &str| {
        let path = dir.join(name);
        std::fs::write(&path, raw.0).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len((1 << 30) + 4096).unwrap();
        let error = Gguf::open(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let Error::Format { field, why, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (field.as_str(), why.contains("at most 1073741824 are allowed")),
            (wanted, true),
            "{error}"
        );
    };
    let n = (1 << 30) + 1;
    let pair = || Raw::header(3, 0, 1).string("k");
    open("string.gguf", pair().u32(STRING).u64(n), "metadata value k: length");
    open("array.gguf", pair().u32(ARRAY).u32(0).u64(n), "metadata value k: length");
}

#[test]
fn nested_arrays() {
    let nest = |depth: usize| {
        let raw =
            (1..depth).fold(Raw::header(3, 0, 1).string("k").u32(ARRAY), |raw, _| raw.u32(ARRAY).u64(1));
        raw.u32(U32).u64(1).u32(5)
    };
    let file = accepted(nest(4).0);
    let mut array = file.metadata().array("k").unwrap().unwrap();
    while let Array::Array(inner) = array {
        array = &inner[0];
    }
    assert_eq!(array, &Array::U32(vec![5]));
    let fifth = FIRST_PAIR + 9 + 4 + 4 * 12;
    nest(5).fails("metadata value k[0][0][0][0]", fifth, "nested more than 4 deep");
    nest(100_000).fails("metadata value k[0][0][0][0]", fifth, "nested more than 4 deep");
}

#[test]
fn alignments() {
    let value = FIRST_PAIR + 8 + 17 + 4;
    for bad in [0, 3, 31, 33, u32::MAX] {
        let file = GgufWriter::new().meta("general.alignment", bad).build();
        fails(file, "metadata value general.alignment", value, &format!("{bad} is not a power of two"));
    }
    for (bad, name) in
        [(Value::U64(32), "u64"), (Value::I32(32), "i32"), (Value::String("32".into()), "string")]
    {
        let file = GgufWriter::new().meta("general.alignment", bad).build();
        fails(file, "metadata value general.alignment", value, &format!("must be u32, but is {name}"));
    }
    for good in [1, 8, 64, 4096] {
        let file = GgufWriter::new()
            .alignment(good)
            .tensor("a", TensorType::I8, &[5], vec![1; 5])
            .tensor("b", TensorType::I8, &[3], vec![2; 3])
            .build();
        let file = accepted(file);
        assert_eq!(file.data(&file.tensors()[1]), [2; 3]);
        assert_eq!(file.tensors()[1].offset - file.tensors()[0].offset, 5u64.next_multiple_of(good.into()));
    }
    // The data would start far behind the end of the file.
    let file = GgufWriter::new().meta("general.alignment", 1u32 << 31).f32_tensor("w", &[1], &[1.0]).build();
    let offset = value + 4 + 8 + 1 + 4 + 8 + 4;
    fails(file, "tensor w: offset", offset, "of the data at byte 2147483648 on pass the end");
}

// The tensor directory.

#[test]
fn tensor_names() {
    let name = "n".repeat(64);
    Raw::header(3, 1, 0).string(&name).u32(1).u64(1).u32(0).u64(0).zeros(64).fails(
        "tensor 0: name: length",
        FIRST_PAIR,
        "64 bytes, at most 63 are allowed",
    );
    let longest = "n".repeat(63);
    let file = accepted(GgufWriter::new().f32_tensor(&longest, &[1], &[1.0]).build());
    assert!(file.tensor(&longest).is_some());

    let file = GgufWriter::new().f32_tensor("w", &[1], &[1.0]).f32_tensor("w", &[1], &[1.0]).build();
    fails(file, "tensor 1: name", at::offset(1) + 8, "\"w\" is there twice");
}

#[test]
fn dimension_counts() {
    for n in [0, 5, 1 << 31, u32::MAX] {
        Raw::header(3, 1, 0).string("w").u32(n).zeros(64).fails(
            "tensor w: dimension count",
            at::N_DIMS,
            &format!("{n} is not 1 to 4"),
        );
    }
}

#[test]
fn cve_2024_21802_dimensions() {
    for (j, bad) in [(0, u64::MAX), (1, 1 << 63), (3, i64::MIN as u64 + 5)] {
        let mut dims = [1; 4];
        dims[j] = bad;
        Raw::header(3, 1, 0).tensor(&dims, 0, 0).zeros(64).fails(
            &format!("tensor w: dimension {j}"),
            at::DIMS + 8 * j,
            "is negative",
        );
    }
    // Products that wrap to something small, or pass through it.
    for dims in [
        vec![1 << 32, 1 << 32],
        vec![1 << 62, 4],
        vec![1 << 32, 1 << 31],
        vec![i64::MAX as u64, 2],
        vec![1 << 33, 1 << 33, 0, 1],
        vec![0, 1 << 40, 1 << 40],
        vec![32, 1 << 20, 1 << 20, 1 << 20],
    ] {
        Raw::header(3, 1, 0).tensor(&dims, 0, 0).zeros(64).fails(
            "tensor w: dimensions",
            at::DIMS,
            "the number of elements overflows",
        );
    }
}

/// The number of elements fits, their size in bytes does not.
#[test]
fn cve_2026_33298_size_in_bytes() {
    for (dims, ty) in [(vec![1 << 62], 0), (vec![1 << 31, 1 << 31], 28), (vec![1 << 61, 2], 26)] {
        Raw::header(3, 1, 0).tensor(&dims, ty, 0).zeros(64).fails(
            "tensor w: dimensions",
            at::DIMS,
            "the size in bytes overflows",
        );
    }
}

/// Sizes that fit one by one, but their sum, or their place in the file, wraps.
#[test]
fn cve_2025_53630_and_2026_27940_sums() {
    let big = (1u64 << 62) - 8; // elements of 1 byte
    for offset in [0, 32, u64::MAX - 31, 1 << 63] {
        let bytes = Raw::header(3, 1, 0).tensor(&[big], 24, offset).zeros(64).0;
        let why = if offset == 0 { "pass the end of the file" } else { "the tensors before it end at 0" };
        fails(bytes, "tensor w: offset", at::offset(1), why);
    }
    // size + padding wraps to 0.
    let bytes = Raw::header(3, 1, 0).tensor(&[i64::MAX as u64 / 4 * 4 + 3], 24, 0).zeros(64).0;
    fails(bytes, "tensor w: offset", at::offset(1), "pass the end of the file");
    // f64: 2^60 + 2^60 - 1 rows: 8 * (2^61 - 1) = 2^64 - 8 bytes.
    let bytes = Raw::header(3, 1, 0).tensor(&[(1 << 61) - 1], 28, 0).zeros(64).0;
    fails(bytes, "tensor w: offset", at::offset(1), "the 18446744073709551608 bytes");
    // The second tensor's offset continues a sum that would have wrapped.
    let raw = Raw::header(3, 2, 0).tensor(&[(1 << 61) - 1], 28, 0);
    let bytes = raw.string("v").u32(1).u64(8).u32(24).u64(0).zeros(64).0;
    fails(bytes, "tensor w: offset", at::offset(1), "pass the end of the file");
}

/// Dimensions that declare more than the file holds.
#[test]
fn cve_2026_7482_dimensions_beyond_the_file() {
    for dims in [vec![17], vec![1 << 20, 1 << 10], vec![1 << 40]] {
        let elements: u64 = dims.iter().product();
        Raw::header(3, 1, 0).tensor(&dims, 0, 0).zeros(7 + 64).fails(
            "tensor w: offset",
            at::offset(dims.len()),
            &format!("the {} bytes from 0 of the data", elements * 4),
        );
    }
    // One byte short, and whole.
    let whole = GgufWriter::new().tensor("w", TensorType::F32, &[16], vec![9; 64]).build();
    fails(whole[..whole.len() - 1].to_vec(), "tensor w: offset", at::offset(1), "pass the end of the file");
    assert_eq!(accepted(whole).tensors()[0].bytes, 64);
}

#[test]
fn tensor_types() {
    for unknown in [4, 5, 31, 33, 36, 38, 43, 97, 1 << 31, u32::MAX] {
        Raw::header(3, 1, 0).tensor(&[32], unknown, 0).zeros(200).fails(
            "tensor w: type",
            at::ty(1),
            &format!("unknown tensor type {unknown} "),
        );
    }
    let error = Gguf::from_bytes(Raw::header(3, 1, 0).tensor(&[32], 31, 0).0, "h").unwrap_err().to_string();
    assert!(error.contains("forks"), "{error}");
}

#[test]
fn rows_are_whole_blocks() {
    for (ne0, ty, block) in
        [(31, TensorType::Q4_0, 32), (128, TensorType::Q4_K, 256), (1, TensorType::Q6_K, 256)]
    {
        Raw::header(3, 1, 0).tensor(&[ne0, 256], ty as u32, 0).zeros(65536).fails(
            "tensor w: dimension 0",
            at::DIMS,
            &format!("rows of {ne0} elements are not whole blocks of {block} ({ty})"),
        );
    }
}

#[test]
fn offsets() {
    Raw::header(3, 1, 0).tensor(&[4], 0, 4).zeros(128).fails(
        "tensor w: offset",
        at::offset(1),
        "4 is not a multiple of the alignment 32",
    );
    // A gap, which llama.cpp refuses too.
    Raw::header(3, 1, 0).tensor(&[4], 0, 32).zeros(128).fails(
        "tensor w: offset",
        at::offset(1),
        "32, but the tensors before it end at 0",
    );
    // Overlap.
    let raw = Raw::header(3, 2, 0).tensor(&[4], 0, 0).string("v").u32(1).u64(4).u32(0);
    let offset = raw.0.len();
    raw.u64(0).zeros(128).fails("tensor v: offset", offset, "0, but the tensors before it end at 32");
}

#[test]
fn empty_tensors_are_no_harm() {
    let file = GgufWriter::new()
        .tensor("none", TensorType::Q4_0, &[0, 5], vec![])
        .tensor("w", TensorType::F32, &[1, 0, 3], vec![])
        .build();
    let file = accepted([file, vec![0; 32]].concat());
    assert_eq!((file.tensors()[0].rows(), file.tensors()[1].rows()), (5, 0));
    assert!(file.tensors().iter().all(|t| file.data(t).is_empty()));
}

// Keys of the tokenizer and the split, as far as the container goes.

#[test]
fn typed_reads_name_key_type_and_value() {
    let file = GgufWriter::new()
        .meta("negative", -1i32)
        .meta("text", "x".repeat(100))
        .meta("list", vec![1u8, 2])
        .meta("half", 0.5f64)
        .build();
    let file = accepted(file);
    let m = file.metadata();
    for (error, wanted) in [
        (m.u64("negative").unwrap_err(), "metadata key negative must be an unsigned integer, but is i32 -1"),
        (m.u64("half").unwrap_err(), "metadata key half must be an unsigned integer, but is f64 0.5"),
        (m.f32("list").unwrap_err(), "metadata key list must be a float, but is array [u8; 2]"),
        (m.array("half").unwrap_err(), "metadata key half must be an array, but is f64 0.5"),
        (m.str("negative").unwrap_err(), "metadata key negative must be a string, but is i32 -1"),
    ] {
        assert!(matches!(error, Error::Model(_)));
        assert_eq!(error.to_string(), format!("model: {wanted}"));
    }
    let error = m.bool("text").unwrap_err().to_string();
    assert!(error.contains("must be a bool, but is string \"xxx") && error.len() < 150, "{error}");
    assert_eq!((m.f32("half").unwrap(), m.f32("missing").unwrap()), (Some(0.5), None));
}

#[test]
fn split_keys_of_the_wrong_type() {
    for bad in [Value::I32(-3), Value::String("3".into())] {
        let file = GgufWriter::new().meta("split.count", bad).build();
        fails(file, "metadata value split.count", FIRST_PAIR + 8 + 11 + 4, "must be an unsigned integer");
    }
    let file = GgufWriter::new().meta("split.count", 2u16).build();
    fails(file, "metadata value split.count", FIRST_PAIR + 8 + 11 + 4, "split.no is missing");
    accepted(GgufWriter::new().meta("split.count", 1u16).build());
    accepted(GgufWriter::new().meta("split.count", 0u16).meta("split.no", 0u16).build());
}
