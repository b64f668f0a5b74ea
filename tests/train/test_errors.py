"""Exit codes, causes, storage errors, and the hint of the nearest name."""

import errno
import os

import pytest

from train import errors
from train.errors import (
    STORAGE_ERRNOS,
    MissingExtraError,
    WindTunnelError,
    as_storage_error,
    did_you_mean,
)
from train.study.study import StudyIncompleteError

CODES_AND_CAUSES = {
    "WindTunnelError": (1, "error"),
    "ConfigError": (2, "config"),
    "DataError": (2, "data"),
    "MissingExtraError": (2, "config"),
    "StorageError": (3, "storage"),
    "RecordsError": (3, "storage"),
    "CheckpointError": (4, "checkpoint"),
    "DivergedError": (5, "diverged"),
    "DeviceMemoryError": (2, "out_of_memory"),
    "InfrastructureError": (75, "infrastructure"),
    "LockedError": (73, "locked"),
    "PreemptedError": (75, "preempted"),
    "InterruptedByUserError": (130, "interrupted"),
}


def test_every_error_has_the_exit_code_and_the_cause_that_schedulers_and_retries_rely_on():
    real = {
        name: (kind.exit_code, kind.cause)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, WindTunnelError)
    }
    assert real == CODES_AND_CAUSES


def test_a_missing_extra_names_the_package_and_the_command():
    error = MissingExtraError("wandb", "wandb", "tracker=wandb")
    assert str(error) == (
        "tracker=wandb needs the package wandb, which is not installed; "
        "run in the project's folder: "
        ".venv/bin/python -m pip install -c constraints.txt -e '.[wandb]'"
    )


@pytest.mark.parametrize(
    ("wrong", "known", "hint"),
    [
        ("d_modle", ("d_model", "d_ff", "head_dim"), "; did you mean d_model?"),
        ("tin", ("tiny", "tins", "other"), "; did you mean tiny or tins?"),
        ("zzz", ("b", "a"), "; known: a, b"),
        ("zzz", (), ""),
    ],
)
def test_the_hint_names_what_is_near_or_all_there_is(wrong, known, hint):
    assert set(did_you_mean(wrong, known).split()) == set(hint.split())
    assert did_you_mean(wrong, reversed(known)) == did_you_mean(wrong, known)


def test_an_unfinished_study_is_worth_repeating_unless_a_run_failed_for_good():
    assert StudyIncompleteError([]).exit_code == 75


@pytest.mark.parametrize("number", sorted(STORAGE_ERRNOS))
def test_what_a_disk_refuses_is_a_storage_error(number):
    found = as_storage_error(OSError(number, os.strerror(number), "runs/x/metrics.jsonl"))
    assert found.exit_code == 3
    assert str(found).startswith("runs/x/metrics.jsonl: cannot be written or read (")


def test_other_system_errors_are_bugs():
    assert as_storage_error(OSError(errno.EINVAL, "Invalid argument")) is None
