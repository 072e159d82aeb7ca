//! The ops on single rows: norms, rotations, gates, sums. Rows are f32 slices; one call is one row.

use half::f16;

use super::isa::Isa;
use super::simd::{Kernel, Simd};
use crate::plan::{Activation, RopePairs};

/// Runs a kernel whose fields are references and slices of the right lengths.
macro_rules! run {
    ($isa:expr, $kernel:expr) => {
        // SAFETY: the device takes only available paths; the kernel's fields are borrowed and their lengths
        // have been checked by the calling function.
        unsafe { $isa.run($kernel) }
    };
}

/// out = x / sqrt(mean(x^2) + eps) * weight over each group of `weight.len()` elements.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(weight.len()));
    let out = out.as_mut_ptr();
    run!(isa, RmsNorm { x: x.as_ptr(), len: x.len(), weight, eps, out });
}

/// The same, in place.
pub fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(x.len().is_multiple_of(weight.len()));
    let p = x.as_mut_ptr();
    run!(isa, RmsNorm { x: p, len: x.len(), weight, eps, out: p });
}

/// `x` and `out` are valid for `len` elements, a multiple of `weight.len()`; they may be equal.
struct RmsNorm<'a> {
    x: *const f32,
    len: usize,
    weight: &'a [f32],
    eps: f32,
    out: *mut f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.weight.len();
        let whole = n - n % S::LANES;
        let tail = n - whole;
        let mut at = 0;
        while at < self.len {
            // SAFETY: at + n <= len, by the fields' contract.
            unsafe {
                let (x, out) = (self.x.add(at), self.out.add(at));
                let weight = self.weight.as_ptr();
                let mut sums = [S::splat(0.0); 4];
                let mut i = 0;
                while i < whole {
                    let v = S::load(x.add(i));
                    let sum = &mut sums[i / S::LANES % 4];
                    *sum = S::mul_add(v, v, *sum);
                    i += S::LANES;
                }
                if tail > 0 {
                    let v = S::load_part(x.add(whole), tail);
                    sums[3] = S::mul_add(v, v, sums[3]);
                }
                let sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
                let factor = S::splat(1.0 / (sum / n as f32 + self.eps).sqrt());
                let mut i = 0;
                while i < whole {
                    let v = S::mul(S::mul(S::load(x.add(i)), factor), S::load(weight.add(i)));
                    S::store(out.add(i), v);
                    i += S::LANES;
                }
                if tail > 0 {
                    let v = S::mul(S::load_part(x.add(whole), tail), factor);
                    let v = S::mul(v, S::load_part(weight.add(whole), tail));
                    S::store_part(out.add(whole), v, tail);
                }
            }
            at += n;
        }
    }
}

/// out += x
pub fn add_assign(isa: Isa, out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len());
    let p = out.as_mut_ptr();
    run!(isa, Zip { a: p, b: x.as_ptr(), out: p, len: x.len(), f: Plus });
}

/// out = a + b
pub fn add(isa: Isa, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == out.len());
    run!(isa, Zip { a: a.as_ptr(), b: b.as_ptr(), out: out.as_mut_ptr(), len: a.len(), f: Plus });
}

/// out = activation(gate) * up.
///
/// # Safety
/// All are valid for `len` elements; `out` may equal `gate` or `up`, and overlaps them in no other way.
pub unsafe fn glu(
    isa: Isa,
    activation: Activation,
    gate: *const f32,
    up: *const f32,
    out: *mut f32,
    len: usize,
) {
    match activation {
        Activation::Silu => run!(isa, Zip { a: gate, b: up, out, len, f: SiluTimes }),
        Activation::Gelu => run!(isa, Zip { a: gate, b: up, out, len, f: GeluTimes }),
    }
}

/// out[i] = f(a[i], b[i]). All valid for `len` elements; `out` may equal `a` or `b`.
struct Zip<F> {
    a: *const f32,
    b: *const f32,
    out: *mut f32,
    len: usize,
    f: F,
}

trait Binary {
    /// # Safety
    /// The processor has `S`'s instructions.
    unsafe fn apply<S: Simd>(&self, a: S::V, b: S::V) -> S::V;
}

impl<F: Binary> Kernel for Zip<F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.len - self.len % S::LANES;
        let tail = self.len - whole;
        // SAFETY: all accesses are below `len`, by the fields' contract.
        unsafe {
            let mut i = 0;
            while i < whole {
                let v = self.f.apply::<S>(S::load(self.a.add(i)), S::load(self.b.add(i)));
                S::store(self.out.add(i), v);
                i += S::LANES;
            }
            if tail > 0 {
                let (a, b) = (S::load_part(self.a.add(whole), tail), S::load_part(self.b.add(whole), tail));
                S::store_part(self.out.add(whole), self.f.apply::<S>(a, b), tail);
            }
        }
    }
}

struct Plus;

impl Binary for Plus {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::add(a, b) }
    }
}

/// x * sigmoid(z)
///
/// # Safety
/// The processor has `S`'s instructions.
#[inline(always)]
unsafe fn times_sigmoid<S: Simd>(x: S::V, z: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let e = S::exp(S::sub(S::splat(0.0), z));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

struct SiluTimes;

impl Binary for SiluTimes {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, gate: S::V, up: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(times_sigmoid::<S>(gate, gate), up) }
    }
}

struct GeluTimes;

impl Binary for GeluTimes {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, gate: S::V, up: S::V) -> S::V {
        // x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
        const TWO_ROOT: f32 = 1.595_769;
        // SAFETY: the caller's promise.
        unsafe {
            let cubed = S::mul(S::mul(gate, gate), gate);
            let z = S::mul(S::mul_add(cubed, S::splat(0.044_715), gate), S::splat(TWO_ROOT));
            S::mul(times_sigmoid::<S>(gate, z), up)
        }
    }
}

/// Cosines, then sines, of the pairs at a position: `out` is 2 * inv_freq.len() long.
pub fn rope_row(inv_freq: &[f32], magnitude: f32, position: u32, out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(inv_freq.len());
    for ((freq, cos), sin) in inv_freq.iter().zip(cos).zip(sin) {
        let (s, c) = (f64::from(position) * f64::from(*freq)).sin_cos();
        *cos = (c * f64::from(magnitude)) as f32;
        *sin = (s * f64::from(magnitude)) as f32;
    }
}

/// Rotates each head of `x` by a row that [`rope_row`] made.
pub fn rope(isa: Isa, x: &mut [f32], head_dim: usize, pairs: RopePairs, row: &[f32]) {
    let n = row.len() / 2;
    assert!(2 * n <= head_dim && x.len().is_multiple_of(head_dim));
    let (cos, sin) = row.split_at(n);
    for head in x.chunks_exact_mut(head_dim) {
        match pairs {
            RopePairs::Halves => {
                let (a, b) = head.split_at_mut(n);
                run!(isa, Rotate { a: a.as_mut_ptr(), b: b.as_mut_ptr(), cos, sin });
            }
            RopePairs::Consecutive => {
                for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * cos - b * sin;
                    pair[1] = a * sin + b * cos;
                }
            }
        }
    }
}

/// (a, b) = (a cos - b sin, a sin + b cos); a and b are valid for cos.len() == sin.len() elements.
struct Rotate<'a> {
    a: *mut f32,
    b: *mut f32,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.cos.len();
        let mut i = 0;
        while i < len {
            let n = S::LANES.min(len - i);
            // SAFETY: i + n <= len, by the fields' contract.
            unsafe {
                let (pa, pb) = (self.a.add(i), self.b.add(i));
                let (pc, ps) = (self.cos.as_ptr().add(i), self.sin.as_ptr().add(i));
                if n == S::LANES {
                    let (a, b) = rotated::<S>(S::load(pa), S::load(pb), S::load(pc), S::load(ps));
                    S::store(pa, a);
                    S::store(pb, b);
                } else {
                    let (a, b) = (S::load_part(pa, n), S::load_part(pb, n));
                    let (a, b) = rotated::<S>(a, b, S::load_part(pc, n), S::load_part(ps, n));
                    S::store_part(pa, a, n);
                    S::store_part(pb, b, n);
                }
            }
            i += n;
        }
    }
}

/// # Safety
/// The processor has `S`'s instructions.
#[inline(always)]
unsafe fn rotated<S: Simd>(a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    // SAFETY: the caller's promise.
    unsafe { (S::sub(S::mul(a, cos), S::mul(b, sin)), S::mul_add(a, sin, S::mul(b, cos))) }
}

/// Rounds to f16; what is too large becomes the largest f16 (an infinite cell would make 0 * inf = NaN
/// of every query that must not see it).
pub fn to_f16(isa: Isa, x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len());
    run!(isa, ToF16 { x, out });
}

/// Both of one length.
struct ToF16<'a> {
    x: &'a [f32],
    out: &'a mut [f16],
}

impl Kernel for ToF16<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.x.len();
        let whole = len - len % S::LANES;
        // SAFETY: i + LANES <= len, the length of both.
        unsafe {
            let (low, high) = (S::splat(-65504.0), S::splat(65504.0));
            let mut i = 0;
            while i < whole {
                let v = S::min(S::max(S::load(self.x.as_ptr().add(i)), low), high);
                S::store_f16(self.out.as_mut_ptr().add(i), v);
                i += S::LANES;
            }
        }
        for i in whole..len {
            self.out[i] = f16::from_f32(self.x[i].clamp(-65504.0, 65504.0));
        }
    }
}
