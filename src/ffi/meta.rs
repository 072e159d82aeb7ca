//! The model file's metadata: typed pairs, by index or key.

#![allow(non_camel_case_types)]

use std::ffi::c_char;

use super::args::{Buffer, Out, c_text};
use super::failure::{Failure, Outcome};
use super::guard::guard;
use super::handle;
use super::model::{copies, found, rf_model};
use super::sized::{self, Sized};
use super::status::rf_status;
use crate::gguf::{Array, Short, Value};
use crate::memory::Writer;

/// Types of metadata values, as GGUF numbers them: u8, 8 bits, unsigned.
pub const RF_META_U8: i32 = 0;
/// i8: 8 bits, signed.
pub const RF_META_I8: i32 = 1;
/// u16.
pub const RF_META_U16: i32 = 2;
/// i16.
pub const RF_META_I16: i32 = 3;
/// u32.
pub const RF_META_U32: i32 = 4;
/// i32.
pub const RF_META_I32: i32 = 5;
/// f32: single precision.
pub const RF_META_F32: i32 = 6;
/// True or false.
pub const RF_META_BOOL: i32 = 7;
/// UTF-8 text.
pub const RF_META_STRING: i32 = 8;
/// An array of one of these types.
pub const RF_META_ARRAY: i32 = 9;
/// u64.
pub const RF_META_U64: i32 = 10;
/// i64.
pub const RF_META_I64: i32 = 11;
/// f64: double precision.
pub const RF_META_F64: i32 = 12;

/// One pair of the metadata.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_meta_details {
    /// sizeof(rf_meta_details), set by the caller.
    pub size: usize,
    /// "llama.block_count". Valid as long as the model.
    pub key: *const c_char,
    /// RF_META_U8 to RF_META_F64.
    pub kind: i32,
    /// Of an array: the type of its elements. Otherwise the same as `kind`.
    pub element_kind: i32,
    /// Of an array: how many elements. Otherwise 1.
    pub n_elements: usize,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_meta_details {
    const NAME: &'static str = "rf_meta_details";
}

/// How many pairs of metadata the file has. RF_ERROR_PARAM: a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_count(model: *const rf_model, n: *mut usize) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, out) = unsafe { (handle::share(model)?, Out::new(n, "n")?) };
        out.set(model.model.file().metadata().len());
        Ok(())
    })
}

/// Describes pair `index`, from 0, in file order. Set info->size first.
/// RF_ERROR_PARAM: an index beyond the last, a NULL or a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_at(
    model: *const rf_model,
    index: usize,
    info: *mut rf_meta_details,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, out) = unsafe { (handle::share(model)?, sized::Out::new(info)?) };
        let (kind, element_kind, n_elements) = match value(&model, index)? {
            Value::Array(array) => (RF_META_ARRAY, array.element_type_id() as i32, array.len()),
            value => (value.type_id() as i32, value.type_id() as i32, 1),
        };
        let names = model.model.file().metadata().iter().map(|(key, _)| key);
        let keys = copies(&model.meta_keys, names, "the metadata's keys")?;
        out.set(rf_meta_details { size: 0, key: keys[index].as_ptr(), kind, element_kind, n_elements });
        Ok(())
    })
}

/// Finds a pair by key. RF_NOT_FOUND: there is none; *index is untouched. RF_ERROR_PARAM: a NULL, or the key is not UTF-8.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_find(
    model: *const rf_model,
    key: *const c_char,
    index: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers, and NUL-terminated text.
        let (model, key, out) =
            unsafe { (handle::share(model)?, c_text(key, "key")?, Out::new(index, "index")?) };
        let position = model.model.file().metadata().iter().position(|(k, _)| k == key);
        out.set(found(position, "metadata key", key)?);
        Ok(())
    })
}

/// The whole value as text: a string as it is, numbers in decimal, booleans as true and false, arrays as JSON.
///
/// `buffer` takes `capacity` bytes; *n is the size that suffices, the closing NUL included. RF_ERROR_BUFFER: it is more
/// than `capacity`; nothing else is written (ask with NULL and 0 for the size). RF_ERROR_PARAM: an index beyond the last, a NULL.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_text(
    model: *const rf_model,
    index: usize,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers, `capacity` bytes in `buffer`.
        let (model, buffer) = unsafe { (handle::share(model)?, Buffer::text(buffer, capacity, n)?) };
        match value(&model, index)? {
            Value::String(text) => buffer.fill_text(text),
            Value::Array(array) => {
                let mut text = Writer::new("the value as text");
                // the writer knows why it fails
                let _ = write_array(array, &mut text);
                buffer.fill_text(&text.finish()?)
            }
            scalar => buffer.fill_text(&json(scalar).to_string()),
        }
    })
}

/// One string: the value itself (`element` 0), or an element of an array of strings. Buffer and errors as in
/// rf_model_meta_text; RF_ERROR_PARAM also when it is no string. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_string(
    model: *const rf_model,
    index: usize,
    element: usize,
    buffer: *mut c_char,
    capacity: usize,
    n: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers, `capacity` bytes in `buffer`.
        let (model, buffer) = unsafe { (handle::share(model)?, Buffer::text(buffer, capacity, n)?) };
        let text = match value(&model, index)? {
            Value::String(text) if element == 0 => Some(text),
            Value::Array(Array::String(list)) => list.get(element),
            _ => None,
        };
        match text {
            Some(text) => buffer.fill_text(text),
            None => Err(mismatch(&model, index, &scalar(&model, index, element)?, "string")),
        }
    })
}

/// One number: the value itself (`element` 0), or an element of an array; booleans are 0 and 1.
/// RF_ERROR_PARAM: it is no integer or does not fit, an index beyond the last, a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_u64(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut u64,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe { number_at(model, index, element, number, "u64", |i| i.try_into().ok(), |_| None) }
}

/// As rf_model_meta_u64, for numbers that may be negative. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_i64(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut i64,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe { number_at(model, index, element, number, "i64", |i| i.try_into().ok(), |_| None) }
}

/// As rf_model_meta_u64, for any number (integers beyond 2^53 are rounded). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_meta_f64(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut f64,
) -> rf_status {
    // SAFETY: the caller passes NULL or valid pointers.
    unsafe { number_at(model, index, element, number, "f64", |i| Some(i as f64), Some) }
}

/// # Safety
/// `model` is NULL or a live handle, `number` NULL or writable.
unsafe fn number_at<T>(
    model: *const rf_model,
    index: usize,
    element: usize,
    number: *mut T,
    name: &str,
    integer: impl Fn(i128) -> Option<T>,
    float: impl Fn(f64) -> Option<T>,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (model, out) = unsafe { (handle::share(model)?, Out::new(number, "number")?) };
        let value = scalar(&model, index, element)?;
        let number = match value {
            Value::U8(v) => integer(v.into()),
            Value::I8(v) => integer(v.into()),
            Value::U16(v) => integer(v.into()),
            Value::I16(v) => integer(v.into()),
            Value::U32(v) => integer(v.into()),
            Value::I32(v) => integer(v.into()),
            Value::U64(v) => integer(v.into()),
            Value::I64(v) => integer(v.into()),
            Value::Bool(v) => integer(v.into()),
            Value::F32(v) => float(v.into()),
            Value::F64(v) => float(v),
            Value::String(_) | Value::Array(_) => None,
        };
        out.set(number.ok_or_else(|| mismatch(&model, index, &value, name))?);
        Ok(())
    })
}

fn value(model: &rf_model, index: usize) -> Outcome<&Value> {
    let metadata = model.model.file().metadata();
    let (_, value) = metadata
        .at(index)
        .ok_or_else(|| Failure::param(format!("metadata pair {index} of {}", metadata.len())))?;
    Ok(value)
}

/// The value itself, or an element of the array that it is; of strings, for messages only, no more than a beginning.
fn scalar(model: &rf_model, index: usize, element: usize) -> Outcome<Value> {
    let (n, at) = match value(model, index)? {
        Value::Array(array) => (array.len(), element_at(array, element)),
        _ if element > 0 => (1, None),
        Value::String(text) => (1, Some(short(text))),
        value => (1, Some(value.clone())),
    };
    at.ok_or_else(|| Failure::param(format!("element {element} of {n} of metadata pair {index}")))
}

fn mismatch(model: &rf_model, index: usize, value: &Value, wanted: &str) -> Failure {
    let key = model.model.file().metadata().at(index).map_or("", |(key, _)| key);
    Failure::param(format!("metadata key '{key}' does not fit {wanted}: {}", json(value)))
}

/// Does `$body` with `$list` bound to the array's elements and `$make` to the matching Value.
macro_rules! each_array {
    ($array:expr, $list:ident, $make:ident, $body:expr) => {
        match $array {
            Array::U8($list) => {
                use Value::U8 as $make;
                $body
            }
            Array::I8($list) => {
                use Value::I8 as $make;
                $body
            }
            Array::U16($list) => {
                use Value::U16 as $make;
                $body
            }
            Array::I16($list) => {
                use Value::I16 as $make;
                $body
            }
            Array::U32($list) => {
                use Value::U32 as $make;
                $body
            }
            Array::I32($list) => {
                use Value::I32 as $make;
                $body
            }
            Array::F32($list) => {
                use Value::F32 as $make;
                $body
            }
            Array::Bool($list) => {
                use Value::Bool as $make;
                $body
            }
            Array::String($list) => {
                use Value::String as $make;
                $body
            }
            Array::Array($list) => {
                use Value::Array as $make;
                $body
            }
            Array::U64($list) => {
                use Value::U64 as $make;
                $body
            }
            Array::I64($list) => {
                use Value::I64 as $make;
                $body
            }
            Array::F64($list) => {
                use Value::F64 as $make;
                $body
            }
        }
    };
}

fn short(text: &str) -> Value {
    Value::String(Short(text).to_string())
}

fn element_at(array: &Array, index: usize) -> Option<Value> {
    if let Array::String(list) = array {
        return list.get(index).map(|text| short(text));
    }
    if let Array::Array(list) = array {
        return list.get(index).map(|array| short(&array.to_string()));
    }
    each_array!(array, list, make, list.get(index).cloned().map(make))
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::Bool(v) => (*v).into(),
        Value::F32(v) => float(v.to_string(), f64::from(*v)),
        Value::F64(v) => float(v.to_string(), *v),
        Value::String(v) => v.as_str().into(),
        Value::Array(v) => v.to_string().into(),
    }
}

/// The shortest decimal that reads back as the same number of its own type; JSON has no NaN or infinity: text.
fn float(text: String, value: f64) -> serde_json::Value {
    if !value.is_finite() {
        return text.into();
    }
    text.parse::<f64>().map_or(value.into(), Into::into)
}

fn write_array(array: &Array, out: &mut Writer<'_>) -> serde_json::Result<()> {
    fn write<T>(
        list: &[T],
        out: &mut Writer<'_>,
        mut element: impl FnMut(&T, &mut Writer<'_>) -> serde_json::Result<()>,
    ) -> serde_json::Result<()> {
        out.push("[");
        for (i, value) in list.iter().enumerate() {
            if i > 0 {
                out.push(",");
            }
            element(value, out)?;
        }
        out.push("]");
        Ok(())
    }
    match array {
        Array::String(list) => write(list, out, |text, out| serde_json::to_writer(out, text)),
        Array::Array(list) => write(list, out, write_array),
        array => each_array!(array, list, make, {
            write(list, out, |element, out| {
                serde_json::to_writer(out, &json(&make(ToOwned::to_owned(element))))
            })
        }),
    }
}
