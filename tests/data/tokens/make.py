#!/usr/bin/env python3
"""Makes small_bpe.gguf, small_spm.gguf and goldens.json: texts and the ids that llama.cpp gives them.

    pip install gguf sentencepiece
    python3 make.py LLAMA_TOKENIZE MODELS_DIR

LLAMA_TOKENIZE is llama.cpp's llama-tokenize; MODELS_DIR holds the two real models.
The ids of small_spm.gguf must also be those of the sentencepiece package (checked below).
"""
import collections
import io
import json
import os
import re
import subprocess
import sys
import tempfile

import gguf
import sentencepiece

HERE = os.path.dirname(os.path.abspath(__file__))
PEER, MODELS = sys.argv[1], sys.argv[2]
REAL = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "qwen2.5": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
}

TEXTS = [
    "",
    " ",
    "Hello, world! It's 2024; we'll see what THEY'VE done, don't 'twas I'D.",
    "HelloWorld iPhone camelCase SCREAMING_SNAKE kebab-case x1y2 A1 3D $5.00 100% 1,234,567.89 1234567 12 007",
    "  two\n\n three   four\t\tfive \r\n six\r\n\r\n   \n  end   ",
    "def f(x):\n    if x <= 1:\n        return x  # done\n    return f(x-1)+f(x-2)\n\nint main(){a[i]+=&b->c;}/*!*/\n//x\n",
    "👩‍👩‍👧‍👦👍🏽 🇺🇸❤️ 😀😀 x🙂y",
    "你好，世界！今天天气很好。漢字とひらがなとカタカナ。한국어 문장입니다. 中a文1字 ｶﾅ（全角）",
    "ภาษาไทยที่นี่ العربية مَرْحَبًا، ١٢٣٤ हिन्दी में নমস্কার தமிழ் မြန်မာ",
    "Ünïcödé naïve café e\u0301a\u0308\u0323 Привет, мир! Ελλάδα ქართული Ĳ ǅ ½ ² Ⅷ → ∑ € “quoted” … — ¿qué?",
    "\u00a0nbsp\u3000wide\u2003em\u200bzero\ufeffbom\u2028line\u0085next \x00\x01\x1b\x1c\x7f\ufffd\ue000\U0001d49c",
    "<|im_start|>user\n<|im_end|> <s></s><unk><|endoftext|>[INST] <0x41> ▁x Ġy <sentinel:12>IMGIMGABZ ''s's 's",
    "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww!!!!!!!!!!!!!!!!!!!!!!!!===========................/////\n\n\n\n\n\n\n",
    "                                 x                                                   \n                   y",
    "https://example.com/a/b?c=d&e=f#g user@mail.org C:\\dir\\file.txt ~/x `code` {\"k\": [1, 2.5e-3, null]}",
    "supercalifragilisticexpialidocious antidisestablishmentarianism the quick brown fox jumps over the lazy dog",
]


def peer(model, text, special):
    flags = [] if special else ["--no-parse-special"]
    done = subprocess.run(
        [PEER, "-m", model, "--stdin", "--ids", "--no-escape", "--log-disable", *flags],
        input=text.encode(), capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{model}: {done.returncode}: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout.decode().strip().split("\n")[-1])


def byte_chars():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {**{b: chr(b) for b in own}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def write(path, model, pre, tokens, types, merges=None, scores=None, ids={}):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    for name, value in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    # What llama-tokenize wants of any llama model, though it loads the vocabulary only.
    writer.add_context_length(64); writer.add_embedding_length(8); writer.add_block_count(1)
    writer.add_feed_forward_length(8); writer.add_head_count(1); writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def small_bpe():
    """Merges that ignore words, learned on TEXTS: wherever a pre-tokenizer cuts, a merge does not happen."""
    chars = byte_chars()
    tokens = [chars[b] for b in range(256)]
    words = [[chars[b] for b in (text + text.swapcase()).encode()] for text in TEXTS]
    merges = []
    while len(merges) < 900:
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        (left, right), count = max(pairs.items(), key=lambda item: (item[1], item[0]))
        if count < 2:
            break
        merges.append(f"{left} {right}")
        if left + right not in tokens:
            tokens.append(left + right)
        for i, word in enumerate(words):
            joined, at = [], 0
            while at < len(word):
                if word[at:at + 2] == [left, right]:
                    joined.append(left + right)
                    at += 2
                else:
                    joined.append(word[at])
                    at += 1
            words[i] = joined
    types = [1] * len(tokens)
    bos = len(tokens)
    for text, kind in [("<s>", 3), ("</s>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), ("[INST]", 4), ("<unk>", 2)]:
        tokens.append(text)
        types.append(kind)
    return dict(tokens=tokens, types=types, merges=merges, ids={"bos": bos, "eos": bos + 1, "unknown": bos + 5})


def small_spm(path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS[1:10] + TEXTS[14:] for line in re.split(r"[\n\r\0]+", text) * 2 if line),
        model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        user_defined_symbols=["[INST]", "<|im_start|>"], control_symbols=["<|im_end|>"], minloglevel=2)
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = [(spm.IsUnknown, 2), (spm.IsControl, 3), (spm.IsUnused, 5), (spm.IsByte, 6)]
    ids = range(spm.GetPieceSize())
    types = [next((kind for test, kind in kinds if test(i)), 1) for i in ids]
    for text in ["[INST]", "<|im_start|>"]:
        types[spm.PieceToId(text)] = 4
    write(path, "llama", None, [spm.IdToPiece(i) for i in ids], types, scores=[spm.GetScore(i) for i in ids],
          ids={"bos": spm.bos_id(), "eos": spm.eos_id(), "unknown": spm.unk_id()})
    return spm


def names():
    source = open(os.path.join(HERE, "../../../src/text/pre_tokenizer.rs"), encoding="utf8").read()
    return [name for row in re.findall(r"names: &\[(.*?)\]", source, re.S) for name in re.findall(r'"(.*?)"', row)]


def main():
    goldens = {"texts": TEXTS, "vocabs": {}, "pre": []}
    spm_path = os.path.join(HERE, "small_spm.gguf")
    bpe_path = os.path.join(HERE, "small_bpe.gguf")
    spm, bpe = small_spm(spm_path), small_bpe()
    write(bpe_path, "gpt2", "default", **bpe)
    models = {name: os.path.join(MODELS, file) for name, file in REAL.items()}
    for name, path in {**models, "small_spm": spm_path, "small_bpe": bpe_path}.items():
        goldens["vocabs"][name] = {
            "plain": [peer(path, text, False) for text in TEXTS],
            "special": [peer(path, text, True) for text in TEXTS],
        }
    ours = [spm.bos_id()]
    for text, ids in zip(TEXTS, goldens["vocabs"]["small_spm"]["plain"]):
        # llama.cpp cuts at user-defined tokens first and puts a space after each: other texts only.
        if "[INST]" not in text and "\0" not in text:
            assert ours + spm.EncodeAsIds(text) == ids, (text, spm.EncodeAsIds(text), ids)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pre.gguf")
        for name in names():
            write(path, "gpt2", name, **bpe)
            print(name, flush=True)
            # One run for all texts: the user-defined [INST] between them is found before anything is cut.
            rows.setdefault(json.dumps(peer(path, "[INST]".join(TEXTS[2:]), False)), []).append(name)
    for ids, same in rows.items():
        goldens["pre"].append({"names": same, "ids": json.loads(ids)})
    with open(os.path.join(HERE, "goldens.json"), "w", encoding="utf8") as file:
        json.dump(goldens, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


main()
