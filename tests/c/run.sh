#!/bin/sh
# Builds and installs the library into a scratch prefix with CMake, then holds the C side to its promises, all against
# the installed package:
#   - the header compiles alone, pedantically, as every C and C++ it claims;
#   - the C tests (tests/c/*.c) pass under valgrind, without an error or a leak;
#   - the examples build through find_package (shared and static) and pkg-config, and answer as the command line does;
#     those in other languages too (tests/examples/run.sh);
#   - so does a project that has this one as a part of it;
#   - what is installed carries no debug information and, the archive too, no names but the header's;
#   - `make install` takes a prefix with a space.
#
#     tests/c/run.sh [Release|Debug]
#
# It needs gcc, g++, cmake, pkg-config and valgrind, and SmolLM2-135M in models/ or $ROCMFORGE_MODELS
# (`make models` fetches it).
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
build_type=${1:-Release}
models=${ROCMFORGE_MODELS:-$root/models}
smollm=$models/SmolLM2-135M-Instruct.Q4_1.gguf
tiny=$root/tests/data/tiny/tiny.gguf

fail() { echo "tests/c/run.sh: $*" >&2; exit 1; }
for tool in gcc g++ pkg-config valgrind nm readelf; do
    command -v $tool >/dev/null ||
        fail "$tool is missing: apt-get install gcc g++ cmake pkg-config valgrind binutils"
done
cmake=$("$root/tools/find.sh" cmake) || fail "no CMake that will do"
cmake() { "$cmake" "$@"; }
[ -f "$smollm" ] || fail "$smollm is missing: make models fetches it"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ROCMFORGE_CPU_ISA=avx2 # valgrind knows no AVX-512
export ROCMFORGE_HIP_LIBRARY=$work/none.so # params.c tries a machine without a GPU's runtime
grep -q avx2 /proc/cpuinfo || export ROCMFORGE_CPU_ISA=scalar

echo "== build and install ($build_type)"
cmake -S "$root" -B "$work/build" -DCMAKE_BUILD_TYPE="$build_type" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake"; }
cmake --build "$work/build" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --build"; }
cmake --install "$work/build" --prefix "$work/first" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --install"; }
# An installed tree can move.
mv "$work/first" "$work/prefix"
prefix=$work/prefix
libdir=$(dirname "$(find "$prefix" -name librocmforge.so)")
export PKG_CONFIG_PATH="$libdir/pkgconfig" LD_LIBRARY_PATH="$libdir"
soname=$(objdump -p "$libdir/librocmforge.so" | awk '/SONAME/ { print $2 }')
[ "$soname" = librocmforge.so.0.1 ] || fail "SONAME is '$soname'"
[ "$(readlink -f "$libdir/$soname")" = "$(readlink -f "$libdir/librocmforge.so.0.1.0")" ] || fail "the links do not lead to the library"

echo "== what is installed"
# Names that others can bind to, in an order.
exported() { readelf --dyn-syms -W "$1" | awk '$5 ~ /GLOBAL|WEAK/ && $7 != "UND" { print $8 }' | sort; }
functions=$(grep -o '\brf_[a-z0-9_]*(' "$prefix/include/rocmforge.h" | tr -d '(' | sort -u)
[ "$(exported "$libdir/librocmforge.so")" = "$functions" ] || fail "the library exports other names than the header has"
defined=$(readelf -sW "$libdir/librocmforge.a" | awk '$5 ~ /GLOBAL|WEAK/ && $7 ~ /^[0-9]+$/ { print $8 }' | sort)
[ "$defined" = "$functions" ] || fail "the archive has other names than the header has"
for file in "$libdir/librocmforge.so" "$libdir/librocmforge.a" "$prefix/bin/rocmforge"; do
    case $build_type,$(readelf -SW "$file" | grep -c '\.debug_line') in
    Release,0 | Debug,[1-9]*) ;;
    *) fail "$file of a $build_type build has debug information, or none" ;;
    esac
done
cmake -S "$root" -B "$work/build" -DCMAKE_BUILD_TYPE=RelWithDebInfo >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake"; }
cmake --build "$work/build" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --build"; }
readelf -SW "$work/build/lib/librocmforge.so" | grep -q '\.debug_line' || fail "RelWithDebInfo has no debug information"

echo "== make install, to a prefix with a space"
spaced="$work/a prefix"
make -s -C "$root" install PREFIX="$spaced" >"$work/log" 2>&1 || { cat "$work/log"; fail "make install"; }
(
    unset LD_LIBRARY_PATH
    [ "$("$spaced/bin/rocmforge" --version)" = "$("$prefix/bin/rocmforge" --version)" ] || fail "the installed command line"
    export PKG_CONFIG_PATH="$spaced/$(basename "$libdir")/pkgconfig"
    eval "gcc '$root/examples/c/generate.c' -o '$work/spaced' $(pkg-config --cflags --libs rocmforge)" || fail "pkg-config"
    cmake -S "$root/examples/c" -B "$work/spaced_c" -DCMAKE_PREFIX_PATH="$spaced" >"$work/log" 2>&1 || { cat "$work/log"; fail "find_package"; }
    cmake --build "$work/spaced_c" >"$work/log" 2>&1 || { cat "$work/log"; fail "find_package: build"; }
)

echo "== the header alone"
echo '#include <rocmforge.h>' >"$work/header.c"
cp "$work/header.c" "$work/header.cpp"
strict="-Wall -Wextra -Wpedantic -Werror -fsyntax-only -I$prefix/include"
compilers="gcc g++"
command -v clang >/dev/null && compilers="$compilers clang clang++"
for compiler in $compilers; do
    case $compiler in
    *++) for std in c++11 c++14 c++17 c++20; do $compiler -std=$std $strict "$work/header.cpp"; done ;;
    *) for std in c99 c11 c17; do $compiler -std=$std $strict "$work/header.c"; done ;;
    esac
done

echo "== C tests under valgrind"
# Every function of the header has its NULLs tried.
for name in $(nm -D --defined-only "$libdir/librocmforge.so" | awk '{ print $3 }'); do
    grep -q "$name(" "$root/tests/c/null.c" || fail "tests/c/null.c does not try $name"
done
for source in "$root"/tests/c/*.c; do
    test=$(basename "$source" .c)
    gcc -std=gnu11 -g -O1 -Wall -Wextra -Werror "$source" -o "$work/$test" $(pkg-config --cflags --libs rocmforge) -pthread
    [ "$test" = alloc ] && continue # brings its own malloc, and keeps count itself
    for device in cpu reference; do
        # what valgrind says is not printed by the program: some releases warn of any file that is mapped and then removed
        valgrind --quiet --log-file="$work/valgrind" --fair-sched=yes --error-exitcode=99 --leak-check=full \
            --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect \
            "$work/$test" "$tiny" $device >"$work/out" 2>"$work/err" ||
            { cat "$work/out" "$work/err" "$work/valgrind"; fail "$test on $device"; }
        [ ! -s "$work/out" ] && [ ! -s "$work/err" ] || { cat "$work/out" "$work/err"; fail "$test on $device prints"; }
        echo "   $test $device"
    done
done

echo "== failing allocations"
alloc() {
    "$work/alloc" "$@" >"$work/out" 2>"$work/err" || { cat "$work/out" "$work/err"; fail "alloc $*"; }
    [ ! -s "$work/out" ] && [ ! -s "$work/err" ] || { cat "$work/out" "$work/err"; fail "alloc $* prints"; }
}
alloc "$tiny" cpu 400
alloc "$tiny" reference 60
alloc "$smollm" cpu 4

echo "== 500 forks"
for device in cpu reference; do
    FORKS=500 "$work/fork" "$tiny" $device >"$work/out" 2>&1 || { cat "$work/out"; fail "fork on $device"; }
done

echo "== examples, against the installed package"
unset ROCMFORGE_CPU_ISA
for example in c cpp; do
    cmake -S "$root/examples/$example" -B "$work/$example" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_COMPILE_WARNING_AS_ERROR=ON >"$work/log" 2>&1 || { cat "$work/log"; fail "examples/$example: cmake"; }
    cmake --build "$work/$example" >"$work/log" 2>&1 || { cat "$work/log"; fail "examples/$example: build"; }
done
gcc -std=c99 -Wall -Wextra -Wpedantic -Werror "$root/examples/c/generate.c" -o "$work/pc_c" $(pkg-config --cflags --libs rocmforge)
g++ -std=c++17 -Wall -Wextra -Wpedantic -Werror "$root/examples/cpp/generate.cpp" -o "$work/pc_cpp" $(pkg-config --cflags --libs rocmforge)
gcc -std=c99 "$root/examples/c/generate.c" -o "$work/pc_static" $(pkg-config --cflags --static --libs rocmforge)
readelf -d "$work/pc_static" | grep -q 'NEEDED.*librocmforge' && fail "pkg-config --static links the shared library"

echo "== as a part of another project"
for fetch in OFF ON; do
    part=$work/part_$fetch
    cmake -S "$root/tests/c/subproject" -B "$part" -DCMAKE_BUILD_TYPE="$build_type" -DFETCH=$fetch \
        -DROCMFORGE_SOURCE="$root" >"$work/log" 2>&1 || { cat "$work/log"; fail "subproject: cmake"; }
    cmake --build "$part" >"$work/log" 2>&1 || { cat "$work/log"; fail "subproject: build"; }
    cmake --install "$part" --prefix "$part/installed" >"$work/log" 2>&1 || { cat "$work/log"; fail "subproject: install"; }
    installed=$(cd "$part/installed" && find . -type f)
    [ "$installed" = ./bin/app ] || fail "the project installs other things than its own: $installed"
    [ "$(exported "$part/libplugin.so")" = plugin_version ] || fail "a plugin exports: $(exported "$part/libplugin.so")"
done

question="Name the three primary colours."
"$prefix/bin/rocmforge" chat -m "$smollm" -p "$question" -n 32 --temp 0 </dev/null >"$work/want" 2>"$work/err" ||
    { cat "$work/err"; fail "the command line"; }
[ "$(wc -w <"$work/want")" -ge 5 ] || fail "the command line says next to nothing: $(cat "$work/want")"
for program in c/generate c/generate_static cpp/generate pc_c pc_cpp pc_static part_OFF/app part_ON/app; do
    "$work/$program" "$smollm" "$question" 32 >"$work/got" 2>"$work/err" || { cat "$work/err"; fail "$program"; }
    cmp -s "$work/want" "$work/got" || { diff "$work/want" "$work/got" || true; fail "$program answers otherwise than the command line"; }
    echo "   $program"
done
"$work/pc_c" /nonexistent "$question" >"$work/got" 2>"$work/err" && fail "a missing file gives exit status 0"
grep -q "RF_ERROR_IO: .*/nonexistent" "$work/err" || fail "a missing file's message: $(cat "$work/err")"

"$root/tests/examples/run.sh" "$prefix"
echo "== done"
