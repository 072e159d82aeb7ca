// Matrix times matrix by matrix tiles: dst[t][r] = dot(w[r], x[t]) + bias[r].
//
// A group makes 64 tokens by 64 rows; its waves make 32 rows each of LANES tokens. Columns are taken 32 at a time
// through LDS; the next 32 are under way to registers while these are multiplied. Tokens are the tiles' rows, so
// that neighbouring lanes store neighbouring rows of the weight.
#include "device.hpp"

namespace matmul {

constexpr u32 THREADS = 128, SIDE = 64, STEP = 32;

// The wave's part of the 64x64: TOKEN_TILES x ROW_TILES tiles.
constexpr u32 TOKEN_TILES = LANES / 16, ROW_TILES = 2;

struct Wave {
    u32 token0, row0;
};

DEVICE Wave wave() {
    const u32 index = thread_x() / LANES;
    return {index / 2 * LANES % SIDE, index % 2 * (ROW_TILES * 16)};
}

// The products of one step: tokens in `x`, rows in `w`, both k inner, `stride` elements apart.
template <class Tile, class T, class Use>
DEVICE void multiply(const T *w, const T *x, u32 stride, Wave own, Use use) {
    typename Tile::B b[ROW_TILES];
#pragma unroll
    for (u32 j = 0; j < ROW_TILES; j++) b[j] = Tile::load_b(w + (own.row0 + j * 16) * stride, stride);
#pragma unroll
    for (u32 i = 0; i < TOKEN_TILES; i++) {
        const auto a = Tile::load_a(x + (own.token0 + i * 16) * stride, stride);
#pragma unroll
        for (u32 j = 0; j < ROW_TILES; j++) use(i, j, a, b[j]);
    }
}

DEVICE void store(const TileF16::C (&sum)[TOKEN_TILES][ROW_TILES], Wave own, const float *bias, float *dst, u32 rows,
                  u32 n) {
#pragma unroll
    for (u32 j = 0; j < ROW_TILES; j++) {
#pragma unroll
        for (u32 e = 0; e < TileC::SIZE; e++) {
            const u32 row = group_x() * SIDE + own.row0 + j * 16 + TileC::col(e);
            if (row >= rows) continue;
            const float add = bias ? bias[row] : 0.0f;
#pragma unroll
            for (u32 i = 0; i < TOKEN_TILES; i++) {
                const u32 token = group_y() * SIDE + own.token0 + i * 16 + TileC::row(e);
                if (token < n) dst[(u64)token * rows + row] = sum[i][j][e] + add;
            }
        }
    }
}

// cols: a multiple of 8.
KERNEL(128, 2) void matmul_f16(const f16 *w, const f16 *x, const float *bias, float *dst, u32 rows, u32 cols, u32 n) {
    constexpr u32 STRIDE = STEP + 8, RUN = 8, RUNS = STEP / RUN, LOADS = SIDE * RUNS / THREADS;
    SHARED __attribute__((aligned(16))) f16 w_tile[SIDE * STRIDE], x_tile[SIDE * STRIDE];
    const Wave own = wave();
    TileF16::C sum[TOKEN_TILES][ROW_TILES] = {};
    u32x4 w_next[LOADS], x_next[LOADS];

    const auto fetch = [&](u32 col0) {
#pragma unroll
        for (u32 k = 0; k < LOADS; k++) {
            const u32 run = k * THREADS + thread_x(), line = run / RUNS, col = col0 + run % RUNS * RUN;
            const u32 row = min(group_x() * SIDE + line, rows - 1), token = min(group_y() * SIDE + line, n - 1);
            w_next[k] = col < cols ? load<u32x4>(w + (u64)row * cols + col) : u32x4(0);
            x_next[k] = col < cols ? load<u32x4>(x + (u64)token * cols + col) : u32x4(0);
        }
    };

    fetch(0);
    for (u32 col0 = 0; col0 < cols; col0 += STEP) {
        barrier();
#pragma unroll
        for (u32 k = 0; k < LOADS; k++) {
            const u32 run = k * THREADS + thread_x(), at = run / RUNS * STRIDE + run % RUNS * RUN;
            *(u32x4 *)(w_tile + at) = w_next[k];
            *(u32x4 *)(x_tile + at) = x_next[k];
        }
        barrier();
        fetch(col0 + STEP);
#pragma unroll
        for (u32 k = 0; k < STEP; k += 16) {
            multiply<TileF16>(w_tile + k, x_tile + k, STRIDE, own, [&](u32 i, u32 j, TileF16::A a, TileF16::B b) {
                sum[i][j] = TileF16::multiply(a, b, sum[i][j]);
            });
        }
    }
    store(sum, own, bias, dst, rows, n);
}

// A step is a block of Q8_0 and a block of the quantized tokens.
KERNEL(128, 2) void matmul_q8_0(Planes w, const i8 *q, const f32x2 *ds, const float *bias, float *dst, u32 rows,
                                u32 cols, u32 n) {
    constexpr u32 STRIDE = STEP + 16, RUN = 16;
    SHARED __attribute__((aligned(16))) i8 w_tile[SIDE * STRIDE], x_tile[SIDE * STRIDE];
    SHARED float factors[2 * SIDE]; // d of the rows, then of the tokens
    const Wave own = wave();
    const u32 blocks = cols / 32;
    TileF16::C sum[TOKEN_TILES][ROW_TILES] = {};
    u32x4 w_next, x_next;
    float factor_next;

    // Two threads a row and a token: 16 bytes of each; the first takes the row's d, the second the token's.
    const u32 line = thread_x() / 2, half = thread_x() % 2;
    const u64 row = (u64)min(group_x() * SIDE + line, rows - 1) * blocks;
    const u64 token = (u64)min(group_y() * SIDE + line, n - 1) * blocks;
    const auto fetch = [&](u32 block) {
        if (block >= blocks) return;
        w_next = load<u32x4>(w.as<i8>(0) + (row + block) * 32 + half * RUN);
        x_next = load<u32x4>(q + (token + block) * 32 + half * RUN);
        factor_next = half ? ds[token + block].x : f16_value(w.as<u16>(1)[row + block]);
    };

    fetch(0);
    for (u32 block = 0; block < blocks; block++) {
        barrier();
        *(u32x4 *)(w_tile + line * STRIDE + half * RUN) = w_next;
        *(u32x4 *)(x_tile + line * STRIDE + half * RUN) = x_next;
        factors[half * SIDE + line] = factor_next;
        barrier();
        fetch(block + 1);
        multiply<TileI8>(w_tile, x_tile, STRIDE, own, [&](u32 i, u32 j, TileI8::A a, TileI8::B b) {
            const auto product = TileI8::multiply(a, b, TileI8::C(0));
#pragma unroll
            for (u32 e = 0; e < TileC::SIZE; e++) {
                const float d = factors[own.row0 + j * 16 + TileC::col(e)] *
                                factors[SIDE + own.token0 + i * 16 + TileC::row(e)];
                sum[i][j][e] = fma(d, (float)product[e], sum[i][j][e]);
            }
        });
    }
    store(sum, own, bias, dst, rows, n);
}

} // namespace matmul
