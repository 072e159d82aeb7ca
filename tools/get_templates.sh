#!/bin/sh
# Fetch the chat templates that llama.cpp keeps (models/templates/*.jinja), other people's text and therefore not in
# this repository, from the source that the llama-cpp-python package on PyPI carries, and check them.
#     tools/get_templates.sh      into $ROCMFORGE_MODELS/templates or models/templates
# Templates that are there and whole are left alone; a source that `make peer` has fetched is not fetched again. The
# folder appears only when it is complete.
set -eu
cd "$(dirname "$0")/.."
version=0.3.36
source_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
# of what `sha256sum *.jinja` prints
templates_sha256=17f129a359ec13d82f8206464cfe457355ebc284f66568ebf3056236ef794ca3
models=${ROCMFORGE_MODELS:-models}
peer=${ROCMFORGE_PEER:-build/peer}
out=$models/templates

# whole DIR
whole() {
    [ -d "$1" ] || return 1
    found=$(cd "$1" && LC_ALL=C sha256sum -- *.jinja 2>/dev/null | sha256sum)
    [ "${found%% *}" = "$templates_sha256" ]
}

if whole "$out"; then
    exit
fi
mkdir -p "$models"
# absolute: pip runs the build tool elsewhere
tmp=$(mktemp -d "$(cd "$models" && pwd)/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
mkdir "$tmp/templates"

if whole "$peer/src/models/templates"; then
    cp "$peer/src/models/templates"/*.jinja "$tmp/templates"
else
    archive=llama_cpp_python-$version.tar.gz
    if [ -f "$peer/$archive" ] && echo "$source_sha256  $peer/$archive" | sha256sum --check --status -; then
        archive=$peer/$archive
    else
        echo "fetching $out (a source package of 77 MB)" >&2
        # pip asks the package's build tool for its metadata, and that one asks for cmake: a stand-in answers pip.
        mkdir -p "$tmp/tool/scikit_build_core"
        cat >"$tmp/tool/scikit_build_core/build.py" <<PYTHON
import pathlib

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "llama_cpp_python-$version.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: $version\\n")
    return info.name
PYTHON
        echo "llama-cpp-python==$version --hash=sha256:$source_sha256" >"$tmp/requirements"
        PYTHONPATH="$tmp/tool" tools/pip.sh download -q --retries 10 --no-deps --no-binary=:all: \
            --no-build-isolation --require-hashes -r "$tmp/requirements" -d "$tmp" >&2
        archive=$tmp/$archive
    fi
    tar -xzf "$archive" -C "$tmp/templates" --strip-components=5 --wildcards '*/vendor/llama.cpp/models/templates/*.jinja'
fi
if ! whole "$tmp/templates"; then
    echo "$out: what was fetched is not what was expected (sha256 $templates_sha256)" >&2
    exit 1
fi
chmod 755 "$tmp/templates"
chmod 644 "$tmp/templates"/*
rm -rf "$out"
mv "$tmp/templates" "$out"
