#!/bin/sh
# Print the path of a tool that is new enough: the first that will do on PATH, then in the usual folders.
#     tools/find.sh cargo|clang|cmake|go|python3|llvm-objdump|llvm-readelf
# Exit status 1 if there is none; then standard error says what was found and why it will not do.
# build.rs looks for clang by the same rule (tools/build/compiler.rs), the tests for LLVM's tools
# (tests/emulator/src/isa/disassembly.rs).
set -u
cd "$(dirname "$0")/.."
export LC_ALL=C
tool=${1:?usage: tools/find.sh TOOL}

# The folders to look in, one a line.
folders() {
    echo "$PATH:${HOME:-/root}/.cargo/bin:/usr/local/bin:/usr/bin" | tr ':' '\n' |
        while IFS= read -r folder; do
            [ -z "$folder" ] || readlink -f "$folder"
        done | awk '!seen[$0]++'
}

# candidates NAME: every program of that name.
candidates() {
    folders | while IFS= read -r folder; do
        [ -f "$folder/$1" ] && [ -x "$folder/$1" ] && echo "$folder/$1"
    done
}

# numbered NAME: every NAME-NN, the newest first.
numbered() {
    folders | while IFS= read -r folder; do
        for file in "$folder/$1"-[0-9]*; do
            number=${file##*-}
            case $number in
            *[!0-9]*) ;;
            *) [ -x "$file" ] && echo "$number $file" ;;
            esac
        done
    done | sort -s -k1,1nr | cut -d' ' -f2-
}

# version TEXT WORDS: the number behind the words
version() {
    echo "$1" | sed -n "s/^.*$2\([0-9][0-9.]*\).*/\1/p" | head -n 1
}

# at_least OLDEST VERSION
at_least() {
    [ -n "$2" ] && printf '%s\n%s\n' "$1" "$2" | sort -C -V
}

no() {
    echo "$*" >&2
    return 1
}

# newer FILE VERSION OLDEST: whether it is new enough
newer() {
    at_least "$3" "$2" || no "$1 is ${2:-of no known version}; $3 or newer is needed"
}

usable_cargo() {
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    text=$("$1" --version 2>&1) || no "$1: $text" || return
    newer "$1" "$(version "$text" 'cargo ')" "$oldest"
}

usable_cmake() {
    newer "$1" "$(version "$("$1" --version 2>/dev/null)" 'cmake version ')" 3.22
}

usable_go() {
    newer "$1" "$(version "$("$1" version 2>/dev/null)" 'go version go')" 1.19
}

# Python that can fetch packages: with pip, or able to make an environment that has it.
usable_python3() {
    newer "$1" "$(version "$("$1" --version 2>/dev/null)" 'Python ')" 3.9 || return
    "$1" -m pip --version >/dev/null 2>&1 || "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        no "$1 has neither pip nor venv"
}

# A clang 19 or newer that compiles for AMD's GPUs, with a linker of at least that age.
usable_clang() {
    text=$("$1" --version 2>/dev/null)
    newer "$1" "$(version "$text" 'clang version ')" 19 || return
    lld=$("$1" -print-prog-name=lld)
    command -v "$lld" >/dev/null || no "$1 is without its linker, lld" || return
    newer "$lld" "$(version "$("$lld" -flavor gnu --version 2>/dev/null)" 'LLD ')" 19 || return
    "$1" --target=amdgcn-amd-amdhsa -nogpulib --print-supported-cpus 2>&1 | grep -q gfx ||
        no "$1 was built without AMD's GPUs"
}

# A tool of LLVM, no older than the clang whose output it shall read.
usable_llvm() {
    newer "$1" "$(version "$("$1" --version 2>/dev/null)" 'LLVM version ')" "$oldest"
}

case $tool in
clang)
    kind=clang
    if [ -n "${HIPCC:-}" ]; then
        list=$(command -v "$HIPCC") || no "HIPCC=$HIPCC: no such program" || exit
    else
        list=$(ls "${ROCM_PATH:-/nonexistent}/llvm/bin/clang" "${ROCM_PATH:-/nonexistent}/lib/llvm/bin/clang" 2>/dev/null
            numbered clang
            candidates clang)
    fi
    ;;
llvm-*)
    kind=llvm oldest=19
    if clang=$(tools/find.sh clang 2>/dev/null); then
        oldest=$(version "$("$clang" --version)" 'clang version ')
        oldest=${oldest%%.*}
        list=$(command -v "$("$clang" -print-prog-name="$tool")")
    fi
    list=$(echo "${list:-}" && numbered "$tool" && candidates "$tool")
    ;;
cargo | cmake | go | python3)
    kind=$tool
    list=$(candidates "$tool")
    ;;
*)
    no "tools/find.sh knows no $tool"
    exit 2
    ;;
esac

# The reasons come out only if nothing will do.
reasons=$(
    echo "$list" | awk 'NF' | {
        while IFS= read -r file; do
            if "usable_$kind" "$file" 2>&1; then
                echo "found $file"
                break
            fi
        done
    }
)
case $reasons in
*"found /"*)
    echo "${reasons##*found }"
    ;;
*)
    echo "${reasons:-no $tool}" >&2
    exit 1
    ;;
esac
