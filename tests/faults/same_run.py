"""Whether two runs ended with the same record, bit for bit; "Same" in the fault catalogue."""

from collections.abc import Mapping

import torch
from torch import Tensor

from train.run_folder.checkpoint import load_newest
from train.storage.records import read_json, read_jsonl

LEFT_OUT = frozenset(
    ("seconds", "tokens_per_second", "flops_per_second", "mfu", "mfu_datasheet", "study")
)
"""What a clock writes into rows, and the folder's name; every other column must be equal."""


def assert_same_run(a, b):
    """Both completed, every step logged once, and all numbers and tensors equal in bits.

    The runs must log every step. Compared are rows, evaluations, the result, and the weights and
    optimiser of the checkpoint at the last step.
    """
    last_step = int(
        read_json(a.result)["row"]["tokens"] // read_json(a.result)["row"]["batch_tokens"]
    )
    for folder in (a, b):
        assert folder.state() == "completed", f"{folder.path} is {folder.state()}"
        steps = [row["step"] for row in read_jsonl(folder.metrics)]
        assert steps, f"{folder.metrics} is empty"
        assert steps == list(range(1, last_step + 1)), f"{folder.metrics} holds steps {steps}"
        points = [(row["step"], row["split"]) for row in read_jsonl(folder.evals)]
        assert points, f"{folder.evals} is empty"
        assert len(set(points)) == len(points), f"{folder.evals} repeats {points}"
        assert points[-1][0] == last_step, f"{folder.evals} ends at step {points[-1][0]}"
    for name in ("metrics", "evals"):
        rows_a, rows_b = (without_clock(read_jsonl(getattr(x, name))) for x in (a, b))
        assert len(rows_a) == len(rows_b), f"{name}: {len(rows_a)} rows against {len(rows_b)}"
        for row_a, row_b in zip(rows_a, rows_b, strict=True):
            assert row_a == row_b, f"{name} of step {row_a['step']}: {row_a} against {row_b}"
    row_a, row_b = (without_clock([read_json(x.result)["row"]])[0] for x in (a, b))
    assert row_a == row_b, f"result: {row_a} against {row_b}"
    assert assert_same_weights(a, b) == last_step


def assert_same_weights(a, b):
    """The newest checkpoints are of one step, which is returned, and equal in every bit."""
    end_a, end_b = load_newest(a.checkpoints), load_newest(b.checkpoints)
    assert end_a is not None, f"{a.checkpoints} holds no checkpoint"
    assert end_b is not None, f"{b.checkpoints} holds no checkpoint"
    assert end_a.step == end_b.step
    for name in ("model", "optimizer"):
        state_a, state_b = getattr(end_a, name), getattr(end_b, name)
        assert tensors(state_a), f"{name} holds no tensor"
        assert_equal_state(name, state_a, state_b)
    for name in ("losses", "window", "loss_train", "val_loss", "bits_per_byte"):
        assert end_a.state[name] == end_b.state[name], name
    return end_a.step


def assert_equal_state(name, a, b):
    """Nested state dicts are equal: tensors in dtype, shape and bits, all else by ==."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor), f"{name} is a tensor against {b!r}"
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{name}: {a.dtype} {a.shape}"
        same = torch.equal(
            a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8)
        )
        assert same, f"{name} differs by up to {(a.double() - b.double()).abs().max():g}"
    elif isinstance(a, Mapping):
        assert list(a) == list(b), f"{name}: keys {list(a)} against {list(b)}"
        for key in a:
            assert_equal_state(f"{name}.{key}", a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), f"{name}: {len(a)} items against {len(b)}"
        for index, (item_a, item_b) in enumerate(zip(a, b, strict=True)):
            assert_equal_state(f"{name}[{index}]", item_a, item_b)
    else:
        assert a == b, f"{name}: {a!r} against {b!r}"


def without_clock(rows):
    return [{key: row[key] for key in row if key not in LEFT_OUT} for row in rows]


def tensors(value):
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, list | tuple) else []
