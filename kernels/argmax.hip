// Index of the largest.
#include "device.hpp"

namespace argmax {

// The first of the largest values seen. NaN is never taken; NONE is greater than any index.
struct Largest {
    static constexpr u32 NONE = ~0u;
    float value = -__builtin_inff();
    u32 index = NONE;

    // Of an index greater than those seen; -inf is left out.
    __attribute__((device)) void take_next(float v, u32 i) {
        const bool better = v > value;
        value = better ? v : value;
        index = better ? i : index;
    }

    __attribute__((device)) void take(float v, u32 i) {
        const bool better = v > value || (v == value && i < index);
        value = better ? v : value;
        index = better ? i : index;
    }

    template <u32 WIDTH>
    __attribute__((device)) void reduce() {
        if constexpr (WIDTH > 1) {
            const float v = lane_xor<WIDTH / 2>(value);
            take(v, lane_xor<WIDTH / 2>(index));
            reduce<WIDTH / 2>();
        }
    }
};

// dst[r] = index of the largest of x[r], 0 if all are NaN; a group a row.
KERNEL(1024, 8) void arg_max_f32(const float *x, u32 *dst, u32 width) {
    constexpr u32 WAVES = 1024 / LANES, AT_ONCE = 4;
    SHARED float values[WAVES];
    SHARED u32 indexes[WAVES];
    const float *row = x + (u64)group_x() * width;

    // By fours where the row is aligned to them; a thread's indexes grow.
    Largest largest;
    const f32x4 *fours = (const f32x4 *)row;
    const u32 n_fours = (u64)row % 16 == 0 ? width / 4 : 0;
    const auto take_four = [&](f32x4 v, u32 i) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) largest.take_next(v[e], i * 4 + e);
    };
    u32 i = thread_x();
    for (; i + (AT_ONCE - 1) * 1024 < n_fours; i += AT_ONCE * 1024) {
        f32x4 v[AT_ONCE];
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) v[k] = fours[i + k * 1024];
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) take_four(v[k], i + k * 1024);
    }
    for (; i < n_fours; i += 1024) take_four(fours[i], i);
    for (u32 k = n_fours * 4 + thread_x(); k < width; k += 1024) largest.take_next(row[k], k);
    if (largest.index == Largest::NONE) {
        for (u32 k = thread_x(); k < width; k += 1024) largest.take(row[k], k);
    }

    largest.reduce<LANES>();
    if (thread_x() % LANES == 0) {
        values[thread_x() / LANES] = largest.value;
        indexes[thread_x() / LANES] = largest.index;
    }
    barrier();
    if (thread_x() < LANES) {
        const u32 wave = thread_x() % WAVES;
        largest = Largest{values[wave], indexes[wave]};
        largest.reduce<WAVES>();
        if (thread_x() == 0) dst[group_x()] = largest.index == Largest::NONE ? 0 : largest.index;
    }
}

} // namespace argmax
