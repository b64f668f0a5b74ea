"""Graphs of the step: which are replayed when, and that they are the step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.train.small_engines import make_engine, replica, state_of
from train.config.runtime import Dtype
from train.engine.cuda_graph import STEPS_A_REPLAY, WARM_UP_STEPS, GraphedStep
from train.engine.device import ComputeDevice

FOUR = tuple(replica(seed=seed, lr=0.01 * (1 + seed)) for seed in range(4))


class Counter:
    """State that a step moves on, with a note of everything that happens to it."""

    def __init__(self) -> None:
        self.state = torch.zeros(2)
        self.log: list[str] = []
        self.is_capturing = False

    def step(self) -> None:
        if self.is_capturing:
            self.log.append("record")
        else:
            self.state += 1
            self.log.append("step")


@pytest.fixture(name="counter")
def _counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """A device that records steps instead of taking them, as CUDA would."""
    counter = Counter()

    class Graph:
        n_steps = 0

        def pool(self) -> str:
            return "pool"

        def replay(self) -> None:
            counter.state += self.n_steps
            counter.log.append(f"replay {self.n_steps}")

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    @contextlib.contextmanager
    def graph(graph: Graph, *, pool: str | None, capture_error_mode: str) -> Iterator[None]:
        counter.is_capturing = True
        counter.log.append(f"capture in {pool}")
        before = counter.log.count("record")
        try:
            yield
        finally:
            counter.is_capturing = False
        graph.n_steps = counter.log.count("record") - before

    fakes: dict[str, Any] = {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "set_stream": lambda stream: counter.log.append("stream set back"),
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return counter


def test_warming_up_leaves_the_state_as_it_was(counter: Counter) -> None:
    graphed = GraphedStep([counter.state])
    assert counter.log == []  # nothing before it is asked for
    counter.state += 5
    assert graphed.replay(counter.step, 1) == 1
    assert counter.log[:WARM_UP_STEPS] == ["step"] * WARM_UP_STEPS
    assert counter.log[WARM_UP_STEPS:] == ["capture in None", "record", "replay 1"]
    assert counter.state.tolist() == [6.0, 6.0]


def test_what_was_warmed_up_beforehand_is_recorded_at_once(counter: Counter) -> None:
    graphed = GraphedStep([counter.state])
    graphed.warm_up(counter.step)
    assert counter.log == ["step"] * WARM_UP_STEPS
    assert counter.state.tolist() == [0.0, 0.0]
    assert graphed.replay(counter.step, 1) == 1
    assert counter.log[WARM_UP_STEPS:] == ["capture in None", "record", "replay 1"]


@pytest.mark.parametrize(
    ("most_steps", "taken"),
    [(1, 1), (STEPS_A_REPLAY - 1, 1), (STEPS_A_REPLAY, STEPS_A_REPLAY), (64, STEPS_A_REPLAY)],
)
def test_the_long_graph_is_replayed_where_it_fits(
    counter: Counter, most_steps: int, taken: int
) -> None:
    graphed = GraphedStep([counter.state])
    for times in (1, 2, 3):
        assert graphed.replay(counter.step, most_steps) == taken
        assert counter.state.tolist() == [times * taken] * 2
    assert counter.log.count("record") == taken  # recorded once


def test_both_graphs_share_a_pool_and_one_warm_up(counter: Counter) -> None:
    graphed = GraphedStep([counter.state])
    left, taken = 2 * STEPS_A_REPLAY + 3, []
    while left:
        taken.append(graphed.replay(counter.step, left))
        left -= taken[-1]
    assert taken == [8, 8, 1, 1, 1]
    assert counter.state.tolist() == [19.0, 19.0]
    assert counter.log.count("step") == WARM_UP_STEPS
    assert [line for line in counter.log if "capture" in line] == [
        "capture in None",
        "capture in pool",
    ]


def test_a_step_that_cannot_be_recorded_is_taken_and_said_so_once(counter: Counter) -> None:
    def step() -> None:
        counter.step()
        if counter.is_capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphed = GraphedStep([counter.state])
    told = (
        r"^the step cannot be recorded as a CUDA graph \(operation not permitted when stream is "
        r"capturing\); its kernels are launched one by one: the same results, more slowly$"
    )
    with pytest.warns(UserWarning, match=told):
        assert graphed.replay(step, 64) == 1
    assert counter.log[-2:] == ["stream set back", "step"]
    assert graphed.replay(step, 64) == 1  # a second warning would be an error
    assert counter.state.tolist() == [2.0, 2.0]


def test_a_graph_is_kept_where_only_the_other_cannot_be_recorded(counter: Counter) -> None:
    def step() -> None:
        counter.step()
        if counter.is_capturing and counter.log.count("record") > 1:
            raise RuntimeError("CUDA out of memory")

    graphed = GraphedStep([counter.state])
    assert graphed.replay(step, 1) == 1
    with pytest.warns(UserWarning, match=r"CUDA graph \(CUDA out of memory\)"):
        assert graphed.replay(step, 64) == 1
    assert graphed.replay(step, 1) == 1
    assert counter.log[-1] == "replay 1"
    assert counter.state.tolist() == [3.0, 3.0]


def test_the_first_error_of_a_capture_is_the_one_told(counter: Counter) -> None:
    def step() -> None:
        counter.step()
        if counter.is_capturing:
            try:
                raise RuntimeError("the cause")
            except RuntimeError:
                raise RuntimeError("capture was invalidated")  # noqa: B904

    with pytest.warns(UserWarning, match=r"\(the cause\)"):
        GraphedStep([counter.state]).replay(step, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(Dtype.fp32, 1e-4), (Dtype.bf16, 0.02)])
@pytest.mark.parametrize("n_replicas", [1, 4])
def test_a_graph_is_the_eager_step(
    n_replicas: int, dtype: Dtype, tolerance: float, is_resident: bool
) -> None:
    results: list[list[list[float]]] = []
    for may_graph in (False, True):
        engine = make_engine(
            FOUR[:n_replicas],
            compute=ComputeDevice(torch.device("cuda", 0), "GPU"),
            may_graph=may_graph,
            is_resident=is_resident,
            dtype=dtype,
        )
        losses_SR = engine.advance(5).losses_SR + engine.advance(70).losses_SR
        results.append(losses_SR)
        assert engine.step == len(losses_SR) == 75
    for eager, graphed in zip(*results, strict=True):
        assert graphed == pytest.approx(eager, abs=tolerance)


@pytest.mark.gpu
def test_on_a_gpu_a_stack_is_its_runs_alone_within_rounding() -> None:
    gpu = ComputeDevice(torch.device("cuda", 0), "GPU")
    stack = make_engine(FOUR, compute=gpu, is_resident=True)
    together = stack.advance(50).losses_SR
    for place, one in enumerate(FOUR):
        alone = make_engine([one], compute=gpu, is_resident=True).advance(50).losses_SR
        # cuBLAS takes other kernels for several products at once
        assert [row[place] for row in together] == pytest.approx(
            [row[0] for row in alone], abs=1e-4
        )


@pytest.mark.gpu
def test_on_a_gpu_an_accident_touches_no_neighbour() -> None:
    gpu = ComputeDevice(torch.device("cuda", 0), "GPU")
    broken, sound = (make_engine(FOUR, compute=gpu, is_resident=True) for _ in range(2))
    for engine in (broken, sound):
        engine.advance(10)
    broken.weights["final_norm.gain"].data[1, 3] = float("nan")
    before = state_of(broken, 1)
    ours, theirs = broken.advance(10).losses_SR, sound.advance(10).losses_SR
    for place in (0, 2, 3):
        assert [row[place] for row in ours] == pytest.approx(
            [row[place] for row in theirs], abs=1e-4
        )
    after = state_of(broken, 1)
    assert all(torch.equal(after[name], before[name]) for name in ("exp_avg", "exp_avg_sq", "step"))
