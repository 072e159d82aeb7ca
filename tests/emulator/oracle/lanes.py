"""Instructions that read other lanes: DPP, permutes, lane reads and writes; and those that look at their lane's number."""

import inputs
from cases import Case
from pseudocode import Bits

PARTIAL = 0xBFFFDFFE  # lanes 0, 13 and 30 are off


def column(name, lanes):
    kind, index = name.rsplit(".", 1)
    return inputs.column(kind, int(index))[:lanes]


def words(values):
    return "".join(f"{v & 0xFFFFFFFF:08x}" for v in values)


def mask_of(low, lanes):
    return low if lanes == 32 else low | low << 32


class Lanes:
    def __init__(self, maker):
        self.maker = maker
        self.lanes = maker.lanes
        self.target = maker.target

    def case(self, asm, before, after, exec_low):
        before = {**before, "exec": f"={exec_low:08x}"}
        return Case(self.target, asm, before, after)

    # DPP: which lane each lane reads; None where there is none

    def controls(self):
        row = lambda i: i & ~15  # noqa: E731

        def within(i, j):
            return row(i) + j if 0 <= j < 16 else None

        c = {
            "quad_perm:[1,0,3,2]": lambda i: i ^ 1,
            "quad_perm:[2,3,0,1]": lambda i: i ^ 2,
            "quad_perm:[0,0,0,3]": lambda i: i & ~3 | (0, 0, 0, 3)[i & 3],
            "row_mirror": lambda i: row(i) + 15 - (i & 15),
            "row_half_mirror": lambda i: i & ~7 | 7 - (i & 7),
        }
        for n in (1, 4, 15):
            c[f"row_shl:{n}"] = lambda i, n=n: within(i, (i & 15) + n)
            c[f"row_shr:{n}"] = lambda i, n=n: within(i, (i & 15) - n)
            c[f"row_ror:{n}"] = lambda i, n=n: row(i) + ((i & 15) - n) % 16
        if self.lanes == 32:
            for n in (0, 13):
                c[f"row_share:{n}"] = lambda i, n=n: row(i) + n
                c[f"row_xmask:{n}"] = lambda i, n=n: i ^ n
        else:
            c["wave_shl:1"] = lambda i: i + 1 if i < 63 else None
            c["wave_rol:1"] = lambda i: (i + 1) % 64
            c["wave_shr:1"] = lambda i: i - 1 if i else None
            c["wave_ror:1"] = lambda i: (i - 1) % 64
            c["row_bcast:15"] = lambda i: row(i) - 1 if i >= 16 else None
            c["row_bcast:31"] = lambda i: 31 if i >= 32 else None
            for n in (0, 13):
                c[f"row_newbcast:{n}"] = lambda i, n=n: row(i) + n
        return c

    def dpp(self):
        cases = []
        add = "V_ADD_NC_U32_E32" if self.lanes == 32 else "V_ADD_U32_E32"
        maximum = "V_MAX_NUM_F32_E32" if self.maker.manual.name == "rdna4" else "V_MAX_F32_E32"
        controls = self.controls()
        for control, source in controls.items():
            cases.append(self.dpp_case("VOP1Op", "V_MOV_B32_E32", control, source, 15, 15, True, PARTIAL))
            cases.append(self.dpp_case("VOP2Op", add, control, source, 15, 15, False, PARTIAL))
        for control in ("row_shr:1", "row_ror:4", "quad_perm:[1,0,3,2]"):
            source = controls[control]
            cases.append(self.dpp_case("VOP1Op", "V_MOV_B32_E32", control, source, 10, 15, False, 0xFFFFFFFF))
            cases.append(self.dpp_case("VOP1Op", "V_MOV_B32_E32", control, source, 15, 5, True, 0xFFFFFFFF))
            cases.append(self.dpp_case("VOP1Op", "V_MOV_B32_E32", control, source, 15, 15, False, 0xFFFFFFFF, same=True))
            cases.append(self.dpp_case("VOP2Op", maximum, control, source, 15, 15, True, 0xFFFFFFFF, same=True))
            cases.append(self.dpp_case("VOP2Op", "V_ADD_F32_E32", control, source, 15, 15, True, PARTIAL, same=True))
        for name in ("V_FMAC_F32_E32", "V_MUL_F32_E32", "V_SUB_F32_E32", "V_MIN_F32_E32", "V_OR_B32_E32", "V_MIN_U32_E32",
                     "V_MAX_I32_E32", "V_AND_B32_E32", "V_XOR_B32_E32", "V_MIN_NUM_F32_E32", "V_SUBREV_F32_E32"):
            if name in self.maker.manual.operands["VOP2Op"]:
                cases.append(self.dpp_case("VOP2Op", name, "row_shr:1", controls["row_shr:1"], 15, 15, False, 0xFFFFFFFF))
        return cases + (self.dpp8() if self.lanes == 32 else [])

    def dpp_case(self, encoding, name, control, source, rows, banks, bound, exec_low, same=False):
        """`same`: the destination is the operand that is read across lanes."""
        lanes, execs = self.lanes, mask_of(exec_low, self.lanes)
        first, second = column("wide.0", lanes), column("wide.1", lanes)
        old = first if same else column("wide.2", lanes)
        result = []
        for i in range(lanes):
            j = source(i)
            valid = j is not None and execs >> j & 1
            written = execs >> i & 1 and rows >> (i // 16) & 1 and banks >> (i % 16 // 4) & 1 and (valid or bound)
            value = first[j] if valid else 0
            result.append(self.compute(encoding, name, value, second[i], old[i], i) if written else old[i])
        destination = "v0" if same else "v8"
        operands = [destination, "v0"] + (["v2"] if encoding == "VOP2Op" else [])
        asm = (f"{name.lower().replace('_e32', '_dpp')} {', '.join(operands)} {control} row_mask:{rows:#x} bank_mask:{banks:#x}"
               + (" bound_ctrl:1" if bound else ""))
        before = {"v0": "wide.0"}
        if encoding == "VOP2Op":
            before["v2"] = "wide.1"
        if not same:
            before["v8"] = "wide.2"
        return self.case(asm, before, {destination: ["f32" if "_F32" in name else "b32", words(result)]}, exec_low)

    def compute(self, encoding, name, a, b, old, lane):
        registers = {"S0": (a, 32), "S1": (b, 32), "D0": (old, 32), "VCC": (0, 64), "EXEC": (0, 64), "SCC": (0, 1)}
        return self.maker.run(encoding, name, registers, laneId=Bits(lane, 32)).raw("D0")

    def dpp8(self):
        cases = []
        first, second, old = (column(f"wide.{k}", 32) for k in range(3))
        for pick in ((7, 6, 5, 4, 3, 2, 1, 0), (1, 1, 3, 3, 5, 5, 7, 0)):
            for exec_low in (0xFFFFFFFF, PARTIAL):
                values = [first[i & ~7 | pick[i & 7]] if exec_low >> (i & ~7 | pick[i & 7]) & 1 else 0 for i in range(32)]
                text = "dpp8:[" + ",".join(map(str, pick)) + "]"
                on = [exec_low >> i & 1 for i in range(32)]
                moved = [v if e else o for v, e, o in zip(values, on, old)]
                before = {"v0": "wide.0", "v8": "wide.2"}
                cases.append(self.case(f"v_mov_b32_dpp v8, v0 {text}", before, {"v8": ["b32", words(moved)]}, exec_low))
                sums = [self.compute("VOP2Op", "V_ADD_F32_E32", v, s, o, i) if e else o
                        for i, (v, s, e, o) in enumerate(zip(values, second, on, old))]
                cases.append(self.case(f"v_add_f32_dpp v8, v0, v2 {text}", {**before, "v2": "wide.1"},
                                       {"v8": ["f32", words(sums)]}, exec_low))
        return cases

    # whole-wave pseudo-code: VGPR[lane][register]

    def wave(self, encoding, name, vgprs, exec_low, registers=None, **constants):
        vgpr = [{r: column(c, self.lanes)[i] for r, c in vgprs.items()} for i in range(self.lanes)]
        registers = {"EXEC": (mask_of(exec_low, self.lanes), 64), "D0": (0, 32), **(registers or {})}
        run = self.maker.run(encoding, name, registers, vgpr, **constants)
        return run, vgpr

    def lane_access(self):
        cases = []
        for lane, text in ((5, "s4"), (self.lanes + 7, "s4"), (3, "3"), (31, "31"), (17, "m0")):
            registers = {"S1": (lane, 32)}
            run, _ = self.wave("VOP3Op", "V_READLANE_B32", {0: "wide.0"}, PARTIAL, registers, SRC0=Bits(0, 32))
            before = {"v0": "wide.0"}
            if not text.isdigit():
                before[text] = f"={lane:08x}"
            cases.append(self.case(f"v_readlane_b32 s8, v0, {text}", before, {"s8": ["b32", words([run.raw("D0")])]}, PARTIAL))
            registers["S0"] = (0x1234ABCD, 32)
            before = {**before, "v8": "wide.2", "s5": "=1234abcd"}
            before.pop("v0")
            source = "s5"
            if text == "s4" and self.lanes == 64:
                source, registers["S0"] = "-7", (0xFFFFFFF9, 32)
                before.pop("s5")
            _, vgpr = self.wave("VOP3Op", "V_WRITELANE_B32", {8: "wide.2"}, PARTIAL, registers, VDST=Bits(8, 32))
            cases.append(self.case(f"v_writelane_b32 v8, {source}, {text}", before,
                                   {"v8": ["b32", words(v[8] for v in vgpr)]}, PARTIAL))
        for exec_low in (0xFFFFFFFF, 0xFFFFFF40, 0x80000000, 0):
            run, _ = self.wave("VOP1Op", "V_READFIRSTLANE_B32_E32", {0: "wide.0"}, exec_low, SRC0=Bits(0, 32))
            cases.append(self.case("v_readfirstlane_b32 s8, v0", {"v0": "wide.0"}, {"s8": ["b32", words([run.raw("D0")])]},
                                   exec_low))
        return cases

    def permlanes(self):
        cases = []
        selects = (0x76543210, 0xFEDCBA98), (0x01234567, 0x89ABCDEF), (0x00000000, 0xFFFFFFFF)
        operands = self.maker.manual.operands["VOP3Op"]
        for name in ("V_PERMLANE16_B32", "V_PERMLANEX16_B32"):
            for low, high in selects if name in operands else ():
                for exec_low, fetch in ((0xFFFFFFFF, ""), (PARTIAL, " op_sel:[1,0]")):
                    _, vgpr = self.wave("VOP3Op", name, {0: "wide.0", 8: "wide.2"}, exec_low,
                                        {"S1": (low, 32), "S2": (high, 32)}, SRC0=Bits(0, 32), VDST=Bits(8, 32))
                    before = {"v0": "wide.0", "v8": "wide.2", "s4": f"={low:08x}", "s5": f"={high:08x}"}
                    cases.append(self.case(f"{name.lower()} v8, v0, s4, s5{fetch}", before,
                                           {"v8": ["b32", words(v[8] for v in vgpr)]}, exec_low))
        for name in ("V_PERMLANE16_VAR_B32", "V_PERMLANEX16_VAR_B32"):
            if name in operands:
                _, vgpr = self.wave("VOP3Op", name, {0: "wide.0", 2: "wide.1", 8: "wide.2"}, 0xFFFFFFFF,
                                    SRC0=Bits(0, 32), SRC1=Bits(2, 32), VDST=Bits(8, 32))
                before = {"v0": "wide.0", "v2": "wide.1", "v8": "wide.2"}
                cases.append(self.case(f"{name.lower()} v8, v0, v2", before, {"v8": ["b32", words(v[8] for v in vgpr)]},
                                       0xFFFFFFFF))
        return cases

    def data_share(self):
        """The permutes that go by the way of LDS, without using it."""
        cases = []
        for name, address in (("DS_BPERMUTE_B32", "lanes.0"), ("DS_BPERMUTE_B32", "addresses.0"), ("DS_PERMUTE_B32", "lanes.0"),
                              ("DS_BPERMUTE_FI_B32", "lanes.0")):
            if name not in self.maker.manual.text["DSOp"]:
                continue
            for exec_low in (0xFFFFFFFF, PARTIAL):
                for offset in (0, 12) if exec_low == PARTIAL else (0,):
                    _, vgpr = self.wave("DSOp", name, {0: address, 2: "wide.1", 8: "wide.2"}, exec_low,
                                        ADDR=Bits(0, 32), DATA0=Bits(2, 32), VDST=Bits(8, 32), OFFSET=Bits(offset, 16))
                    before = {"v0": address, "v2": "wide.1", "v8": "wide.2"}
                    text = f"{name.lower()} v8, v0, v2" + (f" offset:{offset}" if offset else "")
                    cases.append(self.case(text, before, {"v8": ["b32", words(v[8] for v in vgpr)]}, exec_low))
        first, old = column("wide.0", self.lanes), column("wide.2", self.lanes)
        for offset in (0x8000 | 0b00_01_10_11, 0x80B1, 0x041F, 0x081F, 0x101F, 0x401F, 0x7C1F, 0x0000, 0x00A7, 0xC020, 0xC420):
            for exec_low in (PARTIAL,):
                result = []
                for i in range(self.lanes):
                    j = swizzled(i, offset)
                    value = first[j] if exec_low >> (j & 31) & 1 else 0
                    result.append(value if exec_low >> (i & 31) & 1 else old[i])
                cases.append(self.case(f"ds_swizzle_b32 v8, v0 offset:{offset:#x}", {"v0": "wide.0", "v8": "wide.2"},
                                       {"v8": ["b32", words(result)]}, exec_low))
        return cases

    def counts(self):
        """v_mbcnt_*: ones below the lane."""
        cases = []
        for name in ("V_MBCNT_LO_U32_B32", "V_MBCNT_HI_U32_B32"):
            sources = {"v0": column("wide.0", self.lanes), "-1": [0xFFFFFFFF] * 64, "s4": [0xF0F0A5C3] * 64}
            for text, rows in sources.items():
                for third, more in (("v2", column("wide.1", self.lanes)), ("0", [0] * self.lanes)):
                    old = column("wide.2", self.lanes)
                    execs = mask_of(PARTIAL, self.lanes)
                    result = [self.compute("VOP3Op", name, rows[i], more[i], old[i], i) if execs >> i & 1 else old[i]
                              for i in range(self.lanes)]
                    before = {"v8": "wide.2"}
                    before.update({"v0": "wide.0"} if text == "v0" else {"s4": "=f0f0a5c3"} if text == "s4" else {})
                    before.update({"v2": "wide.1"} if third == "v2" else {})
                    for mnemonic in (name.lower(), name.lower() + "_e64"):
                        after = {"v8": ["b32", words(result)]}
                        cases.append(self.case(f"{mnemonic} v8, {text}, {third}", before, after, PARTIAL))
        return cases

    def all(self):
        return self.dpp() + self.lane_access() + self.permlanes() + self.data_share() + self.counts()


def swizzled(lane, offset):
    """The lane that ds_swizzle_b32 reads, by the manuals' description of its offset."""
    if offset >= 0xC000:  # rotation in groups of 32
        amount, keep = offset >> 5 & 31, offset & 31
        if offset >> 10 & 1:
            amount = -amount
        return lane & 32 | (lane & keep) | ((lane + amount) & 31 & ~keep)
    if offset >= 0x8000:
        return lane & ~3 | offset >> 2 * (lane & 3) & 3
    low = lane & 31
    return lane & 32 | ((low & offset & 31) | offset >> 5 & 31) ^ (offset >> 10 & 31)
