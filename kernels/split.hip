// GGUF blocks, as in the file, to planes.
#include "device.hpp"

namespace split_planes {

// The largest unit that every field of the block starts and ends at.
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

#define SPLIT(name, Block)                                                                                            \
    KERNEL(256, 8) void split_##name(const void *src, Planes planes, u64 n_blocks) {                                     \
        split<blocks::Block>(src, planes, n_blocks);                                                                  \
    }

SPLIT(q4_0, Q4_0)
SPLIT(q4_1, Q4_1)
SPLIT(q5_0, Q5_0)
SPLIT(q5_1, Q5_1)
SPLIT(q8_0, Q8_0)
SPLIT(q2_k, Q2_K)
SPLIT(q3_k, Q3_K)
SPLIT(q4_k, Q4_K)
SPLIT(q5_k, Q5_K)
SPLIT(q6_k, Q6_K)

} // namespace split_planes
