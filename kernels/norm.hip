// Root-mean-square norm.
#include "activations.hpp"

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

// Of rows whose width is a multiple of 32: the norm of row `rows[r]` of x (r where `rows` is none) to dst[r] (f32), to
// q[r] and ds[r] as quantize_q8 leaves them, or to both. A group a row; its first KEPT * 4 * THREADS columns are read
// once.
template <u32 THREADS, u32 KEPT>
DEVICE void rms_norm_to(const float *x, const u32 *rows, const f32x4 *__restrict__ weight, f32x4 *dst, u32 *q,
                        f32x2 *ds, u32 width, float eps) {
    const u32 r = group_x(), fours = width / 4;
    const f32x4 *row = (const f32x4 *)(x + (u64)(rows ? rows[r] : r) * width);
    const auto squares = [](f32x4 v) { return fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, v.w * v.w))); };
    f32x4 kept[KEPT];
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        kept[k] = i < fours ? row[i] : f32x4(0.0f);
    }
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) sum += squares(kept[k]);
    for (u32 i = KEPT * THREADS + thread_x(); i < fours; i += THREADS) sum += squares(row[i]);
    sum = group_reduce<THREADS>(sum, [](float a, float b) { return a + b; });
    const float scale = 1.0f / square_root(sum / (float)width + eps);

    const u64 first = (u64)r * fours;
    const auto finish = [&](u32 i, f32x4 v) {
        const bool inside = i < fours;
        if (inside) v = v * scale * weight[i];
        if (dst && inside) dst[first + i] = v;
        if (!q) return;
        const Rounded8 rounded(v);
        if (!inside) return;
        q[first + i] = rounded.packed;
        if (thread_x() % 8 == 0) ds[(first + i) / 8] = rounded.ds;
    };
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        if (k * THREADS < fours) finish(k * THREADS + thread_x(), kept[k]);
    }
    // the same number of rounds for all lanes of a block
    for (u32 start = KEPT * THREADS; start < fours; start += THREADS) {
        const u32 i = start + thread_x();
        finish(i, i < fours ? row[i] : f32x4(0.0f));
    }
}

KERNEL(1024, 4) void rms_norm_q8(const float *x, const u32 *rows, const f32x4 *weight, f32x4 *dst, u32 *q, f32x2 *ds,
                                u32 width, float eps) {
    rms_norm_to<1024, 2>(x, rows, weight, dst, q, ds, width, eps);
}

KERNEL(256, 8) void rms_norm_q8_narrow(const float *x, const u32 *rows, const f32x4 *weight, f32x4 *dst, u32 *q,
                                        f32x2 *ds, u32 width, float eps) {
    rms_norm_to<256, 1>(x, rows, weight, dst, q, ds, width, eps);
}
