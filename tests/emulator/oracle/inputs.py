"""Columns of input words, one row per lane: edge cases first, then seeded random values. A column has 32 rows, or 64
for the instructions that look across lanes."""

import random
import zlib
from fractions import Fraction

import floats

ROWS = 32

F32_EDGES = [
    0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
    0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F000000, 0xC0490FDB, 0x4B7FFFFF,
]
F16_EDGES = [
    0x0000, 0x8000, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0x7C01,
    0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3800, 0xC248, 0x67FF,
]
F64_EDGES = [
    0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000,
    0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001,
    0x0000000000000001, 0x800FFFFFFFFFFFFF, 0x0010000000000000, 0x7FEFFFFFFFFFFFFF,
    0xFFEFFFFFFFFFFFFF, 0x3FE0000000000000, 0xC00921FB54442D18, 0x433FFFFFFFFFFFFF,
]
INT_EDGES = [0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x00008000, 0xFFFF7FFF, 0x00800000, 0xFF7FFFFF, 0x0000FFFF,
             0xFFFF0000, 0x80808080, 0x7F7F7F7F, 0x00FF00FF, 0x12345678, 0xDEADBEEF]
INT64_EDGES = [0, 1, (1 << 64) - 1, 1 << 63, (1 << 63) - 1, 1 << 32, (1 << 32) - 1, 0xFFFFFFFF00000000, 0x80000000,
               0x7FFFFFFF, 0xFFFFFFFF80000000, 0x0123456789ABCDEF, 2, 0xAAAAAAAAAAAAAAAA, 0x00000001FFFFFFFF, 3]


def single(x):
    """The bits of a number as f32."""
    return floats.encode(floats.of("f32", Fraction(x)))


def half(x):
    return floats.encode(floats.of("f16", Fraction(x)))


def double(x):
    return floats.encode(floats.of("f64", Fraction(x)))


def spread(edges, index, draw):
    """16 edges met by 16 edges of the other operands in a different order each, then random values."""
    step = [1, 5, 11, 7][index]
    start = [0, 3, 9, 5][index]
    return [edges[(start + step * i) % len(edges)] for i in range(16)] + [draw() for _ in range(ROWS - 16)]


def normal(rng, low, high, encode):
    return encode((1 if rng.random() < 0.5 else -1) * Fraction(1 + rng.random()) * Fraction(2) ** rng.randint(low, high))


def column(kind, index):
    """32 words of 32 bits, or of 64 for the kinds f64, b64 and their like. `index` is the operand's place."""
    rng = random.Random(zlib.crc32(f"{kind}.{index}".encode()))
    word = lambda: rng.getrandbits(32)  # noqa: E731
    fill = lambda rows: (rows + [word() for _ in range(ROWS)])[:ROWS]  # noqa: E731
    high = lambda rows: [v | rng.getrandbits(16) << 16 for v in rows]  # noqa: E731

    if kind == "f32":
        return spread(F32_EDGES, index, lambda: normal(rng, -3, 3, single))
    if kind == "f16":
        return high(spread(F16_EDGES, index, lambda: normal(rng, -3, 3, half)))
    if kind == "pf16":
        low = spread(F16_EDGES, index, lambda: normal(rng, -3, 3, half))
        top = spread(F16_EDGES, (index + 2) % 4, lambda: normal(rng, -3, 3, half))
        return [a | b << 16 for a, b in zip(low, top)]
    if kind == "f64":
        return spread(F64_EDGES, index, lambda: normal(rng, -3, 3, double))
    if kind == "pf32":
        return [a | b << 32 for a, b in zip(column("f32", index), column("f32", (index + 2) % 4))]
    if kind == "b32":
        return spread(INT_EDGES, index, word)
    if kind == "b64":
        return spread(INT64_EDGES, index, lambda: rng.getrandbits(64))
    if kind == "shift":
        return fill([0, 1, 31, 32, 33, 63, 64, 7, 8, 15, 16, 17, 30, 4, 3, 5, 12, 20, 24, 28, 2, 6, 9, 10])
    if kind == "shift.pk":
        return [rng.choice([0, 1, 15, 16, 7]) | rng.choice([0, 1, 15, 17, 9]) << 16 for _ in range(ROWS)]
    if kind == "field":  # s_bfe: offset in 0..4 (0..5), width in 16..22
        pairs = [(0, 0), (0, 1), (0, 8), (8, 8), (24, 8), (31, 1), (16, 16), (0, 31), (0, 32), (4, 28), (5, 3), (17, 9)]
        return [pairs[i % len(pairs)][0] | pairs[i % len(pairs)][1] << 16 for i in range(ROWS)]
    if kind == "selector":
        return [int.from_bytes(bytes((4 * i + k * 7) % 16 if i < 24 else rng.randrange(256) for k in range(4)), "little")
                for i in range(ROWS)]
    if kind == "classes":
        return [1 << i % 10 if i < 20 else rng.getrandbits(10) for i in range(ROWS)]
    if kind == "exponent":
        return [v & 0xFFFFFFFF for v in (0, 1, -1, 10, -10, 126, -126, 127, -127, 128, -140, -149, -150, 200, -200, 300,
                -300, 5, -5, 24, -24, 1024, -1074, 1, -2, 3, -4, 6, -7, 0x7FFFFFFF, -0x80000000, 64)]
    if kind == "exponent16":
        return high([v & 0xFFFF for v in (0, 1, -1, 10, -10, 14, -14, 15, -15, 16, -24, -25, 30, -30, 40, -40, 5, -5, 2,
                -2, 3, -3, 4, -4, 1, -2, 3, -4, 6, -7, 32767, -32768)])
    if kind in ("f32.normal", "f64.normal", "f16.normal"):  # no denormal operands
        encode, reach, edges = {
            "f32.normal": (single, 60, [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, single(1), single(-1), single(4)]),
            "f16.normal": (half, 12, [0, 1 << 15, 0x7C00, 0xFC00, 0x7E00, half(1), half(-1), half(4)]),
            "f64.normal": (double, 500, [F64_EDGES[i] for i in (0, 1, 4, 5, 6, 2, 3, 13)]),
        }[kind]
        edges = edges[index:] + edges[:index]
        rows = edges + [normal(rng, -reach, reach, encode) for _ in range(ROWS - len(edges))]
        if index == 0:  # square roots and logarithms want positive numbers
            sign = 1 << {"f32": 31, "f16": 15, "f64": 63}[kind[:3]]
            rows[12:] = [v & ~sign for v in rows[12:]]
        return high(rows) if kind[:3] == "f16" else rows
    if kind in ("f32.finite", "f64.finite", "f16.finite"):  # neither zero, denormal, infinite nor NaN
        encode, reach = {"f32": (single, 60), "f16": (half, 10), "f64": (double, 500)}[kind[:3]]
        rows = [encode(1), encode(-1), encode(2), encode(Fraction(3, 4))]
        rows += [normal(rng, -reach, reach, encode) for _ in range(ROWS - 4)]
        return high(rows) if kind[:3] == "f16" else rows
    if kind == "f32.exp2":
        rows = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000] + [single(v) for v in (1, -1, 10, -10, 127, 128, 129, -126,
                -127, -160, Fraction(1, 2), Fraction(-1, 2))]
        return rows + [single(Fraction(rng.uniform(-100, 100))) for _ in range(ROWS - len(rows))]
    if kind == "f16.exp2":
        rows = [0, 1 << 15, 0x7C00, 0xFC00, 0x7E00] + [half(v) for v in (1, -1, 10, -10, 15, 16, 17, -14, -30)]
        return high(rows + [half(Fraction(rng.uniform(-13, 13))) for _ in range(ROWS - len(rows))])
    if kind == "f32.turns":  # v_sin_f32 and v_cos_f32 count whole turns
        rows = [single(Fraction(v, 8)) for v in range(-8, 9)]
        return rows + [single(Fraction(rng.uniform(-200, 200))) for _ in range(ROWS - len(rows))]
    if kind == "f16.turns":
        rows = [half(Fraction(v, 8)) for v in range(-8, 9)]
        return high(rows + [half(Fraction(rng.uniform(-4, 4))) for _ in range(ROWS - len(rows))])
    if kind in ("f32.integral", "f64.integral"):  # about the limits of the integer types
        encode = single if kind[:3] == "f32" else double
        values = [Fraction(v) for v in (0, 1, -1, 2147483647, -2147483648, 2147483648, 4294967295, 4294967296, 1 << 40,
                  -(1 << 40), 65535, 65536, -32768, -32769, 32767, 32768, 8388609, 16777215)]
        values += [Fraction(v, 2) for v in (1, -1, 3, -3, 5, -5, 7)] + [Fraction(-1, 1 << 20)]
        rows = [encode(v) for v in values] + ([0x7F800000, 0xFF800000, 0x7FC00000] if kind[:3] == "f32" else
                                              [F64_EDGES[4], F64_EDGES[5], F64_EDGES[6]])
        return (rows + [normal(rng, 0, 20, encode) for _ in range(ROWS)])[:ROWS]
    if kind == "f16.integral":
        values = [Fraction(v, 2) for v in (0, 2, -2, 1, -1, 3, -3, 5, -5, 7, 4094, 65504, -65504, 131008, -131008)]
        rows = [half(v) for v in values] + [0x7C00, 0xFC00, 0x7E00, 0x8000]
        return high((rows + [normal(rng, 0, 12, half) for _ in range(ROWS)])[:ROWS])
    if kind == "f32.halves":  # what becomes of an f16: ties, overflow, denormals
        rows = [single(v) for v in (1, Fraction(2049, 2048), Fraction(4097, 4096), Fraction(4099, 4096), 65504, 65519, 65520,
                -65520, 70000, Fraction(1, 1 << 14), Fraction(3, 1 << 25), Fraction(1, 1 << 25), Fraction(1, 1 << 26),
                Fraction(5, 1 << 25), Fraction(-1, 1 << 24))] + [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000]
        return (rows + [normal(rng, -18, 14, single) for _ in range(ROWS)])[:ROWS]
    if kind == "f64.singles":
        values = [1, Fraction((1 << 25) + 1, 1 << 25), Fraction((1 << 25) + 3, 1 << 25), Fraction(1, 1 << 149),
                  Fraction(1, 1 << 150), Fraction(3, 1 << 150), (1 << 128) - (1 << 103), (1 << 128) - (1 << 104)]
        rows = [double(v) for v in values] + F64_EDGES[:7]
        return (rows + [normal(rng, -100, 100, double) for _ in range(ROWS)])[:ROWS]
    if kind in ("f32.unit", "f16.unit"):
        encode = single if kind[:3] == "f32" else half
        rows = [encode(v) for v in (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 4))]
        rows = rows + [encode(Fraction(rng.uniform(-1, 1))) for _ in range(ROWS - len(rows))]
        return high(rows) if kind[:3] == "f16" else rows
    if kind == "f32.byte":
        return [single(v) for v in (0, 1, 255, 254, 256, -1, 1000, -1000)] + [single(rng.randrange(256)) for _ in range(24)]
    if kind in ("pf16.small", "pbf16.small"):  # sums of products that are exact in any order
        fmt = "f16" if kind[1] == "f" else "bf16"
        draw = lambda: floats.encode(floats.of(fmt, Fraction(rng.randint(-15, 15), 2)))  # noqa: E731
        return [draw() | draw() << 16 for _ in range(ROWS)]
    if kind == "pbf16":
        draw = lambda: normal(rng, -3, 3, single) >> 16  # noqa: E731
        return [draw() | draw() << 16 for _ in range(ROWS)]
    if kind == "f32.small":
        return [single(Fraction(rng.randint(-64, 64), 4)) for _ in range(ROWS)]
    if kind.startswith(("matrix.", "mirrored.")):  # elements whose sums of products are exact; mirrored: 16 lanes, repeated
        def elements(what):
            if what == "bytes":
                return word()
            if what == "singles":
                return single(rng.randint(-32, 32))
            fmt = "f16" if what == "halves" else "bf16"
            low, top = (floats.encode(floats.of(fmt, Fraction(rng.randint(-16, 16), 4))) for _ in range(2))
            return low | top << 16

        family, what = kind.split(".")
        return [elements(what) for _ in range(64)] if family == "matrix" else [elements(what) for _ in range(16)] * 4
    if kind == "wide":  # one word for each of 64 lanes, a float and an integer of no special kind
        return [normal(rng, -3, 3, single) for _ in range(64)]
    if kind == "lanes":  # byte addresses of lanes, each lane once
        order = list(range(32))
        rng.shuffle(order)
        return [4 * v for v in order] + [4 * (v + 32) for v in order[::-1]]
    if kind == "addresses":  # byte addresses of lanes, some met twice, some beyond the wave
        return [rng.randrange(0, 512) for _ in range(64)]
    raise KeyError(kind)
