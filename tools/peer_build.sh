#!/bin/sh
# Build the peer, llama.cpp, for this processor, from the source that the llama-cpp-python package on PyPI carries.
#     tools/peer_build.sh [DIR]      default: $ROCMFORGE_PEER or build/peer; programs land in DIR/bin
# Takes about ten minutes on two cores; a step that is done is not done again.
set -eu
cd "$(dirname "$0")/.."
version=0.3.36
dir=${1:-${ROCMFORGE_PEER:-build/peer}}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
python=$dir/venv/bin/python

if [ ! -f "$dir/venv/ready" ]; then
    "$(tools/find.sh python3)" -m venv "$dir/venv"
    "$python" -m pip -q install cmake ninja scikit-build-core
    touch "$dir/venv/ready"
fi
if [ ! -d "$dir/src" ]; then
    # pip asks the source package for its metadata, which takes its build tool: the one just installed
    "$python" -m pip -q download --no-deps --no-binary=:all: --no-build-isolation -d "$dir" \
        "llama-cpp-python==$version"
    rm -rf "$dir/unpacked"
    mkdir "$dir/unpacked"
    tar -xzf "$dir/llama_cpp_python-$version.tar.gz" -C "$dir/unpacked"
    # GELU in f32 as its definition has it, not from a table of f16: the fixtures of tests/data/archs are the truth
    sed -i 's|^#define GGML_GELU_FP16|// &|' "$dir/unpacked/llama_cpp_python-$version/vendor/llama.cpp/ggml/src/ggml-cpu/vec.h"
    mv "$dir/unpacked/llama_cpp_python-$version/vendor/llama.cpp" "$dir/src"
    rm -rf "$dir/unpacked"
fi

PATH=$dir/venv/bin:$PATH
programs="llama-bench llama-perplexity llama-quantize llama-tokenize test-llama-archs"
cmake -G Ninja -S "$dir/src" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=ON >"$dir/build.log"
# shellcheck disable=SC2086 # one argument each
cmake --build "$dir/build" --target $programs >>"$dir/build.log" || {
    tail -n 30 "$dir/build.log" >&2
    exit 1
}
cc -O2 -Wall -o "$dir/build/bin/peer_logits" tools/peer_logits.c -I"$dir/src/include" -I"$dir/src/ggml/include" \
    -L"$dir/build/bin" -Wl,-rpath,"$dir/build/bin" -lllama -lggml -lggml-base
ln -sfn build/bin "$dir/bin"
for program in $programs peer_logits; do
    echo "$dir/bin/$program"
done
