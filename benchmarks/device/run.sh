#!/bin/sh
# Tests and measures the package on a GPU: run.sh --budget SECONDS --out DIR (see README.md).
cd "$(dirname "$0")/../.." || exit
exec "${PYTHON:-python3}" -m benchmarks.device.driver "$@"
