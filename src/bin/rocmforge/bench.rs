//! `bench`: prompt processing (pp) and token generation (tg), measured as llama-bench measures: random tokens, a
//! warm-up, each repetition from an empty cache.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use rocmforge::engine::{Batch, Context, DeviceInfo, DeviceKind, MAX_CONTEXT, Model, Target};
use serde_json::{Value as Json, json};

use crate::args::{self, DeviceArgs, DeviceName, LayerArgs, batch_size, positions, threads};
#[cfg(feature = "hip")]
use crate::gpu_bench;
use crate::{Usage, bandwidth, per_op, stats, terminal};

#[cfg(feature = "hip")]
const WITHOUT_MODEL: [&str; 2] = ["bandwidth", "kernels"];
#[cfg(not(feature = "hip"))]
const WITHOUT_MODEL: [&str; 1] = ["bandwidth"];

#[derive(clap::Args)]
pub struct Args {
    /// Model files (several: one after the other)
    #[arg(short, long, required_unless_present_any = WITHOUT_MODEL)]
    pub model: Vec<PathBuf>,
    /// Prompt lengths, comma-separated; 0: none
    #[arg(short = 'p', long, default_value = "512", value_delimiter = ',', value_parser = positions)]
    n_prompt: Vec<usize>,
    /// Generated lengths, comma-separated; 0: none
    #[arg(short = 'n', long, default_value = "128", value_delimiter = ',', value_parser = positions)]
    n_gen: Vec<usize>,
    /// Positions already in the cache, comma-separated
    #[arg(short = 'd', long, default_value = "0", value_delimiter = ',', value_parser = positions)]
    n_depth: Vec<usize>,
    /// Repetitions
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Thread counts, comma-separated; 0: one per core
    #[arg(short, long, default_value = "0", value_delimiter = ',', value_parser = threads)]
    pub threads: Vec<usize>,
    /// Most tokens computed in one step
    #[arg(short, long, default_value = "512", value_parser = batch_size)]
    pub batch_size: usize,
    /// Device to compute on
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,
    #[command(flatten)]
    pub layers: LayerArgs,
    /// Measure how fast the device reads its memory (the processor: 2 GiB, each thread count), no model needed
    #[arg(long)]
    bandwidth: bool,
    /// Where the time of one step goes, by kind of op: a prompt's of -p tokens and a generated token's, behind -d
    /// positions. On a GPU
    #[arg(long, conflicts_with = "bandwidth", requires = "model")]
    per_op: bool,
    #[cfg(feature = "hip")]
    #[command(flatten)]
    gpu: gpu_bench::GpuArgs,
    /// Print JSON with llama-bench's field names
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy)]
pub struct Test {
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
}

impl Test {
    /// "pp512", "tg128 @ d1024", as llama-bench writes them.
    pub fn name(&self) -> String {
        let name = match (self.n_prompt, self.n_gen) {
            (p, 0) => format!("pp{p}"),
            (_, g) => format!("tg{g}"),
        };
        if self.n_depth > 0 { format!("{name} @ d{}", self.n_depth) } else { name }
    }

    pub fn n_tokens(&self) -> usize {
        self.n_prompt + self.n_gen
    }
}

pub fn run(args: Args) -> Result<()> {
    #[cfg(feature = "hip")]
    if args.gpu.kernels {
        return gpu_bench::run(&args.gpu, &args.device, args.repetitions, args.json);
    }
    if args.bandwidth {
        // there is one
        let backend = DeviceArgs { device: args.device.clone(), threads: 1 }.backend()?;
        #[cfg(feature = "hip")]
        if backend.kind() == DeviceKind::Hip {
            return gpu_bench::run(&args.gpu, &args.device, args.repetitions, args.json);
        }
        drop(backend);
        return print_bandwidth(&args);
    }
    if args.per_op {
        return per_op::run(&args);
    }
    let n_ctx = n_ctx(&tests(&args))?;
    let mut out = io::stdout().lock();
    let mut results = Vec::new();
    let mut has_header = args.json;
    for path in &args.model {
        for &threads in &args.threads {
            let backend = DeviceArgs { device: args.device.clone(), threads }.backend()?;
            let model = args::load(&backend, path, &args.layers, n_ctx, args.batch_size)?;
            if !has_header {
                writeln!(out, "| model | size | params | backend | threads | test | t/s |")?;
                writeln!(out, "| --- | ---: | ---: | --- | ---: | ---: | ---: |")?;
                has_header = true;
            }
            for test in tests(&args) {
                let test_time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
                let samples = measure(&model, test, args.batch_size, args.repetitions)?;
                if args.json {
                    results.push(describe(&model, path, test, args.batch_size, &test_time, &samples));
                } else {
                    let speeds = speeds(test, &samples);
                    let info = model.info();
                    writeln!(
                        out,
                        "| {} | {:.2} MiB | {:.2} M | {} | {} | {} | {:.2} ± {:.2} |",
                        model_type(&model),
                        info.file_bytes as f64 / f64::from(1 << 20),
                        info.n_params as f64 / 1e6,
                        backend_name(&model),
                        host(&model).compute_units,
                        test.name(),
                        stats::mean(&speeds),
                        stats::deviation(&speeds)
                    )?;
                    out.flush()?;
                }
            }
        }
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&results)?)?;
    }
    Ok(())
}

pub fn tests(args: &Args) -> Vec<Test> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth {
        let positive = |list: &[usize]| list.iter().copied().filter(|n| *n > 0).collect::<Vec<_>>();
        tests.extend(positive(&args.n_prompt).into_iter().map(|n_prompt| Test {
            n_prompt,
            n_gen: 0,
            n_depth,
        }));
        tests.extend(positive(&args.n_gen).into_iter().map(|n_gen| Test { n_prompt: 0, n_gen, n_depth }));
    }
    tests
}

/// Positions that the longest of the tests takes.
pub fn n_ctx(tests: &[Test]) -> Result<usize> {
    match tests.iter().map(|test| test.n_depth + test.n_tokens()).max() {
        None => Err(Usage("nothing to measure: -p and -n are 0".into()).into()),
        Some(n) if n > MAX_CONTEXT => {
            Err(Usage(format!("-d with -p or -n makes {n} positions; the most is {MAX_CONTEXT}")).into())
        }
        Some(n) => Ok(n),
    }
}

/// Nanoseconds of each repetition.
fn measure(model: &Model, test: Test, n_batch: usize, repetitions: u32) -> Result<Vec<u64>> {
    let n_ctx = test.n_depth + test.n_tokens();
    let mut context = args::context(model, n_ctx, n_batch.min(n_ctx))?;
    let mut tokens = Tokens::new(model)?;

    // warm-up: pages touched, threads awake
    prompt(&mut context, &mut tokens, test.n_prompt)?;
    decode(&mut context, &mut tokens, test.n_gen.min(1))?;
    context.kv_clear();
    prompt(&mut context, &mut tokens, test.n_depth)?;

    let mut samples = Vec::new();
    for _ in 0..repetitions {
        let kept = context.kv_reachable(0, test.n_depth)?;
        context.kv_truncate(0, kept)?;
        prompt(&mut context, &mut tokens, test.n_depth - kept)?;
        let start = Instant::now();
        prompt(&mut context, &mut tokens, test.n_prompt)?;
        decode(&mut context, &mut tokens, test.n_gen)?;
        samples.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    Ok(samples)
}

pub fn prompt(context: &mut Context, tokens: &mut Tokens, n: usize) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let tokens = tokens.take(n);
    Ok(context.decode(&Batch { tokens: &tokens, positions: None, sequences: None, want: None })?)
}

fn decode(context: &mut Context, tokens: &mut Tokens, n: usize) -> Result<()> {
    for i in 0..n {
        let token = if i == 0 { tokens.first() } else { tokens.next() };
        context.decode(&Batch { tokens: &[token], positions: None, sequences: None, want: None })?;
    }
    Ok(())
}

/// Random token ids (splitmix64), the same in every run.
pub struct Tokens {
    state: u64,
    n_vocab: u64,
    bos: Option<u32>,
}

impl Tokens {
    pub fn new(model: &Model) -> Result<Self> {
        let n_vocab = model.info().n_vocab as u64;
        if n_vocab == 0 {
            bail!("the model has no vocabulary");
        }
        let bos = model.vocab().bos().filter(|_| model.vocab().add_bos());
        Ok(Tokens { state: 42, n_vocab, bos })
    }

    fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % self.n_vocab) as u32
    }

    pub fn take(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|i| if i == 0 { self.first() } else { self.next() }).collect()
    }

    /// BOS where the model wants one.
    fn first(&mut self) -> u32 {
        self.bos.unwrap_or_else(|| self.next())
    }
}

fn speeds(test: Test, samples: &[u64]) -> Vec<f64> {
    samples.iter().map(|&ns| 1e9 * test.n_tokens() as f64 / ns.max(1) as f64).collect()
}

fn backend_name(model: &Model) -> &'static str {
    match model.backend().kind() {
        DeviceKind::Cpu => "CPU",
        DeviceKind::Reference => "reference",
        DeviceKind::Hip | DeviceKind::Auto => "HIP",
    }
}

/// What computes the part of the model that no GPU does; nothing where they do it all.
fn host(model: &Model) -> DeviceInfo {
    let has_part = model.placement().targets().contains(&Target::Host);
    let device = model.backend().host().ok().filter(|_| has_part);
    device.map(|device| device.info()).unwrap_or_default()
}

/// Names of the GPUs that compute some of the model.
fn gpu_names(model: &Model) -> String {
    let used = model.placement().targets().into_iter().filter_map(|target| match target {
        Target::Gpu(i) => Some(model.backend().gpus()[i].info().name),
        Target::Host => None,
    });
    used.collect::<Vec<_>>().join(", ")
}

/// "llama 135M Q4_1": architecture, parameters, and the type that the file says it is of.
pub fn model_type(model: &Model) -> String {
    let info = model.info();
    let n = info.n_params as f64;
    let size = if n >= 1e9 { format!("{:.2}B", n / 1e9) } else { format!("{:.0}M", n / 1e6) };
    format!("{} {size} {}", info.arch, info.file_type)
}

fn describe(
    model: &Model,
    path: &std::path::Path,
    test: Test,
    n_batch: usize,
    test_time: &str,
    samples: &[u64],
) -> Json {
    let info = model.info();
    let host = host(model);
    let speeds = speeds(test, samples);
    let nanos: Vec<f64> = samples.iter().map(|&ns| ns as f64).collect();
    let cache_type = match model.backend().kind() {
        DeviceKind::Reference => "f32",
        _ => "f16",
    };
    json!({
        "build_commit": option_env!("ROCMFORGE_COMMIT").unwrap_or(env!("CARGO_PKG_VERSION")),
        "build_number": 0,
        "cpu_info": if host.name.is_empty() { host.name } else { format!("{} ({})", host.name, host.arch) },
        "gpu_info": gpu_names(model),
        "backends": backend_name(model),
        "model_filename": path.to_string_lossy(),
        "model_type": model_type(model),
        "model_size": info.file_bytes,
        "model_n_params": info.n_params,
        "n_batch": n_batch,
        "n_ubatch": n_batch,
        "n_threads": host.compute_units,
        "type_k": cache_type,
        "type_v": cache_type,
        "n_gpu_layers": model.placement().n_gpu_layers(),
        "n_cpu_moe": model.placement().cpu_experts,
        "n_prompt": test.n_prompt,
        "n_gen": test.n_gen,
        "n_depth": test.n_depth,
        "test_time": test_time,
        "avg_ns": stats::mean(&nanos) as u64,
        "stddev_ns": stats::deviation(&nanos) as u64,
        "avg_ts": stats::mean(&speeds),
        "stddev_ts": stats::deviation(&speeds),
        "samples_ns": samples,
        "samples_ts": speeds,
    })
}

fn print_bandwidth(args: &Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut results = Vec::new();
    for &threads in &args.threads {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let rate = bandwidth::measure(threads)?;
        if args.json {
            results.push(json!({ "n_threads": threads, "read_bytes_per_second": rate as u64 }));
        } else {
            writeln!(out, "memory read, {threads} threads: {}/s", terminal::bytes(rate as u64))?;
        }
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&results)?)?;
    }
    Ok(())
}
