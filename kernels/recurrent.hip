// Ops with a recurrent state: causal convolution and the gated delta rule. `runs` has for each sequence of the step its first
// token, the number of its tokens, the slot of state that is read (NONE: zeros) and the one that is written.
#include "activations.hpp"

namespace recurrent {

constexpr u32 NONE = ~0u;

// A channel of a token a thread: x counts tokens, y runs of 256 channels. weight: [channel][k]; state: [slot][k - 1][width],
// the inputs before the run, the oldest first.
KERNEL(256, 8) void conv_f32(const float *x, const float *weight, const float *bias, const u32 *sequences,
                             const u32x4 *runs, float *state, float *dst, u32 width, u32 k, u32 silu) {
    const u32 t = group_x(), c = group_y() * 256 + thread_x();
    if (c >= width) return;
    const u32x4 run = runs[sequences[t]];
    const u64 elements = (u64)(k - 1) * width;
    const float *before = state + run.z * elements + c;
    // of the k - 1 inputs before the run and those of its tokens
    const auto input = [&](u32 i) {
        if (i >= k - 1) return x[(u64)(run.x + i - (k - 1)) * width + c];
        return run.z == NONE ? 0.0f : before[(u64)i * width];
    };
    const u32 at = t - run.x;
    float sum = 0.0f;
    for (u32 i = 0; i < k; i++) sum = fma(weight[(u64)c * k + i], input(at + i), sum);
    if (bias) sum = sum + bias[c];
    dst[(u64)t * width + c] = silu ? activate(sum, 0) : sum;
    if (at + 1 < run.y) return;
    float *after = state + run.w * elements + c;
    for (u32 i = 0; i < k - 1; i++) after[(u64)i * width] = input(run.y + i);
}

struct Delta {
    const float *q, *k, *v, *g, *beta;
    const u32x4 *runs;
    float *state, *out;
    u32 n_k, n_v, k_len, v_len;
    u32 turns;    // value head h goes with key head h % n_k, else with h / (n_v / n_k)
    u32 g_by_row; // g has k_len numbers a head, else one
    float scale;
};

constexpr u32 THREADS = 128, SHARING = 8, COLUMNS = THREADS / SHARING;

// SHARING lanes hold a column of a head's matrix: FOURS times four neighbouring elements each, k_len <= 32 * FOURS and a
// multiple of 4. x counts runs of COLUMNS columns, y heads, z sequences. state: [slot][head][column][element].
template <u32 FOURS>
DEVICE void delta_net(const Delta &d) {
    const u32x4 run = d.runs[group_z()];
    const u32 head = group_y(), column = group_x() * COLUMNS + thread_x() / SHARING, own = thread_x() % SHARING;
    const u32 key_head = d.turns ? head % d.n_k : head / (d.n_v / d.n_k), fours = d.k_len / 4;
    const bool is_column = column < d.v_len;
    const auto place = [&](u32 j) { return j * SHARING + own; };
    const auto inside = [&](u32 j) { return is_column && place(j) < fours; };
    const auto at = [&](u32 slot) {
        f32x4 *slots = (f32x4 *)d.state;
        return slots + (((u64)slot * d.n_v + head) * d.v_len + column) * fours;
    };
    f32x4 s[FOURS];
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) s[j] = run.z != NONE && inside(j) ? at(run.z)[place(j)] : f32x4(0.0f);
    for (u32 i = 0; i < run.y; i++) {
        const u64 t = run.x + i, value_head = t * d.n_v + head, key_row = (t * d.n_k + key_head) * fours;
        const f32x4 *keys = (const f32x4 *)d.k + key_row, *queries = (const f32x4 *)d.q + key_row;
        const float decay = d.g_by_row ? 1.0f : exp(d.g[value_head]);
        f32x4 key[FOURS];
        float seen = 0.0f, product = 0.0f, overlap = 0.0f;
#pragma unroll
        for (u32 j = 0; j < FOURS; j++) {
            key[j] = inside(j) ? keys[place(j)] : f32x4(0.0f);
            const f32x4 query = inside(j) ? queries[place(j)] : f32x4(0.0f);
            f32x4 by = decay;
            if (d.g_by_row && inside(j)) {
                const f32x4 g = ((const f32x4 *)d.g)[value_head * fours + place(j)];
#pragma unroll
                for (u32 e = 0; e < 4; e++) by[e] = exp(g[e]);
            }
            s[j] = s[j] * by;
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                seen = fma(key[j][e], s[j][e], seen);
                product = fma(query[e], s[j][e], product);
                overlap = fma(query[e], key[j][e], overlap);
            }
        }
        seen = lanes_sum<SHARING>(seen);
        product = lanes_sum<SHARING>(product);
        overlap = lanes_sum<SHARING>(overlap);
        const u64 value = value_head * d.v_len + column;
        const float delta = d.beta[value_head] * ((is_column ? d.v[value] : 0.0f) - seen);
#pragma unroll
        for (u32 j = 0; j < FOURS; j++) {
#pragma unroll
            for (u32 e = 0; e < 4; e++) s[j][e] = fma(key[j][e], delta, s[j][e]);
        }
        // q times what the token adds is (q.k) delta
        if (is_column && own == 0) d.out[value] = fma(overlap, delta, product) * d.scale;
    }
#pragma unroll
    for (u32 j = 0; j < FOURS; j++) {
        if (inside(j) && run.y > 0) at(run.w)[place(j)] = s[j];
    }
}

KERNEL(128, 4) void delta_net_k64(Delta d) { delta_net<2>(d); }
KERNEL(128, 2) void delta_net_k128(Delta d) { delta_net<4>(d); }
KERNEL(128, 1) void delta_net_k256(Delta d) { delta_net<8>(d); }

} // namespace recurrent
