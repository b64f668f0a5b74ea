"""Parts of the GPU check; each runs in its own process, started by scripts/gpu_check.py."""
