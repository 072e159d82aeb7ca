#!/bin/sh
# Build with CMake and install to a prefix: library, header, CMake and pkg-config files, command line.
#     tools/install.sh PREFIX      $DESTDIR is put before it, for packagers
set -eu
cd "$(dirname "$0")/.."
prefix=${1:?usage: tools/install.sh PREFIX}
case $prefix in
"~" | "~/"*) prefix=$HOME${prefix#?} ;; # a shell that leaves it to us
esac
case $prefix in
/*) ;;
*) prefix=$PWD/$prefix ;;
esac
cmake=$(tools/find.sh cmake)
build=build/cmake

"$cmake" -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix"
ROCMFORGE_PROGRESS_FD=9 "$cmake" --build "$build" 9>&2

# The nearest folder that exists decides whether one may write there.
folder=${DESTDIR:-}$prefix
while [ ! -e "$folder" ]; do
    folder=$(dirname "$folder")
done
if [ ! -w "$folder" ]; then
    echo "All is built, but $folder is not yours to write. Install with:" >&2
    echo "    sudo $cmake --install '$PWD/$build'" >&2
    echo "or choose another place: make install PREFIX=\$HOME/.local" >&2
    exit 1
fi
"$cmake" --install "$build"
