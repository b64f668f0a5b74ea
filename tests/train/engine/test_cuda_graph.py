"""CUDA graphs of the step: which is replayed when, and that a step can be captured."""

import collections
import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.small_engines import BATCH_SEQS, TokenWindows, policy, replica, shape_of
from train.config.experiment import Norm, Positions
from train.config.runtime import AttentionKernel, Dtype
from train.engine.cuda_graph import STEPS_A_REPLAY, WARM_UP_STEPS, GraphedStep
from train.engine.device import ComputeDevice
from train.engine.engine import Engine


class Counter:
    """State that a step moves on, with a note of everything that happens to it."""

    def __init__(self):
        self.state = torch.zeros(2)
        self.log = []
        self.is_capturing = False

    def step(self):
        if self.is_capturing:
            self.log.append("record")
        else:
            self.state += 1
            self.log.append("step")


@pytest.fixture(name="counter")
def _counter(monkeypatch):
    """A device that records steps instead of taking them, as CUDA would."""
    counter = Counter()

    class Graph:
        n_steps = 0

        def pool(self):
            return "pool"

        def replay(self):
            counter.state += self.n_steps
            counter.log.append(f"replay {self.n_steps}")

    class Stream:
        def wait_stream(self, other):
            pass

    @contextlib.contextmanager
    def graph(graph, *, pool, capture_error_mode):
        counter.is_capturing = True
        counter.log.append(f"capture in {pool}")
        before = counter.log.count("record")
        try:
            yield
        finally:
            counter.is_capturing = False
        graph.n_steps = counter.log.count("record") - before

    fakes = {
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


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_step_is_captured_after_a_warm_up_that_restores_the_state(counter, is_warm):
    graphed = GraphedStep([counter.state])
    assert counter.log == []
    counter.state += 5
    if is_warm:
        graphed.warm_up(counter.step)
        assert counter.log == ["step"] * WARM_UP_STEPS
        assert counter.state.tolist() == [5.0, 5.0]
    assert graphed.replay(counter.step, 1) == 1
    assert counter.log[:WARM_UP_STEPS] == ["step"] * WARM_UP_STEPS
    assert counter.log[WARM_UP_STEPS:] == ["capture in None", "record", "replay 1"]
    assert counter.state.tolist() == [6.0, 6.0]


@pytest.mark.parametrize(
    ("most_steps", "taken"),
    [(1, 1), (STEPS_A_REPLAY - 1, 1), (STEPS_A_REPLAY, STEPS_A_REPLAY), (64, STEPS_A_REPLAY)],
)
def test_the_long_graph_is_replayed_where_it_fits(counter, most_steps, taken):
    graphed = GraphedStep([counter.state])
    for times in (1, 2, 3):
        assert graphed.replay(counter.step, most_steps) == taken
        assert counter.state.tolist() == [times * taken] * 2
    assert counter.log.count("record") == taken  # recorded once


def test_both_graphs_share_a_pool_and_one_warm_up(counter):
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


def test_a_step_that_cannot_be_recorded_is_taken_and_said_so_once(counter):
    def step():
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


def test_a_graph_is_kept_where_only_the_other_cannot_be_recorded(counter):
    def step():
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


def test_the_first_error_of_a_capture_is_the_one_told(counter):
    def step():
        counter.step()
        if counter.is_capturing:
            try:
                raise RuntimeError("the cause")
            except RuntimeError:
                raise RuntimeError("capture was invalidated")  # noqa: B904

    with pytest.warns(UserWarning, match=r"\(the cause\)"):
        GraphedStep([counter.state]).replay(step, 1)


GPU = ComputeDevice(torch.device("meta"), "pretended")

SHAPES = {
    "default": shape_of(),
    "gpt2": shape_of(norm=Norm.layer, positions=Positions.learned, qk_norm=False, tie_head=True),
    "large vocabulary": shape_of(vocab_size=20_000),
}

SORTING = ("index_put", "index_copy", "index_add", "scatter")
"""Operations that CUDA, in deterministic mode, runs by a sort that synchronises with the host."""


class Ops(TorchDispatchMode):
    """Counts operations, and those whose tensors lie on two devices."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()
        self.across = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op._schema.name.removeprefix("aten::")
        # it has no kernel for meta tensors; it works in place and returns nothing
        out = None if name == "_fused_adamw_" else op(*args, **(kwargs or {}))
        self.counts[name] += 1
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        if len({leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}) > 1:
            self.across.append(name)
        return out


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def ops_of_a_step(shape, n_replicas, **choices):
    """Operations of a step on meta tensors, where a synchronisation with the host raises."""
    runs = [replica(seed=seed) for seed in range(n_replicas)]
    seeds = [run.seed for run in runs]
    with Ops() as ops:
        windows = TokenWindows(shape, seeds, compute=GPU, is_resident=True)
        engine = Engine(shape, runs, GPU, windows, policy(**choices))
        ops.counts.clear()
        ops.across.clear()
        engine._step()
    return ops


@pytest.mark.parametrize("attention", [AttentionKernel.plain, AttentionKernel.sdpa])
@pytest.mark.parametrize("dtype", [Dtype.fp32, Dtype.bf16])
@pytest.mark.parametrize("n_replicas", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_nothing_in_a_step_passes_between_host_and_device(name, n_replicas, dtype, attention):
    choices = {"dtype": dtype, "attention": attention, "micro_batch_seqs": BATCH_SEQS // 4}
    ops = ops_of_a_step(SHAPES[name], n_replicas, **choices)
    assert ops.counts["_fused_adamw_"] == 2 * n_replicas
    assert ops.across == []


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("n_replicas", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_a_deterministic_step_has_nothing_that_cuda_would_sort(name, n_replicas):
    ops = ops_of_a_step(SHAPES[name], n_replicas, dtype=Dtype.bf16)
    assert [op for op in ops.counts if op.startswith(SORTING)] == []


def test_a_question_to_the_device_would_be_noticed(monkeypatch):
    def asking(self, starts_RB):
        assert starts_RB.max().item() >= 0
        return starts_RB

    monkeypatch.setattr(TokenWindows, "resident_windows", asking)
    with pytest.raises(RuntimeError, match="item"):
        ops_of_a_step(SHAPES["default"], 1)
