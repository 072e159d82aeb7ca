// Rows of a weight, dequantized: the same roundings in the same order as src/gguf/dequant.rs.
#include "device.hpp"

namespace embedding {

// value(w, i): element i of the weight, all rows counted through; planes as kernels.rs says.

struct F32 {
    DEVICE float value(const Planes &w, u64 i) { return w.as<float>(0)[i]; }
};

struct F16 {
    DEVICE float value(const Planes &w, u64 i) { return f16_value(w.as<u16>(0)[i]); }
};

struct BF16 {
    DEVICE float value(const Planes &w, u64 i) { return bf16_value(w.as<u16>(0)[i]); }
};

// Nibble of element j of a block of 32.
DEVICE u32 nibble(const u8 *qs, u64 block, u32 j) { return qs[block * 16 + j % 16] >> (j / 16 * 4) & 15; }

struct Q4_0 {
    DEVICE float value(const Planes &w, u64 i) {
        const u64 block = i / 32;
        return f16_value(w.as<u16>(1)[block]) * ((float)nibble(w.as<u8>(0), block, i % 32) - 8.0f);
    }
};

struct Q4_1 {
    DEVICE float value(const Planes &w, u64 i) {
        const u64 block = i / 32;
        const u16 *dm = w.as<u16>(1) + block * 2;
        return f16_value(dm[0]) * (float)nibble(w.as<u8>(0), block, i % 32) + f16_value(dm[1]);
    }
};

// Fifth bit of element j of 32.
DEVICE u32 fifth(const Planes &w, u64 unit, u32 j) { return w.as<u32>(1)[unit] >> (j % 4 * 8 + j / 4) & 1; }

// Five bits of it.
DEVICE u32 five_bits(const Planes &w, u64 block, u32 j) {
    return nibble(w.as<u8>(0), block, j) | fifth(w, block, j) << 4;
}

struct Q5_0 {
    DEVICE float value(const Planes &w, u64 i) {
        const u64 block = i / 32;
        return f16_value(w.as<u16>(2)[block]) * ((float)five_bits(w, block, i % 32) - 16.0f);
    }
};

struct Q5_1 {
    DEVICE float value(const Planes &w, u64 i) {
        const u64 block = i / 32;
        const u16 *dm = w.as<u16>(2) + block * 2;
        return f16_value(dm[0]) * (float)five_bits(w, block, i % 32) + f16_value(dm[1]);
    }
};

struct Q8_0 {
    DEVICE float value(const Planes &w, u64 i) {
        return f16_value(w.as<u16>(1)[i / 32]) * (float)w.as<i8>(0)[i];
    }
};

// Two bits of element j of 32.
DEVICE u32 two_bits(const u8 *pairs, u64 unit, u32 j) { return pairs[unit * 8 + j % 8] >> (j / 8 * 2) & 3; }

struct Q2_K {
    DEVICE float value(const Planes &w, u64 i) {
        const u64 block = i / 256;
        const u32 j = i % 256;
        const u8 scales = w.as<u8>(1)[block * 16 + j / 16];
        const u16 *dm = w.as<u16>(2) + block * 2;
        const float scale = f16_value(dm[0]) * (float)(scales & 15), low = f16_value(dm[1]) * (float)(scales >> 4);
        return scale * (float)two_bits(w.as<u8>(0), i / 32, i % 32) - low;
    }
};

struct Q3_K {
    DEVICE float value(const Planes &w, u64 i) {
        const u64 block = i / 256;
        const u32 j = i % 256, group = j / 16;
        const u8 *scales = w.as<u8>(2) + block * 12;
        const u32 low = scales[group % 8] >> (group / 8 * 4) & 15, high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        const float scale = f16_value(w.as<u16>(3)[block]) * ((float)(low | high << 4) - 32.0f);
        return scale * ((float)two_bits(w.as<u8>(0), i / 32, i % 32) - (fifth(w, i / 32, i % 32) ? 0.0f : 4.0f));
    }
};

// Group 0-7 of the 12 bytes after d and dmin: 6 bits each of scale and minimum.
struct ScaleAndMin {
    float scale, min;

    __attribute__((device)) ScaleAndMin(const u8 *dm_scales, u32 group) {
        const u8 *packed = dm_scales + 4;
        const u32 s = packed[group % 4], m = packed[4 + group % 4], rest = packed[8 + group % 4];
        const u32 scale6 = group < 4 ? s & 63 : (rest & 15) | s >> 6 << 4;
        const u32 min6 = group < 4 ? m & 63 : rest >> 4 | m >> 6 << 4;
        const u16 *dm = (const u16 *)dm_scales;
        scale = f16_value(dm[0]) * (float)scale6;
        min = f16_value(dm[1]) * (float)min6;
    }
};

struct Q4_K {
    DEVICE float value(const Planes &w, u64 i) {
        const ScaleAndMin group(w.as<u8>(1) + i / 256 * 16, i % 256 / 32);
        return group.scale * (float)nibble(w.as<u8>(0), i / 32, i % 32) - group.min;
    }
};

struct Q5_K {
    DEVICE float value(const Planes &w, u64 i) {
        const ScaleAndMin group(w.as<u8>(2) + i / 256 * 16, i % 256 / 32);
        return group.scale * (float)five_bits(w, i / 32, i % 32) - group.min;
    }
};

struct Q6_K {
    DEVICE float value(const Planes &w, u64 i) {
        const u32 j = i % 32;
        const float scale = f16_value(w.as<u16>(3)[i / 256]) * (float)w.as<i8>(2)[i / 16];
        const u32 low = nibble(w.as<u8>(0), i / 32, j), high = two_bits(w.as<u8>(1), i / 32, j);
        return scale * ((float)(low | high << 4) - 32.0f);
    }
};

// A group makes 256 columns of one token's row.
template <class Type>
DEVICE void embed(const Planes &w, const u32 *tokens, float *dst, u32 rows, u32 cols) {
    const u32 t = group_x(), col = group_y() * 256 + thread_x();
    if (col >= cols) return;
    const u32 token = tokens[t];
    dst[(u64)t * cols + col] = token < rows ? Type::value(w, (u64)token * cols + col) : __builtin_nanf("");
}

#define EMBED(name, Type)                                                                                             \
    KERNEL(256, 8) void embed_##name(Planes w, const u32 *tokens, float *dst, u32 rows, u32 cols) {                   \
        embed<Type>(w, tokens, dst, rows, cols);                                                                      \
    }

EMBED(f32, F32)
EMBED(f16, F16)
EMBED(bf16, BF16)
EMBED(q4_0, Q4_0)
EMBED(q4_1, Q4_1)
EMBED(q5_0, Q5_0)
EMBED(q5_1, Q5_1)
EMBED(q8_0, Q8_0)
EMBED(q2_k, Q2_K)
EMBED(q3_k, Q3_K)
EMBED(q4_k, Q4_K)
EMBED(q5_k, Q5_K)
EMBED(q6_k, Q6_K)

} // namespace embedding
