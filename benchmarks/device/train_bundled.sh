#!/usr/bin/env bash
# Continues training the bundled network on a GPU within a time limit, then its classifier.
#
#   benchmarks/device/train_bundled.sh --photos DIR --runs DIR --out DIR [--seconds N]
#       [--init FOLDER] [--restore-steps N] [--classify-steps N] [--reserve N] [FLAG...]
#
# FLAGs, such as --config.batch_size=2, go to both commands. --reserve: seconds that the first leaves
# to the second. Needs the files of prepare.sh. Each stage is a command of configs/bundled.py. An
# H200 did 58 steps a second with batch 16, after 80 s of starting and compiling: 540 seconds are
# about 20,000 steps. A stage that does not end in time saves a checkpoint (SIGTERM) below --runs,
# and the same command continues it. Weights, metrics and logs go to --out as parts of one tar file
# of at most 15 MB each: cat trained.tgz.* | tar -xz
set -uo pipefail
cd "$(dirname "$0")/../.."
seconds=540 init=dcpt_jax/bundled restore=19000 classify=1500 reserve=110 photos= runs= out=
flags=()
while [ $# -gt 0 ]; do
    case "$1" in
        --photos) photos=$2 ;;
        --runs) runs=$2 ;;
        --out) out=$2 ;;
        --seconds) seconds=$2 ;;
        --init) init=$2 ;;
        --restore-steps) restore=$2 ;;
        --classify-steps) classify=$2 ;;
        --reserve) reserve=$2 ;;
        --config.*=*) flags+=("$1"); shift; continue ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
: "${photos:?--photos is missing}" "${runs:?--runs is missing}" "${out:?--out is missing}"
mkdir -p "$runs" "$out"
began=$(date +%s)
# Without these, XLA tries so many kernels for each shape that compiling takes minutes.
export XLA_FLAGS=${XLA_FLAGS---xla_gpu_autotune_level=2 --xla_gpu_enable_triton_gemm=false}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1 PYTHONUNBUFFERED=1

left() { echo $((seconds - ($(date +%s) - began))); }

# stage NAME STEPS SECONDS-TO-LEAVE [FLAG...]
stage() {
    local name=$1 steps=$2 reserve=$3 limit code start
    start=$(date +%s)
    shift 3
    limit=$(($(left) - reserve))
    [ "$limit" -gt 10 ] || { echo "$name: no time left"; return 1; }
    timeout --signal=TERM --kill-after=20 "$limit" \
        python3 -m dcpt_jax.main --config="configs/bundled.py:$name" --workdir="$runs/$name" \
        --config.data.root="$photos" --config.num_steps="$steps" --config.dtype=bfloat16 \
        --config.data.num_workers="$(($(nproc) - 1))" "${flags[@]}" "$@" >"$out/$name.log" 2>&1
    code=$?
    echo "$name: exit status $code after $(($(date +%s) - start)) s"
    tail -n 4 "$out/$name.log"
    # 124: asked to stop, after which it saved.
    [ "$code" -eq 0 ] || [ "$code" -eq 124 ]
}

stage refine "$restore" "$reserve" --config.init_from="$init" &&
    stage classify "$classify" 15 --config.init_from="$runs/refine" --config.classifier_from="$init"

found=()
for name in classify refine; do
    for file in "$runs/$name"/weights "$runs/$name/metrics.jsonl" "$out/$name.log"; do
        [ -e "$file" ] && found+=("$(realpath "$file")")
    done
    if [ -d "$runs/$name/checkpoints" ] && [ ! -d "$runs/$name/weights" ]; then
        last=$(ls "$runs/$name/checkpoints" | grep -E '^[0-9]+$' | sort -n | tail -n 1)
        found+=("$(realpath "$runs/$name/checkpoints/$last")")
    fi
done
tar -czP "${found[@]}" | split -b 15M - "$out/trained.tgz."
echo "all: $(($(date +%s) - began)) s"
