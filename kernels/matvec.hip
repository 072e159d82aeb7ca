// Quantized matrix times up to 8 vectors: dst[t][r] = dot(w[r], x[t]) + bias[r].
//
// A team of 32 lanes walks a row in units of 16 bytes of quants a lane, so that it reads 512 bytes at a time. It
// takes ROWS rows at once: their loads are under way together, and the vector's quants, which come from the near
// caches, are read once for all. Where rows are too few to fill the GPU, 2 or 4 teams share a row.
#include "units.hpp"

namespace matvec {

using namespace units;

constexpr u32 THREADS = 128, TEAM = 32, TEAMS = THREADS / TEAM;

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
