//! `load`: how long a model takes to be ready, how much memory it takes, and whether its tensors are sound.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rocmforge::engine::{
    Alternative, Backend, BackendParams, Batch, DeviceKind, Memory, Model, Placement, Slice, Target,
};
use rocmforge::gguf::{Gguf, TensorInfo, dequant};

use crate::args::{ContextArgs, ModelArgs};
use crate::{interrupt, terminal};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    context: ContextArgs,
    /// Dequantize every tensor and count values that are not finite; transpose the embedding on the device and compare
    /// with another, bit for bit
    #[arg(long)]
    verify: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let model = time(&args, &mut out)?;
    if args.verify {
        verify(model.file(), &mut out)?;
        verify_transpose(model.file(), model.backend(), &mut out)?;
    }
    Ok(())
}

/// Loads the model, takes a first step, and says how long each phase took and how much memory.
fn time(args: &Args, out: &mut impl Write) -> Result<Model> {
    let start = Instant::now();
    let model = args.context.load(&args.model)?;
    let loaded = start.elapsed();
    let i = model.info();
    writeln!(
        out,
        "{} ({}, {}), {:.2} M parameters, {}, {} layers, {} training context",
        if i.name.is_empty() { "unnamed".into() } else { terminal::visible(&i.name) },
        terminal::visible(&i.arch),
        i.file_type,
        i.n_params as f64 / 1e6,
        terminal::bytes(i.file_bytes),
        i.n_layer,
        i.n_ctx_train
    )?;
    print_placement(&model, out)?;
    let times = model.load_times().clone();
    let mut phase =
        |name: &str, time: Duration| writeln!(out, "{name:<24} {:>9.1} ms", time.as_secs_f64() * 1e3);
    phase("open and check file", times.file)?;
    phase("vocabulary, template", times.text)?;
    phase("configuration, plan", times.plan)?;
    phase("weights", times.weights)?;
    phase("load in all", loaded)?;

    let then = Instant::now();
    let mut context = args.context.create(&model)?;
    phase("context", then.elapsed())?;
    let then = Instant::now();
    context.decode(&Batch {
        tokens: &[first_token(&model)],
        positions: None,
        sequences: None,
        want: None,
    })?;
    phase("first token", then.elapsed())?;
    phase("start to first token", start.elapsed())?;

    let info = context.info();
    writeln!(out, "{:<24} {:>12}", "weights outside the file", terminal::bytes(i.weight_bytes))?;
    writeln!(out, "{:<24} {:>12}  ({} positions)", "cache", terminal::bytes(info.cache_bytes), info.n_ctx)?;
    writeln!(out, "{:<24} {:>12}", "scratch", terminal::bytes(info.scratch_bytes))?;
    if let Some(peak) = terminal::peak_memory() {
        writeln!(out, "{:<24} {:>12}", "peak memory", terminal::bytes(peak))?;
    }
    drop(context);
    Ok(model)
}

/// Which device has what, by the plan that was made before anything was allocated.
fn print_placement(model: &Model, out: &mut impl Write) -> Result<()> {
    let placement = model.placement();
    let Placement { n_layers, n_ctx, n_batch, .. } = *placement;
    writeln!(out, "planned for {n_ctx} positions in steps of {n_batch} tokens:")?;
    for target in placement.targets() {
        let (device, Memory { free, total }) = match target {
            Target::Gpu(i) => (&model.backend().gpus()[i], placement.gpus[i]),
            Target::Host => (model.backend().host()?, placement.host),
        };
        let info = device.info();
        let what = placement.parts.iter().filter(|p| p.target == target).map(|p| parts(&p.part));
        writeln!(out, "  {} ({}): {}", info.name, info.arch, what.collect::<Vec<_>>().join(" and "))?;
        let needs = placement.needs(target);
        let [weights, cache, scratch] = [needs.weights, needs.cache, needs.scratch].map(terminal::bytes);
        write!(
            out,
            "    weights {weights}, cache {cache}, scratch {scratch}: {}",
            terminal::bytes(needs.total())
        )?;
        match total {
            0 => writeln!(out)?,
            _ => writeln!(out, " of {} free, {} in all", terminal::bytes(free), terminal::bytes(total))?,
        }
    }
    for Alternative { n_ctx, gpu_layers, head, cpu_experts } in &placement.smaller {
        let output = if *head { " and the output" } else { "" };
        let experts = match cpu_experts {
            0 => String::new(),
            n => format!(", the experts of {n} on the CPU"),
        };
        writeln!(
            out,
            "  with a context of {n_ctx}: {gpu_layers} of {n_layers} layers{output} on GPUs{experts}"
        )?;
    }
    Ok(())
}

/// "embedding, layers 0 to 11, experts of layers 12 to 15, output"
fn parts(part: &Slice) -> String {
    let mut parts = Vec::new();
    if part.embed {
        parts.push("embedding".to_owned());
    }
    let range = |layers: &Range<usize>| match layers.len() {
        1 => format!("layer {}", layers.start),
        _ => format!("layers {} to {}", layers.start, layers.end - 1),
    };
    let Slice { layers, experts, .. } = part;
    // the processor has experts beyond its layers, a GPU has none of its first ones
    let beyond = layers.end.max(experts.start)..experts.end;
    let bare = layers.start..experts.start.min(layers.end);
    if !layers.is_empty() {
        parts.push(range(layers));
    }
    if !beyond.is_empty() {
        parts.push(format!("experts of {}", range(&beyond)));
    }
    if !bare.is_empty() {
        parts.push(format!("but for the experts of {}", range(&bare)));
    }
    if part.head {
        parts.push("output".to_owned());
    }
    parts.join(", ")
}

/// Any token will do to time a step; BOS is in place.
fn first_token(model: &Model) -> u32 {
    model.vocab().bos().unwrap_or(0)
}

#[derive(Default)]
struct Counts {
    values: u64,
    nan: u64,
    infinite: u64,
    /// Largest finite magnitude.
    largest: f32,
}

fn verify(file: &Gguf, out: &mut impl Write) -> Result<()> {
    let tensors = file.tensors();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(tensors.len().max(1));
    let mut results: Vec<(usize, rocmforge::Result<Counts>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(tensor) = tensors.get(i) else { return done };
                        done.push((i, count(file, tensor)));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    if results.len() != tensors.len() {
        bail!("{} of {} tensors were checked", results.len(), tensors.len());
    }

    let (mut bad, mut values, mut largest) = (0usize, 0u64, 0f32);
    for (i, result) in results {
        let tensor = &tensors[i];
        match result {
            Ok(c) if c.nan + c.infinite > 0 => {
                bad += 1;
                writeln!(
                    out,
                    "bad   {} ({}): {} NaN and {} infinite of {} values",
                    terminal::visible(&tensor.name),
                    tensor.ty,
                    c.nan,
                    c.infinite,
                    c.values
                )?;
            }
            Ok(c) => {
                values += c.values;
                largest = largest.max(c.largest);
            }
            Err(rocmforge::Error::Cancelled) => return Err(rocmforge::Error::Cancelled.into()),
            Err(error) => {
                bad += 1;
                let line = format!("bad   {} ({}): {error}", tensor.name, tensor.ty);
                writeln!(out, "{}", terminal::visible(&line))?;
            }
        }
    }
    writeln!(
        out,
        "{} tensors checked, {bad} bad; {values} finite values, largest magnitude {largest}",
        tensors.len()
    )?;
    if bad > 0 {
        bail!("{bad} of {} tensors are bad", tensors.len());
    }
    Ok(())
}

/// Transposes the token embedding, as f32, on the backend's device and on one that computes otherwise.
fn verify_transpose(file: &Gguf, backend: &Backend, out: &mut impl Write) -> Result<()> {
    const NAME: &str = "token_embd.weight";
    /// Rows that the other device does at a time: its result is needed a slab at a time only.
    const SLAB: usize = 4096;
    let tensor = file.tensor(NAME).with_context(|| format!("the file has no {NAME} to transpose"))?;
    let (rows, cols) = (tensor.rows(), tensor.row_len());
    let src = dequantized(file, tensor)?;
    let mut dst = zeros(src.len())?;
    let start = Instant::now();
    backend.device().transpose(&src, &mut dst, rows, cols)?;
    let elapsed = start.elapsed();

    let kind = if backend.kind() == DeviceKind::Cpu { DeviceKind::Reference } else { DeviceKind::Cpu };
    let oracle = Backend::new(&BackendParams { device: kind, ..BackendParams::default() })?;
    let mut slab = zeros(SLAB.min(rows) * cols)?;
    for (i, part) in src.chunks(SLAB * cols).enumerate() {
        interrupt::check()?;
        let (first, height) = (i * SLAB, part.len() / cols);
        let slab = &mut slab[..part.len()];
        oracle.device().transpose(part, slab, height, cols)?;
        for (c, wanted) in slab.chunks(height).enumerate() {
            let got = &dst[c * rows + first..][..height];
            let differs = got.iter().zip(wanted).position(|(a, b)| a.to_bits() != b.to_bits());
            if let Some(r) = differs {
                bail!(
                    "transpose of {NAME} ({rows} x {cols}): element ({c}, {}) is {:?}, not {:?}",
                    first + r,
                    got[r],
                    wanted[r]
                );
            }
        }
    }
    let (device, oracle) = (backend.info(), oracle.info());
    writeln!(
        out,
        "transpose of {NAME} ({rows} x {cols} f32) on {} ({}): equal bit for bit to {}'s, {:.1} ms",
        device.name,
        device.arch,
        oracle.arch,
        elapsed.as_secs_f64() * 1e3
    )?;
    Ok(())
}

fn zeros(len: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).with_context(|| format!("cannot have memory for {len} values"))?;
    values.resize(len, 0f32);
    Ok(values)
}

fn dequantized(file: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>> {
    let cols = tensor.row_len();
    let mut values = zeros(tensor.rows() * cols)?;
    let row_bytes = tensor.ty.row_bytes(cols).filter(|n| *n > 0 && cols > 0);
    let row_bytes = row_bytes.with_context(|| format!("{} has no rows", tensor.name))?;
    let rows = file.data(tensor).chunks_exact(row_bytes).zip(values.chunks_exact_mut(cols));
    for (i, (bytes, row)) in rows.enumerate() {
        if i % 1024 == 0 {
            interrupt::check()?;
        }
        dequant::row(tensor.ty, bytes, row)?;
    }
    Ok(values)
}

fn count(file: &Gguf, tensor: &TensorInfo) -> rocmforge::Result<Counts> {
    let mut counts = Counts::default();
    let len = tensor.row_len();
    let Some(row_bytes) = tensor.ty.row_bytes(len).filter(|n| *n > 0) else { return Ok(counts) };
    let mut row = vec![0f32; len];
    for (i, bytes) in file.data(tensor).chunks_exact(row_bytes).enumerate() {
        if i % 1024 == 0 {
            interrupt::check()?;
        }
        dequant::row(tensor.ty, bytes, &mut row)?;
        for &v in &row {
            if v.is_finite() {
                counts.largest = counts.largest.max(v.abs());
            } else if v.is_nan() {
                counts.nan += 1;
            } else {
                counts.infinite += 1;
            }
        }
        counts.values += len as u64;
    }
    Ok(counts)
}
