// What activations go through on their way into the next product.
#pragma once

#include "device.hpp"

// silu is x * sigmoid(x). gelu, in the tanh approximation (Hendrycks & Gimpel 2016, section 2), is x * sigmoid(2 y), as
// 1 + tanh(y) = 2 sigmoid(2 y).
DEVICE float activate(float x, u32 gelu) {
    constexpr float TWO_ROOT_2_PI = 1.59576912f; // 2 sqrt(2 / pi)
    const float inner = gelu ? TWO_ROOT_2_PI * (x + 0.044715f * x * x * x) : x;
    return x / (1.0f + exp(-inner));
}

// Four columns of a block of 32 rounded to 8 bits, as src/device/cpu/matmul/activations.rs defines it: the same bits.
// Eight neighbouring lanes make a block, all of them: q = x * 127 / amax to nearest, ties to even; ds (d, d * sum of
// q), d = amax / 127. A block with a value that is not finite has d NaN and q 0; one whose amax is tiny is zeros.
struct Rounded8 {
    u32 packed;
    f32x2 ds;

    __attribute__((device)) explicit Rounded8(f32x4 v) {
        constexpr float TINY = 1e-35f; // 127 / amax must be finite
        constexpr u32 INFINITE = 0x7f800000;
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
        u32 sum = 0;
        packed = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const i32 quant = finite ? (i32)round_even(v[k] * inverse) : 0;
            packed |= ((u32)quant & 255) << (8 * k);
            sum += quant;
        }
        sum = lanes_reduce<8>(sum, [](u32 a, u32 b) { return a + b; });
        ds = f32x2{d, d * (float)(i32)sum};
    }
};
