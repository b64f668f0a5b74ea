#!/usr/bin/env bash
# What only a GPU can show, in at most 9 minutes: correctness, speed, and a short IsoFLOP study.
#   bash scripts/gpu_check.sh DIR [--wheels FOLDER] [--cpu] [--only PART ...]
# Writes JSON, run tables and figures under DIR. $PYTHON names the Python, which must have PyTorch
# 2.11 or newer and NumPy; missing packages are installed from FOLDER, without a network, into a
# temporary folder. See docs/results/gpu/README.md.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
