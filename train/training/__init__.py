"""Training: one job, from the planned runs of its stack to their results.

This room owns the loop over steps with logging, evaluation, checkpoints and stops, and how a run
resumes, forks from its trunk, diverges and completes. It must not know studies: it trains the runs
that it is given and never looks at others.
Open trainer.py first, then loop.py.
"""
