// Attention of tokens one by one: the positions are split over groups, and a cell is read once for all the query heads that
// share it.
#include "activations.hpp"

namespace attention {

constexpr u32 THREADS = 128, WAVES = THREADS / LANES, BLOCK = 64;

// q: f32 [token][head][head_dim], rotated; k and v: a layer's cache, f16 [block][kv head][64 positions][D]; `table` has
// a row of `table_stride` blocks a sequence. Where keys hold the values (k and v are then one), a cell is D + 64 long: the
// value's elements, from D on what a key has beyond them. A token attends to its `positions_seen`, and to those behind it up
// to lasts[token] where `lasts` is not null; scores are capped softly if `cap` is not 0, and then fall with the distance if
// `alibi` is not. sinks: f32 [head], of each head one more score without a value, or null.
// The result goes to out (f32 [token][head][value_dim]), to oq and ods as quantize_q8 leaves them, or to both. z of the grid
// counts the tokens that `chosen` names, or all if it is null. parts: f32 [z][head][splits][D + 2]; tickets: u32 [z][y of the
// grid], zero before and after.
struct Attend {
    const float *q;
    const f16 *k, *v;
    const u32 *positions, *sequences, *table, *chosen;
    float *parts;
    u32 *tickets;
    float *out;
    u32 *oq;
    f32x2 *ods;
    const float *sinks;
    const u32 *lasts;
    u32 n_head, n_head_kv, head_dim, value_dim, table_stride, splits, window, chunk;
    float scale, cap, alibi;
};

// The softmax of some positions, not yet divided by its sum: logarithms are to base 2.
template <u32 COLS>
struct Partial {
    float most, sum;
    float out[COLS];

    template <u32 MASK>
    __attribute__((device)) void merge_lane() {
        const float other_most = lane_xor<MASK>(most), other_sum = lane_xor<MASK>(sum);
        const float both = max(most, other_most);
        const float mine = exp2(most - both), theirs = exp2(other_most - both);
        most = both;
        sum = sum * mine + other_sum * theirs;
#pragma unroll
        for (u32 c = 0; c < COLS; c++) out[c] = out[c] * mine + lane_xor<MASK>(out[c]) * theirs;
    }

    // With the lanes of the wave's other teams of TEAM lanes.
    template <u32 TEAM>
    __attribute__((device)) void merge_wave() {
        if constexpr (TEAM < LANES) {
            merge_lane<TEAM>();
            merge_wave<TEAM * 2>();
        }
    }
};

// Below every score, yet finite: the difference of two is no NaN.
constexpr float LOWEST = -1e30f;

// A group makes one split of one token's HEADS query heads of one kv head; y counts kv heads and, in them, runs of
// HEADS. Whoever of the splits is done last joins them. D: head_dim padded; AT_ONCE: positions a team takes at a time;
// REST: what cells have behind D.
template <u32 D, u32 HEADS, u32 AT_ONCE, u32 REST = 0>
DEVICE void attend(const Attend &a) {
    static_assert(REST == 0 || (REST == 64 && D >= 256), "two elements of the rest a lane");
    constexpr u32 TEAM = D / 8 < 32 ? D / 8 : 32, COLS = D / TEAM, TEAMS = THREADS / TEAM, LOADS = COLS / 8;
    const u32 per_kv = a.n_head / a.n_head_kv, runs = (per_kv + HEADS - 1) / HEADS;
    const u32 nth = group_z(), t = a.chosen ? a.chosen[nth] : nth;
    const u32 kv_head = group_y() / runs, first_head = group_y() % runs * HEADS;
    const u32 n_heads = min(per_kv - first_head, HEADS), head0 = kv_head * per_kv + first_head;
    const u32 own = a.positions[t], start = own + 1 - positions_seen(own, a.window, a.chunk);
    const u32 length = (a.lasts ? a.lasts[t] : own) + 1;
    // blocks wholly behind the window are nobody's
    const u32 base = start / BLOCK * BLOCK, rest = length - base;
    const u32 chunk = ((rest + a.splits - 1) / a.splits + BLOCK - 1) / BLOCK * BLOCK;
    const u32 active = (rest + chunk - 1) / chunk, split = group_x();
    if (split >= active) return;
    const u32 first = max(base + split * chunk, start), last = min(base + (split + 1) * chunk, length);

    const u32 team = thread_x() / TEAM, lane = thread_x() % TEAM;
    const float factor = score_factor(a.scale, a.cap);
    float q[HEADS][COLS];
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
        const float *row = a.q + ((u64)t * a.n_head + head0 + min(h, n_heads - 1)) * a.head_dim;
#pragma unroll
        for (u32 c = 0; c < COLS; c++) {
            const u32 col = lane * COLS + c;
            q[h][c] = col < (REST ? a.value_dim : a.head_dim) ? row[col] * factor : 0.0f;
        }
    }
    float q_rest[HEADS][2];
    if constexpr (REST) {
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            const float *row = a.q + ((u64)t * a.n_head + head0 + min(h, n_heads - 1)) * a.head_dim;
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const u32 col = a.value_dim + lane * 2 + c;
                q_rest[h][c] = col < a.head_dim ? row[col] * factor : 0.0f;
            }
        }
    }

    Partial<COLS> partial[HEADS];
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
        partial[h].most = LOWEST;
        partial[h].sum = 0.0f;
#pragma unroll
        for (u32 c = 0; c < COLS; c++) partial[h].out[c] = 0.0f;
    }

    // the same in all lanes: in scalar registers
    float slopes[HEADS];
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
        slopes[h] = a.alibi != 0.0f ? bits<float>(uniform(bits<u32>(score_slope(a.alibi, head0 + h, a.n_head)))) : 0.0f;
    }
    const u32 *table = a.table + (u64)a.sequences[t] * a.table_stride;
    for (u32 from = first; from < last; from += TEAMS * AT_ONCE) {
        // the same number of rounds for all lanes: what is past the end repeats the last position, and counts nothing
        const u32 at = from + team * AT_ONCE;
        u32x4 k[AT_ONCE][LOADS], v[AT_ONCE][LOADS];
        u32 k_rest[AT_ONCE];
#pragma unroll
        for (u32 u = 0; u < AT_ONCE; u++) {
            const u32 position = min(at + u, last - 1);
            const u64 place = ((u64)table[position / BLOCK] * a.n_head_kv + kv_head) * BLOCK + position % BLOCK;
            const u64 cell = place * (D + REST);
#pragma unroll
            for (u32 l = 0; l < LOADS; l++) {
                k[u][l] = load<u32x4>(a.k + cell + lane * COLS + l * 8);
                v[u][l] = REST ? k[u][l] : load<u32x4>(a.v + cell + lane * COLS + l * 8);
            }
            if constexpr (REST) k_rest[u] = load<u32>(a.k + cell + D + lane * 2);
        }
        float scores[HEADS][AT_ONCE];
#pragma unroll
        for (u32 u = 0; u < AT_ONCE; u++) {
            float key[COLS];
#pragma unroll
            for (u32 c = 0; c < COLS; c++) key[c] = f16_value((u16)(k[u][c / 8][c % 8 / 2] >> (c % 2 * 16)));
#pragma unroll
            for (u32 h = 0; h < HEADS; h++) {
                float sum = 0.0f;
#pragma unroll
                for (u32 c = 0; c < COLS; c++) sum = fma(q[h][c], key[c], sum);
                if constexpr (REST) {
                    sum = fma(q_rest[h][0], f16_value((u16)k_rest[u]), sum);
                    sum = fma(q_rest[h][1], f16_value((u16)(k_rest[u] >> 16)), sum);
                }
                sum = lanes_sum<TEAM>(sum);
                if (a.cap != 0.0f) sum = capped_score(sum, a.cap);
                scores[h][u] = at + u < last ? sum : -__builtin_inff();
            }
            if (a.alibi != 0.0f) {
                const float away = __builtin_fabsf((float)(i32)(own - at - u));
#pragma unroll
                for (u32 h = 0; h < HEADS; h++) scores[h][u] = fma(away, -slopes[h], scores[h][u]);
            }
        }
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            float most = partial[h].most;
#pragma unroll
            for (u32 u = 0; u < AT_ONCE; u++) most = max(most, scores[h][u]);
            const float shrink = exp2(partial[h].most - most);
            partial[h].most = most;
            partial[h].sum *= shrink;
#pragma unroll
            for (u32 c = 0; c < COLS; c++) partial[h].out[c] *= shrink;
#pragma unroll
            for (u32 u = 0; u < AT_ONCE; u++) {
                scores[h][u] = exp2(scores[h][u] - most);
                partial[h].sum += scores[h][u];
            }
        }
#pragma unroll
        for (u32 u = 0; u < AT_ONCE; u++) {
#pragma unroll
            for (u32 c = 0; c < COLS; c++) {
                const float value = f16_value((u16)(v[u][c / 8][c % 8 / 2] >> (c % 2 * 16)));
#pragma unroll
                for (u32 h = 0; h < HEADS; h++) partial[h].out[c] = fma(scores[h][u], value, partial[h].out[c]);
            }
        }
    }

    // The group's teams, by waves and then through LDS.
    SHARED float made[WAVES][HEADS][D + 2];
    const u32 wave = thread_x() / LANES;
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
        partial[h].template merge_wave<TEAM>();
        if (thread_x() % LANES < TEAM) {
#pragma unroll
            for (u32 c = 0; c < COLS; c++) made[wave][h][lane * COLS + c] = partial[h].out[c];
            if (lane == 0) {
                made[wave][h][D] = partial[h].most;
                made[wave][h][D + 1] = partial[h].sum;
            }
        }
    }
    barrier();

    // Four columns of a head a thread.
    constexpr u32 ITEMS = HEADS * D / 4;
    const auto store = [&](u32 h, u32 col, f32x4 value) {
        const bool inside = h < n_heads && col < a.value_dim;
        const u64 at = ((u64)t * a.n_head + head0 + h) * a.value_dim + col;
        if (a.out && inside) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                if (col + c < a.value_dim) a.out[at + c] = value[c];
            }
        }
        if (a.oq) {
            const Rounded8 rounded(value);
            if (inside) {
                a.oq[at / 4] = rounded.packed;
                if (col % 32 == 0) a.ods[at / 32] = rounded.ds;
            }
        }
    };
    // The sink's score, where a head has one, enters with the last sum.
    const auto sink = [&](u32 h) {
        constexpr float LOG2_E = 1.44269504f;
        return a.sinks ? a.sinks[head0 + min(h, n_heads - 1)] * LOG2_E : LOWEST;
    };
    const u64 stride = D + 2;
    float *const parts = a.parts + ((u64)nth * a.n_head + head0) * a.splits * stride;
#pragma unroll 1
    for (u32 item = thread_x(); item < (ITEMS + THREADS - 1) / THREADS * THREADS; item += THREADS) {
        const u32 h = min(item / (D / 4), HEADS - 1), col = item % (D / 4) * 4;
        const float begun = active == 1 ? sink(h) : LOWEST;
        float most = begun;
#pragma unroll
        for (u32 w = 0; w < WAVES; w++) most = max(most, made[w][h][D]);
        f32x4 value = 0.0f;
        float sum = begun > LOWEST ? exp2(begun - most) : 0.0f;
#pragma unroll
        for (u32 w = 0; w < WAVES; w++) {
            const float factor = exp2(made[w][h][D] - most);
            sum = fma(made[w][h][D + 1], factor, sum);
#pragma unroll
            for (u32 c = 0; c < 4; c++) value[c] = fma(made[w][h][col + c], factor, value[c]);
        }
        if (active == 1) {
            store(item < ITEMS ? h : HEADS, col, value / sum);
        } else if (item < ITEMS && h < n_heads) {
            float *part = parts + ((u64)h * a.splits + split) * stride;
#pragma unroll
            for (u32 c = 0; c < 4; c++) part[col + c] = value[c];
            if (col == 0) {
                part[D] = most;
                part[D + 1] = sum;
            }
        }
    }
    if (active == 1 || !last_of(a.tickets + (u64)nth * a.n_head_kv * runs + group_y(), active)) return;

#pragma unroll 1
    for (u32 item = thread_x(); item < (ITEMS + THREADS - 1) / THREADS * THREADS; item += THREADS) {
        const u32 h = min(item / (D / 4), n_heads - 1), col = item % (D / 4) * 4;
        const float *part = parts + (u64)h * a.splits * stride;
        const float begun = sink(h);
        float most = begun;
#pragma unroll 4
        for (u32 s = 0; s < active; s++) most = max(most, part[s * stride + D]);
        f32x4 value = 0.0f;
        float sum = begun > LOWEST ? exp2(begun - most) : 0.0f;
#pragma unroll 4
        for (u32 s = 0; s < active; s++) {
            const float *p = part + s * stride;
            const float factor = exp2(p[D] - most);
            sum = fma(p[D + 1], factor, sum);
            const f32x2 low = load<f32x2>(p + col), high = load<f32x2>(p + col + 2);
            value = value + f32x4{low.x, low.y, high.x, high.y} * factor;
        }
        store(item < ITEMS ? item / (D / 4) : HEADS, col, value / sum);
    }
}

// Waves that share a SIMD: on AMD what the registers happen to allow, which for 4 heads is 2 where they fit.
#if defined(__NVPTX__)
#define WAVES_OF(HEADS) (HEADS == 1 ? 3 : HEADS < 8 ? 2 : 1)
#elif defined(__gfx900__) || defined(__gfx9_generic__)
#define WAVES_OF(HEADS) 1
#else
#define WAVES_OF(HEADS) (HEADS == 4 ? 2 : 1)
#endif

#define ATTEND(D, HEADS, AT_ONCE)                                                                                     \
    KERNEL(128, WAVES_OF(HEADS)) void attend_d##D##_h##HEADS(Attend a) { attend<D, HEADS, AT_ONCE>(a); }

// As in `attend_kernel`, ops.
ATTEND(32, 1, 4)
ATTEND(32, 4, 4)
ATTEND(32, 8, 2)
ATTEND(64, 1, 4)
ATTEND(64, 4, 4)
ATTEND(64, 8, 2)
ATTEND(128, 1, 4)
ATTEND(128, 4, 4)
ATTEND(128, 8, 2)
ATTEND(256, 1, 4)
ATTEND(256, 4, 4)
ATTEND(512, 1, 2)
ATTEND(512, 2, 2)

#define ATTEND_LATENT(HEADS, AT_ONCE)                                                                                 \
    KERNEL(128, 1) void attend_latent_h##HEADS(Attend a) { attend<512, HEADS, AT_ONCE, 64>(a); }

ATTEND_LATENT(1, 2)
ATTEND_LATENT(4, 1)

} // namespace attention
