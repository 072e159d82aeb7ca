#!/usr/bin/env python3
"""Makes the golden data of tests/gguf/dequant.rs: random blocks, and what the `gguf` package makes of them.

    pip install gguf==0.19.0 numpy && python3 tests/data/dequant/make.py

One file per type beside this script: u32 block count, the blocks, their elements as f32; little-endian.
All bits are random but the f16 scales: random too, but finite (numpy and hardware need not agree on the
payload of a NaN), one block's negative, one block's subnormal.
"""

import pathlib

import gguf
import numpy as np

BLOCKS = {1: 512, 32: 8, 256: 3}  # by elements per block

# Byte offset in the block of each f16 scale.
SCALES = {
    "F32": [], "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def finite_halves(rng, n):
    halves = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    halves[(halves & 0x7C00) == 0x7C00] ^= 0x4000  # infinities and NaNs lose an exponent bit
    halves[0] |= 0x8000
    halves[1] &= 0x83FF
    return halves.view(np.uint8).reshape(n, 2)


def main():
    here = pathlib.Path(__file__).parent
    rng = np.random.default_rng(20260901)
    for name, scales in SCALES.items():
        ty = gguf.GGMLQuantizationType[name]
        length, size = gguf.GGML_QUANT_SIZES[ty]
        n = BLOCKS[length]
        blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in scales:
            blocks[:, at : at + 2] = finite_halves(rng, n)
        if name in ("F32", "BF16"):  # the same for their exponents, in the last byte
            high = blocks[:, -1]
            high[(high & 0x7F) == 0x7F] ^= 0x40
        floats = gguf.quants.dequantize(blocks.reshape(1, -1), ty).astype("<f4").reshape(-1)
        assert floats.size == n * length and np.isfinite(floats).all()
        (here / f"{name}.bin").write_bytes(np.uint32(n).tobytes() + blocks.tobytes() + floats.tobytes())


main()
