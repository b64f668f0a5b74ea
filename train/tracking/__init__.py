"""The W&B mirror of run folders; open tracker.py first.

This room owns all data sent to W&B: the process that mirrors a run during training (tracker.py,
mirror.py, wandb_mirror.py, wandb_run.py) and the command that rebuilds W&B from run folders
(push.py). It must not know the engine or the loop: it reads rows from files, and its failures never
reach training. Only wandb_run.py imports wandb, in the mirror process.
"""
