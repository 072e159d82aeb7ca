//! What becomes of a model's life on a GPU when calls into the runtime fail, memory runs out, or somebody cancels: an
//! error that says so, everything as before, and a backend that goes on. On the emulator.
#![cfg(feature = "hip")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::emulated::{Emulator, on_emulator};
use rocmforge::device::BLOCK_LEN;
use rocmforge::engine::*;
use rocmforge::gguf::Gguf;
use rocmforge::gguf::TensorType::{F32, Q8_0};
use rocmforge::{Error, Result};
use common::tiny_model::TinyModel;

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

fn load(backend: &Backend, file: &Arc<Gguf>) -> Result<Model> {
    let params = ModelParams { gpu_layers: GpuLayers::All, n_ctx: BLOCK_LEN, n_batch: 16, ..Default::default() };
    let model = Model::from_gguf(backend, file.clone(), params)?;
    assert_eq!(model.placement().targets(), [Target::Gpu(0)]);
    Ok(model)
}

fn context(model: &Model) -> Result<Context> {
    Context::new(model, &ContextParams { n_ctx: BLOCK_LEN, n_batch: 16, n_seq_max: 1 })
}

fn sampler() -> Sampler {
    Sampler::new(SamplerParams { seed: 7, repeat_penalty: 1.1, ..SamplerParams::default() }).unwrap()
}

fn run(context: &mut Context) -> Result<Vec<u32>> {
    let params = GenerateParams { max_tokens: Some(GENERATED), ignore_eog: true, ..Default::default() };
    let mut go_on = |_: Piece<'_>| ControlFlow::Continue(());
    Ok(generate(context, &mut sampler(), &PROMPT, &params, &mut go_on)?.tokens)
}

/// Everything from the file to the tokens; what was made is gone afterwards.
fn life(backend: &Backend, file: &Arc<Gguf>) -> Result<Vec<u32>> {
    run(&mut context(&load(backend, file)?)?)
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
    let freed = ["hipStreamDestroy", "hipEventDestroy", "hipHostFree", "hipFree", "hipGraphDestroy", "hipGraphExecDestroy"];
    let freed: u64 = freed.map(|name| emulator.calls(name)).iter().sum();
    // what waits before it frees: a loader, staging, a session and its sampler
    let waits = 2 * 8;
    2 * freed + waits + emulator.calls("hipGetLastError") / 2
}

/// Each call of a life fails once. `part` of `parts`: every so many-th call.
fn sweep(code: i32, part: u64, parts: u64) {
    let emulator = Emulator::open();
    let file = tiny().gguf();
    let mut backend = gpu();
    let good = life(&backend, &file).unwrap();
    assert_eq!(good.len(), GENERATED);
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
        let again = life(&backend, &file);
        assert!(again.as_ref().is_ok_and(|tokens| *tokens == good), "after call {n}, {outcome:?}: {again:?}");
        if !lost && !frees_failed {
            assert_eq!(free(&backend), before, "call {n}, {outcome:?}: memory is missing");
        }
    }
    println!("{code}: {calls} calls, {failed} failed, {passed} passed");
    let may_pass = harmless + if code == OUT_OF_MEMORY { mallocs } else { 0 };
    assert!(passed <= may_pass, "{passed} failures went unnoticed, {may_pass} calls may fail");
    assert!(failed >= passed, "{failed}, {passed}");
}

const SMALL: [(&str, &str); 2] = [("MEMORY", "256M"), ("LOG", "/dev/null")];

#[test]
fn every_call_may_be_out_of_memory() {
    on_emulator("every_call_may_be_out_of_memory", &SMALL, || sweep(OUT_OF_MEMORY, 0, 1));
}

#[test]
fn every_call_may_fail() {
    on_emulator("every_call_may_fail", &SMALL, || sweep(UNKNOWN, 0, 1));
}

#[test]
fn every_call_may_lose_the_device() {
    on_emulator("every_call_may_lose_the_device", &SMALL, || sweep(LAUNCH_FAILURE, 0, 1));
}
