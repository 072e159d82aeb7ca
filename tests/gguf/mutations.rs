//! Random damage to the headers of real models: each outcome is a model or an error that names field
//! and byte, without a panic and without an allocation beyond the file's size.
use crate::common;
use crate::counting;

use common::gguf_writer::GgufWriter;
use common::models;
use counting::LARGEST;
use rocmforge::Error;
use rocmforge::gguf::{Array, Gguf, Value};
use rocmforge::model::arch;
use rocmforge::text::Vocab;

/// Of the 100,000, half for each model.
const MUTATIONS: u64 = 50_000;
const MUTATIONS_OF_FULL_HEADERS: u64 = 100;
/// Tokens that are left of a model's own.
const VOCABULARY: usize = 300;
/// Sizes of the models, and what they are shrunk to.
const SMOLLM2_SIZES: &[(u64, u64)] =
    &[(576, 96), (192, 32), (1536, 64), (49152, 300), (9, 3), (3, 1), (64, 32)];
const QWEN25_SIZES: &[(u64, u64)] = &[(896, 64), (128, 32), (4864, 256), (151936, 300), (14, 2), (2, 1)];
/// What the largest allocation may have over the file's size: room for an error's message, and for
/// the tables of a file that is nearly nothing.
const SLACK: usize = 4096;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A number that a careless reader stumbles over, or one near `old`.
fn number(random: &mut Random, old: u64, file_bytes: usize) -> u64 {
    let bit = random.below(64);
    let (base, around) = match random.below(8) {
        0 => (random.below(40) as u64, false),
        1 => (old, true),
        2 => (1 << bit, true),
        3 => (0, true),
        4 => (file_bytes as u64, true),
        5 => (old << bit, false),
        6 => (old.swap_bytes(), false),
        _ => (random.next() >> bit, false),
    };
    if around { base.wrapping_add_signed(random.below(5) as i64 - 2) } else { base }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = bytes.len().min(at + new.len());
    bytes[at..end].copy_from_slice(&new[..end - at]);
}

/// One to four changes to the first `header` bytes; now and then the file is cut short.
fn mutate(bytes: &mut Vec<u8>, header: usize, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(header);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 | 3 => {
                let old = bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
                let new = number(random, old.into(), bytes.len()) as u32;
                put(bytes, at, &new.to_le_bytes());
            }
            4 | 5 => {
                let old = bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
                let new = number(random, old, bytes.len());
                put(bytes, at, &new.to_le_bytes());
            }
            6 => {
                // Some of the header comes twice, or is lost.
                let other = random.below(header);
                let (start, end) = (at.min(other), at.max(other).min(at.min(other) + 64));
                let part: Vec<u8> = bytes[start..end].to_vec();
                if random.below(2) == 0 {
                    bytes.splice(start..start, part);
                } else {
                    bytes.drain(start..end);
                }
            }
            _ if random.below(8) == 0 => bytes.truncate(at.max(1)),
            _ => {
                let from = random.below(header);
                let part: Vec<u8> = bytes[from..bytes.len().min(from + 8)].to_vec();
                put(bytes, at, &part);
            }
        }
        if bytes.len() < header {
            return;
        }
    }
}

/// The real model's metadata and tensors, small: `VOCABULARY` tokens, three layers, and the sizes
/// that `sizes` has in place of its own. The tensors' data is zero.
fn shrunk(name: &str, sizes: &[(u64, u64)]) -> Vec<u8> {
    const LAYERS: u64 = 3;
    let file = Gguf::open(models::path(name)).unwrap();
    let small = |n: u64| sizes.iter().find(|(large, _)| *large == n).map_or(n, |(_, small)| *small);
    let tokens = match file.metadata().get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::String(tokens))) => &tokens[..VOCABULARY],
        other => panic!("{other:?}"),
    };

    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        let value = match value {
            Value::U32(_) if key.ends_with(".block_count") => Value::U32(LAYERS as u32),
            Value::U32(n) if key.ends_with("_token_id") => Value::U32(n % VOCABULARY as u32),
            Value::U32(n) if !key.starts_with("general.") => Value::U32(small((*n).into()) as u32),
            Value::Array(Array::String(v)) if key.ends_with(".merges") => {
                // Those that make a token which is still there.
                let made = |merge: &&String| tokens.contains(&merge.replace(' ', ""));
                Value::Array(Array::String(v.iter().take(2000).filter(made).cloned().collect()))
            }
            Value::Array(Array::String(v)) => {
                Value::Array(Array::String(v[..v.len().min(VOCABULARY)].to_vec()))
            }
            Value::Array(Array::I32(v)) => Value::Array(Array::I32(v[..v.len().min(VOCABULARY)].to_vec())),
            other => other.clone(),
        };
        writer = writer.meta(key, value);
    }
    for tensor in file.tensors() {
        let layer =
            tensor.name.strip_prefix("blk.").map(|rest| rest.split('.').next().unwrap().parse::<u64>());
        if layer.is_some_and(|layer| layer.unwrap() >= LAYERS) {
            continue;
        }
        let dims: Vec<u64> = tensor.dims[..tensor.n_dims].iter().map(|&n| small(n)).collect();
        let bytes = tensor.ty.row_bytes(dims.iter().product::<u64>() as usize).unwrap();
        writer = writer.tensor(&tensor.name, tensor.ty, &dims, vec![0; bytes]);
    }
    writer.build()
}

/// Opens `bytes`, holding the outcome to the rules; whether it opened.
fn check(bytes: Vec<u8>, what: &str) -> bool {
    let length = bytes.len();
    LARGEST.set(0);
    let outcome = Gguf::from_bytes(bytes, "mutated");
    let largest = LARGEST.get();
    assert!(largest <= length + SLACK, "{what}: {largest} bytes allocated at once for a file of {length}");
    match outcome {
        Ok(file) => {
            // What the file offers can be read.
            let bytes: usize = file.tensors().iter().map(|tensor| file.data(tensor).len()).sum();
            assert!(bytes <= length, "{what}");
            for tensor in file.tensors() {
                let blocks = tensor.row_len() / tensor.ty.block_len() * tensor.rows();
                assert_eq!(
                    tensor.bytes as usize,
                    blocks * tensor.ty.block_bytes(),
                    "{what}: {}",
                    tensor.name
                );
            }
            // So can the model and the vocabulary: they stand, or the error says why not.
            match arch::plan(&file) {
                Ok(_) => {}
                Err(Error::Model(_) | Error::UnknownArchitecture { .. } | Error::Unsupported { .. }) => {}
                Err(other) => panic!("{what}: {other}"),
            }
            match Vocab::from_metadata(file.metadata(), VOCABULARY) {
                Ok(_) => {}
                Err(Error::Model(_) | Error::Tokenizer(_) | Error::Unsupported { .. }) => {}
                Err(other) => panic!("{what}: {other}"),
            }
            let largest = LARGEST.get();
            assert!(
                largest <= length + SLACK,
                "{what}: {largest} bytes allocated at once by the model of a file of {length}"
            );
            true
        }
        Err(Error::Format { field, offset, why, .. }) => {
            assert!(
                !field.is_empty() && !why.is_empty() && offset <= length as u64,
                "{what}: {field} {offset} {why}"
            );
            false
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

fn mutations(name: &str, sizes: &[(u64, u64)], seed: u64) {
    let base = shrunk(name, sizes);
    let whole = Gguf::from_bytes(base.clone(), name).unwrap();
    arch::plan(&whole).unwrap();
    Vocab::from_metadata(whole.metadata(), VOCABULARY).unwrap();
    let header = whole.tensors()[0].offset as usize;
    let mut opened = 0;
    for i in 0..MUTATIONS {
        let mut bytes = base.clone();
        mutate(&mut bytes, header, &mut Random(seed + i));
        opened += check(bytes, &format!("{name}, seed {}", seed + i)) as u64;
    }
    // Enough of both, or the mutations are too mild or too harsh to mean anything.
    let share = opened as f64 / MUTATIONS as f64;
    assert!((0.02..0.98).contains(&share), "{opened} of {MUTATIONS} opened");
}

fn mutations_of_the_full_header(name: &str, seed: u64) {
    let path = models::path(name);
    let header = Gguf::open(&path).unwrap().tensors()[0].offset as usize;
    let base = {
        use std::io::Read;
        let mut base = Vec::new();
        std::fs::File::open(path).unwrap().take(header as u64).read_to_end(&mut base).unwrap();
        base
    };
    assert!(!check(base.clone(), name), "no data: the first tensor must be found to be cut off");
    for i in 0..MUTATIONS_OF_FULL_HEADERS {
        let mut bytes = base.clone();
        mutate(&mut bytes, header, &mut Random(seed + i));
        check(bytes, &format!("full header of {name}, seed {}", seed + i));
    }
}

/// Every number of the metadata in turn, alone and together with those that must agree with it: none sizes anything
/// before a tensor bears it out.
fn dimensions(name: &str, sizes: &[(u64, u64)]) {
    const TOGETHER: [&str; 3] = ["attention.key_length", "attention.value_length", "rope.dimension_count"];
    let base = Gguf::from_bytes(shrunk(name, sizes), name).unwrap();
    let arch = base.metadata().str("general.architecture").unwrap().unwrap().to_owned();
    let mut keys: Vec<Vec<String>> = base
        .metadata()
        .iter()
        .filter(|(key, value)| key.starts_with(&arch) && matches!(value, Value::U32(_)))
        .map(|(key, _)| vec![key.to_owned()])
        .collect();
    keys.push(TOGETHER.iter().map(|key| format!("{arch}.{key}")).collect());
    keys.push(TOGETHER[..2].iter().map(|key| format!("{arch}.{key}")).collect());
    for keys in keys {
        let around = (0..32).flat_map(|bit| [1u32 << bit, (1u32 << bit) - 1, (1u32 << bit) + 2]);
        for number in around.chain([u32::MAX]) {
            let mut writer = GgufWriter::new();
            for (key, value) in base.metadata().iter().filter(|(key, _)| !keys.iter().any(|k| k == key)) {
                writer = writer.meta(key, value.clone());
            }
            for key in &keys {
                writer = writer.meta(key, number);
            }
            for tensor in base.tensors() {
                let bytes = base.data(tensor).to_vec();
                writer = writer.tensor(&tensor.name, tensor.ty, &tensor.dims[..tensor.n_dims], bytes);
            }
            assert!(check(writer.build(), &format!("{name}, {keys:?} = {number}")));
        }
    }
}

#[test]
fn smollm2_dimensions() {
    dimensions(models::SMOLLM2, SMOLLM2_SIZES);
}

#[test]
fn qwen25_dimensions() {
    dimensions(models::QWEN25, QWEN25_SIZES);
}

/// The one way to an allocation beyond the file's size is a well-formed file that is nearly all short
/// strings: each takes 8 bytes there, 24 in memory.
#[test]
fn an_array_of_empty_strings() {
    let n = 1_000_000;
    let bytes = GgufWriter::new().meta("k", vec![""; n]).build();
    LARGEST.set(0);
    let file = Gguf::from_bytes(bytes, "empty strings").unwrap();
    assert_eq!(file.metadata().array("k").unwrap().unwrap().len(), n);
    assert_eq!(LARGEST.get(), n * size_of::<String>());
}

/// Values are read last: a file that is refused has cost nothing but its keys and names.
#[test]
fn a_refused_file_costs_nothing() {
    let writer = GgufWriter::new().meta("k", vec![""; 100_000]).meta("text", "x".repeat(1 << 20));
    let mut bytes = writer.f32_tensor("w", &[64], &[0.0; 64]).build();
    bytes.pop();
    LARGEST.set(0);
    let error = Gguf::from_bytes(bytes, "cut off").unwrap_err();
    assert!(LARGEST.get() < SLACK, "{} bytes for: {error}", LARGEST.get());
}

#[test]
fn smollm2() {
    mutations(models::SMOLLM2, SMOLLM2_SIZES, 1 << 32);
}

#[test]
fn qwen25() {
    mutations(models::QWEN25, QWEN25_SIZES, 2 << 32);
}

#[test]
fn smollm2_full_header() {
    mutations_of_the_full_header(models::SMOLLM2, 3 << 32);
}

#[test]
fn qwen25_full_header() {
    mutations_of_the_full_header(models::QWEN25, 4 << 32);
}
