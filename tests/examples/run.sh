#!/bin/sh
# Builds the examples in Go, Zig and Python against an installed package, as strangers would, and runs
#   - their own tests: each call's error reaches its caller from whatever thread, text streams, answers can be stopped;
#   - each chat, which answers as the command line does, says what is wrong, and stops an answer on Ctrl-C.
#
#     tests/examples/run.sh PREFIX      (tests/c/run.sh installs and then runs this)
#
# It needs what tools/setup.sh test and tools/get_zig.sh install, and SmolLM2-135M in models/ or $ROCMFORGE_MODELS
# (`make models` fetches it). Nothing is fetched here.
set -eu

fail() { echo "tests/examples/run.sh: $*" >&2; exit 1; }
root=$(cd "$(dirname "$0")/../.." && pwd)
prefix=${1:?usage: tests/examples/run.sh PREFIX}
libdir=$(dirname "$(find "$prefix" -name rocmforge.pc)")/..
[ -f "$libdir/librocmforge.so" ] || fail "no installed package in $prefix"
models=${ROCMFORGE_MODELS:-$root/models}
export ROCMFORGE_MODEL="$models/SmolLM2-135M-Instruct.Q4_1.gguf"
[ -f "$ROCMFORGE_MODEL" ] || fail "$ROCMFORGE_MODEL is missing: make models fetches it"
go=$("$root/tools/find.sh" go) && python=$("$root/tools/find.sh" python3) || fail "tools/setup.sh test installs what is missing"
zig=$root/build/zig/ziglang/zig
[ -x "$zig" ] || fail "$zig is missing: tools/get_zig.sh fetches it"

work=$(mktemp -d)
zig_job=
trap '[ -z "$zig_job" ] || kill "$zig_job" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export PKG_CONFIG_PATH="$libdir/pkgconfig" LD_LIBRARY_PATH="$libdir"
export GOPROXY=off GOFLAGS=-mod=readonly GOTOOLCHAIN=local PYTHONDONTWRITEBYTECODE=1
# Go's cache does not see that pkg-config answers otherwise than for the last prefix; it sees these flags.
export CGO_CFLAGS="-g -O2 -DRUN_${work##*.}"

# The command of a chat.
chat() {
    case $1 in
    go) echo "$work/go_chat" ;;
    python) echo "$python $root/examples/python/chat.py" ;;
    zig) echo "$work/zig/bin/chat" ;;
    esac
}

# attempt NAME COMMAND...: silent, unless it fails
attempt() {
    name=$1
    shift
    "$@" >"$work/log" 2>&1 </dev/null || { cat "$work/log"; fail "$name"; }
}

# Zig builds its build system and its reader of C headers once a machine (into ~/.cache/zig): beside all else.
(cd "$root/examples/zig" && exec "$zig" build --cache-dir "$work/zig_cache" --prefix "$work/zig") >"$work/zig_log" 2>&1 </dev/null &
zig_job=$!

echo "== examples/go"
(
    cd "$root/examples/go"
    changed=$("$(dirname "$go")/gofmt" -l .) && [ -z "$changed" ] || fail "examples/go: gofmt would change $changed"
    attempt "examples/go: vet" "$go" vet ./...
    attempt "examples/go: test" "$go" test -count=1 -race ./...
    attempt "examples/go: build" "$go" build -o "$work/go_chat" ./chat
)
echo "== examples/python"
(
    cd "$root/examples/python"
    attempt "examples/python: test" "$python" -W error -m unittest
)
echo "== examples/zig"
wait "$zig_job" || { cat "$work/zig_log"; fail "examples/zig: build"; }
zig_job=
(
    cd "$root/examples/zig"
    attempt "examples/zig: fmt" "$zig" fmt --check .
    attempt "examples/zig: test" "$zig" build test --cache-dir "$work/zig_cache"
)

echo "== chats"
question="Name the three primary colours."
for settings in "--temp 0" "--temp 0.8 --seed 7"; do
    # shellcheck disable=SC2086 # words
    "$prefix/bin/rocmforge" chat -m "$ROCMFORGE_MODEL" -p "$question" -n 32 $settings </dev/null >"$work/want" 2>"$work/log" ||
        { cat "$work/log"; fail "the command line"; }
    [ "$(wc -w <"$work/want")" -ge 5 ] || fail "the command line says next to nothing: $(cat "$work/want")"
    for example in go python zig; do
        chat=$(chat $example)
        # shellcheck disable=SC2086 # words
        echo "$question" | $chat -n 32 $settings "$ROCMFORGE_MODEL" >"$work/got" 2>"$work/log" || { cat "$work/log"; fail "$chat"; }
        cmp -s "$work/want" "$work/got" || { diff "$work/want" "$work/got" || true; fail "$chat answers otherwise than the command line"; }
    done
done
for example in go python zig; do
    chat=$(chat $example)
    $chat /nonexistent </dev/null >"$work/got" 2>"$work/log" && fail "$chat: a missing file gives exit status 0"
    grep -q "^chat: .*/nonexistent" "$work/log" || fail "$chat: a missing file's message: $(cat "$work/log")"
    # One exchange fits the context, the next does not: it is forgotten. A message too long ends nothing.
    long=$(printf 'over and %.0s' $(seq 200))
    printf '%s\n' "$question" "And a fourth one?" "$long" "$question" | $chat --ctx 64 --temp 0 "$ROCMFORGE_MODEL" >"$work/got" 2>"$work/log" ||
        { cat "$work/log"; fail "$chat: a full context"; }
    grep -q "older messages are forgotten" "$work/log" && grep -q "longer than the context" "$work/log" || fail "$chat: $(cat "$work/log")"
    "$python" "$root/tests/examples/ctrl_c.py" $chat --temp 0 -n 400 "$ROCMFORGE_MODEL"
    echo "   $example"
done
