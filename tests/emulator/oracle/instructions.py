"""What each instruction of a target is called, which operands it has, and what it computes."""

import importlib
import re

import pseudocode
from pseudocode import Bits, Unsupported

# target -> (the manual it is described in, lanes of a wave)
TARGETS = {"gfx1100": ("rdna3", 32), "gfx1201": ("rdna4", 32), "gfx942": ("cdna", 64), "gfx90a": ("cdna", 64)}
ENCODINGS = ("SOP1Op", "SOP2Op", "SOPCOp", "SOPKOp", "VOP1Op", "VOP2Op", "VOP3Op", "VOP3SDOp", "VOPCOp", "VOP3POp", "DSOp")

# Where the pseudo-code is loose, in the same language. Each with the reason.
CORRECTIONS = [
    # floor(x + 0.5) rounds a second time for large and for just-below-half operands, and loses the sign of zero
    (r"V_RNDNE_F(16|32|64)|S_RNDNE_F(16|32)", lambda m: "D0.f{0} = round_even(S0.f{0})".format(m[1] or m[2])),
    # 2 ** S1 overflows before the product does
    (r"V_LDEXP_F(16|32|64)", lambda m: "D0.f{0} = ldexp(S0.f{0}, S1.i{1})".format(m[1], 16 if m[1] == "16" else 32)),
    # 1.0 / S1 is meant in f32, as in the earlier manuals' "1 / S1.f == DENORM.f"
    (r"V_DIV_SCALE_F32", ("1.0 / 64'F(S1.f32) == DENORM.f64", "1.0F / S1.f32 == DENORM.f32")),
    # gfx90a and gfx942 have the fused instruction under this opcode, v_fma_mix_*
    (r"V_MAD_MIX(LO|HI)?_F(16|32)", ("in[0] * in[1] + in[2]", "fma(in[0], in[1], in[2])")),
    # the operands are of 64 bits
    (r"V_PK_MOV_B32", (".u32[OPSEL", "[OPSEL")),
    # the product with 2 pi would be rounded; the hardware takes the fraction of a turn as it is
    (r"V_(SIN|COS)_F(16|32)", lambda m: "D0.f{1} = {0}_turns(S0.f{1})".format(m[1].lower(), m[2])),
    # one factor cannot undo both of V_DIV_SCALE's: later manuals choose it by the addend's exponent
    (r"V_DIV_FMAS_F32", ("2.0F ** 32 *", "(exponent(S2.f32) > 127 ? 2.0F ** 64 : 2.0F ** -64) *")),
    (r"V_DIV_FMAS_F64", ("2.0 ** 64 *", "(exponent(S2.f64) > 1023 ? 2.0 ** 128 : 2.0 ** -128) *")),
    # S2 is the destination
    (r"V_FMAC_DX9_ZERO_F32", ("S2.f32", "D0.f32")),
]


# Instructions of gfx90a that the manual of its successors leaves out, by the "Vega" manual
FORMER = {
    "VOP3Op": {"V_MAD_F32": "D0.f32 = S0.f32 * S1.f32 + S2.f32"},
    "VOP2Op": {
        "V_MAC_F32_E32": "D0.f32 = S0.f32 * S1.f32 + D0.f32",
        "V_MADMK_F32_E32": "D0.f32 = S0.f32 * SIMM32.f32 + S1.f32",
        "V_MADAK_F32_E32": "D0.f32 = S0.f32 * S1.f32 + SIMM32.f32",
    },
}


class Manual:
    """The pseudo-code and operand tables of one architecture, as PyPI's tinygrad carries them."""

    def __init__(self, name):
        base = "tinygrad.runtime.autogen.amd." + name
        self.name = name
        self.text = {}
        self.operands = {}
        members = importlib.import_module(base + ".operands").OPERANDS
        short = {op.name for op in members}
        # some tables write _E64 where there is no other encoding

        def plain(op):
            bare = op.name.removesuffix("_E64")
            return op.name if bare + "_E32" in short else bare

        texts = importlib.import_module(base + ".str_pcode").PCODE
        for op, text in texts.items():
            self.text.setdefault(str(op).split(".")[0], {})[plain(op)] = text
        for op, fields in members.items():
            encoding = str(op).split(".")[0]
            self.operands.setdefault(encoding, {})[plain(op)] = {
                field: (fmt.name.removeprefix("FMT_"), size, kind.name) for field, (fmt, size, kind) in fields.items()
            }
        if name == "cdna":
            for encoding, texts in FORMER.items():
                like = "V_FMA_F32" if encoding == "VOP3Op" else "V_MUL_F32_E32"
                for op, text in texts.items():
                    self.text[encoding].setdefault(op, text)
                    self.operands[encoding].setdefault(op, self.operands[encoding][like])
        self.programs = {}

    def source(self, encoding, name):
        """The text for an instruction; e64 forms of cdna stand under their e32 name only."""
        for enc, alias in ((encoding, name), ("VOP1Op", name.replace("_E64", "_E32")), ("VOP2Op", name.replace("_E64", "_E32")),
                           ("VOPCOp", name.replace("_E64", "_E32"))):
            if alias in self.text.get(enc, {}):
                return self.text[enc][alias]
        raise Unsupported(f"no pseudo-code for {name}")

    def program(self, encoding, name):
        key = (encoding, name)
        if key not in self.programs:
            text = self.source(encoding, name)
            for pattern, make in CORRECTIONS:
                m = re.match(f"({pattern})(_E32|_E64)?$", name)
                if m and isinstance(make, tuple):
                    text = text.replace(*make)
                elif m:
                    text = make(re.match(pattern, name))
            self.programs[key] = pseudocode.parse(text)
        return self.programs[key]

    def call(self, name, values):
        """v_min_f32(a, b) and the like inside another instruction's pseudo-code."""
        upper = name.upper()
        for encoding in ("VOP2Op", "VOP3Op", "VOP3POp"):
            for suffix in ("_E32", "", "_E64"):
                if upper + suffix in self.text.get(encoding, {}):
                    kind, width = re.search(r"_([fuib]+)(\d+)$", name).groups()
                    if name in ("v_sad_u8", "v_msad_u8"):
                        width = 32
                    registers = {f"S{i}": (pseudocode.raw_of(v) & ((1 << 64) - 1), pseudocode.width_of(v))
                                 for i, v in enumerate(values)}
                    registers["D0"] = (0, int(width))
                    run = pseudocode.Run(self.program(encoding, upper + suffix), registers, self.call,
                                         constants={"IEEE": Bits(1, 1)})
                    return pseudocode.view(kind, int(width), run.raw("D0"))
        raise Unsupported("function " + name)


# source column by instruction and operand; the first match counts
COLUMNS = [
    # floor(x + 0.5) of large odd numbers depends on how the sum is rounded
    (r"V_CVT_(NEAREST|RPI)_I32_F32", 0, "f32.turns"),
    (r"V_(LSHL|LSHR|ASHR)REV_[BI](16|32|64)", 0, "shift"),
    (r"V_PK_(LSHL|LSHR|ASHR)REV", 0, "shift.pk"),
    (r"V_(LSHL_ADD_U32|LSHL_OR_B32|LSHL_ADD_U64)", 1, "shift"),
    (r"V_ADD_LSHL_U32|V_ALIGNBIT|V_ALIGNBYTE", 2, "shift"),
    (r"V_BFE_", 1, "shift"), (r"V_BFE_", 2, "shift"), (r"[VS]_BFM_", 0, "shift"), (r"[VS]_BFM_", 1, "shift"),
    (r"S_(LSHL|LSHR|ASHR)_", 1, "shift"), (r"S_BITCMP", 1, "shift"), (r"S_BITSET", 0, "shift"), (r"S_BFE_", 1, "field"),
    (r"V_PERM_B32", 2, "selector"),
    (r"V_CMPX?_CLASS", 1, "classes"),
    (r"V_LDEXP_F16", 1, "exponent16"), (r"V_LDEXP_F", 1, "exponent"),
    (r"V_(S_)?EXP_F32", 0, "f32.exp2"), (r"V_(S_)?EXP_F16", 0, "f16.exp2"), (r"V_EXP_LEGACY_F32", 0, "f32.exp2"),
    (r"V_(S_)?(LOG|LOG_LEGACY|RCP|RCP_IFLAG|RSQ|SQRT)_F32", 0, "f32.normal"),
    (r"V_(S_)?(LOG|RCP|RSQ|SQRT)_F16", 0, "f16.normal"),
    (r"V_(RCP|RSQ|SQRT)_F64", 0, "f64.normal"),
    (r"V_(SIN|COS)_F32", 0, "f32.turns"), (r"V_(SIN|COS)_F16", 0, "f16.turns"),
    (r"V_FREXP_\w+_F32", 0, "f32.finite"), (r"V_FREXP_\w+_F64", 0, "f64.finite"), (r"V_FREXP_\w+_F16", 0, "f16.finite"),
    (r"V_FRACT_F32", 0, "f32.turns"), (r"V_FRACT_F16", 0, "f16.turns"), (r"V_FRACT_F64", 0, "f64.integral"),
    (r"V_CVT_PK_U8_F32|V_CVT_PKACCUM", 0, "f32.byte"), (r"V_CVT_PK_U8_F32|V_CVT_PKACCUM", 1, "shift"),
    (r"[VS]_CVT_(PK_RTZ_|PKRTZ_|PK_)?F16_F32", None, "f32.halves"),
    (r"V_CVT_F32_F64", 0, "f64.singles"),
    (r"V_CVT_(PK_)?NORM_\w\d+_F32", None, "f32.unit"), (r"V_CVT_(PK_)?NORM_\w\d+_F16", None, "f16.unit"),
    (r"V_CVT_PKNORM_\w\d+_F32", None, "f32.unit"), (r"V_CVT_PKNORM_\w\d+_F16", None, "f16.unit"),
    (r"[VS]_CVT_\w*[IU](8|16|32)_F32", None, "f32.integral"), (r"V_CVT_[IU]32_F64", 0, "f64.integral"),
    (r"V_(RNDNE|CEIL|FLOOR|TRUNC)_F64", 0, "f64.integral"),
    (r"V_CVT_[IU]16_F16", 0, "f16.integral"),
    (r"V_DOT2(ACC|C)?_F(32|16)_F16", 2, "f32.small"), (r"V_DOT2(ACC|C)?_F(32|16)_F16", None, "pf16.small"),
    (r"V_DOT2(ACC|C)?_(F32|BF16)_BF16", 2, "f32.small"), (r"V_DOT2(ACC|C)?_(F32|BF16)_BF16", None, "pbf16.small"),
    (r"V_(MAD|MAC|MADMK|MADAK)_F32", None, "f32.normal"),  # these flush denormals
    (r"V_DIV_FIXUP_F(32|64|16)", None, "f{0}.normal"), (r"V_DIV_(SCALE|FMAS)_F(32|64)", None, "f{1}.finite"),
]

FORMAT_COLUMN = {
    "NUM_F32": "f32", "NUM_F16": "f16", "NUM_F64": "f64", "NUM_PK2_F16": "pf16", "NUM_PK2_F32": "pf32", "NUM_BF16": "pbf16",
    "NUM_PK2_BF16": "pbf16",
}


def column_kind(name, place, fmt, size):
    for pattern, at, kind in COLUMNS:
        m = re.match(pattern + r"(_|$)", name) or re.match(pattern, name)
        if m and at in (None, place):
            return kind.format(*m.groups()) if "{" in kind else kind
    if fmt in FORMAT_COLUMN:
        return FORMAT_COLUMN[fmt]
    return "b64" if size == 64 else "b32"
