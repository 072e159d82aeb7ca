// Activations to 8 bits, as src/device/cpu/matmul/activations.rs defines it: the same bits.
#include "device.hpp"

// Blocks of 32: q = x * 127 / amax to nearest, ties to even; ds (d, d * sum of q), d = amax / 127. A block with a
// value that is not finite has d NaN and q 0; one whose amax is tiny is zeros. Eight lanes a block, 32 blocks a
// group.
KERNEL(256, 8) void quantize_q8(const f32x4 *x, u32 *q, f32x2 *ds, u64 n_blocks) {
    constexpr float TINY = 1e-35f; // 127 / amax must be finite
    constexpr u32 INFINITE = 0x7f800000;
    const u64 i = (u64)group_x() * 256 + thread_x(); // of four columns
    const bool inside = i / 8 < n_blocks;
    const f32x4 v = inside ? x[i] : f32x4(0.0f);

    // Magnitudes order as their bits do, NaN last.
    u32 most = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const u32 magnitude = bits<u32>(v[k]) & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
    }
    most = lanes_reduce<8>(most, [](u32 a, u32 b) { return a > b ? a : b; });
    const float amax = bits<float>(most);
    const bool finite = most < INFINITE, zero = !finite || amax < TINY;
    const float d = finite ? (zero ? 0.0f : amax / 127.0f) : __builtin_nanf("");
    const float inverse = zero ? 0.0f : 127.0f / amax;

    u32 packed = 0, sum = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const i32 quant = finite ? (i32)round_even(v[k] * inverse) : 0;
        packed |= ((u32)quant & 255) << (8 * k);
        sum += quant;
    }
    sum = lanes_reduce<8>(sum, [](u32 a, u32 b) { return a + b; });
    if (!inside) return;
    q[i] = packed;
    if (thread_x() % 8 == 0) ds[i / 8] = f32x2{d, d * (float)(i32)sum};
}
