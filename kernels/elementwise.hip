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
KERNEL(256, 8) void unary_f32(const float *x, float *dst, u64 n, u32 f, float c, float d) {
    const u64 first = (u64)group_x() * (THREADS * PER_THREAD);
    float v[PER_THREAD];
    each(first, n, [&](u64 i, u32 k) { v[k] = x[i]; });
    each(first, n, [&](u64 i, u32 k) { dst[i] = apply(f, c, d, v[k]); });
}

// dst[i] = f(a[i]) * b[i / each_b], their sum, or the clamped unit of both; n is below 2^32 where each_b is not 1.
KERNEL(256, 8) void binary_f32(const float *a, const float *b, float *dst, u64 n, u32 each_b, u32 f, float c, float d) {
    const u64 first = (u64)group_x() * (THREADS * PER_THREAD);
    float v[PER_THREAD], w[PER_THREAD];
    each(first, n, [&](u64 i, u32 k) {
        v[k] = a[i];
        w[k] = b[each_b == 1 ? i : (u32)i / each_b];
    });
    if (f == ADD) {
        each(first, n, [&](u64 i, u32 k) { dst[i] = v[k] + w[k]; });
    } else if (f == CLAMPED) {
        each(first, n, [&](u64 i, u32 k) { dst[i] = gated(v[k], w[k], CLAMPED); });
    } else {
        each(first, n, [&](u64 i, u32 k) { dst[i] = apply(f, c, d, v[k]) * w[k]; });
    }
}

// Rows of `width`: dst[t][i] = x[t][i] * scale[i / each_scale] + bias[i / each_bias], or x / scale + bias if `divides`.
// Either vector may be null. x counts rows, y runs of 1,024 columns.
KERNEL(256, 8) void affine_f32(const float *x, const float *scale, const float *bias, float *dst, u32 width,
                               u32 each_scale, u32 each_bias, u32 divides) {
    const u64 row = (u64)group_x() * width;
    each((u64)group_y() * (THREADS * PER_THREAD), width, [&](u64 i, u32) {
        float v = x[row + i];
        const auto of = [&](const float *vector, u32 each) { return vector[each == 1 ? i : (u32)i / each]; };
        if (scale) v = divides ? v / of(scale, each_scale) : v * of(scale, each_scale);
        if (bias) v = v + of(bias, each_bias);
        dst[row + i] = v;
    });
}

} // namespace elementwise
