"""A request to the mirror, and the end of its run, as tests make them."""

from pathlib import Path
from typing import Any

from train.tracking.mirror import MirrorRequest

FAKE = Path(__file__).parent / "fake_wandb"
ENDING = {"state": "completed", "summary": {"loss": 2.5}}


def request(**changes: Any) -> MirrorRequest:
    fields: dict[str, Any] = {
        "id": "r-a1",
        "name": "r",
        "group": "s",
        "project": "p",
        "entity": None,
        "mode": "offline",
        "config": {"seed": 0},
        "start_step": 0,
    }
    return MirrorRequest(**{**fields, **changes})
