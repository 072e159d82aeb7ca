// Root-mean-square norm.
#include "device.hpp"

// dst[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight; a group a row. dst may be x. The first 4,096 columns are read
// once.
KERNEL(256, 6) void rms_norm_f32(const float *x, const float *__restrict__ weight, float *dst, u32 width,
                                  float eps) {
    constexpr u32 THREADS = 256, KEPT = 16;
    const u64 row = (u64)group_x() * width;
    float kept[KEPT];
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        kept[k] = i < width ? x[row + i] : 0.0f;
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) sum = fma(kept[k], kept[k], sum);
#pragma unroll 4
    for (u32 i = KEPT * THREADS + thread_x(); i < width; i += THREADS) {
        const float v = x[row + i];
        sum = fma(v, v, sum);
    }
    sum = group_reduce<THREADS>(sum, [](float a, float b) { return a + b; });
    const float scale = 1.0f / square_root(sum / (float)width + eps);
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        if (i < width) kept[k] = kept[k] * scale * weight[i];
    }
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        if (i < width) dst[row + i] = kept[k];
    }
#pragma unroll 4
    for (u32 i = KEPT * THREADS + thread_x(); i < width; i += THREADS) dst[row + i] = x[row + i] * scale * weight[i];
}
