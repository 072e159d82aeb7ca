#!/usr/bin/env python3
"""Compares speed and memory with the peer, llama.cpp, and prints Markdown tables.

    tools/compare.py [--peer DIR] [--pairs N] [--threads N] [MODEL...]

Runs of the two programs alternate, and so does which goes first, so that what else the machine does falls on both
alike. Each run is a process of its own that measures pp512 and tg128 once after a warm-up; the tables give medians
over the pairs. Decode speed stands beside the memory bandwidth measured here: each token reads the weights once.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = pathlib.Path(os.environ.get("ROCMFORGE_MODELS", ROOT / "models"))
NAMES = ["SmolLM2-135M-Instruct.Q4_1.gguf", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"]
TESTS = {"prefill pp512": 512, "decode tg128": 128}
GOALS = {"prefill pp512": 0.8, "decode tg128": 1.0}
MEGABYTE = 1_000_000


def output(command):
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def speeds(program, json_flags, model, threads):
    """Tokens per second of one run, by test."""
    text = output([*program, "-m", model, "-p", 512, "-n", 128, "-r", 1, "-t", threads, *json_flags])
    found = {}
    for result in json.loads(text):
        test = "prefill pp512" if result["n_prompt"] else "decode tg128"
        assert result["n_prompt"] + result["n_gen"] == TESTS[test], result
        found[test] = result["avg_ts"]
    return found


def peak_memory(command):
    """Most memory the command had resident, bytes."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {child.returncode}")
    return usage.ru_maxrss * 1024


def loaded(ours, model, threads):
    """What `load` says, label -> text; of the second of two, so that the file is in the page cache."""
    for _ in range(2):
        text = output([ours, "load", "-m", model, "-c", 1024, "-t", threads])
    return {line[:24].strip(): line[24:].strip() for line in text.splitlines()}


def size(text):
    """Bytes that a size as we print it stands for: "12.6 MB  (1024 positions)"."""
    number, unit = text.split()[:2]
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", type=pathlib.Path, default=ROOT / "target/release/rocmforge")
    parser.add_argument("--peer", type=pathlib.Path, default=ROOT / "build/peer/bin", help="folder of llama-bench")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("models", nargs="*", type=pathlib.Path, metavar="MODEL")
    args = parser.parse_args()
    models = args.models or [MODELS / name for name in NAMES]
    bench = args.peer / "llama-bench"
    for path, hint in [(args.ours, "make build"), (bench, "make peer"), *((m, "make models") for m in models)]:
        if not path.exists():
            sys.exit(f"{path} is missing: {hint}")

    [bandwidth] = json.loads(output([args.ours, "bench", "--bandwidth", "--json", "-t", args.threads]))
    bandwidth = bandwidth["read_bytes_per_second"]
    device = json.loads(output([args.ours, "devices", "--json"]))[0]
    print(f"{device['name']} ({device['arch']}), {args.threads} threads, {args.pairs} alternating pairs; "
          f"memory is read at {bandwidth / 1e9:.1f} GB/s.\n")

    print("| model | test | ours, tok/s | llama-bench, tok/s | ratio | ratios of the pairs | goal | weights read |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |")
    for model in models:
        weights = size(loaded(args.ours, model, args.threads)["weights outside the file"])
        ours, peer = [], []
        for pair in range(args.pairs):
            runs = [
                lambda: ours.append(speeds([args.ours, "bench"], ["--json"], model, args.threads)),
                lambda: peer.append(speeds([bench], ["-o", "json"], model, args.threads)),
            ]
            for run in runs if pair % 2 == 0 else reversed(runs):
                run()
            print(f"{model.name}: pair {pair + 1} of {args.pairs}", file=sys.stderr)
        for test in TESTS:
            a = statistics.median(run[test] for run in ours)
            b = statistics.median(run[test] for run in peer)
            ratios = sorted(x[test] / y[test] for x, y in zip(ours, peer))
            read = a * weights
            share = f"{read / 1e9:.1f} GB/s, {read / bandwidth:.0%}" if test.startswith("decode") else ""
            print(f"| {model.name} | {test} | {a:.1f} | {b:.1f} | {a / b:.3f} | {ratios[0]:.2f} to {ratios[-1]:.2f} "
                  f"| {GOALS[test]} | {share} |", flush=True)

    print("\n| model | file | cache | peak of 1024 positions | limit: file + cache + 200 MB | second start to first token |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for model in models:
        said = loaded(args.ours, model, args.threads)
        cache = size(said["cache"])
        peak = peak_memory([args.ours, "generate", "-m", model, "-c", "1024", "-t", str(args.threads), "--ignore-eos",
                            "-n", "-1", "-p", "Once upon a time"])
        file = model.stat().st_size
        limit = file + cache + 200 * MEGABYTE
        print(f"| {model.name} | {file / MEGABYTE:.0f} MB | {cache / MEGABYTE:.0f} MB | {peak / MEGABYTE:.0f} MB "
              f"| {limit / MEGABYTE:.0f} MB | {said['start to first token']} |", flush=True)


if __name__ == "__main__":
    main()
