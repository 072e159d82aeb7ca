#!/usr/bin/env python3
"""Write a GGUF file with the shapes and types of a model that people run, and random weights: for speed and memory.

    pip install gguf numpy
    tools/shapes.py SHAPE OUT.gguf [--type Q4_K] [--head-type Q6_K] [--layers N]

The numbers mean nothing. Scales are small, so that activations stay finite through all layers. The vocabulary has no
texts ("no_vocab"): feed it ids, as `rocmforge bench` and llama-bench do.
"""

import argparse

import gguf
import numpy as np

T = gguf.GGMLQuantizationType
# Bytes of a block that hold its f16 scales, and the greatest number that the first of them multiplies.
SCALES = {
    T.Q4_0: ((0,), 8), T.Q4_1: ((0, 2), 8), T.Q5_0: ((0,), 16), T.Q8_0: ((0,), 127), T.Q4_K: ((0, 2), 15 * 32),
    T.Q5_K: ((0, 2), 31 * 32), T.Q6_K: ((208,), 32 * 64),
}
TYPES = [t.name for t in SCALES] + ["F32", "MXFP4"]
# Random blocks that are repeated until a tensor is full, in bytes.
POOL = 1 << 24


class File:
    """A GGUF file in the making."""

    def __init__(self, path, arch, seed=1):
        self.writer = gguf.GGUFWriter(path, arch)
        self.arch = arch
        self.rng = np.random.default_rng(seed)
        self.pools = {}

    def keys(self, **keys):
        """Keys of the architecture; __ in a name stands for a dot."""
        for name, value in keys.items():
            name = f"{self.arch}.{name.replace('__', '.')}"
            match value:
                case bool():
                    self.writer.add_bool(name, value)
                case int():
                    self.writer.add_uint32(name, value)
                case float():
                    self.writer.add_float32(name, value)
                case str():
                    self.writer.add_string(name, value)

    def vector(self, name, n, value=None):
        values = self.rng.standard_normal(n) * 0.02 if value is None else np.full(n, value)
        self.writer.add_tensor(name, values.astype(np.float32))

    def matrix(self, name, qtype, *shape):
        """`shape` as numpy has it: the length of a row last."""
        if qtype == T.F32:
            self.writer.add_tensor(name, (self.rng.standard_normal(shape) * 0.02).astype(np.float32))
            return
        block, size = gguf.GGML_QUANT_SIZES[qtype]
        assert shape[-1] % block == 0, f"{name}: rows of {shape[-1]} are no blocks of {block} ({qtype.name})"
        if qtype not in self.pools:
            self.pools[qtype] = self.blocks(qtype, POOL // size)
        n_bytes = int(np.prod(shape)) // block * size
        data = np.resize(self.pools[qtype], n_bytes)
        self.writer.add_tensor(name, data.reshape(*shape[:-1], -1), raw_dtype=qtype)

    def blocks(self, qtype, n):
        _, size = gguf.GGML_QUANT_SIZES[qtype]
        blocks = self.rng.integers(0, 256, (n, size), dtype=np.uint8)
        if qtype == T.MXFP4:
            blocks[:, 0] = 127 - 8  # the block's exponent
            return blocks
        places, most = SCALES[qtype]
        for k, at in enumerate(places):
            scale = np.float16((0.04 if k == 0 else -0.02) / most)
            blocks[:, at : at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
        return blocks

    def end(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def start(f, embd, layers, heads, kv, head_dim, ffn, vocab, base, rms=True):
    f.keys(
        block_count=layers, context_length=32768, embedding_length=embd, feed_forward_length=ffn,
        attention__head_count=heads, attention__head_count_kv=kv, attention__key_length=head_dim,
        attention__value_length=head_dim, rope__freq_base=float(base), vocab_size=vocab,
    )
    f.keys(**{f"attention__layer_norm_{'rms_' if rms else ''}epsilon": 1e-6})
    f.writer.add_tokenizer_model("no_vocab")


def ends(f, embd, vocab, head, tied, norm_bias=False):
    f.matrix("token_embd.weight", head, vocab, embd)
    f.vector("output_norm.weight", embd, 1.0)
    if norm_bias:
        f.vector("output_norm.bias", embd)
    if not tied:
        f.matrix("output.weight", head, vocab, embd)


def attention(f, b, qtype, embd, heads, kv, head_dim, biased="", norm=False):
    """`biased`: which of q, k, v and o have biases."""
    rows = {"q": heads * head_dim, "k": kv * head_dim, "v": kv * head_dim}
    for part, n in rows.items():
        f.matrix(f"{b}attn_{part}.weight", qtype, n, embd)
        if part in biased:
            f.vector(f"{b}attn_{part}.bias", n)
        if norm and part != "v":
            f.vector(f"{b}attn_{part}_norm.weight", head_dim, 1.0)
    f.matrix(f"{b}attn_output.weight", qtype, embd, heads * head_dim)
    if "o" in biased:
        f.vector(f"{b}attn_output.bias", embd)


def gated(f, b, qtype, embd, ffn):
    f.matrix(b + "ffn_gate.weight", qtype, ffn, embd)
    f.matrix(b + "ffn_up.weight", qtype, ffn, embd)
    f.matrix(b + "ffn_down.weight", qtype, embd, ffn)


def experts(f, b, qtype, embd, ffn, n, biased=False):
    f.matrix(b + "ffn_gate_inp.weight", T.F32, n, embd)
    for part, rows, cols in (("gate", ffn, embd), ("up", ffn, embd), ("down", embd, ffn)):
        f.matrix(f"{b}ffn_{part}_exps.weight", qtype, n, rows, cols)
        if biased:
            f.writer.add_tensor(f"{b}ffn_{part}_exps.bias", np.zeros((n, rows), np.float32))
    if biased:
        f.vector(b + "ffn_gate_inp.bias", n)


def dense(arch, embd, layers, heads, kv, head_dim, ffn, vocab, base, biased, tied):
    def write(f, qtype, head, n_layers):
        n_layers = n_layers or layers
        start(f, embd, n_layers, heads, kv, head_dim, ffn, vocab, base)
        ends(f, embd, vocab, head, tied)
        for b in (f"blk.{i}." for i in range(n_layers)):
            f.vector(b + "attn_norm.weight", embd, 1.0)
            attention(f, b, qtype, embd, heads, kv, head_dim, biased)
            f.vector(b + "ffn_norm.weight", embd, 1.0)
            gated(f, b, qtype, embd, ffn)

    return arch, write


def qwen3moe(embd, layers, heads, kv, head_dim, ffn, n, used, vocab, tied):
    def write(f, qtype, head, n_layers):
        n_layers = n_layers or layers
        start(f, embd, n_layers, heads, kv, head_dim, ffn, vocab, 1e6)
        f.keys(expert_count=n, expert_used_count=used, expert_feed_forward_length=ffn)
        ends(f, embd, vocab, head, tied)
        for b in (f"blk.{i}." for i in range(n_layers)):
            f.vector(b + "attn_norm.weight", embd, 1.0)
            attention(f, b, qtype, embd, heads, kv, head_dim, norm=True)
            f.vector(b + "ffn_norm.weight", embd, 1.0)
            experts(f, b, qtype, embd, ffn, n)

    return "qwen3moe", write


def gpt_oss(embd, layers, heads, kv, head_dim, ffn, n, used, vocab):
    """Experts in MXFP4 and the rest in `qtype`, as published."""

    def write(f, qtype, head, n_layers):
        n_layers = n_layers or layers
        start(f, embd, n_layers, heads, kv, head_dim, ffn, vocab, 150000)
        f.keys(
            expert_count=n, expert_used_count=used, expert_feed_forward_length=ffn, attention__sliding_window=128,
            rope__scaling__type="yarn", rope__scaling__factor=32.0, rope__scaling__original_context_length=4096,
            rope__dimension_count=head_dim,
        )
        ends(f, embd, vocab, head, tied=False)
        for b in (f"blk.{i}." for i in range(n_layers)):
            f.vector(b + "attn_norm.weight", embd, 1.0)
            attention(f, b, qtype, embd, heads, kv, head_dim, "qkvo")
            f.vector(b + "attn_sinks.weight", heads)
            f.vector(b + "post_attention_norm.weight", embd, 1.0)
            experts(f, b, T.MXFP4, embd, ffn, n, biased=True)

    return "gpt-oss", write


def gemma3(embd, layers, heads, kv, head_dim, ffn, window, vocab):
    def write(f, qtype, head, n_layers):
        n_layers = n_layers or layers
        start(f, embd, n_layers, heads, kv, head_dim, ffn, vocab, 1e6)
        f.keys(attention__sliding_window=window)
        ends(f, embd, vocab, head, tied=True)
        for b in (f"blk.{i}." for i in range(n_layers)):
            for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
                f.vector(f"{b}{norm}.weight", embd, 1.0)
            attention(f, b, qtype, embd, heads, kv, head_dim, norm=True)
            gated(f, b, qtype, embd, ffn)

    return "gemma3", write


def gptneox(embd, layers, heads, rot, ffn, vocab):
    """LayerNorms, biases everywhere, and both halves of a layer side by side."""

    def write(f, qtype, head, n_layers):
        n_layers = n_layers or layers
        start(f, embd, n_layers, heads, heads, embd // heads, ffn, vocab, 10000, rms=False)
        f.keys(use_parallel_residual=True, rope__dimension_count=rot)
        ends(f, embd, vocab, head, tied=False, norm_bias=True)
        for b in (f"blk.{i}." for i in range(n_layers)):
            for norm in ("attn_norm", "ffn_norm"):
                f.vector(f"{b}{norm}.weight", embd, 1.0)
                f.vector(f"{b}{norm}.bias", embd)
            for name, rows, cols in (
                ("attn_qkv", 3 * embd, embd), ("attn_output", embd, embd), ("ffn_up", ffn, embd), ("ffn_down", embd, ffn),
            ):
                f.matrix(f"{b}{name}.weight", qtype, rows, cols)
                f.vector(f"{b}{name}.bias", rows)

    return "gptneox", write


SHAPES = {
    "smollm2-135m": dense("llama", 576, 30, 9, 3, 64, 1536, 49152, 1e5, "", True),
    "qwen2.5-0.5b": dense("qwen2", 896, 24, 14, 2, 64, 4864, 151936, 1e6, "qkv", True),
    "llama-3.2-1b": dense("llama", 2048, 16, 32, 8, 64, 8192, 128256, 5e5, "", True),
    "llama-3.1-8b": dense("llama", 4096, 32, 32, 8, 128, 14336, 128256, 5e5, "", False),
    "qwen3-30b-a3b": qwen3moe(2048, 48, 32, 4, 128, 768, 128, 8, 151936, False),
    "mixture-1b": qwen3moe(1024, 16, 16, 8, 64, 1024, 16, 2, 65536, True),
    "gpt-oss-20b": gpt_oss(2880, 24, 64, 8, 64, 2880, 32, 4, 201088),
    "gemma3-1b": gemma3(1152, 26, 4, 1, 256, 6912, 512, 262144),
    "gemma3-12b": gemma3(3840, 48, 16, 8, 256, 15360, 1024, 262208),
    "pythia-1b": gptneox(2048, 16, 8, 64, 8192, 50304),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out")
    parser.add_argument("--type", default="Q4_K", choices=TYPES, help="of the layers' matrices")
    parser.add_argument("--head-type", choices=TYPES, help="of the embedding and the output; default: as --type")
    parser.add_argument("--layers", type=int, help="default: the model's")
    args = parser.parse_args()
    arch, write = SHAPES[args.shape]
    f = File(args.out, arch)
    write(f, T[args.type], T[args.head_type or args.type], args.layers)
    f.end()


main()
