"""One run by several processes: the same curve, one set of records, and one end for all of them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import worlds
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl

REPO = Path(__file__).resolve().parents[2]

WORDS = [
    "data=synthetic",
    "data.vocab_size=64",
    "data.seq_len=32",
    "data.validation_tokens=4000",
    "data.synthetic.tokens=40000",
    "data.synthetic.document_tokens=500",
    "model.d_model=32",
    "model.head_dim=16",
    "optimizer.lr=0.01",
    "optimizer.batch_tokens=256",
    "budget.tokens=10240",
    "eval.points=3",
    "eval.tokens=1024",
    "machine.log_every=1",
    "machine.device=cpu",
    "machine.dtype=fp32",
    "machine.attention=sdpa",
    "machine.compile=never",
    "paths.data=data",
]
"""40 steps of 8 windows."""

TOLERANCE = 1e-5
"""Nats per token, of float32 losses after 40 steps: sums in another order move them by 1e-6."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


def words(name, *more):
    flags = [
        word for word in more if word.startswith("--")
    ]  # Hydra reads no overrides between them
    return [*flags, *WORDS, f"paths.runs={name}", *(word for word in more if word not in flags)]


def folder_of(root, name):
    (path,) = (root / name / "scratch").glob("d32*")
    return RunFolder(path)


def curve(folder):
    """Loss and gradient norm, a row a step; each step has exactly one."""
    rows = list(read_jsonl(folder.metrics))
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [[row["loss"], row["grad_norm"]] for row in rows]


def evaluations(folder):
    return [(row["step"], row["loss"]) for row in read_jsonl(folder.evals)]


def starts(folder):
    """(start_step, world size) of each attempt."""
    rows = read_jsonl(folder.attempts)
    return [
        (row["start_step"], row.get("world_size", 1)) for row in rows if row["event"] == "start"
    ]


def ends(folder):
    return [(r["state"], r["cause"]) for r in read_jsonl(folder.attempts) if r["event"] == "end"]


def wait_for_rows(root, name, n_rows):
    deadline = time.monotonic() + worlds.PATIENCE
    while time.monotonic() < deadline:
        for path in root.glob(f"{name}/scratch/d32*/metrics.jsonl"):
            if path.read_text(encoding="utf-8").count("\n") >= n_rows:
                return
        time.sleep(0.02)
    raise AssertionError(f"{name} never came to {n_rows} steps")


@pytest.fixture(scope="module")
def alone(root):
    ranks = worlds.start(1, words("alone"), root)
    assert ranks.wait() == [0], ranks.said()
    return folder_of(root, "alone")


def assert_same_run(folder, alone):
    assert folder.path.name == alone.path.name
    assert folder.state() == "completed"
    there, here = curve(alone), curve(folder)
    assert len(here) == len(there) == 40
    for row, expected in zip(here, there, strict=True):
        assert row == pytest.approx(expected, abs=TOLERANCE)
    for (step, loss), (other, expected) in zip(
        evaluations(folder), evaluations(alone), strict=True
    ):
        assert step == other
        assert loss == pytest.approx(expected, abs=TOLERANCE)


def test_two_processes_train_the_run_that_one_trains(root, alone):
    ranks = worlds.start(2, words("two", "machine.micro_batch_seqs=2"), root)
    assert ranks.wait() == [0, 0], ranks.said()
    folder = folder_of(root, "two")
    assert_same_run(folder, alone)
    assert starts(folder) == [(0, 2)]
    assert ends(folder) == [("completed", None)]
    arithmetic = next(iter(read_jsonl(folder.attempts)))["arithmetic"]
    assert arithmetic["micro_batch_seqs"] == 2  # of the 4 windows of each
    cost = read_json(folder.result)["cost"]
    assert cost["devices"] == 2.0
    assert cost["seconds_charged"] == pytest.approx(2 * sum(cost["spent"].values()), rel=1e-3)
    assert cost["flops"] == read_json(alone.result)["cost"]["flops"]
    for row in read_jsonl(folder.metrics):  # all that both do, as a share of what both could
        both = 2 * cost["peak_flops"]
        assert row["mfu"] == pytest.approx(row["flops_per_second"] / both, abs=1e-5)
    assert ranks.said().count(": completed, validation loss") == 1


def test_a_run_goes_on_in_worlds_of_other_sizes(root, alone):
    """Two under torchrun, which is told to stop; then one; then two again."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    slow = "from tests.worlds import slowly; slowly(0)\nfrom train.__main__ import main\n"
    (root / "slow_train.py").write_text(f"{slow}import sys\nsys.exit(main())\n", encoding="utf-8")
    torchrun = subprocess.Popen(
        [sys.executable, *command, "slow_train", *words("sizes")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{REPO}:{root}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_rows(root, "sizes", 5)
    torchrun.terminate()
    said, _ = torchrun.communicate(timeout=worlds.PATIENCE)
    assert torchrun.returncode != 0  # torchrun's own: it has one for every failure
    assert len(re.findall(r"^error: stopped by SIGTERM after step \d+", said, re.M)) == 1, said
    folder = folder_of(root, "sizes")
    assert folder.state() == "preempted"
    first = folder.read_status()["step"]
    assert 5 <= first < 40
    assert (folder.checkpoints / f"step_{first:08d}").is_dir()

    one = worlds.start(1, words("sizes"), root, spoil=worlds.slowly)
    wait_for_rows(root, "sizes", first + 5)
    one.kill(0, signal.SIGTERM)
    assert one.wait() == [75], one.said()
    second = folder.read_status()["step"]
    assert first + 5 <= second < 40

    two = worlds.start(2, words("sizes"), root)  # each takes its 4 windows at once
    assert two.wait() == [0, 0], two.said()
    assert_same_run(folder, alone)
    assert starts(folder) == [(0, 2), (first, 1), (second, 2)]
    assert ends(folder) == [("preempted",) * 2, ("preempted",) * 2, ("completed", None)]


def test_a_signal_at_any_rank_stops_all_after_the_same_step(root):
    ranks = worlds.start(2, words("signal"), root, spoil=worlds.slowly)
    wait_for_rows(root, "signal", 3)
    ranks.kill(1, signal.SIGTERM)
    assert ranks.wait() == [75, 0], ranks.said()
    folder = folder_of(root, "signal")
    step = folder.read_status()["step"]
    assert len(curve(folder)) == step < 40
    assert (folder.checkpoints / f"step_{step:08d}").is_dir()
    assert ranks.said().count("error:") == 1


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_others(root, killed):
    name = f"killed-{killed}"
    ranks = worlds.start(2, words(name), root, spoil=worlds.slowly)
    wait_for_rows(root, name, 2)
    ranks.kill(killed, signal.SIGKILL)
    codes = ranks.wait()
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 75, ranks.said()
    assert "one of the 2 processes is gone; the same command continues" in ranks.said()
    folder = folder_of(root, name)
    assert ends(folder) == ([("failed", "infrastructure")] if killed == 1 else [])


def test_a_full_memory_at_one_rank_ends_all_with_the_remedy(root):
    ranks = worlds.start(2, words("memory"), root, spoil=worlds.full_memory_at_rank_1)
    codes = ranks.wait()
    assert codes[1] == 2, ranks.said()
    assert codes[0] == 2, ranks.said()
    assert "rank 1: 4 windows at a time do not fit the memory; the same command" in ranks.said()
    assert "continues with machine.micro_batch_seqs=2, the batch unchanged" in ranks.said()
    assert ends(folder_of(root, "memory")) == [("failed", "out_of_memory")]


def test_an_error_of_rank_0_between_collectives_ends_both(root):
    ranks = worlds.start(
        2, words("between"), root, spoil=worlds.error_between_collectives_at_rank_0
    )
    assert ranks.wait() == [1, 75], ranks.said()
    assert "ValueError: between two collectives" in ranks.said()
    assert ends(folder_of(root, "between")) == [("failed", "bug")]


def test_a_full_memory_in_a_record_of_rank_0_ends_both_with_the_remedy(root):
    ranks = worlds.start(2, words("record"), root, spoil=worlds.full_memory_in_a_record_of_rank_0)
    assert ranks.wait() == [2, 0], ranks.said()
    assert "continues with machine.micro_batch_seqs=2, the batch unchanged" in ranks.said()
    assert ends(folder_of(root, "record")) == [("failed", "out_of_memory")]


def test_a_run_that_diverges_ends_all_ranks(root):
    ranks = worlds.start(2, words("diverged", "optimizer.lr=1e30"), root)
    assert ranks.wait() == [5, 0], ranks.said()
    assert folder_of(root, "diverged").state() == "diverged"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["optimizer.lrr=1"], 2, "lrr"),
        (
            ["optimizer.batch_tokens=224", "budget.tokens=8960"],
            2,
            "error: optimizer.batch_tokens=224: its 7 windows of 32 tokens cannot be shared evenly "
            "by 2 processes; use 192 or 256, or 1 process\n",
        ),
        (["--multirun", "optimizer.lr=0.01,0.02"], 2, "error: a study is launched by one process"),
        (["--help"], 0, "Wind Tunnel measures"),
    ],
)
def test_what_is_refused_is_said_once_and_lets_all_ranks_go(root, more, code, message):
    ranks = worlds.start(2, words("refused", *more), root)
    assert ranks.wait() == [code, 0], ranks.said()
    assert message in ranks.outputs[0].read_text(encoding="utf-8")
    assert ranks.outputs[1].read_text(encoding="utf-8") == ""
    assert not (root / "refused" / "scratch").exists()


def test_a_process_that_waits_in_vain_says_for_whom(root):
    ranks = worlds.start(2, words("vain"), root, spoil=worlds.too_little_patience)
    assert ranks.wait() == [75, 0], ranks.said()
    assert re.search(r"rank 0 of 2 waited 0.5 s at 127.0.0.1:\d+ for rank 1", ranks.said())
