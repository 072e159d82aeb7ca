"""Assembly text as LLVM prints it back: what does not assemble for the target is left out."""

import re
import subprocess
import tempfile
from pathlib import Path

LLVM = "19"


def canonical(target, lines):
    """The disassembler's text for each line, or None where the assembler refuses it (with the messages)."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "a.s", Path(folder) / "a.o"
        assemble = [f"llvm-mc-{LLVM}", "-triple=amdgcn-amd-amdhsa", f"-mcpu={target}", "-filetype=obj", str(source), "-o",
                    str(binary)]
        source.write_text("\n".join(lines) + "\n")
        messages = subprocess.run(assemble, capture_output=True, text=True).stderr
        refused = {int(m[1]) - 1: m[2] for m in re.finditer(r"a\.s:(\d+):\d+: error: (.*)", messages)}
        kept = [i for i in range(len(lines)) if i not in refused]
        source.write_text("\n".join(lines[i] for i in kept) + "\n")
        subprocess.run(assemble, check=True, capture_output=True, text=True)
        listing = subprocess.run([f"llvm-objdump-{LLVM}", "-d", str(binary)], check=True, capture_output=True, text=True).stdout
        printed = [re.split(r"\s*//", line)[0].strip() for line in listing.splitlines() if line.startswith("\t")]
        if len(printed) != len(kept):
            raise SystemExit(f"{target}: {len(kept)} lines assembled, {len(printed)} printed")
        result = [None] * len(lines)
        for i, text in zip(kept, printed):
            result[i] = re.sub(r"\s+", " ", text)
        return result, refused
