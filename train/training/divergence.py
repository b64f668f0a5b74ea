"""When a run has diverged though its losses stayed finite: a rule on the training loss.

A run has diverged when its mean training loss over the last tenth of its steps is above
`study.diverged_above` times the loss of its first batch, measured before any update. A model that
ends worse than it began has learned nothing that a fit of losses should see, and one that only went
through a spike and came back is kept, with the height of the spike on record (rule and default
ours; the margin of one per cent is what batches of an untrained model differ by).
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

TAIL_SHARE = 0.1
"""Share of a run's steps, its last ones, whose mean loss is judged."""


@dataclass(kw_only=True)
class LossWatch:
    """What the rule needs of a run's losses so far; a few numbers, part of every checkpoint."""

    total_steps: int
    start: float | None = None
    """Loss of the first batch, before the first update."""
    last: float | None = None
    """Loss of the newest step."""
    lowest: float = math.inf
    max_ratio: float = 1.0
    """Largest loss over the lowest before it: the height of the worst spike."""
    tail_sum: float = 0.0
    tail_steps: int = 0

    def observe(self, step: int, loss: float) -> None:
        """Take the finite loss of `step`, counted from 1."""
        if self.start is None:
            self.start = loss
        self.last = loss
        if self.lowest > 0:
            self.max_ratio = max(self.max_ratio, loss / self.lowest)
        self.lowest = min(self.lowest, loss)
        if step > self.total_steps - max(1, int(TAIL_SHARE * self.total_steps)):
            self.tail_sum += loss
            self.tail_steps += 1

    @property
    def end(self) -> float:
        """Mean loss of the last tenth so far; NaN before it began."""
        return self.tail_sum / self.tail_steps if self.tail_steps else math.nan

    def has_diverged(self, above: float) -> bool:
        """Whether the run ended above `above` times its start."""
        return self.start is not None and self.end > above * self.start

    def to_json(self) -> dict[str, float | None]:
        """What result.json says about it."""
        return {
            "loss_start": self.start,
            "loss_end": self.end,
            "max_loss_ratio": self.max_ratio,
        }

    def to_state(self) -> dict[str, Any]:
        """JSON values from which `from_state` makes the same watch."""
        state = dataclasses.asdict(self)
        del state["total_steps"]
        return {**state, "lowest": None if self.start is None else self.lowest}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, total_steps: int) -> Self:
        """The watch that `to_state` described."""
        lowest = math.inf if state["lowest"] is None else state["lowest"]
        return cls(total_steps=total_steps, **{**state, "lowest": lowest})
