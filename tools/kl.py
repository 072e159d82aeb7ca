#!/usr/bin/env python3
"""How far from the truth: mean KL divergence of our devices and of the peer, llama.cpp, as a Markdown table.

    tools/kl.py [--peer DIR] [--text FILE] [--ctx N] [--threads N] [MODEL...]

The truth for a quantized file: its weights dequantized to F32 by llama-quantize, and everything computed in f32 by
llama-perplexity (f32 cache, no fused attention, which would round the cache to f16). Its log-probabilities are stored
and each program is compared with them on the same tokens. They and the F32 files are kept in build/kl (some GB).
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = pathlib.Path(os.environ.get("ROCMFORGE_MODELS", ROOT / "models"))
NAMES = [
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
    "gemma-3-270m.Q4_K_M.gguf",
]


def run(*command):
    """Standard output and error together, as llama.cpp uses them."""
    command = [str(part) for part in command]
    print(" ".join(command), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def make(path, *command):
    """Has `command` make `path` (named PATH in it), once."""
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    run(*(part if word == "PATH" else word for word in command))
    part.rename(path)


def ours(program, model, base, device, threads):
    text = subprocess.run(
        [program, "perplexity", "-m", model, "--kl-base", base, "--device", device, "-t", str(threads), "--json"],
        stdout=subprocess.PIPE, check=True).stdout
    result = json.loads(text)
    return result["kld"]["value"], result["kld"]["error"], result["same_top"]["value"], result["count"]


def peer(program, model, base, ctx, threads):
    text = run(program, "-m", model, "-c", ctx, "-t", threads, "--kl-divergence", "--kl-divergence-base", base)
    kld = re.search(r"Mean\s+KLD:\s+(\S+)\s+±\s+(\S+)", text)
    top = re.search(r"Same top p:\s+(\S+)", text)
    if not kld or not top:
        sys.exit(f"llama-perplexity printed no divergence:\n{text[-4000:]}")
    return float(kld[1]), float(kld[2]), float(top[1]) / 100, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", type=pathlib.Path, default=ROOT / "target/release/rocmforge")
    parser.add_argument("--peer", type=pathlib.Path, default=ROOT / "build/peer/bin")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "tests/data/text/kl.txt")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/kl")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("models", nargs="*", type=pathlib.Path, metavar="MODEL")
    args = parser.parse_args()
    models = args.models or [MODELS / name for name in NAMES]
    perplexity = args.peer / "llama-perplexity"
    for path, hint in [(args.ours, "make build"), (perplexity, "make peer"), *((m, "make models") for m in models)]:
        if not path.exists():
            sys.exit(f"{path} is missing: {hint}")
    args.work.mkdir(parents=True, exist_ok=True)

    print("| model | program | mean KL to the truth | same top token | tokens scored |")
    print("| --- | --- | ---: | ---: | ---: |")
    for model in models:
        truth, base = args.work / f"{model.stem}.F32.gguf", args.work / f"{model.stem}.{args.text.stem}.{args.ctx}.kl"
        make(truth, args.peer / "llama-quantize", "--allow-requantize", model, "PATH", "F32")
        make(base, perplexity, "-m", truth, "-f", args.text, "-c", args.ctx, "-t", args.threads,
             "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--kl-divergence-base", "PATH")
        results = {
            "ours, reference device": ours(args.ours, model, base, "reference", args.threads),
            "ours, CPU device": ours(args.ours, model, base, "cpu", args.threads),
            "llama.cpp, as it comes": peer(perplexity, model, base, args.ctx, args.threads),
        }
        count = results["ours, CPU device"][3]
        for name, (kld, error, top, _) in results.items():
            print(f"| {model.name} | {name} | {kld:.3g} ± {error:.1g} | {top:.2%} | {count} |", flush=True)
        ratio = results["ours, CPU device"][0] / results["llama.cpp, as it comes"][0]
        print(f"| {model.name} | CPU device / llama.cpp | {ratio:.3f} | | |", flush=True)


if __name__ == "__main__":
    main()
