"""A step as CUDA graphs: recorded once, then replayed, one step or several at a time.

Launching a small model's kernels one by one takes longer than running them. A graph of the whole
step leaves the host one launch, and one of several steps leaves less than that. What varies from
step to step is read from tables at a row that the graph itself moves on, so every replay is the
next step.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS_A_REPLAY = 8
"""Steps of the longer graph (ours: with 8, launches are under a microsecond a step)."""

WARM_UP_STEPS = 3
"""Eager steps on a side stream before the capture, for what allocates or compiles at first."""


class GraphedStep:
    """A step captured as a graph of one step and another of several."""

    def __init__(self, step: Callable[[], None], state: Sequence[Tensor]) -> None:
        """Remember what to capture; that is done at the first replay.

        Args:
            step: Takes one step; all its input and output are tensors that stay where they are.
            state: The tensors that a step changes and later steps read.
        """
        self._step, self._state = step, state
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def replay(self, most_steps: int) -> int:
        """Take the next steps, as many as one graph holds and at most `most_steps`; return them."""
        if not self._graphs:
            self._warm_up()
        n_steps = STEPS_A_REPLAY if most_steps >= STEPS_A_REPLAY else 1
        if n_steps not in self._graphs:
            self._graphs[n_steps] = self._capture(n_steps)
        self._graphs[n_steps].replay()
        return n_steps

    def _warm_up(self) -> None:
        """Take some steps and undo them: the state is what it was."""
        before = [tensor.clone() for tensor in self._state]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip(self._state, before, strict=True):
            tensor.copy_(value)

    def _capture(self, n_steps: int) -> torch.cuda.CUDAGraph:
        """Record `n_steps` steps; recording runs nothing."""
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            for _ in range(n_steps):
                self._step()
        return graph
