//! Operands of the operations' tests, and what the definitions make of them.

use rocmforge::device::hip::loader::Loader;
use rocmforge::device::hip::memory::Staging;
use rocmforge::device::hip::ops::project::Input;
use rocmforge::device::hip::ops::{self, Quantized};
use rocmforge::device::hip::weight::Weight;
use rocmforge::device::reference::ops as reference;
use rocmforge::gguf::{TensorType, dequant};

use super::gpu::{Gpu, Output};
use super::tiny_model::Rng;

pub fn floats(rng: &mut Rng, n: usize, size: f32) -> Vec<f32> {
    (0..n).map(|_| size * rng.signed()).collect()
}

pub fn words(rng: &mut Rng, n: usize) -> Vec<u32> {
    (0..n).map(|_| (rng.next() >> 32) as u32).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A weight on the card, loaded in pieces.
pub fn load(gpu: &Gpu, ty: TensorType, rows: usize, cols: usize, bytes: &[u8]) -> Weight {
    let staging = Staging::with_halves(&gpu.card, gpu.pick(1 << 20, 1 << 16)).unwrap();
    let mut loader = Loader::with_staging(&gpu.pool, staging).unwrap();
    let weight = loader.load(ty, rows, cols, bytes, "a test's weight").unwrap();
    loader.finish().unwrap();
    weight
}

/// Activations rounded to 8 bits on the card, and what it holds of them.
pub struct Rounded {
    pub q: Output,
    pub ds: Output,
}

impl Rounded {
    pub fn new(gpu: &Gpu, x: &[f32], n: usize, cols: usize) -> Self {
        let (input, rounded) = (gpu.input(x), Rounded::room(gpu, n, cols));
        ops::quantize(&gpu.stream, input.span(), rounded.planes(), n, cols).unwrap();
        gpu.stream.synchronize().unwrap();
        rounded
    }

    pub fn planes(&self) -> Quantized<'_> {
        Quantized { q: self.q.span(), ds: self.ds.span() }
    }

    pub fn input(&self) -> Input<'_> {
        Input::Rounded(self.planes())
    }

    /// Room for n rows.
    pub fn room(gpu: &Gpu, n: usize, cols: usize) -> Self {
        Rounded { q: gpu.output::<i8>(n * cols), ds: gpu.output::<f32>(n * cols / ops::Q8_BLOCK * 2) }
    }

    /// It holds what the definition makes of x, bit for bit.
    pub fn is_of(&self, gpu: &Gpu, x: &[f32], what: &str) {
        let (q, ds) = (gpu.read::<i8>(&self.q), gpu.read::<f32>(&self.ds));
        assert_eq!(q.len(), x.len());
        for (block, x) in x.chunks_exact(ops::Q8_BLOCK).enumerate() {
            let (want_q, want_ds) = rounded_block(x);
            let ds = &ds[2 * block..][..2];
            assert_eq!(q[block * ops::Q8_BLOCK..][..ops::Q8_BLOCK], want_q, "{what}, block {block}");
            let same = ds == want_ds || ds[0].is_nan() && want_ds[0].is_nan();
            assert!(same, "{what}, block {block}: {ds:?}, not {want_ds:?}");
        }
    }

    /// The rounded values.
    pub fn values(&self, gpu: &Gpu) -> Vec<f32> {
        let (q, ds) = (gpu.read::<i8>(&self.q), gpu.read::<f32>(&self.ds));
        let blocks = q.chunks_exact(ops::Q8_BLOCK).zip(ds.chunks_exact(2));
        blocks.flat_map(|(q, ds)| q.iter().map(|q| f32::from(*q) * ds[0])).collect()
    }
}

/// 32 values rounded to 8 bits by the definition, with (d, d * sum of q).
pub fn rounded_block(x: &[f32]) -> (Vec<i8>, [f32; 2]) {
    assert_eq!(x.len(), ops::Q8_BLOCK);
    if x.iter().any(|x| !x.is_finite()) {
        return (vec![0; x.len()], [f32::NAN; 2]);
    }
    let amax = x.iter().fold(0f32, |amax, x| amax.max(x.abs()));
    let (d, inverse) = if amax < 1e-35 { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) };
    let q: Vec<i8> = x.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
    let sum: i32 = q.iter().map(|q| i32::from(*q)).sum();
    (q, [d, d * sum as f32])
}

/// (products of the weights with `x`, n x rows) by the definition.
pub fn products(
    ty: TensorType,
    bytes: &[u8],
    x: &[f32],
    bias: Option<&[f32]>,
    rows: usize,
    cols: usize,
) -> Vec<f32> {
    let row_bytes = ty.row_bytes(cols).unwrap();
    let mut out = vec![0.0; x.len() / cols * rows];
    let row = |r: usize, w: &mut [f32]| dequant::row(ty, &bytes[r * row_bytes..][..row_bytes], w);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    reference::mat_mul(x, cols, rows, row, bias, &mut out, threads).unwrap();
    out
}
