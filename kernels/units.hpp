// Quantized weights by units: the columns that a lane takes at a time, and their dot product with 8-bit activations.
#pragma once

#include "device.hpp"

namespace units {

// A unit's input: quants of a token for the same columns, and (d, d * sum) of their block.
struct Input16 {
    u32x4 q;
    f32x2 ds;

    DEVICE Input16 load(const u8 *q, const f32x2 *ds, u32 unit) { return {load_near(q + unit * 16), ds[unit / 2]}; }
};

struct Input32 {
    u32x4 low, high;
    f32x2 ds;

    DEVICE Input32 load(const u8 *q, const f32x2 *ds, u32 unit) {
        return {load_near(q + unit * 32), load_near(q + unit * 32 + 16), ds[unit]};
    }
};

// Scale and minimum of each half of a unit of 32 columns: a weight is scale * q - min.
struct Affine {
    float low_scale, low_min, high_scale, high_min;
};

// A type's part, for one unit of a row. The first plane is that of the unit's 16 bytes.
//   COLS       columns of a unit
//   Loaded     what a lane loads: unit `unit` of the row that begins at unit `first` of the plane
//   Quants     that, with the integer quants as signed bytes, and factors

struct Q8_0 {
    static constexpr u32 COLS = 16;
    using Input = Input16;

    struct Loaded {
        u32x4 q;
        u16 d;
    };
    struct Quants {
        u32x4 q;
        float d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u16>(1) + first / 2)[unit / 2]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) { return {l.q, f16_value(l.d)}; }

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) sum = dot4(w.q[k], x.q[k], sum);
        return w.d * (x.ds.x * (float)sum);
    }
};

// The other types' units are 32 consecutive columns: the low nibbles of the 16 bytes are 0-15, the high ones 16-31.

template <class Quants>
DEVICE i32 dot32(const Quants &w, const Input32 &x) {
    i32 sum = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) sum = dot4(w.high[k], x.high[k], dot4(w.low[k], x.low[k], sum));
    return sum;
}

// d * (q - 8)
struct Q4_0 {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q;
        u16 d;
    };
    struct Quants {
        u32x4 low, high;
        float d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u16>(1) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {l.q & 0x0f0f0f0f, l.q >> 4 & 0x0f0f0f0f, f16_value(l.d)};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        return w.d * fma(x.ds.x, (float)dot32(w, x), -8.0f * x.ds.y);
    }

    DEVICE Affine affine(const Quants &w) { return {w.d, 8.0f * w.d, w.d, 8.0f * w.d}; }
};

// d * scale * q - dmin * min: a unit is one of a superblock's 8 groups.
struct Q4_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q, dm_scales;
    };
    struct Quants {
        u32x4 low, high;
        float scale, min;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), load_near(w.as<u32x4>(1) + first / 8 + unit / 8)};
    }

    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        // y and z: scales and minima of groups 0-3 in 6 bits of each byte, and the high 2 bits of those of groups 4-7
        // in the others; w: the low 4 bits of scale and minimum of groups 4-7.
        const bool first = unit % 8 < 4;
        const u32 at = unit % 4 * 8, shift = first ? at : at + 2;
        const u32 own = first ? 0x3f : 0x30, rest = first ? 0 : 0x0f;
        const u32 scale = (l.dm_scales.y >> shift & own) | (l.dm_scales.w >> at & rest);
        const u32 min = (l.dm_scales.z >> shift & own) | (l.dm_scales.w >> (at + 4) & rest);
        const float d = f16_value((u16)l.dm_scales.x), dmin = f16_value((u16)(l.dm_scales.x >> 16));
        return {l.q & 0x0f0f0f0f, l.q >> 4 & 0x0f0f0f0f, d * (float)scale, dmin * (float)min};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        return fma(w.scale, x.ds.x * (float)dot32(w, x), -(w.min * x.ds.y));
    }

    DEVICE Affine affine(const Quants &w) { return {w.scale, w.min, w.scale, w.min}; }
};

// d * scale * (q - 32): a unit is two of a superblock's 16 groups. The high 2 bits of columns i, i + 8, i + 16 and
// i + 24 are in byte i of the unit's 8 bytes of qh.
struct Q6_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 ql;
        u32x2 qh;
        u16 scales, d;
    };
    struct Quants {
        u32x4 low, high;
        i32 low_scale, high_scale;
        float d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u32x2>(1) + first)[unit],
                (w.as<u16>(2) + first)[unit], (w.as<u16>(3) + first / 8)[unit / 8]};
    }

    // q - 32 as signed bytes, of q in 0..64: no byte carries into the next.
    DEVICE u32x4 less_32(u32x4 q) { return (q + 0x60606060) ^ 0x80808080; }

    DEVICE Quants unpack(const Loaded &l, u32) {
        const u32x4 low = {l.qh.x << 4, l.qh.y << 4, l.qh.x << 2, l.qh.y << 2};
        const u32x4 high = {l.qh.x, l.qh.y, l.qh.x >> 2, l.qh.y >> 2};
        return {less_32((l.ql & 0x0f0f0f0f) | (low & 0x30303030)),
                less_32((l.ql >> 4 & 0x0f0f0f0f) | (high & 0x30303030)), (i8)l.scales, (i8)(l.scales >> 8),
                f16_value(l.d)};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 low = 0, high = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            low = dot4(w.low[k], x.low[k], low);
            high = dot4(w.high[k], x.high[k], high);
        }
        return w.d * (x.ds.x * (float)(w.low_scale * low + w.high_scale * high));
    }

    DEVICE Affine affine(const Quants &w) {
        return {w.d * (float)w.low_scale, 0.0f, w.d * (float)w.high_scale, 0.0f};
    }
};

} // namespace units
