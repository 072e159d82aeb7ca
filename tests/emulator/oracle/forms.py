"""Special forms: two instructions in one (VOPD), sub-dword operands (SDWA), swaps, accumulation registers, scalar operands."""

import re

import inputs
from cases import EXEC, VCC, Case, constant_bits, float_format
from inputs import ROWS
from instructions import column_kind
from pseudocode import Bits, Unsupported

ON = [bool(EXEC >> row & 1) for row in range(ROWS)]


def words(values):
    return "".join(f"{v & 0xFFFFFFFF:08x}" for v in values)


def lane_case(maker, asm, before, after):
    return Case(maker.target, asm, {**before, "exec": f"={EXEC:08x}"}, after)


# v_dual_*: component -> the VOP2 or VOP1 instruction it is
DUAL = {
    "fmac_f32": "V_FMAC_F32_E32", "fmaak_f32": "V_FMAAK_F32_E32", "fmamk_f32": "V_FMAMK_F32_E32", "mul_f32": "V_MUL_F32_E32",
    "add_f32": "V_ADD_F32_E32", "sub_f32": "V_SUB_F32_E32", "subrev_f32": "V_SUBREV_F32_E32",
    "mul_dx9_zero_f32": "V_MUL_DX9_ZERO_F32_E32", "mov_b32": "V_MOV_B32_E32", "cndmask_b32": "V_CNDMASK_B32_E32",
    "max_f32": "V_MAX_F32_E32", "min_f32": "V_MIN_F32_E32", "max_num_f32": "V_MAX_NUM_F32_E32",
    "min_num_f32": "V_MIN_NUM_F32_E32", "add_nc_u32": "V_ADD_NC_U32_E32", "lshlrev_b32": "V_LSHLREV_B32_E32",
    "and_b32": "V_AND_B32_E32", "dot2acc_f32_f16": "V_DOT2ACC_F32_F16_E32",
}
LITERAL = 0x40490FDB


def dual_cases(maker):
    """Every component in each place, beside a multiplication or an addition; and one that swaps two registers."""
    if maker.lanes != 32:
        return []
    cases = []
    for component in DUAL:
        if not known(maker, component):
            continue
        partner = "mul_f32" if component == "add_f32" else "add_f32"
        if component in ("fmaak_f32", "fmamk_f32"):
            cases.append(dual(maker, (component, 8, 0, 2), (component, 9, 1, 3)))
        cases.append(dual(maker, (component, 8, 0, 2), (partner, 9, 1, 3)))
        cases.append(dual(maker, (partner, 8, 0, 2), (component, 9, 1, 3)))
    cases.append(dual(maker, ("mov_b32", 8, 9, 2), ("mov_b32", 9, 8, 3)))
    cases.append(dual(maker, ("add_f32", 0, 1, 2), ("mul_f32", 1, 0, 3)))
    cases.append(dual(maker, ("fmac_f32", 8, 0, 2), ("fmac_f32", 9, 1, 3)))
    return cases


def known(maker, component):
    name = DUAL[component]
    return any(name in maker.manual.text[e] for e in ("VOP1Op", "VOP2Op"))


def dual(maker, first, second):
    state = {f"v{r}": f"wide.{r % 4}" for r in (0, 1, 2, 3, 8, 9)}
    values = {r: inputs.column("wide", r % 4)[:ROWS] for r in (0, 1, 2, 3, 8, 9)}
    texts, after = [], {}
    for component, d, a, b in (first, second):
        name = DUAL[component]
        encoding = "VOP1Op" if name in maker.manual.text["VOP1Op"] else "VOP2Op"
        operands = [f"v{d}", f"v{a}"] + ([] if encoding == "VOP1Op" else [f"v{b}"])
        if component == "fmaak_f32":
            operands.append(f"{LITERAL:#x}")
        if component == "fmamk_f32":
            operands.insert(2, f"{LITERAL:#x}")
        texts.append(f"v_dual_{component} {', '.join(operands)}")
        result = []
        for i in range(ROWS):
            registers = {"S0": (values[a][i], 32), "S1": (values[b][i], 32), "D0": (values[d][i], 32), "VCC": (VCC, 64),
                         "EXEC": (EXEC, 64)}
            run = maker.run(encoding, name, registers, laneId=Bits(i, 32), SIMM32=Bits(LITERAL, 32))
            result.append(run.raw("D0") if ON[i] else values[d][i])
        after[f"v{d}"] = ["b32" if re.search("mov|cnd|nc|lsh|and", component) else "f32", words(result)]
    return lane_case(maker, " :: ".join(texts), {**state, "vcc": f"={VCC:08x}"}, after)


def swap_cases(maker):
    a, b = (inputs.column("wide", k)[: maker.lanes] for k in range(2))
    on_all = ON * 2
    swapped = [(y, x) if on else (x, y) for x, y, on in zip(a, b, on_all)]
    cases = [lane_case(maker, "v_swap_b32 v8, v0", {"v8": "wide.0", "v0": "wide.1"},
                       {"v8": ["b32", words(s[0] for s in swapped)], "v0": ["b32", words(s[1] for s in swapped)]})]
    if maker.gfx9:  # accumulation registers are plain storage
        moved = words(x if on else y for x, y, on in zip(a, b, on_all))
        for text, source, destination in (("v_accvgpr_write_b32 a8, v0", "v0", "a8"), ("v_accvgpr_read_b32 v8, a0", "a0", "v8"),
                                          ("v_accvgpr_mov_b32 a8, a0", "a0", "a8")):
            cases.append(lane_case(maker, text, {source: "wide.0", destination: "wide.1"}, {destination: ["b32", moved]}))
        for text, value in (("0", 0), ("1.0", 0x3F800000)):
            cases.append(lane_case(maker, f"v_accvgpr_write_b32 a8, {text}", {"a8": "wide.1"},
                                   {"a8": ["b32", words(value if on else y for y, on in zip(b, on_all))]}))
    return cases


# SDWA, gfx9: selections of bytes and words

SELECT = {"BYTE_0": (0, 8), "BYTE_1": (8, 8), "BYTE_2": (16, 8), "BYTE_3": (24, 8), "WORD_0": (0, 16), "WORD_1": (16, 16),
          "DWORD": (0, 32)}
# (name, destination selection, unused part, selection of each source, sign extension of each source)
SDWA = """
VOP2Op V_ADD_U32_E32 DWORD PAD BYTE_0,DWORD --
VOP2Op V_ADD_U32_E32 DWORD PAD BYTE_1,BYTE_3 --
VOP2Op V_ADD_U32_E32 DWORD PAD WORD_1,DWORD s-
VOP2Op V_ADD_U32_E32 DWORD PAD BYTE_2,BYTE_1 ss
VOP2Op V_SUB_U32_E32 DWORD PAD DWORD,WORD_0 --
VOP2Op V_LSHLREV_B32_E32 DWORD PAD DWORD,BYTE_1 --
VOP2Op V_LSHLREV_B32_E32 BYTE_1 PRESERVE DWORD,DWORD --
VOP2Op V_LSHLREV_B16_E32 BYTE_1 PAD DWORD,DWORD --
VOP2Op V_LSHRREV_B32_E32 DWORD PAD DWORD,WORD_1 --
VOP2Op V_LSHRREV_B32_E32 BYTE_1 PRESERVE DWORD,DWORD --
VOP2Op V_ASHRREV_I32_E32 DWORD PAD DWORD,BYTE_2 -s
VOP2Op V_AND_B32_E32 DWORD PAD BYTE_1,DWORD --
VOP2Op V_AND_B32_E32 DWORD PAD WORD_1,WORD_0 --
VOP2Op V_AND_B32_E32 BYTE_3 SEXT DWORD,DWORD --
VOP2Op V_OR_B32_E32 DWORD PAD DWORD,WORD_1 --
VOP2Op V_OR_B32_E32 DWORD PAD BYTE_0,DWORD --
VOP2Op V_OR_B32_E32 WORD_1 PRESERVE WORD_0,DWORD --
VOP2Op V_OR_B32_E32 WORD_0 SEXT BYTE_3,BYTE_2 --
VOP2Op V_XOR_B32_E32 WORD_1 PAD DWORD,DWORD --
VOP2Op V_MUL_U32_U24_E32 DWORD PAD BYTE_0,BYTE_0 --
VOP2Op V_MUL_I32_I24_E32 DWORD PAD WORD_0,BYTE_1 ss
VOP2Op V_MUL_LO_U16_E32 DWORD PAD BYTE_0,WORD_1 --
VOP2Op V_ADD_F16_E32 DWORD PAD WORD_1,WORD_0 --
VOP2Op V_ADD_F16_E32 WORD_1 PRESERVE WORD_0,WORD_1 --
VOP2Op V_MUL_F16_E32 WORD_1 PAD WORD_1,WORD_1 --
VOP2Op V_MAX_F16_E32 DWORD PAD WORD_1,DWORD --
VOP1Op V_MOV_B32_E32 DWORD PAD WORD_1 -
VOP1Op V_MOV_B32_E32 DWORD PAD BYTE_3 s
VOP1Op V_MOV_B32_E32 WORD_1 PRESERVE WORD_0 -
VOP1Op V_MOV_B32_E32 BYTE_2 PRESERVE BYTE_1 -
VOP1Op V_CVT_F32_F16_E32 DWORD PAD WORD_1 -
VOP1Op V_CVT_F16_F32_E32 WORD_1 PRESERVE DWORD -
VOP1Op V_CVT_F32_I32_E32 DWORD PAD BYTE_1 s
VOP1Op V_CVT_F32_I32_E32 DWORD PAD WORD_1 s
VOP1Op V_CVT_F32_U32_E32 DWORD PAD WORD_0 -
VOP1Op V_CVT_F16_U16_E32 WORD_1 PRESERVE BYTE_0 -
VOPCOp V_CMP_EQ_U32_E32 - - BYTE_0,BYTE_0 --
VOPCOp V_CMP_GT_U16_E32 - - BYTE_1,WORD_1 --
VOPCOp V_CMP_NE_U16_E32 - - BYTE_2,DWORD --
VOPCOp V_CMP_LT_I32_E32 - - WORD_1,DWORD s-
"""


def sub_dword_cases(maker):
    if not maker.gfx9:
        return []
    cases = []
    for line in SDWA.strip().splitlines():
        encoding, name, target, unused, selections, signs = line.split()
        kind = "pf16" if "F16" in name and "CVT_F16" not in name else "f32" if "F16_F32" in name else "b32"
        plain = name.removesuffix("_E32")
        shift = re.match("V_(LSHL|LSHR|ASHR)REV", plain)
        columns, texts, before, suffix = [], [], {}, ""
        for i, (selection, sign) in enumerate(zip(selections.split(","), signs)):
            low, width = SELECT[selection]
            column = "shift" if shift and i == 0 else kind
            rows = [v >> low & ((1 << width) - 1) for v in inputs.column(column, i)]
            if sign == "s":
                rows = [(v - (1 << width) if v >> (width - 1) else v) & 0xFFFFFFFF for v in rows]
            columns.append(rows)
            texts.append(f"sext(v{2 * i})" if sign == "s" else f"v{2 * i}")
            before[f"v{2 * i}"] = f"{column}.{i}"
            suffix += f" src{i}_sel:{selection}"
        compare = encoding == "VOPCOp"
        old = inputs.column("b32", 3)
        result, mask = [], 0
        for row in range(ROWS):
            registers = {f"S{i}": (c[row], 32) for i, c in enumerate(columns)}
            registers.update(D0=(0 if compare else old[row], 64 if compare else 32), VCC=(0, 64), EXEC=(EXEC, 64))
            if not compare and re.search("16_E32|F16_F32|F16_U16", name) and "CVT_F32" not in name:
                registers["D0"] = (0, 32)
            raw = maker.run(encoding, name, registers, laneId=Bits(row, 32)).raw("D0")
            if compare:
                mask |= (raw >> row & 1 & ON[row]) << row
            else:
                result.append(placed(raw, old[row], target, unused) if ON[row] else old[row])
        mnemonic = name.lower().replace("_e32", "_sdwa")
        if compare:
            cases.append(lane_case(maker, f"{mnemonic} vcc, {', '.join(texts)}{suffix}", before, {"vcc": f"{mask:08x}"}))
            continue
        before["v8"] = "b32.3"
        suffix = f" dst_sel:{target} dst_unused:UNUSED_{unused}" + suffix
        half = "F16" in name and "CVT_F32" not in name
        shape = "2f16" if half and (target == "WORD_1" or unused == "PAD") else "f32" if "CVT_F32" in name else "b32"
        if half and unused == "PRESERVE":
            shape = "f16.high"
        cases.append(lane_case(maker, f"{mnemonic} v8, {', '.join(texts)}{suffix}", before, {"v8": [shape, words(result)]}))
    return cases


def placed(raw, old, target, unused):
    low, width = SELECT[target]
    field = raw & ((1 << width) - 1)
    if unused == "PRESERVE":
        return old & ~(((1 << width) - 1) << low) | field << low
    if unused == "SEXT" and field >> (width - 1):
        field -= 1 << width
    return field << low & 0xFFFFFFFF


# scalar instructions with constants, vcc and literals: destination, then operands

SCALAR = """
S_MOV_B32 s8 0
S_MOV_B32 s8 0x12345678
S_MOV_B32 s8 -16
S_MOV_B32 s8 1.0
S_MOV_B64 s[8:9] -1
S_MOV_B64 s[8:9] 0
S_MOV_B64 s[8:9] 64
S_ADD_U32 s8 s0 0x12345678
S_ADD_CO_U32 s8 s0 0x12345678
S_ADD_I32 s8 s0 -1
S_ADD_CO_I32 s8 s0 -1
S_ADDC_U32 s8 s0 0
S_ADD_CO_CI_U32 s8 s0 0
S_SUB_I32 s8 0 s4
S_SUB_CO_I32 s8 0 s4
S_LSHL_B32 s8 s0 2
S_LSHL_B64 s[8:9] s[0:1] 3
S_LSHR_B32 s8 s0 16
S_LSHR_B64 s[8:9] s[0:1] 32
S_ASHR_I32 s8 s0 31
S_ASHR_I64 s[8:9] s[0:1] 33
S_AND_B32 s8 s0 0xffff
S_AND_B32 s8 s0 -8
S_OR_B32 s8 s0 64
S_ANDN2_B64 s[8:9] s[0:1] -16
S_AND_NOT1_B32 s8 s0 15
S_BFE_U32 s8 s0 0x80010
S_BFE_I32 s8 s0 0x100000
S_BFE_I64 s[8:9] s[0:1] 0x200000
S_CSELECT_B32 s8 1 0
S_CSELECT_B32 s8 s0 -1
S_CSELECT_B64 s[8:9] -1 0
S_CSELECT_B64 s[8:9] s[0:1] 0
S_MUL_I32 s8 s0 12
S_MUL_HI_U32 s8 s0 0xaaaaaaab
S_MIN_U32 s8 s0 64
S_MAX_I32 s8 s0 0
S_PACK_LL_B32_B16 s8 s0 7
S_CMP_EQ_U32 - s0 0
S_CMP_LT_I32 - s0 -1
S_CMP_GT_U32 - s0 0x12345678
S_CMP_LG_U64 - s[0:1] 0
S_CMP_EQ_U64 - s[0:1] s[4:5]
S_BITCMP1_B32 - s0 31
S_BITCMP0_B32 - s0 0
"""


def scalar_written_cases(maker, report):
    cases = []
    for line in SCALAR.strip().splitlines():
        name, destination, *texts = line.split()
        encoding = next((e for e in ("SOP1Op", "SOP2Op", "SOPCOp") if name in maker.manual.operands[e]), None)
        if not encoding:
            continue
        fields = maker.manual.operands[encoding][name]
        before, columns = {}, []
        for i, (text, f) in enumerate(zip(texts, ("ssrc0", "ssrc1"))):
            fmt, size, _ = fields[f]
            width = 64 if size == 64 else 32
            m = re.match(r"s\[?(\d+)", text)
            if m:
                column = f"{column_kind(name, i, fmt, size)}.{i}"
                columns.append((inputs.column(*_split(column)), width))
                before.update({f"s{int(m[1]) + k}": column if width == 32 else f"{column}.{k}" for k in range(width // 32)})
            else:
                columns.append(([constant_bits(text, fmt, width)] * ROWS, width))
        size = 0 if destination == "-" else max(32, fields["sdst"][1])
        old = inputs.column("b64" if size == 64 else "b32", 3)
        if size:
            before.update({f"s{8 + k}": f"b{size}.3" + (f".{k}" if size == 64 else "") for k in range(size // 32)})
        before["scc"] = "=" + "".join(str(int(r % 3 == 0)) for r in range(ROWS))
        results, flags = [], ""
        for row in range(ROWS):
            registers = {f"S{i}": (c[row], width) for i, (c, width) in enumerate(columns)}
            registers.update(SCC=(int(row % 3 == 0), 1), EXEC=(0, 64), D0=(old[row] if size else 0, size or 32))
            run = maker.run(encoding, name, registers)
            results.append(run.raw("D0"))
            flags += str(run.raw("SCC"))
        after = {"scc": flags}
        for k in range(size // 32):
            after[f"s{8 + k}"] = [float_format(fields["sdst"][0]), words(v >> 32 * k for v in results)]
        operands = ([] if destination == "-" else [destination]) + texts
        cases.append(Case(maker.target, f"{name.lower()} {', '.join(operands)}", before, after, rows=ROWS))
    return cases


def _split(column):
    kind, index = column.rsplit(".", 1)
    return kind, int(index)


def scalar_approximation_cases(maker, report):
    """gfx12's v_s_exp_f32 and its like: one value from and to scalar registers."""
    cases = []
    for name, fields in maker.manual.operands["VOP3Op"].items():
        if not name.startswith("V_S_") or name not in maker.manual.text["VOP3Op"]:
            continue
        fmt, size, _ = fields["vdst"]
        kind = column_kind(name, 0, *fields[next(f for f in fields if f.endswith("src0"))][:2])
        old, rows, results = inputs.column("b32", 3), inputs.column(kind, 0), []
        try:
            for row in range(ROWS):
                registers = {"S0": (rows[row], 32), "D0": (old[row], 32), "SCC": (0, 1)}
                results.append(maker.run("VOP3Op", name, registers).raw("D0"))
        except Unsupported as e:
            report.append((maker.target, "VOP3Op", name, str(e)))
            continue
        shape = float_format(fmt) if size == 32 else "f16"
        cases.append(Case(maker.target, f"{name.lower()} s8, s0", {"s0": f"{kind}.0", "s8": "b32.3"},
                          {"s8": [shape, words(results)]}, ulp=int("_RSQ_" in name), rows=ROWS))
    return cases


def special_cases(maker, report):
    return (dual_cases(maker) + swap_cases(maker) + sub_dword_cases(maker) + scalar_written_cases(maker, report)
            + scalar_approximation_cases(maker, report))
