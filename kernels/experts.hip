// Mixtures of experts: the choice, pairs of tokens and experts sorted by expert, and the weighted sum.
#include "activations.hpp"

namespace experts {

constexpr u32 MOST = 1024; // experts, as MOST_EXPERTS of src/device/hip/ops/experts.rs

enum Gating : u32 { SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN };

// As in src/plan/op.rs.
struct Routing {
    u32 n_experts, n_used, gating;
    float least_sum, scale;
    u32 n_groups, n_groups_used, per_id;
};

DEVICE float sum_of(float a, float b) { return a + b; }
DEVICE float larger(float a, float b) { return max(a, b); } // of a NaN and a number the number

// The larger value orders higher, and of equal ones the first; NaN, 0, is below all.
DEVICE u64 rank(float value, u32 expert) {
    if (value != value) return 0;
    const u32 word = bits<u32>(value + 0.0f); // -0 is 0
    return (u64)(word >> 31 ? ~word : word | 0x80000000) << 32 | ~expert;
}

// Of each token's logits, f32 [token][n_experts], the ids and weights of the best experts as src/device/routing.rs
// defines them; bias: f32 an expert, or null. A group a token.
KERNEL(64, 2) void route(const float *logits, const float *bias, u32 *ids, float *weights, Routing r) {
    constexpr u32 THREADS = 64;
    SHARED float values[MOST], select[MOST], chosen[MOST];
    const u64 token = group_x();
    const float *row = logits + token * r.n_experts;
    // a thread's own experts: what it writes of them it may read without a barrier
    const auto own = [&](auto f) {
        for (u32 i = thread_x(); i < r.n_experts; i += THREADS) f(i);
    };

    own([&](u32 i) { values[i] = row[i]; });
    if (r.gating == SOFTMAX) {
        float most = -__builtin_inff(), sum = 0.0f;
        own([&](u32 i) { most = larger(most, values[i]); });
        most = group_reduce<THREADS>(most, larger);
        own([&](u32 i) {
            values[i] = exp(values[i] - most);
            sum += values[i];
        });
        sum = group_reduce<THREADS>(sum, sum_of);
        own([&](u32 i) { values[i] /= sum; });
    } else if (r.gating == SIGMOID) {
        own([&](u32 i) { values[i] = 1.0f / (1.0f + exp(-values[i])); });
    }
    own([&](u32 i) { select[i] = bias ? values[i] + bias[i] : values[i]; });

    if (r.n_groups > 1) {
        const u32 len = r.n_experts / r.n_groups;
        barrier();
        // a group's score: the sum of its two best
        for (u32 group = thread_x(); group < r.n_groups; group += THREADS) {
            float first = -__builtin_inff(), second = first;
            for (u32 i = group * len; i < (group + 1) * len; i++) {
                const float v = select[i];
                if (v > first) {
                    second = first;
                    first = v;
                } else if (v > second) {
                    second = v;
                }
            }
            chosen[group] = second == -__builtin_inff() ? first : first + second;
        }
        barrier();
        own([&](u32 i) {
            const u32 group = i / len;
            u32 better = 0;
            for (u32 other = 0; group < r.n_groups && other < r.n_groups; other++) {
                const float mine = chosen[group], theirs = chosen[other];
                better += theirs > mine || (theirs == mine && other < group);
            }
            if (better >= r.n_groups_used || select[i] != select[i]) select[i] = -__builtin_inff();
        });
    }

    for (u32 k = 0; k < r.n_used; k++) {
        u64 best = 0;
        own([&](u32 i) {
            const u64 other = rank(select[i], i);
            best = best > other ? best : other;
        });
        best = group_reduce<THREADS>(best, [](u64 a, u64 b) { return a > b ? a : b; });
        // where nothing is a number the last
        const u32 expert = best ? ~(u32)best : r.n_experts - 1;
        if (expert % THREADS == thread_x()) {
            select[expert] = __builtin_nanf("");
            const u32 shared = r.per_id == 1 ? expert : expert / r.per_id;
            chosen[k] = values[shared];
            ids[token * r.n_used + k] = shared;
        }
    }

    const auto each = [&](auto f) {
        for (u32 k = thread_x(); k < r.n_used; k += THREADS) f(k);
    };
    // by the sum, at least `least`; NaN: the sum whatever it is
    const auto divide = [&](float least) {
        barrier();
        float sum = 0.0f;
        for (u32 k = 0; k < r.n_used; k++) sum += chosen[k];
        sum = larger(sum, least);
        barrier();
        each([&](u32 k) { chosen[k] /= sum; });
    };
    if (r.gating == SOFTMAX_OF_CHOSEN) {
        barrier();
        float most = -__builtin_inff();
        for (u32 k = 0; k < r.n_used; k++) most = larger(most, chosen[k]);
        barrier();
        each([&](u32 k) { chosen[k] = exp(chosen[k] - most); });
        divide(__builtin_nanf(""));
    }
    if (r.least_sum > 0.0f) divide(r.least_sum);
    barrier();
    each([&](u32 k) { weights[token * r.n_used + k] = chosen[k] * r.scale; });
}

// Sorts pairs by expert, as `ids` names it, for the matrix products: `pairs` and `tokens` (pair / n_used) in that order,
// and tiles (expert, first place, last place + 1) of 64 places and, behind them, of 128; those of no places are 0. One
// group. In which order an expert's pairs come makes no difference to their products.
KERNEL(1024, 4) void sort_pairs(const u32 *ids, u32 *pairs, u32 *tokens, u32x4 *tiles, u32 n_pairs, u32 n_used,
                                u32 n_small, u32 n_large) {
    SHARED u32 counts[MOST];
    SHARED u32x4 sums[MOST];
    const u32 expert = thread_x();
    const auto next = [&](u32 of) { return __atomic_fetch_add(&counts[of], 1, __ATOMIC_RELAXED); };
    counts[expert] = 0;
    barrier();
    for (u32 pair = thread_x(); pair < n_pairs; pair += MOST) next(ids[pair]);
    barrier();

    // of places, small tiles and large ones: those of all experts up to the own
    const u32 count = counts[expert];
    const u32x4 own = {count, (count + 63) / 64, (count + 127) / 128, 0};
    u32x4 upto = own;
    for (u32 step = 1; step < MOST; step *= 2) {
        sums[expert] = upto;
        barrier();
        if (expert >= step) upto = upto + sums[expert - step];
        barrier();
    }
    sums[expert] = upto;
    counts[expert] = upto.x - count;
    barrier();
    const u32x4 all = sums[MOST - 1];
    const auto cut = [&](u32x4 *to, u32 side, u32 last, u32 n, u32 used, u32 room) {
        for (u32 i = 0; i < n; i++) to[last - n + i] = u32x4{expert, upto.x - count + i * side, upto.x, 0};
        for (u32 i = used + thread_x(); i < room; i += MOST) to[i] = 0;
    };
    cut(tiles, 64, upto.y, own.y, all.y, n_small);
    cut(tiles + n_small, 128, upto.z, own.z, all.z, n_large);
    for (u32 pair = thread_x(); pair < n_pairs; pair += MOST) {
        const u32 place = next(ids[pair]);
        pairs[place] = pair;
        tokens[place] = pair / n_used;
    }
}

// dst[t] = sum over k, in order, of weights[t][k] * x[t][k], or of x[t][k] where weights is null, rows of `width`; on top of
// add[t] unless that is null, which dst may be. x counts tokens, y runs of 1,024 columns.
KERNEL(256, 8) void combine(const float *x, const float *weights, const float *add, float *dst, u32 width, u32 n_used) {
    constexpr u32 THREADS = 256, PER_THREAD = 4;
    const u64 token = group_x();
    const u32 first = group_y() * (THREADS * PER_THREAD) + thread_x();
    float sums[PER_THREAD] = {};
    for (u32 k = 0; k < n_used; k++) {
        const float weight = weights ? weights[token * n_used + k] : 1.0f;
        const float *row = x + (token * n_used + k) * width;
#pragma unroll
        for (u32 c = 0; c < PER_THREAD; c++) {
            const u32 col = first + c * THREADS;
            if (col < width) sums[c] = sums[c] + weight * row[col];
        }
    }
#pragma unroll
    for (u32 c = 0; c < PER_THREAD; c++) {
        const u32 col = first + c * THREADS;
        if (col < width) dst[token * width + col] = add ? add[token * width + col] + sums[c] : sums[c];
    }
}

// dst[t][k] = weights[t][k] * x[t], rows of `width`. x counts pairs of t and k, y runs of 1,024 columns.
KERNEL(256, 8) void spread(const float *x, const float *weights, float *dst, u32 width, u32 n_used) {
    constexpr u32 THREADS = 256, PER_THREAD = 4;
    const u64 pair = group_x();
    const float weight = weights[pair];
    const float *row = x + pair / n_used * width;
#pragma unroll
    for (u32 c = 0; c < PER_THREAD; c++) {
        const u32 col = (group_y() * PER_THREAD + c) * THREADS + thread_x();
        if (col < width) dst[pair * width + col] = weight * row[col];
    }
}

} // namespace experts
