"""Small checkpoints to save, to damage and to compare."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from train.run_folder import checkpoint
from train.run_folder.checkpoint import save_checkpoint

STATE = {
    "seconds": 0.1 + 0.2,
    "window": [[2.0**-1074, 1.7976931348623157e308], [1 / 3, -0.0]],
    "loss_train": None,
    "data_sha256": "ab",
}


def save(root, step, *, value=None, keep=2):
    weight, steps = torch.tensor([float(step) if value is None else value]), torch.tensor(step)
    return save_checkpoint(
        root,
        step,
        model={"w": weight},
        optimizer={"step": steps},
        state=STATE,
        keep=keep,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_bits(a, b):
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)) if a.ndim else a == b
    elif isinstance(a, Mapping):
        assert list(a) == list(b)
        for key in a:
            assert_same_bits(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_bits(one, other)
    else:
        assert a == b


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def promise_again(folder):
    """Write a DONE.json that vouches for the files as they are, as an attacker would."""
    checkpoint._seal(folder, 20)
