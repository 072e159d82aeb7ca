// Quantized matrix times up to 8 vectors: dst[t][r] = dot(w[r], x[t]) + bias[r].
//
// A team of 32 lanes walks a row in units of 16 bytes of quants a lane, so that it reads 512 bytes at a time. It
// takes ROWS rows at once: their loads are under way together, and the vector's quants, which come from the near
// caches, are read once for all. Where rows are too few to fill the GPU, 2 or 4 teams share a row.
#include "device.hpp"

namespace matvec {

constexpr u32 THREADS = 128, TEAM = 32, TEAMS = THREADS / TEAM;

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
};

// A team's number is the same in all lanes of a wave of 32, which spares registers.
DEVICE u32 team_index() { return LANES == TEAM ? uniform(thread_x() / TEAM) : thread_x() / TEAM; }

// ROWS rows a team, N tokens; `sharing`, 1, 2 or 4: teams that share a row.
template <class W, u32 ROWS, u32 N>
DEVICE void multiply(const Planes &w, const u8 *q, const f32x2 *ds, const float *bias, float *dst, u32 rows, u32 cols,
                     u32 n, u32 sharing) {
    constexpr u32 SUMS = ROWS * N;
    const u32 units = cols / W::COLS, log2 = sharing / 2;
    const u32 team = team_index(), share = team & (sharing - 1), lane = thread_x() % TEAM;
    const u32 row0 = ((group_x() * TEAMS + team) >> log2) * ROWS;

    // Rows and tokens past the last repeat it; they are not stored.
    u64 first_unit[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) first_unit[r] = (u64)min(row0 + r, rows - 1) * units;

    float sums[SUMS] = {};
    for (u32 unit = share * TEAM + lane; unit < units; unit += sharing * TEAM) {
        typename W::Loaded loaded[ROWS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) loaded[r] = W::load(w, first_unit[r], unit);
        auto input = W::Input::load(q, ds, unit);
        typename W::Quants quants[ROWS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) quants[r] = W::unpack(loaded[r], unit);
#pragma unroll
        for (u32 t = 0; t < N; t++) {
            if (t > 0) {
                const u32 token = min(t, n - 1);
                input = W::Input::load(q + (u64)token * cols, ds + (u64)token * (cols / 32), unit);
            }
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) sums[r * N + t] += W::dot(quants[r], input);
        }
    }

    // Of each run of TEAM / SUMS lanes the first gets sum number `part`.
    const u32 part = lane / (TEAM / SUMS);
    float sum = lanes_sum_each<TEAM, SUMS>(sums);
    if (sharing > 1) {
        SHARED float parts[TEAMS][SUMS];
        if (lane % (TEAM / SUMS) == 0) parts[team][part] = sum;
        barrier();
        if (share > 0) return;
#pragma unroll 1
        for (u32 other = 1; other < sharing; other++) sum += parts[team + other][part];
    }
    const u32 row = row0 + part / N, token = part % N;
    if (lane % (TEAM / SUMS) == 0 && row < rows && token < n) {
        dst[(u64)token * rows + row] = bias ? sum + bias[row] : sum;
    }
}

#define MATVEC(name, Type, ROWS, N, WAVES)                                                                            \
    KERNEL(128, WAVES) void matvec_##name##_n##N(Planes w, const u8 *q, const f32x2 *ds, const float *bias,           \
                                                 float *dst, u32 rows, u32 cols, u32 n, u32 sharing) {                \
        multiply<Type, ROWS, N>(w, q, ds, bias, dst, rows, cols, n, sharing);                                         \
    }

// The rows of a team as in `matvec_teams`, kernels.rs.
#define MATVECS(name, Type)                                                                                           \
    MATVEC(name, Type, 2, 1, 3)                                                                                       \
    MATVEC(name, Type, 4, 2, 2)                                                                                       \
    MATVEC(name, Type, 4, 4, 2)                                                                                       \
    MATVEC(name, Type, 2, 8, 2)

MATVECS(q8_0, Q8_0)
MATVECS(q4_0, Q4_0)
MATVECS(q4_k, Q4_K)
MATVECS(q6_k, Q6_K)

} // namespace matvec
