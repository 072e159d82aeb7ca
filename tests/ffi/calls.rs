//! The C functions called from Rust: panics that unwind into them, the log, and the same tokens as the Rust API gives.
//! What C itself can show is in tests/c.

use crate::common::archs::Fixture;
use crate::common::gguf_writer;

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rocmforge::engine::{self, Backend, BackendParams, DeviceKind, ModelParams};
use rocmforge::ffi::*;
use rocmforge::gguf::{Array, Value};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny/tiny.gguf")
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// A parameter struct with its defaults.
fn defaults<T: Copy>(init: unsafe extern "C" fn(*mut T, usize) -> rf_status) -> T {
    let mut params = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: room for a T, which init fills.
    unsafe {
        assert_eq!(init(params.as_mut_ptr(), size_of::<T>()), RF_OK);
        params.assume_init()
    }
}

fn last_error() -> String {
    // SAFETY: never NULL, NUL-terminated.
    unsafe { CStr::from_ptr(rf_last_error()) }.to_str().unwrap().to_owned()
}

/// A backend with a model, released when dropped.
struct Loaded {
    backend: *mut rf_backend,
    model: *mut rf_model,
}

impl Loaded {
    fn with(backend_params: &rf_backend_params, path: &Path) -> Self {
        let (mut backend, mut model) = (ptr::null_mut(), ptr::null_mut());
        let model_params = defaults(rf_model_params_init);
        // SAFETY: all pointers are valid for the calls.
        unsafe {
            assert_eq!(rf_backend_create(backend_params, &mut backend), RF_OK, "{}", last_error());
            let path = c_path(path);
            assert_eq!(
                rf_model_load(backend, path.as_ptr(), &model_params, &mut model),
                RF_OK,
                "{}",
                last_error()
            );
        }
        Loaded { backend, model }
    }

    fn context(&self) -> *mut rf_context {
        let mut ctx = ptr::null_mut();
        let params = rf_context_params { n_ctx: 128, ..defaults(rf_context_params_init) };
        // SAFETY: the model is alive.
        unsafe { assert_eq!(rf_context_create(self.model, &params, &mut ctx), RF_OK, "{}", last_error()) };
        ctx
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: released once.
        unsafe {
            rf_backend_release(self.backend);
            rf_model_release(self.model);
        }
    }
}

fn reference() -> rf_backend_params {
    rf_backend_params { kind: RF_DEVICE_REFERENCE, threads: 1, ..defaults(rf_backend_params_init) }
}

fn greedy() -> *mut rf_sampler {
    let params = rf_sampler_params { temperature: 0.0, ..defaults(rf_sampler_params_init) };
    let mut sampler = ptr::null_mut();
    // SAFETY: valid pointers.
    unsafe { assert_eq!(rf_sampler_create(&params, &mut sampler), RF_OK) };
    sampler
}

fn empty_generation() -> rf_generation {
    // SAFETY: zeros are valid.
    rf_generation { size: size_of::<rf_generation>(), ..unsafe { std::mem::zeroed() } }
}

unsafe extern "C-unwind" fn panic_on_token(_: *mut c_void, _: rf_token, _: *const c_char, _: usize) -> i32 {
    panic!("injected at a token");
}

unsafe extern "C-unwind" fn panic_on_progress(_: *mut c_void, _: u64, _: u64) -> i32 {
    panic!("injected into a load");
}

unsafe extern "C-unwind" fn panic_on_log(_: *mut c_void, _: i32, _: *const c_char) {
    panic!("injected into the log");
}

#[test]
fn a_panic_in_generation_is_a_status_and_closes_the_context() {
    let loaded = Loaded::with(&reference(), &tiny());
    let (ctx, sampler) = (loaded.context(), greedy());
    let params = defaults(rf_generate_params_init);
    let mut result = empty_generation();
    let prompt = [1, 2, 3];
    // SAFETY: all pointers are valid for the calls; handles are released once.
    unsafe {
        let status = rf_generate(
            ctx,
            sampler,
            prompt.as_ptr(),
            prompt.len(),
            &params,
            Some(panic_on_token),
            ptr::null_mut(),
            &mut result,
        );
        assert_eq!(status, RF_ERROR_INTERNAL);
        assert_eq!(last_error(), "internal error: injected at a token");
        assert_eq!(CStr::from_ptr(rf_context_error(ctx)).to_str().unwrap(), last_error());
        assert!(result.tokens.is_null(), "nothing is written on an error");
        // What a panic left half-done is not used again.
        assert_eq!(rf_kv_clear(ctx), RF_ERROR_INTERNAL);
        assert!(last_error().contains("unusable"), "{}", last_error());
        assert_eq!(rf_sampler_reset(sampler), RF_ERROR_INTERNAL);
        rf_context_release(ctx);
        rf_sampler_release(sampler);
    }
    // The model is untouched by it.
    let (ctx, sampler) = (loaded.context(), greedy());
    let params = rf_generate_params { max_tokens: 2, ..params };
    // SAFETY: as above.
    unsafe {
        let status = rf_generate(
            ctx,
            sampler,
            prompt.as_ptr(),
            prompt.len(),
            &params,
            None,
            ptr::null_mut(),
            &mut result,
        );
        assert_eq!(status, RF_OK, "{}", last_error());
        rf_context_release(ctx);
        rf_sampler_release(sampler);
    }
}

#[test]
fn a_panic_in_a_load_is_a_status_and_leaves_no_model() {
    let mut backend = ptr::null_mut();
    let mut model = ptr::null_mut();
    let params = rf_model_params { progress: Some(panic_on_progress), ..defaults(rf_model_params_init) };
    // SAFETY: all pointers are valid for the calls.
    unsafe {
        assert_eq!(rf_backend_create(&reference(), &mut backend), RF_OK);
        let path = c_path(&tiny());
        assert_eq!(rf_model_load(backend, path.as_ptr(), &params, &mut model), RF_ERROR_INTERNAL);
        assert_eq!(last_error(), "internal error: injected into a load");
        assert!(model.is_null());
        rf_backend_release(backend);
    }
}

#[test]
fn a_panic_in_the_log_is_a_status() {
    let params = rf_backend_params { log: Some(panic_on_log), log_level: RF_LOG_TRACE, ..reference() };
    let (mut backend, mut model) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: all pointers are valid for the calls.
    unsafe {
        assert_eq!(rf_backend_create(&params, &mut backend), RF_OK);
        let path = c_path(&tiny());
        let status = rf_model_load(backend, path.as_ptr(), &defaults(rf_model_params_init), &mut model);
        assert_eq!(status, RF_ERROR_INTERNAL);
        assert_eq!(last_error(), "internal error: injected into the log");
        rf_backend_release(backend);
    }
}

unsafe extern "C-unwind" fn collect_log(user: *mut c_void, level: i32, message: *const c_char) {
    // SAFETY: `user` is the test's Mutex, `message` is NUL-terminated.
    let (lines, message) = unsafe { (&*user.cast::<Mutex<Vec<String>>>(), CStr::from_ptr(message)) };
    assert!((RF_LOG_ERROR..=RF_LOG_INFO).contains(&level));
    lines.lock().unwrap().push(message.to_str().unwrap().to_owned());
}

#[test]
fn a_load_is_logged_once_at_info_and_not_at_all_when_off() {
    for (level, expected) in [(RF_LOG_INFO, true), (RF_LOG_ERROR, false), (RF_LOG_OFF, false)] {
        let lines: Mutex<Vec<String>> = Mutex::default();
        let params = rf_backend_params {
            log: Some(collect_log),
            log_user: (&raw const lines).cast_mut().cast(),
            log_level: level,
            ..reference()
        };
        drop(Loaded::with(&params, &tiny()));
        let lines = lines.into_inner().unwrap();
        assert_eq!(!lines.is_empty(), expected, "level {level}: {lines:?}");
    }
}

/// Counts them in an AtomicUsize.
unsafe extern "C-unwind" fn count_tokens(
    seen: *mut c_void,
    _: rf_token,
    text: *const c_char,
    len: usize,
) -> i32 {
    // SAFETY: NUL-terminated at `len`.
    assert_eq!(unsafe { *text.add(len) }, 0);
    // SAFETY: the caller's counter outlives the call.
    unsafe { &*seen.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
    0
}

/// Model, question, device kind, tokens.
fn same_as_the_rust_api(path: &Path, question: &str, kind: i32, n: u32) {
    let params = rf_backend_params { kind, threads: 2, ..defaults(rf_backend_params_init) };
    let loaded = Loaded::with(&params, path);
    let (ctx, sampler) = (loaded.context(), greedy());
    let role = c"user".as_ptr();
    let content = CString::new(question).unwrap();
    let content = content.as_ptr();
    let chat =
        rf_chat_params { n_messages: 1, roles: &role, contents: &content, ..defaults(rf_chat_params_init) };
    let mut prompt = vec![0; 256];
    let mut n_prompt = 0;
    let mut result = empty_generation();
    let seen = AtomicUsize::new(0);
    // SAFETY: all pointers are valid for the calls; handles are released once; the result is read before that.
    let (tokens, text) = unsafe {
        let status = rf_chat_apply(loaded.model, &chat, prompt.as_mut_ptr(), prompt.len(), &mut n_prompt);
        assert_eq!(status, RF_OK, "{}", last_error());
        let params = rf_generate_params { max_tokens: n, ..defaults(rf_generate_params_init) };
        let status = rf_generate(
            ctx,
            sampler,
            prompt.as_ptr(),
            n_prompt,
            &params,
            Some(count_tokens),
            (&raw const seen).cast_mut().cast(),
            &mut result,
        );
        assert_eq!(status, RF_OK, "{}", last_error());
        let tokens = std::slice::from_raw_parts(result.tokens.cast::<u32>(), result.n_tokens).to_vec();
        let text = CStr::from_ptr(result.text).to_str().unwrap().to_owned();
        assert_eq!(text.len(), result.text_len);
        rf_context_release(ctx);
        rf_sampler_release(sampler);
        (tokens, text)
    };
    assert_eq!(seen.into_inner(), tokens.len());

    let device = if kind == RF_DEVICE_REFERENCE { DeviceKind::Reference } else { DeviceKind::Cpu };
    let backend = Backend::new(&BackendParams { device, threads: 2, ..BackendParams::default() }).unwrap();
    let model = engine::Model::load(&backend, path, ModelParams::default()).unwrap();
    let message =
        rocmforge::text::ChatMessage { role: "user".into(), content: question.into(), ..Default::default() };
    let template = model.chat_template().unwrap().expect("a chat template");
    let ids = model.vocab().tokenize_prompt(&template.apply(&[message], None, true).unwrap()).unwrap();
    let params = engine::ContextParams { n_ctx: 128, n_batch: 0, n_seq_max: 0, checkpoint_interval: 0 };
    let mut context = engine::Context::new(&model, &params).unwrap();
    let mut sampler = engine::Sampler::new(engine::SamplerParams {
        temperature: 0.0,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        penalty_last_n: 64,
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed: 0,
    })
    .unwrap();
    let params = engine::GenerateParams { max_tokens: Some(n as usize), ..Default::default() };
    let go_on = &mut |_: engine::Piece<'_>| std::ops::ControlFlow::Continue(());
    let generation = engine::generate(&mut context, &mut sampler, &ids, &params, go_on).unwrap();
    assert_eq!((generation.tokens, generation.text), (tokens, text));
}

#[test]
fn the_tiny_model_says_through_c_what_it_says_through_rust() {
    same_as_the_rust_api(&tiny(), "hello world", RF_DEVICE_REFERENCE, 20);
    same_as_the_rust_api(&tiny(), "hello world", RF_DEVICE_AUTO, 20);
}

#[test]
fn a_real_model_says_through_c_what_it_says_through_rust() {
    let folder = std::env::var_os("ROCMFORGE_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("models"), PathBuf::from);
    let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing: `make models` fetches it", path.display());
    same_as_the_rust_api(&path, "What is the capital of France?", RF_DEVICE_AUTO, 12);
}

/// A file without tensors: text works, a context does not. It asks for BOS and EOS, which a prompt has half of.
#[test]
fn a_vocabulary_alone_is_a_model_of_text() {
    let strings = |v: &[&str]| Value::Array(Array::String(v.iter().map(|s| s.to_string()).collect()));
    let bytes = gguf_writer::GgufWriter::new()
        .meta("tokenizer.ggml.model", "gpt2")
        .meta("tokenizer.ggml.pre", "gpt-2")
        .meta("tokenizer.ggml.tokens", strings(&["<s>", "</s>", "h", "i"]))
        .meta("tokenizer.ggml.token_type", vec![3, 3, 1, 1])
        .meta("tokenizer.ggml.merges", strings(&[]))
        .meta("tokenizer.ggml.bos_token_id", 0u32)
        .meta("tokenizer.ggml.eos_token_id", 1u32)
        .meta("tokenizer.ggml.add_bos_token", true)
        .meta("tokenizer.ggml.add_eos_token", true)
        .build();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vocabulary-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let loaded = Loaded::with(&reference(), &path);
    let tokenize = |flags| {
        let (mut tokens, mut n) = ([-7; 8], 0);
        // SAFETY: the model is alive, the buffer has the capacity stated.
        let status =
            unsafe { rf_tokenize(loaded.model, c"hi".as_ptr(), 2, flags, tokens.as_mut_ptr(), 8, &mut n) };
        (status, tokens[..n].to_vec())
    };
    assert_eq!(tokenize(0), (RF_OK, vec![2, 3]));
    assert_eq!(tokenize(RF_TOKENIZE_ADD_BOS), (RF_OK, vec![0, 2, 3]));
    assert_eq!(tokenize(RF_TOKENIZE_ADD_SPECIAL), (RF_OK, vec![0, 2, 3, 1]));
    assert_eq!(tokenize(RF_TOKENIZE_ADD_SPECIAL | RF_TOKENIZE_ADD_BOS), (RF_OK, vec![0, 2, 3, 1]));
    assert_eq!(tokenize(8).0, RF_ERROR_PARAM);
    let mut ctx = ptr::null_mut();
    let params = defaults(rf_context_params_init);
    // SAFETY: the model is alive; zeros are a valid rf_model_details.
    unsafe {
        let mut info = rf_model_details { size: size_of::<rf_model_details>(), ..std::mem::zeroed() };
        assert_eq!(rf_model_info(loaded.model, &mut info), RF_OK);
        assert_eq!((info.n_vocab, info.n_layer, info.n_gpu_layers, info.add_eos), (4, 0, 0, 1));
        assert_eq!(rf_context_create(loaded.model, &params, &mut ctx), RF_ERROR_MODEL);
    }
    assert!(last_error().contains("no model to run"), "{}", last_error());
    std::fs::remove_file(path).unwrap();
}

/// A model with a recurrent state goes back to multiples of the interval that the host asked for.
#[test]
fn checkpoints_stand_where_the_host_wants_them() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ffi-checkpoints.gguf");
    std::fs::write(&path, Fixture::open("qwen35-dense").bytes(1)).unwrap();
    let loaded = Loaded::with(&reference(), &path);
    for (interval, kept) in [(20, 80), (32, 64), (0, 0)] {
        let params = rf_context_params {
            n_ctx: 128,
            checkpoint_interval: interval,
            ..defaults(rf_context_params_init)
        };
        let (mut ctx, mut len) = (ptr::null_mut(), u32::MAX);
        let tokens: Vec<rf_token> = (0..90).map(|i| i % 50).collect();
        // SAFETY: the model is alive, zeros are a valid batch, all pointers are valid for the calls; the handle is
        // released once.
        unsafe {
            assert_eq!(rf_context_create(loaded.model, &params, &mut ctx), RF_OK, "{}", last_error());
            let batch = rf_batch {
                size: size_of::<rf_batch>(),
                n: tokens.len(),
                tokens: tokens.as_ptr(),
                ..std::mem::zeroed()
            };
            assert_eq!(rf_decode(ctx, &batch), RF_OK, "{}", last_error());
            assert_eq!(rf_kv_reachable(ctx, 0, 89, &mut len), RF_OK, "{}", last_error());
            rf_context_release(ctx);
        }
        assert_eq!(len, kept, "an interval of {interval}");
    }
}
