// Rows cut into columns, joined, and made sharper by their position.
#include "device.hpp"

namespace rows {

constexpr u32 THREADS = 256;

// Of what is no denormal number.
DEVICE float log2(float x) {
#if defined(__NVPTX__)
    return __nvvm_lg2_approx_f(x);
#else
    return __builtin_amdgcn_logf(x);
#endif
}

// Part i / len of row t: dst[to_first + i / len * to_step + i % len] = x[first + i / len * step + i % len], i < n. Rows are
// `width` and `to_width` apart. x of the grid counts tokens, y runs of 256 elements.
KERNEL(256, 8) void columns_f32(const float *x, float *dst, u32 width, u32 to_width, u32 n, u32 len, u32 first, u32 step,
                                u32 to_first, u32 to_step) {
    const u32 i = group_y() * THREADS + thread_x();
    if (i >= n) return;
    const u32 part = i / len, at = i % len;
    dst[(u64)group_x() * to_width + to_first + part * to_step + at] =
        x[(u64)group_x() * width + first + part * step + at];
}

// dst[t][i] = x[t][i] * (1 + scale * ln(1 + floor(position[t] / length))); dst may be x. The same grid.
KERNEL(256, 8) void temper_f32(const float *x, float *dst, const u32 *positions, u32 width, u32 length, float scale) {
    const u32 i = group_y() * THREADS + thread_x();
    if (i >= width) return;
    constexpr float LN_2 = 0.693147181f;
    const float factor = fma(scale * LN_2, log2((float)(positions[group_x()] / length + 1)), 1.0f);
    const u64 at = (u64)group_x() * width + i;
    dst[at] = x[at] * factor;
}

} // namespace rows
