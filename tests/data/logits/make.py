#!/usr/bin/env python3
"""Makes the logits in this folder: llama.cpp's, computed in f32 from the same weights.

    make.py --peer DIR --models DIR

DIR of --peer holds llama-quantize, llama-tokenize and peer_logits (tools/peer_build.sh builds them); that of --models the two real
models. Every file is first turned into F32 (exact: dequantized weights), then evaluated with an f32 cache, so that
nothing is rounded to fewer bits than f32 on the way.

    tiny_NAME.f32   the small random models of tests/model/arch.rs: logits of the kept positions, little-endian f32
    tiny.sha256     sums of those models, tokens and positions
    smollm2.json, qwen25.json   text.txt's first tokens and, for some positions, the log of the sum of exponentials
                    over the whole vocabulary, the 64 highest logits and 64 more spread over the rest
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[2]
REAL = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "qwen25": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
}
N_TOKENS, EVERY, N_TOP, N_SPREAD = 64, 4, 64, 64


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **kwargs).stdout


def truth(peer, model, ids, work):
    """Logits of every position, n_tokens x n_vocab."""
    f32, out = work / "f32.gguf", work / "logits.f32"
    run(peer / "llama-quantize", "--allow-requantize", model, f32, "F32")
    n_tokens, n_vocab = map(int, run(peer / "peer_logits", "--exact", f32, out, ",".join(map(str, ids))).split())
    f32.unlink()
    return np.fromfile(out, "<f4").reshape(n_tokens, n_vocab)


def tiny(peer, work):
    # the test writes the models, and fails as long as tiny.sha256 is of others
    subprocess.run(["cargo", "test", "--quiet", "--test", "model_arch", "the_models_are"], cwd=REPO, capture_output=True)
    models = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "tmp/tiny-models"
    shutil.copy(models / "sums", HERE / "tiny.sha256")
    for model in sorted(models.glob("*.gguf")):
        ids, kept = (json.loads(f"[{model.with_suffix(s).read_text()}]") for s in (".ids", ".kept"))
        logits = truth(peer, model, ids, work)[kept]
        logits.tofile(HERE / f"tiny_{model.stem}.f32")
        print(model.stem, logits.shape, "deviation", logits.std())


def real(peer, name, model, work):
    ids = run(peer / "llama-tokenize", "-m", model, "-f", HERE / "text.txt", "--ids", "--log-disable")
    ids = json.loads(ids)[:N_TOKENS]
    assert len(ids) == N_TOKENS, len(ids)
    logits = truth(peer, model, ids, work).astype(np.float64)
    rows = []
    for position in range(EVERY - 1, N_TOKENS, EVERY):
        row = logits[position]
        order = np.argsort(-row, kind="stable")
        spread = order[N_TOP + 7::len(order) // N_SPREAD][:N_SPREAD]
        chosen = np.concatenate([order[:N_TOP], spread])
        rows.append({
            "position": position,
            "log_sum_exp": round(float(row.max() + np.log(np.exp(row - row.max()).sum())), 6),
            "ids": chosen.tolist(),
            "logits": [round(float(x), 5) for x in row[chosen]],
        })
        print(name, position, rows[-1]["ids"][:2], rows[-1]["logits"][:2])
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps({"model": model.name, "tokens": ids})[:-1]
    (HERE / f"{name}.json").write_text(f'{head}, "rows": [\n{lines}\n]}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, type=pathlib.Path)
    parser.add_argument("--models", required=True, type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tiny(args.peer, pathlib.Path(work))
    for name, file in REAL.items():
        with tempfile.TemporaryDirectory() as work:
            real(args.peer, name, args.models / file, pathlib.Path(work))


main()
