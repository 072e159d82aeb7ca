#!/usr/bin/env python3
"""Writes tiny.gguf, a whole model in a few dozen KB, for tests that must be quick (the C tests run under valgrind).

    pip install gguf numpy
    python3 make.py          # writes tiny.gguf beside itself

Architecture llama, two layers, random weights; the vocabulary is GPT-2's 256 bytes, a few merges and ChatML's
control tokens. It talks nonsense, the same nonsense each time.
"""
from pathlib import Path

import gguf
import numpy as np

EMBD, LAYERS, HEADS, HEADS_KV, FFN, CONTEXT = 32, 2, 2, 1, 64, 256
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_chars():
    """The 256 characters that byte-level BPE writes bytes as: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def main():
    path = Path(__file__).with_name("tiny.gguf")
    tokens = byte_chars() + [merge.replace(" ", "") for merge in MERGES] + CONTROL
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROL)) + [gguf.TokenType.CONTROL] * len(CONTROL)
    head_dim = EMBD // HEADS

    w = gguf.GGUFWriter(path, "llama")
    w.add_name("tiny")
    w.add_description("random weights, for tests")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_block_count(LAYERS)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(EMBD)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(HEADS_KV)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(MERGES)
    w.add_bos_token_id(tokens.index("<|endoftext|>"))
    w.add_eos_token_id(tokens.index("<|im_end|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    # One of each kind of value, for the metadata functions.
    w.add_int8("test.i8", -8)
    w.add_uint64("test.u64", 2**64 - 1)
    w.add_int64("test.i64", -(2**63))
    w.add_float64("test.f64", 0.1)
    w.add_bool("test.bool", True)
    w.add_array("test.numbers", [-1, 0, 70000])

    rng = np.random.default_rng(1)

    def matrix(name, rows, cols, scale=None):
        scale = scale or 2.0 / np.sqrt(cols)
        w.add_tensor(name, (rng.standard_normal((rows, cols)) * scale).astype(np.float16))

    def ones(name, n):
        w.add_tensor(name, np.ones(n, np.float32))

    matrix("token_embd.weight", len(tokens), EMBD, 1.0)
    ones("output_norm.weight", EMBD)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        ones(block + "attn_norm.weight", EMBD)
        matrix(block + "attn_q.weight", EMBD, EMBD)
        matrix(block + "attn_k.weight", HEADS_KV * head_dim, EMBD)
        matrix(block + "attn_v.weight", HEADS_KV * head_dim, EMBD)
        matrix(block + "attn_output.weight", EMBD, EMBD)
        ones(block + "ffn_norm.weight", EMBD)
        matrix(block + "ffn_gate.weight", FFN, EMBD)
        matrix(block + "ffn_up.weight", FFN, EMBD)
        matrix(block + "ffn_down.weight", EMBD, FFN)

    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
