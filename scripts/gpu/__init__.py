"""Parts of the GPU check; each is run in a process of its own by scripts/gpu_check.py."""
