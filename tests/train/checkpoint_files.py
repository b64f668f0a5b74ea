"""Small checkpoints to save and to damage."""

import torch

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
        root, step, model={"w": weight}, optimizer={"step": steps}, state=STATE, keep=keep
    )
