// dst (cols x rows) = transpose of src (rows x cols), f32, by tiles of 32x32.
#include "device.hpp"

// Tiles along rows lie on the grid's y, 32,768 at most, then on its z.
KERNEL(1024, 8) void transpose_f32(const float *src, float *dst, u32 rows, u32 cols) {
    constexpr u32 TILE = 32, Y_TILES = 32768;
    SHARED float tile[TILE][TILE + 1]; // a column's words lie in different banks
    const u64 row0 = ((u64)group_z() * Y_TILES + group_y()) * TILE;
    const u64 col0 = (u64)group_x() * TILE;
    const u32 x = thread_x(), y = thread_y();

    if (row0 + y < rows && col0 + x < cols) tile[y][x] = src[(row0 + y) * cols + col0 + x];
    barrier();
    if (col0 + y < cols && row0 + x < rows) dst[(col0 + y) * rows + row0 + x] = tile[x][y];
}
