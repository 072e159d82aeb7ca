// GGUF blocks, as in the file, to planes.
#include "device.hpp"

namespace split_planes {

// A word of BYTES bytes.
template <u32 BYTES>
struct Unit;
template <>
struct Unit<2> {
    using Type = u16;
};
template <>
struct Unit<4> {
    using Type = u32;
};

// A group takes 256 blocks.
template <class Block>
DEVICE void split(const void *src, Planes planes, u64 n_blocks) {
    using Word = typename Unit<Block::UNIT>::Type;
    constexpr u32 WORDS = Block::BYTES / sizeof(Word), BLOCKS = 256;
    const u64 first = (u64)group_x() * BLOCKS;
    const u32 n_words = (u32)min(n_blocks - first, (u64)BLOCKS) * WORDS;
    const Word *words = static_cast<const Word *>(src) + first * WORDS;

#pragma unroll 4
    for (u32 i = thread_x(); i < n_words; i += 256) {
        const Word word = words[i];
        const u32 block = i / WORDS, offset = i % WORDS * sizeof(Word);
        void *plane = nullptr;
        u32 at = 0, bytes = 0;
#pragma unroll
        for (u32 p = 0; p < Block::N_PLANES; p++) {
            const blocks::Field field = Block::PLANES[p];
            if (offset >= field.offset && offset < field.offset + field.bytes) {
                plane = const_cast<void *>(planes.plane[p]);
                at = offset - field.offset;
                bytes = field.bytes;
            }
        }
        *(Word *)((u8 *)plane + (first + block) * bytes + at) = word;
    }
}

// Q4_K and Q6_K: the bits of 32 consecutive elements are brought together, as matvec.hip and embed.hip read them: 16
// bytes of low nibbles as in Q4_0; of Q6_K also 8 bytes, of which byte i has the high 2 bits of elements i, i + 8,
// i + 16 and i + 24. A thread takes 32 elements, a group 256 blocks.

// Four bytes of an even address.
DEVICE u32 load_halves(const u8 *p) {
    const u16 *halves = (const u16 *)p;
    return halves[0] | (u32)halves[1] << 16;
}

template <class F>
DEVICE void each_32(u64 n_blocks, F f) {
    const u64 first = (u64)group_x() * 2048, last = min(n_blocks * 8, first + 2048);
#pragma unroll 1
    for (u64 i = first + thread_x(); i < last; i += 256) f(i / 8, i % 8);
}

DEVICE void rearrange_q4_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    u32 *qs = const_cast<u32 *>(planes.as<u32>(0)), *dm_scales = const_cast<u32 *>(planes.as<u32>(1));
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q4_K *from = (const blocks::Q4_K *)src + block;
        const u32 *words = (const u32 *)(from->qs + part / 2 * 32), shift = part % 2 * 4;
        u32 *to = qs + (block * 8 + part) * 4;
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            to[k] = (words[k] >> shift & 0x0f0f0f0f) | (words[k + 4] >> shift & 0x0f0f0f0f) << 4;
        }
        if (part < 4) dm_scales[block * 4 + part] = ((const u32 *)from)[part];
    });
}

DEVICE void rearrange_q6_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    u32 *ql = const_cast<u32 *>(planes.as<u32>(0)), *qh = const_cast<u32 *>(planes.as<u32>(1));
    u16 *scales = const_cast<u16 *>(planes.as<u16>(2)), *d = const_cast<u16 *>(planes.as<u16>(3));
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q6_K *from = (const blocks::Q6_K *)src + block;
        const u8 *low = from->ql + part / 4 * 64 + part % 2 * 32, *high = from->qh + part / 4 * 32;
        const u32 nibble = part % 4 / 2 * 4, pair = part % 4 * 2;
        u32 *to = ql + (block * 8 + part) * 4, *pairs = qh + (block * 8 + part) * 2;
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            const u32 first = load_halves(low + k * 4), second = load_halves(low + k * 4 + 16);
            to[k] = (first >> nibble & 0x0f0f0f0f) | (second >> nibble & 0x0f0f0f0f) << 4;
        }
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
            u32 bits = 0;
#pragma unroll
            for (u32 run = 0; run < 4; run++) {
                bits |= (load_halves(high + k * 4 + run * 8) >> pair & 0x03030303) << (run * 2);
            }
            pairs[k] = bits;
        }
        scales[block * 8 + part] = ((const u16 *)from->scales)[part];
        if (part == 0) d[block] = from->d;
    });
}

#define SPLIT(name, Block)                                                                                            \
    KERNEL(256, 8) void split_##name(const void *src, Planes planes, u64 n_blocks) {                                  \
        split<blocks::Block>(src, planes, n_blocks);                                                                  \
    }

SPLIT(q4_0, Q4_0)
SPLIT(q4_1, Q4_1)
SPLIT(q5_0, Q5_0)
SPLIT(q5_1, Q5_1)
SPLIT(q8_0, Q8_0)
SPLIT(q2_k, Q2_K)
SPLIT(q3_k, Q3_K)
SPLIT(q5_k, Q5_K)

KERNEL(256, 8) void split_q4_k(const u8 *src, Planes planes, u64 n_blocks) {
    rearrange_q4_k(src, planes, n_blocks);
}

KERNEL(256, 8) void split_q6_k(const u8 *src, Planes planes, u64 n_blocks) {
    rearrange_q6_k(src, planes, n_blocks);
}

} // namespace split_planes
