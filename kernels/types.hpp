// The tensor types that there are kernels for, how their blocks lie in a GGUF file, and how a block is divided into planes
// on a device. Little-endian; f16 fields as their bits. Plain C++ too: the tests include it.
#pragma once

using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8);

// X(type, the same in names of kernels), as the table of src/gguf/tensor_type.rs has them.
#define HALF_TYPES(X) X(F16, f16) X(BF16, bf16)
#define QUANTIZED_TYPES(X)                                                                                            \
    X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q8_0, q8_0)                                             \
    X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k) X(Q5_K, q5_k) X(Q6_K, q6_k) X(MXFP4, mxfp4)
#define TYPES(X) X(F32, f32) HALF_TYPES(X) QUANTIZED_TYPES(X)

namespace blocks {

// How the bits of a field lie in its plane: as in the file, or brought together for each 32 consecutive columns.
enum Order {
    AS_IN_FILE,
    // Low 4 bits of the columns; byte i of 16 has those of columns i and i + 16, as Q4_0 has them in the file. There the
    // low nibbles of each 32 bytes (64 bytes) are consecutive columns, and the high ones those that follow.
    NIBBLES_OF_32,
    NIBBLES_OF_64,
    // 2 bits of the columns; byte i of 8 has those of columns i, i + 8, i + 16 and i + 24. In the file the lowest pairs of
    // each 32 bytes are consecutive columns, and the next pairs those that follow.
    PAIRS,
    // A bit of the columns; bit 8 * b + k of a word is that of column 4 * k + b. In the file the lowest bits of 32 bytes are
    // consecutive columns, and the next bits those that follow; or the bits of a word are in order.
    BITS_OF_32,
    BITS_IN_ORDER,
};

// A field of a block: its place and size in bytes. A plane holds one field of every block, in the blocks' order.
struct Field {
    u32 offset, bytes;
    Order order = AS_IN_FILE;
};

// 32 elements. Byte j of qs: element j in the low nibble, j + 16 in the high one. Bit j of qh: fifth bit of element j.

struct Q4_0 { // d, qs: d * (q - 8)
    static constexpr u32 ELEMENTS = 32, BYTES = 18;
    static constexpr Field PLANES[] = {{2, 16}, {0, 2}};
};

struct Q4_1 { // d, m, qs: d * q + m
    static constexpr u32 ELEMENTS = 32, BYTES = 20;
    static constexpr Field PLANES[] = {{4, 16}, {0, 4}};
};

struct Q5_0 { // d, qh, qs: d * (q - 16)
    static constexpr u32 ELEMENTS = 32, BYTES = 22;
    static constexpr Field PLANES[] = {{6, 16}, {2, 4, BITS_IN_ORDER}, {0, 2}};
};

struct Q5_1 { // d, m, qh, qs: d * q + m
    static constexpr u32 ELEMENTS = 32, BYTES = 24;
    static constexpr Field PLANES[] = {{8, 16}, {4, 4, BITS_IN_ORDER}, {0, 4}};
};

struct Q8_0 { // d, qs (signed bytes): d * q
    static constexpr u32 ELEMENTS = 32, BYTES = 34;
    static constexpr Field PLANES[] = {{2, 32}, {0, 2}};
};

struct MXFP4 { // e (an exponent's byte), qs: 2^(e - 128) * value of q, doubled, as a float of 4 bits
    static constexpr u32 ELEMENTS = 32, BYTES = 17;
    static constexpr Field PLANES[] = {{1, 16}, {0, 1}};
};

// 256 elements, in groups of 16 or 32 that have an integer scale (and minimum) each.

struct Q2_K { // scales, qs, d, dmin: d * scale * q - dmin * min; groups of 16: scale in the low nibble, minimum in the high
    static constexpr u32 ELEMENTS = 256, BYTES = 84;
    static constexpr Field PLANES[] = {{16, 64, PAIRS}, {0, 16}, {80, 4}};
};

struct Q3_K { // hmask, qs, scales, d: d * (scale - 32) * (q - 4); groups of 16
    static constexpr u32 ELEMENTS = 256, BYTES = 110;
    static constexpr Field PLANES[] = {{32, 64, PAIRS}, {0, 32, BITS_OF_32}, {96, 12}, {108, 2}};
};

struct Q4_K { // d, dmin, scales, qs: d * scale * q - dmin * min; groups of 32
    static constexpr u32 ELEMENTS = 256, BYTES = 144;
    static constexpr Field PLANES[] = {{16, 128, NIBBLES_OF_32}, {0, 16}};
};

struct Q5_K { // d, dmin, scales, qh, qs: as Q4_K
    static constexpr u32 ELEMENTS = 256, BYTES = 176;
    static constexpr Field PLANES[] = {{48, 128, NIBBLES_OF_32}, {16, 32, BITS_OF_32}, {0, 16}};
};

struct Q6_K { // ql, qh, scales (signed), d: d * scale * (q - 32); groups of 16
    static constexpr u32 ELEMENTS = 256, BYTES = 210;
    static constexpr Field PLANES[] = {{0, 128, NIBBLES_OF_64}, {128, 64, PAIRS}, {192, 16}, {208, 2}};
};

template <class Block>
constexpr u32 N_PLANES = sizeof(Block::PLANES) / sizeof(Field);

// Every byte is in one plane, the widest first.
template <class Block>
constexpr bool planes_cover() {
    u32 bytes = 0, widest = Block::BYTES;
    bool taken[Block::BYTES] = {};
    for (Field field : Block::PLANES) {
        if (field.bytes > widest) return false;
        widest = field.bytes;
        bytes += field.bytes;
        for (u32 i = 0; i < field.bytes; i++) {
            if (taken[field.offset + i]) return false;
            taken[field.offset + i] = true;
        }
    }
    return bytes == Block::BYTES;
}

// Bytes, 1, 2 or 4, of the words that fields are whole numbers of and are aligned to.
template <class Block>
constexpr u32 word_bytes() {
    u32 all = Block::BYTES;
    for (Field field : Block::PLANES) all |= field.offset | field.bytes;
    return all % 4 == 0 ? 4 : all % 2 == 0 ? 2 : 1;
}

// Whether every field is as in the file.
template <class Block>
constexpr bool is_as_in_file() {
    for (Field field : Block::PLANES) {
        if (field.order != AS_IN_FILE) return false;
    }
    return true;
}

// Columns that a lane takes at a time: 16 bytes of the first plane, but 8 to 32 columns (src/device/hip/planes.rs).
template <class Block>
constexpr u32 unit_cols() {
    const u32 cols = 16 * Block::ELEMENTS / Block::PLANES[0].bytes;
    return cols < 8 ? 8 : cols > 32 ? 32 : cols;
}

#define CHECK(Type, name) static_assert(planes_cover<Type>());
QUANTIZED_TYPES(CHECK)
#undef CHECK

} // namespace blocks
