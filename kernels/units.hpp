// Weights by units: the columns that a lane takes at a time, and their dot product with activations.
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

// Activations that are f32, for float weights.
struct InputF32 {
    f32x4 low, high;

    DEVICE InputF32 load(const u8 *x, const f32x2 *, u32 unit) {
        const f32x4 *values = (const f32x4 *)x;
        return {values[2 * unit], values[2 * unit + 1]};
    }
};

// Of 16 columns: a weight is scale * (quant - ZERO) - min, each step rounded, as in src/gguf/dequant.rs.
struct Affine {
    float scale, min;
};

// A type's part, for one unit of a row. The first plane is that of the unit's 16 bytes (of 2 and 3 bits, 8).
//   COLS       columns of a unit
//   Input      activations for the same columns
//   Loaded     what a lane loads: unit `unit` of the row that begins at unit `first` of the plane
//   Quants     that, with the integer quants as signed bytes, and factors
//   dot        their product with the input
// of float types
//   element    a value, all rows counted through
// of quantized types
//   ZERO       the quant that means 0; types with a minimum have 0
//   bytes      quants of the unit's first (half = 0) or last (1) 16 columns
//   affine     the factors of these

// ---- Floats: 8 columns ----

struct Floats {
    static constexpr u32 COLS = 8;
    using Input = InputF32;

    struct Quants {
        f32x4 low, high;
    };

    DEVICE float dot(const Quants &w, const Input &x) {
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) sum = fma(w.high[k], x.high[k], fma(w.low[k], x.low[k], sum));
        return sum;
    }
};

template <class U>
constexpr bool IS_FLOAT = U::COLS == Floats::COLS;

struct F32 : Floats {
    using Loaded = Quants;

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        const u32x4 *p = w.as<u32x4>(0) + (first + unit) * 2;
        return {bits<f32x4>(load_streaming(p)), bits<f32x4>(load_streaming(p + 1))};
    }
    DEVICE Quants unpack(const Loaded &l, u32) { return l; }
    DEVICE float element(const Planes &w, u64 i) { return w.as<float>(0)[i]; }
};

struct F16 : Floats {
    using Loaded = u32x4;

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) { return load_streaming(w.as<u32x4>(0) + first + unit); }
    DEVICE Quants unpack(const Loaded &l, u32) {
        Quants q;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const u32 low = l[k / 2], high = l[2 + k / 2];
            q.low[k] = f16_value((u16)(low >> (k % 2 * 16)));
            q.high[k] = f16_value((u16)(high >> (k % 2 * 16)));
        }
        return q;
    }
    DEVICE float element(const Planes &w, u64 i) { return f16_value(w.as<u16>(0)[i]); }
};

struct BF16 : Floats {
    using Loaded = u32x4;

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) { return F16::load(w, first, unit); }
    DEVICE Quants unpack(const Loaded &l, u32) {
        Quants q;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const u32 low = l[k / 2], high = l[2 + k / 2];
            q.low[k] = bits<float>(k % 2 ? low & 0xffff0000 : low << 16);
            q.high[k] = bits<float>(k % 2 ? high & 0xffff0000 : high << 16);
        }
        return q;
    }
    DEVICE float element(const Planes &w, u64 i) { return bf16_value(w.as<u16>(0)[i]); }
};

// ---- 16 columns ----

// d * q
struct Q8_0 {
    static constexpr u32 COLS = 16;
    static constexpr float ZERO = 0.0f;
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

    DEVICE u32x4 bytes(const Quants &w, u32) { return w.q; }
    DEVICE Affine affine(const Quants &w, u32) { return {w.d, 0.0f}; }
};

// ---- 32 columns: 0-15 in the low nibbles of the 16 bytes, 16-31 in the high ones ----

struct Columns32 {
    static constexpr u32 COLS = 32;
    static constexpr float ZERO = 0.0f;
    using Input = Input32;

    template <class Quants>
    DEVICE i32 dot32(const Quants &w, const Input &x) {
        i32 sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) sum = dot4(w.high[k], x.high[k], dot4(w.low[k], x.low[k], sum));
        return sum;
    }

    template <class Quants>
    DEVICE u32x4 bytes(const Quants &w, u32 half) {
        return half ? w.high : w.low;
    }
};

// The fifth bits of a unit: bit 8 * b + k of `bits` is that of column 4 * k + b, byte b of word k.
DEVICE u32x4 low_fifths(u32 bits) {
    return u32x4{bits << 4, bits << 3, bits << 2, bits << 1} & 0x10101010;
}
DEVICE u32x4 high_fifths(u32 bits) { return u32x4{bits, bits >> 1, bits >> 2, bits >> 3} & 0x10101010; }

// Quants of 4 bits, plane 0, or of 5, with plane 1. FACTORS: the plane behind them.
template <bool FIFTHS>
struct Nibbles {
    static constexpr int FACTORS = FIFTHS ? 2 : 1;
    u32x4 q;
    u32 fifths;

    DEVICE Nibbles load(const Planes &w, u64 first, u32 unit) {
        return {load_streaming(w.as<u32x4>(0) + first + unit), FIFTHS ? (w.as<u32>(1) + first)[unit] : 0};
    }
    DEVICE u32x4 low(const Nibbles &n) {
        const u32x4 low = n.q & 0x0f0f0f0f;
        return FIFTHS ? low | low_fifths(n.fifths) : low;
    }
    DEVICE u32x4 high(const Nibbles &n) {
        const u32x4 high = n.q >> 4 & 0x0f0f0f0f;
        return FIFTHS ? high | high_fifths(n.fifths) : high;
    }
};

// d * (q - ZERO)
template <bool FIFTHS>
struct Symmetric : Columns32 {
    static constexpr float ZERO = FIFTHS ? 16.0f : 8.0f;
    using Q = Nibbles<FIFTHS>;

    struct Loaded {
        Q q;
        u16 d;
    };
    struct Quants {
        u32x4 low, high;
        float d;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {Q::load(w, first, unit), (w.as<u16>(Q::FACTORS) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) { return {Q::low(l.q), Q::high(l.q), f16_value(l.d)}; }

    DEVICE float dot(const Quants &w, const Input &x) {
        return w.d * fma(x.ds.x, (float)dot32(w, x), -ZERO * x.ds.y);
    }

    DEVICE Affine affine(const Quants &w, u32) { return {w.d, 0.0f}; }
};
struct Q4_0 : Symmetric<false> {};
struct Q5_0 : Symmetric<true> {};

// Each byte of `q`, below 16, replaced by that signed byte of the table.
DEVICE u32 look_up(u32 q, u32x4 table) {
    const u32 at = q & 0x07070707, upper = q >> 3 & 0x01010101, mask = (upper << 8) - upper;
#if defined(__NVPTX__)
    u32 select = at | at >> 4, low, high; // a nibble for each byte
    select = (select & 0xff) | (select >> 8 & 0xff00);
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(low) : "r"(table.x), "r"(table.y), "r"(select));
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(high) : "r"(table.z), "r"(table.w), "r"(select));
#else
    const u32 low = __builtin_amdgcn_perm(table.y, table.x, at), high = __builtin_amdgcn_perm(table.w, table.z, at);
#endif
    return (low & ~mask) | (high & mask);
}
DEVICE u32x4 look_up(u32x4 q, u32x4 table) {
    return {look_up(q.x, table), look_up(q.y, table), look_up(q.z, table), look_up(q.w, table)};
}

// d * value, from a table of 16
struct Table16 : Columns32 {
    struct Quants {
        u32x4 low, high;
        float d;
    };

    DEVICE float dot(const Quants &w, const Input &x) { return w.d * (x.ds.x * (float)dot32(w, x)); }
    DEVICE Affine affine(const Quants &w, u32) { return {w.d, 0.0f}; }
};

struct MXFP4 : Table16 {
    struct Loaded {
        Nibbles<false> q;
        u8 e;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {Nibbles<false>::load(w, first, unit), (w.as<u8>(1) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        // 0 1 2 3 4 6 8 12, then the same negative
        const u32x4 table = {0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc};
        const u32 d = l.e < 2 ? 0x00200000u << l.e : (u32)(l.e - 1) << 23; // the two smallest are subnormal
        return {look_up(Nibbles<false>::low(l.q), table), look_up(Nibbles<false>::high(l.q), table), bits<float>(d)};
    }
};

// Types with a scale and a minimum for the unit.
struct WithMin : Columns32 {
    struct Quants {
        u32x4 low, high;
        float scale, min;
    };

    DEVICE float dot(const Quants &w, const Input &x) {
        return fma(w.scale, x.ds.x * (float)dot32(w, x), -(w.min * x.ds.y));
    }

    DEVICE Affine affine(const Quants &w, u32) { return {w.scale, w.min}; }
};

// d * q + m
template <bool FIFTHS>
struct BlockWithMin : WithMin {
    using Q = Nibbles<FIFTHS>;

    struct Loaded {
        Q q;
        u32 dm;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {Q::load(w, first, unit), (w.as<u32>(Q::FACTORS) + first)[unit]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {Q::low(l.q), Q::high(l.q), f16_value((u16)l.dm), -f16_value((u16)(l.dm >> 16))};
    }
};
struct Q4_1 : BlockWithMin<false> {};
struct Q5_1 : BlockWithMin<true> {};

// d * scale * q - dmin * min: a unit is one of a superblock's 8 groups.
template <bool FIFTHS>
struct SuperblockWithMin : WithMin {
    using Q = Nibbles<FIFTHS>;

    struct Loaded {
        Q q;
        u32x4 dm_scales;
    };

    DEVICE Loaded load(const Planes &w, u64 first, u32 unit) {
        return {Q::load(w, first, unit), load_near(w.as<u32x4>(Q::FACTORS) + first / 8 + unit / 8)};
    }

    // d, dmin and 12 bytes. Words 1 and 2: scales and minima of groups 0-3 in 6 bits of each byte, and the high 2 bits of
    // those of groups 4-7 in the others; word 3: the low 4 bits of scale and minimum of groups 4-7.
    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        const u32x4 low = Q::low(l.q), high = Q::high(l.q);
        const bool first = unit % 8 < 4;
        const u32 at = unit % 4 * 8, shift = first ? at : at + 2;
        const u32 own = first ? 0x3f : 0x30, rest = first ? 0 : 0x0f;
        const u32x4 s = l.dm_scales;
        const u32 scale = (s.y >> shift & own) | (s.w >> at & rest);
        const u32 min = (s.z >> shift & own) | (s.w >> (at + 4) & rest);
        const float d = f16_value((u16)s.x), dmin = f16_value((u16)(s.x >> 16));
        return {low, high, d * (float)scale, dmin * (float)min};
    }
};
struct Q4_K : SuperblockWithMin<false> {};
struct Q5_K : SuperblockWithMin<true> {};

// ---- The types below have groups of 16: a unit is two of a superblock's 16 ----

// Pairs of bits of a unit: byte i of 8 has those of columns i, i + 8, i + 16 and i + 24, here in bits 4 and 5 of each.
DEVICE u32x4 low_pairs(u32x2 q) { return u32x4{q.x << 4, q.y << 4, q.x << 2, q.y << 2} & 0x30303030; }
DEVICE u32x4 high_pairs(u32x2 q) { return u32x4{q.x, q.y, q.x >> 2, q.y >> 2} & 0x30303030; }

// d * scale * q - dmin * min; scale in the low nibble of a group's byte, minimum in the high one.
struct Q2_K : Columns32 {
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

    DEVICE Affine affine(const Quants &w, u32 half) {
        const u32 scales = w.scales >> (half * 8);
        return {w.d * (float)(scales & 15), w.dmin * (float)(scales >> 4 & 15)};
    }
};

// Two signed scales.
struct Scaled16 : Columns32 {
    struct Quants {
        u32x4 low, high;
        i32 low_scale, high_scale;
        float d;
    };

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 low = 0, high = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            low = dot4(w.low[k], x.low[k], low);
            high = dot4(w.high[k], x.high[k], high);
        }
        return w.d * (x.ds.x * (float)(w.low_scale * low + w.high_scale * high));
    }

    DEVICE Affine affine(const Quants &w, u32 half) {
        return {w.d * (float)(half ? w.high_scale : w.low_scale), 0.0f};
    }
};

// d * (scale - 32) * (q - 4)
struct Q3_K : Scaled16 {
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
};

// d * scale * (q - 32)
struct Q6_K : Scaled16 {
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
};

#define CHECK(Type, name) static_assert(Type::COLS == blocks::unit_cols<blocks::Type>());
QUANTIZED_TYPES(CHECK)
#undef CHECK

} // namespace units
