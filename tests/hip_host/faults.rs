//! What becomes of a model's life on a GPU when calls into the runtime fail, memory runs out, or somebody cancels: an
//! error that says so, everything as before, and a backend that goes on. On the emulator.

use crate::common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use common::emulated::{Emulator, on_emulator};
use common::tiny_model::TinyModel;
use rocmforge::device::BLOCK_LEN;
use rocmforge::engine::*;
use rocmforge::gguf::Gguf;
use rocmforge::gguf::TensorType::{F32, Q8_0};
use rocmforge::{Error, Result};

/// More than a step of few tokens has.
const PROMPT: [u32; 12] = [3, 17, 29, 5, 11, 2, 30, 8, 21, 14, 1, 26];
/// The first two decodes are launched and recorded, the third is a replay.
const GENERATED: usize = 4;

fn gpu() -> Backend {
    let params = BackendParams { device: DeviceKind::Hip, threads: 1, ..BackendParams::default() };
    Backend::new(&params).unwrap()
}

fn tiny() -> TinyModel {
    let base = TinyModel::new("llama").types(&[Q8_0, F32]);
    TinyModel { n_embd: 32, n_ff: 32, n_head: 2, n_head_kv: 1, head_dim: 16, n_vocab: 33, ..base }
}

/// With the experts of its layers, which the processor has.
fn mixture() -> TinyModel {
    TinyModel { experts: [3, 2], ..tiny() }
}

fn load(backend: &Backend, file: &Arc<Gguf>) -> Result<Model> {
    let params = ModelParams {
        gpu_layers: GpuLayers::All,
        cpu_experts: CpuExperts::First(usize::MAX),
        n_ctx: BLOCK_LEN,
        n_batch: 16,
        ..Default::default()
    };
    let model = Model::from_gguf(backend, file.clone(), params)?;
    let targets = model.placement().targets();
    assert_eq!(targets[0], Target::Gpu(0));
    assert_eq!(targets.len() == 2, file.metadata().u64("llama.expert_count")?.is_some());
    Ok(model)
}

fn context(model: &Model) -> Result<Context> {
    Context::new(
        model,
        &ContextParams { n_ctx: BLOCK_LEN, n_batch: 16, n_seq_max: 1, checkpoint_interval: 0 },
    )
}

fn sampler() -> Sampler {
    Sampler::new(SamplerParams { seed: 7, repeat_penalty: 1.1, ..SamplerParams::default() }).unwrap()
}

fn run(context: &mut Context) -> Result<Vec<u32>> {
    generated(context, &PROMPT, GENERATED)
}

fn generated(context: &mut Context, prompt: &[u32], max_tokens: usize) -> Result<Vec<u32>> {
    let params = GenerateParams { max_tokens: Some(max_tokens), ignore_eog: true, ..Default::default() };
    let mut go_on = |_: Piece<'_>| ControlFlow::Continue(());
    Ok(generate(context, &mut sampler(), prompt, &params, &mut go_on)?.tokens)
}

/// Everything from the file to the tokens; what was made is gone afterwards.
fn life(backend: &Backend, file: &Arc<Gguf>) -> Result<Vec<u32>> {
    run(&mut context(&load(backend, file)?)?)
}

/// A shorter one: a step of few tokens, a token drawn by itself, one drawn with a decode.
fn short_life(backend: &Backend, file: &Arc<Gguf>) -> Result<Vec<u32>> {
    generated(&mut context(&load(backend, file)?)?, &PROMPT[..2], 2)
}

fn one(token: &u32) -> Batch<'_> {
    Batch { tokens: std::slice::from_ref(token), positions: None, sequences: None, want: None }
}

fn prompt() -> Batch<'static> {
    Batch { tokens: &PROMPT, positions: None, sequences: None, want: None }
}

fn free(backend: &Backend) -> u64 {
    backend.device().memory().unwrap().free
}

/// hipErrorOutOfMemory, hipErrorInvalidValue, hipErrorUnknown; hipErrorLaunchFailure, which loses the device.
const OUT_OF_MEMORY: i32 = 2;
const INVALID_VALUE: i32 = 1;
const UNKNOWN: i32 = 999;
const LAUNCH_FAILURE: i32 = 719;

fn is_told(error: &Error, code: i32) -> bool {
    match (code, error) {
        (OUT_OF_MEMORY, Error::OutOfMemory { .. }) => true,
        (LAUNCH_FAILURE, Error::DeviceLost { device: 0, failure }) => failure.code == code,
        (INVALID_VALUE | UNKNOWN, Error::Gpu(failure)) => failure.code == code && !failure.call.is_empty(),
        _ => false,
    }
}

/// Calls that may fail and nothing is wrong: those that free things when nobody can be told, forget errors of before, or
/// ask for memory that is had at the second attempt. Each of the first kind has a hipSetDevice before it.
fn harmless(emulator: &Emulator) -> u64 {
    let freed = [
        "hipStreamDestroy",
        "hipEventDestroy",
        "hipHostFree",
        "hipFree",
        "hipGraphDestroy",
        "hipGraphExecDestroy",
    ];
    let freed: u64 = freed.map(|name| emulator.calls(name)).iter().sum();
    // what waits before it frees: a loader, staging, a session and its sampler
    let waits = 2 * 8;
    2 * freed + waits + emulator.calls("hipGetLastError") / 2
}

/// Each call of a life fails once. `part` of `parts`: every so many-th call.
fn sweep(code: i32, part: u64, parts: u64) {
    sweep_of(&tiny(), code, part, parts);
}

fn sweep_of(model: &TinyModel, code: i32, part: u64, parts: u64) {
    let emulator = Emulator::open();
    let file = model.gguf();
    let mut backend = gpu();
    let good = life(&backend, &file).unwrap();
    let short = short_life(&backend, &file).unwrap();
    assert_eq!((good.len(), short.len()), (GENERATED, 2));
    emulator.fail("");
    assert_eq!(life(&backend, &file).unwrap(), good);
    let calls = emulator.calls("");
    assert!(emulator.calls("hipGraphLaunch") >= 2, "recorded and replayed");
    let (harmless, mallocs) = (harmless(&emulator), emulator.calls("hipMalloc"));
    let lost = code == LAUNCH_FAILURE;

    let (mut failed, mut passed) = (0, 0);
    for n in (1..=calls).filter(|n| n % parts == part) {
        let before = free(&backend);
        emulator.fail(&format!("{n}:{code}"));
        let outcome = life(&backend, &file);
        assert!(emulator.calls("") >= n, "call {n} of {calls} was not made");
        emulator.fail("");
        let mut frees_failed = true;
        match &outcome {
            Ok(tokens) => {
                assert_eq!(tokens, &good, "call {n}");
                passed += 1;
            }
            Err(error) => {
                assert!(is_told(error, code), "call {n}: {error:?}");
                frees_failed = error.to_string().contains("hipFree");
                failed += 1;
            }
        }
        if lost {
            // it may have failed when all was done, and nobody has noticed yet
            let noticed = matches!(backend.device().memory(), Err(Error::DeviceLost { .. }));
            assert!(outcome.is_ok() || noticed, "call {n}");
            if noticed {
                emulator.fail("");
                assert!(is_told(&life(&backend, &file).unwrap_err(), code), "call {n}");
                assert_eq!(emulator.calls(""), 0, "call {n}: a lost device was called");
                drop(backend);
                emulator.reset_device();
                backend = gpu();
            }
        }
        let again = short_life(&backend, &file);
        assert!(
            again.as_ref().is_ok_and(|tokens| *tokens == short),
            "after call {n}, {outcome:?}: {again:?}"
        );
        if !lost && !frees_failed {
            assert_eq!(free(&backend), before, "call {n}, {outcome:?}: memory is missing");
        }
    }
    println!("{code}, {part} of {parts}: {calls} calls, {failed} failed, {passed} passed");
    let may_pass = harmless + if code == OUT_OF_MEMORY { mallocs } else { 0 };
    assert!(passed <= may_pass, "{passed} failures went unnoticed, {may_pass} calls may fail");
    assert!(failed >= passed, "{failed}, {passed}");
}

const SMALL: [(&str, &str); 3] = [("MEMORY", "256M"), ("LOG", "/dev/null"), ("THREADS", "1")];

#[test]
fn calls_between_experts_may_fail() {
    on_emulator("calls_between_experts_may_fail", &SMALL, || sweep_of(&mixture(), UNKNOWN, 0, 5));
}

#[test]
fn calls_between_experts_may_lose_the_device() {
    on_emulator("calls_between_experts_may_lose_the_device", &SMALL, || {
        sweep_of(&mixture(), LAUNCH_FAILURE, 1, 5);
    });
}

#[test]
fn every_call_may_be_out_of_memory_1_of_4() {
    on_emulator("every_call_may_be_out_of_memory_1_of_4", &SMALL, || sweep(OUT_OF_MEMORY, 0, 4));
}

#[test]
fn every_call_may_be_out_of_memory_2_of_4() {
    on_emulator("every_call_may_be_out_of_memory_2_of_4", &SMALL, || sweep(OUT_OF_MEMORY, 1, 4));
}

#[test]
fn every_call_may_be_out_of_memory_3_of_4() {
    on_emulator("every_call_may_be_out_of_memory_3_of_4", &SMALL, || sweep(OUT_OF_MEMORY, 2, 4));
}

#[test]
fn every_call_may_be_out_of_memory_4_of_4() {
    on_emulator("every_call_may_be_out_of_memory_4_of_4", &SMALL, || sweep(OUT_OF_MEMORY, 3, 4));
}

#[test]
fn every_call_may_fail_1_of_4() {
    on_emulator("every_call_may_fail_1_of_4", &SMALL, || sweep(UNKNOWN, 0, 4));
}

#[test]
fn every_call_may_fail_2_of_4() {
    on_emulator("every_call_may_fail_2_of_4", &SMALL, || sweep(UNKNOWN, 1, 4));
}

#[test]
fn every_call_may_fail_3_of_4() {
    on_emulator("every_call_may_fail_3_of_4", &SMALL, || sweep(UNKNOWN, 2, 4));
}

#[test]
fn every_call_may_fail_4_of_4() {
    on_emulator("every_call_may_fail_4_of_4", &SMALL, || sweep(UNKNOWN, 3, 4));
}

#[test]
fn every_call_may_lose_the_device_1_of_4() {
    on_emulator("every_call_may_lose_the_device_1_of_4", &SMALL, || sweep(LAUNCH_FAILURE, 0, 4));
}

#[test]
fn every_call_may_lose_the_device_2_of_4() {
    on_emulator("every_call_may_lose_the_device_2_of_4", &SMALL, || sweep(LAUNCH_FAILURE, 1, 4));
}

#[test]
fn every_call_may_lose_the_device_3_of_4() {
    on_emulator("every_call_may_lose_the_device_3_of_4", &SMALL, || sweep(LAUNCH_FAILURE, 2, 4));
}

#[test]
fn every_call_may_lose_the_device_4_of_4() {
    on_emulator("every_call_may_lose_the_device_4_of_4", &SMALL, || sweep(LAUNCH_FAILURE, 3, 4));
}

// Memory that runs out by itself.

/// Contexts that are larger than the model was placed with.
const LARGE: ContextParams =
    ContextParams { n_ctx: 5 << 15, n_batch: 64, n_seq_max: 1, checkpoint_interval: 0 };
const HUGE: ContextParams = ContextParams { n_ctx: 1 << 19, ..LARGE };

/// (what, wanted, free) of an Error::OutOfMemory that tells all of it.
fn exhausted<T>(outcome: Result<T>, total: u64) -> Option<String> {
    match outcome {
        Ok(_) => None,
        Err(Error::OutOfMemory { what, wanted, free, total: told }) => {
            assert!(wanted > free, "{what}: {wanted} of {free}");
            assert_eq!(told, total, "{what}");
            Some(what)
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn memory_may_end_anywhere() {
    on_emulator("memory_may_end_anywhere", &[("LOG", "/dev/null")], || {
        let emulator = Emulator::open();
        let file = tiny().gguf();
        let good = life(&gpu(), &file).unwrap();
        let mut ended = Vec::new();
        // more each time, until nothing is too large any more
        let more = (0..).map(|n| (15 << 20) + n * (3 << 19));
        for total in [16 << 10, 64 << 10, 1 << 20].into_iter().chain(more) {
            emulator.configure(&format!("MEMORY={total}"));
            let backend = gpu();
            let before = free(&backend);
            let Some(model) = keep(load(&backend, &file), total, &mut ended) else {
                assert_eq!(free(&backend), before, "{ended:?}");
                continue;
            };
            let loaded = free(&backend);
            let is_done = keep(Context::new(&model, &LARGE), total, &mut ended).is_some();
            assert_eq!(free(&backend), loaded, "{ended:?}");
            // what it was placed for fits
            assert_eq!(run(&mut context(&model).unwrap()).unwrap(), good, "{ended:?}");
            drop(model);
            assert_eq!(free(&backend), before, "{ended:?}");
            if is_done {
                break;
            }
        }
        for part in ["a context of 64", "the cache on", "scratch"] {
            assert!(ended.iter().any(|what| what.contains(part)), "{part}: {ended:?}");
        }
        println!("{ended:?}");
    });
}

/// Notes what there was no memory for.
fn keep<T>(outcome: Result<T>, total: u64, ended: &mut Vec<String>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        outcome => {
            let what = exhausted(outcome, total)?;
            if !ended.contains(&what) {
                ended.push(what);
            }
            None
        }
    }
}

#[test]
fn others_go_on_where_one_has_no_room() {
    on_emulator("others_go_on_where_one_has_no_room", &[("MEMORY", "24M"), ("LOG", "/dev/null")], || {
        let total = 24 << 20;
        let backend = gpu();
        let (file, large) = (tiny().gguf(), TinyModel { n_ff: 1 << 17, n_layer: 3, ..tiny() }.gguf());
        let good = life(&backend, &file).unwrap();
        let model = load(&backend, &file).unwrap();
        let mut first = context(&model).unwrap();
        let mut chooser = sampler();
        PROMPT.iter().for_each(|token| chooser.accept(*token).unwrap());
        let mut tokens = vec![first.decode_and_sample(&prompt(), &mut chooser).unwrap()];
        let before = free(&backend);
        for _ in 1..GENERATED {
            assert!(exhausted(load(&backend, &large), total).is_some(), "the large model fits");
            assert!(exhausted(Context::new(&model, &HUGE), total).is_some(), "the huge context fits");
            assert_eq!(free(&backend), before);
            assert_eq!(life(&backend, &file).unwrap(), good, "a second model that fits");
            assert_eq!(free(&backend), before);
            let last = tokens[tokens.len() - 1];
            chooser.accept(last).unwrap();
            tokens.push(first.decode_and_sample(&one(&last), &mut chooser).unwrap());
        }
        assert_eq!(tokens, good);
    });
}

// One context fails, others do not.

/// A context with the prompt and `n` decodes behind it, its sampler, and the tokens so far.
fn advanced(model: &Model, n: usize) -> (Context, Sampler, Vec<u32>) {
    let (mut context, mut chooser) = (context(model).unwrap(), sampler());
    PROMPT.iter().for_each(|token| chooser.accept(*token).unwrap());
    let mut tokens = Vec::new();
    for _ in 0..n {
        let token = step(&mut context, &mut chooser, &tokens).unwrap();
        tokens.push(token);
    }
    (context, chooser, tokens)
}

/// The step behind `tokens`. The sampler is told of the token that it gives.
fn step(context: &mut Context, chooser: &mut Sampler, tokens: &[u32]) -> Result<u32> {
    let token = match tokens.last() {
        None => context.decode_and_sample(&prompt(), chooser)?,
        Some(last) => context.decode_and_sample(&one(last), chooser)?,
    };
    chooser.accept(token).unwrap();
    Ok(token)
}

/// Each call of a step fails once, in a way that loses no device: of the prompt (`at` 0), of a decode that is launched
/// (1), recorded (2) or replayed (3). The context and its sampler are as before, and the step done again gives what it
/// should have.
fn failed_step(code: i32, at: usize) {
    let emulator = Emulator::open();
    let backend = gpu();
    let model = load(&backend, &tiny().gguf()).unwrap();
    let (mut other, _, good) = advanced(&model, GENERATED);
    let held = other.kv_len(0).unwrap();
    // what somebody else's next step gives, undone again
    let greedy = || Sampler::new(SamplerParams { temperature: 0.0, ..SamplerParams::default() }).unwrap();
    let mut others_step = || {
        let token = other.decode_and_sample(&one(&good[GENERATED - 1]), &mut greedy()).unwrap();
        other.kv_truncate(0, held).unwrap();
        token
    };
    let others = others_step();
    let (mut failing, mut chooser, tokens) = advanced(&model, at);
    emulator.fail("");
    assert_eq!(step(&mut failing, &mut chooser, &tokens).unwrap(), good[at]);
    let calls = emulator.calls("");
    drop(failing);
    let mut passed = 0;
    for n in 1..=calls {
        let (mut failing, mut chooser, mut tokens) = advanced(&model, at);
        let before = (failing.kv_len(0).unwrap(), failing.info().n_used);
        emulator.fail(&format!("{n}:{code}"));
        let outcome = step(&mut failing, &mut chooser, &tokens);
        emulator.fail("");
        let token = match outcome {
            Ok(token) => {
                passed += 1;
                token
            }
            Err(error) => {
                assert!(is_told(&error, code), "call {n}: {error:?}");
                assert_eq!((failing.kv_len(0).unwrap(), failing.info().n_used), before, "call {n}");
                assert_eq!(others_step(), others, "call {n}: another context");
                step(&mut failing, &mut chooser, &tokens)
                    .unwrap_or_else(|again| panic!("call {n}, {error}: {again}"))
            }
        };
        assert_eq!(token, good[at], "call {n}");
        tokens.push(token);
        if let Some(expected) = good.get(at + 1) {
            let token = step(&mut failing, &mut chooser, &tokens).unwrap();
            assert_eq!(token, *expected, "call {n}: the one after");
        }
    }
    println!("{code}, step {at}: {calls} calls, {passed} passed");
    // before each launch errors of before are forgotten
    assert!(passed * 4 <= calls, "{passed} failures of {calls} went unnoticed");
}

#[test]
fn a_failed_prompt_changes_nothing() {
    on_emulator("a_failed_prompt_changes_nothing", &SMALL, || failed_step(INVALID_VALUE, 0));
}

#[test]
fn a_failed_launch_by_launch_step_changes_nothing() {
    on_emulator("a_failed_launch_by_launch_step_changes_nothing", &SMALL, || failed_step(INVALID_VALUE, 1));
}

#[test]
fn a_step_that_fails_while_recorded_changes_nothing() {
    on_emulator("a_step_that_fails_while_recorded_changes_nothing", &SMALL, || failed_step(INVALID_VALUE, 2));
}

#[test]
fn a_failed_replay_changes_nothing() {
    on_emulator("a_failed_replay_changes_nothing", &SMALL, || failed_step(INVALID_VALUE, 3));
}

// Cancelling.

#[test]
fn cancelled_steps_change_nothing() {
    on_emulator("cancelled_steps_change_nothing", &SMALL, || {
        let emulator = Emulator::open();
        let backend = gpu();
        let file = TinyModel { n_layer: 12, ..tiny() }.gguf();
        let model = load(&backend, &file).unwrap();
        let good = run(&mut context(&model).unwrap()).unwrap();
        let mut context = context(&model).unwrap();
        let launches = || emulator.calls("hipModuleLaunchKernel");

        emulator.fail("");
        context.decode(&prompt()).unwrap();
        let whole = launches();
        context.kv_clear();

        // before it begins
        static STOP: AtomicI32 = AtomicI32::new(1);
        context.stop_on(&STOP);
        emulator.fail("");
        assert!(matches!(context.decode(&prompt()), Err(Error::Cancelled)));
        STOP.store(0, Ordering::Relaxed);
        assert_eq!((launches(), context.kv_len(0).unwrap(), context.info().n_used), (0, 0, 0));

        // from another thread, when some of it is launched
        let mut cut = 0;
        for part in [8, 4, 2] {
            let handle = context.cancel_handle();
            emulator.fail("");
            let over = AtomicBool::new(false);
            let outcome = std::thread::scope(|scope| {
                let canceller = scope.spawn(|| {
                    while launches() < whole / part && !over.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                    handle.cancel();
                });
                let outcome = context.decode(&prompt());
                over.store(true, Ordering::Relaxed);
                canceller.join().unwrap();
                outcome
            });
            assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
            assert!((1..whole).contains(&launches()), "{} launches of {whole}", launches());
            cut += whole - launches();
            assert_eq!((context.kv_len(0).unwrap(), context.info().n_used), (0, 0));
            // that was the request's only call
            assert_eq!(run(&mut context).unwrap(), good);
            context.kv_clear();
        }
        println!("{whole} launches, {cut} of three times as many left out");

        // behind a prompt that stays
        let (mut context, mut chooser, mut tokens) = advanced(&model, 2);
        let held = context.kv_len(0).unwrap();
        context.stop_on(&STOP);
        STOP.store(1, Ordering::Relaxed);
        assert!(matches!(context.decode(&prompt()), Err(Error::Cancelled)));
        STOP.store(0, Ordering::Relaxed);
        assert_eq!(context.kv_len(0).unwrap(), held);
        for _ in 2..GENERATED {
            let token = step(&mut context, &mut chooser, &tokens).unwrap();
            tokens.push(token);
        }
        assert_eq!(tokens, good);
    });
}
