#!/usr/bin/env bash
# The tests, in the shared .venv: bash runs/test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
source runs/venv.sh

python -m pip install -q "pytest>=8" "hypothesis>=6" "selenium>=4" -r requirements-extra.txt
python -m pytest -q -p no:cacheprovider tests "$@"
