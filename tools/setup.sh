#!/bin/sh
# Install what is missing, or say what to install.     tools/setup.sh demo | install | test | peer
#   demo      a C compiler (the linker of Rust programs), clang 19 or newer with its lld (the GPU kernels' compiler),
#             python3 that can fetch packages from PyPI
#   install   also cmake and make
#   test      also LLVM's tools (the kernels are disassembled), and gcc, g++, pkg-config, valgrind, Go and git: the C API
#             is tested as projects in C, C++ and Go would use it
#   peer      what a C++ project is built with (cmake and ninja come from PyPI)
# What is there must be new enough (tools/find.sh says which version) and must work. Packages are named as Debian and
# Ubuntu name them.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C
what=${1:-}
case $what in
demo | install | test | peer) ;;
*)
    echo "usage: tools/setup.sh demo|install|test|peer" >&2
    exit 2
    ;;
esac

missing=  # packages
reasons=  # a line for each: what for, what was found

# need PACKAGES WHY COMMAND...: the packages, unless the command works; what it says on standard error is a reason too
need() {
    packages=$1 why=$2
    shift 2
    said=$("$@" 2>&1 >/dev/null) && return
    missing="$missing $packages"
    reasons="$reasons
    $packages: $why${said:+ ($(echo "$said" | awk '{ printf "%s%s", (NR == 1 ? "" : "; "), $0 }'))}"
}

# present COMMAND...: whether it runs; silent
present() {
    "$@" >/dev/null 2>&1
}

c_headers() {
    echo '#include <stdlib.h>' | present cc -E -
}

certificates() {
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        [ ! -s "$file" ] || return 0
    done
    return 1
}

# valgrind cannot start a program without the symbols of the C library's loader
valgrind_works() {
    present valgrind --quiet --error-exitcode=9 true
}

llvm_tools() {
    tools/find.sh llvm-objdump && tools/find.sh llvm-readelf
}

# AMD's runtime, to be tried without a GPU
hip_runtime() {
    (PATH=$PATH:/sbin:/usr/sbin ldconfig -p) | grep -q 'libamdhip64\.so\.[567]'
}

# What is missing now.
look() {
    missing= reasons=
    need "gcc libc6-dev" "a C compiler, which links Rust programs, and the C library's headers" c_headers
    need make "make" present make --version
    need "python3 python3-venv" "python3 that can fetch packages from PyPI" tools/find.sh python3
    need ca-certificates "certificates of the package registries" certificates
    case $what in
    peer) need g++ "a C++ compiler" present c++ --version ;;
    *) need "clang-$llvm lld-$llvm" "clang 19 or newer with its lld, for the GPU kernels" tools/find.sh clang ;;
    esac
    case $what in
    install | test) need cmake "CMake 3.22 or newer" tools/find.sh cmake ;;
    esac
    if [ "$what" = test ]; then
        need gcc "gcc itself (clang may answer to cc), for the tests in C and for Go" present gcc --version
        need g++ "a C++ compiler, g++ itself" present g++ --version
        need pkg-config "pkg-config" present pkg-config --version
        need "valgrind libc6-dbg" "valgrind, able to run a program" valgrind_works
        need golang-go "Go 1.19 or newer, for examples/go" tools/find.sh go
        need git "git" present git --version
        need binutils "nm" present nm --version
        need "llvm-$(llvm_release)" "LLVM's tools, no older than clang" llvm_tools
        need "$hip" "AMD's runtime" hip_runtime
    fi
}

# The release of the clang that is there, else of the one to be installed.
llvm_release() {
    clang=$(tools/find.sh clang 2>/dev/null) && "$clang" -dumpversion | cut -d. -f1 || echo "$llvm"
}

# The packages' numbers here: those of Debian 12 unless apt knows only others.
first_known() {
    for package; do
        if apt-cache show "$package" 2>/dev/null | grep -q .; then
            echo "$package"
            return
        fi
    done
    echo "$1"
}
choose_numbers() {
    llvm=$(first_known clang-19 clang-20 clang-21 clang-22 clang-23)
    llvm=${llvm#clang-}
    hip=$(first_known libamdhip64-5 libamdhip64-6 libamdhip64-7)
}

hints() {
    case $missing in
    *clang-*)
        echo "Fedora, Arch: clang lld llvm. If this system has no clang 19 or newer, https://apt.llvm.org has; one that"
        echo "is elsewhere is named by HIPCC=/path/to/clang, that of a ROCm (6.4 or newer) by ROCM_PATH."
        echo "For the CPU alone none is needed: cargo build --release --no-default-features --features cli"
        ;;
    esac
}

# What apt-get does now and how far it is, every five seconds, from what APT::Status-Fd says.
ticker() {
    while sleep 5; do
        now=$(sed -n 's/^[dp][lm]status:[^:]*:\([0-9]*\)[^:]*:\(.*\)/\1 %  \2/p' "$log" | tail -n 1)
        echo "    ${now:-apt-get $1 begins}" >&2
    done
}

# apt ARGUMENTS...: apt-get, which waits for its locks (DPkg::Lock::Timeout does not know that of update)
apt() {
    waited=0
    while :; do
        : >"$log"
        ticker "$1" &
        ticker=$!
        status=0
        $as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -o APT::Status-Fd=2 "$@" </dev/null >"$log" 2>&1 || status=$?
        kill "$ticker"
        [ "$status" -ne 0 ] || return 0
        lock=$(sed -n 's/^E: Could not get lock \(.*\)/\1/p' "$log" | head -n 1)
        if [ -z "$lock" ] || [ "$waited" -ge 900 ]; then
            return 1
        fi
        [ $((waited % 10)) -ne 0 ] || echo "    waiting for another package manager ($waited s): $lock" >&2
        sleep 5
        waited=$((waited + 5))
    done
}

# Rust itself: it is not ours to install.
if ! said=$(tools/find.sh cargo 2>&1); then
    echo "Rust 1.89 or newer is needed:" >&2
    echo "$said" | sed 's/^/    /' >&2
    if command -v rustup >/dev/null 2>&1; then
        echo "Update it with:    rustup update stable && rustup default stable" >&2
    else
        echo "Install it with:    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    fi
    exit 1
fi

choose_numbers
look
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
    echo "Missing:$reasons" >&2
    echo "Install them with (Debian, Ubuntu; other systems name them alike):" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
    hints >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
echo "installing what is missing:$reasons" >&2
echo "== apt-get update" >&2
if ! apt update; then
    # one dead repository of many is no reason to stop
    grep '^[EW]:' "$log" | sed 's/^/    /' >&2 || true
fi
choose_numbers
look
echo "== apt-get install$missing" >&2
# shellcheck disable=SC2086 # a word each
if ! apt install -y --no-install-recommends $missing; then
    grep -v '^[dp][lm]status:' "$log" | tail -n 20 >&2
    echo "apt-get could not install:$missing" >&2
    hints >&2
    exit 1
fi
look
if [ -n "$missing" ]; then
    echo "Still missing, though apt-get has installed it:$reasons" >&2
    hints >&2
    exit 1
fi
