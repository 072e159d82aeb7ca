"""One instruction with its operands: the assembly text, the registers before, and the registers after."""

import re
from dataclasses import dataclass, field
from fractions import Fraction

import floats
import inputs
from instructions import TARGETS, column_kind
from inputs import ROWS
from pseudocode import Array, Bits, Run, Unsupported

EXEC = 0xBFFFDFFF  # lanes 13 and 30 are off
VCC = 0xA5C3F00F
MASK = 0x5A3C0FF1  # what a mask in scalar registers holds
LITERAL = {"f32": 0x40490FDB, "f16": 0x4248}


@dataclass
class Source:
    """A source operand: its text and the bits each row reads, before modifiers."""

    text: str
    rows: list
    size: int
    state: dict  # register -> column name or literal words
    format: str = ""
    negate: bool = False
    absolute: bool = False

    def shown(self):
        text = f"|{self.text}|" if self.absolute else self.text
        return "-" + text if self.negate else text

    halves: tuple = ()  # packed operands: (select low, select high, negate low, negate high)

    def bits(self, row):
        raw = self.rows[row]
        if self.halves:
            width = self.size // 2
            low, high, negate_low, negate_high = self.halves
            a, b = (raw >> width * pick & ((1 << width) - 1) for pick in (low, high))
            sign = 1 << (width - 1)
            return (a ^ sign if negate_low else a) | (b ^ sign if negate_high else b) << width
        sign = 1 << (self.size - 1)
        if self.absolute:
            raw &= ~sign
        if self.negate:
            raw ^= sign
        return raw


@dataclass
class Case:
    target: str
    asm: str
    before: dict
    after: dict
    ulp: int = 0
    error: float = 0.0
    rows: int = 0  # of a scalar instruction: as many executions
    note: dict = field(default_factory=dict)


def float_format(fmt):
    """How words of a destination compare: f32, f16 (the low half), 2f16, f64 (register pairs), b32."""
    return {
        "NUM_F32": "f32", "NUM_F16": "f16", "NUM_F64": "f64", "NUM_PK2_F16": "2f16", "NUM_PK2_F32": "f32",
        "NUM_BF16": "bf16", "NUM_PK2_BF16": "2bf16",
    }.get(fmt, "b32")


def registers(kind, first, size):
    count = max(1, size // 32)
    return f"{kind}{first}" if count == 1 else f"{kind}[{first}:{first + count - 1}]"


def column_state(kind, first, name, size):
    if size <= 32:
        return {f"{kind}{first}": name}
    return {f"{kind}{first + i}": f"{name}.{i}" for i in range(size // 32)}


def vector_source(first, kind, index, fmt, size):
    rows = inputs.column(kind, index)
    width = 64 if size == 64 else 32
    return Source(registers("v", first, width), rows, max(size, 16) if size < 32 else width,
                  column_state("v", first, f"{kind}.{index}", width), float_format(fmt))


def written_source(text, name, place, fmt, size):
    """A source from its text: v0, v[0:1], s4, s[4:5], 1.0, -16, 0x1234, each with - and | | around it."""
    negate = text.startswith("-") and not re.match(r"-[\d.]", text)
    inner = text[1:] if negate else text
    absolute = inner.startswith("|")
    inner = inner.strip("|")
    m = re.match(r"([vs])\[?(\d+)", inner)
    kind = column_kind(name, place, fmt, size)
    index = min(int(m[2]) // 2, 3) if m else 0
    if m and m[1] == "v":
        source = vector_source(int(m[2]), kind, index, fmt, size)
    elif m:
        source = scalar_source(int(m[2]), inputs.column(kind, index)[17 + index], fmt, size)
    else:
        source = constant_source(inner, constant_bits(inner, fmt, size), fmt, size)
    source.negate, source.absolute = negate, absolute
    return source


def constant_bits(text, fmt, size):
    """Inline constants and literals as an operand of this format reads them."""
    if text.startswith("0x"):
        return int(text, 16) << 32 if fmt == "NUM_F64" else int(text, 16)
    if "." in text:
        width = 16 if "16" in fmt else max(size, 32) if size != 16 else 16
        if text.startswith("0.15915494"):  # 1 / (2 pi), each format's own rounding
            return {16: 0x3118, 32: 0x3E22F983, 64: 0x3FC45F306DC9C882}[width]
        return floats.encode(floats.of(f"f{width}", Fraction(text)))
    width = {16: 16, 64: 64}.get(size, 32)
    return int(text) & ((1 << width) - 1)


def scalar_source(first, value, fmt, size):
    width = 64 if size == 64 else 32
    state = {f"s{first + i}": f"={value >> 32 * i & 0xFFFFFFFF:08x}" for i in range(width // 32)}
    return Source(registers("s", first, width), [value] * ROWS, size, state, float_format(fmt))


def constant_source(text, value, fmt, size):
    return Source(text, [value] * ROWS, size, {}, float_format(fmt))


# the manual's text rounds the root and then its reciprocal: within 1 ulp of the nearest value (nearest.py has that)
ROUNDED_TWICE = re.compile(r"V_(S_)?RSQ_(F16|F32|F64)")
PERIODIC = re.compile(r"V_(SIN|COS)_F(16|32)")
# gfx9 instructions of 16 bits that keep the high half (LLVM's zeroesHigh16BitsOfDest), and those it says nothing of
KEEPS_HIGH = re.compile(r"V_(MAD_F16|FMA_F16|MAD_U16|MAD_I16|DIV_FIXUP_F16)$")
CLEARS_HIGH = re.compile(
    r"V_(CVT_F16_F32|CVT_F16_U16|CVT_F16_I16|RCP_F16|SQRT_F16|RSQ_F16|LOG_F16|EXP_F16|SIN_F16|COS_F16|FLOOR_F16|CEIL_F16|"
    r"TRUNC_F16|RNDNE_F16|FRACT_F16|FREXP_MANT_F16|FREXP_EXP_I16_F16|LDEXP_F16|LSHLREV_B16|LSHRREV_B16|ASHRREV_I16|ADD_U16|"
    r"SUB_U16|SUBREV_U16|MUL_LO_U16|ADD_F16|SUB_F16|SUBREV_F16|MUL_F16|MAX_F16|MIN_F16|MAX_U16|MIN_U16|MAX_I16|MIN_I16)"
)


class Maker:
    """Makes the cases of one target."""

    def __init__(self, target, manual):
        self.target = target
        self.manual = manual
        self.lanes = TARGETS[target][1]
        self.vcc = "vcc_lo" if self.lanes == 32 else "vcc"
        self.gfx9 = manual.name == "cdna"
        self.problems = {}

    def mask(self, first):
        return f"s{first}" if self.lanes == 32 else f"s[{first}:{first + 1}]"

    # running the pseudo-code

    def constants(self, **more):
        c = {"IEEE": Bits(0 if self.manual.name == "rdna4" else 1, 1), "WAVE32": Bits(int(self.lanes == 32), 1),
             "WAVE64": Bits(int(self.lanes == 64), 1), "wave32": Bits(int(self.lanes == 32), 1)}
        c.update(more)
        return c

    def run(self, encoding, name, regs, vgpr=None, **constants):
        program = self.manual.program(encoding, name)
        constants = self.constants(**constants)
        return Run(program, regs, self.manual.call, vgpr, constants)

    def spellings(self, name):
        text = name.lower()
        return [text] if text.endswith(("_e32", "_e64")) else [text, text + "_e64"]

    # vector instructions that look at one lane

    def vector(self, encoding, name, sources=None, suffix="", mnemonic=None, post=None, extra=None, high=False):
        """A case per spelling that may be right. `sources` replaces the default vector registers."""
        fields = self.manual.operands[encoding][name]
        plain = re.sub(r"_E(32|64)$", "", name)
        order = [f for f in ("src0", "vsrc0", "src1", "vsrc1", "src2") if f in fields]
        masked = "CNDMASK" in plain and "src2" in fields
        reads_carry = "CO_CI" in plain or re.match(r"V_(ADDC|SUBB|SUBBREV)_CO", plain)
        carry_operand = masked or reads_carry
        if carry_operand and "src2" in fields:
            order.remove("src2")
        literal = re.match(r"V_(FMAMK|FMAAK|MADMK|MADAK)_F(16|32)", plain)
        compare = plain.startswith("V_CMP")
        if sources is None:
            sources = [vector_source(2 * i, column_kind(plain, i, *fields[f][:2]), i, *fields[f][:2])
                       for i, f in enumerate(order)]
        dst = fields.get("vdst")
        dst_scalar = dst and dst[2] in ("OPR_SREG", "OPR_SDST", "OPR_SREG_NOVCC") and not compare
        if dst_scalar:
            raise Unsupported("scalar result of a vector instruction")
        e32 = encoding in ("VOP1Op", "VOP2Op", "VOPCOp") or name.endswith("_E32")
        before, regs_vcc = {}, VCC
        for s in sources:
            before.update(s.state)
        # destination text
        operands, outs = [], {}
        if compare:
            execs = "CMPX" in plain
            if not (execs and not self.gfx9):
                operands.append(self.vcc if e32 else self.mask(10))
        else:
            operands.append(registers("v", 8, max(dst[1], 32)))
        if encoding == "VOP3SDOp":
            operands.append(self.mask(10))
        elif e32 and (reads_carry or re.match(r"V_(ADD|SUB|SUBREV)_CO_U32", plain)):
            operands.append(self.vcc)
        shown = [s.shown() for s in sources]
        if literal:
            size = literal[2]
            value = LITERAL["f" + size]
            shown.insert(1 if "MK" in literal[1] else 2, f"0x{value:x}")
        operands += shown
        if carry_operand or (e32 and "CNDMASK" in plain):
            if e32:
                operands.append(self.vcc)
            else:
                operands.append(self.mask(12))
                before["mask:s12"] = f"={MASK:08x}"
                regs_vcc = MASK
        uses_vcc = e32 and (reads_carry or "CNDMASK" in plain) or "DIV_FMAS" in plain
        if uses_vcc:
            before["vcc"] = f"={VCC:08x}"
        old, size = None, 32
        if dst and not compare:
            size = max(dst[1], 32)
            if "SCALE_F" in plain:
                kind, old = "b64" if size == 64 else "b32", inputs.column("b64" if size == 64 else "b32", 3)
            else:
                kind = column_kind(plain, 2, dst[0], dst[1])
                if kind not in ("f32", "f16", "f64", "pf16", "pf32", "f32.small", "f32.normal"):
                    kind = "b64" if size == 64 else "b32"
                old = inputs.column(kind, 3) if kind != "f32.small" else inputs.column(kind, 2)
            place = 2 if kind == "f32.small" else 3
            if size > 64:
                raise Unsupported("a destination of more than 64 bits")
            before.update(column_state("v", 8, f"{kind}.{place}", size))
        result, mask_out = [], 0
        for row in range(ROWS):
            if not EXEC >> row & 1:
                result.append(old[row] if old else 0)
                continue
            regs = {f"S{i}": (s.bits(row), s.size) for i, s in enumerate(sources)}
            regs["VCC"] = (regs_vcc, 64)
            regs["EXEC"] = (EXEC, 64)
            regs["SCC"] = (0, 1)
            if compare:
                regs["D0"] = (0, 64)
            elif "SCALE_F" in plain:
                regs["D0"] = (sources[0].bits(row), size)
            else:
                regs["D0"] = (old[row], size)
            regs["D1"] = (0, 64)
            constants = {"laneId": Bits(row, 32)}
            if literal:
                size_ = int(literal[2])
                constants["SIMM32"] = constants["SIMM16"] = Bits(LITERAL["f" + literal[2]], size_)
            if "CVT_OFF_F32_I4" in plain:
                constants["CVT_OFF_TABLE"] = None
            if extra:
                constants.update(extra)
            run = self.run_row(encoding, name, regs, constants, sources, row)
            d0 = run.raw("D0")
            if compare:
                bit = (run.raw("EXEC") if "CMPX" in plain and not self.gfx9 else d0) >> row & 1
                mask_out |= bit << row
                continue
            if "DIV_SCALE" in plain:
                mask_out |= (run.raw("VCC") & 1) << row
            elif re.match(r"V_MAD_(CO_)?[UI]64", plain):
                mask_out |= (run.raw("D1") & 1) << row
            else:
                mask_out |= (run.raw("VCC") >> row & 1) << row
            if post:
                d0 = post(d0)
            if high:
                d0 = old[row] & 0xFFFF | (d0 & 0xFFFF) << 16
            result.append(d0)
        ulp, error = 0, 0.0
        if ROUNDED_TWICE.match(plain):
            ulp = 1
        elif PERIODIC.match(plain):
            error = 2e-3 if "F16" in plain else 2e-6
        if compare:
            if "CMPX" in plain:
                outs["exec"] = f"{mask_out:08x}"
            if self.gfx9 or "CMPX" not in plain:
                outs["vcc" if e32 else "mask:s10"] = f"{mask_out:08x}"
        else:
            shape = float_format(dst[0])
            if plain == "V_PACK_B32_F16":
                shape = "2f16"
            elif "MIXHI" in plain:
                shape = "f16.high"
            elif high:
                shape = "2f16" if shape == "f16" else "b32"
            elif dst[1] == 16:
                shape = self.high_half(plain, shape, result)
            for i in range(size // 32):
                words = "".join(f"{v >> 32 * i & 0xFFFFFFFF:08x}" for v in result)
                outs[f"v{8 + i}"] = [shape, words]
            if encoding == "VOP3SDOp":
                outs["mask:s10"] = f"{mask_out:08x}"
            elif e32 and "_CO_" in plain:
                outs["vcc"] = f"{mask_out:08x}"
        before["exec"] = f"={EXEC:08x}"
        spelled = [mnemonic] if mnemonic else self.spellings(name)
        return [Case(self.target, f"{m} {', '.join(operands)}{suffix}", before, outs, ulp, error) for m in spelled]

    def run_row(self, encoding, name, regs, constants, sources, row):
        if "MIX" in name:
            return self.run_mix(encoding, name, regs, constants, sources, row)
        if constants.get("CVT_OFF_TABLE", 0) is None:
            table = [floats.encode(floats.of("f32", Fraction(v if v < 8 else v - 16, 16))) for v in range(16)]
            array = Array(16, 32, "F")
            array.cells = table
            constants["CVT_OFF_TABLE"] = array
        return self.run(encoding, name, regs, **constants)

    def run_mix(self, encoding, name, regs, constants, sources, row):
        array = Array(3, 32, "B")
        array.cells = [s.bits(row) for s in sources]
        constants["S"] = array
        constants.setdefault("OPSEL", Bits(0, 3))
        constants.setdefault("OPSEL_HI", Bits(0, 3))
        return self.run(encoding, name, regs, **constants)

    def high_half(self, plain, shape, result):
        """What a 16-bit result leaves above itself: gfx9 clears it but for some, later targets keep it."""
        low = shape if shape != "b32" else "b16"
        if not self.gfx9 or KEEPS_HIGH.match(plain):
            return low
        if CLEARS_HIGH.match(plain):
            for row in range(ROWS):
                if EXEC >> row & 1:
                    result[row] &= 0xFFFF
            return low
        return low + ".low"

    # scalar instructions

    def scalar(self, encoding, name, sources=None):
        fields = self.manual.operands[encoding][name]
        order = [f for f in ("ssrc0", "ssrc1") if f in fields]
        text = self.manual.source(encoding, name)
        before, operands, columns = {}, [], []
        dst = fields.get("sdst")
        if name.endswith("SAVEEXEC_B32") and self.lanes == 64 or re.search("WREXEC_B64|SAVEEXEC_B64", name) and self.lanes == 32:
            raise Unsupported("of the other wave size")
        if dst and encoding != "SOPCOp" and not re.match("S_CMPK", name):
            operands.append(registers("s", 8, dst[1]))
        elif dst:
            operands.append(registers("s", 0, dst[1]))
        for i, f in enumerate(order):
            fmt, size, _ = fields[f]
            kind = column_kind(name, i, fmt, size)
            width = 64 if size == 64 else 32
            columns.append((inputs.column(kind, i), width))
            before.update(column_state("s", 4 * i, f"{kind}.{i}", width))
            operands.append(registers("s", 4 * i, width))
        simm16 = None
        if encoding == "SOPKOp":
            simm16 = 0x8123
            operands.append("0x8123")
        literal = "SIMM32" in text
        if literal:
            operands.insert(2 if "FMAMK" in name else 3, "0x40490fdb")
        outs = {}
        old_rows = None
        if dst:
            kind = "f32" if dst[0] == "NUM_F32" else "f16" if dst[0] == "NUM_F16" else "b64" if dst[1] == 64 else "b32"
            place = 3
            first = 8
            if re.match("S_CMPK", name):
                first, place = 0, 0
                kind = "b32"
            old_rows = inputs.column(kind, place)
            before.update(column_state("s", first, f"{kind}.{place}", max(32, dst[1])))
        reads_exec = "EXEC" in text
        rows = {"d": [], "scc": [], "exec": []}
        for row in range(ROWS):
            regs = {f"S{i}": (c[row], size) for i, (c, size) in enumerate(columns)}
            if re.match("S_CMPK", name):
                regs["S0"] = (old_rows[row], 32)
                regs["S1"] = (simm16, 16)
            elif simm16 is not None:
                regs["S0"] = (simm16, 16)
            if dst:
                regs["D0"] = (old_rows[row], max(32, dst[1]))
            regs["SCC"] = (row % 3 == 0, 1)
            execs = inputs.column("b64", 2)[row] & ((1 << self.lanes) - 1)
            regs["EXEC"] = (execs, self.lanes)
            constants = {"SIMM32": Bits(0x40490FDB, 32)}
            if simm16 is not None:
                constants["SIMM16"] = Bits(simm16, 16)
            run = self.run(encoding, name, {k: (int(v[0]), v[1]) for k, v in regs.items()}, **constants)
            rows["d"].append(run.raw("D0") if dst else 0)
            rows["scc"].append(run.raw("SCC"))
            rows["exec"].append(run.raw("EXEC"))
        before["scc"] = "=" + "".join(str(int(r % 3 == 0)) for r in range(ROWS))
        outs["scc"] = "".join(str(v) for v in rows["scc"])
        if reads_exec:
            before["exec_lo"] = "b64.2.0"
            if self.lanes == 64:
                before["exec_hi"] = "b64.2.1"
            outs["exec_lo"] = ["b32", "".join(f"{v & 0xFFFFFFFF:08x}" for v in rows["exec"])]
            if self.lanes == 64:
                outs["exec_hi"] = ["b32", "".join(f"{v >> 32:08x}" for v in rows["exec"])]
        if dst and not re.match("S_CMPK", name):
            shape = float_format(dst[0])
            if dst[1] == 16:
                shape = ("b16" if shape == "b32" else shape) + ".low"
            for i in range(max(1, dst[1] // 32)):
                outs[f"s{8 + i}"] = [shape, "".join(f"{v >> 32 * i & 0xFFFFFFFF:08x}" for v in rows["d"])]
        return [Case(self.target, f"{name.lower()} {', '.join(operands)}", before, outs, rows=ROWS)]
