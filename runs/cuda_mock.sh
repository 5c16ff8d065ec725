#!/usr/bin/env bash
# The CUDA path without a GPU: runs train.py and lm/pretrain.py on PyTorch's CUDA build and a mock
# of the CUDA runtime, which counts the calls of a step and computes nothing.
#   bash runs/cuda_mock.sh [MOCK]      a folder with the mock; its command is MOCK/run script.py ...
set -euo pipefail
cd "$(dirname "$0")/.."
mock=${1:-../shared/tools/cuda-mock}
if [ ! -f "$mock/run" ] || ! command -v g++ > /dev/null; then
    echo "skipped: there is no mock in $mock, or no g++"
    exit 0
fi
if [ ! -f data/sample/meta.json ]; then
    bash "$mock/run" prepare.py --source=sample
fi

# torch would compile some operators with Triton, which needs a real driver
export TORCH_DISABLE_NATIVE_JIT=1
bash "$mock/run" -m results.gpu.counts results/gpu/counts.md
