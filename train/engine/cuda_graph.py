"""The training step as CUDA graphs: captured once, then replayed, one step or eight at a time.

Launching the kernels of a small model takes longer than running them; a graph is one launch. What
varies from step to step is read from tables on the device, at a row counter that the graph itself
increments, so each replay is the next step. A step that cannot be captured runs eagerly: the same
numbers, more slowly.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEPS_A_REPLAY = 8
"""Steps of the longer graph (ours: with 8, a launch costs less than a microsecond a step)."""

WARM_UP_STEPS = 3
"""Eager steps on a side stream before the capture, in which libraries allocate and compile."""

Step = Callable[[], None]
"""Takes one step; its inputs and outputs are tensors at fixed addresses."""


class GraphedStep:
    """A training step, captured as a graph of one step and another of STEPS_A_REPLAY steps.

    Both graphs use one memory pool: they never run at the same time, and neither reads what the
    other left there. The step is an argument of each replay rather than an attribute: it is a
    method of the engine that owns this object, and a reference cycle would keep the memory of a
    finished engine.
    """

    def __init__(self, state: Sequence[Tensor]) -> None:
        """Capture nothing yet.

        Args:
            state: Tensors that a step changes and later steps read; the warm-up restores them.
        """
        self._state = state
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._is_warm, self._may_capture = False, True

    def replay(self, step: Step, most_steps: int) -> int:
        """Take the steps of one graph, at most `most_steps`; return how many that were."""
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
        """Take WARM_UP_STEPS eager steps and restore the state; later calls do nothing."""
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
        """Capture `n_steps` steps, which runs none of them; warn once if that fails."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            # other threads may call CUDA meanwhile, such as NCCL's watchdog
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                for _ in range(n_steps):
                    step()
        # includes CUDA's errors and torch.OutOfMemoryError
        except RuntimeError as error:
            # a failed capture leaves its own stream current
            torch.cuda.set_stream(stream)
            self._may_capture = False
            # the error in the step, where ending the capture raised a second one
            reason = str(error.__context__ or error).splitlines()[0]
            warnings.warn(
                f"the step cannot be recorded as a CUDA graph ({reason}); its kernels are launched "
                f"one by one: the same results, more slowly",
                stacklevel=2,
            )
            return
        self._graphs[n_steps] = graph
