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

// The bits of 32 consecutive columns are brought together, as units.hpp and embed.hip read them: 16 bytes of low
// nibbles as in Q4_0; one word of fifth (of Q3_K third) bits, bit 8 * b + k of column 4 * k + b; 8 bytes of pairs of
// bits, byte i of columns i, i + 8, i + 16 and i + 24. A thread takes 32 columns, a group 256 blocks.

// Four bytes of an even address.
DEVICE u32 load_halves(const void *p) {
    const u16 *halves = (const u16 *)p;
    return halves[0] | (u32)halves[1] << 16;
}

template <class T>
DEVICE T *writable(const Planes &planes, int i) {
    return const_cast<T *>(planes.as<T>(i));
}

template <class F>
DEVICE void each_32(u64 n_blocks, F f) {
    const u64 first = (u64)group_x() * 2048, last = min(n_blocks * 8, first + 2048);
#pragma unroll 1
    for (u64 i = first + thread_x(); i < last; i += 256) f(i / 8, i % 8);
}

// Nibbles at `shift` of 32 bytes.
DEVICE void join_nibbles(const u8 *bytes, u32 shift, u32 *to) {
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        const u32 low = load_halves(bytes + k * 4), high = load_halves(bytes + k * 4 + 16);
        to[k] = (low >> shift & 0x0f0f0f0f) | (high >> shift & 0x0f0f0f0f) << 4;
    }
}

// Pairs of bits at `shift` of 32 bytes.
DEVICE void join_pairs(const u8 *bytes, u32 shift, u32 *to) {
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
        u32 bits = 0;
#pragma unroll
        for (u32 run = 0; run < 4; run++) {
            bits |= (load_halves(bytes + k * 4 + run * 8) >> shift & 0x03030303) << (run * 2);
        }
        to[k] = bits;
    }
}

// Bits at `shift` of 32 bytes.
DEVICE u32 join_bits(const u8 *bytes, u32 shift) {
    u32 bits = 0;
#pragma unroll
    for (u32 k = 0; k < 8; k++) bits |= (load_halves(bytes + k * 4) >> shift & 0x01010101) << k;
    return bits;
}

// Q5_0, Q5_1: bit j of the block's word is that of column j.
template <class Block, class Factors>
DEVICE void rearrange_q5(const u8 *src, const Planes &planes, u64 n_blocks) {
    const u64 block = (u64)group_x() * 256 + thread_x();
    if (block >= n_blocks) return;
    const u8 *from = src + block * Block::BYTES;
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
        writable<u32>(planes, 0)[block * 4 + k] = load_halves(from + Block::PLANES[0].offset + k * 4);
    }
    const u32 in_order = load_halves(from + Block::PLANES[1].offset);
    u32 bits = 0;
#pragma unroll
    for (u32 k = 0; k < 8; k++) {
#pragma unroll
        for (u32 b = 0; b < 4; b++) bits |= (in_order >> (4 * k + b) & 1) << (8 * b + k);
    }
    writable<u32>(planes, 1)[block] = bits;
    writable<Factors>(planes, 2)[block] = *(const Factors *)from;
}

DEVICE void rearrange_q2_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q2_K *from = (const blocks::Q2_K *)src + block;
        const u64 unit = block * 8 + part;
        join_pairs(from->qs + part / 4 * 32, part % 4 * 2, writable<u32>(planes, 0) + unit * 2);
        writable<u16>(planes, 1)[unit] = ((const u16 *)from->scales)[part];
        if (part < 2) writable<u16>(planes, 2)[block * 2 + part] = (&from->d)[part];
    });
}

DEVICE void rearrange_q3_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q3_K *from = (const blocks::Q3_K *)src + block;
        const u64 unit = block * 8 + part;
        join_pairs(from->qs + part / 4 * 32, part % 4 * 2, writable<u32>(planes, 0) + unit * 2);
        writable<u32>(planes, 1)[unit] = join_bits(from->hmask, part);
        if (part < 6) writable<u16>(planes, 2)[block * 6 + part] = ((const u16 *)from->scales)[part];
        if (part == 0) writable<u16>(planes, 3)[block] = from->d;
    });
}

DEVICE void rearrange_q4_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q4_K *from = (const blocks::Q4_K *)src + block;
        join_nibbles(from->qs + part / 2 * 32, part % 2 * 4, writable<u32>(planes, 0) + (block * 8 + part) * 4);
        if (part < 4) writable<u32>(planes, 1)[block * 4 + part] = ((const u32 *)from)[part];
    });
}

DEVICE void rearrange_q5_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q5_K *from = (const blocks::Q5_K *)src + block;
        const u64 unit = block * 8 + part;
        join_nibbles(from->qs + part / 2 * 32, part % 2 * 4, writable<u32>(planes, 0) + unit * 4);
        writable<u32>(planes, 1)[unit] = join_bits(from->qh, part);
        if (part < 4) writable<u32>(planes, 2)[block * 4 + part] = ((const u32 *)from)[part];
    });
}

DEVICE void rearrange_q6_k(const u8 *src, const Planes &planes, u64 n_blocks) {
    each_32(n_blocks, [=](u64 block, u32 part) {
        const blocks::Q6_K *from = (const blocks::Q6_K *)src + block;
        const u64 unit = block * 8 + part;
        join_nibbles(from->ql + part / 4 * 64 + part % 2 * 32, part % 4 / 2 * 4, writable<u32>(planes, 0) + unit * 4);
        join_pairs(from->qh + part / 4 * 32, part % 4 * 2, writable<u32>(planes, 1) + unit * 2);
        writable<u16>(planes, 2)[unit] = ((const u16 *)from->scales)[part];
        if (part == 0) writable<u16>(planes, 3)[block] = from->d;
    });
}

#define SPLIT(name, Block)                                                                                            \
    KERNEL(256, 8) void split_##name(const void *src, Planes planes, u64 n_blocks) {                                  \
        split<blocks::Block>(src, planes, n_blocks);                                                                  \
    }

#define REARRANGE(name, ...)                                                                                          \
    KERNEL(256, 8) void split_##name(const u8 *src, Planes planes, u64 n_blocks) {                                    \
        __VA_ARGS__(src, planes, n_blocks);                                                                           \
    }

SPLIT(q4_0, Q4_0)
SPLIT(q4_1, Q4_1)
SPLIT(q8_0, Q8_0)
REARRANGE(q5_0, rearrange_q5<blocks::Q5_0, u16>)
REARRANGE(q5_1, rearrange_q5<blocks::Q5_1, u32>)
REARRANGE(q2_k, rearrange_q2_k)
REARRANGE(q3_k, rearrange_q3_k)
REARRANGE(q4_k, rearrange_q4_k)
REARRANGE(q5_k, rearrange_q5_k)
REARRANGE(q6_k, rearrange_q6_k)

} // namespace split_planes
