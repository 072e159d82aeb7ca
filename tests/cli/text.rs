//! What a file says of its vocabulary, as the command line shows it.

use crate::cli_common;
use crate::common;

use cli_common::{Scratch, rocmforge, stderr, stdout};
use common::gguf_writer::GgufWriter;
use common::tiny_model::TinyModel;
use rocmforge::gguf::{Array, Value};

const TOKENS: [&str; 6] = ["<s>", "</s>", "h", "e", "l", "o"];

/// A model that says something or other, over six tokens.
fn model(more: &[(&str, Value)]) -> Vec<u8> {
    let model = TinyModel { n_vocab: TOKENS.len(), ..TinyModel::new("llama") };
    pairs(more).into_iter().fold(model, |model, (key, value)| model.meta(&key, value)).bytes()
}

fn pairs(more: &[(&str, Value)]) -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let mut pairs = vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(TOKENS.map(String::from).to_vec()))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![3, 3, 1, 1, 1, 1]))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(Vec::new()))),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
    ];
    pairs.extend(more.iter().cloned());
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[test]
fn a_vocabulary_alone_is_tokenized_and_not_run() {
    let scratch = Scratch::new("vocabulary");
    let file = GgufWriter::new().meta("general.architecture", "llama");
    let file = pairs(&[]).into_iter().fold(file, |file, (key, value)| file.meta(&key, value));
    let path = scratch.write("vocabulary.gguf", &file.build());
    assert_eq!(stdout(rocmforge(&["tokenize", "-m", &path, "-p", "hello", "--ids"])), "[2, 3, 4, 4, 5]\n");
    assert!(stdout(rocmforge(&["inspect", "-m", &path])).contains("tokenizer.ggml.tokens"));
    let output = rocmforge(&["generate", "--device", "cpu", "-m", &path, "-p", "hello"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("no tensors") && message.contains("no model to run"), "{message}");
}

#[test]
fn a_prompt_goes_on_where_it_ends() {
    let scratch = Scratch::new("add-eos");
    let run = |name: &str, more: &[(&str, Value)]| {
        let path = scratch.write(name, &model(more));
        let args = [
            "generate",
            "--device",
            "cpu",
            "-t",
            "1",
            "--temp",
            "0",
            "-n",
            "12",
            "--special",
            "--ignore-eos",
        ];
        stdout(rocmforge(&[&args[..], &["-m", &path, "-p", "hello"]].concat()))
    };
    let plain = run("plain.gguf", &[]);
    assert_eq!(run("eos.gguf", &[("tokenizer.ggml.add_eos_token", Value::Bool(true))]), plain);
    // the prompt matters to this model
    assert_ne!(run("bos.gguf", &[("tokenizer.ggml.add_bos_token", Value::Bool(true))]), plain);
}

#[test]
fn a_second_bos_is_warned_of() {
    let scratch = Scratch::new("double-bos");
    let path = scratch.write("model.gguf", &model(&[("tokenizer.ggml.add_bos_token", Value::Bool(true))]));
    let run = |prompt: &str| {
        let output = rocmforge(&["tokenize", "-m", &path, "-p", prompt, "--ids"]);
        (stderr(&output), stdout(output))
    };
    let (log, ids) = run("<s>h");
    assert_eq!(ids, "[0, 0, 2]\n");
    assert!(log.contains("WARN") && log.contains("BOS"), "{log}");
    assert_eq!(run("h"), (String::new(), "[0, 2]\n".to_owned()));
}
