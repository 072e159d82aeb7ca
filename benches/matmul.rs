//! Speed of the packed product, per type: `cargo bench --bench matmul [-- TYPE ...]`.
//!
//! Decode reads weights from memory (one token, more matrices than the caches hold) and is reported
//! as weight bytes over time, beside what memory yields to a plain sum. Prefill is reported as
//! multiply-adds over time. Each figure is the best of several runs, on 1 and on 2 threads.

use std::hint::black_box;
use std::time::Instant;

use rocmforge::device::cpu::isa::Isa;
use rocmforge::device::cpu::matmul::{ActivationFormat, Activations, PackedMatrix, Q8Rows, matmul};
use rocmforge::gguf::TensorType;

const SHAPES: [(usize, usize); 4] = [(1536, 576), (576, 1536), (4864, 896), (896, 4864)];
const PREFILL: usize = 512;
const RUNS: usize = 20;
/// Weights that no cache holds.
const COLD_BYTES: usize = 128 << 20;

struct Out(*mut f32);
// SAFETY: threads write the rows of their own tiles.
unsafe impl Sync for Out {}

fn best(mut run: impl FnMut()) -> f64 {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| time(&mut run)).fold(f64::MAX, f64::min)
}

/// Calls `work(thread)` on each of `n` threads.
fn on_threads(n: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for i in 1..n {
            let work = &work;
            scope.spawn(move || work(i));
        }
        work(0);
    });
}

fn tensor(ty: TensorType, n: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; ty.row_bytes(n).unwrap()];
    let mut state = 1u32;
    for byte in &mut bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Below 0x3c no f16, bf16 or f32 is large.
        *byte = (state >> 24) as u8 & 0x3b;
    }
    bytes
}

fn read_bandwidth(threads: usize) -> f64 {
    let words = vec![1u64; (256 << 20) / 8];
    let seconds = best(|| {
        on_threads(threads, |i| {
            let part = words.len() / threads;
            black_box(words[i * part..][..part].iter().sum::<u64>());
        });
    });
    (256 << 20) as f64 / seconds / 1e9
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let isa = Isa::choose().unwrap();
    println!(
        "{}; memory read {:.1} GB/s on 1 thread, {:.1} on 2",
        isa.name(),
        read_bandwidth(1),
        read_bandwidth(2)
    );
    println!("                        pack GB/s |  1 token, GB/s  |  {PREFILL} tokens, GMAC/s");
    println!("type    rows    cols    of file 1 |     1        2  |     1        2");
    for ty in TensorType::supported() {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == ty.name()) {
            continue;
        }
        for (rows, cols) in SHAPES {
            // K types need 256 columns.
            let cols = cols.next_multiple_of(ty.block_len());
            let bytes = tensor(ty, rows * cols);
            let n = COLD_BYTES / bytes.len();
            let matrices: Vec<_> = (0..n).map(|_| PackedMatrix::new(ty, rows, cols).unwrap()).collect();
            let pack = || {
                for w in &matrices {
                    // SAFETY: one thread.
                    (0..w.n_tiles()).for_each(|t| unsafe { w.pack_tile(t, &bytes) });
                }
            };
            pack();
            let pack = (n * bytes.len()) as f64 / best(pack) / 1e9;

            let x = vec![0.5f32; PREFILL * cols];
            let quantized = Q8Rows::new(PREFILL, cols).unwrap();
            for (t, x) in x.chunks_exact(cols).enumerate() {
                // SAFETY: one thread, the path that was chosen.
                unsafe { quantized.quantize_row(isa, t, x) };
            }
            let mut out = vec![0.0; PREFILL * rows];
            let out = Out(out.as_mut_ptr());
            let product = |tokens: usize, threads: usize, matrices: &[PackedMatrix]| {
                let out = &out;
                on_threads(threads, |i| {
                    for w in matrices {
                        let x = match w.format() {
                            ActivationFormat::Q8 => Activations::Q8(&quantized),
                            ActivationFormat::F32 => Activations::F32 { x: &x, stride: cols },
                        };
                        let tiles = w.n_tiles() * i / threads..w.n_tiles() * (i + 1) / threads;
                        // SAFETY: packed and quantized above; threads take different tiles.
                        unsafe { matmul(isa, w, x, 0..tokens, tiles, None, out.0, rows) };
                    }
                });
            };
            let packed: usize = matrices.iter().map(PackedMatrix::bytes).sum();
            let decode = [1, 2].map(|threads| packed as f64 / best(|| product(1, threads, &matrices)) / 1e9);
            let few = &matrices[..2];
            let macs = (2 * rows * cols * PREFILL) as f64;
            let prefill = [1, 2].map(|threads| macs / best(|| product(PREFILL, threads, few)) / 1e9);
            println!(
                "{:5} {rows:6} {cols:7}    {pack:9.2} | {:5.1}    {:5.1}  | {:5.1}    {:5.1}",
                ty.name(),
                decode[0],
                decode[1],
                prefill[0],
                prefill[1],
            );
        }
    }
}
