// Rows of a weight, dequantized: the same roundings in the same order as src/gguf/dequant.rs.
#include "units.hpp"

namespace embedding {

using namespace units;

// Columns `col` to `col + 3` of the row that begins at unit `first`.
template <class U>
DEVICE f32x4 four_values(const Planes &w, u64 first, u32 col) {
    const u32 unit = col / U::COLS, half = col % U::COLS / 16, word = col % 16 / 4;
    const auto quants = U::unpack(U::load(w, first, unit), unit);
    const u32x4 words = U::bytes(quants, half);
    const u32x2 two = word & 2 ? words.zw : words.xy;
    const Affine factors = U::affine(quants, half);
    return factors.scale * (signed_bytes(word & 1 ? two.y : two.x) - U::ZERO) - factors.min;
}

// A group makes 1024 columns of one token's row.
template <class U>
DEVICE void embed(const Planes &w, const u32 *tokens, float *dst, u32 rows, u32 cols) {
    const u32 token = tokens[group_x()];
    float *row = dst + (u64)group_x() * cols;
    if constexpr (IS_FLOAT<U>) {
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            const u32 col = group_y() * 1024 + k * 256 + thread_x();
            if (col < cols) row[col] = token < rows ? U::element(w, (u64)token * cols + col) : __builtin_nanf("");
        }
    } else {
        const u32 col = group_y() * 1024 + thread_x() * 4;
        if (col >= cols) return;
        f32x4 values = __builtin_nanf("");
        if (token < rows) values = four_values<U>(w, (u64)token * (cols / U::COLS), col);
        *(f32x4 *)(row + col) = values;
    }
}

#define EMBED(Type, name)                                                                                             \
    KERNEL(256, 8) void embed_##name(Planes w, const u32 *tokens, float *dst, u32 rows, u32 cols) {                   \
        embed<Type>(w, tokens, dst, rows, cols);                                                                      \
    }
TYPES(EMBED)

} // namespace embedding
