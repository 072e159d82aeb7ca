//! Against files and numbers of llama.cpp and the `gguf` package: `tests/data/gguf/make.py`.

use std::path::{Path, PathBuf};

use rocmforge::Error;
use rocmforge::gguf::{Array, Gguf, TensorType, Value};
use serde_json::Value as Json;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

#[test]
fn tensor_types_are_as_ggml_has_them() {
    let table = std::fs::read_to_string(data("types.tsv")).unwrap();
    let mut known = TensorType::all();
    for line in table.lines() {
        let [id, name, block_len, block_bytes] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let id: u32 = id.parse().unwrap();
        let ty = TensorType::from_id(id).unwrap_or_else(|| panic!("{line}: not known"));
        assert_eq!(known.next(), Some(ty));
        assert_eq!(ty as u32, id);
        assert_eq!(ty.name(), name.to_uppercase());
        assert_eq!(ty.block_len().to_string(), block_len, "{ty}");
        assert_eq!(ty.block_bytes().to_string(), block_bytes, "{ty}");
        assert_eq!(ty.row_bytes(3 * ty.block_len()), Some(3 * ty.block_bytes()), "{ty}");
        assert_eq!(
            ty.row_bytes(usize::MAX / ty.block_len() * ty.block_len()).is_some(),
            ty.block_bytes() <= ty.block_len()
        );
    }
    assert_eq!(known.next(), None);
    assert_eq!(TensorType::Q4_K.row_bytes(255), None);
    for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, 64, 255, 256, u32::MAX] {
        assert_eq!(TensorType::from_id(id), None, "{id}");
    }
}

fn same_scalar(found: &Value, ty: &str, wanted: &Json) -> bool {
    found.type_name() == ty
        && match found {
            Value::U8(v) => wanted.as_u64() == Some((*v).into()),
            Value::U16(v) => wanted.as_u64() == Some((*v).into()),
            Value::U32(v) => wanted.as_u64() == Some((*v).into()),
            Value::U64(v) => wanted.as_u64() == Some(*v),
            Value::I8(v) => wanted.as_i64() == Some((*v).into()),
            Value::I16(v) => wanted.as_i64() == Some((*v).into()),
            Value::I32(v) => wanted.as_i64() == Some((*v).into()),
            Value::I64(v) => wanted.as_i64() == Some(*v),
            Value::F32(v) => wanted.as_f64() == Some((*v).into()),
            Value::F64(v) => wanted.as_f64() == Some(*v),
            Value::Bool(v) => wanted.as_bool() == Some(*v),
            Value::String(v) => wanted.as_str() == Some(v),
            Value::Array(_) => false,
        }
}

fn elements(array: &Array) -> Vec<Value> {
    fn all<T: Clone>(v: &[T], wrap: fn(T) -> Value) -> Vec<Value> {
        v.iter().cloned().map(wrap).collect()
    }
    match array {
        Array::U8(v) => all(v, Value::U8),
        Array::I8(v) => all(v, Value::I8),
        Array::U16(v) => all(v, Value::U16),
        Array::I16(v) => all(v, Value::I16),
        Array::U32(v) => all(v, Value::U32),
        Array::I32(v) => all(v, Value::I32),
        Array::F32(v) => all(v, Value::F32),
        Array::Bool(v) => all(v, Value::Bool),
        Array::String(v) => all(v, Value::String),
        Array::Array(v) => all(v, Value::Array),
        Array::U64(v) => all(v, Value::U64),
        Array::I64(v) => all(v, Value::I64),
        Array::F64(v) => all(v, Value::F64),
    }
}

fn check_tensors(file: &Gguf, wanted: &Json) {
    let wanted = wanted["tensors"].as_array().unwrap();
    assert_eq!(file.tensors().len(), wanted.len());
    for (info, wanted) in file.tensors().iter().zip(wanted) {
        assert_eq!(info.name, wanted["name"]);
        assert_eq!(info.ty.name(), wanted["type"], "{}", info.name);
        let dims: Vec<u64> = wanted["dims"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
        assert_eq!(info.dims[..info.n_dims], dims, "{}", info.name);
        assert!(info.dims[info.n_dims..].iter().all(|&d| d == 1), "{}", info.name);
        assert_eq!((info.row_len() * info.rows()) as u64, dims.iter().product::<u64>(), "{}", info.name);
        let hex: String = file.data(info).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, wanted["bytes"], "{}", info.name);
        file.prefetch(info);
        file.forget_pages(info);
        let again: String = file.data(info).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(again, hex, "{}: after its pages were forgotten", info.name);
        assert!(std::ptr::eq(file.tensor(&info.name).unwrap(), info));
    }
    assert!(file.tensor("no such").is_none());
}

#[test]
fn reads_what_the_gguf_package_writes() {
    let wanted: Json = serde_json::from_slice(&std::fs::read(data("all.json")).unwrap()).unwrap();
    let mapped = Gguf::open(data("all.gguf")).unwrap();
    let owned = Gguf::from_bytes(std::fs::read(data("all.gguf")).unwrap(), "all.gguf").unwrap();
    for file in [mapped, owned] {
        assert_eq!(file.version(), 3);
        assert_eq!(file.file_bytes(), std::fs::metadata(data("all.gguf")).unwrap().len());
        let pairs = wanted["metadata"].as_array().unwrap();
        assert_eq!(file.metadata().len(), pairs.len());
        for ((key, found), wanted) in file.metadata().iter().zip(pairs) {
            assert_eq!(key, wanted["key"]);
            match found {
                Value::Array(array) => {
                    let (of, values) = (wanted["of"].as_str().unwrap(), wanted["value"].as_array().unwrap());
                    let found = elements(array);
                    assert_eq!(
                        (found.len(), array.len(), array.element_type_name()),
                        (values.len(), values.len(), of)
                    );
                    assert!(found.iter().zip(values).all(|(f, w)| same_scalar(f, of, w)), "{key}: {found:?}");
                }
                one => assert!(
                    same_scalar(one, wanted["type"].as_str().unwrap(), &wanted["value"]),
                    "{key}: {one:?}"
                ),
            }
        }
        check_tensors(&file, &wanted);
    }
}

// Splits, as llama-gguf-split writes them.

fn part(no: usize) -> String {
    format!("all-{no:05}-of-00003.gguf")
}

/// A folder with copies of the three parts.
fn split_copies(folder: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for no in 1..=3 {
        std::fs::copy(data(&part(no)), folder.join(part(no))).unwrap();
    }
    folder
}

#[test]
fn a_split_model_reads_as_the_whole() {
    let wanted: Json = serde_json::from_slice(&std::fs::read(data("all.json")).unwrap()).unwrap();
    let file = Gguf::open(data(&part(1))).unwrap();
    assert_eq!(file.path(), data(&part(1)));
    assert_eq!(
        file.file_bytes(),
        (1..=3).map(|no| std::fs::metadata(data(&part(no))).unwrap().len()).sum::<u64>()
    );
    assert_eq!(file.metadata().u64("split.count").unwrap(), Some(3));
    check_tensors(&file, &wanted);
    assert_eq!(file.tensors().last().unwrap().file, 2);
}

#[test]
fn a_later_part_names_the_first() {
    let error = Gguf::open(data(&part(3))).unwrap_err();
    let Error::Format { field, offset, why, .. } = &error else { panic!("{error}") };
    assert_eq!(field, "metadata value split.no");
    assert!(*offset > 0);
    assert!(why.contains("part 3 of 3") && why.contains(data(&part(1)).to_str().unwrap()), "{why}");
}

#[test]
fn a_missing_part_is_named() {
    let folder = split_copies("missing_part");
    std::fs::remove_file(folder.join(part(2))).unwrap();
    let error = Gguf::open(folder.join(part(1))).unwrap_err();
    let Error::Io { path, source, .. } = &error else { panic!("{error}") };
    assert_eq!(path, &folder.join(part(2)));
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("part of the split model"), "{error}");
}

#[test]
fn parts_that_do_not_belong_together_are_errors() {
    // The third part in the second's place.
    let folder = split_copies("swapped_parts");
    std::fs::copy(data(&part(3)), folder.join(part(2))).unwrap();
    let error = Gguf::open(folder.join(part(1))).unwrap_err();
    let Error::Format { path, field, why, .. } = &error else { panic!("{error}") };
    assert_eq!((path, field.as_str()), (&folder.join(part(2)), "metadata value split.no"));
    assert_eq!(why, "2, but the name says 1");

    // A first part under a name from which the others' cannot be told.
    let folder = split_copies("renamed_part");
    std::fs::rename(folder.join(part(1)), folder.join("all.gguf")).unwrap();
    let error = Gguf::open(folder.join("all.gguf")).unwrap_err();
    let Error::Format { field, why, .. } = &error else { panic!("{error}") };
    assert_eq!(field, "metadata value split.count");
    assert!(why.contains("-00001-of-00003.gguf"), "{why}");

    // Keys of the second part changed: where it stands, and how many there are.
    for (key, bad, wanted) in [
        ("split.count", 4u16.to_le_bytes(), "4, but the first part says 3"),
        ("split.no", 7u16.to_le_bytes(), "7, but the name says 1"),
    ] {
        let folder = split_copies(key);
        let path = folder.join(part(2));
        let (mut bytes, at) = (std::fs::read(&path).unwrap(), value_offset(&path, key));
        bytes[at..at + 2].copy_from_slice(&bad);
        std::fs::write(&path, bytes).unwrap();
        let error = Gguf::open(folder.join(part(1))).unwrap_err();
        let Error::Format { path: found, field, offset, why } = &error else { panic!("{error}") };
        assert_eq!((found, field, *offset), (&path, &format!("metadata value {key}"), at as u64));
        assert_eq!(why, wanted);
    }

    // The first part's count of all tensors.
    let folder = split_copies("tensor_count");
    let path = folder.join(part(1));
    let (mut bytes, at) = (std::fs::read(&path).unwrap(), value_offset(&path, "split.tensors.count"));
    bytes[at..at + 4].copy_from_slice(&33i32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = Gguf::open(&path).unwrap_err();
    let Error::Format { field, offset, why, .. } = &error else { panic!("{error}") };
    assert_eq!((field.as_str(), *offset), ("metadata value split.tensors.count", at as u64));
    assert_eq!(why, "33, but the 3 parts hold 32");

    // A tensor in two parts: one of the second gets the name, as long, of one of the first.
    let folder = split_copies("twice");
    let path = folder.join(part(2));
    let file = Gguf::open(folder.join(part(1))).unwrap();
    let (second, first) = file.tensors()[12..24]
        .iter()
        .find_map(|b| Some((b, file.tensors()[..12].iter().find(|a| a.name.len() == b.name.len())?)))
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(second.name.len()).position(|w| w == second.name.as_bytes()).unwrap();
    bytes[at..at + first.name.len()].copy_from_slice(first.name.as_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = Gguf::open(folder.join(part(1))).unwrap_err();
    let Error::Format { path: found, field, why, .. } = &error else { panic!("{error}") };
    assert_eq!((found, field), (&path, &format!("tensor {}: data", first.name)));
    assert!(why.contains(&part(1)), "{why}");

    // Bytes cannot say where the other parts are.
    let error = Gguf::from_bytes(std::fs::read(data(&part(1))).unwrap(), "bytes").unwrap_err();
    assert!(error.to_string().contains("one of 3 parts"), "{error}");
}

/// Where the bytes of `key` are followed by type and value.
fn value_offset(path: &Path, key: &str) -> usize {
    let bytes = std::fs::read(path).unwrap();
    bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4
}

#[test]
fn what_is_not_a_file_is_an_error() {
    for path in [data("no such file"), data("")] {
        let error = Gguf::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Io { path: found, .. } if found == &path), "{error}");
    }
}
