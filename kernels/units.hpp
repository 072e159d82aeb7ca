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
//   affine     the factors of types whose unit is 32 columns

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

// d * q + m
struct Q4_1 {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q;
        u32 dm;
    };
    struct Quants {
        u32x4 low, high;
        float d, m;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u32>(1) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {l.q & 0x0f0f0f0f, l.q >> 4 & 0x0f0f0f0f, f16_value((u16)l.dm), f16_value((u16)(l.dm >> 16))};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        return fma(w.d, x.ds.x * (float)dot32(w, x), w.m * x.ds.y);
    }

    DEVICE Affine affine(const Quants &w) { return {w.d, -w.m, w.d, -w.m}; }
};

// The fifth bits of a unit: bit 8 * b + k of `bits` is that of column 4 * k + b, byte b of word k.
DEVICE u32x4 low_fifths(u32 bits) {
    return u32x4{bits << 4, bits << 3, bits << 2, bits << 1} & 0x10101010;
}
DEVICE u32x4 high_fifths(u32 bits) { return u32x4{bits, bits >> 1, bits >> 2, bits >> 3} & 0x10101010; }

// d * (q - 16)
struct Q5_0 {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q;
        u32 fifths;
        u16 d;
    };
    struct Quants {
        u32x4 low, high;
        float d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u32>(1) + first)[unit],
                (w.as<u16>(2) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {(l.q & 0x0f0f0f0f) | low_fifths(l.fifths), (l.q >> 4 & 0x0f0f0f0f) | high_fifths(l.fifths),
                f16_value(l.d)};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        return w.d * fma(x.ds.x, (float)dot32(w, x), -16.0f * x.ds.y);
    }

    DEVICE Affine affine(const Quants &w) { return {w.d, 16.0f * w.d, w.d, 16.0f * w.d}; }
};

// d * q + m
struct Q5_1 {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q;
        u32 fifths, dm;
    };
    using Quants = Q4_1::Quants;

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u32>(1) + first)[unit],
                (w.as<u32>(2) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {(l.q & 0x0f0f0f0f) | low_fifths(l.fifths), (l.q >> 4 & 0x0f0f0f0f) | high_fifths(l.fifths),
                f16_value((u16)l.dm), f16_value((u16)(l.dm >> 16))};
    }

    DEVICE float dot(const Quants &w, const Input &x) { return Q4_1::dot(w, x); }
    DEVICE Affine affine(const Quants &w) { return Q4_1::affine(w); }
};

// Scale and minimum of group `unit` % 8 of a superblock, from its d, dmin and 12 bytes. Words 1 and 2: scales and
// minima of groups 0-3 in 6 bits of each byte, and the high 2 bits of those of groups 4-7 in the others; word 3: the
// low 4 bits of scale and minimum of groups 4-7.
struct ScaleMin {
    float scale, min;
};
DEVICE ScaleMin scale_min(u32x4 dm_scales, u32 unit) {
    const bool first = unit % 8 < 4;
    const u32 at = unit % 4 * 8, shift = first ? at : at + 2;
    const u32 own = first ? 0x3f : 0x30, rest = first ? 0 : 0x0f;
    const u32 scale = (dm_scales.y >> shift & own) | (dm_scales.w >> at & rest);
    const u32 min = (dm_scales.z >> shift & own) | (dm_scales.w >> (at + 4) & rest);
    const float d = f16_value((u16)dm_scales.x), dmin = f16_value((u16)(dm_scales.x >> 16));
    return {d * (float)scale, dmin * (float)min};
}

// d * scale * q - dmin * min: a unit is one of a superblock's 8 groups.
struct Q4_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q, dm_scales;
    };
    struct Quants {
        u32x4 low, high;
        ScaleMin factors;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), load_near(w.as<u32x4>(1) + first / 8 + unit / 8)};
    }

    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        return {l.q & 0x0f0f0f0f, l.q >> 4 & 0x0f0f0f0f, scale_min(l.dm_scales, unit)};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        return fma(w.factors.scale, x.ds.x * (float)dot32(w, x), -(w.factors.min * x.ds.y));
    }

    DEVICE Affine affine(const Quants &w) {
        return {w.factors.scale, w.factors.min, w.factors.scale, w.factors.min};
    }
};

// The same with fifth bits.
struct Q5_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x4 q, dm_scales;
        u32 fifths;
    };
    using Quants = Q4_K::Quants;

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), load_near(w.as<u32x4>(2) + first / 8 + unit / 8),
                (w.as<u32>(1) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        return {(l.q & 0x0f0f0f0f) | low_fifths(l.fifths), (l.q >> 4 & 0x0f0f0f0f) | high_fifths(l.fifths),
                scale_min(l.dm_scales, unit)};
    }

    DEVICE float dot(const Quants &w, const Input &x) { return Q4_K::dot(w, x); }
    DEVICE Affine affine(const Quants &w) { return Q4_K::affine(w); }
};

// The types below have groups of 16: a unit is two of a superblock's 16.

// Pairs of bits of a unit: byte i of 8 has those of columns i, i + 8, i + 16 and i + 24, here in bits 4 and 5 of each.
DEVICE u32x4 low_pairs(u32x2 q) { return u32x4{q.x << 4, q.y << 4, q.x << 2, q.y << 2} & 0x30303030; }
DEVICE u32x4 high_pairs(u32x2 q) { return u32x4{q.x, q.y, q.x >> 2, q.y >> 2} & 0x30303030; }

// d * scale * q - dmin * min; scale in the low nibble of a group's byte, minimum in the high one.
struct Q2_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;

    struct Loaded {
        u32x2 q;
        u16 scales;
        u32 dm;
    };
    struct Quants {
        u32x4 low, high;
        u32 scales;
        float d, dmin;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {(w.as<u32x2>(0) + first)[unit], (w.as<u16>(1) + first)[unit], (w.as<u32>(2) + first / 8)[unit / 8]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {low_pairs(l.q) >> 4, high_pairs(l.q) >> 4, l.scales, f16_value((u16)l.dm),
                f16_value((u16)(l.dm >> 16))};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        constexpr u32 ONES = 0x01010101;
        i32 low = 0, high = 0, low_sum = 0, high_sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            low = dot4(w.low[k], x.low[k], low);
            high = dot4(w.high[k], x.high[k], high);
            low_sum = dot4(ONES, x.low[k], low_sum);
            high_sum = dot4(ONES, x.high[k], high_sum);
        }
        const i32 scaled = (i32)(w.scales & 15) * low + (i32)(w.scales >> 8 & 15) * high;
        const i32 less = (i32)(w.scales >> 4 & 15) * low_sum + (i32)(w.scales >> 12) * high_sum;
        return x.ds.x * fma(w.d, (float)scaled, -(w.dmin * (float)less));
    }

    DEVICE Affine affine(const Quants &w) {
        return {w.d * (float)(w.scales & 15), w.dmin * (float)(w.scales >> 4 & 15), w.d * (float)(w.scales >> 8 & 15),
                w.dmin * (float)(w.scales >> 12)};
    }
};

// Two signed scales of groups of 16.
struct Scaled16 {
    u32x4 low, high;
    i32 low_scale, high_scale;
    float d;

    DEVICE float dot(const Scaled16 &w, const Input32 &x) {
        i32 low = 0, high = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            low = dot4(w.low[k], x.low[k], low);
            high = dot4(w.high[k], x.high[k], high);
        }
        return w.d * (x.ds.x * (float)(w.low_scale * low + w.high_scale * high));
    }

    DEVICE Affine affine(const Scaled16 &w) {
        return {w.d * (float)w.low_scale, 0.0f, w.d * (float)w.high_scale, 0.0f};
    }
};

// d * (scale - 32) * (q - 4)
struct Q3_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;
    using Quants = Scaled16;

    struct Loaded {
        u32x2 q;
        u32 thirds, scales[3];
        u16 d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        const u32 *scales = w.as<u32>(2) + (first / 8 + unit / 8) * 3;
        return {(w.as<u32x2>(0) + first)[unit],
                (w.as<u32>(1) + first)[unit],
                {scales[0], scales[1], scales[2]},
                (w.as<u16>(3) + first / 8)[unit / 8]};
    }

    // q - 4 as signed bytes, of q in 0..8: no byte carries into the next.
    DEVICE u32x4 less_4(u32x4 q) { return (q + 0x7c7c7c7c) ^ 0x80808080; }

    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        // Byte b of words 0 and 1 has the low 4 bits of the scales of groups b and b + 8, in this order; byte b % 4 of
        // word 2 the high 2 bits of groups b % 4, + 4, + 8, + 12.
        const u32 pair = unit % 8, nibble = pair / 4 * 4, at = pair % 2 * 16;
        const u32 low = (pair % 4 < 2 ? l.scales[0] : l.scales[1]) >> (at + nibble);
        const u32 high = l.scales[2] >> (at + pair / 2 * 2);
        const i32 low_scale = (low & 15) | (high & 3) << 4, high_scale = (low >> 8 & 15) | (high >> 8 & 3) << 4;
        return {less_4(low_pairs(l.q) >> 4 | low_fifths(l.thirds) >> 2),
                less_4(high_pairs(l.q) >> 4 | high_fifths(l.thirds) >> 2), low_scale - 32, high_scale - 32,
                f16_value(l.d)};
    }

    DEVICE float dot(const Quants &w, const Input &x) { return Scaled16::dot(w, x); }
    DEVICE Affine affine(const Quants &w) { return Scaled16::affine(w); }
};

// d * scale * (q - 32)
struct Q6_K {
    static constexpr u32 COLS = 32;
    using Input = Input32;
    using Quants = Scaled16;

    struct Loaded {
        u32x4 ql;
        u32x2 qh;
        u16 scales, d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), (w.as<u32x2>(1) + first)[unit],
                (w.as<u16>(2) + first)[unit], (w.as<u16>(3) + first / 8)[unit / 8]};
    }

    // q - 32 as signed bytes, of q in 0..64: no byte carries into the next.
    DEVICE u32x4 less_32(u32x4 q) { return (q + 0x60606060) ^ 0x80808080; }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {less_32((l.ql & 0x0f0f0f0f) | low_pairs(l.qh)), less_32((l.ql >> 4 & 0x0f0f0f0f) | high_pairs(l.qh)),
                (i8)l.scales, (i8)(l.scales >> 8), f16_value(l.d)};
    }

    DEVICE float dot(const Quants &w, const Input &x) { return Scaled16::dot(w, x); }
    DEVICE Affine affine(const Quants &w) { return Scaled16::affine(w); }
};

} // namespace units
