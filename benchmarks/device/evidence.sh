#!/usr/bin/env bash
# The experiment of docs/evidence.md on one GPU, its three seeds in parallel.
#
#   benchmarks/device/evidence.sh --photos DIR --validation DIR --output DIR [--seconds N]
#       [--arms "scratch dcpt"] [--then "longer"] [FLAG...]
#
# --arms are done by all seeds before those of --then. FLAGs, such as --steps 6000, go to
# benchmarks.evidence. A small network's steps are short, and one process alone leaves the GPU idle
# most of the time; each seed has a third of the cores. At the end of --seconds all are stopped, and
# the same command continues. Needs the files of prepare.sh.
set -uo pipefail
cd "$(dirname "$0")/../.."
seconds=500 arms="scratch dcpt" later= output=
flags=()
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) seconds=$2 ;;
        --arms) arms=$2 ;;
        --then) later=$2 ;;
        --output) output=$2 ;;
        *) flags+=("$1" "$2") ;;
    esac
    shift 2
done
: "${output:?--output is missing}"
mkdir -p "$output"
# Without these, XLA tries so many kernels for each shape that compiling takes minutes.
export XLA_FLAGS=${XLA_FLAGS---xla_gpu_autotune_level=2 --xla_gpu_enable_triton_gemm=false}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$output/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1 PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false

# of_seed SEED CORES
of_seed() {
    local chosen
    for chosen in "$arms" ${later:+"$later"}; do
        # shellcheck disable=SC2086
        taskset -c "$2" python3 -m benchmarks.evidence --output "$output" --seeds "$1" \
            --arms $chosen "${flags[@]}" || return
    done
}
began=$(date +%s)
started=()
share=$(($(nproc) / 3))
[ "$share" -gt 0 ] || share=1
for seed in 0 1 2; do
    first=$((seed * share % $(nproc)))
    (of_seed "$seed" "$first-$((first + share - 1))" >"$output/seed_$seed.log" 2>&1) &
    started+=("$!")
done
sleep 1
while [ -n "$(jobs -rp)" ] && [ $(($(date +%s) - began)) -lt "$seconds" ]; do sleep 1; done
for each in "${started[@]}"; do pkill -TERM -P "$each"; done  # its command, which then ends it
wait
tail -n 3 "$output"/seed_*.log
echo "all: $(($(date +%s) - began)) s"
