"""A step as CUDA graphs: recorded once, then replayed, one step or several at a time.

Launching a small model's kernels one by one takes longer than running them. A graph of the whole
step leaves the host one launch, and one of several steps leaves less than that. What varies from
step to step is read from tables at a row that the graph itself moves on, so every replay is the
next step. A step that cannot be recorded is taken kernel by kernel: the same numbers, later.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS_A_REPLAY = 8
"""Steps of the longer graph (ours: with 8, launches are under a microsecond a step)."""

WARM_UP_STEPS = 3
"""Eager steps on a side stream before the capture, for what allocates or compiles at first."""

Step = Callable[[], None]
"""Takes one step; all its input and output are tensors that stay where they are."""


class GraphedStep:
    """A step captured as a graph of one step and another of several.

    The two share one pool of memory, which is safe as they never run at the same time and leave
    nothing in it that the other reads. The step is handed in at each replay, not kept: its owner
    keeps this object, and a circle of the two would keep a dead stack's memory.
    """

    def __init__(self, state: Sequence[Tensor]) -> None:
        """Remember what a step changes and later steps read; it is captured when first asked for.

        Args:
            state: Those tensors; warming up leaves them as they were.
        """
        self._state = state
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._is_warm, self._may_capture = False, True

    def replay(self, step: Step, most_steps: int) -> int:
        """Take the next steps, as many as one graph holds and at most `most_steps`; return them."""
        self.warm_up(step)
        n_steps = STEPS_A_REPLAY if most_steps >= STEPS_A_REPLAY else 1
        if n_steps not in self._graphs and self._may_capture:
            self._capture(step, n_steps)
        graph = self._graphs.get(n_steps)
        if graph is None:
            step()
            return 1
        graph.replay()
        return n_steps

    def warm_up(self, step: Step) -> None:
        """Take some steps, once, and undo them: the state is what it was."""
        if self._is_warm:
            return
        before = [tensor.clone() for tensor in self._state]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip(self._state, before, strict=True):
            tensor.copy_(value)
        self._is_warm = True

    def _capture(self, step: Step, n_steps: int) -> None:
        """Record `n_steps` steps, which runs nothing; say so once if that cannot be done."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            # other threads, a communicator's watch among them, may call CUDA meanwhile
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                for _ in range(n_steps):
                    step()
        except RuntimeError as error:  # CUDA's errors and a full memory are among them
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own
            self._may_capture = False
            reason = str(error.__context__ or error).splitlines()[0]  # the first error of the two
            warnings.warn(
                f"the step cannot be recorded as a CUDA graph ({reason}); its kernels are launched "
                f"one by one: the same results, more slowly",
                stacklevel=2,
            )
            return
        self._graphs[n_steps] = graph
