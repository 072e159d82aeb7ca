// Queries, keys and values on their way to attention: norms over heads, rotation, the cache's cells.
#include "device.hpp"

namespace heads {

constexpr u32 THREADS = 64, MOST = 512; // elements of a head that is normalized or rotated, at most

// Of all tokens of a step; q, k: f32 [token][head][head_dim], v: [token][head][value_dim]. `table` holds a row of `table_stride` blocks a
// sequence; k_cache and v_cache are a layer's, [block][kv head][64 positions][head_pad] of f16: a head's elements, then
// zeros; from rest_at on, where a key is longer than that, those behind the first value_dim. Norms f32 [head_dim] or
// none.
struct Heads {
    float *q;
    const float *k, *v, *q_norm, *k_norm;
    const f32x2 *turns;
    const u32 *positions, *sequences, *table;
    f16 *k_cache, *v_cache;
    u32 n_head, n_head_kv, head_dim, value_dim, head_pad, rest_at, n_rot, halves, table_stride;
    float eps;
};

// A group takes one head of one token: y counts the heads of q, then those of k, then those of v.
KERNEL(64, 8) void prepare_heads(Heads h) {
    SHARED float head[MOST];
    const u32 t = group_x(), y = group_y();
    const bool is_q = y < h.n_head, is_k = !is_q && y < h.n_head + h.n_head_kv;
    const u32 own = is_q ? y : is_k ? y - h.n_head : y - h.n_head - h.n_head_kv;
    const float *from = is_q ? h.q : is_k ? h.k : h.v;
    const u32 dim = is_q || is_k ? h.head_dim : h.value_dim;
    from += ((u64)t * (is_q ? h.n_head : h.n_head_kv) + own) * dim;
    const float *norm = is_q ? h.q_norm : is_k ? h.k_norm : nullptr;

    float sum = 0.0f;
    for (u32 i = thread_x(); i < min(dim, MOST); i += THREADS) {
        const float v = from[i];
        sum = fma(v, v, sum);
        head[i] = v;
    }
    if (norm) {
        sum = group_reduce<THREADS>(sum, [](float a, float b) { return a + b; });
        const float scale = 1.0f / square_root(sum / (float)h.head_dim + h.eps);
        for (u32 i = thread_x(); i < h.head_dim; i += THREADS) head[i] = head[i] * scale * norm[i];
    }
    barrier();
    const u32 position = h.positions[t], pairs = h.n_rot / 2;
    if (is_q || is_k) {
        const f32x2 *turns = h.turns + (u64)position * pairs;
        for (u32 i = thread_x(); i < pairs; i += THREADS) {
            const u32 a = h.halves ? i : 2 * i, b = h.halves ? i + pairs : 2 * i + 1;
            const float p = head[a], q = head[b];
            const f32x2 turn = turns[i];
            head[a] = p * turn.x - q * turn.y;
            head[b] = p * turn.y + q * turn.x;
        }
        barrier();
    }
    if (is_q) {
        float *to = h.q + ((u64)t * h.n_head + own) * h.head_dim;
        for (u32 i = thread_x(); i < h.head_dim; i += THREADS) to[i] = head[i];
    } else {
        const u32 block = h.table[(u64)h.sequences[t] * h.table_stride + position / 64];
        f16 *cell = is_k ? h.k_cache : h.v_cache;
        cell += (((u64)block * h.n_head_kv + own) * 64 + position % 64) * h.head_pad;
        for (u32 i = thread_x(); i < h.head_pad; i += THREADS) {
            const bool is_rest = i >= h.rest_at;
            const u32 element = is_rest ? i - h.rest_at + h.value_dim : i;
            const u32 end = h.rest_at < h.head_pad && !is_rest ? h.value_dim : dim;
            cell[i] = element < end ? (f16)(element < MOST ? head[element] : from[element]) : (f16)0.0f;
        }
    }
}

} // namespace heads
