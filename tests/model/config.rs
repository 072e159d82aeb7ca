//! Hyper-parameters that make no sense, and tensors that do not fit them: errors that name what is wrong.

use crate::common;

use std::sync::Arc;

use common::tiny_model::TinyModel;
use rocmforge::Error;
use rocmforge::gguf::{Array, Gguf, TensorType, Value};
use rocmforge::model::arch;

/// The tiny llama with one pair replaced or added.
fn with(key: &str, value: Value) -> Arc<Gguf> {
    let file = TinyModel::new("llama").gguf();
    let mut writer = common::gguf_writer::GgufWriter::new();
    let mut replaced = false;
    for (k, v) in file.metadata().iter() {
        let here = k == key;
        replaced |= here;
        writer = writer.meta(k, if here { value.clone() } else { v.clone() });
    }
    if !replaced {
        writer = writer.meta(key, value);
    }
    for t in file.tensors() {
        writer = writer.tensor(&t.name, t.ty, &t.dims[..t.n_dims], file.data(t).to_vec());
    }
    Arc::new(Gguf::from_bytes(writer.build(), "with").unwrap())
}

/// The tiny llama with some tensors renamed, which is to say one missing and one unknown; "" drops it.
fn renamed(from: &str, to: &str) -> Arc<Gguf> {
    let file = TinyModel::new("llama").gguf();
    let mut writer = common::gguf_writer::GgufWriter::new();
    for (k, v) in file.metadata().iter() {
        writer = writer.meta(k, v.clone());
    }
    for t in file.tensors() {
        let name = if t.name == from { to } else { &t.name };
        if !name.is_empty() {
            writer = writer.tensor(name, t.ty, &t.dims[..t.n_dims], file.data(t).to_vec());
        }
    }
    Arc::new(Gguf::from_bytes(writer.build(), "renamed").unwrap())
}

fn message(file: &Gguf) -> String {
    match arch::plan(file) {
        Err(e @ (Error::Model(_) | Error::Unsupported { .. } | Error::UnknownArchitecture { .. })) => {
            e.to_string()
        }
        Err(e) => panic!("{e:?}"),
        Ok(_) => panic!("a plan was made"),
    }
}

#[test]
fn senseless_values_are_named() {
    use Value::{F32, String as Text, U32};
    let per_layer = |v: Vec<u32>| Value::Array(Array::U32(v));
    let cases = [
        ("general.architecture", Text("gpt9".into()), "gpt9"),
        ("llama.block_count", U32(0), "block_count is 0"),
        ("llama.block_count", U32(u32::MAX), "block_count is 4294967295"),
        ("llama.block_count", U32(100), "block_count is 100; the file has 2"),
        ("llama.block_count", U32(3), "blk.2.attn_norm.weight is missing"),
        ("llama.block_count", U32(1), "no tensor blk.1.attn_norm.weight"),
        ("llama.embedding_length", U32(0), "embedding_length is 0"),
        ("llama.embedding_length", U32(128), "token_embd.weight has shape [256, 131]; [128, 131]"),
        ("llama.embedding_length", F32(256.0), "llama.embedding_length"),
        ("llama.feed_forward_length", U32(1 << 20), "blk.0.ffn_gate.weight has shape"),
        ("llama.attention.head_count", U32(0), "head_count is 0"),
        ("llama.attention.head_count", U32(5), "5 query heads"),
        ("llama.attention.head_count", per_layer(vec![4, 2]), "blk.1.attn_q.weight has shape"),
        ("llama.attention.head_count", per_layer(vec![4, 4, 4]), "head_count has 3 values for 2 layers"),
        ("llama.attention.head_count_kv", U32(3), "3 kv heads"),
        ("llama.attention.head_count_kv", per_layer(vec![2, 0]), "layer 1 has 4 query heads over 0 kv heads"),
        ("llama.attention.key_length", U32(32), "blk.0.attn_q.weight has shape [256, 256]; [256, 128]"),
        ("llama.attention.value_length", U32(1 << 21), "value_length is 2097152"),
        ("llama.rope.dimension_count", U32(66), "dimension_count is 66"),
        ("llama.rope.dimension_count", U32(33), "dimension_count is 33"),
        ("llama.attention.layer_norm_rms_epsilon", F32(f32::NAN), "epsilon is NaN"),
        ("llama.attention.layer_norm_rms_epsilon", F32(-1.0), "epsilon is -1"),
        ("llama.rope.freq_base", F32(0.0), "freq_base is 0"),
        ("llama.rope.freq_base", F32(f32::INFINITY), "freq_base is inf"),
        ("llama.rope.freq_base", F32(f32::from_bits(1)), "no rotation"),
        ("llama.rope.scaling.factor", F32(-4.0), "factor is -4"),
        ("llama.rope.scaling.factor", F32(f32::NAN), "factor is NaN"),
        ("llama.rope.scaling.attn_factor", F32(f32::NAN), "no rotation"),
        ("llama.rope.scaling.type", Text("dynamic".into()), "dynamic"),
        ("llama.context_length", U32(0), "context_length is 0"),
        ("llama.expert_count", U32(8), "expert_used_count is 0; it must be 1 to 8"),
    ];
    for (key, value, text) in cases {
        let message = message(&with(key, value.clone()));
        assert!(message.contains(text), "{key} = {value:?}: {message}");
    }
    let qwen2 = TinyModel::new("qwen2").meta("{}.expert_count", U32(8)).gguf();
    assert!(message(&qwen2).contains("8 experts"), "{}", message(&qwen2));
    let message = message(&with("llama.attention.causal", Value::Bool(false)));
    assert!(message.contains("llama.attention.causal is false"), "{message}");
    assert!(arch::plan(&with("llama.attention.causal", Value::Bool(true))).is_ok());
    assert!(arch::plan(&with("llama.attention.head_count", per_layer(vec![4, 4]))).is_ok());
    assert!(arch::plan(&with("llama.expert_count", U32(0))).is_ok());
}

/// Of architectures whose tensors are those of the tiny model.
#[test]
fn senseless_values_of_an_architecture_are_named() {
    use Value::{F32, U32};
    let loops = |n| TinyModel::new("nanbeige").meta("{}.num_loops", U32(n)).gguf();
    assert_eq!(arch::plan(&loops(256)).unwrap().1.layers.len(), 512);
    assert!(message(&loops(257)).contains("nanbeige.num_loops is 257 of 2 layers"));

    let granite = |scale: Option<f32>| match scale {
        Some(scale) => TinyModel::new("granite").meta("{}.logit_scale", F32(scale)).gguf(),
        None => TinyModel::new("granite").gguf(),
    };
    assert!(arch::plan(&granite(Some(2.0))).is_ok());
    assert!(message(&granite(Some(0.0))).contains("granite.logit_scale is 0"));
    assert!(message(&granite(None)).contains("granite.logit_scale is missing"));

    let sections = |lengths| {
        let lengths = Value::Array(Array::U32(lengths));
        TinyModel::new("qwen2vl").meta("{}.rope.dimension_sections", lengths).gguf()
    };
    assert!(arch::plan(&sections(vec![8, 12, 12, 0])).is_ok());
    assert!(message(&sections(vec![8, 12, 12])).contains("dimension_sections has 3 values"));
    assert!(
        message(&TinyModel::new("qwen2vl").gguf()).contains("qwen2vl.rope.dimension_sections is missing")
    );

    let cycles = |n: [u32; 3]| {
        let keys = ["{}.hrm.layers_per_stack", "{}.hrm.h_cycles", "{}.hrm.l_cycles"];
        let model =
            keys.into_iter().zip(n).fold(TinyModel::new("hrm_text"), |m, (key, n)| m.meta(key, U32(n)));
        message(&model.gguf())
    };
    assert!(cycles([1, 2, 1]).contains("2 layers do not hold 2 times 1 + 1 stacks of 1"));
    assert!(cycles([1 << 20, 1 << 20, 1 << 20]).contains("do not hold"));
    // the layers are as many as said; what else hrm_text has is not in the file
    assert!(cycles([1, 1, 1]).contains("hrm.z_l_init is missing"));
}

/// Of architectures with mixtures of experts.
#[test]
fn senseless_values_of_mixtures_are_named() {
    use Value::{F32, U32};
    let flags = Value::Array(Array::Bool(vec![true; 3]));
    let width = || ("expert_feed_forward_length", U32(64));
    let window = || ("attention.sliding_window", U32(32));
    type Case = (&'static str, Vec<(&'static str, Value)>, &'static str);
    let cases: [Case; 13] = [
        ("bailingmoe", vec![], "expert_feed_forward_length is missing"),
        ("dots1", vec![width()], "expert_gating_func does not say how"),
        ("dots1", vec![width(), ("expert_gating_func", U32(9))], "9 (dots1.expert_gating_func)"),
        ("dbrx", vec![("attention.layer_norm_epsilon", F32(1e-5))], "clamp_kqv is missing"),
        ("ernie4_5-moe", vec![width()], "interleave_moe_layer_step is missing"),
        ("grovemoe", vec![("experts_per_group", U32(3))], "experts_per_group is 3 of 4 experts"),
        (
            "llama4",
            vec![("attention.sliding_window", U32(0))],
            "without chunks (llama4.attention.sliding_window is 0)",
        ),
        ("exaone-moe", vec![width()], "sliding_window is missing or 0"),
        ("maple", vec![window()], "sliding_window_pattern is no array"),
        ("mimo2", vec![window(), ("attention.sliding_window_pattern", flags)], "has 3 values for 2 layers"),
        ("cohere2moe", vec![window()], "logit_scale is missing"),
        ("minimax-m3", vec![("attention.indexer.top_k", U32(16))], "indexer.block_size is missing"),
        ("grok", vec![("attn_logit_softcapping", F32(0.0))], "attn_logit_softcapping is 0"),
    ];
    for (arch, keys, text) in cases {
        let model = TinyModel { experts: [4, 2], ..TinyModel::new(arch) };
        let model = keys.into_iter().fold(model, |m, (key, value)| m.meta(&format!("{{}}.{key}"), value));
        let message = message(&model.gguf());
        assert!(message.contains(text), "{arch}: {message}");
    }
    // blocks behind the last layer are left alone
    let ahead =
        TinyModel { experts: [4, 2], ..TinyModel::new("hy_v3") }.meta("{}.nextn_predict_layers", U32(2));
    assert!(message(&ahead.gguf()).contains("nextn_predict_layers is 2 of 2 layers"));
}

#[test]
fn tensors_must_be_those_of_the_architecture() {
    for (from, to, text) in [
        ("token_embd.weight", "", "token_embd.weight is missing"),
        ("output_norm.weight", "", "output_norm.weight is missing"),
        ("blk.1.attn_k.weight", "", "blk.1.attn_k.weight is missing"),
        ("output.weight", "rope_factors_long.weight", "no tensor rope_factors_long.weight"),
    ] {
        let message = message(&renamed(from, to));
        assert!(message.contains(text), "{from}: {message}");
    }
    // without output.weight the embedding serves for both
    assert!(arch::plan(&renamed("output.weight", "")).is_ok());
    // rope_freqs.weight is llama's; in a qwen2 file nobody would apply it
    let qwen2 = TinyModel { rope_freqs: true, ..TinyModel::new("qwen2") };
    assert!(message(&qwen2.gguf()).contains("no tensor rope_freqs.weight"));
}

#[test]
fn a_file_without_tensors_has_no_model() {
    let file = common::gguf_writer::GgufWriter::new().meta("general.architecture", "llama").build();
    let message = message(&Gguf::from_bytes(file, "vocabulary").unwrap());
    assert!(message.contains("no tensors"), "{message}");
}

/// Ids of tokens are i32 at the C boundary. A tensor of no columns can have any number of rows.
#[test]
fn a_vocabulary_beyond_i32_is_refused() {
    for (rows, text) in [(1u64 << 31, "2147483648 rows"), ((1 << 31) - 1, "shape [0, 2147483647]")] {
        let file = TinyModel::new("llama").gguf();
        let mut writer = common::gguf_writer::GgufWriter::new();
        for (k, v) in file.metadata().iter() {
            // a layer has a tensor at least, and the file has one in all
            let v = if k.ends_with(".block_count") { Value::U32(1) } else { v.clone() };
            writer = writer.meta(k, v);
        }
        writer = writer.tensor("token_embd.weight", TensorType::F32, &[0, rows], Vec::new());
        let message = message(&Gguf::from_bytes(writer.build(), "rows").unwrap());
        assert!(message.contains(text), "{rows}: {message}");
    }
}

#[test]
fn types_that_cannot_be_computed_with_are_named() {
    let iq = TinyModel::new("llama").gguf();
    let mut writer = common::gguf_writer::GgufWriter::new();
    for (k, v) in iq.metadata().iter() {
        writer = writer.meta(k, v.clone());
    }
    for t in iq.tensors() {
        writer = if t.name == "blk.0.attn_q.weight" {
            let ty = TensorType::IQ4_XS;
            let bytes = vec![0; ty.row_bytes(t.row_len()).unwrap() * t.rows()];
            writer.tensor(&t.name, ty, &t.dims[..t.n_dims], bytes)
        } else {
            writer.tensor(&t.name, t.ty, &t.dims[..t.n_dims], iq.data(t).to_vec())
        };
    }
    let file = Gguf::from_bytes(writer.build(), "iq").unwrap();
    let message = message(&file);
    assert!(message.contains("IQ4_XS (blk.0.attn_q.weight)") && message.contains("Q4_K"), "{message}");
}
