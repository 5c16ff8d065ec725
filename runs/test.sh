#!/usr/bin/env bash
# The linter and the tests, in the same .venv as all else: bash runs/test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

python -m pip install -q "pytest>=8" "hypothesis>=6" "selenium>=4" "ruff>=0.17" \
    -r requirements-extra.txt
python -m ruff check .
python -m pytest -q -p no:cacheprovider tests "$@"
