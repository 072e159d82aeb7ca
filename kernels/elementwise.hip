// Functions of one number or two, element by element; dst may be an input.
#include "activations.hpp"

namespace elementwise {

constexpr u32 THREADS = 256, PER_THREAD = 4;

// f(i, k) for the group's share of n elements, k-th of the thread's: 1,024 a group.
template <class F>
DEVICE void each(u64 first, u64 n, F f) {
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u64 i = first + k * THREADS + thread_x();
        if (i < n) f(i, k);
    }
}

// dst[i] = f(x[i])
KERNEL(256, 8) void unary_f32(const float *x, float *dst, u64 n, u32 f, float c) {
    const u64 first = (u64)group_x() * (THREADS * PER_THREAD);
    float v[PER_THREAD];
    each(first, n, [&](u64 i, u32 k) { v[k] = x[i]; });
    each(first, n, [&](u64 i, u32 k) { dst[i] = apply(f, c, v[k]); });
}

// dst[i] = f(a[i]) * b[i], or their sum
KERNEL(256, 8) void binary_f32(const float *a, const float *b, float *dst, u64 n, u32 f, float c) {
    const u64 first = (u64)group_x() * (THREADS * PER_THREAD);
    float v[PER_THREAD], w[PER_THREAD];
    each(first, n, [&](u64 i, u32 k) {
        v[k] = a[i];
        w[k] = b[i];
    });
    if (f == ADD) {
        each(first, n, [&](u64 i, u32 k) { dst[i] = v[k] + w[k]; });
    } else {
        each(first, n, [&](u64 i, u32 k) { dst[i] = apply(f, c, v[k]) * w[k]; });
    }
}

// Rows of `width`: dst[t][i] = x[t][i] * scale[i] + bias[i]. Either vector has `width` elements, or one, or is null. x
// counts rows, y runs of 1,024 columns.
KERNEL(256, 8) void affine_f32(const float *x, const float *scale, const float *bias, float *dst, u32 width,
                               u32 one_scale, u32 one_bias) {
    const u64 row = (u64)group_x() * width;
    each((u64)group_y() * (THREADS * PER_THREAD), width, [&](u64 i, u32) {
        float v = x[row + i];
        if (scale) v = v * scale[one_scale ? 0 : i];
        if (bias) v = v + bias[one_bias ? 0 : i];
        dst[row + i] = v;
    });
}

} // namespace elementwise
