// Quantized matrix times up to 8 vectors: dst[t][r] = dot(w[r], x[t]) + bias[r].
//
// A team of 32 lanes walks a row in units of 16 bytes of quants a lane, so that a team reads 512 bytes at a time.
// Long rows are shared by 2 or 4 teams; a team takes ROWS rows at once: their loads are under way together, and
// the vector's quants, which come from the near caches, are read once for all.
#include "device.hpp"

namespace matvec {

constexpr u32 THREADS = 128, TEAM = 32, TEAMS = THREADS / TEAM;

// A type's part, for one unit of a row. The first plane is that of the unit's 16 bytes.
// COLS: columns of a unit, in one run of 32, or in two runs of 16.
//   Loaded         what a lane loads from the weight
//   Quants         that, with the integer quants as signed bytes, and factors
//   Input          the vector's quants and (d, d * sum) for the same columns

struct Q8_0 {
    static constexpr u32 COLS = 16;

    struct Loaded {
        u32x4 q;
        u16 d;
    };
    struct Quants {
        u32x4 q;
        float d;
    };
    struct Input {
        u32x4 q;
        float d;
    };

    DEVICE Loaded load(const Planes &w, u64 i, u32) {
        return {load_streaming(w.as<u32x4>(0) + i), w.as<u16>(1)[i / 2]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) { return {l.q, f16_value(l.d)}; }

    DEVICE Input input(const u8 *q, const f32x2 *ds, u32 unit) {
        return {((const u32x4 *)q)[unit], ds[unit / 2].x};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) sum = dot4(w.q[k], x.q[k], sum);
        return w.d * (x.d * (float)sum);
    }
};

// d * (q - 8): low nibbles are columns 0-15, high nibbles 16-31.
struct Q4_0 {
    static constexpr u32 COLS = 32;

    struct Loaded {
        u32x4 q;
        u16 d;
    };
    struct Quants {
        u32x4 low, high;
        float d;
    };
    struct Input {
        u32x4 low, high;
        f32x2 ds;
    };

    DEVICE Loaded load(const Planes &w, u64 i, u32) {
        return {load_streaming(w.as<u32x4>(0) + i), w.as<u16>(1)[i]};
    }

    DEVICE Quants unpack(const Loaded &l, u32) {
        return {l.q & 0x0f0f0f0f, l.q >> 4 & 0x0f0f0f0f, f16_value(l.d)};
    }

    DEVICE Input input(const u8 *q, const f32x2 *ds, u32 unit) {
        const u32x4 *x = (const u32x4 *)q + unit * 2;
        return {x[0], x[1], ds[unit]};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) sum = dot4(w.high[k], x.high[k], dot4(w.low[k], x.low[k], sum));
        return w.d * fma(x.ds.x, (float)sum, -8.0f * x.ds.y);
    }
};

// d * scale * q - dmin * min: a unit's low nibbles are half of group 2p, its high nibbles half of group 2p + 1,
// p = unit % 8 / 2. The minimum counts once a group: for 2p in the even unit, for 2p + 1 in the odd one.
struct Q4_K {
    static constexpr u32 COLS = 32;

    struct Loaded {
        u32x4 q, dm_scales;
    };
    struct Quants {
        u32x4 low, high;
        float low_scale, high_scale, min;
    };
    struct Input {
        u32x4 low, high;
        float low_d, high_d, d_sum;
    };

    DEVICE Loaded load(const Planes &w, u64 i, u32) {
        return {load_streaming(w.as<u32x4>(0) + i), w.as<u32x4>(1)[i / 8]};
    }

    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        // Groups 2p and 2p + 1 in 16 bits each of: scales of 0-3, minima of 0-3, the rest of 4-7 (see dequant.rs).
        const u32 shift = unit % 4 / 2 * 16;
        const u32 a = l.dm_scales.y >> shift, b = l.dm_scales.z >> shift, c = l.dm_scales.w >> shift;
        const bool first = unit % 8 < 4;
        const u32 scales = first ? a & 0x3f3f : (c & 0x0f0f) | (a >> 2 & 0x3030);
        const u32 mins = first ? b & 0x3f3f : (c >> 4 & 0x0f0f) | (b >> 2 & 0x3030);
        const float d = f16_value((u16)l.dm_scales.x), dmin = f16_value((u16)(l.dm_scales.x >> 16));
        const u32 min = mins >> (unit % 2 * 8) & 255;
        return {l.q & 0x0f0f0f0f,          l.q >> 4 & 0x0f0f0f0f, d * (float)(scales & 255),
                d * (float)(scales >> 8 & 255), dmin * (float)min};
    }

    DEVICE Input input(const u8 *q, const f32x2 *ds, u32 unit) {
        const u32x4 *x = (const u32x4 *)q + (unit / 2 * 4 + unit % 2); // 64 columns for two units
        const f32x4 factors = *(const f32x4 *)(ds + unit / 2 * 2);
        return {x[0], x[2], factors.x, factors.z, unit % 2 ? factors.w : factors.y};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 low = 0, high = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            low = dot4(w.low[k], x.low[k], low);
            high = dot4(w.high[k], x.high[k], high);
        }
        const float sum = fma(w.low_scale, x.low_d * (float)low, w.high_scale * (x.high_d * (float)high));
        return fma(-w.min, x.d_sum, sum);
    }
};

// d * scale * (q - 32): a unit's low nibbles are group g of 16 columns, its high nibbles group g + 4,
// g = unit / 4 % 2 * 8 + unit % 4; their high bits lie in 16 bytes of qh that unit and unit ^ 2 share.
struct Q6_K {
    static constexpr u32 COLS = 32;

    struct Loaded {
        u32x4 ql, qh;
        i8 low_scale, high_scale;
        u16 d;
    };
    struct Quants {
        u32x4 low, high;
        float low_scale, high_scale;
    };
    struct Input {
        u32x4 low, high;
        float low_d, high_d;
    };

    DEVICE Loaded load(const Planes &w, u64 i, u32) {
        const i8 *scales = w.as<i8>(2) + (i / 4 * 8 + i % 4);
        return {load_streaming(w.as<u32x4>(0) + i), w.as<u32x4>(1)[i / 4 * 2 + i % 2], scales[0], scales[4],
                w.as<u16>(3)[i / 8]};
    }

    // q - 32 as signed bytes, of q in 0..64: no byte carries into the next.
    DEVICE u32x4 less_32(u32x4 q) { return (q + 0x60606060) ^ 0x80808080; }

    DEVICE Quants unpack(const Loaded &l, u32 unit) {
        const u32x4 pairs = l.qh >> (unit % 4 / 2 * 2);
        const float d = f16_value(l.d);
        return {less_32((l.ql & 0x0f0f0f0f) | (pairs << 4 & 0x30303030)),
                less_32((l.ql >> 4 & 0x0f0f0f0f) | (pairs & 0x30303030)), d * (float)l.low_scale,
                d * (float)l.high_scale};
    }

    DEVICE Input input(const u8 *q, const f32x2 *ds, u32 unit) {
        const u32x4 *x = (const u32x4 *)q + (unit / 4 * 8 + unit % 4); // 128 columns for four units
        const f32x2 *d = ds + (unit / 4 * 4 + unit % 4 / 2);
        return {x[0], x[4], d[0].x, d[2].x};
    }

    DEVICE float dot(const Quants &w, const Input &x) {
        i32 low = 0, high = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            low = dot4(w.low[k], x.low[k], low);
            high = dot4(w.high[k], x.high[k], high);
        }
        return fma(w.low_scale, x.low_d * (float)low, w.high_scale * (x.high_d * (float)high));
    }
};

// Teams that share a row: enough for all its units at once, 4 at most. `matvec_rows` in kernels.rs says the same.
DEVICE u32 teams_of_row(u32 units) { return units > 2 * TEAM ? 4 : units > TEAM ? 2 : 1; }

// ROWS rows a team, N tokens, STEPS units of each row at a time.
template <class W, u32 ROWS, u32 N, u32 STEPS>
DEVICE void multiply(const Planes &w, const u8 *q, const f32x2 *ds, const float *bias, float *dst, u32 rows, u32 cols,
                   u32 n) {
    const u32 units = cols / W::COLS, sharing = teams_of_row(units), stride = sharing * TEAM;
    const u32 team = thread_x() / TEAM, lane = thread_x() % TEAM;
    const u32 row0 = (group_x() * (TEAMS / sharing) + team / sharing) * ROWS;

    // Rows and tokens past the last repeat it; they are not stored.
    u64 first_unit[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) first_unit[r] = (u64)min(row0 + r, rows - 1) * units;

    float sum[ROWS][N] = {};
    for (u32 base = 0; base < units; base += stride * STEPS) {
        typename W::Loaded loaded[STEPS][ROWS];
        u32 unit[STEPS];
        bool inside[STEPS];
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            const u32 own = base + s * stride + team % sharing * TEAM + lane;
            inside[s] = own < units;
            unit[s] = min(own, units - 1);
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) loaded[s][r] = W::load(w, first_unit[r] + unit[s], unit[s]);
        }
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            typename W::Quants quants[ROWS];
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) quants[r] = W::unpack(loaded[s][r], unit[s]);
#pragma unroll
            for (u32 t = 0; t < N; t++) {
                const u64 token = N == 1 ? 0 : min(t, n - 1);
                const auto input = W::input(q + token * cols, ds + token * (cols / 32), unit[s]);
#pragma unroll
                for (u32 r = 0; r < ROWS; r++) sum[r][t] += inside[s] ? W::dot(quants[r], input) : 0.0f;
            }
        }
    }

    SHARED float parts[TEAMS][ROWS * N];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
#pragma unroll
        for (u32 t = 0; t < N; t++) {
            const float all = lanes_sum<TEAM>(sum[r][t]);
            if (lane == 0) parts[team][r * N + t] = all;
        }
    }
    barrier();
    const u32 first_team = thread_x() / (ROWS * N) * sharing, part = thread_x() % (ROWS * N);
    if (first_team >= TEAMS) return;
    const u32 row = (group_x() * TEAMS + first_team) / sharing * ROWS + part / N, token = part % N;
    if (row >= rows || token >= n) return;
    float all = bias ? bias[row] : 0.0f;
    for (u32 s = 0; s < sharing; s++) all += parts[first_team + s][part];
    dst[(u64)token * rows + row] = all;
}

#define MATVEC(name, Type, ROWS, N, STEPS, WAVES)                                                                            \
    KERNEL(128, WAVES) void matvec_##name##_n##N(Planes w, const u8 *q, const f32x2 *ds, const float *bias, float *dst,      \
                                          u32 rows, u32 cols, u32 n) {                                                \
        multiply<Type, ROWS, N, STEPS>(w, q, ds, bias, dst, rows, cols, n);                                             \
    }

#define MATVECS(name, Type)                                                                                           \
    MATVEC(name, Type, 2, 1, 1, 4)                                                                                    \
    MATVEC(name, Type, 2, 2, 1, 4)                                                                                    \
    MATVEC(name, Type, 2, 4, 1, 3)                                                                                    \
    MATVEC(name, Type, 2, 8, 1, 2)

MATVECS(q8_0, Q8_0)
MATVECS(q4_0, Q4_0)
MATVECS(q4_k, Q4_K)
MATVECS(q6_k, Q6_K)

} // namespace matvec
