//! The ops on single rows: norms, rotations, gates, sums. Rows are f32 slices; one call is one row.

use half::f16;

use super::isa::Isa;
use super::simd::{Kernel, Simd};
use crate::plan::{self, NormKind, RopePairs};

/// Runs a kernel whose fields are references and slices of the right lengths.
macro_rules! run {
    ($isa:expr, $kernel:expr) => {
        // SAFETY: the device takes only available paths; the kernel's fields are borrowed and their lengths
        // have been checked by the calling function.
        unsafe { $isa.run($kernel) }
    };
}

/// A norm's numbers; weight and bias are `group` long.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub kind: NormKind,
    pub group: usize,
    pub weight: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
}

impl Norm<'_> {
    /// Over each group of the `len` elements at `x`.
    ///
    /// # Safety
    /// Both are valid for `len` elements; `out` may equal `x`, and overlaps it in no other way.
    pub unsafe fn run(self, isa: Isa, x: *const f32, len: usize, out: *mut f32) {
        let fits = |vector: Option<&[f32]>| vector.is_none_or(|vector| vector.len() == self.group);
        assert!(self.group > 0 && len.is_multiple_of(self.group) && fits(self.weight) && fits(self.bias));
        run!(isa, NormRow { norm: self, x, len, out });
    }
}

/// As [`Norm::run`] has checked.
struct NormRow<'a> {
    norm: Norm<'a>,
    x: *const f32,
    len: usize,
    out: *mut f32,
}

impl Kernel for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Norm { kind, group: n, weight, bias, eps } = self.norm;
        let [weight, bias] = [weight, bias].map(|vector| vector.map(<[f32]>::as_ptr));
        let whole = n - n % S::LANES;
        let tail = n - whole;
        let mut at = 0;
        while at < self.len {
            // SAFETY: at + n <= len, by the fields' contract; the vectors have n elements.
            unsafe {
                let (x, out) = (self.x.add(at), self.out.add(at));
                let mean = match kind {
                    NormKind::Rms | NormKind::L2 => 0.0,
                    NormKind::Layer => total::<S>(x, n, |v, sum| S::add(v, sum)) / n as f32,
                };
                let middle = S::splat(mean);
                let squares = match kind {
                    NormKind::Rms | NormKind::L2 => total::<S>(x, n, |v, sum| S::mul_add(v, v, sum)),
                    // lanes beyond the row hold 0, which is not the mean: the rest is summed by itself
                    NormKind::Layer => {
                        let rest = (whole..n).map(|i| (*x.add(i) - mean) * (*x.add(i) - mean)).sum::<f32>();
                        let square = |v, sum| {
                            let v = S::sub(v, middle);
                            S::mul_add(v, v, sum)
                        };
                        total::<S>(x, whole, square) + rest
                    }
                };
                let square = if kind == NormKind::L2 { squares } else { squares / n as f32 };
                let factor = S::splat(1.0 / (square + eps).sqrt());
                let result = |mut v: S::V, weight: Option<S::V>, bias: Option<S::V>| {
                    if kind == NormKind::Layer {
                        v = S::sub(v, middle);
                    }
                    v = S::mul(v, factor);
                    if let Some(weight) = weight {
                        v = S::mul(v, weight);
                    }
                    if let Some(bias) = bias {
                        v = S::add(v, bias);
                    }
                    v
                };
                let mut i = 0;
                while i < whole {
                    let [weight, bias] = [weight, bias].map(|vector| vector.map(|p| S::load(p.add(i))));
                    S::store(out.add(i), result(S::load(x.add(i)), weight, bias));
                    i += S::LANES;
                }
                if tail > 0 {
                    let part = |p: *const f32| S::load_part(p.add(whole), tail);
                    let [weight, bias] = [weight, bias].map(|vector| vector.map(part));
                    S::store_part(out.add(whole), result(part(x), weight, bias), tail);
                }
            }
            at += n;
        }
    }
}

/// Adds up `n` elements by `add(element, sum)`, which must leave a sum as it is for an element 0.
///
/// # Safety
/// The processor has `S`'s instructions; x is valid for `n` elements.
#[inline(always)]
unsafe fn total<S: Simd>(x: *const f32, n: usize, add: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let whole = n - n % S::LANES;
    // SAFETY: all accesses are below `n`.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut i = 0;
        while i < whole {
            let sum = &mut sums[i / S::LANES % 4];
            *sum = add(S::load(x.add(i)), *sum);
            i += S::LANES;
        }
        if whole < n {
            sums[3] = add(S::load_part(x.add(whole), n - whole), sums[3]);
        }
        S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    }
}

/// x = x * scale + bias, or x / scale + bias, where an element of a vector serves as many of x as the lengths say.
pub fn affine(x: &mut [f32], scale: Option<&[f32]>, divides: bool, bias: Option<&[f32]>) {
    let by = |x: &mut [f32], vector: Option<&[f32]>, f: fn(&mut f32, f32)| match vector {
        None => {}
        Some(vector) if vector.len() == x.len() => x.iter_mut().zip(vector).for_each(|(x, by)| f(x, *by)),
        Some(vector) => {
            assert!(x.len().is_multiple_of(vector.len()));
            let parts = x.chunks_exact_mut(x.len() / vector.len());
            parts.zip(vector).for_each(|(part, by)| part.iter_mut().for_each(|x| f(x, *by)));
        }
    };
    by(x, scale, if divides { |x, by| *x /= by } else { |x, by| *x *= by });
    by(x, bias, |x, by| *x += by);
}

/// out += x
pub fn add_assign(isa: Isa, out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len());
    let p = out.as_mut_ptr();
    run!(isa, Zip { a: p, b: x.as_ptr(), out: p, len: x.len(), f: Plus });
}

/// Calls the macro `$then` with the kernel's form of a [`plan::Unary`].
macro_rules! with_function {
    ($f:expr, $function:ident => $then:expr) => {
        match $f {
            plan::Unary::Silu => {
                let $function = Silu;
                $then
            }
            plan::Unary::Gelu => {
                let $function = Gelu;
                $then
            }
            plan::Unary::Relu => {
                let $function = Relu;
                $then
            }
            plan::Unary::Relu2 => {
                let $function = Relu2;
                $then
            }
            plan::Unary::Sigmoid => {
                let $function = Sigmoid;
                $then
            }
            plan::Unary::Scale(factor) => {
                let $function = Scale(factor);
                $then
            }
            plan::Unary::SoftCap(cap) => {
                let $function = SoftCap(cap);
                $then
            }
            plan::Unary::Softplus => {
                let $function = Softplus;
                $then
            }
            plan::Unary::Clamp(low, high) => {
                let $function = Clamp(low, high);
                $then
            }
        }
    };
}

/// out = f(x).
///
/// # Safety
/// Both are valid for `len` elements; `out` may equal `x`, and overlaps it in no other way.
pub unsafe fn unary(isa: Isa, f: plan::Unary, x: *const f32, out: *mut f32, len: usize) {
    // both operands are x, of which the second goes unused
    with_function!(f, f => run!(isa, Zip { a: x, b: x, out, len, f: First(f) }));
}

/// out = f(a, b).
///
/// # Safety
/// All are valid for `len` elements; `out` may equal `a` or `b`, and overlaps them in no other way.
pub unsafe fn binary(isa: Isa, f: plan::Binary, a: *const f32, b: *const f32, out: *mut f32, len: usize) {
    match f {
        plan::Binary::Add => run!(isa, Zip { a, b, out, len, f: Plus }),
        plan::Binary::Mul => run!(isa, Zip { a, b, out, len, f: Times }),
        plan::Binary::ClampedGlu => run!(isa, Zip { a, b, out, len, f: ClampedGate }),
        plan::Binary::Glu(f) => with_function!(f, f => run!(isa, Zip { a, b, out, len, f: Gated(f) })),
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

struct Times;

impl Binary for Times {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(a, b) }
    }
}

struct ClampedGate;

impl Binary for ClampedGate {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let gate = S::min(a, S::splat(7.0));
            let up = S::min(S::max(b, S::splat(-7.0)), S::splat(7.0));
            let unit = times_sigmoid::<S>(gate, S::mul(gate, S::splat(1.702)));
            S::mul(unit, S::add(up, S::splat(1.0)))
        }
    }
}

/// f of the first operand.
struct First<F>(F);

impl<F: Function> Binary for First<F> {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, a: S::V, _: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { self.0.apply::<S>(a) }
    }
}

/// f of the first operand, times the second.
struct Gated<F>(F);

impl<F: Function> Binary for Gated<F> {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, a: S::V, b: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(self.0.apply::<S>(a), b) }
    }
}

trait Function {
    /// # Safety
    /// The processor has `S`'s instructions.
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V;
}

struct Silu;
struct Gelu;
struct Relu;
struct Relu2;
struct Sigmoid;
struct Scale(f32);
struct SoftCap(f32);
struct Softplus;
struct Clamp(f32, f32);

impl Function for Silu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { times_sigmoid::<S>(x, x) }
    }
}

impl Function for Gelu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
        const TWO_ROOT: f32 = 1.595_769;
        // SAFETY: the caller's promise.
        unsafe {
            let cubed = S::mul(S::mul(x, x), x);
            let z = S::mul(S::mul_add(cubed, S::splat(0.044_715), x), S::splat(TWO_ROOT));
            times_sigmoid::<S>(x, z)
        }
    }
}

impl Function for Relu {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::max(x, S::splat(0.0)) }
    }
}

impl Function for Relu2 {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let x = S::max(x, S::splat(0.0));
            S::mul(x, x)
        }
    }
}

impl Function for Sigmoid {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { times_sigmoid::<S>(S::splat(1.0), x) }
    }
}

impl Function for Scale {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(x, S::splat(self.0)) }
    }
}

impl Function for SoftCap {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { soft_cap::<S>(x, self.0) }
    }
}

impl Function for Softplus {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // max(x, 0) + ln(1 + y), y = e^-|x|; ln(1 + y) = 2 atanh(u), u = y / (2 + y) <= 1/3, by its Taylor series: the
        // first term left out, 2 u^19 / 19, is below 1e-10 of u
        // SAFETY: the caller's promise.
        unsafe {
            let zero = S::splat(0.0);
            let y = S::exp(S::min(x, S::sub(zero, x)));
            let u = S::div(y, S::add(S::splat(2.0), y));
            let square = S::mul(u, u);
            let mut series = S::splat(2.0 / 17.0);
            for n in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
                series = S::mul_add(series, square, S::splat(2.0 / n));
            }
            S::mul_add(u, series, S::max(x, zero))
        }
    }
}

impl Function for Clamp {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::min(S::max(x, S::splat(self.0)), S::splat(self.1)) }
    }
}

/// cap * tanh(x / cap)
///
/// # Safety
/// The processor has `S`'s instructions.
#[inline(always)]
pub unsafe fn soft_cap<S: Simd>(x: S::V, cap: f32) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        // tanh(u) = 2 sigmoid(2u) - 1
        let twice = times_sigmoid::<S>(S::splat(2.0), S::mul(x, S::splat(2.0 / cap)));
        S::mul(S::sub(twice, S::splat(1.0)), S::splat(cap))
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

/// Rotates each head of `x`, from its element `first` on, by a row that [`rope_row`] made.
pub fn rope(isa: Isa, x: &mut [f32], head_dim: usize, first: usize, pairs: RopePairs, row: &[f32]) {
    let n = row.len() / 2;
    assert!(first + 2 * n <= head_dim && x.len().is_multiple_of(head_dim));
    let (cos, sin) = row.split_at(n);
    for head in x.chunks_exact_mut(head_dim) {
        let head = &mut head[first..];
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
