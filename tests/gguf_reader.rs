//! Well-formed files: what is written is what is read.
mod common;

use common::gguf_writer::GgufWriter;
use rocmforge::gguf::{Gguf, TensorType};

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

/// The two models of `make models`, with facts that llama.cpp prints of them.
fn model(name: &str) -> Gguf {
    let dir = std::env::var_os("ROCMFORGE_MODELS").unwrap_or_else(|| "models".into());
    let path = std::path::Path::new(&dir).join(name);
    Gguf::open(&path).unwrap_or_else(|e| panic!("{e}: run `make models`"))
}

#[test]
fn opens_the_real_models() {
    let file = model("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert_eq!(file.metadata().u64("llama.embedding_length").unwrap(), Some(576));
    assert_eq!(file.tensors().len(), 272);
    assert_eq!(file.metadata().array("tokenizer.ggml.tokens").unwrap().unwrap().len(), 49152);

    let file = model("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf");
    let output = file.tensor("output.weight").unwrap();
    assert_eq!((output.ty, output.dims), (TensorType::Q8_0, [896, 151936, 1, 1]));
}
