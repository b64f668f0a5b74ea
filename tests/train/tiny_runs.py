"""Tiny runs of 60 steps to their end: about a second each."""

from faults.runner import run_folder

from tests.builders import TRAINED, tiny_config
from train.plan.validate import validate
from train.training.trainer import train_run

STEPS = 60


def trained_config(root, **changes):
    return tiny_config(root, TRAINED, **changes)


def run_to_end(config):
    train_run(config, validate(config))
    return run_folder(config)
