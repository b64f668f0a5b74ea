"""Checkpoints without what protects them, for controls."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.run_folder import checkpoint
from train.run_folder.checkpoint import Checkpoint
from train.storage.records import read_json


def save_in_place(
    root: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """A checkpoint as it must not be written: over the last one, under its final name."""
    del keep
    root.mkdir(exist_ok=True)
    torch.save(dict(model), root / "model.pt")
    torch.save(dict(optimizer), root / "optim.pt")
    (root / "state.json").write_text(json.dumps({**state, "step": step}), encoding="utf-8")
    return root


def load_unverified(root: Path, *, at_most: int | None = None) -> Checkpoint | None:
    """Whatever lies there, as it is."""
    del at_most
    if not root.exists():
        return None
    state = read_json(root / "state.json")
    model, optimizer = (checkpoint._load_tensors(root / name) for name in ("model.pt", "optim.pt"))
    return Checkpoint(step=state["step"], model=model, optimizer=optimizer, state=state)
