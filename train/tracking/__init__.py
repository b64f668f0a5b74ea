"""The W&B mirror of run folders; open tracker.py first.

This room owns everything that W&B sees: the process that mirrors a run while it trains
(tracker.py, mirror.py, wandb_mirror.py, wandb_run.py) and the command that rebuilds W&B from run
folders (push.py). It must not know the engine or the training loop: it reads rows from files, and
its failures never reach training. wandb is imported only by wandb_run.py, in a process of its own.
"""
