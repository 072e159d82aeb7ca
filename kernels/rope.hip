// Rotary position embedding, by a table of cosines and sines.
#include "device.hpp"

// A group turns n_rot elements of one head of one token, from `first` on. Pairs are (i, i + n_rot / 2) of them if
// `halves`, else (2i, 2i + 1). dst may be x.
KERNEL(64, 8) void rope_f32(const float *x, float *dst, const u32 *positions, const float *table, u32 n_heads,
                            u32 head_dim, u32 first, u32 n_rot, u32 halves) {
    const u32 t = group_x(), pairs = n_rot / 2;
    const u64 head = ((u64)t * n_heads + group_y()) * head_dim;
    const float *from = x + head, *turns = table + (u64)positions[t] * pairs * 2;
    float *to = dst + head;
    for (u32 i = thread_x(); i < pairs; i += 64) {
        const u32 a = first + (halves ? i : 2 * i), b = first + (halves ? i + pairs : 2 * i + 1);
        const float cos = turns[2 * i], sin = turns[2 * i + 1];
        const float p = from[a], q = from[b];
        to[a] = p * cos - q * sin;
        to[b] = p * sin + q * cos;
    }
    for (u32 i = thread_x(); i < head_dim; i += 64) {
        if (i - first >= n_rot) to[i] = from[i];
    }
}
