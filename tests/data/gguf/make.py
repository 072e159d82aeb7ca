#!/usr/bin/env python3
"""Makes the golden files of tests/gguf/golden.rs with the `gguf` package and llama.cpp.

    pip install gguf==0.19.0 numpy
    python3 tests/data/gguf/make.py DIR      # DIR: llama.cpp's libggml-base.so and llama-gguf-split

types.tsv              id, name, elements and bytes per block of each tensor type, as libggml-base has them
all.gguf, all.json     written by the package: each metadata type, a tensor of each type; and what it holds
all-0000N-of-00003.gguf  the same, split by llama.cpp
"""

import ctypes
import json
import pathlib
import subprocess
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

HERE = pathlib.Path(__file__).parent
TYPE_COUNT = 43  # GGML_TYPE_COUNT

METADATA = [
    ("u8", 255), ("i8", -128), ("u16", 65535), ("i16", -32768), ("u32", 4294967295), ("i32", -2147483648),
    ("u64", 18446744073709551615), ("i64", -9223372036854775808), ("f32", 0.15625), ("f64", 0.1),
    ("bool", True), ("string", "Grüße, 世界 🦀\n"),
]  # fmt: skip
NAMES = {"u": "UINT", "i": "INT", "f": "FLOAT"}


def value_type(name):
    kind = NAMES.get(name[0]) if name[1:].isdigit() else name.upper()
    return GGUFValueType[f"{kind}{name[1:]}" if name[1:].isdigit() else kind]


def types(peer):
    ggml = ctypes.CDLL(str(peer / "libggml-base.so"))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    rows = [(i, ggml.ggml_type_name(i).decode(), ggml.ggml_blck_size(i), ggml.ggml_type_size(i)) for i in range(TYPE_COUNT)]
    rows = [row for row in rows if row[2] > 0]  # 0: a type that was removed
    (HERE / "types.tsv").write_text("".join(f"{i}\t{name}\t{length}\t{size}\n" for i, name, length, size in rows))


def all_types():
    writer = gguf.GGUFWriter(HERE / "all.gguf", "test")
    metadata = [{"key": "general.architecture", "type": "string", "value": "test"}]
    for name, value in METADATA:
        writer.add_key_value(f"one.{name}", value, value_type(name))
        metadata.append({"key": f"one.{name}", "type": name, "value": value})
        other = {"string": "", "bool": False}.get(name, 1)
        writer.add_key_value(f"many.{name}", [value, other], GGUFValueType.ARRAY, value_type(name))
        metadata.append({"key": f"many.{name}", "type": "array", "of": name, "value": [value, other]})

    rng = np.random.default_rng(20260902)
    tensors = []
    for ty, (length, size) in gguf.GGML_QUANT_SIZES.items():
        if ty in (GGMLQuantizationType.Q8_1, GGMLQuantizationType.Q8_K):
            continue  # not for files; and the package has another size for Q8_1 than ggml
        # Rows of one block, at least of 3 elements; 2 rows; for some a third dimension.
        shape = [2, 2, max(length, 3)] if int(ty) % 4 == 0 else [2, max(length, 3)]
        data = rng.integers(0, 256, (*shape[:-1], shape[-1] // length * size), dtype=np.uint8)
        writer.add_tensor(f"tensor.{ty.name}", data, raw_dtype=ty)
        tensors.append({"name": f"tensor.{ty.name}", "type": ty.name, "dims": shape[::-1], "bytes": data.tobytes().hex()})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(HERE / "all.json", "w") as f:
        json.dump({"metadata": metadata, "tensors": tensors}, f, ensure_ascii=False, indent=0)


def main():
    peer = pathlib.Path(sys.argv[1])
    types(peer)
    all_types()
    split = [peer / "llama-gguf-split", "--split", "--split-max-tensors", "12", HERE / "all.gguf", HERE / "all"]
    subprocess.run(split, check=True)


main()
