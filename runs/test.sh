#!/usr/bin/env bash
# The linter and the tests, in the same .venv as all else: bash runs/test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

python -m pip install -q "pytest>=8" "pytest-xdist>=3.6" "hypothesis>=6" "selenium>=4" \
    "ruff>=0.17" -r requirements-extra.txt
python -m ruff check .
# as many processes as there are cores, a thread each; -n 0 for one process
OMP_NUM_THREADS=1 python -m pytest -q -p no:cacheprovider -n auto --dist loadfile tests "$@"
