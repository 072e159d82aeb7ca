//! Well-formed files: what is written is what is read.
use crate::common;

use common::gguf_writer::GgufWriter;
use common::models;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::{option, sample::select};
use rocmforge::gguf::{Array, Gguf, TensorType, Value};

#[test]
fn reads_back_what_was_written() {
    let a: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let bytes = GgufWriter::new()
        .meta("general.architecture", "llama")
        .meta("llama.block_count", 2u32)
        .meta("tokenizer.ggml.tokens", vec!["<s>", "", "Ġa"])
        .f32_tensor("a", &[3, 2], &a)
        .tensor("b", TensorType::Q8_0, &[32], vec![7; 34])
        .build();
    let file = Gguf::from_bytes(bytes, "test").unwrap();
    assert_eq!(file.version(), 3);
    assert_eq!(file.metadata().str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(file.metadata().u64("llama.block_count").unwrap(), Some(2));
    let [a, b] = file.tensors() else { panic!() };
    assert_eq!((a.name.as_str(), a.ty, a.dims, a.n_dims), ("a", TensorType::F32, [3, 2, 1, 1], 2));
    assert_eq!((a.row_len(), a.rows(), a.offset % 32), (3, 2, 0));
    assert_eq!(file.data(b), [7; 34]);
}

/// The facts are those that llama.cpp prints of them.
#[test]
fn opens_the_real_models() {
    let file = Gguf::open(models::path(models::SMOLLM2)).unwrap();
    assert_eq!(file.metadata().u64("llama.embedding_length").unwrap(), Some(576));
    assert_eq!(file.tensors().len(), 272);
    assert_eq!(file.metadata().array("tokenizer.ggml.tokens").unwrap().unwrap().len(), 49152);

    let file = Gguf::open(models::path(models::QWEN25)).unwrap();
    let output = file.tensor("output.weight").unwrap();
    assert_eq!((output.ty, output.dims), (TensorType::Q8_0, [896, 151936, 1, 1]));
}

/// How much of the map around `data` is in this process's memory now.
#[cfg(target_os = "linux")]
fn resident_kib(data: &[u8]) -> u64 {
    let holds_data = |line: &str| {
        let range = line.split(' ').next()?.split_once('-')?;
        let parse = |hex| usize::from_str_radix(hex, 16).ok();
        Some((parse(range.0)?..parse(range.1)?).contains(&(data.as_ptr() as usize)))
    };
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| holds_data(line) != Some(true));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    rss.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn forgotten_pages_leave_memory() {
    let file = Gguf::open(models::path(models::SMOLLM2)).unwrap();
    let info = file.tensor("token_embd.weight").unwrap();
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| b as u64).sum::<u64>();
    file.prefetch(info);
    let before = sum(file.data(info));
    let touched = resident_kib(file.data(info));
    file.forget_pages(info);
    let forgotten = touched - resident_kib(file.data(info));
    let whole = info.bytes / 1024;
    assert!(forgotten.abs_diff(whole) <= 8, "{forgotten} KiB of {whole} went");
    assert_eq!(sum(file.data(info)), before);
}

// Any file that can be written.

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        array().prop_map(Value::Array),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    let flat = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(any::<String>(), 0..9).prop_map(Array::String),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ];
    flat.prop_recursive(3, 30, 4, |inner| vec(inner, 0..4).prop_map(Array::Array))
}

/// Type, dimensions and bytes.
fn tensor() -> impl Strategy<Value = (TensorType, Vec<u64>, Vec<u8>)> {
    let types: Vec<TensorType> = TensorType::all().collect();
    (select(types), 0..3u64, vec(0..4u64, 0..4), any::<u8>()).prop_map(|(ty, blocks, rows, fill)| {
        let dims = [vec![blocks * ty.block_len() as u64], rows].concat();
        let bytes = ty.row_bytes(dims.iter().product::<u64>() as usize).unwrap();
        (ty, dims, (0..bytes).map(|i| fill.wrapping_add(i as u8)).collect())
    })
}

proptest! {
    #[test]
    fn anything_written_is_read_back(
        version in 2..=3u32,
        alignment in option::of((0..8u32).prop_map(|n| 1 << n)),
        pairs in btree_map("[a-z.\\u{e4}]{1,20}", value(), 0..12),
        tensors in btree_map("[ -~]{0,63}", tensor(), 0..8),
    ) {
        let mut writer = GgufWriter::new().version(version);
        if let Some(alignment) = alignment {
            writer = writer.alignment(alignment);
        }
        for (key, value) in &pairs {
            writer = writer.meta(key, value.clone());
        }
        for (name, (ty, dims, bytes)) in &tensors {
            writer = writer.tensor(name, *ty, dims, bytes.clone());
        }
        let file = Gguf::from_bytes(writer.build(), "any").unwrap();

        prop_assert_eq!(file.version(), version);
        let skip = alignment.is_some() as usize;
        prop_assert_eq!(file.metadata().len(), pairs.len() + skip);
        for ((key, found), (wanted_key, wanted)) in file.metadata().iter().skip(skip).zip(&pairs) {
            prop_assert_eq!(key, wanted_key);
            // As text, in which one NaN is another.
            prop_assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (info, (name, (ty, dims, bytes))) in file.tensors().iter().zip(&tensors) {
            prop_assert_eq!((&info.name, info.ty, &info.dims[..info.n_dims]), (name, *ty, &dims[..]));
            prop_assert_eq!(info.offset % u64::from(alignment.unwrap_or(32)), 0);
            prop_assert_eq!(file.data(info), bytes);
        }
    }
}
