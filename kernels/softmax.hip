// Softmax of rows.
#include "device.hpp"

// dst[r] = softmax(scale * x[r]); a group a row. dst may be x.
KERNEL(256, 8) void softmax_f32(const float *x, float *dst, u32 width, float scale) {
    const u64 row = (u64)group_x() * width;
    float most = -__builtin_inff();
#pragma unroll 4
    for (u32 i = thread_x(); i < width; i += 256) most = max(most, x[row + i] * scale);
    most = group_reduce<256>(most, [](float a, float b) { return max(a, b); });
    float sum = 0.0f;
#pragma unroll 4
    for (u32 i = thread_x(); i < width; i += 256) {
        const float power = exp(x[row + i] * scale - most);
        dst[row + i] = power;
        sum += power;
    }
    sum = group_reduce<256>(sum, [](float a, float b) { return a + b; });
    const float share = 1.0f / sum;
#pragma unroll 4
    for (u32 i = thread_x(); i < width; i += 256) dst[row + i] *= share;
}
