"""Graphs with a pretended CUDA: what is recorded, what is undone, and a step that cannot be."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from train.graphed import STEPS_A_REPLAY, WARM_UP_STEPS, GraphedStep


class Graph:
    """Replays what was done while it was recorded."""

    def __init__(self) -> None:
        self.steps = 0

    def pool(self) -> str:
        return "pool"

    def replay(self) -> None:
        cuda.done.append(self.steps)
        cuda.count.add_(self.steps)


class Cuda:
    """What there is of a device: a counter that steps move on."""

    def __init__(self) -> None:
        self.count = torch.zeros(1)
        self.done: list[int] = []
        """Steps of each replay."""
        self.pools: list[str | None] = []
        self.recording: Graph | None = None
        self.refused = ""
        """What the device says to a recording."""
        self.stream = "main"

    def step(self) -> None:
        if self.recording is None:
            self.count.add_(1)
        elif self.refused:
            raise RuntimeError(self.refused)
        else:
            self.recording.steps += 1


cuda = Cuda()


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.__init__()  # type: ignore[misc]

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    @contextlib.contextmanager
    def record(graph: Graph, pool: str | None, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        cuda.recording, cuda.stream = graph, "of the recording"
        cuda.pools.append(pool)
        try:
            yield
        except RuntimeError:
            cuda.recording = None
            raise RuntimeError("the capture was invalidated\nsee elsewhere")  # noqa: B904
        cuda.recording, cuda.stream = None, "main"

    def set_stream(stream: Any) -> None:
        cuda.stream = "main"

    for name, value in {
        "CUDAGraph": Graph,
        "graph": record,
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": Stream,
        "set_stream": set_stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def taken(graphed: GraphedStep, *most: int) -> list[int]:
    return [graphed.replay(cuda.step, steps) for steps in most]


def test_long_stretches_are_replayed_in_eights_and_the_rest_one_by_one() -> None:
    graphed = GraphedStep([cuda.count])
    assert taken(graphed, 18, 10, 2, 1, 8) == [8, 8, 1, 1, 8]
    assert cuda.done == [8, 8, 1, 1, 8]
    assert cuda.count.item() == 26  # what warmed up is undone
    assert cuda.pools == [None, "pool"]  # each recorded once, in one pool


def test_warming_up_takes_real_steps_and_leaves_the_state_as_it_was() -> None:
    other, seen = torch.tensor([5.0]), []

    def step() -> None:
        if cuda.recording is None:
            other.mul_(2)
            seen.append(other.item())
        cuda.step()

    GraphedStep([cuda.count, other]).replay(step, 1)
    assert seen == [10.0, 20.0, 40.0]
    assert len(seen) == WARM_UP_STEPS
    assert other.item() == 5.0
    assert cuda.count.item() == 1


def test_a_step_that_cannot_be_recorded_is_taken_eagerly_and_said_so_once() -> None:
    cuda.refused = "operation not permitted when stream is capturing"
    graphed = GraphedStep([cuda.count])
    with pytest.warns(UserWarning, match="cannot be recorded") as caught:
        assert taken(graphed, STEPS_A_REPLAY, 3, 1) == [1, 1, 1]
    assert [str(one.message) for one in caught] == [
        "the step cannot be recorded as a CUDA graph (operation not permitted when stream is "
        "capturing); its kernels are launched one by one: the same results, more slowly"
    ]
    assert cuda.count.item() == 3
    assert cuda.stream == "main"  # not that of the recording
    assert cuda.done == []
