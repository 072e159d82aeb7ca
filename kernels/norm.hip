// Root-mean-square norm.
#include "device.hpp"

// dst[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight; a group a row. dst may be x.
KERNEL(256, 8) void rms_norm_f32(const float *x, const float *weight, float *dst, u32 width, float eps) {
    const u64 row = (u64)group_x() * width;
    float sum = 0.0f;
#pragma unroll 4
    for (u32 i = thread_x(); i < width; i += 256) {
        const float v = x[row + i];
        sum = fma(v, v, sum);
    }
    sum = group_reduce<256>(sum, [](float a, float b) { return a + b; });
    const float scale = 1.0f / square_root(sum / (float)width + eps);
#pragma unroll 4
    for (u32 i = thread_x(); i < width; i += 256) dst[row + i] = x[row + i] * scale * weight[i];
}
