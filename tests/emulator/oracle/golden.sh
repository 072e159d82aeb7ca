#!/bin/sh
# Write tests/emulator/tests/data/semantics.jsonl anew.     tests/emulator/oracle/golden.sh [--report FILE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$here/../../../tools/pip.sh" install -q --no-deps --target "$folder" -r "$here/requirements.txt"
python3 "$here/golden.py" --tinygrad "$folder" "$@"
