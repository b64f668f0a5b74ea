"""T5 and T7: which windows a run reads, and in what order.

The data have 64 windows, which is 8 steps of 8.
"""

import pytest

from faults.data_runs import launch
from faults.runner import run_folder, run_here, start_steps
from faults.spoil import crash
from train.data import sampler
from train.engine import batches
from train.errors import ConfigError
from train.plan.validate import validate
from train.storage.records import read_json, read_jsonl
from train.study import preflight
from train.training import resume

WINDOWS, SEQ_LEN, PER_STEP = 64, 32, 8
EPOCH = WINDOWS // PER_STEP
"""Steps."""
STEPS = 20
"""Two epochs and a half."""


@pytest.fixture
def config(tiny, tmp_path):
    return tiny(
        paths__data=str(tmp_path / "data"),
        data__synthetic__tokens=4_000 + WINDOWS * SEQ_LEN + 1,
        data__allow_repeat=True,
        budget__tokens=STEPS * PER_STEP * SEQ_LEN,
        machine__checkpoint_steps=4,
    )


@pytest.fixture
def order(monkeypatch):
    read = []
    real = batches.segment_starts

    def segment_starts(**settings):
        starts_SB = real(**settings)
        rows = enumerate((starts_SB // SEQ_LEN).tolist(), start=settings["step"])
        read.extend(rows)
        return starts_SB

    monkeypatch.setattr(batches, "segment_starts", segment_starts)
    return read


def without_refusal(plan, **settings):
    return sampler.epochs(plan.tokens, settings["n_tokens"], settings["seq_len"])


def test_t5_more_tokens_than_there_are_must_be_asked_for(config):
    config.data.allow_repeat = False
    plan = validate(config)
    message = (
        rf"run {plan.run_id} asks for 5120 tokens, and faults has 2048 in whole windows "
        rf"\(2\.50 epochs\); ask for at most 2048, or allow repetition with data\.allow_repeat=true"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        launch(config)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=message):
        run_here(config)
    assert not run_folder(config).metrics.exists()
    config.budget.tokens = 2_048
    launch(config)


def test_t5_repetition_that_was_asked_for_is_recorded(config):
    run_here(config)
    folder = run_folder(config)
    assert read_json(folder.run)["data"]["epochs"] == 2.5
    row = read_json(folder.result)["row"]
    assert (row["tokens"], row["unique_tokens"]) == (5_120, 2_048)


def test_t5_control_unrefused_a_run_repeats_what_it_was_not_allowed_to(config, order, monkeypatch):
    config.data.allow_repeat = False
    for module in (preflight, resume):
        monkeypatch.setattr(module, "check_enough_tokens", without_refusal)
    launch(config)
    run_here(config)
    first, again = (
        {window for step, windows in order if step // EPOCH == epoch for window in windows}
        for epoch in (0, 1)
    )
    assert first == again


@pytest.mark.parametrize(("done", "resumed_from"), [(6, 4), (8, 8), (10, 8), (17, 16)])
def test_t7_a_resume_reads_on_where_the_order_was(config, order, done, resumed_from):
    crash(config, after=done)
    assert [step for step, _ in order] == list(range(done + 1))
    before = dict(order)
    order.clear()
    run_here(config)
    assert start_steps(run_folder(config)) == [0, resumed_from]
    assert [step for step, _ in order] == list(range(resumed_from, STEPS))
    after = dict(order)
    assert all(after[step] == before[step] for step in before.keys() & after.keys())
    assert_each_window_once_an_epoch({**before, **after})


def test_t7_control_a_position_that_starts_anew_reads_windows_twice(config, order, monkeypatch):
    crash(config, after=6)
    before = {step: windows for step, windows in order if step < 4}
    order.clear()
    real = batches.segment_starts
    monkeypatch.setattr(
        batches,
        "segment_starts",
        # resumed at 4: from zero
        lambda *, step, **settings: real(step=step - 4, **settings),
    )
    with pytest.warns(UserWarning, match="2 of 2 rows that were computed twice differ"):
        # the replayed rows give it away too
        run_here(config)
    after = {step + 4: windows for step, windows in order}
    with pytest.raises(AssertionError):
        assert_each_window_once_an_epoch({**before, **after})


def assert_each_window_once_an_epoch(order):
    assert sorted(order) == list(range(STEPS))
    for epoch in range(STEPS // EPOCH):
        steps = range(epoch * EPOCH, (epoch + 1) * EPOCH)
        read = [window for step in steps for window in order[step]]
        assert sorted(read) == list(range(WINDOWS)), f"epoch {epoch} read {sorted(read)}"
    rest = [window for step in range(STEPS // EPOCH * EPOCH, STEPS) for window in order[step]]
    assert len(set(rest)) == len(rest)


def test_t7_the_order_does_not_depend_on_the_micro_batch(config, order):
    run_here(config)
    whole = list(order)
    order.clear()
    config.study.name = "halved"
    config.machine.micro_batch_seqs = 2
    run_here(config)
    rows = read_jsonl(run_folder(config).attempts)
    assert rows[0]["arithmetic"]["micro_batch_seqs"] == 2
    assert order == whole


def starts(step, batch_seqs):
    n_tokens = WINDOWS * SEQ_LEN + 1
    starts_SB = sampler.segment_starts(
        seed=0, step=step, n_steps=1, batch_seqs=batch_seqs, n_tokens=n_tokens, seq_len=SEQ_LEN
    )
    return starts_SB[0].tolist()


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_t7_processes_that_slice_a_batch_read_what_one_would(processes):
    share = PER_STEP // processes
    for step in range(STEPS):
        slices = [starts(step, PER_STEP)[rank * share :][:share] for rank in range(processes)]
        assert [start for part in slices for start in part] == starts(step, PER_STEP)


def test_t7_control_processes_that_each_count_alone_read_the_same():
    ranks = [starts(0, PER_STEP // 2) for _ in range(2)]
    assert ranks[0] == ranks[1]
    assert len({*ranks[0], *ranks[1]}) == PER_STEP // 2
