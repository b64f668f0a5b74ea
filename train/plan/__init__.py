"""What a config comes to: shape, counts, schedule, plan, run_id, and which runs share a job.

Open planning.py first. This room knows no device, no data files and no run folders: it must not
import torch.
"""
