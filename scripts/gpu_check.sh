#!/usr/bin/env bash
# What only a GPU can show, in at most 9 minutes: correctness, speed, and a short IsoFLOP study.
#   bash scripts/gpu_check.sh DIR [--cpu] [--only PART ...]
# Writes JSON, run tables and figures under DIR. Needs PyTorch 2.11 or newer, NumPy, and hydra-core
# with omegaconf and their parsers; see docs/results/gpu/README.md. $PYTHON says which Python.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check.py" "$@"
