//! What a GPU reads a second: from memory plainly, and in each matrix-vector kernel, which reads its weight and
//! little else. And what it multiplies a second in the kernels that take many tokens.

mod experts;
mod prefill;

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, bail};
use rocmforge::device::hip::card::Card;
use rocmforge::device::hip::event::Event;
use rocmforge::device::hip::graph::Graph;
use rocmforge::device::hip::loader::Loader;
use rocmforge::device::hip::memory::{Buffer, Pool, Staging};
use rocmforge::device::hip::ops::project::{self, Input, Product};
use rocmforge::device::hip::ops::{self, Quantized};
use rocmforge::device::hip::sampler::DeviceSampler;
use rocmforge::device::hip::stream::Stream;
use rocmforge::device::hip::weight::Weight;
use rocmforge::engine::{DeviceChoice, DeviceKind, Sampler, SamplerParams};
use rocmforge::gguf::{TensorType, dequant};
use serde_json::json;

use crate::args::DeviceName;
use crate::{interrupt, stats, terminal};

#[derive(clap::Args)]
pub struct GpuArgs {
    /// Measure a GPU's matrix-vector kernels beside how fast it reads its memory, then its kernels for many tokens; no
    /// model needed
    #[arg(long, conflicts_with = "bandwidth")]
    pub kernels: bool,
    /// Matrices for --kernels as ROWSxCOLS, comma-separated; the default are those of models of 0.5B, 1B and 8B
    #[arg(long, value_delimiter = ',', requires = "kernels", default_value = SHAPES, hide_default_value = true)]
    shapes: Vec<Shape>,
}

/// `bench --bandwidth` and `bench --kernels` on a GPU; figures are medians of `replays`.
pub fn run(args: &GpuArgs, device: &DeviceName, replays: u32, is_json: bool) -> Result<()> {
    if !matches!(device.kind, DeviceKind::Hip | DeviceKind::Auto) {
        bail!("--kernels measures a GPU's: --device hip");
    }
    let card = Card::open(&device.choice)?;
    let limits = card.limits().clone();
    let bench = GpuBench::new(Arc::clone(&card), replays)?;
    let mut out = io::stdout().lock();
    let bandwidth = bench.read_bandwidth()?;
    if !is_json {
        let rate = terminal::bytes(bandwidth as u64);
        writeln!(out, "{} ({}): memory read, {rate}/s", limits.name, limits.arch)?;
    }
    let mut figures = Vec::new();
    if args.kernels {
        if !is_json {
            writeln!(out, "\n| kernel | matrix | tokens | us | GB/s | of read |")?;
            writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
        }
        let mut report = |figure: Figure| {
            let Figure { kernel, ty, shape, n, bytes, seconds } = figure;
            let rate = bytes as f64 / seconds;
            if is_json {
                figures.push(json!({
                    "kernel": kernel, "type": ty.name(), "rows": shape.rows, "cols": shape.cols, "n_tokens": n,
                    "bytes": bytes, "seconds": seconds, "bytes_per_second": rate as u64,
                    "share_of_read": rate / bandwidth,
                }));
                return Ok(());
            }
            let (us, gb, share) = (seconds * 1e6, rate / 1e9, 100.0 * rate / bandwidth);
            writeln!(out, "| {kernel} | {shape} | {n} | {us:.1} | {gb:.0} | {share:.1} % |")?;
            Ok(out.flush()?)
        };
        bench.matvecs(&args.shapes, &mut report)?;
        let mut mixtures = Vec::new();
        bench.mixtures(&mut report, &mut mixtures)?;
        bench.draws(&mut report)?;
        if !is_json {
            writeln!(out, "\n| kernel | task | tokens | us | TFLOP/s |")?;
            writeln!(out, "| --- | ---: | ---: | ---: | ---: |")?;
        }
        let mut report = |figure: prefill::Figure| {
            let prefill::Figure { kernel, task, n, operations, seconds } = &figure;
            if is_json {
                figures.push(json!({
                    "kernel": kernel, "task": task, "n_tokens": n, "operations": operations, "seconds": seconds,
                }));
                return Ok(());
            }
            let (us, rate) = (seconds * 1e6, figure.tera_a_second());
            writeln!(out, "| {kernel} | {task} | {n} | {us:.1} | {rate:.1} |")?;
            Ok(out.flush()?)
        };
        bench.prefill(&args.shapes, &mut report)?;
        mixtures.into_iter().try_for_each(report)?;
    }
    if is_json {
        let json = json!({
            "device": limits.name, "arch": limits.arch, "runtime": card.driver().version_text(),
            "library": card.driver().library(), "read_bytes_per_second": bandwidth as u64, "kernels": figures,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
    }
    Ok(())
}

/// Bytes a second that the GPU reads of its memory.
pub fn read_bandwidth(choice: &DeviceChoice, replays: u32) -> Result<f64> {
    GpuBench::new(Card::open(choice)?, replays)?.read_bandwidth()
}

/// A weight: outputs and inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: usize,
    cols: usize,
}

/// "14336x4096"
impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x').and_then(|(rows, cols)| rows.parse().ok().zip(cols.parse().ok()));
        let (rows, cols) = sides.ok_or("must be ROWSxCOLS")?;
        Ok(Shape { rows, cols })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}x{}", self.rows, self.cols))
    }
}

/// Attention's output, both sides of the feed-forward block and the output of: Qwen2.5 0.5B, Llama 3.2 1B, Llama 3 8B.
const SHAPES: &str = "896x896,4864x896,896x4864,151936x896,\
                          2048x2048,8192x2048,2048x8192,128256x2048,\
                          4096x4096,14336x4096,4096x14336,128256x4096";

/// Types that there are matrix-vector kernels for.
const TYPES: [TensorType; 4] = [TensorType::Q8_0, TensorType::Q4_0, TensorType::Q4_K, TensorType::Q6_K];
/// Tokens at once: one of each variant.
const TOKENS: [usize; 4] = [1, 2, 4, 8];

/// Tokens to draw from: Qwen's.
const N_VOCAB: usize = 151_936;

/// Replays before those that are timed.
const WARM_UPS: u32 = 3;
/// Most launches of a replay.
const MAX_LAUNCHES: u64 = 512;

/// One kernel at one shape.
struct Figure {
    kernel: &'static str,
    ty: TensorType,
    shape: Shape,
    n: usize,
    /// Bytes of the weight: what must be read.
    bytes: u64,
    /// Of one launch: median.
    seconds: f64,
}

/// A card at work.
struct GpuBench {
    card: Arc<Card>,
    pool: Arc<Pool>,
    stream: Stream,
    start: Event,
    end: Event,
    replays: u32,
}

impl GpuBench {
    fn new(card: Arc<Card>, replays: u32) -> Result<Self> {
        Ok(GpuBench {
            replays,
            pool: Pool::new(Arc::clone(&card)),
            stream: Stream::new(&card)?,
            start: Event::new(&card)?,
            end: Event::new(&card)?,
            card,
        })
    }

    /// Bytes a second of plain reads: the median of several passes over far more than any cache holds.
    fn read_bandwidth(&self) -> Result<f64> {
        let (free, _) = self.card.memory()?;
        let bytes = (free / 2).min(4 << 30) / 16 * 16;
        let src = self.pool.alloc(bytes, "what is read")?;
        let words = self.pool.alloc(4 * ops::read_words(bytes), "what is left of it")?;
        self.randomize(&src)?;
        let seconds = self.time(|| ops::read(&self.stream, src.span(), words.span()))?;
        drop((src, words));
        self.pool.trim()?;
        Ok(bytes as f64 / seconds)
    }

    /// Every kernel at every shape that its type allows, handed to `report` as they come. Copies of each weight, too
    /// many for the caches, take turns, as a model's weights do.
    fn matvecs(&self, shapes: &[Shape], mut report: impl FnMut(Figure) -> Result<()>) -> Result<()> {
        let mut loader = Loader::new(&self.pool)?;
        for &shape in shapes {
            for ty in TYPES {
                if shape.cols % ty.block_len() != 0 {
                    continue;
                }
                interrupt::check()?;
                let weights = self.copies(&mut loader, ty, shape)?;
                for n in TOKENS {
                    report(self.matvec(&weights, n)?)?;
                }
                drop(weights);
                self.pool.trim()?;
            }
        }
        Ok(())
    }

    fn copies(&self, loader: &mut Loader, ty: TensorType, shape: Shape) -> Result<Vec<Weight>> {
        let Some(n_blocks) = shape.rows.checked_mul(shape.cols / ty.block_len()).filter(|n| *n > 0) else {
            bail!("{shape} is no matrix");
        };
        let first = loader.load(ty, shape.rows, shape.cols, &random_blocks(ty, n_blocks)?, "a matrix")?;
        loader.finish()?;
        let bytes = first.bytes();
        let (free, _) = self.card.memory()?;
        let wanted = (4 * self.card.limits().l2_bytes).max(256 << 20).min(free / 2);
        let n = wanted.div_ceil(bytes).clamp(2, MAX_LAUNCHES);
        self.pool.reserve(bytes * (n - 1), "copies of a matrix")?;
        let mut weights = vec![first];
        for _ in 1..n {
            weights.push(weights[0].duplicate(&self.stream, "a matrix")?);
        }
        self.stream.synchronize()?;
        Ok(weights)
    }

    fn matvec(&self, weights: &[Weight], n: usize) -> Result<Figure> {
        let (rows, cols, ty) = (weights[0].rows(), weights[0].cols(), weights[0].ty());
        let room = |bytes: usize| self.pool.alloc(bytes as u64, "activations");
        let (x, q, ds) = (room(4 * n * cols)?, room(n * cols)?, room(n * cols / ops::Q8_BLOCK * 8)?);
        let dst = room(4 * n * rows)?;
        self.fill_with_values(&x)?;
        let rounded = Quantized { q: q.span(), ds: ds.span() };
        ops::quantize(&self.stream, x.span(), rounded, n, cols)?;
        self.stream.synchronize()?;
        let seconds = self.time(|| {
            weights.iter().try_for_each(|weight| {
                let product = Product { weight, bias: None, dst: dst.span() };
                project::matvec(&self.stream, &[product], Input::Rounded(rounded), n, false)
            })
        })?;
        Ok(Figure {
            kernel: project::matvec_kernel(ty, n)?.signature().name,
            ty,
            shape: Shape { rows, cols },
            n,
            bytes: weights[0].layout().file_bytes(),
            seconds: seconds / weights.len() as f64,
        })
    }

    /// Draws from a row of logits, from the parameters' copy to that of the token.
    fn draws(&self, mut report: impl FnMut(Figure) -> Result<()>) -> Result<()> {
        let row = self.pool.alloc(4 * N_VOCAB as u64, "logits")?;
        let mut rng = Rng(5);
        let values: Vec<u8> = (0..N_VOCAB).flat_map(|_| (12.0 * rng.signed()).to_le_bytes()).collect();
        Staging::new(&self.card)?.upload(&self.stream, &values, row.span())?;
        let mut device = DeviceSampler::new(&self.pool, N_VOCAB)?;
        let default = SamplerParams::default();
        for (kernel, params) in [
            ("draw, greedy", SamplerParams { temperature: 0.0, ..default.clone() }),
            ("draw, top-k 40", default.clone()),
            ("draw, top-p 0.9", SamplerParams { top_k: 0, top_p: 0.9, min_p: 0.0, ..default }),
        ] {
            let mut sampler = Sampler::new(params)?;
            let mut times = Vec::new();
            for i in 0..WARM_UPS + self.replays {
                interrupt::check()?;
                self.start.record(&self.stream)?;
                let rows = [(row.span(), sampler.draw(N_VOCAB)?)];
                device.enqueue(&self.stream, &rows)?;
                self.end.record(&self.stream)?;
                device.finish(&self.stream, &rows, &mut [0])?;
                sampler.count_draw();
                if i >= WARM_UPS {
                    times.push(self.end.seconds_since(&self.start)?);
                }
            }
            times.sort_by(f64::total_cmp);
            let seconds = stats::percentile(&times, 0.5).max(f64::MIN_POSITIVE);
            let shape = Shape { rows: 1, cols: N_VOCAB };
            report(Figure { kernel, ty: TensorType::F32, shape, n: 1, bytes: 4 * N_VOCAB as u64, seconds })?;
        }
        Ok(())
    }

    /// Seconds of `work`: the median of its replays as a graph, or of its launches one by one where graphs are
    /// switched off.
    fn time(&self, work: impl Fn() -> rocmforge::Result<()>) -> Result<f64> {
        let graph = Graph::capture(&self.stream, &work)?;
        let mut times = Vec::new();
        for i in 0..WARM_UPS + self.replays {
            interrupt::check()?;
            self.start.record(&self.stream)?;
            match &graph {
                Some(graph) => graph.launch(&self.stream)?,
                None => work()?,
            }
            self.end.record(&self.stream)?;
            self.stream.synchronize()?;
            if i >= WARM_UPS {
                times.push(self.end.seconds_since(&self.start)?);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(stats::percentile(&times, 0.5).max(f64::MIN_POSITIVE))
    }

    /// f32 between -1 and 1.
    fn fill_with_values(&self, buffer: &Buffer) -> Result<()> {
        let mut rng = Rng(7);
        let values: Vec<u8> = (0..buffer.bytes() / 4).flat_map(|_| rng.signed().to_le_bytes()).collect();
        let whole = buffer.span().part(0..values.len() as u64)?;
        Ok(Staging::new(&self.card)?.upload(&self.stream, &values, whole)?)
    }

    fn words(&self, words: &[u32]) -> Result<Buffer> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let buffer = self.pool.alloc(bytes.len() as u64, "words")?;
        let whole = buffer.span().part(0..bytes.len() as u64)?;
        Staging::new(&self.card)?.upload(&self.stream, &bytes, whole)?;
        Ok(buffer)
    }

    /// Memory that reads alike at any address could be compressed on its way.
    fn randomize(&self, buffer: &Buffer) -> Result<()> {
        let mut rng = Rng(1);
        let mut staging = Staging::new(&self.card)?;
        let bytes: Vec<u8> = (0..staging.half_bytes() / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
        let mut at = 0;
        while at < buffer.bytes() {
            let n = (buffer.bytes() - at).min(bytes.len() as u64);
            staging.upload(&self.stream, &bytes[..n as usize], buffer.span().part(at..at + n)?)?;
            at += n;
        }
        Ok(self.stream.synchronize()?)
    }
}

/// Blocks of random bits whose values are small; after [`PERIOD`] they repeat.
fn random_blocks(ty: TensorType, n: usize) -> Result<Vec<u8>> {
    const PERIOD: usize = 4096;
    let mut rng = Rng(3);
    let size = ty.block_bytes();
    let mut bytes = vec![0; n.min(PERIOD) * size];
    let mut values = vec![0.0f32; ty.block_len()];
    for block in bytes.chunks_exact_mut(size) {
        loop {
            block.iter_mut().for_each(|byte| *byte = rng.next() as u8);
            dequant::row(ty, block, &mut values)?;
            if values.iter().all(|value| value.abs() <= 1.0) {
                break;
            }
        }
    }
    let period = bytes.len();
    bytes.reserve_exact(n * size - period);
    while bytes.len() < n * size {
        let more = (n * size - bytes.len()).min(period);
        bytes.extend_from_within(..more);
    }
    Ok(bytes)
}

/// Vigna's splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        assert_eq!("14336x4096".parse(), Ok(Shape { rows: 14336, cols: 4096 }));
        for bad in ["", "14336", "x4096", "1x2x3", "-1x2"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
        assert!(SHAPES.split(',').all(|shape| shape.parse::<Shape>().is_ok()));
    }

    #[test]
    fn blocks_repeat_but_no_value_is_odd() {
        for ty in TensorType::supported() {
            let n = 4096 + 50;
            let bytes = random_blocks(ty, n).unwrap();
            assert_eq!(bytes.len(), n * ty.block_bytes());
            let behind = &bytes[4096 * ty.block_bytes()..];
            assert!(bytes.starts_with(behind), "{ty}");
            let mut values = vec![0.0; 50 * ty.block_len()];
            dequant::row(ty, behind, &mut values).unwrap();
            assert!(values.iter().all(|x| x.is_finite()) && values.iter().any(|x| x.abs() > 1e-3), "{ty}");
        }
    }
}
