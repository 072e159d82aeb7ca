//! One algorithm, three instruction sets: vectors of f32 lanes behind a trait, and the one place
//! where a kernel written against it is compiled for a path.

use half::f16;

use super::isa::Isa;

/// A vector of `LANES` f32 and what the kernels do with it.
///
/// # Safety
/// A method may be called only on a processor that has the implementor's instructions; pointers must
/// be valid for `LANES` elements (any alignment).
pub unsafe trait Simd: Copy + 'static {
    /// At most [`MAX_LANES`].
    const LANES: usize;
    type V: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn load_f16(p: *const f16) -> Self::V;
    /// Rounds to nearest even; what f16 cannot hold becomes infinite.
    unsafe fn store_f16(p: *mut f16, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, rounded once where the processor can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, as a float; |x| < 2^22.
    unsafe fn round(x: Self::V) -> Self::V;
    /// 2^n for whole n in -126..=127.
    unsafe fn exp2_whole(n: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    unsafe fn largest(v: Self::V) -> f32;

    /// The first `n <= LANES` elements, the other lanes 0.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self::V {
        let mut all = [0.0; MAX_LANES];
        // SAFETY: the caller's p is valid for n elements; `all` holds LANES.
        unsafe {
            std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n);
            Self::load(all.as_ptr())
        }
    }

    /// Stores the first `n <= LANES` lanes.
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::V, n: usize) {
        let mut all = [0.0; MAX_LANES];
        // SAFETY: the caller's p is valid for n elements; `all` holds LANES.
        unsafe {
            Self::store(all.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(all.as_ptr(), p, n);
        }
    }

    /// e^x within 2 units in the last place for x in -87..=88; clamped to that range outside.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 is subtracted in two parts, the first exact in few bits.
        // e^r by its Taylor series: the first term left out, r^8 / 8!, is below 6e-9.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // SAFETY: the caller runs on a processor with these instructions.
        unsafe {
            let x = Self::min(Self::max(x, Self::splat(-87.0)), Self::splat(88.0));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::mul_add(n, Self::splat(-LN2_HIGH), x);
            let r = Self::mul_add(n, Self::splat(-LN2_LOW), r);
            let mut e = Self::splat(1.0 / 5040.0);
            for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                e = Self::mul_add(e, r, Self::splat(c));
            }
            Self::mul(e, Self::exp2_whole(n))
        }
    }
}

pub const MAX_LANES: usize = 16;

/// Work written once against [`Simd`]. `run` and all it calls must be `#[inline(always)]`, so that
/// they are compiled with the instructions of the path they run on.
pub trait Kernel {
    type Output;
    /// # Safety
    /// The processor has `S`'s instructions; the implementor's fields satisfy what it states of them.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

impl Isa {
    /// Runs `kernel` on this path.
    ///
    /// # Safety
    /// The path is available (`Isa::is_available`) and the kernel's fields are as it states.
    #[inline]
    pub unsafe fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { x86::run_avx512(kernel) },
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: the caller's promise; plain Rust runs everywhere.
            _ => unsafe { kernel.run::<Plain>() },
        }
    }
}

/// Plain Rust over small arrays, which compilers turn into whatever vectors the target has.
#[derive(Clone, Copy)]
pub struct Plain;

const PLAIN_LANES: usize = 8;

#[inline(always)]
fn map2(a: [f32; PLAIN_LANES], b: [f32; PLAIN_LANES], f: impl Fn(f32, f32) -> f32) -> [f32; PLAIN_LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: plain Rust; pointers as the trait demands.
unsafe impl Simd for Plain {
    const LANES: usize = PLAIN_LANES;
    type V = [f32; PLAIN_LANES];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; PLAIN_LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: valid for LANES elements, any alignment.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: valid for LANES elements, any alignment.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> Self::V {
        // SAFETY: valid for LANES elements.
        std::array::from_fn(|i| unsafe { (*p.add(i)).to_f32() })
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut f16, v: Self::V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: valid for LANES elements.
            unsafe { *p.add(i) = f16::from_f32(x) };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // not f32::mul_add: a library call on targets without the instruction
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(x: Self::V) -> Self::V {
        // adding 1.5 * 2^23 leaves no bit for a fraction: the sum is rounded to nearest even
        const BIG: f32 = 12_582_912.0;
        std::array::from_fn(|i| (x[i] + BIG) - BIG)
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: Self::V) -> Self::V {
        std::array::from_fn(|i| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::{Kernel, Simd};

    /// # Safety
    /// The processor has these features; the kernel's fields are as it states.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Avx2>() }
    }

    /// # Safety
    /// The processor has these features; the kernel's fields are as it states.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { kernel.run::<Avx512>() }
    }

    #[derive(Clone, Copy)]
    pub struct Avx2;

    /// Wraps intrinsics whose only demands are the processor and valid pointers.
    macro_rules! forward {
        ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {
            $(#[inline(always)]
            unsafe fn $name($($arg: $ty),*) -> $ret {
                // SAFETY: the trait's contract: the processor has the instructions, pointers are valid.
                unsafe { $body }
            })*
        };
    }

    // SAFETY: each method is its instruction.
    unsafe impl Simd for Avx2 {
        const LANES: usize = 8;
        type V = __m256;

        forward! {
            splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            load(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
            store(p: *mut f32, v: __m256) -> () = _mm256_storeu_ps(p, v);
            load_f16(p: *const f16) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
            store_f16(p: *mut f16, v: __m256) -> () =
                _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v));
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
            mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            round(x: __m256) -> __m256 =
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            exp2_whole(n: __m256) -> __m256 = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(
                _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))));
            sum(v: __m256) -> f32 = sum4(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)));
            largest(v: __m256) -> f32 =
                largest4(_mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)));
        }
    }

    #[inline(always)]
    unsafe fn sum4(v: __m128) -> f32 {
        // SAFETY: SSE is part of x86_64.
        unsafe {
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[inline(always)]
    unsafe fn largest4(v: __m128) -> f32 {
        // SAFETY: SSE is part of x86_64.
        unsafe {
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx512;

    // SAFETY: each method is its instruction.
    unsafe impl Simd for Avx512 {
        const LANES: usize = 16;
        type V = __m512;

        forward! {
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            load(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
            store(p: *mut f32, v: __m512) -> () = _mm512_storeu_ps(p, v);
            load_part(p: *const f32, n: usize) -> __m512 = _mm512_maskz_loadu_ps(first(n), p);
            store_part(p: *mut f32, v: __m512, n: usize) -> () = _mm512_mask_storeu_ps(p, first(n), v);
            load_f16(p: *const f16) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
            store_f16(p: *mut f16, v: __m512) -> () =
                _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v));
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
            mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            round(x: __m512) -> __m512 = _mm512_roundscale_ps::<0>(x);
            exp2_whole(n: __m512) -> __m512 = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(
                _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127))));
            sum(v: __m512) -> f32 = _mm512_reduce_add_ps(v);
            largest(v: __m512) -> f32 = _mm512_reduce_max_ps(v);
        }
    }

    /// Mask of the first `n <= 16` lanes.
    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        ((1u32 << n) - 1) as __mmask16
    }
}
