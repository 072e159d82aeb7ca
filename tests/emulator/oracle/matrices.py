"""Matrix instructions. The pseudo-code only says D = A * B + C; where the elements lie is from AMD's own words:

WMMA on gfx11 ("How to accelerate AI applications on RDNA 3 using WMMA", GPUOpen; RDNA3 manual 7.9): lane l holds row
l % 16 of A and column l % 16 of B, both halves of the wave the same; register r of C and D in lane l is row
2 r + l / 16, column l % 16. On gfx12 (RDNA4 manual 7.12) a lane holds the elements 8 (l / 16) ... + 7 along k, and
register r of D is row r + 8 (l / 16). MFMA ("Matrix instruction calculator", ROCm): with M rows and P = 64 / M groups
of lanes, lane l holds row l % M of A (column of B) and K / P successive elements along k from (l / M) K / P on; D's
register r is row 4 (l / 16) + r for M = 16, row 8 (r / 4) + 4 (l / 32) + r % 4 for M = 32, column l % M.
"""

from dataclasses import dataclass

import floats
import inputs
from cases import Case


@dataclass
class Shape:
    """An instruction: its text, rows and columns, depth, type of A and B, and whether the result is an integer."""

    name: str
    size: int
    depth: int
    element: str  # f16, bf16, f32, i8, u8, i4, u4 (signs of integers by neg_lo on RDNA)

    @property
    def width(self):
        return int(self.element.lstrip("bfiu"))

    @property
    def integer(self):
        return self.element[0] in "iu"


WMMA = {
    "rdna3": [Shape("v_wmma_f32_16x16x16_f16", 16, 16, "f16"), Shape("v_wmma_f32_16x16x16_bf16", 16, 16, "bf16"),
              Shape("v_wmma_i32_16x16x16_iu8", 16, 16, "u8"), Shape("v_wmma_i32_16x16x16_iu4", 16, 16, "u4")],
    "rdna4": [Shape("v_wmma_f32_16x16x16_f16", 16, 16, "f16"), Shape("v_wmma_f32_16x16x16_bf16", 16, 16, "bf16"),
              Shape("v_wmma_i32_16x16x16_iu8", 16, 16, "u8"), Shape("v_wmma_i32_16x16x16_iu4", 16, 16, "u4"),
              Shape("v_wmma_i32_16x16x32_iu4", 16, 32, "u4")],
}
MFMA = [
    Shape("v_mfma_f32_16x16x16_f16", 16, 16, "f16"), Shape("v_mfma_f32_16x16x16f16", 16, 16, "f16"),
    Shape("v_mfma_f32_32x32x8_f16", 32, 8, "f16"), Shape("v_mfma_f32_32x32x8f16", 32, 8, "f16"),
    Shape("v_mfma_f32_16x16x16_bf16", 16, 16, "bf16"), Shape("v_mfma_f32_16x16x16bf16_1k", 16, 16, "bf16"),
    Shape("v_mfma_f32_16x16x4_f32", 16, 4, "f32"), Shape("v_mfma_f32_16x16x4f32", 16, 4, "f32"),
    Shape("v_mfma_i32_16x16x32_i8", 16, 32, "i8"), Shape("v_mfma_i32_32x32x16_i8", 32, 16, "i8"),
    Shape("v_mfma_i32_16x16x16i8", 16, 16, "i8"), Shape("v_mfma_i32_32x32x8i8", 32, 8, "i8"),
]
A, B, C, D = 0, 8, 16, 32  # first registers


def element(raw, kind):
    """A matrix element as a number."""
    width = int(kind.lstrip("bfiu"))
    if kind[0] in "fb":
        return floats.decode(kind, raw).value
    return raw - (1 << width) if kind[0] == "i" and raw >> (width - 1) else raw


def operand(columns, lane, k, kind):
    """Element k of those that one lane holds in successive registers."""
    width = int(kind.lstrip("bfiu"))
    per_word = 32 // width
    return element(columns[k // per_word][lane] >> width * (k % per_word) & ((1 << width) - 1), kind)


def matrix_cases(maker):
    if maker.gfx9:
        zero = [mfma(maker, shape, "0") for shape in MFMA if shape.size == 16 and shape.width < 32]
        return [mfma(maker, shape, "v") for shape in MFMA] + zero
    cases = []
    for shape in WMMA[maker.manual.name]:
        for signs in ("00", "11", "10") if shape.integer else ("",):
            cases.append(wmma(maker, shape, signs))
    return cases


def column_names(shape, words, mirrored):
    kind = {"f16": "halves", "bf16": "bhalves", "f32": "singles"}.get(shape.element, "bytes")
    kind = f"mirrored.{kind}" if mirrored else f"matrix.{kind}"
    return [f"{kind}.{r}" for r in range(words)], [f"{kind}.{(r + 5) % 9}" for r in range(words)]


def data(name, lanes):
    kind, index = name.rsplit(".", 1)
    return inputs.column(kind, int(index))[:lanes]


def packed(first, words):
    return f"v{first}" if words == 1 else f"v[{first}:{first + words - 1}]"


def result_word(shape, total):
    return total & 0xFFFFFFFF if shape.integer else floats.encode(floats.of("f32", total))


def wmma(maker, shape, signs):
    gfx11 = maker.manual.name == "rdna3"
    held = shape.depth if gfx11 else shape.depth // 2  # elements of a lane
    words = held * shape.width // 32
    a_names, b_names = column_names(shape, words, gfx11)
    c_kind = "matrix.bytes" if shape.integer else "matrix.singles"
    c_names = [f"{c_kind}.{r}" for r in range(8)]
    a, b, c = ([data(n, 32) for n in names] for names in (a_names, b_names, c_names))
    kinds = [("i" if sign == "1" else "u") + shape.element[1:] for sign in signs] if signs else [shape.element] * 2
    result = []
    for r in range(8):
        rows = []
        for lane in range(32):
            row = 2 * r + lane // 16 if gfx11 else r + 8 * (lane // 16)
            column = lane % 16
            total = element(c[r][lane], "i32") if shape.integer else element(c[r][lane], "f32")
            for k in range(shape.depth):
                group, place = (0, k) if gfx11 else (16 * (k // held), k % held)
                total += operand(a, row + group, place, kinds[0]) * operand(b, column + group, place, kinds[1])
            rows.append(result_word(shape, total))
        result.append(rows)
    suffix = f" neg_lo:[{signs[0]},{signs[1]},0]" if "1" in signs else ""
    asm = f"{shape.name} {packed(D, 8)}, {packed(A, words)}, {packed(B, words)}, {packed(C, 8)}{suffix}"
    return case(maker, shape, asm, a_names, b_names, c_names, result)


def mfma(maker, shape, c_from):
    groups = 64 // shape.size
    held = shape.depth // groups
    words = held * shape.width // 32
    outs = shape.size * shape.size // 64
    a_names, b_names = column_names(shape, words, False)
    c_kind = "matrix.bytes" if shape.integer else "matrix.singles"
    c_names = [f"{c_kind}.{r % 8}" for r in range(outs)] if c_from == "v" else []
    a, b, c = ([data(n, 64) for n in names] for names in (a_names, b_names, c_names))
    result = []
    for r in range(outs):
        rows = []
        for lane in range(64):
            row = 4 * (lane // 16) + r if shape.size == 16 else 8 * (r // 4) + 4 * (lane // 32) + r % 4
            column = lane % shape.size
            total = 0 if not c else element(c[r][lane], "i32" if shape.integer else "f32")
            for k in range(shape.depth):
                group, place = shape.size * (k // held), k % held
                total += operand(a, row + group, place, shape.element) * operand(b, column + group, place, shape.element)
            rows.append(result_word(shape, total))
        result.append(rows)
    third = packed(C, outs) if c else "0"
    asm = f"{shape.name} {packed(D, outs)}, {packed(A, words)}, {packed(B, words)}, {third}"
    return case(maker, shape, asm, a_names, b_names, c_names, result)


def case(maker, shape, asm, a_names, b_names, c_names, result):
    before = {"exec": "=ffffffff"}
    for first, names in ((A, a_names), (B, b_names), (C, c_names)):
        before.update({f"v{first + i}": name for i, name in enumerate(names)})
    kind = "b32" if shape.integer else "f32"
    after = {f"v{D + r}": [kind, "".join(f"{v:08x}" for v in rows)] for r, rows in enumerate(result)}
    return Case(maker.target, asm, before, after)
