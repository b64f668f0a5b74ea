"""A run as a job of submitit: what its worker process imports and calls."""

import os

from submitit.core.submission import process_job
from submitit.helpers import DelayedSubmission

from faults.patches import Hold, at_step
from train import signals
from train.plan.validate import validate
from train.training.trainer import train_run


class Training:
    """Trains a run.

    Args:
        config: The run.
        hold: A file at which the first attempt stops and waits, after 10 steps.
        chains: Whether a granted stop is passed on to submitit's own handler.
    """

    def __init__(self, config, *, hold=None, chains=True):
        self.config = config
        self.hold = hold
        self.chains = chains

    def __call__(self):
        if self.hold is not None:
            at_step(11, Hold(self.hold))()
        if not self.chains:
            signals._chain = lambda handler, number: None
        train_run(self.config, validate(self.config))
        return "trained"

    def checkpoint(self):
        """What submitit queues again; the state itself is in the run's folder."""
        return DelayedSubmission(Training(self.config))


def work():
    """What submitit's worker process does: unpickle the job, listen to signals, run it."""
    process_job(os.environ["SUBMITIT_FOLDER"])
    return 0
