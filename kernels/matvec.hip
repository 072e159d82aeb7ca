// Weights times up to 8 vectors, and what follows the product in a step of few tokens; of a mixture's weights, each
// (token, expert) pair by itself.
//
// A team of 32 lanes walks a row in units of 16 bytes of quants a lane, so that it reads 512 bytes at a time. It
// takes ROWS rows at once: their loads are under way together, and the vector's quants, which come from the near
// caches, are read once for all. Where rows are too few to fill the GPU, 2 or 4 teams share a row.
#include "activations.hpp"
#include "units.hpp"

namespace matvec {

using namespace units;

constexpr u32 TEAM = 32;

// Tokens' rows: quants and factors, or f32 in `q` for float weights.
struct Rows {
    const u8 *q;
    const f32x2 *ds;

    // Of token `t`; quantized rows take a byte a column.
    template <class W>
    DEVICE Rows row(const Rows &x, u32 t, u32 cols) {
        return {x.q + (u64)t * cols * (IS_FLOAT<W> ? 4 : 1), x.ds + (u64)t * (cols / 32)};
    }
};

// A team's number is the same in all lanes of a wave of 32, which spares registers.
DEVICE u32 team_index() { return LANES == TEAM ? uniform(thread_x() / TEAM) : thread_x() / TEAM; }

// This lane's part of the products of ROWS rows with N tokens; of every `sharing` units of the team's 32 it takes the
// `share`th. Row r is row `rows[r]` of `weights[r % WEIGHTS]`. Tokens past the last repeat it.
template <class W, u32 ROWS, u32 N, u32 WEIGHTS>
DEVICE void products(const Planes *const (&weights)[WEIGHTS], const u32 (&rows)[ROWS], const Rows &x, u32 cols, u32 n,
                     u32 share, u32 sharing, float (&sums)[ROWS * N]) {
    const u32 lane = thread_x() % TEAM;
    const bool whole = !IS_FLOAT<W> || cols % W::COLS == 0;
    const u32 units = whole ? cols / W::COLS : 0;
    u64 first_unit[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) first_unit[r] = (u64)rows[r] * units;

    for (u32 unit = share * TEAM + lane; unit < units; unit += sharing * TEAM) {
        typename W::Loaded loaded[ROWS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) loaded[r] = W::load(*weights[r % WEIGHTS], first_unit[r], unit);
        auto input = W::Input::load(x.q, x.ds, unit);
        typename W::Quants quants[ROWS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) quants[r] = W::unpack(loaded[r], unit);
#pragma unroll
        for (u32 t = 0; t < N; t++) {
            if (t > 0) {
                const Rows row = Rows::row<W>(x, min(t, n - 1), cols);
                input = W::Input::load(row.q, row.ds, unit);
            }
#if defined(NO_DOT4)
            __builtin_amdgcn_sched_barrier(0); // a token after the other: all their bytes at once fill 256 registers
#endif
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) sums[r * N + t] += W::dot(quants[r], input);
        }
    }
    if constexpr (IS_FLOAT<W>) {
        // rows that are not whole units, whose starts are not aligned either
        for (u32 col = units * W::COLS + share * TEAM + lane; col < cols; col += sharing * TEAM) {
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) {
                const float w = W::element(*weights[r % WEIGHTS], (u64)rows[r] * cols + col);
#pragma unroll
                for (u32 t = 0; t < N; t++) {
                    const float v = ((const float *)x.q)[(u64)min(t, n - 1) * cols + col];
                    sums[r * N + t] = fma(w, v, sums[r * N + t]);
                }
            }
        }
    }
}

// One of up to three matrices of a type that share their input; groups before `first_group` are the others'.
struct Part {
    Planes w;
    const float *bias;
    float *dst;
    u32 rows, first_group;
};

struct Parts {
    Part part[3];
};

// The part that the group works for. Field by field, so that it stays in registers.
DEVICE Part own_part(const Parts &parts) {
    const Part &a = parts.part[0], &b = parts.part[1], &c = parts.part[2];
    const bool is_c = group_x() >= c.first_group, is_b = group_x() >= b.first_group;
    const auto choose = [=](auto of_a, auto of_b, auto of_c) { return is_c ? of_c : is_b ? of_b : of_a; };
    Part own;
#pragma unroll
    for (int i = 0; i < 4; i++) own.w.plane[i] = choose(a.w.plane[i], b.w.plane[i], c.w.plane[i]);
    own.bias = in_global(choose(a.bias, b.bias, c.bias));
    own.dst = in_global(choose(a.dst, b.dst, c.dst));
    own.rows = choose(a.rows, b.rows, c.rows);
    own.first_group = choose(a.first_group, b.first_group, c.first_group);
    return own;
}

constexpr u32 THREADS = 128, TEAMS = THREADS / TEAM;

// The pairs of tokens and their experts: token z of the grid and its y-th expert. ids: u32 [token][n_used], or null: no
// experts. An expert's rows and biases follow those of the one before. scales: f32 an expert, of each weight, or null.
// Of x a row is for all of a token's pairs, or if `each` for one.
struct Pairs {
    const u32 *ids;
    const float *scales[2];
    u32 n_used, each;
};

// The group's pair: its number, and what it has of weights of `rows` rows.
struct Pair {
    u32 number, expert;

    __attribute__((device)) explicit Pair(const Pairs &pairs)
        : number(group_z() * pairs.n_used + group_y()), expert(uniform(pairs.ids[number])) {}

    template <class W>
    __attribute__((device)) Rows row(const Pairs &pairs, const Rows &x, u32 cols) const {
        return Rows::row<W>(x, pairs.each ? number : group_z(), cols);
    }
    __attribute__((device)) float factor(const float *scales) const { return scales ? scales[expert] : 1.0f; }
};

// dst[t][r] = dot(w[r], x[t]) + bias[r], added to what is there if `add`. ROWS rows a team, N tokens; `sharing`, 1, 2
// or 4: teams that share a row. Of a pair dst[pair][r] = scale * dot(w[r], x) + bias[r], w and bias its expert's.
template <class W, u32 ROWS, u32 N>
DEVICE void multiply(const Parts &parts, Rows x, u32 cols, u32 n, u32 sharing, u32 add, const Pairs &pairs) {
    constexpr u32 SUMS = ROWS * N;
    Part own = own_part(parts);
    u32 first_row = 0;
    float factor = 1.0f;
    if (N == 1 && pairs.ids) {
        const Pair pair(pairs);
        x = pair.row<W>(pairs, x, cols);
        first_row = pair.expert * own.rows;
        factor = pair.factor(pairs.scales[0]);
        if (own.bias) own.bias += first_row;
        own.dst += (u64)pair.number * own.rows;
    }
    const u32 team = team_index(), share = team & (sharing - 1), lane = thread_x() % TEAM;
    const u32 row0 = (((group_x() - own.first_group) * TEAMS + team) >> (sharing / 2)) * ROWS;

    // Rows past the last repeat it; they are not stored.
    u32 rows[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) rows[r] = first_row + min(row0 + r, own.rows - 1);
    float sums[SUMS] = {};
    const Planes *const weights[1] = {&own.w};
    products<W, ROWS, N>(weights, rows, x, cols, n, share, sharing, sums);

    // Of each run of TEAM / SUMS lanes the first gets sum number `part`.
    const u32 part = lane / (TEAM / SUMS);
    float sum = lanes_sum_each<TEAM, SUMS>(sums);
    if (sharing > 1) {
        SHARED float shares[TEAMS][SUMS];
        if (lane % (TEAM / SUMS) == 0) shares[team][part] = sum;
        barrier();
        if (share > 0) return;
#pragma unroll 1
        for (u32 other = 1; other < sharing; other++) sum += shares[team + other][part];
    }
    const u32 row = row0 + part / N, token = part % N;
    if (lane % (TEAM / SUMS) == 0 && row < own.rows && token < n) {
        if (N == 1) sum *= factor;
        if (own.bias) sum += own.bias[row];
        float *to = own.dst + (u64)token * own.rows + row;
        *to = add ? *to + sum : sum;
    }
}

// Adds up what the teams that share rows have of two sums. False: another team of them goes on with it.
DEVICE bool join_shares(f32x2 &sums, u32 team, u32 share, u32 sharing) {
    SHARED f32x2 shares[TEAMS];
    if (sharing == 1) return true;
    if (thread_x() % TEAM == 0) shares[team] = sums;
    barrier();
#pragma unroll 1
    for (u32 other = 1; share == 0 && other < sharing; other++) sums = sums + shares[team + other];
    return share == 0;
}

// What happens to q, k and v of one token on their way: rotation, and the cache's cells. `table` holds a row of
// `table_stride` blocks a sequence; k and v are a layer's cache, [block][kv head][64 positions][head_pad] of f16.
struct Append {
    const f32x2 *turns;
    const u32 *positions, *sequences, *table;
    f16 *k, *v;
    u32 head_dim, head_pad, n_head_kv, n_rot, halves, table_stride;
};

// Queries (part 0, f32), keys (1) and values (2, both to the cache) of one token. A team makes two rows that rotate
// together.
template <class W>
DEVICE void multiply_qkv(const Parts &parts, const Rows &x, u32 cols, u32 sharing, const Append &to) {
    const u32 which = (group_x() >= parts.part[1].first_group) + (group_x() >= parts.part[2].first_group);
    const Part own = own_part(parts);
    const u32 team = team_index(), share = team & (sharing - 1), lane = thread_x() % TEAM;
    const u32 pair = ((group_x() - own.first_group) * TEAMS + team) >> (sharing / 2);

    const u32 pairs = to.head_dim / 2, turned = to.n_rot / 2;
    const u32 head = pair / pairs, in_head = pair % pairs;
    const bool split = to.halves && in_head < turned;
    const u32 a = split ? in_head : 2 * in_head, b = split ? in_head + turned : 2 * in_head + 1;
    const u32 last = own.rows - 1;
    const u32 rows[2] = {min(head * to.head_dim + a, last), min(head * to.head_dim + b, last)};
    float sums[2] = {};
    const Planes *const weights[1] = {&own.w};
    products<W, 2, 1>(weights, rows, x, cols, 1, share, sharing, sums);

    f32x2 both = {lanes_sum<TEAM>(sums[0]), lanes_sum<TEAM>(sums[1])};
    if (!join_shares(both, team, share, sharing) || lane > 0 || head * to.head_dim >= own.rows) return;
    float first = both.x, second = both.y;
    if (own.bias) {
        first += own.bias[rows[0]];
        second += own.bias[rows[1]];
    }
    const u32 position = to.positions[0];
    if (which < 2 && in_head < turned) {
        const f32x2 turn = to.turns[(u64)position * turned + in_head];
        const float p = first, q = second;
        first = p * turn.x - q * turn.y;
        second = p * turn.y + q * turn.x;
    }
    if (which == 0) {
        own.dst[rows[0]] = first;
        own.dst[rows[1]] = second;
    } else {
        const u32 block = to.table[(u64)to.sequences[0] * to.table_stride + position / 64];
        f16 *cell = (which == 1 ? to.k : to.v) +
                    (((u64)block * to.n_head_kv + head) * 64 + position % 64) * to.head_pad;
        cell[a] = (f16)first;
        cell[b] = (f16)second;
    }
}

// Products of the gate and of what it lets through: dst[r] = f(dot(gate[r], x) + bias, dot(up[r], x) + bias) of one
// token, f32; f as `gated` takes it.
struct Gated {
    Planes gate, up;
    const float *gate_bias, *up_bias;
    float *dst;
    u32 rows, f;
};

// A team makes a row of both.
template <class W>
DEVICE void multiply_glu(const Gated &to, Rows x, u32 cols, u32 sharing, const Pairs &pairs) {
    const u32 team = team_index(), share = team & (sharing - 1), lane = thread_x() % TEAM;
    const u32 row = (group_x() * TEAMS + team) >> (sharing / 2);
    u32 own = min(row, to.rows - 1);
    float *dst = to.dst;
    f32x2 factors = 1.0f;
    if (pairs.ids) {
        const Pair pair(pairs);
        x = pair.row<W>(pairs, x, cols);
        own += pair.expert * to.rows;
        factors = f32x2{pair.factor(pairs.scales[0]), pair.factor(pairs.scales[1])};
        dst += (u64)pair.number * to.rows;
    }
    const Planes *const weights[2] = {&to.gate, &to.up};
    const u32 rows[2] = {own, own};
    float sums[2] = {};
    products<W, 2, 1>(weights, rows, x, cols, 1, share, sharing, sums);
    f32x2 both = {lanes_sum<TEAM>(sums[0]), lanes_sum<TEAM>(sums[1])};
    if (!join_shares(both, team, share, sharing) || lane > 0 || row >= to.rows) return;
    both = both * factors;
    if (to.gate_bias) both.x += to.gate_bias[own];
    if (to.up_bias) both.y += to.up_bias[own];
    dst[row] = gated(both.x, both.y, to.f);
}

#define MATVEC(name, Type, ROWS, N, WAVES)                                                                            \
    KERNEL(128, WAVES) void matvec_##name##_n##N(Parts parts, const u8 *q, const f32x2 *ds, u32 cols, u32 n,          \
                                                 u32 sharing, u32 add, Pairs pairs) {                                 \
        multiply<Type, ROWS, N>(parts, Rows{q, ds}, cols, n, sharing, add, pairs);                                    \
    }

// Where a product of bytes takes many instructions, it takes registers too.
#if defined(__gfx900__) || defined(__gfx9_generic__)
#define ONE_TOKEN_WAVES 2
#else
#define ONE_TOKEN_WAVES 3
#endif

// Rows of a team with 2 to 4 tokens, as in `matvec_shape`, kernels.rs.
template <class W>
constexpr u32 FEW_ROWS = 4;
template <>
constexpr u32 FEW_ROWS<Q2_K> = 2;

#define MATVECS(Type, name)                                                                                           \
    MATVEC(name, Type, 2, 1, ONE_TOKEN_WAVES)                                                                         \
    MATVEC(name, Type, FEW_ROWS<Type>, 2, 2)                                                                          \
    MATVEC(name, Type, FEW_ROWS<Type>, 4, 2)                                                                          \
    MATVEC(name, Type, 2, 8, 2)                                                                                       \
    KERNEL(128, ONE_TOKEN_WAVES)                                                                                      \
    void qkv_##name(Parts parts, const u8 *q, const f32x2 *ds, u32 cols, u32 sharing, Append to) {                    \
        multiply_qkv<Type>(parts, Rows{q, ds}, cols, sharing, to);                                                    \
    }                                                                                                                 \
    KERNEL(128, ONE_TOKEN_WAVES)                                                                                      \
    void glu_##name(Gated to, const u8 *q, const f32x2 *ds, u32 cols, u32 sharing, Pairs pairs) {                     \
        multiply_glu<Type>(to, Rows{q, ds}, cols, sharing, pairs);                                                    \
    }
TYPES(MATVECS)

} // namespace matvec
