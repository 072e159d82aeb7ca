// Matrix times matrix by f16 matrix tiles: dst[t][r] = scale[t] * dot(w[r], x[t]) + bias[r] (+ dst[t][r]). Of a mixture's
// weights each expert's with the rows of its (token, expert) pairs, which sort_pairs (experts.hip) has brought in order.
//
// A group makes SIDE tokens by SIDE rows, 32 columns at a time through LDS: x is f16 already (half_rows.hip), weights
// become f16 on their way. While a step is multiplied the next one is under way to registers. Where SIDE is 64, for
// products too small to fill a GPU otherwise, the group's two halves take every other step each, and their sums are
// added at the end. Tokens are the tiles' rows, so that neighbouring lanes store neighbouring rows of the weight.
#include "units.hpp"

namespace matmul {

constexpr u32 THREADS = 256, STEP = 32, STRIDE = STEP + 8;

// Two buffers spare a barrier per step, but on GPUs with 64 KB of LDS for all of a CU's groups room for more groups is
// better.
constexpr u32 BUFFERS = LANES == 64 ? 1 : 2;

// Pairs in the order of their experts, the place of each taking that of a token: its row of x, and its number, which is
// its row of dst and of scale. A tile of the grid's x is (expert, first place, last place + 1); null: no experts. An
// expert's rows and biases follow those of the one before; scale: f32 an expert, or null.
struct Sorted {
    const u32x4 *tiles;
    const u32 *x_rows, *pairs;
    const float *scale;
};

// What there is to do, as the host states it.
struct Product {
    Planes w;
    const f16 *x;
    const float *scale, *bias;
    float *dst;
    u32 rows, cols, n, add;
    Sorted sorted;
};

// ---- Weights: a thread takes half a step of one row ----
//
//   Loaded     what it loads of columns col0 + 16 * half and following
//   store      the same as f16, to LDS

// scale * q - min of 16 signed bytes.
DEVICE void store_quants(u32x4 q, float scale, float min, f16 *to) {
    u32x4 low, high;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const f32x4 v = signed_bytes(q[k]);
        u32x4 &out = k < 2 ? low : high;
        out[k % 2 * 2] = f16_pair(fma(scale, v.x, -min), fma(scale, v.y, -min));
        out[k % 2 * 2 + 1] = f16_pair(fma(scale, v.z, -min), fma(scale, v.w, -min));
    }
    *(u32x4 *)to = low;
    *(u32x4 *)(to + 8) = high;
}

// RAGGED: of float types, rows need not be a multiple of 8 values.
template <class U, bool RAGGED>
struct Weights {
    using Loaded = typename U::Loaded;

    DEVICE u32 unit(u32 col0, u32 half) { return U::COLS == 16 ? col0 / 16 + half : col0 / 32; }

    DEVICE Loaded load(const Planes &w, u32 row, u32 cols, u32 col0, u32 half) {
        return U::load(w, (u64)row * (cols / U::COLS), unit(col0, half));
    }

    DEVICE void store(const Loaded &loaded, u32 col0, u32 half, f16 *to) {
        const auto w = U::unpack(loaded, unit(col0, half));
        const units::Affine factors = U::affine(w, half);
        const float min = U::ZERO == 0.0f ? factors.min : U::ZERO * factors.scale;
        store_quants(U::bytes(w, half), factors.scale, min, to);
    }
};

// 16 values of T, zeros beyond the last column, as words; loaded by 16 bytes if rows are a multiple of 8 values, as they
// must be unless RAGGED.
template <class T, bool RAGGED>
struct Values {
    static constexpr u32 WORDS = 4 * sizeof(T), PER_WORD = 4 / sizeof(T);
    u32 words[WORDS];

    DEVICE Values load(const T *row, u32 cols, u32 col) {
        Values values;
        if (!RAGGED || cols % 8 == 0) {
#pragma unroll
            for (u32 i = 0; i < WORDS; i += 4) {
                const u32 first = col + i * PER_WORD;
                const u32x4 run = first < cols ? load_near(row + first) : u32x4(0);
#pragma unroll
                for (u32 k = 0; k < 4; k++) values.words[i + k] = run[k];
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < WORDS; i++) {
                values.words[i] = 0;
#pragma unroll
                for (u32 k = 0; k < PER_WORD; k++) {
                    const u32 at = col + i * PER_WORD + k;
                    if (at < cols) values.words[i] |= (u32)row[at] << (k * 8 * sizeof(T));
                }
            }
        }
        return values;
    }

    // pair(k): values 2k and 2k + 1 as f16
    template <class Pair>
    DEVICE void store(f16 *to, Pair pair) {
#pragma unroll
        for (u32 i = 0; i < 16; i += 8) {
            *(u32x4 *)(to + i) = u32x4{pair(i / 2), pair(i / 2 + 1), pair(i / 2 + 2), pair(i / 2 + 3)};
        }
    }
};

template <bool RAGGED>
struct Weights<units::F32, RAGGED> {
    using Loaded = Values<u32, true>;

    DEVICE Loaded load(const Planes &w, u32 row, u32 cols, u32 col0, u32 half) {
        return Loaded::load(w.as<u32>(0) + (u64)row * cols, cols, col0 + half * 16);
    }
    DEVICE void store(const Loaded &v, u32, u32, f16 *to) {
        Loaded::store(to, [&](u32 k) {
            return f16_pair(bits<float>(v.words[2 * k]), bits<float>(v.words[2 * k + 1]));
        });
    }
};

template <bool RAGGED>
struct Weights<units::BF16, RAGGED> {
    using Loaded = Values<u16, RAGGED>;

    DEVICE Loaded load(const Planes &w, u32 row, u32 cols, u32 col0, u32 half) {
        return Loaded::load(w.as<u16>(0) + (u64)row * cols, cols, col0 + half * 16);
    }
    DEVICE void store(const Loaded &v, u32, u32, f16 *to) {
        Loaded::store(to, [&](u32 k) {
            return f16_pair(bits<float>(v.words[k] << 16), bits<float>(v.words[k] & 0xffff0000));
        });
    }
};

template <bool RAGGED>
struct Weights<units::F16, RAGGED> {
    using Loaded = Values<u16, RAGGED>;

    DEVICE Loaded load(const Planes &w, u32 row, u32 cols, u32 col0, u32 half) {
        return Weights<units::BF16, RAGGED>::load(w, row, cols, col0, half);
    }
    DEVICE void store(const Loaded &v, u32, u32, f16 *to) {
        Loaded::store(to, [&](u32 k) { return v.words[k]; });
    }
};

// ---- The product ----

// SIDE 128: all threads work on one tile of 128 x 128; 64: two halves of the group, PARTS, on one of 64 x 64.
template <u32 SIDE>
struct Shape {
    static constexpr u32 TEAM = 2 * SIDE, PARTS = THREADS / TEAM, WAVES = TEAM / LANES;
    // How a part's waves divide the tile, and how many tiles of 16 x 16 each then has.
    static constexpr u32 ROW_WAVES = WAVES == 8 ? 4 : 2, TOKEN_WAVES = WAVES / ROW_WAVES;
    static constexpr u32 ROW_TILES = SIDE / 16 / ROW_WAVES, TOKEN_TILES = SIDE / 16 / TOKEN_WAVES;
    static constexpr u32 BUFFER = 2 * SIDE * STRIDE; // f16 of a step: rows, then tokens
    static constexpr u32 SUMS = ROW_TILES * TOKEN_TILES * TileC::SIZE;
};

template <class W, u32 SIDE>
DEVICE void multiply(const Product &p) {
    using S = Shape<SIDE>;
    SHARED __attribute__((aligned(16))) f16 tiles[S::PARTS * BUFFERS * S::BUFFER];
    static_assert(S::PARTS == 1 || sizeof(tiles) >= S::SUMS * S::TEAM * sizeof(float));

    u32 first = group_x() * SIDE, end = p.n, expert = 0;
    if (p.sorted.tiles) {
        const u32x4 tile = p.sorted.tiles[group_x()];
        expert = uniform(tile.x), first = uniform(tile.y), end = uniform(tile.z);
        if (first >= end) return;
    }
    const u32 first_row = expert * p.rows;

    const u32 part = S::PARTS > 1 ? uniform(thread_x() / S::TEAM) : 0, thread = thread_x() % S::TEAM;
    const u32 wave = uniform(thread / LANES);
    const u32 token_tile0 = wave / S::ROW_WAVES * S::TOKEN_TILES, row_tile0 = wave % S::ROW_WAVES * S::ROW_TILES;
    f16 *own = tiles + part * (BUFFERS * S::BUFFER);

    // Lanes 0-7 take rows 0-7, 8-15 their other halves, and so on: no two of eight lanes that store 16 bytes meet in a
    // bank, and a row's halves are loaded together. Rows and tokens past the last repeat it.
    const u32 w_line = thread / 32 * 16 + thread % 32 / 16 * 8 + thread % 8, half = thread / 8 % 2;
    const u32 row = first_row + min(group_y() * SIDE + w_line, p.rows - 1);
    const u32 x_line = thread / 32 * 8 + thread % 8, run = thread % 32 / 8 * 8;
    const u64 x_stride = (p.cols + STEP - 1) / STEP * STEP;
    const f16 *x[2];
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
        const u32 place = min(first + x_line + k * (SIDE / 2), end - 1);
        x[k] = p.x + (p.sorted.tiles ? p.sorted.x_rows[place] : place) * x_stride + run;
    }

    typename W::Loaded w_next;
    u32x4 x_next[2];
    const auto x_place = [&](u32 buffer, u32 k) {
        return own + buffer * S::BUFFER + (SIDE + x_line + k * (SIDE / 2)) * STRIDE + run;
    };
    const auto fetch = [&](u32 col0, u32 buffer) {
        if (col0 >= p.cols) return;
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            if constexpr (COPIES_TO_LDS) {
                copy_to_lds(x_place(buffer, k), x[k] + col0);
            } else {
                x_next[k] = load_near(x[k] + col0);
            }
        }
        w_next = W::load(p.w, row, p.cols, col0, half);
    };

    TileF16::C sum[S::TOKEN_TILES][S::ROW_TILES] = {};
    u32 buffer = 0;
    fetch(part * STEP, buffer);
    for (u32 start = 0; start < p.cols; start += S::PARTS * STEP) {
        const u32 col0 = start + part * STEP;
        f16 *w_tile = own + buffer * S::BUFFER, *x_tile = w_tile + SIDE * STRIDE;
        if (BUFFERS == 1) barrier();
        if (col0 < p.cols) {
            W::store(w_next, col0, half, w_tile + w_line * STRIDE + half * 16);
            if constexpr (!COPIES_TO_LDS) {
#pragma unroll
                for (u32 k = 0; k < 2; k++) *(u32x4 *)x_place(buffer, k) = x_next[k];
            }
        }
        copies_to_lds_done();
        barrier();
        if (col0 >= p.cols) break; // the last step, which only the other part has
        if (BUFFERS > 1) buffer ^= 1;
        fetch(col0 + S::PARTS * STEP, buffer);
#pragma unroll
        for (u32 k = 0; k < STEP; k += 16) {
            TileF16::B b[S::ROW_TILES];
#pragma unroll
            for (u32 j = 0; j < S::ROW_TILES; j++) {
                b[j] = TileF16::load_b(w_tile + (row_tile0 + j) * 16 * STRIDE + k, STRIDE);
            }
#pragma unroll
            for (u32 i = 0; i < S::TOKEN_TILES; i++) {
                const auto a = TileF16::load_a(x_tile + (token_tile0 + i) * 16 * STRIDE + k, STRIDE);
#pragma unroll
                for (u32 j = 0; j < S::ROW_TILES; j++) sum[i][j] = TileF16::multiply(a, b[j], sum[i][j]);
            }
        }
    }

    if constexpr (S::PARTS > 1) {
        float *sums = (float *)tiles;
        barrier();
        if (part > 0) {
#pragma unroll
            for (u32 i = 0; i < S::SUMS; i++) {
                const u32 tile = i / TileC::SIZE;
                sums[i * S::TEAM + thread] = sum[tile / S::ROW_TILES][tile % S::ROW_TILES][i % TileC::SIZE];
            }
        }
        barrier();
        if (part > 0) return;
#pragma unroll
        for (u32 i = 0; i < S::SUMS; i++) {
            const u32 tile = i / TileC::SIZE;
            sum[tile / S::ROW_TILES][tile % S::ROW_TILES][i % TileC::SIZE] += sums[i * S::TEAM + thread];
        }
    }

    const float *bias = p.bias ? p.bias + first_row : nullptr;
    const float factor = p.sorted.scale ? p.sorted.scale[expert] : 1.0f;
#pragma unroll
    for (u32 i = 0; i < S::TOKEN_TILES; i++) {
        const auto place = [&](u32 e) { return first + (token_tile0 + i) * 16 + TileC::row(e); };
        // a place beyond the last has none
        u32 tokens[TileC::SIZE];
#pragma unroll
        for (u32 e = 0; e < TileC::SIZE; e++) tokens[e] = place(e);
        if (p.sorted.tiles) {
#pragma unroll
            for (u32 e = 0; e < TileC::SIZE; e++) tokens[e] = p.sorted.pairs[min(place(e), end - 1)];
        }
        // f(sum, token, row) for each that there is
        const auto each = [&](auto f) {
#pragma unroll
            for (u32 e = 0; e < TileC::SIZE; e++) {
#pragma unroll
                for (u32 j = 0; j < S::ROW_TILES; j++) {
                    const u32 r = group_y() * SIDE + (row_tile0 + j) * 16 + TileC::col(e);
                    if (place(e) < end && r < p.rows) sum[i][j][e] = f(sum[i][j][e], tokens[e], r);
                }
            }
        };
        each([&](float v, u32 token, u32) { return v * (p.scale[token] * factor); });
        if (bias) each([&](float v, u32, u32 r) { return v + bias[r]; });
        if (p.add) each([&](float v, u32 token, u32 r) { return v + p.dst[(u64)token * p.rows + r]; });
        each([&](float v, u32 token, u32 r) { return p.dst[(u64)token * p.rows + r] = v; });
    }
}

#define MATMUL(name, SIDE, ...)                                                                                       \
    KERNEL(256, 2) void matmul_##name##_##SIDE(Planes w, const f16 *x, const float *scale, const float *bias,         \
                                               float *dst, u32 rows, u32 cols, u32 n, u32 add, Sorted sorted) {       \
        multiply<Weights<__VA_ARGS__>, SIDE>({w, x, scale, bias, dst, rows, cols, n, add, sorted});                   \
    }
#define MATMUL_64(Type, name) MATMUL(name, 64, units::Type, true)
#define MATMUL_128(Type, name) MATMUL(name, 128, units::Type, false)
TYPES(MATMUL_64)
HALF_TYPES(MATMUL_128) // a large tile of F32 would take too many registers
QUANTIZED_TYPES(MATMUL_128)

} // namespace matmul
