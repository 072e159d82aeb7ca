//! `bench --per-op`: where the time of a step goes.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use rocmforge::engine::{Batch, Model, OpTime, StepTimes};
use serde_json::{Value as Json, json};

use crate::Usage;
use crate::args::{self, DeviceArgs};
use crate::bench::{self, Args, Test, Tokens};

pub fn run(args: &Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut results = Vec::new();
    for path in &args.model {
        let backend = DeviceArgs { device: args.device.clone(), threads: args.threads[0] }.backend()?;
        let bandwidth = match backend.kind() {
            #[cfg(feature = "hip")]
            rocmforge::engine::DeviceKind::Hip => {
                let gpu = backend.info().gpu.map(|gpu| rocmforge::engine::DeviceChoice::Index(gpu.index));
                let choice = gpu.unwrap_or_else(|| args.device.choice.clone());
                Some(crate::gpu_bench::read_bandwidth(&choice, args.repetitions)?)
            }
            _ => None,
        };
        // one generated token is as good as many
        let tests = bench::tests(args).into_iter().map(|test| Test { n_gen: test.n_gen.min(1), ..test });
        let mut tests: Vec<Test> = tests.collect();
        tests.dedup_by_key(|test| (test.n_prompt, test.n_gen, test.n_depth));
        let n_ctx = bench::n_ctx(&tests)?;
        if let Some(n) = tests.iter().map(Test::n_tokens).find(|n| *n > args.batch_size) {
            let most = args.batch_size;
            return Err(
                Usage(format!("--per-op times one step: {n} tokens (-p) are more than {most} (-b)")).into()
            );
        }
        let model = args::load(&backend, path, &args.layers, n_ctx, args.batch_size)?;
        for test in tests {
            let times = measure(&model, test, args)?;
            if args.json {
                results.push(describe(&model, path, test, bandwidth, &times));
            } else {
                print(&model, test, bandwidth, &times, &mut out)?;
            }
        }
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&results)?)?;
    }
    Ok(())
}

fn measure(model: &Model, test: Test, args: &Args) -> Result<StepTimes> {
    let n_ctx = test.n_depth + test.n_tokens();
    let mut context = args::context(model, n_ctx, args.batch_size.min(n_ctx))?;
    let mut tokens = Tokens::new(model)?;
    bench::prompt(&mut context, &mut tokens, test.n_depth)?;
    let tokens = tokens.take(test.n_tokens());
    let batch = Batch { tokens: &tokens, positions: None, sequences: None, want: None };
    Ok(context.time_ops(&batch, args.repetitions as usize)?)
}

/// Of all ops, as if it were one.
fn sum(times: &StepTimes) -> OpTime {
    OpTime {
        name: "sum".into(),
        calls: times.ops.iter().map(|op| op.calls).sum(),
        bytes: times.ops.iter().map(|op| op.bytes).sum(),
        seconds: times.ops.iter().map(|op| op.seconds).sum(),
    }
}

/// Bytes a second; None for ops that need not read memory.
fn rate(op: &OpTime) -> Option<f64> {
    (op.bytes > 0 && op.seconds > 0.0).then(|| op.bytes as f64 / op.seconds)
}

fn print(
    model: &Model,
    test: Test,
    bandwidth: Option<f64>,
    times: &StepTimes,
    out: &mut impl Write,
) -> Result<()> {
    let device = model.backend().info();
    let read = bandwidth.map(|rate| format!(", reads {:.0} GB/s", rate / 1e9)).unwrap_or_default();
    writeln!(
        out,
        "{}, one step of {}: {} ({}){read}",
        bench::model_type(model),
        test.name(),
        device.name,
        device.arch
    )?;
    writeln!(out, "\n| op | calls | bytes | us | GB/s | of read |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
    let sum = sum(times);
    let whole = OpTime { name: "the whole step".into(), seconds: times.seconds, ..sum.clone() };
    for op in times.ops.iter().chain([&sum, &whole]) {
        let OpTime { name, calls, bytes, seconds } = op;
        let gb = rate(op).map_or("-".into(), |rate| format!("{:.0}", rate / 1e9));
        let share = rate(op).zip(bandwidth).map(|(rate, read)| format!("{:.1} %", 100.0 * rate / read));
        let share = share.unwrap_or_else(|| "-".into());
        writeln!(out, "| {name} | {calls} | {bytes} | {:.1} | {gb} | {share} |", seconds * 1e6)?;
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

fn describe(model: &Model, path: &Path, test: Test, bandwidth: Option<f64>, times: &StepTimes) -> Json {
    let ops = times.ops.iter().map(|op| {
        let OpTime { name, calls, bytes, seconds } = op;
        json!({
            "op": name, "calls": calls, "bytes": bytes, "seconds": seconds,
            "share_of_read": rate(op).zip(bandwidth).map(|(rate, read)| rate / read),
        })
    });
    json!({
        "model_filename": path.to_string_lossy(), "model_type": bench::model_type(model),
        "gpu_info": model.backend().info().name, "n_prompt": test.n_prompt, "n_gen": test.n_gen,
        "n_depth": test.n_depth, "read_bytes_per_second": bandwidth.map(|rate| rate as u64),
        "ops": ops.collect::<Vec<_>>(), "sum_seconds": sum(times).seconds, "step_seconds": times.seconds,
    })
}
