#!/bin/sh
# Run pip, the system's or, where it has none, that of an environment of our own in build/pip.     tools/pip.sh ARGS...
set -eu
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
if python3 -m pip --version >/dev/null 2>&1; then
    exec python3 -m pip "$@"
fi
if ! build/pip/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf build/pip
    python3 -m venv build/pip >&2 || {
        echo "python3 has neither pip nor venv: sudo apt-get install -y python3-venv" >&2
        exit 1
    }
fi
exec build/pip/bin/python -m pip "$@"
