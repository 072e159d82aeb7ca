//! The generation loop: what ends it, what it gives out, and that seeds decide.

use crate::common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI32, Ordering};

use common::backends::{context, load, on_every_device};
use common::tiny_model::TinyModel;
use rocmforge::Error;
use rocmforge::engine::{
    Context, DeviceKind, GenerateParams, Generation, Model, Sampler, SamplerParams, StopReason, generate,
};
use rocmforge::gguf::{Array, TensorType, Value};
use rocmforge::text::TokenAttr;

const EOS: u32 = 2;

/// A random model over a vocabulary of words, pieces of words and the bytes of a few characters.
fn tiny(eos: u32) -> TinyModel {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut types = vec![2, 3, 3];
    for byte in "éß→🙂".bytes() {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
    }
    // bytes that come twice would be one token twice
    tokens.dedup();
    types.truncate(tokens.len());
    for i in tokens.len()..131 {
        let syllables = ["ba", "ke", "▁lo", "▁", "mi", "x", "nu"];
        tokens.push(format!("{}{}{i}", syllables[i % 7], syllables[i / 7 % 7]));
        types.push(1);
    }
    let scores: Vec<f32> = (0..131).map(|i| -(i as f32)).collect();
    TinyModel::new("llama")
        .types(&[TensorType::Q8_0, TensorType::Q4_1])
        .meta("tokenizer.ggml.model", Value::String("llama".into()))
        .meta("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)))
        .meta("tokenizer.ggml.scores", Value::Array(Array::F32(scores)))
        .meta("tokenizer.ggml.token_type", Value::Array(Array::I32(types)))
        .meta("tokenizer.ggml.bos_token_id", Value::U32(1))
        .meta("tokenizer.ggml.eos_token_id", Value::U32(eos))
}

fn model(device: DeviceKind) -> Model {
    load(device, 2, &tiny(EOS))
}

fn seeded(seed: u64) -> Sampler {
    Sampler::new(SamplerParams {
        temperature: 1.5,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed,
        ..Default::default()
    })
    .unwrap()
}

fn params(max_tokens: usize) -> GenerateParams {
    GenerateParams { max_tokens: Some(max_tokens), ignore_eog: true, ..Default::default() }
}

const PROMPT: [u32; 6] = [1, 40, 50, 60, 70, 80];

/// Generates in `context`; the generation, whose text is checked to be that of the pieces.
fn run(context: &mut Context, sampler: &mut Sampler, params: &GenerateParams) -> Generation {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let generation = generate(context, sampler, &PROMPT, params, &mut |piece| {
        text += piece.text;
        tokens.push(piece.token);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(text, generation.text);
    assert_eq!(tokens, generation.tokens);
    assert_eq!(generation.prompt_tokens, PROMPT.len());
    generation
}

fn fresh(model: &Model, seed: u64, params: &GenerateParams) -> Generation {
    run(&mut context(model, 512, 64, 2), &mut seeded(seed), params)
}

#[test]
fn the_seed_decides_on_any_number_of_threads() {
    on_every_device("the_seed_decides_on_any_number_of_threads", |device| {
        let one = fresh(&load(device, 1, &tiny(EOS)), 7, &params(80));
        assert_eq!((one.tokens.len(), one.stop), (80, StopReason::Length));
        assert!(!one.text.is_empty());
        for threads in [1, 2, 3] {
            let again = fresh(&load(device, threads, &tiny(EOS)), 7, &params(80));
            assert_eq!(again.text, one.text, "{device:?}: {threads} threads");
        }
        assert_ne!(fresh(&load(device, 1, &tiny(EOS)), 8, &params(80)).text, one.text);
    });
}

#[test]
fn text_is_that_of_the_tokens_whatever_bytes_they_end_in() {
    let model = model(DeviceKind::Cpu);
    for seed in 0..40 {
        for n in [1, 2, 30] {
            let generation = fresh(&model, seed, &params(n));
            let whole = model.vocab().detokenize(&generation.tokens, false).unwrap();
            assert_eq!(generation.text.trim_start(), whole.trim_start(), "{:?}", generation.tokens);
        }
    }
}

#[test]
fn the_end_of_generation_ends_it() {
    let free = fresh(&model(DeviceKind::Cpu), 11, &params(40));
    // with the fifth token as the end, it stops where that first comes
    let eos = free.tokens[4];
    let at = free.tokens.iter().position(|t| *t == eos).unwrap();
    let model = load(DeviceKind::Cpu, 2, &tiny(eos));
    let mut context = context(&model, 512, 64, 2);
    let ended = run(&mut context, &mut seeded(11), &GenerateParams { ignore_eog: false, ..params(40) });
    assert_eq!(ended.stop, StopReason::Eog);
    assert_eq!(ended.tokens, free.tokens[..=at]);
    assert_eq!(context.kv_len(0).unwrap(), PROMPT.len() + at, "the last token is not evaluated");
    let ignored = fresh(&model, 11, &params(40));
    assert_eq!((ignored.stop, ignored.tokens), (StopReason::Length, free.tokens));
}

#[test]
fn stop_texts_end_it_across_tokens() {
    let model = model(DeviceKind::Cpu);
    let free = fresh(&model, 13, &params(40));
    let chars: Vec<char> = free.text.chars().collect();
    for (from, len) in [(20, 1), (20, 7), (33, 12)] {
        let stop: String = chars[from..from + len].iter().collect();
        let params = GenerateParams { stop: vec!["never comes".into(), stop.clone()], ..params(40) };
        let stopped = fresh(&model, 13, &params);
        assert_eq!(stopped.stop, StopReason::StopText, "{stop:?}");
        assert_eq!(stopped.text, free.text[..free.text.find(&stop).unwrap()]);
        assert_eq!(stopped.tokens, free.tokens[..stopped.tokens.len()]);
    }
    // what is held back when the tokens run out is given out after all
    let tail: String = chars[chars.len() - 3..].iter().collect();
    let held = GenerateParams { stop: vec![tail + "and more"], ..params(40) };
    assert_eq!(fresh(&model, 13, &held).text, free.text);
}

/// Control tokens are not given out, and end a generation all the same.
#[test]
fn stop_texts_see_control_tokens() {
    let model = model(DeviceKind::Cpu);
    let vocab = model.vocab();
    // a random model says <s> now and then; this one says plain words before and after it
    let plain = |token: &u32| {
        let text = vocab.token_text(*token).unwrap();
        vocab.attr(*token) == Some(TokenAttr::Normal) && text.is_ascii() && text.len() > 1
    };
    let (seed, free, at) = (0..200)
        .find_map(|seed| {
            let free = fresh(&model, seed, &params(40));
            let at = free.tokens.iter().position(|token| vocab.token_text(*token) == Some("<s>"))?;
            let fits = at > 0 && at + 1 < 40 && plain(&free.tokens[at - 1]) && plain(&free.tokens[at + 1]);
            fits.then_some((seed, free, at))
        })
        .expect("a generation with <s> between words");
    assert!(!free.text.contains("<s>"));
    let last = vocab.token_text(free.tokens[at - 1]).unwrap();
    let next = vocab.token_text(free.tokens[at + 1]).unwrap();

    for special in [false, true] {
        let before = fresh(&model, seed, &GenerateParams { special, ..params(at) }).text;
        for (stop, n, dropped) in [
            // alone, behind text that is given out, and before text that comes later
            ("<s>".to_owned(), at + 1, 0),
            (format!("{last}<s>"), at + 1, last.len()),
            (format!("{}<s>", &last[1..]), at + 1, last.len() - 1),
            (format!("<s>{next}"), at + 2, 0),
        ] {
            let stop_params = GenerateParams { stop: vec![stop.clone()], special, ..params(40) };
            let stopped = fresh(&model, seed, &stop_params);
            assert_eq!(stopped.stop, StopReason::StopText, "{stop:?}");
            assert_eq!(stopped.tokens, free.tokens[..n], "{stop:?}");
            assert_eq!(stopped.text, before[..before.len() - dropped], "{stop:?}, special {special}");
        }
    }
    // one that comes to nothing leaves the text as it is, without the token's spelling
    let nothing = GenerateParams { stop: vec!["<s>and never this".to_owned()], ..params(40) };
    assert_eq!(fresh(&model, seed, &nothing).text, free.text);
}

#[test]
fn limits_end_it() {
    let model = model(DeviceKind::Cpu);
    let none = fresh(&model, 1, &params(0));
    assert_eq!((none.tokens.len(), none.stop, none.text.as_str()), (0, StopReason::Length, ""));

    let mut context = context(&model, 64, 64, 2);
    let unlimited = GenerateParams { max_tokens: None, sequence: 1, ..params(0) };
    let full = run(&mut context, &mut seeded(1), &unlimited);
    assert_eq!((full.stop, full.tokens.len()), (StopReason::CacheFull, 64 - PROMPT.len() + 1));
    assert_eq!(context.kv_len(1).unwrap(), 64);
}

#[test]
fn prompts_that_cannot_be_are_errors() {
    let model = model(DeviceKind::Cpu);
    let mut context = context(&model, 64, 16, 1);
    let mut go = |prompt: &[u32], params: &GenerateParams| {
        generate(&mut context, &mut seeded(1), prompt, params, &mut |_| ControlFlow::Continue(()))
    };
    match go(&[5; 65], &params(3)) {
        Err(e @ Error::CacheFull { wanted: 65, free: 64, total: 64 }) => {
            assert!(e.to_string().contains("65") && e.to_string().contains("64"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(go(&[], &params(3)), Err(Error::Param(_))));
    assert!(matches!(go(&[5000], &params(3)), Err(Error::Param(_))));
    let empty_stop = GenerateParams { stop: vec![String::new()], ..params(3) };
    assert!(matches!(go(&[5], &empty_stop), Err(Error::Param(_))));
    let no_sequence = GenerateParams { sequence: 1, ..params(3) };
    assert!(matches!(go(&[5], &no_sequence), Err(Error::Param(_))));
    assert_eq!(go(&[5], &params(3)).unwrap().tokens.len(), 3);
}

#[test]
fn the_callback_and_other_threads_cancel() {
    let model = model(DeviceKind::Cpu);
    let free = fresh(&model, 17, &params(60));
    let mut context = context(&model, 8192, 64, 1);

    let mut count = 0;
    let broken = generate(&mut context, &mut seeded(17), &PROMPT, &params(60), &mut |_| {
        count += 1;
        if count == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let broken = broken.unwrap();
    assert_eq!((broken.stop, &broken.tokens[..]), (StopReason::Cancelled, &free.tokens[..5]));

    context.kv_clear();
    let handle = context.cancel_handle();
    let (started, wait) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        wait.recv().unwrap();
        handle.cancel();
    });
    let endless = GenerateParams { max_tokens: None, ..params(0) };
    let cancelled = generate(&mut context, &mut seeded(17), &PROMPT, &endless, &mut |_| {
        let _ = started.send(());
        ControlFlow::Continue(())
    });
    let cancelled = cancelled.unwrap();
    other.join().unwrap();
    assert_eq!(cancelled.stop, StopReason::Cancelled);
    assert_eq!(context.kv_len(0).unwrap(), PROMPT.len() + cancelled.tokens.len() - 1);

    // a prompt cancelled before it starts: no token, no error; and then all is well again
    context.kv_clear();
    static STOP: AtomicI32 = AtomicI32::new(1);
    context.stop_on(&STOP);
    let nothing = run(&mut context, &mut seeded(17), &params(60));
    assert_eq!((nothing.stop, nothing.tokens.len()), (StopReason::Cancelled, 0));
    STOP.store(0, Ordering::Relaxed);

    // a request that comes when all is over is for nobody
    assert!(!context.cancel_handle().cancel());
    assert_eq!(run(&mut context, &mut seeded(17), &params(60)).tokens, free.tokens);
}
