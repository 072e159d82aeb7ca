// Sums and gates. A group takes 1,024 elements; dst may be an input.
#include "activations.hpp"

namespace elementwise {

constexpr u32 THREADS = 256, PER_THREAD = 4;

// dst[i] = activation(gate[i]) * up[i]
KERNEL(256, 8) void glu(const float *gate, const float *up, float *dst, u64 n, u32 gelu) {
    const u64 first = (u64)group_x() * (THREADS * PER_THREAD) + thread_x();
    float g[PER_THREAD], u[PER_THREAD];
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u64 i = first + k * THREADS;
        g[k] = i < n ? gate[i] : 0.0f;
        u[k] = i < n ? up[i] : 0.0f;
    }
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u64 i = first + k * THREADS;
        if (i < n) dst[i] = activate(g[k], gelu) * u[k];
    }
}

// dst[i] = a[i] + b[i % period]
KERNEL(256, 8) void add_f32(const float *a, const float *b, float *dst, u64 n, u64 period) {
    const u64 start = (u64)group_x() * (THREADS * PER_THREAD);
    const u64 start_in_period = start % period;
    float sum[PER_THREAD];
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u32 offset = k * THREADS + thread_x();
        if (start + offset >= n) break;
        u64 j = start_in_period + offset;
        if (j >= period) j = j - period < period ? j - period : j % period;
        sum[k] = a[start + offset] + b[j];
    }
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u64 i = start + k * THREADS + thread_x();
        if (i < n) dst[i] = sum[k];
    }
}

} // namespace elementwise
