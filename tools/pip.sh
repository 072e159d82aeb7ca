#!/bin/sh
# Run pip: that of the first python3 that has one, else that of an environment of our own in build/pip.
#     tools/pip.sh ARGS...
set -eu
cd "$(dirname "$0")/.."
python=$(tools/find.sh python3)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=0
if "$python" -m pip --version >/dev/null 2>&1; then
    exec "$python" -m pip "$@"
fi
if ! build/pip/bin/python -m pip --version >/dev/null 2>&1; then
    echo "making a Python environment for pip in build/pip" >&2
    rm -rf build/pip
    "$python" -m venv build/pip >&2
fi
exec build/pip/bin/python -m pip "$@"
