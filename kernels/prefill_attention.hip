// Attention of many tokens over the paged cache. A group makes a tile of tokens of one sequence and one query
// head: it walks the keys from the first token's window up to the last that its tokens see, with a running maximum and sum (Milakov & Gimelshein 2018,
// Dao et al. 2022). Both products are of f16 matrix tiles; scores, weights' sums and outputs are f32.
#include "activations.hpp"

namespace prefill_attention {

constexpr u32 THREADS = 128, WAVES = THREADS / LANES, BLOCK = 64;
#if defined(__NVPTX__)
constexpr u32 LDS_BYTES = 48 << 10;
#else
constexpr u32 LDS_BYTES = 64 << 10;
#endif

// Tokens of one sequence, the first of them at `position`, the others behind it.
struct Tile {
    u32 first, count, sequence, position;
};

// q and out: f32 [token][head][head_dim], q rotated; k and v: a layer's cache, f16 [block][kv head][64 positions][D];
// `table` has a row of `table_stride` blocks a sequence. A token attends to its `positions_seen`, and to those behind it up
// to lasts[token], of a sequence's tokens the same, where `lasts` is not null; scores are capped softly if `cap` is not 0, and
// then fall with the distance if `alibi` is not. sinks: f32 [head], of each head one more score without a value, or null.
// Where keys hold the values (k and v are then one), a cell is D + 64 long: the value's elements, from D on what a key has
// beyond them. out: [token][head][value_dim].
struct Task {
    const float *q;
    const f16 *k, *v;
    const Tile *tiles;
    const u32 *table;
    float *out;
    const float *sinks;
    const u32 *lasts;
    u32 n_head, n_head_kv, head_dim, value_dim, table_stride, window, chunk;
    float scale, cap, alibi;
};

// For heads padded to D, with REST elements of a cell behind them. LDS holds a step's keys and values, and before them or beside them the queries.
template <u32 D, u32 REST>
struct Shape {
    // A group makes SLICE elements of the outputs; of wide heads several groups make one, each with all the scores.
    static constexpr u32 SLICE = D < 128 ? D : 128, SLICES = D / SLICE;
    // Waves that share queries and divide the slice.
    static constexpr u32 SHARING = D == 512 ? 2 : 1;
    static constexpr u32 CELL = D + REST;
    // Elements of keys in LDS at a time, and positions in a step: long queries leave room for few where LDS is 48 KiB.
    static constexpr u32 CHUNK = D <= 128 ? D : 64, CHUNKS = CELL / CHUNK;
    static constexpr u32 KEYS = D <= 64 ? 64 : REST && LDS_BYTES < 65536 ? 16 : 32;
    // Tiles of 16 a wave has: of queries, of keys, of elements of the outputs.
    static constexpr u32 QUERY_TILES = LANES / 32, KEY_TILES = KEYS / 16, OUT_TILES = SLICE / SHARING / 16;
    static constexpr u32 QUERIES = 16 * QUERY_TILES * WAVES / SHARING;

    static constexpr bool QUERIES_IN_REGISTERS = D <= 128 && TileChain::SCRATCH == 0;
    static constexpr u32 K_STRIDE = CHUNK + 8, V_STRIDE = KEYS + 8, Q_STRIDE = CELL + 8;
    static constexpr u32 V_AT = KEYS * K_STRIDE, KV_END = V_AT + SLICE * V_STRIDE;
    static constexpr u32 Q_AT = QUERIES_IN_REGISTERS ? 0 : KV_END, Q_END = Q_AT + QUERIES * Q_STRIDE;
    static constexpr u32 WEIGHTS_AT = Q_END > KV_END ? Q_END : KV_END;
    static constexpr u32 LDS = WEIGHTS_AT + (TileChain::SCRATCH ? 16 * QUERY_TILES * WAVES * V_STRIDE : 0);
};

// What is known of a query: what its scores are multiplied by, its position, and how many positions it sees up to the last.
// It lies in LDS, since registers are short: where queries stay there, in their rows' padding.
struct Query {
    float factor;
    u32 position, seen;
};
static_assert(sizeof(Query) <= 8 * sizeof(f16));

// Below every score, yet finite: a token may see none of a step's keys.
constexpr float LOWEST = -3e38f;

// Halves of two words: both low ones, both high ones.
DEVICE u32 low_halves(u32 a, u32 b) { return (a & 0xffff) | b << 16; }
DEVICE u32 high_halves(u32 a, u32 b) { return a >> 16 | (b & 0xffff0000); }

template <u32 D, u32 REST = 0>
DEVICE void attend(const Task &a) {
    using S = Shape<D, REST>;
    using T = TileChain;
    SHARED __attribute__((aligned(16))) f16 lds[S::LDS];
    SHARED Query apart[S::QUERIES_IN_REGISTERS ? S::QUERIES : 1];

    const Tile tile = a.tiles[group_y()];
    const u32 head = group_x() / S::SLICES, slice0 = group_x() % S::SLICES * S::SLICE;
    const u32 kv_head = head / (a.n_head / a.n_head_kv);
    const u32 last = a.lasts ? a.lasts[tile.first] : tile.position + tile.count - 1;
    const u32 *table = a.table + (u64)tile.sequence * a.table_stride;

    const u32 wave = uniform(thread_x() / LANES), sharer = wave % S::SHARING;
    const u32 query0 = wave / S::SHARING * S::QUERY_TILES * 16, out0 = sharer * S::OUT_TILES * 16;
    f16 *const keys = lds, *const values = lds + S::V_AT, *const queries = lds + S::Q_AT;
    const auto known = [&](u32 query) {
        return S::QUERIES_IN_REGISTERS ? apart + query : (Query *)(queries + query * S::Q_STRIDE + S::CELL);
    };
    f16 *const scratch = lds + S::WEIGHTS_AT + wave * (S::QUERY_TILES * 16 * S::V_STRIDE);

    // A step's keys and values on their way. Values are transposed: a thread takes 8 positions of 4 elements.
    constexpr u32 RUNS = S::CHUNK / 8, K_LOADS = S::KEYS * RUNS / THREADS, OCTETS = S::KEYS / 8;
    static_assert(K_LOADS * THREADS == S::KEYS * RUNS && OCTETS * S::SLICE / 4 <= THREADS);
    const u32 octet = thread_x() % OCTETS * 8, quad = thread_x() / OCTETS * 4;
    const bool has_values = quad < S::SLICE;
    u32x4 k_next[K_LOADS];
    u32x2 v_next[8];
    // The keys of a step lie in one block.
    const auto cells = [&](u32 position0) {
        return (((u64)table[position0 / BLOCK] * a.n_head_kv + kv_head) * BLOCK + position0 % BLOCK) * S::CELL;
    };
    const auto fetch_keys = [&](u64 from, u32 col0) {
#pragma unroll
        for (u32 i = 0; i < K_LOADS; i++) {
            const u32 run = i * THREADS + thread_x();
            k_next[i] = load_near(a.k + from + run / RUNS * S::CELL + col0 + run % RUNS * 8);
        }
    };
    const auto store_keys = [&] {
#pragma unroll
        for (u32 i = 0; i < K_LOADS; i++) {
            const u32 run = i * THREADS + thread_x();
            *(u32x4 *)(keys + run / RUNS * S::K_STRIDE + run % RUNS * 8) = k_next[i];
        }
    };
    // What lies behind the last position may be no number, which a weight of 0 would not make one.
    const auto fetch_values = [&](u64 from, u32 position0) {
        if (!has_values) return;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const bool exists = position0 + octet + i <= last;
            v_next[i] = exists ? load<u32x2>(a.v + from + (octet + i) * S::CELL + slice0 + quad) : u32x2(0);
        }
    };
    const auto store_values = [&] {
        if (!has_values) return;
        u32x4 rows[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32x2 one = v_next[2 * i], two = v_next[2 * i + 1];
            rows[0][i] = low_halves(one.x, two.x);
            rows[1][i] = high_halves(one.x, two.x);
            rows[2][i] = low_halves(one.y, two.y);
            rows[3][i] = high_halves(one.y, two.y);
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) *(u32x4 *)(values + (quad + i) * S::V_STRIDE + octet) = rows[i];
    };
    // steps wholly behind the window are left out
    const auto seen_by = [&](u32 position) { return positions_seen(position, a.window, a.chunk); };
    const u32 start = (tile.position + 1 - seen_by(tile.position)) / S::KEYS * S::KEYS;
    const u32 newest = tile.position + tile.count - 1;
    if constexpr (S::CHUNKS == 1) {
        const u64 from = cells(start);
        fetch_keys(from, 0);
        fetch_values(from, start);
    }

    // Queries to f16, several threads a row; tokens past the last repeat it.
    {
        constexpr u32 TEAM = THREADS / S::QUERIES;
        const u32 query = thread_x() / TEAM, lane = thread_x() % TEAM;
        const u64 token = tile.first + min(query, tile.count - 1);
        const float *row = a.q + (token * a.n_head + head) * a.head_dim;
        const auto four = [&](u32 col) {
            const u32 from = REST && col >= D ? a.value_dim + col - D : col;
            const u32 end = REST && col < D ? a.value_dim : a.head_dim;
            if (a.head_dim % 4 == 0 && (!REST || a.value_dim % 4 == 0) && from < end) return load<f32x4>(row + from);
            f32x4 v;
#pragma unroll
            for (u32 k = 0; k < 4; k++) v[k] = from + k < end ? row[from + k] : 0.0f;
            return v;
        };
        u32 most = 0;
#pragma unroll 4
        for (u32 i = 0; i < S::CELL / 4 / TEAM; i++) {
            const f32x4 v = four((i * TEAM + lane) * 4);
#pragma unroll
            for (u32 k = 0; k < 4; k++) most = max(most, magnitude(v[k]));
        }
        const F16Factors range(lanes_reduce<TEAM>(most, [](u32 x, u32 y) { return max(x, y); }));
#pragma unroll 4
        for (u32 i = 0; i < S::CELL / 4 / TEAM; i++) {
            const u32 col = (i * TEAM + lane) * 4;
            const f32x4 v = four(col) * range.up;
            *(u32x2 *)(queries + query * S::Q_STRIDE + col) = u32x2{f16_pair(v.x, v.y), f16_pair(v.z, v.w)};
        }
        if (lane == 0) {
            const u32 position = tile.position + query;
            *known(query) = {range.down * score_factor(a.scale, a.cap), position,
                             (a.lasts ? last - position : 0) + seen_by(position)};
        }
    }
    barrier();

    // Of each query that the lane has to do with: the running maximum and the lane's part of the sum, by powers of 2.
    const auto query = [&](u32 t, u32 q) { return known(query0 + t * 16 + T::query(2 * q)); };
    float most[S::QUERY_TILES][T::QUERIES], sum[S::QUERY_TILES][T::QUERIES];
#pragma unroll
    for (u32 t = 0; t < S::QUERY_TILES; t++) {
#pragma unroll
        for (u32 q = 0; q < T::QUERIES; q++) {
            most[t][q] = LOWEST;
            sum[t][q] = 0.0f;
        }
    }
    T::Queries held[S::QUERY_TILES][S::QUERIES_IN_REGISTERS ? D / 16 : 1];
    if constexpr (S::QUERIES_IN_REGISTERS) {
#pragma unroll
        for (u32 t = 0; t < S::QUERY_TILES; t++) {
#pragma unroll
            for (u32 d = 0; d < D / 16; d++) {
                held[t][d] = T::load_queries(queries + (query0 + t * 16) * S::Q_STRIDE + d * 16, S::Q_STRIDE);
            }
        }
    }

    T::Sums out[S::QUERY_TILES][S::OUT_TILES] = {};
    const float slope = a.alibi != 0.0f ? bits<float>(uniform(bits<u32>(score_slope(a.alibi, head, a.n_head)))) : 0.0f;
#pragma unroll 1
    for (u32 position0 = start; position0 <= last; position0 += S::KEYS) {
        // whether some token sees some of the step's keys only
        const bool partly =
            position0 + S::KEYS > (a.lasts ? last : tile.position) + 1 || position0 + seen_by(newest) <= newest;
        T::Scores scores[S::QUERY_TILES][S::KEY_TILES] = {};
        const auto add_scores = [&](u32 col0) {
#pragma unroll
            for (u32 d = 0; d < S::CHUNK / 16; d++) {
                T::Queries own[S::QUERY_TILES];
#pragma unroll
                for (u32 t = 0; t < S::QUERY_TILES; t++) {
                    if constexpr (S::QUERIES_IN_REGISTERS) {
                        own[t] = held[t][d];
                    } else {
                        const f16 *from = queries + (query0 + t * 16) * S::Q_STRIDE + col0 + d * 16;
                        own[t] = T::load_queries(from, S::Q_STRIDE);
                    }
                }
#pragma unroll
                for (u32 k = 0; k < S::KEY_TILES; k++) {
                    const auto key = T::load_other(keys + k * 16 * S::K_STRIDE + d * 16, S::K_STRIDE);
#pragma unroll
                    for (u32 t = 0; t < S::QUERY_TILES; t++) {
                        scores[t][k] = T::multiply_other(key, own[t], scores[t][k]);
                    }
                }
            }
        };
        if constexpr (S::CHUNKS == 1) {
            barrier();
            store_keys();
            store_values();
            barrier();
            if (position0 + S::KEYS <= last) {
                const u64 from = cells(position0 + S::KEYS);
                fetch_keys(from, 0);
                fetch_values(from, position0 + S::KEYS);
            }
            add_scores(0);
        } else {
            const u64 from = cells(position0);
            fetch_values(from, position0);
#pragma unroll 1
            for (u32 col0 = 0; col0 < S::CELL; col0 += S::CHUNK) {
                fetch_keys(from, col0);
                barrier();
                store_keys();
                if (col0 == 0) store_values();
                barrier();
                add_scores(col0);
            }
        }

        T::Weights weights[S::QUERY_TILES][S::KEY_TILES];
        float shrink[S::QUERY_TILES][T::QUERIES];
#pragma unroll
        for (u32 t = 0; t < S::QUERY_TILES; t++) {
            float now[T::QUERIES];
#pragma unroll
            for (u32 q = 0; q < T::QUERIES; q++) now[q] = most[t][q];
            const auto each_score = [&](auto f) {
#pragma unroll
                for (u32 k = 0; k < S::KEY_TILES; k++) {
#pragma unroll
                    for (u32 i = 0; i < T::SIZE; i++) scores[t][k][i] = f(scores[t][k][i] * query(t, T::slot(i))->factor);
                }
            };
            if (a.cap != 0.0f) {
                each_score([&](float score) { return capped_score(score, a.cap); });
            } else {
                each_score([](float score) { return score; });
            }
            if (a.alibi != 0.0f) {
#pragma unroll
                for (u32 k = 0; k < S::KEY_TILES; k++) {
#pragma unroll
                    for (u32 i = 0; i < T::SIZE; i++) {
                        const i32 away = query(t, T::slot(i))->position - (position0 + k * 16 + T::key(i));
                        scores[t][k][i] = fma(__builtin_fabsf((float)away), -slope, scores[t][k][i]);
                    }
                }
            }
#pragma unroll
            for (u32 k = 0; k < S::KEY_TILES; k++) {
#pragma unroll
                for (u32 i = 0; i < T::SIZE; i++) {
                    const u32 q = T::slot(i);
                    // a key behind what the token sees is 2^31 and more before it
                    const u32 key = position0 + k * 16 + T::key(i);
                    if (partly && (a.lasts ? last : query(t, q)->position) - key >= query(t, q)->seen) {
                        scores[t][k][i] = -__builtin_inff();
                    }
                    now[q] = max(now[q], scores[t][k][i]);
                }
            }
#pragma unroll
            for (u32 q = 0; q < T::QUERIES; q++) {
                now[q] = T::over_keys(now[q], [](float x, float y) { return max(x, y); });
                shrink[t][q] = exp2_normal(most[t][q] - now[q]);
                most[t][q] = now[q];
                sum[t][q] *= shrink[t][q];
            }
#pragma unroll
            for (u32 k = 0; k < S::KEY_TILES; k++) {
#pragma unroll
                for (u32 i = 0; i < T::SIZE; i++) {
                    // 2^12 times the weight: in f16 those down to 2^-26 of the largest keep all bits
                    const u32 q = T::slot(i);
                    scores[t][k][i] = exp2_normal(scores[t][k][i] - most[t][q] + 12.0f);
                    sum[t][q] += scores[t][k][i];
                }
                f16 *place = scratch + t * 16 * S::V_STRIDE + k * 16;
                weights[t][k] = T::weights(scores[t][k], place, S::V_STRIDE);
            }
        }

#pragma unroll
        for (u32 o = 0; o < S::OUT_TILES; o++) {
#pragma unroll
            for (u32 t = 0; t < S::QUERY_TILES; t++) {
#pragma unroll
                for (u32 i = 0; i < T::SIZE; i++) out[t][o][i] *= shrink[t][T::slot(i)];
            }
#pragma unroll
            for (u32 k = 0; k < S::KEY_TILES; k++) {
                const auto value = T::load_other(values + (out0 + o * 16) * S::V_STRIDE + k * 16, S::V_STRIDE);
#pragma unroll
                for (u32 t = 0; t < S::QUERY_TILES; t++) {
                    out[t][o] = T::multiply_other(value, weights[t][k], out[t][o]);
                }
            }
        }
    }

#pragma unroll
    for (u32 t = 0; t < S::QUERY_TILES; t++) {
        float inverse[T::QUERIES];
#pragma unroll
        for (u32 q = 0; q < T::QUERIES; q++) {
            float total = T::over_keys(sum[t][q], [](float x, float y) { return x + y; });
            if (a.sinks) {
                constexpr float LOG2_E = 1.44269504f;
                total += exp2_normal(a.sinks[head] * LOG2_E - most[t][q] + 12.0f); // 2^12 times, as the others
            }
            inverse[q] = 1.0f / total;
        }
#pragma unroll
        for (u32 i = 0; i < T::SIZE; i++) {
            const u32 query = query0 + t * 16 + T::query(i);
            if (query >= tile.count) continue;
            float *row = a.out + ((u64)(tile.first + query) * a.n_head + head) * a.value_dim;
#pragma unroll
            for (u32 o = 0; o < S::OUT_TILES; o++) {
                const u32 col = slice0 + out0 + o * 16 + T::element(i);
                if (col < a.value_dim) row[col] = out[t][o][i] * inverse[T::slot(i)];
            }
        }
    }
}

#define PREFILL_ATTENTION(NAME, ...)                                                                                  \
    KERNEL(128, 1) void prefill_attention_##NAME(const float *q, const f16 *k, const f16 *v, const Tile *tiles,       \
                                                 const u32 *table, float *out, const float *sinks, const u32 *lasts,  \
                                                 u32 n_head, u32 n_head_kv, u32 head_dim, u32 value_dim,              \
                                                 u32 table_stride, u32 window, u32 chunk, float scale, float cap,     \
                                                 float alibi) {                                                       \
        attend<__VA_ARGS__>({q, k, v, tiles, table, out, sinks, lasts, n_head, n_head_kv, head_dim, value_dim,        \
                             table_stride, window, chunk, scale, cap, alibi});                                        \
    }

PREFILL_ATTENTION(d32, 32)
PREFILL_ATTENTION(d64, 64)
PREFILL_ATTENTION(d128, 128)
PREFILL_ATTENTION(d256, 256)
PREFILL_ATTENTION(d512, 512)
PREFILL_ATTENTION(latent, 512, 64)

} // namespace prefill_attention
