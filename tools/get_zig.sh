#!/bin/sh
# Fetch the Zig that examples/zig is tested with from PyPI, into build/zig.     tools/get_zig.sh
set -eu
cd "$(dirname "$0")/.."
version=0.17.1
[ "$(build/zig/ziglang/zig version 2>/dev/null)" != "$version" ] || exit 0
echo "fetching Zig $version" >&2
mkdir -p build
tmp=$(mktemp -d build/zig.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
tools/pip.sh download -q --no-deps --only-binary=:all: -d "$tmp" "ziglang==$version"
"$(tools/find.sh python3)" -m zipfile -e "$tmp"/ziglang-*.whl "$tmp/zig"
chmod +x "$tmp/zig/ziglang/zig"
[ "$("$tmp/zig/ziglang/zig" version)" = "$version" ] || { echo "tools/get_zig.sh: PyPI's ziglang $version does not run" >&2; exit 1; }
rm -rf build/zig
mv "$tmp/zig" build/zig
