"""The engine: a stack is its runs alone, an accident stays its own, and time is cut anywhere."""

import contextlib
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from tests.train.small_engines import (
    CPU,
    SEQ_LEN,
    VOCAB,
    assert_same_bits,
    make_engine,
    replica,
    shape_of,
    state_of,
)
from train.config.experiment import Activation, Norm, Positions
from train.config.runtime import AttentionKernel, Dtype
from train.distributed import World
from train.engine.cuda_graph import STEPS_A_REPLAY
from train.engine.engine import TABLE_STEPS, Engine
from train.model import cross_entropy
from train.model.parameters import initial_values

NAN = float("nan")

FOUR = (
    replica(seed=0, lr=0.01),
    replica(seed=1, lr=0.003, beta2=0.99, weight_decay=0.3),
    replica(seed=2, lr=0.03, beta1=0.8, grad_clip=0.1),
    replica(seed=0, lr=0.02, eps=1e-6, weight_decay=0.0),
)
"""Two of one seed; every setting that may differ within a stack does."""

GPT2 = {
    "norm": Norm.layer,
    "positions": Positions.learned,
    "qk_norm": False,
    "tie_head": True,
}

SHAPES = {
    "default": shape_of(),
    "gpt2": shape_of(**GPT2),
    "swiglu, tied, 3 heads": shape_of(
        d_model=48, activation=Activation.swiglu, tie_head=True, n_heads=3, n_layers=3
    ),
    "one layer, no norm of queries": shape_of(n_layers=1, qk_norm=False),
}


def by_replica(rows_SR, place):
    return [row[place] for row in rows_SR]


HOW = [
    {"dtype": dtype, "attention": attention}
    for dtype in (Dtype.fp32, Dtype.bf16)
    for attention in (AttentionKernel.plain, AttentionKernel.sdpa)
]

TINY = shape_of(d_model=8, n_heads=2, vocab_size=11, seq_len=8)


def assert_stack_is_its_runs(n_steps, **how):
    """Compare losses, norms, weights and moments of FOUR in every bit; return the stack's."""
    stack = make_engine(FOUR, **how)
    together = stack.advance(n_steps)
    for place, one in enumerate(FOUR):
        engine = make_engine([one], **how)
        alone = engine.advance(n_steps)
        assert by_replica(together.losses_SR, place) == by_replica(alone.losses_SR, 0)
        assert by_replica(together.grad_norms_SR, place) == by_replica(alone.grad_norms_SR, 0)
        assert_same_bits(state_of(stack, place), state_of(engine, 0))
    return together


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("default", how) for how in HOW),
        *((name, how) for name in SHAPES if name != "default" for how in (HOW[1], HOW[2])),
    ],
)
def test_a_stack_is_its_runs_alone_in_every_bit(name, how):
    """On a CPU, at these sizes: a product of several replicas sums in the order of one.

    On a GPU other kernels are called for several; test_graphed.py allows for their rounding.
    """
    assert_stack_is_its_runs(5, shape=SHAPES[name], micro_batch_seqs=4, **how)


def test_after_50_steps_a_stack_still_is_its_runs():
    losses_SR = assert_stack_is_its_runs(50, batch_seqs=4).losses_SR
    assert all(last < first - 0.3 for first, last in zip(losses_SR[0], losses_SR[-1], strict=True))


def test_a_stack_whose_head_runs_in_chunks_is_its_runs(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_FROM", 1)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 50 * VOCAB)  # 128 tokens in 3 chunks
    assert_stack_is_its_runs(5, dtype=Dtype.bf16)


def test_at_odd_sizes_a_stack_is_its_runs_within_rounding():
    """Not at every size does MKL multiply several float32 matrices as it multiplies one.

    Seen at small batches with odd widths, tiny vocabularies or plain attention; never in bfloat16.
    """
    shape = shape_of(
        d_model=40, n_heads=4, vocab_size=7, seq_len=9, positions=Positions.learned, qk_norm=False
    )
    how = {"shape": shape, "batch_seqs": 3, "micro_batch_seqs": 1}
    together = make_engine(FOUR, **how).advance(20)
    for place, one in enumerate(FOUR):
        alone = make_engine([one], **how).advance(20)
        assert by_replica(together.losses_SR, place) == pytest.approx(
            by_replica(alone.losses_SR, 0), abs=1e-5
        )


def test_every_replica_starts_from_its_own_seed_and_padding_stays_zero():
    engine = make_engine(FOUR)
    for place, one in enumerate(FOUR):
        weights, _ = engine.replica_state(place)
        expected = initial_values(engine.shape, seed=one.seed)
        assert_same_bits(weights, {name: expected[name] for name in weights})
    engine.advance(3)
    named = torch.zeros_like(engine.rows_RP)
    for view in engine.layout.views(named).values():
        view.fill_(1.0)
    assert (named == 0).any()
    assert not engine.rows_RP[named == 0].any()


def test_every_replica_follows_its_own_rate_and_schedule():
    still = replica(seed=1, lr=0.0)
    engine = make_engine([replica(), still])
    before = state_of(engine, 1)
    engine.advance(2)
    weights, _ = engine.replica_state(1)
    assert_same_bits(weights, {name: before[name] for name in weights})
    assert not torch.equal(state_of(engine, 0)["embedding.weight"], before["embedding.weight"])


def test_the_rate_of_a_step_is_the_peak_times_the_schedule():
    one = replica(lr=0.06)
    assert [one.lr_at(step) for step in (0, 4, 5)] == pytest.approx([0.01, 0.05, 0.06])
    assert one.lr_at(1_000) == pytest.approx(0.006)


def test_the_loss_is_the_mean_of_the_step_s_windows_before_its_update():
    engine = make_engine(FOUR[:2], micro_batch_seqs=2)
    engine.advance(3)
    starts_RB = torch.from_numpy(engine.batches.starts(3, 1)[0])
    windows_RBT = engine.batches.resident_windows(starts_RB)
    before_R = engine.model.losses(engine.weights, windows_RBT[..., :-1], windows_RBT[..., 1:])
    segment = engine.advance(1)
    assert segment.losses_SR[0] == pytest.approx(before_R.tolist(), abs=1e-6)
    assert engine.step == 4


def accident(place, value):
    """Two stacks after four steps; in the first, a gain of one replica is not finite."""
    stacks = make_engine(FOUR), make_engine(FOUR)
    for stack in stacks:
        stack.advance(4)
    stacks[0].weights["final_norm.gain"].data[place, 3] = value
    return stacks


@pytest.mark.parametrize("value", [NAN, math.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_an_accident_touches_no_neighbour_and_freezes_its_own(place, value):
    broken, sound = accident(place, value)
    before = state_of(broken, place)
    ours, theirs = broken.advance(6), sound.advance(6)
    assert not any(math.isfinite(loss) for loss in by_replica(ours.losses_SR, place))
    assert_same_bits(state_of(broken, place), before)
    for other in {0, 1, 2, 3} - {place}:
        assert by_replica(ours.losses_SR, other) == by_replica(theirs.losses_SR, other)
        assert by_replica(ours.grad_norms_SR, other) == by_replica(theirs.grad_norms_SR, other)
        assert_same_bits(state_of(broken, other), state_of(sound, other))


def test_a_frozen_replica_stays_so_until_a_state_is_loaded():
    broken, sound = accident(1, NAN)
    good = sound.replica_state(1)
    broken.advance(1)
    broken.weights["final_norm.gain"].data[1, 3] = 1.0  # its losses are finite again
    before = state_of(broken, 1)
    assert math.isfinite(broken.advance(2).losses_SR[-1][1])
    assert_same_bits(state_of(broken, 1), before)
    broken.load_replica(1, *good)
    broken.advance(1)
    assert not torch.equal(state_of(broken, 1)["exp_avg"], before["exp_avg"])


@pytest.mark.parametrize("place", [0, 1])
def test_a_rate_that_is_too_large_leaves_the_state_before_its_bad_step(place):
    wild = list(FOUR[:2])
    wild[place] = replica(seed=3, lr=1e30)
    calm = list(FOUR[:2])
    stack, reference = make_engine(wild), make_engine(calm)
    ours, theirs = stack.advance(12), reference.advance(12)
    losses, norms = (by_replica(rows, place) for rows in (ours.losses_SR, ours.grad_norms_SR))
    is_bad = [not math.isfinite(loss + norm) for loss, norm in zip(losses, norms, strict=True)]
    first_bad = is_bad.index(True)
    assert 1 <= first_bad < 6
    alone = make_engine([wild[place]])
    alone.advance(first_bad)
    assert_same_bits(state_of(stack, place), state_of(alone, 0))
    assert state_of(stack, place)["step"] == first_bad
    assert by_replica(ours.losses_SR, 1 - place) == by_replica(theirs.losses_SR, 1 - place)
    assert_same_bits(state_of(stack, 1 - place), state_of(reference, 1 - place))


def test_a_replica_moves_from_alone_to_a_stack_and_back_without_losing_a_bit():
    through = make_engine([FOUR[1]])
    through.advance(5)
    stack = make_engine(FOUR)
    stack.load_replica(1, *through.replica_state(0))
    assert_same_bits(state_of(stack, 1), state_of(through, 0))
    stack.step = 5
    stack.advance(5)
    back = make_engine([FOUR[1]])
    back.load_replica(0, *stack.replica_state(1))
    back.step = 10
    back.advance(5)
    uninterrupted = make_engine([FOUR[1]])
    uninterrupted.advance(15)
    assert_same_bits(state_of(back, 0), state_of(uninterrupted, 0))


def test_a_state_taken_is_a_copy():
    engine = make_engine()
    before, again = state_of(engine, 0), state_of(engine, 0)
    engine.advance(1)
    assert_same_bits(before, again)


@pytest.fixture(scope="module")
def seventy():
    """Steps that need a second table."""
    whole = make_engine(FOUR[:2], shape=TINY, batch_seqs=2)
    return whole, whole.advance(70)


@pytest.mark.parametrize(
    ("cuts", "is_resident"),
    [
        ([1] * 70, False),
        ([1] * 70, True),
        ([TABLE_STEPS, 6], True),
        ([TABLE_STEPS + 1, 5], False),
        ([3, 67], True),
    ],
)
def test_time_may_be_cut_anywhere(cuts, is_resident, seventy):
    whole, expected = seventy
    engine = make_engine(FOUR[:2], shape=TINY, batch_seqs=2, is_resident=is_resident)
    parts = [engine.advance(n_steps) for n_steps in cuts]
    assert [len(part) for part in parts] == cuts
    losses, norms = (
        list(itertools.chain.from_iterable(rows))
        for rows in zip(*((part.losses_SR, part.grad_norms_SR) for part in parts), strict=True)
    )
    assert (losses, norms) == (expected.losses_SR, expected.grad_norms_SR)
    assert engine.step == whole.step == 70
    for place in (0, 1):
        assert_same_bits(state_of(engine, place), state_of(whole, place))


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("stop_at", [1, 2, TABLE_STEPS, TABLE_STEPS + 1])
def test_a_wish_to_stop_is_honoured_after_the_step_that_it_meets(stop_at, is_resident):
    engine = make_engine(shape=TINY, batch_seqs=2, is_resident=is_resident)
    asked = 0

    def should_stop():
        nonlocal asked
        asked += 1
        return asked >= stop_at

    segment = engine.advance(70, should_stop=should_stop)
    assert len(segment) == engine.step == stop_at
    assert engine.advance(70, should_stop=lambda: True).losses_SR != []
    assert engine.step == stop_at + 1  # at least one, or a job would never get on


class StepsAtOnce:
    """Takes the place of a CUDA device's graphs: eight steps at a time where so many are left."""

    def __init__(self):
        self.taken = []

    def replay(self, step, most_steps):
        n_steps = STEPS_A_REPLAY if most_steps >= STEPS_A_REPLAY else 1
        for _ in range(n_steps):
            step()
        self.taken.append(n_steps)
        return n_steps


@pytest.mark.parametrize(("is_resident", "taken"), [(True, [8] * 9 + [1] * 5), (False, [1] * 77)])
def test_graphs_take_the_same_steps_several_at_once_where_the_data_is_there(is_resident, taken):
    eager, graphed = (
        make_engine(FOUR[:2], shape=TINY, batch_seqs=2, is_resident=is_resident) for _ in range(2)
    )
    graphed._graph = graphs = StepsAtOnce()
    assert graphed.advance(77).losses_SR == eager.advance(77).losses_SR
    assert graphs.taken == taken
    assert_same_bits(state_of(graphed, 1), state_of(eager, 1))


@pytest.mark.parametrize("is_resident", [False, True])
def test_with_graphs_a_wish_to_stop_is_asked_for_after_every_eighth_step(is_resident):
    engine = make_engine(shape=TINY, batch_seqs=2, is_resident=is_resident)
    engine._graph = graphs = StepsAtOnce()
    asked_at = []

    def should_stop():
        asked_at.append(sum(graphs.taken))
        return len(asked_at) >= 3

    segment = engine.advance(70, should_stop=should_stop)
    assert asked_at[:3] == [8, 16, 24]
    assert len(segment) == engine.step == 24


def test_no_steps_are_no_steps():
    engine = make_engine(shape=TINY, batch_seqs=2)
    before = state_of(engine, 0)
    assert len(engine.advance(0)) == engine.step == 0
    assert_same_bits(state_of(engine, 0), before)


def test_the_wait_for_data_can_be_timed():
    entered = []

    @contextlib.contextmanager
    def waiting():
        entered.append(engine.step)
        yield

    engine = make_engine(shape=TINY, batch_seqs=2)
    engine.waiting_for_data = waiting
    engine.advance(3)
    assert len(entered) == 1 + 3  # the table of starts, and each step's windows
    resident = make_engine(shape=TINY, batch_seqs=2, is_resident=True)
    resident.waiting_for_data = waiting
    entered.clear()
    resident.advance(3)
    assert len(entered) == 1


def test_losses_on_shared_windows_are_each_replica_s_own_and_teach_nothing():
    stack = make_engine(FOUR)
    stack.advance(5)
    windows_BT = torch.randint(VOCAB, (3, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    losses_R = stack.losses_on(windows_BT)
    assert not losses_R.requires_grad
    assert len(set(losses_R.tolist())) == 4
    for place, one in enumerate(FOUR):
        alone = make_engine([one])
        alone.load_replica(0, *stack.replica_state(place))
        assert alone.losses_on(windows_BT).tolist() == [losses_R[place].item()]
    assert all(weight.grad is None for weight in stack.weights.values())


def test_a_state_of_another_shape_is_refused():
    other = make_engine(shape=shape_of(d_model=48))
    with pytest.raises(ValueError, match=r"embedding.weight has shape \(61, 48\), not \(61, 32\)"):
        make_engine().load_replica(0, *other.replica_state(0))


def test_no_more_is_queued_than_a_stop_can_wait_for(monkeypatch):
    engine = make_engine(shape=TINY, batch_seqs=2)
    parts = []
    fill = engine._fill_tables

    def fill_noted(n_steps):
        parts.append(n_steps)
        return fill(n_steps)

    monkeypatch.setattr(engine, "_fill_tables", fill_noted)
    took = [0.001, 32.0, 32.0, 32.0, 32.0]
    readings = itertools.accumulate(x for part in took for x in (100.0, part))
    monkeypatch.setattr("train.engine.engine.time", SimpleNamespace(perf_counter=readings.__next__))
    assert len(engine.advance(78)) == 78
    # 8 steps took 1 ms, so all that the tables hold may go; those took 32 s, so 4 take 2 s
    assert parts == [8, 64, 4, 1, 1]


def test_ranks_look_up_after_equally_few_steps_however_long_each_took():
    engine = make_engine(shape=TINY, batch_seqs=2)
    ranks = Engine(
        engine.shape,
        engine.replicas,
        CPU,
        engine.batches,
        engine.policy,
        world=World(rank=1, size=2),
    )
    assert ranks._most_queued == STEPS_A_REPLAY
