// Read bandwidth.
#include "device.hpp"

// dst[group] = xor of the 32-bit words of the group's 32,768 bytes of src; n: a multiple of 16.
KERNEL(256, 6) void read_bytes(const u32x4 *src, u32 *dst, u64 n) {
    constexpr u32 PER_THREAD = 8;
    const u64 first = (u64)group_x() * (256 * PER_THREAD) + thread_x();
    u32x4 words = 0;
    u32x4 loaded[PER_THREAD];
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) {
        const u64 i = first + k * 256;
        loaded[k] = i < n / 16 ? load_streaming(src + i) : u32x4(0);
    }
#pragma unroll
    for (u32 k = 0; k < PER_THREAD; k++) words ^= loaded[k];

    SHARED u32 parts[256 / LANES];
    const auto both = [](u32 a, u32 b) { return a ^ b; };
    const u32 wave = lanes_reduce<LANES>(words.x ^ words.y ^ words.z ^ words.w, both);
    if (thread_x() % LANES == 0) parts[thread_x() / LANES] = wave;
    barrier();
    if (thread_x() == 0) {
        u32 all = 0;
#pragma unroll
        for (u32 part : parts) all ^= part;
        dst[group_x()] = all;
    }
}
