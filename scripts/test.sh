#!/usr/bin/env bash
# On a fresh machine: environment, formatter, linter, type checker and the default test suite.
# Arguments are passed to pytest, for example: bash scripts/test.sh -m slow
set -euo pipefail
source "$(dirname "$0")/environment.sh"
make_environment '[dev]'
find_browser
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
"$PYTHON" -m ruff format --check --quiet .
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m mypy
"$PYTHON" -m pytest -n auto --dist loadfile "$@"
