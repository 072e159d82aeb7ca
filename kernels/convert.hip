// Copies, and conversions between float types.
#include "device.hpp"

namespace convert {

constexpr u32 THREADS = 256;

// f(i) for the group's share of 0..n: PER_THREAD * 256 indexes, neighbouring threads at neighbouring indexes.
template <u32 PER_THREAD, class F>
DEVICE void each(u64 n, F f) {
    const u64 first = (u64)group_x() * (THREADS * PER_THREAD) + thread_x();
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u64 i = first + k * THREADS;
        if (i < n) f(i);
    }
}

// 16,384 bytes a group.
KERNEL(256, 8) void copy_u8(const u8 *src, u8 *dst, u64 n) {
    constexpr u32 SHARE = 16384;
    if (((u64)src | (u64)dst) % 16 == 0) {
        each<SHARE / 16 / THREADS>(n / 16, [&](u64 i) { ((u32x4 *)dst)[i] = ((const u32x4 *)src)[i]; });
        const u64 rest = n / 16 * 16 + thread_x();
        if (group_x() == 0 && rest < n) dst[rest] = src[rest];
    } else {
        const u64 first = (u64)group_x() * SHARE, last = min(n, first + SHARE);
        for (u64 i = first + thread_x(); i < last; i += THREADS) dst[i] = src[i];
    }
}

// 2,048 elements a group.
KERNEL(256, 8) void convert_f32_f16(const float *src, u16 *dst, u64 n) {
    each<8>(n, [&](u64 i) { dst[i] = f16_bits(src[i]); });
}

KERNEL(256, 8) void convert_f32_bf16(const float *src, u16 *dst, u64 n) {
    each<8>(n, [&](u64 i) { dst[i] = bf16_bits(src[i]); });
}

KERNEL(256, 8) void convert_f16_f32(const u16 *src, float *dst, u64 n) {
    each<8>(n, [&](u64 i) { dst[i] = f16_value(src[i]); });
}

KERNEL(256, 8) void convert_bf16_f32(const u16 *src, float *dst, u64 n) {
    each<8>(n, [&](u64 i) { dst[i] = bf16_value(src[i]); });
}

} // namespace convert
