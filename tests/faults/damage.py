"""A run that was killed, and what can happen to its checkpoints before it is started again."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from faults.patches import kill_after_step
from faults.runner import killed, run_folder
from faults.same_run import tensors
from train.run_folder.checkpoint import _load_tensors, _seal

FILES = ("model.pt", "optim.pt", "state.json", "DONE.json")

KILLED_AT, NEWEST, PREVIOUS = 30, 28, 21
"""Steps: of the kill, and of the two checkpoints that are kept then."""


def train_and_kill(config):
    """The folder of a run whose process was killed after KILLED_AT steps."""
    folder = killed(config, kill_after_step(KILLED_AT))
    assert names(folder.checkpoints) == [step_name(PREVIOUS), step_name(NEWEST)]
    return folder


def copy_of(stopped, config):
    """The killed run's folder where `config` looks for it."""
    folder = run_folder(config)
    shutil.copytree(stopped.path, folder.path)
    return folder


def step_name(step):
    return f"step_{step:08d}"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(root):
    """Every byte below a folder, by relative path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def flip_bit(path, *, byte=None, bit=4):
    """Flip one bit, in the middle of the file when no byte is named."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if byte is None else byte] ^= 1 << bit
    path.write_bytes(content)


def cut_to(size):
    """Return a truncation to `size` of the old size."""

    def cut(path):
        content = path.read_bytes()
        path.write_bytes(content[: size(len(content))])

    return cut


TRUNCATIONS = {
    "empty": cut_to(lambda size: 0),
    "one-byte": cut_to(lambda size: 1),
    "half": cut_to(lambda size: size // 2),
    "one-byte-short": cut_to(lambda size: size - 1),
}

DAMAGE = {**TRUNCATIONS, "bit-flipped": flip_bit, "missing": Path.unlink}


def vouch_again(checkpoint, step):
    """Write a DONE.json that is right for the files as they are, as an attacker would."""
    _seal(checkpoint, step)


def exponent_of_a_number(path):
    content, largest = path.read_bytes(), max(tensors(_load_tensors(path)), key=Tensor.numel)
    assert largest.dtype is torch.float32
    return content.index(largest.numpy().tobytes()) + largest.numel() // 2 * 4 + 3
