//! `inspect`: what a file holds.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Result;
use rocmforge::gguf::{Array, Gguf, TensorInfo, Value};
use rocmforge::model::arch;
use serde_json::{Value as Json, json};

use crate::terminal::visible;

#[derive(clap::Args)]
pub struct Args {
    /// Model file (GGUF; a split model by its first part)
    #[arg(short, long)]
    model: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print arrays and long texts whole; without it the first elements stand for an array, in JSON too
    #[arg(long)]
    full: bool,
}

/// Elements of an array and characters of a text that are shown without --full.
const SHOWN_ELEMENTS: usize = 6;
const SHOWN_CHARS: usize = 100;

pub fn run(args: Args) -> Result<()> {
    let file = Gguf::open(&args.model)?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        writeln!(out, "{}", one_spelling(&serde_json::to_string_pretty(&describe(&file, args.full))?))?;
    } else {
        print(&file, args.full, &mut out)?;
    }
    out.flush()?;
    Ok(())
}

/// The model in words, or why it cannot be run.
struct Model {
    words: Vec<String>,
    ignored: Vec<String>,
    refused: Option<String>,
}

impl Model {
    fn of(file: &Gguf) -> Model {
        match arch::plan(file) {
            Ok((config, plan)) => {
                let mut words = vec![format!(
                    "{}: {} layers, {} wide, {} tokens, trained for {} positions",
                    visible(&config.arch),
                    config.n_layer,
                    config.n_embd,
                    config.n_vocab,
                    config.n_ctx_train
                )];
                words.extend(plan.layers_in_words());
                Model { words, ignored: plan.ignored_in_words(), refused: None }
            }
            Err(e) => Model { words: Vec::new(), ignored: Vec::new(), refused: Some(e.to_string()) },
        }
    }
}

/// Count and bytes of the tensors of each type.
fn by_type(file: &Gguf) -> BTreeMap<&'static str, (u64, u64)> {
    let mut types = BTreeMap::new();
    for t in file.tensors() {
        let entry: &mut (u64, u64) = types.entry(t.ty.name()).or_default();
        entry.0 += 1;
        entry.1 += t.bytes;
    }
    types
}

fn dims(t: &TensorInfo) -> &[u64] {
    &t.dims[..t.n_dims.min(t.dims.len())]
}

fn print(file: &Gguf, full: bool, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "{}: GGUF v{}, {} bytes, {} keys, {} tensors\n",
        visible(&file.path().display().to_string()),
        file.version(),
        file.file_bytes(),
        file.metadata().len(),
        file.tensors().len()
    )?;
    for (key, value) in file.metadata().iter() {
        writeln!(out, "{:<48} {:<12} {}", visible(key), type_name(value), text(value, full))?;
    }
    writeln!(out)?;
    for t in file.tensors() {
        let dims = dims(t).iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
        writeln!(out, "{:<48} {:<8} {dims:<20} {:>12} bytes", visible(&t.name), t.ty.name(), t.bytes)?;
    }
    writeln!(out)?;
    for (ty, (count, bytes)) in by_type(file) {
        writeln!(out, "{ty:<8} {count:>5} tensors {bytes:>14} bytes")?;
    }
    writeln!(out)?;
    let Model { words, ignored, refused } = Model::of(file);
    for line in words {
        writeln!(out, "{line}")?;
    }
    for line in ignored {
        writeln!(out, "not used: {}", visible(&line))?;
    }
    if let Some(why) = refused {
        writeln!(out, "it cannot be run: {}", visible(&why))?;
    }
    Ok(())
}

fn describe(file: &Gguf, full: bool) -> Json {
    let metadata: serde_json::Map<String, Json> = file
        .metadata()
        .iter()
        .map(|(key, value)| (key.to_owned(), json!({ "type": type_name(value), "value": json(value, full) })))
        .collect();
    let tensors: Vec<Json> = file
        .tensors()
        .iter()
        .map(|t| {
            json!({
                "name": t.name, "type": t.ty.name(), "dims": dims(t),
                "file": t.file, "offset": t.offset, "bytes": t.bytes,
            })
        })
        .collect();
    let Model { words, ignored, refused } = Model::of(file);
    json!({
        "model": { "words": words, "not_used": ignored, "refused": refused },
        "path": file.path().to_string_lossy(),
        "version": file.version(),
        "file_bytes": file.file_bytes(),
        "metadata": metadata,
        "tensors": tensors,
    })
}

fn type_name(value: &Value) -> String {
    match value {
        Value::U8(_) => "u8".into(),
        Value::I8(_) => "i8".into(),
        Value::U16(_) => "u16".into(),
        Value::I16(_) => "i16".into(),
        Value::U32(_) => "u32".into(),
        Value::I32(_) => "i32".into(),
        Value::F32(_) => "f32".into(),
        Value::Bool(_) => "bool".into(),
        Value::String(_) => "string".into(),
        Value::U64(_) => "u64".into(),
        Value::I64(_) => "i64".into(),
        Value::F64(_) => "f64".into(),
        Value::Array(array) => {
            let (element, len, _) = elements(array, 0);
            format!("{element}[{len}]")
        }
    }
}

/// Element type, length and the first `limit` elements of an array.
fn elements(array: &Array, limit: usize) -> (&'static str, usize, Vec<Json>) {
    fn first<T>(v: &[T], limit: usize, json: impl Fn(&T) -> Json) -> (usize, Vec<Json>) {
        (v.len(), v.iter().take(limit).map(json).collect())
    }
    let (name, (len, shown)) = match array {
        Array::U8(v) => ("u8", first(v, limit, |x| json!(x))),
        Array::I8(v) => ("i8", first(v, limit, |x| json!(x))),
        Array::U16(v) => ("u16", first(v, limit, |x| json!(x))),
        Array::I16(v) => ("i16", first(v, limit, |x| json!(x))),
        Array::U32(v) => ("u32", first(v, limit, |x| json!(x))),
        Array::I32(v) => ("i32", first(v, limit, |x| json!(x))),
        Array::F32(v) => ("f32", first(v, limit, float)),
        Array::Bool(v) => ("bool", first(v, limit, |x| json!(x))),
        Array::String(v) => ("string", first(v, limit, |x| json!(x))),
        Array::U64(v) => ("u64", first(v, limit, |x| json!(x))),
        Array::I64(v) => ("i64", first(v, limit, |x| json!(x))),
        Array::F64(v) => ("f64", first(v, limit, float)),
        Array::Array(v) => ("array", first(v, limit, |x| Json::Array(elements(x, limit).2))),
    };
    (name, len, shown)
}

/// The shortest decimal that gives the float back; what JSON has no number for, by name.
fn float<T: std::fmt::Display>(v: &T) -> Json {
    let text = v.to_string();
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => json!(x),
        _ => json!(text),
    }
}

fn json(value: &Value, full: bool) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => float(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => float(v),
        Value::Array(array) => Json::Array(elements(array, if full { usize::MAX } else { SHOWN_ELEMENTS }).2),
    }
}

/// JSON with the control characters that it may hold as they are, DEL to U+009F, escaped too: a terminal may obey them.
/// (They occur in strings only.)
fn one_spelling(json: &str) -> String {
    let is_bare = |c| matches!(c, '\u{7f}'..='\u{9f}');
    let mut out = String::with_capacity(json.len());
    for part in json.split_inclusive(is_bare) {
        let text = part.trim_end_matches(is_bare);
        out.push_str(text);
        out.extend(part[text.len()..].chars().map(|c| format!("\\u{:04x}", u32::from(c))));
    }
    out
}

/// One line: JSON, cut short where it is long.
fn text(value: &Value, full: bool) -> String {
    let cut_array = match value {
        Value::Array(array) if !full => elements(array, 0).1 > SHOWN_ELEMENTS,
        _ => false,
    };
    let line = match value {
        Value::String(v) if !full && v.chars().count() > SHOWN_CHARS => {
            let head: String = v.chars().take(SHOWN_CHARS).collect();
            return format!("{}...", one_spelling(&json!(head).to_string()));
        }
        _ => one_spelling(&json(value, full).to_string()),
    };
    match line.strip_suffix(']') {
        Some(head) if cut_array => format!("{head},...]"),
        _ => line,
    }
}
