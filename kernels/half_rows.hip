// Activations to f16, a factor a row: what the matrix products take. Rows of h are padded with zeros (if the factor is
// not NaN) to a multiple of 32 columns. A group a row; of a row the first 8,192 columns are read once.
#include "activations.hpp"

namespace half_rows {

constexpr u32 THREADS = 256, KEPT = 8, PAD = 32;

// Four columns from `col` < width on; 0 beyond the last. WHOLE: width is a multiple of 4.
template <bool WHOLE>
DEVICE f32x4 four(const float *row, u32 col, u32 width) {
    if constexpr (WHOLE) return load<f32x4>(row + col);
    f32x4 v;
#pragma unroll
    for (u32 k = 0; k < 4; k++) v[k] = col + k < width ? row[col + k] : 0.0f;
    return v;
}

DEVICE u32 magnitude(f32x4 v) {
    return max(max(::magnitude(v.x), ::magnitude(v.y)), max(::magnitude(v.z), ::magnitude(v.w)));
}

// value(col): four columns of the row from `col` on. factor(): what they are then multiplied by, once all have been
// asked for. The row's scale is written `copies` times.
template <class Value, class Factor>
DEVICE void make(Value value, Factor factor, f16 *h, float *scale, u32 width, u32 copies = 1) {
    const u32 padded = (width + PAD - 1) / PAD * PAD;
    f32x4 kept[KEPT];
    u32 most = 0;
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 col = (k * THREADS + thread_x()) * 4;
        kept[k] = col < width ? value(col) : f32x4(0.0f);
        most = max(most, magnitude(kept[k]));
    }
#pragma unroll 1
    for (u32 col = (KEPT * THREADS + thread_x()) * 4; col < width; col += THREADS * 4) {
        most = max(most, magnitude(value(col)));
    }
    const float multiplier = factor();
    const float largest = group_reduce<THREADS>(bits<float>(most), [](float a, float b) {
        return bits<float>(max(bits<u32>(a), bits<u32>(b)));
    });
    const F16Factors factors(::magnitude(largest * multiplier));

    const auto put = [&](u32 col, f32x4 v) {
        v = v * multiplier * factors.up;
        const u32x2 pairs = {f16_pair(v.x, v.y), f16_pair(v.z, v.w)};
        *(u32x2 *)(h + (u64)group_x() * padded + col) = pairs;
    };
#pragma unroll
    for (u32 k = 0; k < KEPT; k++) {
        const u32 col = (k * THREADS + thread_x()) * 4;
        if (col < padded) put(col, kept[k]);
    }
#pragma unroll 1
    for (u32 col = (KEPT * THREADS + thread_x()) * 4; col < padded; col += THREADS * 4) {
        put(col, col < width ? value(col) : f32x4(0.0f));
    }
    for (u32 i = thread_x(); i < copies; i += THREADS) scale[(u64)group_x() * copies + i] = factors.down;
}

template <bool WHOLE>
DEVICE void plain(const float *x, f16 *h, float *scale, u32 width, u32 copies) {
    const float *row = x + (u64)group_x() * width;
    make([=](u32 col) { return four<WHOLE>(row, col, width); }, [] { return 1.0f; }, h, scale, width, copies);
}

KERNEL(256, 4) void half_rows(const float *x, f16 *h, float *scale, u32 width, u32 copies) {
    width % 4 ? plain<false>(x, h, scale, width, copies) : plain<true>(x, h, scale, width, copies);
}

template <bool WHOLE>
DEVICE void norm(const float *x, const float *weight, f16 *h, float *scale, u32 width, float eps) {
    const float *row = x + (u64)group_x() * width;
    float squares = 0.0f;
    make(
        [&](u32 col) {
            const f32x4 v = four<WHOLE>(row, col, width);
#pragma unroll
            for (u32 k = 0; k < 4; k++) squares = fma(v[k], v[k], squares);
            return v * four<WHOLE>(weight, col, width);
        },
        [&] {
            const float sum = group_reduce<THREADS>(squares, [](float a, float b) { return a + b; });
            // a sum beyond f32 must not pass for a row of zeros
            return sum < __builtin_inff() ? 1.0f / square_root(sum / (float)width + eps) : __builtin_nanf("");
        },
        h, scale, width);
}

// RMS norm, as norm.hip has it.
KERNEL(256, 4) void half_rows_rms_norm(const float *x, const float *weight, f16 *h, float *scale, u32 width,
                                       float eps) {
    width % 4 ? norm<false>(x, weight, h, scale, width, eps) : norm<true>(x, weight, h, scale, width, eps);
}

template <bool WHOLE>
DEVICE void unit(const float *gate, const float *up, f16 *h, float *scale, u32 width, u32 f) {
    const float *gates = gate + (u64)group_x() * width, *ups = up + (u64)group_x() * width;
    make(
        [=](u32 col) {
            f32x4 v = four<WHOLE>(gates, col, width);
            const f32x4 u = four<WHOLE>(ups, col, width);
#pragma unroll
            for (u32 k = 0; k < 4; k++) v[k] = gated(v[k], u[k], f);
            return v;
        },
        [] { return 1.0f; }, h, scale, width);
}

KERNEL(256, 4) void half_rows_glu(const float *gate, const float *up, f16 *h, float *scale, u32 width, u32 f) {
    width % 4 ? unit<false>(gate, up, h, scale, width, f) : unit<true>(gate, up, h, scale, width, f);
}

} // namespace half_rows
