// GGUF blocks, as in the file, to planes.
#include "device.hpp"

namespace split_planes {

using namespace blocks;

constexpr u32 BLOCKS = 256; // of a group

// A word of BYTES bytes.
template <u32 BYTES>
struct Unit {
    using Type = u32;
};
template <>
struct Unit<2> {
    using Type = u16;
};
template <>
struct Unit<1> {
    using Type = u8;
};

DEVICE u8 *plane_of(const Planes &planes, int i) { return const_cast<u8 *>(planes.as<u8>(i)); }

// Fields that stay as in the file: a word after the other.
template <class Block>
DEVICE void copy_fields(const u8 *src, const Planes &planes, u64 n_blocks) {
    using Word = typename Unit<word_bytes<Block>()>::Type;
    constexpr u32 WORDS = Block::BYTES / sizeof(Word);
    const u64 first = (u64)group_x() * BLOCKS;
    const u32 n_words = (u32)min(n_blocks - first, (u64)BLOCKS) * WORDS;
    const Word *words = (const Word *)src + first * WORDS;

#pragma unroll 4
    for (u32 i = thread_x(); i < n_words; i += 256) {
        const Word word = words[i];
        const u32 block = i / WORDS, offset = i % WORDS * sizeof(Word);
        u8 *to = nullptr;
        u32 at = 0, bytes = 0;
#pragma unroll
        for (u32 p = 0; p < N_PLANES<Block>; p++) {
            const Field field = Block::PLANES[p];
            if (offset >= field.offset && offset < field.offset + field.bytes) {
                to = plane_of(planes, p);
                at = offset - field.offset;
                bytes = field.bytes;
            }
        }
        *(Word *)(to + (first + block) * bytes + at) = word;
    }
}

// Four bytes of an even address.
DEVICE u32 load_halves(const void *p) {
    const u16 *halves = (const u16 *)p;
    return halves[0] | (u32)halves[1] << 16;
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

// Bits that are in order.
DEVICE u32 spread_bits(u32 in_order) {
    u32 bits = 0;
#pragma unroll
    for (u32 k = 0; k < 8; k++) {
#pragma unroll
        for (u32 b = 0; b < 4; b++) bits |= (in_order >> (4 * k + b) & 1) << (8 * b + k);
    }
    return bits;
}

// Columns `32 * part` and following of plane P's field of a block; a share of it if it stays as in the file.
template <class Block, u32 P>
DEVICE void rearrange_field(const u8 *block, const Planes &planes, u64 i_block, u32 part) {
    constexpr Field FIELD = Block::PLANES[P];
    const u8 *from = block + FIELD.offset;
    u8 *plane = plane_of(planes, P) + i_block * FIELD.bytes;
    u32 *to = (u32 *)plane;
    if constexpr (FIELD.order == NIBBLES_OF_32) {
        join_nibbles(from + part / 2 * 32, part % 2 * 4, to + part * 4);
    } else if constexpr (FIELD.order == NIBBLES_OF_64) {
        join_nibbles(from + part / 4 * 64 + part % 2 * 32, part % 4 / 2 * 4, to + part * 4);
    } else if constexpr (FIELD.order == PAIRS) {
        join_pairs(from + part / 4 * 32, part % 4 * 2, to + part * 2);
    } else if constexpr (FIELD.order == BITS_OF_32) {
        to[part] = join_bits(from, part);
    } else if constexpr (FIELD.order == BITS_IN_ORDER) {
        to[part] = spread_bits(load_halves(from + part * 4));
    } else {
        constexpr u32 PARTS = Block::ELEMENTS / 32, HALVES = FIELD.bytes / 2;
        const u16 *halves = (const u16 *)from;
#pragma unroll
        for (u32 i = 0; i < HALVES; i += PARTS) {
            if (i + part < HALVES) ((u16 *)plane)[i + part] = halves[i + part];
        }
    }
    if constexpr (P + 1 < N_PLANES<Block>) rearrange_field<Block, P + 1>(block, planes, i_block, part);
}

// A thread takes 32 columns.
template <class Block>
DEVICE void rearrange(const u8 *src, const Planes &planes, u64 n_blocks) {
    static_assert(word_bytes<Block>() >= 2);
    constexpr u32 PARTS = Block::ELEMENTS / 32;
    const u64 first = (u64)group_x() * BLOCKS * PARTS, last = min(n_blocks * PARTS, first + BLOCKS * PARTS);
#pragma unroll 1
    for (u64 i = first + thread_x(); i < last; i += 256) {
        rearrange_field<Block, 0>(src + i / PARTS * Block::BYTES, planes, i / PARTS, i % PARTS);
    }
}

#define SPLIT(Type, name)                                                                                             \
    KERNEL(256, 8) void split_##name(const u8 *src, Planes planes, u64 n_blocks) {                                    \
        if constexpr (is_as_in_file<Type>()) {                                                                        \
            copy_fields<Type>(src, planes, n_blocks);                                                                 \
        } else {                                                                                                      \
            rearrange<Type>(src, planes, n_blocks);                                                                   \
        }                                                                                                             \
    }
QUANTIZED_TYPES(SPLIT)

} // namespace split_planes
