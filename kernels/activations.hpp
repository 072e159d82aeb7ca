// What activations go through on their way into the next product.
#pragma once

#include "device.hpp"

// Functions of one number, as ops::elementwise numbers them; IDENTITY to CLAMPED are for functions of two numbers: a product, a
// sum, gpt-oss's gated unit.
enum Function : u32 {
    SILU, GELU, RELU, RELU2, SIGMOID, SCALE, SOFT_CAP, IDENTITY, ADD, CLAMPED, SOFTPLUS, BOUNDED, CONSTANT
};

// silu is x * sigmoid(x). gelu, in the tanh approximation (Hendrycks & Gimpel 2016, section 2), is x * sigmoid(2 y), as
// 1 + tanh(y) = 2 sigmoid(2 y).
DEVICE float activate(float x, u32 gelu) {
    constexpr float TWO_ROOT_2_PI = 1.59576912f; // 2 sqrt(2 / pi)
    const float inner = gelu ? TWO_ROOT_2_PI * (x + 0.044715f * x * x * x) : x;
    return x / (1.0f + exp(-inner));
}

// f(gate) * up, f SILU or GELU. CLAMPED: g * sigmoid(1.702 g) * (u + 1), g = min(gate, 7), u = up within -7 and 7.
DEVICE float gated(float gate, float up, u32 f) {
    if (f != CLAMPED) return activate(gate, f == GELU) * up;
    const float g = __builtin_fminf(gate, 7.0f), u = max(-7.0f, __builtin_fminf(up, 7.0f));
    return g / (1.0f + exp(-1.702f * g)) * (u + 1.0f);
}

// ln(1 + e^x) = max(x, 0) + ln(1 + y), y = e^-|x|; ln(1 + y) = 2 atanh(u), u = y / (2 + y) <= 1/3, by its Taylor series:
// the first term left out, 2 u^19 / 19, is below 1e-10 of u.
DEVICE float softplus(float x) {
    const float y = exp(-__builtin_fabsf(x)), u = y / (2.0f + y), square = u * u;
    float series = 2.0f / 17.0f;
#pragma unroll
    for (int n = 15; n > 0; n -= 2) series = fma(series, square, 2.0f / (float)n);
    return fma(u, series, max(x, 0.0f));
}

// c: a scale's factor, a soft cap's cap, the constant; c and d: the bounds.
DEVICE float apply(u32 f, float c, float d, float x) {
    switch (f) {
    case SILU:
    case GELU: return activate(x, f == GELU);
    case RELU: return max(x, 0.0f);
    case RELU2: return max(x, 0.0f) * max(x, 0.0f);
    case SIGMOID: return 1.0f / (1.0f + exp(-x));
    case SCALE: return x * c;
    case SOFT_CAP: return c - 2.0f * c / (exp(2.0f * x / c) + 1.0f); // c * tanh(x / c)
    case SOFTPLUS: return softplus(x);
    case BOUNDED: return __builtin_fminf(max(x, c), d);
    case CONSTANT: return c;
    default: return x;
    }
}

// 1 / x within an ulp or two.
DEVICE float reciprocal(float x) {
#if defined(__NVPTX__)
    return __nvvm_rcp_approx_ftz_f(x);
#else
    return __builtin_amdgcn_rcpf(x);
#endif
}

// Scores of attention to base 2, as exp2 takes them: what queries times keys are multiplied by, and what becomes of the
// product. `cap` 0: nothing.
DEVICE float score_factor(float scale, float cap) {
    constexpr float LOG2_E = 1.44269504f;
    return cap != 0.0f ? scale * (2.0f * LOG2_E) / cap : scale * LOG2_E;
}

// cap * tanh(x / cap) = cap - 2 cap / (e^(2 x / cap) + 1); x: times score_factor.
DEVICE float capped_score(float x, float cap) {
    constexpr float LOG2_E = 1.44269504f;
    return fma(cap * (-2.0f * LOG2_E), reciprocal(exp2_normal(x) + 1.0f), cap * LOG2_E);
}

// By how much scores to base 2 fall from one position to the next, as Scores::slope of src/plan/op.rs has it.
DEVICE float score_slope(float alibi, u32 head, u32 n_head) {
    constexpr float LOG2_E = 1.44269504f;
    u32 whole = 1;
    while (whole * 2 <= n_head) whole *= 2;
    const bool beyond = head >= whole;
    const float step = (float)(beyond ? 2 * (head - whole) + 1 : head + 1);
    // whole is a power of two: its reciprocal is exact
    return exp2(-alibi * step * (1.0f / (float)(beyond ? 2 * whole : whole))) * LOG2_E;
}

// Positions that a token sees up to its own, which is included: the last `window`, from the last multiple of `chunk` on;
// 2^31 is no bound.
DEVICE u32 positions_seen(u32 position, u32 window, u32 chunk) { return min(window, position % chunk + 1); }

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
