#!/bin/sh
# Install what is missing, or say what to install.     tools/setup.sh demo | test | peer
#   demo   a C compiler (the linker of Rust programs), clang 19 or newer with its lld (the GPU kernels' compiler),
#          python3 that can fetch packages from PyPI
#   test   also LLVM's tools (the kernels are disassembled), and g++, cmake, make, pkg-config, valgrind and git:
#          the C API is tested as a C project would use it
#   peer   also what a C++ project is built with (cmake and ninja come from PyPI)
set -eu
what=${1:?usage: tools/setup.sh demo|test|peer}

missing= # packages, as Debian and Ubuntu name them
# need PACKAGE COMMAND...: the package, unless the command works
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

# The clang that compiles the GPU kernels, where build.rs looks for it too; nothing if there is none.
kernel_compiler() {
    for clang in "${HIPCC:-}" "${ROCM_PATH:-}/llvm/bin/clang" \
        clang-25 clang-24 clang-23 clang-22 clang-21 clang-20 clang-19 clang; do
        version=$("$clang" --version 2>/dev/null | sed -n 's/.*clang version \([0-9]*\).*/\1/p')
        if [ "${version:-0}" -ge 19 ] && command -v "$("$clang" -print-prog-name=lld)" >/dev/null; then
            echo "$clang"
            return
        fi
    done
}

compiler_hint() {
    case $missing in
    *clang-19*)
        echo "Fedora, Arch: clang lld llvm. If this system has no clang 19 or newer, https://apt.llvm.org has; one that" >&2
        echo "is elsewhere is named by HIPCC=/path/to/clang, that of a ROCm (6.4 or newer) by ROCM_PATH." >&2
        echo "For the CPU alone none is needed: cargo build --release --no-default-features --features cli" >&2
        ;;
    esac
}

if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing. Install it with:" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" >&2
    exit 1
fi

need gcc cc --version
# a C compiler without the C library's headers cannot link
need libc6-dev sh -c 'echo "#include <stdlib.h>" | cc -E -'
if [ "$what" != peer ]; then
    clang=$(kernel_compiler)
    [ -n "$clang" ] || missing="$missing clang-19 lld-19"
fi
need python3 python3 --version
# either fetches packages: pip itself, or an environment that gets its own
need python3-venv sh -c 'python3 -m pip --version || python3 -c "import ensurepip, venv"'
need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
case $what in
demo) ;;
test)
    need g++ c++ --version
    need cmake cmake --version
    need make make --version
    need pkg-config pkg-config --version
    need valgrind valgrind --version
    # valgrind cannot start programs without the loader's symbols
    need libc6-dbg sh -c 'test -d /usr/lib/debug/.build-id || ! command -v dpkg'
    need git git --version
    # llvm-objdump of the same release
    release=$("${clang:-true}" -dumpversion | cut -d. -f1)
    need "llvm-${release:-19}" sh -c 'command -v "$("$0" -print-prog-name=llvm-objdump)"' "${clang:-false}"
    need binutils nm --version
    # AMD's runtime, to be tried without a GPU
    need libamdhip64-5 sh -c 'PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -q "libamdhip64\.so\.[567]"'
    ;;
peer)
    need g++ c++ --version
    need python3-venv python3 -c 'import ensurepip, venv'
    ;;
*)
    echo "usage: tools/setup.sh demo|test|peer" >&2
    exit 2
    ;;
esac
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        as_root=no
    fi
fi
if [ "$as_root" = no ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing:$missing. Install with (Debian, Ubuntu; other systems name them alike):" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
    compiler_hint
    exit 1
fi
echo "installing:$missing" >&2
log=$(mktemp)
if ! { $as_root apt-get -q update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo "apt-get could not install:$missing" >&2
    compiler_hint
    exit 1
fi
rm -f "$log"
