// Activations to 8 bits.
#include "activations.hpp"

// Eight lanes a block, 32 blocks a group.
KERNEL(256, 8) void quantize_q8(const f32x4 *x, u32 *q, f32x2 *ds, u64 n_blocks) {
    const u64 i = (u64)group_x() * 256 + thread_x(); // of four columns
    const bool inside = i / 8 < n_blocks;
    const Rounded8 rounded(inside ? x[i] : f32x4(0.0f));
    if (!inside) return;
    q[i] = rounded.packed;
    if (thread_x() % 8 == 0) ds[i / 8] = rounded.ds;
}
