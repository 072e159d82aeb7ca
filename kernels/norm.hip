// Norms of rows: by the root of the mean square, of the variance (LAYER) or of the sum of squares (L2), times a weight, plus
// a bias; either may be null. A group a row.
#include "activations.hpp"

namespace norm {

enum Kind : u32 { RMS, LAYER, L2 };

DEVICE float add(float a, float b) { return a + b; }

// dst may be x. The first 4,096 columns are read once.
KERNEL(256, 4) void norm_f32(const float *x, const float *__restrict__ weight, const float *__restrict__ bias,
                             float *dst, u32 width, float eps, u32 kind) {
    constexpr u32 THREADS = 256, KEPT = 16;
    const u64 row = (u64)group_x() * width;
    float kept[KEPT];
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        kept[k] = i < width ? x[row + i] : 0.0f;
    }
    float mean = 0.0f;
    if (kind == LAYER) {
#pragma unroll
        for (u32 k = 0; k < KEPT; k++) mean += kept[k];
#pragma unroll 4
        for (u32 i = KEPT * THREADS + thread_x(); i < width; i += THREADS) mean += x[row + i];
        mean = group_reduce<THREADS>(mean, add) / (float)width;
#pragma unroll
        for (u32 k = 0; k < KEPT; k++) kept[k] = k * THREADS + thread_x() < width ? kept[k] - mean : 0.0f;
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) sum = fma(kept[k], kept[k], sum);
#pragma unroll 4
    for (u32 i = KEPT * THREADS + thread_x(); i < width; i += THREADS) {
        const float v = x[row + i] - mean;
        sum = fma(v, v, sum);
    }
    sum = group_reduce<THREADS>(sum, add);
    const float scale = 1.0f / square_root((kind == L2 ? sum : sum / (float)width) + eps);
    const auto finish = [&](u32 i, float v) {
        v = v * scale;
        if (weight) v = v * weight[i];
        if (bias) v = v + bias[i];
        return v;
    };
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        if (i < width) kept[k] = finish(i, kept[k]);
    }
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        if (i < width) dst[row + i] = kept[k];
    }
#pragma unroll 4
    for (u32 i = KEPT * THREADS + thread_x(); i < width; i += THREADS) dst[row + i] = finish(i, x[row + i] - mean);
}

// Of rows whose width is a multiple of 32: the norm of row `rows[r]` of x (r where `rows` is null) to dst[r] (f32), to
// q[r] and ds[r] as quantize_q8 leaves them, or to both. The first KEPT * 4 * THREADS columns are read once.
template <u32 THREADS, u32 KEPT>
DEVICE void norm_to(const float *x, const u32 *rows, const f32x4 *__restrict__ weight, const f32x4 *__restrict__ bias,
                    f32x4 *dst, u32 *q, f32x2 *ds, u32 width, float eps, u32 kind) {
    const u32 r = group_x(), fours = width / 4;
    const f32x4 *row = (const f32x4 *)(x + (u64)(rows ? rows[r] : r) * width);
    f32x4 kept[KEPT];
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = k * THREADS + thread_x();
        kept[k] = i < fours ? row[i] : f32x4(0.0f);
    }
    // under way while the row is summed
    f32x4 weights[KEPT], biases[KEPT];
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 i = min(k * THREADS + thread_x(), fours - 1);
        weights[k] = weight ? weight[i] : f32x4(1.0f);
        biases[k] = bias ? bias[i] : f32x4(0.0f);
    }
    float mean = 0.0f;
    if (kind == LAYER) {
        const auto total = [](f32x4 v) { return v.x + v.y + (v.z + v.w); };
#pragma unroll
        for (u32 k = 0; k < KEPT; k++) mean += total(kept[k]);
        for (u32 i = KEPT * THREADS + thread_x(); i < fours; i += THREADS) mean += total(row[i]);
        mean = group_reduce<THREADS>(mean, add) / (float)width;
#pragma unroll
        for (u32 k = 0; k < KEPT; k++) {
            if (k * THREADS + thread_x() < fours) kept[k] = kept[k] - mean;
        }
    }
    const auto squares = [](f32x4 v) { return fma(v.x, v.x, fma(v.y, v.y, fma(v.z, v.z, v.w * v.w))); };
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) sum += squares(kept[k]);
    for (u32 i = KEPT * THREADS + thread_x(); i < fours; i += THREADS) sum += squares(row[i] - mean);
    sum = group_reduce<THREADS>(sum, add);
    const float scale = 1.0f / square_root((kind == L2 ? sum : sum / (float)width) + eps);

    const u64 first = (u64)r * fours;
    const auto finish = [&](u32 i, f32x4 v, f32x4 of_weight, f32x4 of_bias) {
        const bool inside = i < fours;
        if (inside) {
            v = v * scale;
            if (weight) v = v * of_weight;
            if (bias) v = v + of_bias;
        }
        if (dst && inside) dst[first + i] = v;
        if (!q) return;
        const Rounded8 rounded(v);
        if (!inside) return;
        q[first + i] = rounded.packed;
        if (thread_x() % 8 == 0) ds[(first + i) / 8] = rounded.ds;
    };
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        if (k * THREADS < fours) finish(k * THREADS + thread_x(), kept[k], weights[k], biases[k]);
    }
    // the same number of rounds for all lanes of a block
    for (u32 start = KEPT * THREADS; start < fours; start += THREADS) {
        const u32 i = start + thread_x(), at = min(i, fours - 1);
        finish(i, i < fours ? row[i] - mean : f32x4(0.0f), weight ? weight[at] : f32x4(1.0f), bias ? bias[at] : f32x4(0.0f));
    }
}

KERNEL(1024, 4) void norm_q8(const float *x, const u32 *rows, const f32x4 *weight, const f32x4 *bias, f32x4 *dst, u32 *q,
                             f32x2 *ds, u32 width, float eps, u32 kind) {
    norm_to<1024, 2>(x, rows, weight, bias, dst, q, ds, width, eps, kind);
}

KERNEL(256, 4) void norm_q8_narrow(const float *x, const u32 *rows, const f32x4 *weight, const f32x4 *bias, f32x4 *dst,
                                   u32 *q, f32x2 *ds, u32 width, float eps, u32 kind) {
    norm_to<256, 2>(x, rows, weight, bias, dst, q, ds, width, eps, kind);
}

} // namespace norm
