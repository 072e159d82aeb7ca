"""Operand forms and modifiers on a sample of instructions: constants, scalar registers, negation, packed halves, clamp."""

import floats
from cases import written_source
from pseudocode import Bits, Unsupported

# (encoding, name, operands, suffix): scalar registers, inline constants, literals, negation, absolute values
WRITTEN = """
VOP2Op V_ADD_F32_E32 s4 v2
VOP2Op V_ADD_F32_E32 1.0 v2
VOP2Op V_ADD_F32_E32 -4.0 v2
VOP2Op V_MUL_F32_E32 0.15915494 v2
VOP2Op V_MUL_F32_E32 64 v2
VOP2Op V_MUL_F32_E32 -16 v2
VOP2Op V_MUL_F32_E32 0x3fb8aa3b v2
VOP2Op V_SUB_F32_E32 s4 v2
VOP2Op V_SUBREV_F32_E32 0.5 v2
VOP2Op V_MAX_F32_E32 0 v2
VOP2Op V_MAX_NUM_F32_E32 0 v2
VOP2Op V_FMAC_F32_E32 s4 v2
VOP2Op V_ADD_F16_E32 1.0 v2
VOP2Op V_ADD_F16_E32 0.15915494 v2
VOP2Op V_MUL_F16_E32 s4 v2
VOP2Op V_MUL_F16_E32 0x4248 v2
VOP2Op V_ADD_NC_U32_E32 -16 v2
VOP2Op V_ADD_NC_U32_E32 64 v2
VOP2Op V_ADD_NC_U32_E32 s4 v2
VOP2Op V_ADD_NC_U32_E32 0x12345 v2
VOP2Op V_ADD_U32_E32 -16 v2
VOP2Op V_ADD_U32_E32 s4 v2
VOP2Op V_ADD_U32_E32 0x12345 v2
VOP2Op V_AND_B32_E32 0xf0f0f0f v2
VOP2Op V_AND_B32_E32 1.0 v2
VOP2Op V_AND_B32_E32 15 v2
VOP2Op V_OR_B32_E32 s4 v2
VOP2Op V_XOR_B32_E32 -1 v2
VOP2Op V_LSHLREV_B32_E32 4 v2
VOP2Op V_LSHRREV_B32_E32 16 v2
VOP2Op V_ASHRREV_I32_E32 31 v2
VOP2Op V_SUBREV_NC_U32_E32 32 v2
VOP2Op V_MUL_U32_U24_E32 12 v2
VOP2Op V_CNDMASK_B32_E32 0 v2
VOP2Op V_CNDMASK_B32_E32 -1 v2
VOP2Op V_CNDMASK_B32_E32 0x7f800000 v2
VOP1Op V_MOV_B32_E32 s4
VOP1Op V_MOV_B32_E32 0
VOP1Op V_MOV_B32_E32 1.0
VOP1Op V_MOV_B32_E32 0x7fc00000
VOP1Op V_MOV_B64_E32 s[4:5]
VOP1Op V_MOV_B64_E32 0
VOP1Op V_CVT_F32_I32_E32 s4
VOP1Op V_CVT_F16_F32_E32 0.15915494
VOP1Op V_RCP_F32_E32 s4
VOP3Op V_CNDMASK_B32_E64 v0 v2
VOP3Op V_CNDMASK_B32_E64 0 1
VOP3Op V_CNDMASK_B32_E64 -v0 |v2|
VOP3Op V_CNDMASK_B32_E64 s4 v2
VOP3Op V_ADD_F32_E64 -v0 v2
VOP3Op V_ADD_F32_E64 |v0| -|v2|
VOP3Op V_ADD_F32_E64 -s4 v2
VOP3Op V_ADD_F32_E64 v0 v2 clamp
VOP3Op V_MUL_F32_E64 -v0 -v2
VOP3Op V_MUL_F32_E64 |v0| v2 clamp
VOP3Op V_MUL_F32_E64 -1.0 |v2|
VOP3Op V_MAX_F32_E64 |v0| |v2|
VOP3Op V_MAX_F32_E64 v0 v0 clamp
VOP3Op V_MIN_F32_E64 -v0 0x42fe0000
VOP3Op V_MAX_NUM_F32_E64 |v0| |v2|
VOP3Op V_MAX_NUM_F32_E64 v0 v0 clamp
VOP3Op V_ADD_F16_E64 -v0 |v2|
VOP3Op V_MUL_F16_E64 v0 v2 clamp
VOP3Op V_FMA_F16 -v0 v2 |v4|
VOP3Op V_FMA_F32 v0 v2 -v4
VOP3Op V_FMA_F32 -v0 |v2| v4
VOP3Op V_FMA_F32 s0 v2 v4
VOP3Op V_FMA_F32 v0 2.0 v4
VOP3Op V_FMA_F32 v0 v2 1.0
VOP3Op V_FMA_F32 v0 s2 s2
VOP3Op V_FMA_F32 v0 v2 0x3f317218
VOP3Op V_FMA_F32 v0 v2 v4 clamp
VOP3Op V_FMA_F64 -v[0:1] v[2:3] |v[4:5]|
VOP3Op V_FMA_F64 v[0:1] 1.0 v[4:5]
VOP3Op V_ADD_F64 v[0:1] -v[2:3]
VOP3Op V_ADD_F64 v[0:1] 0.15915494309189532
VOP3Op V_ADD_F64 v[0:1] -4.0
VOP3Op V_MUL_F64 s[0:1] v[2:3]
VOP3Op V_MUL_F64 v[0:1] |v[2:3]|
VOP2Op V_ADD_F64_E32 0.15915494309189532 v[2:3]
VOP2Op V_MUL_F64_E32 s[0:1] v[2:3]
VOP3Op V_LDEXP_F32 -v0 v2
VOP3Op V_LDEXP_F32 v0 32
VOP3Op V_LDEXP_F32 |v0| s2
VOP3Op V_LDEXP_F64 v[0:1] 5
VOP3Op V_MED3_F32 v0 v2 -v4
VOP3Op V_MED3_F32 v0 0 1.0
VOP3Op V_MED3_NUM_F32 v0 0 1.0
VOP3Op V_MED3_I32 v0 s2 v4
VOP3Op V_MAX3_F32 |v0| |v2| v4
VOP3Op V_MAX3_NUM_F32 |v0| |v2| v4
VOP3Op V_EXP_F32_E64 -v0
VOP3Op V_LOG_F32_E64 |v0|
VOP3Op V_RCP_F32_E64 -v0
VOP3Op V_RSQ_F32_E64 |v0|
VOP3Op V_CVT_F16_F32_E64 -v0
VOP3Op V_CVT_F16_F32_E64 |v0|
VOP3Op V_CVT_F32_F16_E64 -v0
VOP3Op V_CVT_F32_F16_E64 |v0|
VOP3Op V_CVT_I32_F32_E64 -v0
VOP3Op V_CVT_U32_F32_E64 |v0|
VOP3Op V_RNDNE_F32_E64 |v0|
VOP3Op V_CMP_LT_F32_E64 |v0| v2
VOP3Op V_CMP_GT_F32_E64 -v0 |v2|
VOP3Op V_CMP_EQ_F32_E64 v0 0
VOP3Op V_CMP_LT_F32_E64 s0 v2
VOP3Op V_CMP_LG_F32_E64 0x7f800000 |v2|
VOP3Op V_CMP_CLASS_F32_E64 v0 0x1f8
VOP3Op V_CMP_CLASS_F32_E64 -v0 3
VOPCOp V_CMP_EQ_U32_E32 0 v2
VOPCOp V_CMP_GT_I32_E32 s4 v2
VOPCOp V_CMP_NE_U32_E32 0x12345 v2
VOPCOp V_CMP_GT_F32_E32 1.0 v2
VOPCOp V_CMP_EQ_U64_E32 0 v[2:3]
VOPCOp V_CMP_GT_U64_E32 s[4:5] v[2:3]
VOPCOp V_CMP_LT_F16_E32 1.0 v2
VOPCOp V_CMP_EQ_U16_E32 -1 v2
VOPCOp V_CMPX_GT_U32_E32 s4 v2
VOP3Op V_CMP_NE_U32_E64 0 v2
VOP3Op V_CMP_GT_U32_E64 s0 v2
VOP3Op V_CMP_LT_I64_E64 v[0:1] 64
VOP3Op V_BFE_U32 v0 8 4
VOP3Op V_BFE_I32 v0 0 16
VOP3Op V_BFI_B32 s0 v2 v4
VOP3Op V_BFI_B32 0x7fffffff v2 v4
VOP3Op V_ALIGNBIT_B32 v0 v2 16
VOP3Op V_ALIGNBIT_B32 v0 v0 s4
VOP3Op V_PERM_B32 v0 v2 0x5040100
VOP3Op V_PERM_B32 v0 s2 s4
VOP3Op V_PERM_B32 0 v2 v4
VOP3Op V_AND_OR_B32 v0 15 v4
VOP3Op V_AND_OR_B32 v0 s2 v4
VOP3Op V_AND_OR_B32 v0 0xf0f0f0f s4
VOP3Op V_OR3_B32 v0 v2 128
VOP3Op V_ADD3_U32 v0 s2 64
VOP3Op V_LSHL_OR_B32 v0 16 v4
VOP3Op V_LSHL_ADD_U32 v0 2 v4
VOP3Op V_LSHL_ADD_U32 s0 3 v4
VOP3Op V_ADD_LSHL_U32 v0 s2 1
VOP3Op V_LSHL_ADD_U64 v[0:1] 2 v[4:5]
VOP3Op V_LSHL_ADD_U64 s[0:1] 0 v[4:5]
VOP3Op V_MAD_U32_U24 v0 s2 v4
VOP3Op V_MAD_I32_I24 v0 -3 v4
VOP3Op V_MUL_LO_U32 v0 s2
VOP3Op V_MUL_HI_U32 v0 0xaaaaaaab
VOP3Op V_MUL_HI_U32 v0 s2
VOP3Op V_LSHLREV_B64 4 v[2:3]
VOP3Op V_LSHLREV_B64 v0 1
VOP3Op V_LSHRREV_B64 s0 v[2:3]
VOP3Op V_ASHRREV_I64 32 v[2:3]
VOP2Op V_LSHLREV_B64_E32 4 v[2:3]
VOP3Op V_BCNT_U32_B32 s0 0
VOP3Op V_ADD_NC_U16 v0 -1
VOP3Op V_SUB_NC_U16 64 v2
VOP3SDOp V_MAD_U64_U32 v0 s2 v[4:5]
VOP3SDOp V_MAD_U64_U32 v0 v2 0
VOP3SDOp V_MAD_U64_U32 s0 v2 s[4:5]
VOP3SDOp V_MAD_U64_U32 v0 12 v[4:5]
VOP3SDOp V_MAD_I64_I32 v0 s2 v[4:5]
VOP3SDOp V_ADD_CO_U32 v0 s2
VOP3SDOp V_ADD_CO_CI_U32 0 v2
VOP3SDOp V_SUB_CO_U32 v0 64
VOP2Op V_ADD_CO_CI_U32_E32 0 v2
VOP2Op V_ADD_CO_U32_E32 s4 v2
VOP2Op V_ADDC_CO_U32_E32 0 v2
VOP3SDOp V_DIV_SCALE_F32 v0 v0 v2
VOP3SDOp V_DIV_SCALE_F32 v2 v0 v2
VOP3SDOp V_DIV_SCALE_F64 v[0:1] v[0:1] v[2:3]
VOP3SDOp V_DIV_SCALE_F64 v[2:3] v[0:1] v[2:3]
VOP3Op V_DIV_FIXUP_F32 v0 v2 1.0
VOP3Op V_CVT_PK_U8_F32 v0 2 v4
VOP3Op V_SAD_U32 v0 v2 0
VOP3Op V_XAD_U32 v0 -1 v4
VOP3Op V_MAXMIN_F32 v0 v2 s4
VOP3Op V_MAXMIN_NUM_F32 v0 v2 s4
"""

SATURATED = {  # integer clamp: the exact sum held to the type's range
    "V_ADD_NC_U32_E64": (False, lambda a, b: a + b), "V_SUB_NC_U32_E64": (False, lambda a, b: a - b),
    "V_ADD_U32_E64": (False, lambda a, b: a + b), "V_SUB_U32_E64": (False, lambda a, b: a - b),
    "V_ADD_NC_I32": (True, lambda a, b: a + b), "V_SUB_NC_I32": (True, lambda a, b: a - b),
    "V_ADD_I32": (True, lambda a, b: a + b), "V_SUB_I32": (True, lambda a, b: a - b),
}


def written_cases(maker, report):
    cases = []
    for line in WRITTEN.strip().splitlines():
        encoding, name, *operands = line.split()
        fields = maker.manual.operands.get(encoding, {}).get(name)
        if not fields:
            continue
        clamp = operands[-1] == "clamp"
        if clamp:
            operands.pop()
        order = [f for f in ("src0", "vsrc0", "src1", "vsrc1", "src2") if f in fields]
        sources = [written_source(text, strip(name), i, *fields[f][:2]) for i, (text, f) in enumerate(zip(operands, order))]
        post = clamp_float(fields["vdst"]) if clamp else None
        try:
            cases += maker.vector(encoding, name, sources, " clamp" if clamp else "", post=post)
        except Unsupported as e:
            report.append((maker.target, encoding, name, str(e)))
    return cases + saturated_cases(maker)


def strip(name):
    return name.removesuffix("_E32").removesuffix("_E64")


def clamp_float(field):
    """Between 0 and 1; NaN becomes 0."""
    fmt = {16: "f16", 32: "f32", 64: "f64"}[field[1]]
    keep = ((1 << 32) - 1) ^ ((1 << field[1]) - 1) if field[1] == 16 else 0

    def clamp(raw):
        x = floats.decode(fmt, raw & ((1 << field[1]) - 1))
        if x.nan or x.negative:
            bits = 0
        elif x.infinite or x.value > 1:
            bits = floats.encode(floats.of(fmt, 1))
        else:
            bits = floats.encode(x)
        return raw & keep | bits

    return clamp


def saturated_cases(maker):
    cases = []
    for name, (signed, operation) in SATURATED.items():
        fields = maker.manual.operands["VOP3Op"].get(name)
        if not fields:
            continue
        order = [f for f in ("src0", "vsrc0", "src1") if f in fields]
        sources = [written_source(t, strip(name), i, *fields[f][:2]) for i, (t, f) in enumerate(zip(("v0", "v2"), order))]
        pairs = iter([(sources[0].bits(r), sources[1].bits(r)) for r in range(32) if 0xBFFFDFFF >> r & 1])

        def post(_, pairs=pairs, signed=signed, operation=operation):
            a, b = next(pairs)
            if signed:
                a, b = (v - (1 << 32) if v >> 31 else v for v in (a, b))
                return max(-(1 << 31), min((1 << 31) - 1, operation(a, b))) & 0xFFFFFFFF
            return max(0, min((1 << 32) - 1, operation(a, b)))

        cases += maker.vector("VOP3Op", name, sources, " clamp", post=post)
    return cases


# packed instructions: (name, operands, op_sel, op_sel_hi, neg_lo, neg_hi), each a string of bits per operand
PACKED = """
V_PK_ADD_F16 v0,v2 00 11 00 00
V_PK_ADD_F16 v0,v2 10 01 00 00
V_PK_ADD_F16 v0,v2 11 00 01 10
V_PK_ADD_F16 v0,v2 00 10 00 00
V_PK_ADD_F16 v0,1.0 00 10 00 00
V_PK_ADD_F16 v0,s4 00 11 10 01
V_PK_MUL_F16 v0,v2 00 10 00 00
V_PK_MUL_F16 v0,v2 01 11 11 00
V_PK_FMA_F16 v0,v2,v4 000 111 001 001
V_PK_FMA_F16 v0,v2,v4 000 101 000 000
V_PK_FMA_F16 v0,v2,v4 010 101 100 010
V_PK_MIN_F16 v0,v2 00 11 01 01
V_PK_MAX_F16 v0,v2 01 10 00 00
V_PK_MIN_NUM_F16 v0,v2 00 11 01 01
V_PK_MAX_NUM_F16 v0,v2 01 10 00 00
V_PK_ADD_U16 v0,v2 01 10 00 00
V_PK_ADD_U16 v0,s4 00 10 00 00
V_PK_SUB_I16 v0,v2 10 11 00 00
V_PK_SUB_I16 0,v2 00 01 00 00
V_PK_SUB_I16 v0,8 00 10 00 00
V_PK_MUL_LO_U16 v0,v2 00 10 00 00
V_PK_MAD_U16 v0,v2,v4 000 110 000 000
V_PK_LSHLREV_B16 4,v2 00 01 00 00
V_PK_LSHRREV_B16 4,v2 00 01 00 00
V_PK_ASHRREV_I16 8,v2 00 01 00 00
V_DOT2_F32_F16 v0,v2,v4 000 111 000 000
V_DOT2_F32_F16 v0,v2,s4 000 111 000 000
V_DOT2_F32_BF16 v0,v2,v4 000 111 000 000
V_PK_FMA_F32 v[0:1],v[2:3],v[4:5] 000 101 000 000
V_PK_FMA_F32 v[0:1],v[2:3],v[4:5] 010 111 001 001
V_PK_FMA_F32 v[0:1],s[2:3],v[4:5] 000 101 000 000
V_PK_FMA_F32 v[0:1],v[2:3],v[4:5] 100 011 110 100
V_PK_MUL_F32 v[0:1],v[2:3] 00 10 00 00
V_PK_MUL_F32 v[0:1],v[2:3] 01 11 10 10
V_PK_MUL_F32 s[0:1],v[2:3] 00 01 00 00
V_PK_ADD_F32 v[0:1],v[2:3] 01 10 00 11
V_PK_ADD_F32 v[0:1],v[2:3] 00 11 01 01
"""


def bits_text(label, bits, default):
    return "" if bits == default else f" {label}:[{','.join(bits)}]"


def packed_cases(maker, report):
    cases = []
    for line in PACKED.strip().splitlines():
        name, operands, select, select_high, negate, negate_high = line.split()
        fields = maker.manual.operands["VOP3POp"].get(name)
        if not fields:
            continue
        order = [f for f in ("src0", "vsrc0", "src1", "src2") if f in fields]
        sources = []
        for i, (text, f) in enumerate(zip(operands.split(","), order)):
            fmt, size, _ = fields[f]
            source = written_source(text, name, i, fmt, size)
            if fmt.startswith("NUM_PK2"):
                source.halves = tuple(int(b[i]) for b in (select, select_high, negate, negate_high))
            sources.append(source)
        zeros, ones = "0" * len(order), "1" * len(order)
        suffix = (bits_text("op_sel", select, zeros) + bits_text("op_sel_hi", select_high, ones)
                  + bits_text("neg_lo", negate, zeros) + bits_text("neg_hi", negate_high, zeros))
        try:
            cases += maker.vector("VOP3POp", name, sources, suffix)
        except Unsupported as e:
            report.append((maker.target, "VOP3POp", name, str(e)))
    return cases + sign_cases(maker) + mixed_cases(maker) + dot_clamp_cases(maker) + move_cases(maker)


def sign_cases(maker):
    """v_dot4_i32_iu8 and v_dot8_i32_iu4: neg_lo says which operands are signed."""
    cases = []
    for name in ("V_DOT4_I32_IU8", "V_DOT8_I32_IU4"):
        fields = maker.manual.operands["VOP3POp"].get(name)
        for signs in ("00", "11", "10", "01") if fields else ():
            for third in ("v4", "s4", "0"):
                sources = [written_source(t, name, i, *fields[f][:2]) for i, (t, f) in
                           enumerate(zip(("v0", "v2", third), [f for f in ("src0", "vsrc0", "src1", "src2") if f in fields]))]
                suffix = bits_text("neg_lo", signs + "0", "000")
                cases += maker.vector("VOP3POp", name, sources, suffix, extra={"NEG": Bits(int(signs[::-1], 2), 3)})
    return cases


def mixed_cases(maker):
    """v_fma_mix_*: op_sel_hi says which operands are f16, op_sel which half; neg_hi is the absolute value."""
    cases = []
    for name in ("V_FMA_MIX_F32", "V_FMA_MIXLO_F16", "V_FMA_MIXHI_F16", "V_MAD_MIX_F32", "V_MAD_MIXLO_F16", "V_MAD_MIXHI_F16"):
        fields = maker.manual.operands["VOP3POp"].get(name)
        if not fields:
            continue
        for select, select_high, negate, absolute in (("000", "111", "000", "000"), ("010", "110", "000", "000"),
                                                      ("101", "101", "010", "000"), ("001", "001", "100", "001"),
                                                      ("011", "011", "001", "010")):
            sources = []
            for i in range(3):
                half = select_high[i] == "1"
                source = written_source(f"v{2 * i}", "", i, "NUM_PK2_F16" if half else "NUM_F32", 32)
                sources.append(source)
            shown = [f"{'-' if n == '1' else ''}{'|' if a == '1' else ''}v{2 * i}{'|' if a == '1' else ''}"
                     for i, (n, a) in enumerate(zip(negate, absolute))]
            signs = [(negate[i] == "1", absolute[i] == "1", select_high[i] == "1") for i in range(3)]
            for source, text, (n, a, half) in zip(sources, shown, signs):
                sign = 0x80008000 if half else 0x80000000
                source.rows = [(v & ~sign if a else v) ^ (sign if n else 0) for v in source.rows]
                source.text = text
            suffix = bits_text("op_sel", select, "000") + bits_text("op_sel_hi", select_high, "000")
            mnemonic = name.lower().replace("v_mad", "v_fma")
            cases += maker.vector("VOP3POp", name, sources, suffix, mnemonic, extra={
                "OPSEL": Bits(int(select[::-1], 2), 3), "OPSEL_HI": Bits(int(select_high[::-1], 2), 3)})
    return cases


def dot_clamp_cases(maker):
    """Dot products whose result saturates."""
    cases = []
    for name, signed in (("V_DOT4_I32_I8", True), ("V_DOT4_U32_U8", False), ("V_DOT8_I32_I4", True), ("V_DOT2_I32_I16", True)):
        fields = maker.manual.operands["VOP3POp"].get(name)
        if not fields:
            continue
        order = [f for f in ("src0", "vsrc0", "src1", "src2") if f in fields]
        sources = [written_source(f"v{2 * i}", name, i, *fields[f][:2]) for i, f in enumerate(order)]
        width = {"8": 8, "4": 4, "6": 16}[name[-1]]

        def lanes(raw, width=width, signed=signed):
            parts = [raw >> k & ((1 << width) - 1) for k in range(0, 32, width)]
            return [p - (1 << width) if signed and p >> (width - 1) else p for p in parts]

        totals = []
        for row in range(32):
            if 0xBFFFDFFF >> row & 1:
                a, b, c = (s.bits(row) for s in sources)
                c = c - (1 << 32) if signed and c >> 31 else c
                total = c + sum(x * y for x, y in zip(lanes(a), lanes(b)))
                low, high = (-(1 << 31), (1 << 31) - 1) if signed else (0, (1 << 32) - 1)
                totals.append(max(low, min(high, total)) & 0xFFFFFFFF)
        totals = iter(totals)
        cases += maker.vector("VOP3POp", name, sources, " clamp", post=lambda _, totals=totals: next(totals))
    return cases


def move_cases(maker):
    """v_pk_mov_b32 takes one half of each operand."""
    cases = []
    name = "V_PK_MOV_B32"
    fields = maker.manual.operands["VOP3POp"].get(name)
    for select in ("00", "01", "10", "11") if fields else ():
        sources = [written_source(f"v[{2 * i}:{2 * i + 1}]", "", i, "NUM_B64", 64) for i in range(2)]
        cases += maker.vector("VOP3POp", name, sources, bits_text("op_sel", select, "00"),
                              extra={"OPSEL": Bits(int(select[::-1], 2), 3)})
    return cases


def word_select_cases(maker):
    """16-bit operands and results in the upper half of a register (VOP3's op_sel), on targets that have it."""
    cases = []
    for name, selects in (("V_FMA_F16", ("1000", "0110", "0001", "1111")), ("V_ADD_F16_E64", ("100", "011")),
                          ("V_MAD_U16", ("1001", "0010")), ("V_ADD_NC_U16", ("101", "010")), ("V_MAX_U16", ("110",)),
                          ("V_PACK_B32_F16", ("100", "010", "110")), ("V_MAX3_F16", ("1010",)), ("V_MAX3_NUM_F16", ("1010",)),
                          ("V_SUB_NC_I16", ("011",)), ("V_MUL_LO_U16", ("100",)), ("V_CVT_PK_NORM_I16_F16", ("110",)),
                          ("V_LSHLREV_B16", ("011",)), ("V_MAD_U32_U16", ("1100",)), ("V_MAD_I32_I16", ("0100",))):
        fields = maker.manual.operands["VOP3Op"].get(name)
        if not fields:
            continue
        order = [f for f in ("src0", "vsrc0", "src1", "src2") if f in fields]
        for select in selects:
            if name.startswith("V_PACK") or fields["vdst"][1] == 32:
                select = select[: len(order)] + "0"
            sources = []
            for i, f in enumerate(order):
                source = written_source(f"v{2 * i}", strip(name), i, *fields[f][:2])
                if select[i] == "1" and fields[f][1] == 16:
                    source.rows = [v >> 16 for v in source.rows]
                sources.append(source)
            cases += maker.vector("VOP3Op", name, sources, bits_text("op_sel", select, "0" * len(select)),
                                  high=select[-1] == "1")
    return cases

