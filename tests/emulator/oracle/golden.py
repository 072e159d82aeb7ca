"""Writes tests/emulator/tests/data/semantics.jsonl.

    python3 golden.py [--tinygrad DIR] [--report FILE]

Needs PyPI's tinygrad (see requirements.txt) or DIR, the folder that holds its package, and LLVM 19's llvm-mc and
llvm-objdump.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import inputs
from assembler import canonical
from cases import Maker
from instructions import ENCODINGS, TARGETS, Manual
from pseudocode import Bits, Unsupported
from forms import special_cases
from lanes import Lanes
from matrices import matrix_cases
from variants import packed_cases, word_select_cases, written_cases

OUTPUT = Path(__file__).parent.parent / "tests" / "data" / "semantics.jsonl"

# not computations on registers, or not described by the pseudo-code as such
SKIPPED = re.compile(
    r"S_(GETPC|SETPC|SWAPPC|RFE|MOVREL|SENDMSG|CBRANCH|CALL|GETREG|SETREG|WAITCNT|VERSION|BARRIER|GET_BARRIER|ALLOC|SLEEP|"
    r"SETVSKIP|SET_GPR)|V_(NOP|PIPEFLUSH|MOVREL|SWAPREL|INTERP|SWMMAC|SMFMAC|CLREXCP|CUBE|TRIG_PREOP|MULLIT|MQSAD|QSAD|"
    r"CVT_SCALEF32|SCREEN)"
)
# in lanes.py, forms.py, variants.py or matrices.py
ELSEWHERE = re.compile(
    r"V_(READLANE|WRITELANE|READFIRSTLANE|PERMLANE|MBCNT|ACCVGPR|DIV_SCALE|SWAP|PK_MOV|WMMA|MFMA|S_(EXP|LOG|RCP|RSQ|SQRT)_F)"
)


def plain_cases(maker, report):
    """Every instruction of the manual with vector (or scalar) registers."""
    cases = []
    signs = {"NEG": Bits(0, 3), "OPSEL": Bits(0, 4)}
    for encoding in ENCODINGS:
        for name in maker.manual.operands.get(encoding, {}):
            if SKIPPED.match(name) or ELSEWHERE.match(name):
                continue
            try:
                if encoding.startswith("SOP"):
                    cases += maker.scalar(encoding, name)
                elif encoding != "DSOp":
                    cases += maker.vector(encoding, name, extra=signs)
            except Unsupported as e:
                report.append((maker.target, encoding, name, str(e)))
    return cases


def all_cases(maker, report):
    return (plain_cases(maker, report) + written_cases(maker, report) + packed_cases(maker, report)
            + word_select_cases(maker) + Lanes(maker).all() + special_cases(maker, report) + matrix_cases(maker))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tinygrad")
    arguments.add_argument("--report")
    arguments = arguments.parse_args()
    if arguments.tinygrad:
        sys.path.insert(0, arguments.tinygrad)
    made, report, groups, counts = {}, [], {}, {}
    for target, (manual, _) in TARGETS.items():
        if manual not in made:
            made[manual] = all_cases(Maker(target, Manual(manual)), report)
        cases = made[manual]
        texts, refused = canonical(target, [c.asm for c in cases])
        report += [(target, "refused", cases[i].asm, why) for i, why in refused.items()]
        for case, text in zip(cases, texts):
            if text is None:
                continue
            record = {"in": case.before, "out": case.after}
            for key in ("ulp", "error", "rows"):
                if getattr(case, key):
                    record[key] = getattr(case, key)
            targets = groups.setdefault(json.dumps(record, sort_keys=True), {}).setdefault(text, [])
            if target not in targets:
                targets.append(target)
                counts[target] = counts.get(target, 0) + 1
    write(groups)
    print("cases:", counts, "records:", len(groups), "bytes:", OUTPUT.stat().st_size)
    if arguments.report:
        Path(arguments.report).write_text("".join("\t".join(map(str, r)) + "\n" for r in report))


def write(groups):
    used = set()
    lines = []
    for text, spelled in groups.items():
        record = json.loads(text)
        used.update(v for v in record["in"].values() if not v.startswith("="))
        by_targets = {}
        for asm, targets in spelled.items():
            by_targets.setdefault(" ".join(targets), []).append(asm)
        lines.append((min(spelled), {"asm": by_targets, **record}))
    lines.sort(key=lambda line: line[0])
    columns = {name: words(name) for name in sorted(used)}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with OUTPUT.open("w") as out:
        out.write(json.dumps({"columns": columns}, separators=(",", ":")) + "\n")
        for _, record in lines:
            out.write(json.dumps(record, separators=(",", ":")) + "\n")


def words(name):
    """f32.0 is a column of 32-bit words, f64.0.1 the upper words of one of 64 bits."""
    kind, index, *part = re.fullmatch(r"(.+?)\.(\d)(?:\.(\d))?", name).groups()
    shift = 32 * int(part[0]) if part[0] else 0
    return "".join(f"{v >> shift & 0xFFFFFFFF:08x}" for v in inputs.column(kind, int(index)))


if __name__ == "__main__":
    main()
