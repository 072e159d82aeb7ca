// Drawing a token from a row of logits, as src/device/sampling.rs defines it: the same bits.
//
// Everything that a draw keeps is a prefix of the candidates in rank order. sample_scan sees all logits, and leaves
// the largest of each 32. sample_pick, one group, takes from these a bound above which the best SEARCHED candidates
// lie and few others, sorts what is above, and cuts and draws there. Where the set that counts does not end within,
// it needs the sum over all (sample_total), or says that it cannot tell: then sample_count and sample_descend find
// the ends digit by digit.
#include "device.hpp"

namespace sample {

// A group's share of the logits, a thread's, and those of which sample_scan leaves the largest.
constexpr u32 GROUP = 256, SHARE = 8, CHUNK = GROUP * SHARE, SEGMENT = 32, SEGMENTS = CHUNK / SEGMENT;
constexpr u32 NONE = ~0u;

// The search that sample_count and sample_descend are about.
constexpr u32 TOP_K = 0, TOP_P = 1, TOKEN = 2;

enum Status : u32 { DRAWN, BAD_LOGIT, NO_CANDIDATE, UNDECIDED };

struct Penalty {
    u32 token;
    float subtract;
};

// As src/device/hip/ops/sample.rs writes it.
struct Params {
    u64 uniform, top_p; // in 2^-64; top_p OFF: all
    u32 top_k;          // 1 to n
    float inverse_temperature, min_p, repeat_penalty;
    u32 n_penalties;
    u32 unused[7];
    Penalty penalties[];
};
constexpr u64 OFF = ~0ull;

// What a group found: the rank of its best, and the first logit that is an error.
struct Found {
    u64 best;
    u32 bad;
    u32 unused;
};

struct Outcome {
    u32 status, token;
    float logit;
    u32 unused;
};

// Where the searches are.
struct Search {
    u64 floor;  // the last of the set
    u64 prefix; // what is known of the rank looked for
    u64 before; // sum over the set above the prefix
    u64 limit;  // the sum there exceeds it
    float best;
    u32 unused;
};

// ---- Ranks ----
//
// A rank, greater is better: 32 bits of the logit, in order, and 20 of the id, from behind.

constexpr u32 ID_BITS = 20, MINUS_INFINITY = 0x007fffff;
constexpr u64 ANY = (u64)(MINUS_INFINITY + 1) << ID_BITS;

// The order of floats, for integers; -0 is 0.
DEVICE u32 key_of(float logit) {
    const u32 b = bits<u32>(logit), zeroed = b == 0x80000000 ? 0 : b;
    return zeroed ^ ((u32)((i32)zeroed >> 31) | 0x80000000);
}
DEVICE float logit_of_key(u32 key) { return bits<float>(key ^ ((u32)((i32)~key >> 31) | 0x80000000)); }

DEVICE u64 rank_of(u32 key, u32 id) { return (u64)key << ID_BITS | (((1u << ID_BITS) - 1) - id); }
DEVICE u32 id_of(u64 rank) { return ((1u << ID_BITS) - 1) - ((u32)rank & ((1u << ID_BITS) - 1)); }
DEVICE float logit_of(u64 rank) { return logit_of_key((u32)(rank >> ID_BITS)); }

// ---- Arithmetic ----

DEVICE bool is_bad(float logit) { return !(logit < __builtin_inff()); }

DEVICE float penalized(float logit, Penalty penalty, float repeat_penalty) {
    const float scaled = logit > 0.0f ? logit / repeat_penalty : logit * repeat_penalty;
    return scaled - penalty.subtract;
}

// exp((logit - best) * inverse_temperature) in 2^-40, rounded down.
DEVICE u64 weight(float logit, float best, float inverse_temperature) {
    constexpr float LOG2_E = 1.442695f, LN_2 = 0.6933594f, LN_2_REST = -2.1219444e-4f, ROUND = 12582912.0f;
    const float x = (logit - best) * inverse_temperature;
    const float rounded = x * LOG2_E + ROUND;
    const float n = rounded - ROUND;
    const float r = (x - n * LN_2) - n * LN_2_REST;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0e-1f;
    const float e = (p * (r * r) + r) + 1.0f;
    // of any x, so that the conversion is defined: what is far off is not used
    const bool counts = x > -28.0f;
    const u32 mantissa = (u32)(counts ? e * 16777216.0f : 0.0f);
    return ((u64)mantissa << 16) >> (bits<u32>(ROUND) - bits<u32>(rounded) & 63);
}

// The upper 64 bits of the product.
DEVICE u64 share(u64 fraction, u64 sum) {
    const u64 a = (u32)fraction, b = fraction >> 32, c = (u32)sum, d = sum >> 32;
    const u64 low = a * c, middle = a * d + (low >> 32), other = b * c + (u32)middle;
    return b * d + (middle >> 32) + (other >> 32);
}

// ---- Groups ----

template <class T>
DEVICE T greater(T a, T b) { return a > b ? a : b; }
template <class T>
DEVICE T less(T a, T b) { return a < b ? a : b; }
template <class T>
DEVICE T plus(T a, T b) { return a + b; }

DEVICE u32 atomic_add(u32 *p, u32 value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
DEVICE void atomic_add(u64 *p, u64 value) { __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }

template <u32 MASK = 1, class T>
DEVICE T lanes_scan(T own, T all) {
    if constexpr (MASK < LANES) {
        const T other = lane_xor<MASK>(all);
        return lanes_scan<MASK * 2, T>(thread_x() & MASK ? own + other : own, all + other);
    } else {
        return own;
    }
}

// The sum over this thread and those before it, and over all. A group of THREADS.
template <class T>
struct Scan {
    T own, all;
};
template <u32 THREADS, class T>
DEVICE Scan<T> group_scan(T value) {
    constexpr u32 WAVES = THREADS / LANES;
    SHARED T parts[WAVES];
    T own = lanes_scan(value, value), all = 0;
    if (thread_x() % LANES == LANES - 1) parts[thread_x() / LANES] = own;
    barrier();
#pragma unroll 8
    for (u32 wave = 0; wave < WAVES; wave++) {
        if (wave == thread_x() / LANES) own += all;
        all += parts[wave];
    }
    barrier();
    return {own, all};
}

// Of two values a thread, in order, the first at which the running sum exceeds the limit.
template <class T>
struct Crossing {
    u32 at;
    T before;
};
template <class T>
DEVICE Crossing<T> group_crossing(T first, T second, Scan<T> scan, T limit) {
    SHARED Crossing<T> found;
    if (thread_x() == 0) found = {NONE, 0};
    barrier();
    const T before = scan.own - first - second;
    if (before <= limit && limit < scan.own) {
        const bool is_second = before + first <= limit;
        found = {2 * thread_x() + is_second, is_second ? before + first : before};
    }
    barrier();
    const Crossing<T> result = found;
    barrier();
    return result;
}

// ---- Kernels ----

DEVICE const float *logits_to_draw(const float *logits, const Params *params, const float *changed) {
    return params->n_penalties ? changed : logits;
}

// The thread's logits of the group's chunk; minus infinity beyond n.
DEVICE void load_share(const float *logits, u32 n, float (&share)[SHARE]) {
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) {
        const u32 id = group_x() * CHUNK + i * GROUP + thread_x();
        share[i] = id < n ? logits[id] : -__builtin_inff();
    }
}

// Found of the group, largest keys of its segments; with penalties also the logits that they leave. Segment s of a
// chunk has the elements i * 256 + 4 * s + e with e < 4.
KERNEL(256, 4)
void sample_scan(const float *logits, const Params *params, float *changed, Found *found, u32 *segments, u32 n) {
    SHARED float chunk[CHUNK];
    const u32 first = group_x() * CHUNK;
    float share[SHARE];
    load_share(logits, n, share);
    if (const u32 n_penalties = params->n_penalties) {
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) chunk[i * GROUP + thread_x()] = share[i];
        barrier();
        for (u32 i = thread_x(); i < n_penalties; i += GROUP) {
            const Penalty penalty = params->penalties[i];
            float &logit = chunk[penalty.token % CHUNK];
            if (penalty.token / CHUNK == group_x() && penalty.token < n)
                logit = penalized(logit, penalty, params->repeat_penalty);
        }
        barrier();
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            share[i] = chunk[i * GROUP + thread_x()];
            if (first + i * GROUP + thread_x() < n) changed[first + i * GROUP + thread_x()] = share[i];
        }
    }

    u32 best = 0, best_id = 0, bad = NONE;
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) {
        const u32 id = first + i * GROUP + thread_x(), key = key_of(share[i]);
        const bool better = key > best;
        best = better ? key : best;
        best_id = better ? id : best_id;
        bad = is_bad(share[i]) && bad == NONE ? id : bad;
    }
    const u32 segment = lanes_reduce<4>(best, greater<u32>);
    if (thread_x() % 4 == 0) segments[group_x() * SEGMENTS + thread_x() / 4] = segment;
    const u64 rank = group_reduce<GROUP>(rank_of(best, best_id), greater<u64>);
    bad = group_reduce<GROUP>(bad, less<u32>);
    if (thread_x() == 0) found[group_x()] = {rank, bad, 0};
}

// The best of all groups.
template <u32 THREADS>
DEVICE u64 best_of(const Found *found, u32 n) {
    u64 best = 0;
    for (u32 i = thread_x(); i < (n + CHUNK - 1) / CHUNK; i += THREADS) best = greater(best, found[i].best);
    return group_reduce<THREADS>(best, greater<u64>);
}

// totals[g]: sum of the chunk's weights: for top-p, or else for the draw.
KERNEL(256, 4)
void sample_total(const float *logits, const Params *params, const float *changed, const Found *found, u64 *totals,
                  u32 n) {
    float share[SHARE];
    load_share(logits_to_draw(logits, params, changed), n, share);
    const float best = logit_of(best_of<GROUP>(found, n));
    const float inverse_temperature = params->top_p != OFF ? 1.0f : params->inverse_temperature;
    u64 sum = 0;
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) sum += weight(share[i], best, inverse_temperature);
    sum = group_reduce<GROUP>(sum, plus<u64>);
    if (thread_x() == 0) totals[group_x()] = sum;
}

// Of sample_pick: threads, bins of a histogram, places for segments and candidates, and how many of the best the
// bound is chosen for.
constexpr u32 PICK = 1024, BINS = 2 * PICK, PLACES = BINS, SEARCHED = 1024;

// Adds a segment's or candidate's place to a list; PLACES or more if it is full.
template <class T>
DEVICE void append(T *list, u32 *count, T value) {
    const u32 place = atomic_add(count, 1);
    if (place < PLACES) list[place] = value;
}

// Sorts `count` ranks, the greatest first; a power of two, up to BINS.
DEVICE void sort(u64 *ranks, u32 count) {
    for (u32 run = 2; run <= count; run *= 2) {
        for (u32 step = run / 2; step > 0; step /= 2) {
            const u32 i = thread_x(), low = 2 * i - (i & (step - 1)), high = low + step;
            if (i < count / 2) {
                const u64 a = ranks[low], b = ranks[high];
                const bool falls = (low & run) == 0;
                if ((a < b) == falls) ranks[low] = b, ranks[high] = a;
            }
            barrier();
        }
    }
}

// The bin, of BINS from the last one down, at which the running sum exceeds the limit.
template <class T>
DEVICE Crossing<T> bin_crossing(T first, T second, T limit) {
    Crossing<T> crossing = group_crossing(first, second, group_scan<PICK>(first + second), limit);
    crossing.at = BINS - 1 - crossing.at;
    return crossing;
}

// A key that at least `wanted` of the segments reach, and few more: the upper 22 bits of the one of that rank.
DEVICE u32 bound_of(const u32 *segments, u32 n_segments, u32 wanted, u32 *bins) {
    u32 prefix = 0, limit = wanted - 1;
#pragma unroll 1
    for (i32 shift = 21; shift >= 10; shift -= 11) {
        bins[thread_x()] = bins[thread_x() + PICK] = 0;
        barrier();
        for (u32 i = thread_x(); i < n_segments; i += PICK) {
            const u32 key = segments[i];
            if (shift == 21 || (key ^ prefix) >> 21 == 0) atomic_add(&bins[key >> shift & (BINS - 1)], 1);
        }
        barrier();
        const u32 first = bins[BINS - 1 - 2 * thread_x()], second = bins[BINS - 2 - 2 * thread_x()];
        const Crossing<u32> crossing = bin_crossing(first, second, limit);
        prefix |= crossing.at << shift;
        limit -= crossing.before;
    }
    return prefix;
}

// Draws, or says why not. One group.
KERNEL(1024, 4)
void sample_pick(const float *logits, const Params *params, const float *changed, const Found *found,
                 const u32 *segments, const u64 *totals, Search *search, u64 *histogram, Outcome *outcome, u32 n) {
    SHARED u64 ranks[PLACES];
    SHARED u32 places[PLACES];
    SHARED u32 n_places, n_ranks;
    logits = logits_to_draw(logits, params, changed);
    const u32 n_groups = (n + CHUNK - 1) / CHUNK, n_segments = n_groups * SEGMENTS;

    const u64 best_rank = best_of<PICK>(found, n);
    u32 bad = thread_x() < n_groups ? found[thread_x()].bad : NONE;
    bad = group_reduce<PICK>(bad, less<u32>);
    const u32 top_k = params->top_k;
    if (bad != NONE || best_rank < ANY || top_k == 1) {
        if (thread_x() == 0) {
            if (bad != NONE) *outcome = {BAD_LOGIT, bad, logits[bad], 0};
            else if (best_rank < ANY) *outcome = {NO_CANDIDATE, 0, 0.0f, 0};
            else *outcome = {DRAWN, id_of(best_rank), 0.0f, 0};
        }
        return;
    }
    const float best = logit_of(best_rank);
    const auto undecided = [&] {
        histogram[thread_x()] = histogram[thread_x() + PICK] = 0;
        if (thread_x() == 0) {
            *search = {ANY, 0, 0, 0, best, 0};
            *outcome = {UNDECIDED, 0, 0.0f, 0};
        }
    };

    // What is above the bound.
    u32 bound = MINUS_INFINITY + 1;
    if (n > PLACES) {
        // of m segments 3 / 4 m hold some 1.4 m logits that are as large
        const u32 wanted = min(min(top_k, SEARCHED), n / SEGMENT * 3 / 4);
        bound = greater(bound, bound_of(segments, n_segments, wanted, places));
    }
    barrier();
    if (thread_x() == 0) n_places = n_ranks = 0;
    barrier();
    for (u32 i = thread_x(); i < n_segments; i += PICK) {
        if (segments[i] >= bound) append(places, &n_places, i);
    }
    barrier();
    if (n_places > PLACES) return undecided();
    for (u32 i = thread_x(); i < n_places * SEGMENT; i += PICK) {
        const u32 segment = places[i / SEGMENT], e = i % SEGMENT;
        const u32 id = segment / SEGMENTS * CHUNK + e / 4 * GROUP + segment % SEGMENTS * 4 + e % 4;
        const u32 key = id < n ? key_of(logits[id]) : 0;
        if (key >= bound) append(ranks, &n_ranks, rank_of(key, id));
    }
    barrier();
    const u32 n_found = n_ranks;
    if (n_found > PLACES) return undecided();
    u32 count = 2;
    while (count < n_found) count *= 2;
    for (u32 i = n_found + thread_x(); i < count; i += PICK) ranks[i] = 0;
    barrier();
    sort(ranks, count);

    // A thread has two neighbours; the first `kept` stay. `ends`: the set that counts ends with them, else its sum is
    // that of all logits.
    const u32 i = 2 * thread_x();
    const u64 first = i < count ? ranks[i] : 0, second = i < count ? ranks[i + 1] : 0;
    u32 kept = min(n_found, top_k);
    bool ends = top_k <= n_found || bound == MINUS_INFINITY + 1;
    const auto crossing = [&](float inverse_temperature, float bar, u64 fraction, bool at_least) {
        const auto counted = [&](u64 rank, u32 at) -> u64 {
            const float logit = logit_of(rank);
            return at < kept && logit >= bar ? weight(logit, best, inverse_temperature) : 0;
        };
        const u64 a = counted(first, i), b = counted(second, i + 1);
        const Scan<u64> scan = group_scan<PICK>(a + b);
        u64 sum = scan.all;
        if (!ends) sum = group_reduce<PICK>(thread_x() < n_groups ? totals[thread_x()] : 0, plus<u64>);
        u64 limit = share(fraction, sum);
        limit -= at_least && limit > 0;
        return group_crossing(a, b, scan, limit).at;
    };
    if (params->top_p != OFF) {
        if (!ends && top_k < n) return undecided();
        const u32 at = crossing(1.0f, -__builtin_inff(), params->top_p, true);
        if (at == NONE) return undecided();
        kept = at + 1;
        ends = true;
    }
    const float bar = best + params->min_p;
    ends = ends || logit_of(ranks[kept - 1]) < bar;
    if (!ends && (top_k < n || bar > -__builtin_inff())) return undecided();
    const u32 at = crossing(params->inverse_temperature, bar, params->uniform, false);
    if (at == NONE) return undecided();
    if (thread_x() == 0) *outcome = {DRAWN, id_of(ranks[at]), 0.0f, 0};
}

// ---- What sample_pick leaves undecided ----

// The digits of a rank, from the highest.
DEVICE u32 shift_of(u32 digit) { return digit == 0 ? 41 : digit == 1 ? 30 : 20 - (digit - 2) * 10; }
DEVICE u32 bins_of(u32 digit) { return digit < 2 ? 2048 : 1024; }
constexpr u32 DIGITS = 5;

// The last rank of the set that the search is in. min-p counts for the token only.
DEVICE u64 floor_of(const Search *search, const Params *params, u32 what) {
    const u64 bar = (u64)key_of(search->best + params->min_p) << ID_BITS;
    return what == TOKEN ? greater(search->floor, bar) : search->floor;
}

// Adds what each of the set's ranks weighs to the bin of its digit, if it begins with the prefix.
KERNEL(256, 4)
void sample_count(const float *logits, const Params *params, const float *changed, const Search *search,
                  u64 *histogram, u32 n, u32 what, u32 digit) {
    SHARED u64 bins[BINS];
    for (u32 i = thread_x(); i < BINS; i += GROUP) bins[i] = 0;
    float share[SHARE];
    load_share(logits_to_draw(logits, params, changed), n, share);
    const u64 floor = floor_of(search, params, what), prefix = search->prefix;
    const u32 shift = shift_of(digit), n_bins = bins_of(digit);
    const float best = search->best, inverse_temperature = what == TOKEN ? params->inverse_temperature : 1.0f;
    barrier();
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) {
        const u64 rank = rank_of(key_of(share[i]), group_x() * CHUNK + i * GROUP + thread_x());
        if (rank >= floor && (rank ^ prefix) >> shift < n_bins) {
            const u64 weighs = what == TOP_K ? 1 : weight(share[i], best, inverse_temperature);
            atomic_add(&bins[rank >> shift & (n_bins - 1)], weighs);
        }
    }
    barrier();
    for (u32 i = thread_x(); i < BINS; i += GROUP) {
        if (bins[i]) atomic_add(&histogram[i], bins[i]);
    }
}

// Finds the digit, and after the last one the set's end or the token. Leaves the histogram empty. One group.
KERNEL(1024, 4)
void sample_descend(const Params *params, Search *search, u64 *histogram, Outcome *outcome, u32 what, u32 digit) {
    const u32 at = BINS - 1 - 2 * thread_x();
    const u64 first = histogram[at], second = histogram[at - 1];
    histogram[at] = histogram[at - 1] = 0;
    const Scan<u64> scan = group_scan<PICK>(first + second);
    u64 limit = search->limit, before = search->before, prefix = search->prefix;
    if (digit == 0) {
        before = prefix = 0;
        if (what == TOP_K) {
            limit = min((u64)params->top_k, scan.all) - 1; // all of the set, if it is smaller
        } else {
            limit = share(what == TOP_P ? params->top_p : params->uniform, scan.all);
            limit -= what == TOP_P && limit > 0;
        }
    }
    const Crossing<u64> crossing = group_crossing(first, second, scan, limit - before);
    prefix |= (u64)(BINS - 1 - crossing.at) << shift_of(digit);
    if (thread_x() != 0) return;
    search->prefix = prefix;
    search->before = before + crossing.before;
    search->limit = limit;
    if (digit + 1 == DIGITS) {
        if (what == TOKEN) *outcome = {DRAWN, id_of(prefix), 0.0f, 0};
        else search->floor = prefix;
    }
}

} // namespace sample
