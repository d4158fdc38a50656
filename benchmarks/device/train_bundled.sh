#!/usr/bin/env bash
# Trains the bundled network within a time limit: pre-training, restoration, classifier.
#
#   benchmarks/device/train_bundled.sh --photos DIR --runs DIR --out DIR [--seconds N]
#       [--pretrain-steps N] [--restore-steps N] [--classify-steps N]
#
# Each stage is the command of configs/bundled.py. A stage that does not end in time saves a
# checkpoint (SIGTERM) below --runs, and the same command continues it. Weights, event files and
# logs go to --out as the parts of one tar file: cat trained.tgz.* | tar -xz
set -uo pipefail
cd "$(dirname "$0")/../.."
seconds=420 pretrain=2500 restore=10000 classify=2000 photos= runs= out=
while [ $# -gt 0 ]; do
    case "$1" in
        --photos) photos=$2 ;;
        --runs) runs=$2 ;;
        --out) out=$2 ;;
        --seconds) seconds=$2 ;;
        --pretrain-steps) pretrain=$2 ;;
        --restore-steps) restore=$2 ;;
        --classify-steps) classify=$2 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
: "${photos:?--photos is missing}" "${runs:?--runs is missing}" "${out:?--out is missing}"
mkdir -p "$runs" "$out"
began=$(date +%s)
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1 PYTHONUNBUFFERED=1

left() { echo $((seconds - ($(date +%s) - began))); }

# stage NAME STEPS SECONDS-TO-LEAVE [FLAG...]
stage() {
    local name=$1 steps=$2 reserve=$3 limit code start=$(date +%s)
    shift 3
    limit=$(($(left) - reserve))
    [ "$limit" -gt 10 ] || { echo "$name: no time left"; return 1; }
    timeout --signal=TERM --kill-after=20 "$limit" \
        python3 -m dcpt_jax.main --config="configs/bundled.py:$name" --workdir="$runs/$name" \
        --config.data.root="$photos" --config.num_steps="$steps" "$@" \
        >"$out/$name.log" 2>&1
    code=$?
    echo "$name: exit status $code after $(($(date +%s) - start)) s"
    tail -n 4 "$out/$name.log"
    return "$code"
}

stage pretrain "$pretrain" 90 &&
    stage restore "$restore" 60 --config.init_from="$runs/pretrain" &&
    stage classify "$classify" 15 --config.init_from="$runs/restore"

found=()
for name in classify restore pretrain; do
    for file in "$runs/$name"/weights "$runs/$name"/events.* "$out/$name.log"; do
        [ -e "$file" ] && found+=("${file#/}")
    done
done
tar -cz -C / "${found[@]}" | split -b 15M - "$out/trained.tgz."
echo "all: $(($(date +%s) - began)) s"
