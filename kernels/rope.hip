// Rotary position embedding, by a table of cosines and sines.
#include "device.hpp"

// A group turns one head of one token. Pairs are (i, i + n_rot / 2) if `halves`, else (2i, 2i + 1).
KERNEL(64, 8) void rope_f32(float *x, const u32 *positions, const float *table, u32 n_heads, u32 head_dim, u32 n_rot,
                            u32 halves) {
    const u32 t = group_x(), pairs = n_rot / 2;
    float *head = x + ((u64)t * n_heads + group_y()) * head_dim;
    const float *turns = table + (u64)positions[t] * pairs * 2;
    for (u32 i = thread_x(); i < pairs; i += 64) {
        const u32 a = halves ? i : 2 * i, b = halves ? i + pairs : 2 * i + 1;
        const float cos = turns[2 * i], sin = turns[2 * i + 1];
        const float p = head[a], q = head[b];
        head[a] = p * cos - q * sin;
        head[b] = p * sin + q * cos;
    }
}
