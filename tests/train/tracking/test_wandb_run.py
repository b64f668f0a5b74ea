"""One W&B run: how it is opened, what its rows are called, how it ends."""

import math

import pytest

from train.tracking.mirror import MirrorRequest
from train.tracking.wandb_run import PRIVATE, close_run, log_row, open_run

METRICS = {
    "step": 7,
    "tokens": 1792,
    "flops": 10**9,
    "loss": 2.5,
    "lr": 0.01,
    "grad_norm": 0.3,
    "tokens_per_second": 1e4,
    "flops_per_second": 1e11,
    "mfu": 0.5,
    "mfu_datasheet": 0.4,
    "seconds": 0.18,
}
EVAL = {
    "step": 7,
    "tokens": 1792,
    "flops": 10**9,
    "split": "validation",
    "loss": 2.6,
    "bits_per_byte": 3.75,
    "n_tokens": 1024,
    "data_sha256": "ab",
}
REQUEST = MirrorRequest(
    id="d8l2-x-a2",
    name="d8l2-x",
    group="study",
    project="p",
    entity="e",
    mode="auto",
    config={"seed": 0},
    start_step=0,
)


class FakeRun:
    def __init__(self):
        self.calls = []
        self.summary = self

    def log(self, values):
        self.calls.append(("log", values))

    def define_metric(self, name, **named):
        self.calls.append((name, named))

    def update(self, values):
        self.calls.append(("update", values))

    def finish(self, **named):
        self.calls.append(("finish", named))


class FakeWandb:
    def __init__(self):
        self.Settings = dict
        self.run = FakeRun()

    def init(self, **words):
        self.words = words
        return self.run


def test_a_run_is_named_grouped_and_described(tmp_path):
    wandb = FakeWandb()
    open_run(wandb, REQUEST, mode="offline", folder=tmp_path, connect_seconds=3.0)
    assert wandb.words == {
        "project": "p",
        "entity": "e",
        "group": "study",
        "name": "d8l2-x",
        "id": "d8l2-x-a2",
        "config": {"seed": 0},
        "dir": tmp_path,
        "mode": "offline",
        "resume": "never",
        "settings": {"init_timeout": 3.0, **PRIVATE},
    }
    # the x axes
    assert dict(wandb.run.calls) == {
        "progress/step": {},
        "progress/tokens": {},
        "progress/flops": {},
        "train/*": {"step_metric": "progress/tokens"},
        "perf/*": {"step_metric": "progress/tokens"},
        "val/*": {"step_metric": "progress/flops"},
    }


def test_rows_are_mirrored_under_grouped_keys():
    run = FakeRun()
    log_row(run, "metrics.jsonl", METRICS)
    log_row(run, "evals.jsonl", EVAL)
    progress = {"progress/step": 7, "progress/tokens": 1792, "progress/flops": 10**9}
    assert run.calls == [
        (
            "log",
            {
                **progress,
                "train/loss": 2.5,
                "train/lr": 0.01,
                "train/grad_norm": 0.3,
                "perf/tokens_per_second": 1e4,
                "perf/flops_per_second": 1e11,
                "perf/mfu": 0.5,
                "perf/mfu_datasheet": 0.4,
            },
        ),
        ("log", {**progress, "val/loss": 2.6, "val/bits_per_byte": 3.75}),
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_number_that_was_not_finite_is_left_out(value):
    run = FakeRun()
    log_row(run, "metrics.jsonl", {"step": 1, "loss": value, "lr": 0.1})
    close_run(run, "diverged", {"loss": value, "device": "cpu"})
    assert run.calls[0] == ("log", {"progress/step": 1, "train/lr": 0.1})
    assert run.calls[1] == ("update", {"state": "diverged", "device": "cpu"})


@pytest.mark.parametrize(
    ("state", "code"),
    [("completed", 0), ("preempted", 0), ("diverged", 1), ("failed", 1), ("killed", 1)],
)
def test_the_end_says_whether_it_was_a_good_one(state, code):
    run = FakeRun()
    close_run(run, state, {})
    assert run.calls == [("update", {"state": state}), ("finish", {"exit_code": code})]
