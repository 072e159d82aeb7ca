// The GGUF block layouts as they lie in a file, and how each is divided into planes on a device. Little-endian;
// f16 fields as their bits. Plain C++ too: the tests include it.
#pragma once

using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8);

namespace blocks {

// A field of a block: its place and size in bytes. A plane holds one field of every block, in the blocks' order; bits
// of Q4_K and Q6_K are also brought together there (split.hip).
struct Field {
    u32 offset, bytes;
};

// 32 elements. Byte j of qs: element j in the low nibble, j + 16 in the high one. Bit j of qh: fifth bit of element j.

struct Q4_0 { // d * (q - 8)
    u16 d;
    u8 qs[16];
    static constexpr u32 ELEMENTS = 32, BYTES = 18, UNIT = 2, N_PLANES = 2;
    static constexpr Field PLANES[N_PLANES] = {{2, 16}, {0, 2}};
};

struct Q4_1 { // d * q + m
    u16 d, m;
    u8 qs[16];
    static constexpr u32 ELEMENTS = 32, BYTES = 20, UNIT = 4, N_PLANES = 2;
    static constexpr Field PLANES[N_PLANES] = {{4, 16}, {0, 4}};
};

struct Q5_0 { // d * (q - 16)
    u16 d;
    u8 qh[4], qs[16];
    static constexpr u32 ELEMENTS = 32, BYTES = 22, UNIT = 2, N_PLANES = 3;
    static constexpr Field PLANES[N_PLANES] = {{6, 16}, {2, 4}, {0, 2}};
};

struct Q5_1 { // d * q + m
    u16 d, m;
    u8 qh[4], qs[16];
    static constexpr u32 ELEMENTS = 32, BYTES = 24, UNIT = 4, N_PLANES = 3;
    static constexpr Field PLANES[N_PLANES] = {{8, 16}, {4, 4}, {0, 4}};
};

struct Q8_0 { // d * q
    u16 d;
    i8 qs[32];
    static constexpr u32 ELEMENTS = 32, BYTES = 34, UNIT = 2, N_PLANES = 2;
    static constexpr Field PLANES[N_PLANES] = {{2, 32}, {0, 2}};
};

// 256 elements, in groups of 16 or 32 that have an integer scale (and minimum) each.

struct Q2_K { // d * scale * q - dmin * min; groups of 16: scale in the low nibble, minimum in the high one
    u8 scales[16], qs[64];
    u16 d, dmin;
    static constexpr u32 ELEMENTS = 256, BYTES = 84, UNIT = 4, N_PLANES = 3;
    static constexpr Field PLANES[N_PLANES] = {{16, 64}, {0, 16}, {80, 4}};
};

struct Q3_K { // d * (scale - 32) * (q - 4); groups of 16
    u8 hmask[32], qs[64], scales[12];
    u16 d;
    static constexpr u32 ELEMENTS = 256, BYTES = 110, UNIT = 2, N_PLANES = 4;
    static constexpr Field PLANES[N_PLANES] = {{32, 64}, {0, 32}, {96, 12}, {108, 2}};
};

struct Q4_K { // d * scale * q - dmin * min; groups of 32
    u16 d, dmin;
    u8 scales[12], qs[128];
    static constexpr u32 ELEMENTS = 256, BYTES = 144, UNIT = 4, N_PLANES = 2;
    static constexpr Field PLANES[N_PLANES] = {{16, 128}, {0, 16}};
};

struct Q5_K { // d * scale * q - dmin * min; groups of 32
    u16 d, dmin;
    u8 scales[12], qh[32], qs[128];
    static constexpr u32 ELEMENTS = 256, BYTES = 176, UNIT = 4, N_PLANES = 3;
    static constexpr Field PLANES[N_PLANES] = {{48, 128}, {16, 32}, {0, 16}};
};

struct Q6_K { // d * scale * (q - 32); groups of 16
    u8 ql[128], qh[64];
    i8 scales[16];
    u16 d;
    static constexpr u32 ELEMENTS = 256, BYTES = 210, UNIT = 2, N_PLANES = 4;
    static constexpr Field PLANES[N_PLANES] = {{0, 128}, {128, 64}, {192, 16}, {208, 2}};
};

// Every byte is in one plane, and UNIT divides each field's place and size.
template <class Block>
constexpr bool planes_cover() {
    u32 bytes = 0;
    for (Field field : Block::PLANES) {
        if (field.offset % Block::UNIT || field.bytes % Block::UNIT) return false;
        bytes += field.bytes;
    }
    return bytes == Block::BYTES && sizeof(Block) == Block::BYTES;
}

static_assert(planes_cover<Q4_0>() && planes_cover<Q4_1>() && planes_cover<Q5_0>() && planes_cover<Q5_1>());
static_assert(planes_cover<Q8_0>() && planes_cover<Q2_K>() && planes_cover<Q3_K>() && planes_cover<Q4_K>());
static_assert(planes_cover<Q5_K>() && planes_cover<Q6_K>());

} // namespace blocks
