#!/bin/sh
# Collects the files that a bare GPU machine lacks, in folders that git ignores: wheels for Python
# 3.12 in .whl, and the recordings to compare with in .device/golden. See README.md.
#   benchmarks/device/prepare.sh [RECORDINGS]
set -e
golden=${1:+$(cd "$1" && pwd)}
cd "$(dirname "$0")/../.."
mkdir -p .whl .device/golden
for name in grain array-record portpicker clu ml-collections; do
    wanted="$wanted $(sed -n "s/^\($name==[^ ]*\).*/\1/p" constraints.txt)"
done
# For PyTorch's NAFNet and SwinIR.
wanted="$wanted spandrel==0.4.2"
# shellcheck disable=SC2086
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux1_x86_64 -d .whl $wanted
if [ -n "$golden" ]; then
    # Weights follow from their names by a rule (tests/golden.py), so their files are not needed.
    tar -C "$golden" --exclude='*.pth' --exclude='weights.npz' --exclude='grad_step1.npz' \
        --exclude='init_net_*' -cf - models classifiers train | tar -C .device/golden -xf -
    chmod -R u+w .device/golden
else
    echo "no folder of recordings given: nothing will be compared" >&2
fi
du -sh .whl .device
