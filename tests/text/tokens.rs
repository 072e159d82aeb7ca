//! Token ids against llama.cpp's, over real and small vocabularies and every pre-tokenizer.
//! tests/data/tokens/make.py made the goldens.

use crate::common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocmforge::Error;
use rocmforge::engine::{Backend, BackendParams, Context, ContextParams, DeviceKind, Model, ModelParams};
use rocmforge::gguf::{Array, Gguf, Metadata, Value};
use rocmforge::text::{ChatMessage, ChatPrompt, ChatTemplate, Detokenizer, TokenAttr, Vocab};

type Ids = Vec<u32>;

#[derive(serde::Deserialize)]
struct Goldens {
    texts: Vec<String>,
    vocabs: std::collections::BTreeMap<String, BothModes>,
    pre: Vec<PreRow>,
}

#[derive(serde::Deserialize)]
struct BothModes {
    plain: Vec<Ids>,
    special: Vec<Ids>,
}

#[derive(serde::Deserialize)]
struct PreRow {
    names: Vec<String>,
    ids: Ids,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokens").join(name)
}

fn goldens() -> Goldens {
    serde_json::from_str(&std::fs::read_to_string(data("goldens.json")).unwrap()).unwrap()
}

fn metadata(path: &Path) -> Metadata {
    Gguf::open(path).unwrap().metadata().clone()
}

fn n_tokens(meta: &Metadata) -> usize {
    match meta.array("tokenizer.ggml.tokens").unwrap() {
        Some(Array::String(tokens)) => tokens.len(),
        other => panic!("tokens: {other:?}"),
    }
}

fn vocab(name: &str) -> Vocab {
    let path = match name {
        "smollm2" => common::models::path(common::models::SMOLLM2),
        "qwen2.5" => common::models::path(common::models::QWEN25),
        _ => data(&format!("{name}.gguf")),
    };
    let meta = metadata(&path);
    Vocab::from_metadata(&meta, n_tokens(&meta)).unwrap()
}

fn with(meta: &Metadata, key: &str, value: Option<Value>) -> Metadata {
    let mut pairs: Vec<_> = meta
        .iter()
        .filter(|(other, _)| *other != key)
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    pairs.extend(value.map(|value| (key.to_owned(), value)));
    Metadata::from_pairs(pairs).unwrap()
}

fn check_vocab(name: &str) {
    let goldens = goldens();
    let vocab = vocab(name);
    let golden = &goldens.vocabs[name];
    for ((text, plain), special) in goldens.texts.iter().zip(&golden.plain).zip(&golden.special) {
        assert_eq!(&vocab.tokenize(text, true, false).unwrap(), plain, "{name}: {text:?}");
        assert_eq!(
            &vocab.tokenize(text, true, true).unwrap(),
            special,
            "{name}, special tokens parsed: {text:?}"
        );
    }
}

#[test]
fn smollm2_ids_are_llama_cpps() {
    check_vocab("smollm2");
}

#[test]
fn qwen_ids_are_llama_cpps() {
    check_vocab("qwen2.5");
}

#[test]
fn spm_ids_are_llama_cpps_and_sentencepieces() {
    check_vocab("small_spm");
}

#[test]
fn small_bpe_ids_are_llama_cpps() {
    check_vocab("small_bpe");
}

#[test]
fn every_pre_tokenizer_cuts_as_llama_cpp_does() {
    let goldens = goldens();
    let meta = metadata(&data("small_bpe.gguf"));
    let text = goldens.texts[2..].join("[INST]");
    let mut count = 0;
    for row in &goldens.pre {
        for name in &row.names {
            let meta = with(&meta, "tokenizer.ggml.pre", Some(Value::String(name.clone())));
            let vocab = Vocab::from_metadata(&meta, n_tokens(&meta)).unwrap();
            assert_eq!(vocab.tokenize(&text, true, false).unwrap(), row.ids, "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 90);
}

#[test]
fn a_missing_pre_tokenizer_is_the_default_one() {
    let meta = with(&metadata(&data("small_bpe.gguf")), "tokenizer.ggml.pre", None);
    let vocab = Vocab::from_metadata(&meta, n_tokens(&meta)).unwrap();
    let goldens = goldens();
    for (text, ids) in goldens.texts.iter().zip(&goldens.vocabs["small_bpe"].plain) {
        assert_eq!(&vocab.tokenize(text, true, false).unwrap(), ids);
    }
}

#[test]
fn special_ids_of_the_real_models_are_llama_cpps() {
    // llama_vocab_bos and its kin, llama_vocab_is_eog over all ids.
    let eog = |vocab: &Vocab| (0..vocab.len() as u32).filter(|&id| vocab.is_eog(id)).collect::<Vec<_>>();
    let qwen = vocab("qwen2.5");
    assert_eq!((qwen.bos(), qwen.eos()), (Some(151643), Some(151645)));
    assert_eq!((qwen.add_bos(), qwen.add_eos()), (false, false));
    assert_eq!(eog(&qwen), [128247, 151643, 151645, 151662, 151663, 151664]);
    let smollm = vocab("smollm2");
    assert_eq!((smollm.bos(), smollm.eos()), (Some(1), Some(2)));
    assert_eq!((smollm.add_bos(), smollm.add_eos()), (false, false));
    assert_eq!(eog(&smollm), SMOLLM_EOG);
}

/// <|endoftext|>, <|im_end|>, <reponame>.
const SMOLLM_EOG: [u32; 3] = [0, 2, 4];

#[test]
fn ids_turn_back_into_the_text() {
    let goldens = goldens();
    for name in ["smollm2", "qwen2.5", "small_spm", "small_bpe"] {
        let vocab = Arc::new(vocab(name));
        for text in &goldens.texts {
            let ids = vocab.tokenize(text, false, false).unwrap();
            let mut stream = Detokenizer::from_start(vocab.clone(), true);
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            streamed += &stream.finish().unwrap();
            assert_eq!(streamed, vocab.detokenize(&ids, true).unwrap());
            // SPM writes spaces as U+2581, puts one after each user-defined token, and cannot tell them apart.
            if name != "small_spm" || !(text.contains('▁') || text.contains("<|im_start|>")) {
                assert_eq!(&streamed, text, "{name}");
            }
        }
    }
}

#[test]
fn a_stream_holds_back_half_characters() {
    let vocab = Arc::new(vocab("qwen2.5"));
    let ids = vocab.tokenize("a👩‍👩‍👧‍👦\u{13000}", false, false).unwrap();
    assert!(ids.len() > 8, "the text must need several tokens a character: {ids:?}");
    let mut stream = Detokenizer::new(vocab.clone(), false);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{pieces:?}");
    assert!(pieces.iter().any(String::is_empty), "{pieces:?}");
    assert_eq!(stream.finish().unwrap(), "");

    // The byte 0xF0 begins a character of four bytes.
    assert_eq!(stream.push(vocab.find("ð").unwrap()).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    assert_eq!(stream.push(u32::MAX).unwrap(), "");
    let im_end = vocab.find("<|im_end|>").unwrap();
    assert_eq!(
        (stream.push(im_end).unwrap().as_str(), vocab.detokenize(&[im_end], true).unwrap().as_str()),
        ("", "<|im_end|>")
    );
}

const RUNS: [&str; 9] = ["a", " ", "\n", "1", "!", "語", "aB", "🙂", "<"];

/// A loop that grows with the square of the text would take hours.
#[test]
fn long_runs_are_tokenized() {
    for name in ["qwen2.5", "smollm2", "small_spm", "small_bpe"] {
        let vocab = vocab(name);
        for run in RUNS {
            // engines that backtrack give up at a million
            let bytes = if run == " " { 1_100_000 } else { 200_000 };
            let text = run.repeat(bytes / run.len());
            let ids = vocab.tokenize(&text, false, true).unwrap();
            assert_eq!(vocab.detokenize(&ids, true).unwrap(), text, "{name}: {run:?}");
        }
    }
}

#[test]
fn long_runs_are_cut_by_every_pre_tokenizer() {
    let meta = metadata(&data("small_bpe.gguf"));
    for row in goldens().pre {
        let name = &row.names[0];
        let meta = with(&meta, "tokenizer.ggml.pre", Some(Value::String(name.clone())));
        let vocab = Vocab::from_metadata(&meta, n_tokens(&meta)).unwrap();
        for run in RUNS {
            let text = run.repeat(100_000 / run.len()) + "x";
            // bytes that are no token are dropped where words are not spelled in bytes
            let ids = vocab.tokenize(&text, false, true).unwrap();
            assert!(
                ids.len() <= text.len() && vocab.detokenize(&ids, true).unwrap().ends_with('x'),
                "{name}: {run:?}"
            );
        }
    }
}

#[test]
fn long_and_many_control_tokens() {
    let meta = metadata(&data("small_bpe.gguf"));
    let Some(Value::Array(Array::String(tokens))) = meta.get("tokenizer.ggml.tokens") else { panic!() };
    let n = tokens.len();
    let (mut tokens, mut types) = (tokens.clone(), vec![1; n]);
    // one of equal letters; each length up to 500; many of one length
    let long = "x".repeat(100_000);
    tokens.push(long.clone());
    tokens.extend((10..500).map(|n| "y".repeat(n)));
    tokens.extend((0..20_000).map(|i| format!("<|{i:05}|>")));
    types.resize(tokens.len(), 3);
    let meta = with(&meta, "tokenizer.ggml.token_type", Some(Value::Array(Array::I32(types))));
    let meta = with(&meta, "tokenizer.ggml.tokens", Some(Value::Array(Array::String(tokens.clone()))));
    let vocab = Vocab::from_metadata(&meta, tokens.len()).unwrap();
    let id = |text: &str| tokens.iter().position(|token| token == text).unwrap() as u32;

    let text = format!("{long}{}b<|00007|>", "y".repeat(499 * 3 + 15));
    let y = "y".repeat(499);
    let wanted = [id(&long), id(&y), id(&y), id(&y), id(&"y".repeat(15)), id("b"), id("<|00007|>")];
    assert_eq!(vocab.tokenize(&text, false, true).unwrap(), wanted);
    // the same in a message, beside the template's own
    let template = ChatTemplate::new("{{ messages[0].content }}<|00007|>", &vocab).unwrap();
    let said = text.clone() + &long;
    let prompt = template.apply(&[ChatMessage::new("user", said.as_str())], None, false).unwrap();
    let ids = vocab.tokenize_prompt(&prompt).unwrap();
    let control = |id: &u32| vocab.attr(*id) == Some(TokenAttr::Control);
    assert!(control(ids.last().unwrap()) && !ids[..ids.len() - 1].iter().any(control));
    assert_eq!(vocab.detokenize(&ids, true).unwrap(), said + "<|00007|>");
    // a message's letter between those of the template
    let mixed = ChatTemplate::new("{{ ('x' ~ messages[0].role) * 200000 }}", &vocab).unwrap();
    let prompt = mixed.apply(&[ChatMessage::new("x", "")], None, false).unwrap();
    let ids = vocab.tokenize_prompt(&prompt).unwrap();
    assert!(prompt.text() == "x".repeat(400_000) && !ids.iter().any(control));
    // what nearly is one, again and again
    let nearly = "x".repeat(99_999) + "z";
    let plain = vocab.tokenize(&nearly.repeat(5), false, true).unwrap();
    assert_eq!(vocab.detokenize(&plain, true).unwrap(), nearly.repeat(5));
    let nearly = "<|0000|>".repeat(50_000);
    assert_eq!(vocab.detokenize(&vocab.tokenize(&nearly, false, true).unwrap(), true).unwrap(), nearly);
}

#[test]
fn special_ids_that_do_not_exist_are_passed_over() {
    for (file, keys) in [
        ("small_bpe", &["bos", "eos", "unknown", "eot", "eom", "fim_pre", "prefix", "fim_pad"][..]),
        ("small_spm", &["bos", "eos", "unknown", "eot"]),
    ] {
        let meta = metadata(&data(&format!("{file}.gguf")));
        let n = n_tokens(&meta);
        for key in keys {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let load = |value| Vocab::from_metadata(&with(&meta, &key, value), n).unwrap();
            let without = load(None);
            let all = |vocab: &Vocab| {
                let eog: Vec<bool> = (0..n as u32).map(|id| vocab.is_eog(id)).collect();
                (vocab.bos(), vocab.eos(), vocab.eot(), eog, vocab.tokenize("é <s>\n", true, true).unwrap())
            };
            for id in [n as u32, n as u32 + 1, 1 << 30, u32::MAX] {
                assert_eq!(all(&load(Some(Value::U32(id)))), all(&without), "{key} = {id}");
            }
        }
    }
}

#[test]
fn a_file_of_a_vocabulary_alone_is_enough() {
    for name in ["small_bpe", "small_spm"] {
        let file = Gguf::open(data(&format!("{name}.gguf"))).unwrap();
        assert!(file.tensors().is_empty());
        let vocab = Vocab::from_file(&file).unwrap();
        assert_eq!(vocab.len(), n_tokens(file.metadata()));
        let goldens = goldens();
        let ids = &goldens.vocabs[name].plain[2];
        assert_eq!(&vocab.tokenize(&goldens.texts[2], true, false).unwrap(), ids);

        // it loads as a model, too, which has text and no more
        let backend =
            Backend::new(&BackendParams { device: DeviceKind::Cpu, threads: 1, ..Default::default() })
                .unwrap();
        let model = Model::from_gguf(&backend, Arc::new(file), ModelParams::default()).unwrap();
        assert_eq!(&model.vocab().tokenize(&goldens.texts[2], true, false).unwrap(), ids);
        assert_eq!((model.info().n_vocab, model.info().n_layer), (vocab.len(), 0));
        let error = Context::new(&model, &ContextParams::default()).map(drop).unwrap_err();
        assert!(matches!(&error, Error::Model(why) if why.contains("no model to run")), "{error}");
    }
}

/// `add_eos_token` is for whole texts.
#[test]
fn a_prompt_does_not_end_in_eos() {
    let meta = metadata(&data("small_spm.gguf"));
    let meta = with(&meta, "tokenizer.ggml.add_eos_token", Some(Value::Bool(true)));
    let vocab = Vocab::from_metadata(&meta, n_tokens(&meta)).unwrap();
    let (bos, eos) = (vocab.bos().unwrap(), vocab.eos().unwrap());
    for text in ["", "a text"] {
        let plain = vocab.tokenize(text, false, true).unwrap();
        let prompt = [&[bos], &plain[..]].concat();
        assert_eq!(vocab.tokenize_to_continue(text, true).unwrap(), prompt);
        assert_eq!(vocab.tokenize_prompt(&ChatPrompt::from_trusted(text)).unwrap(), prompt);
        assert_eq!(vocab.tokenize(text, true, true).unwrap(), [&prompt[..], &[eos]].concat());
    }
}

#[test]
fn blank_merges_are_passed_over() {
    let meta = metadata(&data("small_bpe.gguf"));
    let Some(Value::Array(Array::String(merges))) = meta.get("tokenizer.ggml.merges") else { panic!() };
    let mut blank = merges.clone();
    blank.insert(0, String::new());
    blank.insert(7, " ".to_owned());
    blank.push("\n".to_owned());
    let meta = with(&meta, "tokenizer.ggml.merges", Some(Value::Array(Array::String(blank))));
    let vocab = Vocab::from_metadata(&meta, n_tokens(&meta)).unwrap();
    let goldens = goldens();
    for (text, ids) in goldens.texts.iter().zip(&goldens.vocabs["small_bpe"].plain) {
        assert_eq!(&vocab.tokenize(text, true, false).unwrap(), ids);
    }
}

#[test]
fn a_character_without_a_token_is_the_unknown_one_or_an_error() {
    let vocab = |tokens: &[&str], types: &[i32]| {
        let tokens: Vec<String> = tokens.iter().map(|token| token.to_string()).collect();
        let pairs = [
            ("tokenizer.ggml.model", Value::String("llama".to_owned())),
            ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.clone()))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(types.to_vec()))),
        ];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value)).to_vec();
        Vocab::from_metadata(&Metadata::from_pairs(pairs).unwrap(), tokens.len()).unwrap()
    };
    let named = vocab(&["<unk>", "a", "▁"], &[1, 1, 1]);
    assert_eq!(named.tokenize("a語", false, true).unwrap(), [2, 1, 0]);
    let typed = vocab(&["?", "a", "▁"], &[2, 1, 1]);
    assert_eq!(typed.tokenize("a語", false, true).unwrap(), [2, 1, 0]);
    // token 0 is a word
    let neither = vocab(&["the", "a", "▁"], &[1, 1, 1]);
    assert_eq!(neither.tokenize("a", false, true).unwrap(), [2, 1]);
    let error = neither.tokenize("a語", false, true).unwrap_err();
    assert!(matches!(&error, Error::Tokenizer(why) if why.contains('語')), "{error}");
}

#[test]
fn without_a_tokenizer_there_are_placeholders() {
    for model in [None, Some("none"), Some("no_vocab"), Some("test")] {
        let pairs = model.map(|name| ("tokenizer.ggml.model".to_owned(), Value::String(name.to_owned())));
        let vocab =
            Vocab::from_metadata(&Metadata::from_pairs(pairs.into_iter().collect()).unwrap(), 7).unwrap();
        assert_eq!((vocab.len(), vocab.bos(), vocab.is_eog(0)), (7, None, false));
        assert_eq!((vocab.token_bytes(6, true), vocab.token_bytes(7, true)), (Some(&[][..]), None));
        let error = vocab.tokenize("x", true, true).unwrap_err().to_string();
        assert!(error.contains("no vocabulary"), "{error}");
    }
}

#[test]
fn the_embedding_may_have_more_rows_than_there_are_tokens_but_not_fewer() {
    let meta = metadata(&data("small_bpe.gguf"));
    let n = n_tokens(&meta);
    let vocab = Vocab::from_metadata(&meta, n + 3).unwrap();
    assert_eq!(vocab.attr(n as u32 + 2), Some(TokenAttr::Undefined));
    assert_eq!(vocab.token_text(n as u32), Some(""));
    assert_eq!(vocab.attr(n as u32 + 3), None);
    let error = Vocab::from_metadata(&meta, n - 1).unwrap_err().to_string();
    assert!(error.contains(&n.to_string()), "{error}");
}

#[test]
fn bad_files_are_refused_by_key() {
    let strings = |n: usize| Value::Array(Array::String(vec!["x".to_owned(); n]));
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let cases: &[(&str, &str, Option<Value>, &str)] = &[
        ("small_bpe", "tokenizer.ggml.model", text("bert"), "bert"),
        ("small_bpe", "tokenizer.ggml.model", text("rwkv"), "gpt2"),
        ("small_bpe", "tokenizer.ggml.pre", text("gpt-99"), "gpt-99"),
        ("small_bpe", "tokenizer.ggml.pre", Some(Value::U32(3)), "tokenizer.ggml.pre"),
        ("small_bpe", "tokenizer.ggml.tokens", None, "tokenizer.ggml.tokens"),
        ("small_bpe", "tokenizer.ggml.tokens", Some(Value::Array(Array::I32(vec![1]))), "strings"),
        ("small_bpe", "tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![1; 9]))), "9 elements"),
        ("small_bpe", "tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![-7; 9999]))), "-7"),
        ("small_bpe", "tokenizer.ggml.token_type", Some(Value::Array(Array::U8(vec![1; 9999]))), "i32"),
        ("small_bpe", "tokenizer.ggml.merges", None, "merges"),
        ("small_bpe", "tokenizer.ggml.merges", Some(strings(1)), "merges[0]"),
        ("small_bpe", "tokenizer.ggml.merges", Some(Value::Array(Array::Bool(vec![]))), "merges"),
        ("small_bpe", "tokenizer.ggml.eot_token_id", Some(Value::I32(-5)), "eot_token_id"),
        ("small_bpe", "tokenizer.ggml.add_bos_token", Some(Value::U8(1)), "add_bos_token"),
        ("small_spm", "tokenizer.ggml.scores", Some(Value::Array(Array::F32(vec![0.0; 3]))), "3 elements"),
        ("small_spm", "tokenizer.ggml.scores", Some(Value::Array(Array::F64(vec![]))), "scores"),
    ];
    for (file, key, value, wanted) in cases {
        let meta = metadata(&data(&format!("{file}.gguf")));
        let error =
            Vocab::from_metadata(&with(&meta, key, value.clone()), n_tokens(&meta)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{key} = {value:?}: {error}");
    }
}

#[test]
fn odd_vocabularies_do_not_panic() {
    let meta = metadata(&data("small_spm.gguf"));
    let n = n_tokens(&meta);
    let odd = [
        with(&meta, "tokenizer.ggml.scores", Some(Value::Array(Array::F32(vec![f32::NAN; n])))),
        with(&meta, "tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![6; n])))),
        with(&meta, "tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![3; n])))),
        with(&meta, "tokenizer.ggml.tokens", Some(Value::Array(Array::String(vec![String::new(); n])))),
        with(&meta, "tokenizer.ggml.tokens", Some(Value::Array(Array::String(vec!["<0x>".to_owned(); n])))),
        with(&meta, "tokenizer.ggml.unknown_token_id", Some(Value::U32(u32::MAX))),
    ];
    for meta in odd {
        let vocab = Vocab::from_metadata(&meta, n).unwrap();
        for text in goldens().texts {
            if let Ok(ids) = vocab.tokenize(&text, true, true) {
                assert!(ids.iter().all(|&id| (id as usize) < n));
                vocab.detokenize(&ids, true).unwrap();
            }
        }
    }
}

#[test]
fn plain_text_never_becomes_a_control_token() {
    for name in ["smollm2", "qwen2.5", "small_spm", "small_bpe"] {
        let vocab = vocab(name);
        for id in 0..vocab.len() as u32 {
            // Qwen's </s> is an ordinary token that llama.cpp takes for an end: text has always been allowed to spell it.
            if vocab.attr(id) == Some(TokenAttr::Control) && vocab.token_text(id) != Some("</s>") {
                let text = format!("a{}b", vocab.token_text(id).unwrap());
                let ids = vocab.tokenize(&text, false, false).unwrap();
                assert!(!ids.contains(&id), "{name}: {text}");
                assert_eq!(vocab.detokenize(&ids, true).unwrap(), text);
                assert!(vocab.tokenize(&text, false, true).unwrap().contains(&id), "{name}: {text}");
            }
        }
    }
}
