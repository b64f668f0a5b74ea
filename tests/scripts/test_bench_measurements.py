"""scripts/bench/measure_*.py: the commands are accepted as meant, and the ratios are right.

The commands train for minutes; here a stub plans them instead.
"""

import json
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from bench import measure_start, measure_study, measure_trunks, train_command
from bench.measure_study import Grid, Sampled
from bench.measurement import Effort, LeftOutError
from bench.sizes import TINY
from bench.train_command import Cost
from train.config.compose import CONFIG_ROOT, register_schema
from train.config.runtime import MachineConfig
from train.plan.counting import count_params
from train.plan.grid import expand_grid
from train.plan.schedule import evaluation_steps
from train.run_folder.manifest import register_runs
from train.study.study import plan_grid


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    """Hydra with our configs and plugins, as `python -m train` starts it."""
    register_schema()
    plugins = str(CONFIG_ROOT.parent / "train" / "plugins")
    sys.path.insert(0, plugins)
    Plugins.instance()
    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()
    sys.path.remove(plugins)


@pytest.fixture
def effort(tmp_path):
    return Effort(rounds=5, block_seconds=1.0, is_quick=False, is_tiny=False, folder=tmp_path)


class Command:
    """Stub of train_command.train: plans the study and returns the cost given for it."""

    def __init__(self, costs):
        self.costs, self.runs, self.caches = costs, {}, {}

    def __call__(self, words, *, folder, cache):
        overrides = [word for word in words if word != "-m"] + ["data=synthetic"]
        overrides += [f"paths.runs={folder}/runs", f"paths.data={folder}/data"]
        runs = plan_grid(expand_grid(overrides, []), lambda each: compose("train", overrides=each))
        study = runs[0].config.study.name
        self.runs[study], self.caches[study] = runs, cache
        register_runs(folder / "runs" / study, study, runs, extend=False)
        return self.costs.get(study, Cost(wall=0.0, cpu=0.0))


def by_name(figures):
    named = {figure.name: figure for figure in figures}
    assert len(named) == len(figures)
    return named


def test_trunk_flops_are_those_of_hagele_et_al():
    for steps, goal in measure_trunks.HORIZONS.values():
        # one trunk of 0.8 of the longest horizon, and a cooldown of 0.2 of each
        expected = (0.8 * max(steps) + 0.2 * sum(steps)) / sum(steps)
        assert measure_trunks.flops_ratio(steps) == pytest.approx(expected, rel=2e-3)
        assert expected <= goal


def test_a_trunk_is_compared_with_separate_runs_of_the_same_steps(effort, monkeypatch):
    command = Command({"alone": Cost(wall=10.0, cpu=8.0), "shared": Cost(wall=6.0, cpu=4.0)})
    monkeypatch.setattr(measure_trunks, "train", command)
    steps = [5120, 2560, 1280, 640, 320]
    named = by_name(measure_trunks.measure_trunk(steps, effort))
    name = "5 horizons x2 apart, the longest of 5120 steps"
    assert named[f"{name}: wall time, times separate runs"].value == 0.6
    assert named[f"{name}: CPU time, times separate runs"].value == 0.5
    for study, trunks in (("alone", False), ("shared", True)):
        assert [run.plan.steps for run in command.runs[study]] == steps
        assert {run.config.machine.trunks for run in command.runs[study]} == {trunks}
        assert {run.config.machine.stack for run in command.runs[study]} == {1}
    assert len({*command.caches.values()}) == 1


def test_the_study_has_the_grid_and_the_shapes_of_the_reference(effort, monkeypatch):
    command = Command({"whole": Cost(wall=7.0, cpu=9.0)})
    monkeypatch.setattr(measure_study, "train", command)
    corners = Grid(widths=(16, 64), tokens_per_param=(2, 32), lr_multipliers=(0.5, 4))
    cost, steps = measure_study.run_ours(corners, effort)
    assert cost == Cost(wall=7.0, cpu=9.0)
    assert {width: sorted(counts) for width, counts in steps.items()} == {
        16: [40, 40, 640, 640],
        64: [448, 448, 7168, 7168],
    }
    for run in command.runs["whole"]:
        assert run.plan.shape == measure_study.gpt2_rung(run.plan.shape.d_model)
        assert run.plan.batch_tokens == measure_study.BATCH_TOKENS
        assert run.plan.schedule.fork_step
    # our compiler starts with an empty cache
    assert command.caches["whole"] != command.caches["prepare"]


def test_every_run_of_the_study_has_whole_steps():
    grid = Grid()
    for width in grid.widths:
        n_params = count_params(measure_study.gpt2_rung(width)).standard
        for tokens_per_param in grid.tokens_per_param:
            assert n_params * tokens_per_param % measure_study.BATCH_TOKENS == 0


def test_the_reference_is_extrapolated_from_the_samples_before_and_after(effort, monkeypatch):
    samples = iter([Sampled(1.0, 10.0), Sampled(2.0, 20.0), Sampled(3.0, 30.0), Sampled(4.0, 40.0)])
    monkeypatch.setattr(measure_study, "sample_reference", lambda *given: next(samples))
    ours = Cost(wall=100.0, cpu=150.0), {16: [5, 10], 24: [20, 40]}
    monkeypatch.setattr(measure_study, "run_ours", lambda *given: ours)
    named = by_name(measure_study.measure(Grid(widths=(16, 24)), effort))
    at_16, at_24 = 2.0 * 15 + 20.0 * 2, 3.0 * 60 + 30.0 * 2
    assert named["study of 4 runs: reference, extrapolated"].value == at_16 + at_24
    assert named["study of 4 runs: times the reference"].value == (at_16 + at_24) / 100.0
    assert [figure.goal for figure in named.values() if figure.has_goal] == [3.0, 5.0]


def test_the_reference_is_timed_and_the_faster_number_of_threads_counts(effort, monkeypatch):
    monkeypatch.setattr(measure_study, "EVAL_BATCH_TOKENS", 256)
    # two threads crawl on a busy machine
    monkeypatch.setattr(measure_study, "THREADS", (1,))
    sampled = measure_study.sample_reference(16, Grid(sample_seconds=0.001), effort)
    assert min(sampled.step, sampled.evaluation) > 0
    assert sampled.seconds([3, 4]) == 7 * sampled.step + 2 * sampled.evaluation
    monkeypatch.setattr(measure_study, "THREADS", (1, 2))
    samples = iter([Sampled(1.0, 9.0), Sampled(2.0, 3.0)])
    monkeypatch.setattr(measure_study, "_sample", lambda *given: next(samples))
    assert measure_study.sample_reference(16, Grid(), effort) == Sampled(1.0, 3.0)


def test_upkeep_is_a_share_of_the_steps_time(effort, monkeypatch):
    command = Command({})

    def train(words, *, folder, cache):
        command(words, folder=folder, cache=cache)
        (run,) = command.runs["upkeep"]
        spent = {"train": 50.0, "logging": 0.1, "evaluation": 1.0, "checkpoint": 0.2, "data": 9.0}
        result = folder / "runs" / "upkeep" / run.plan.run_id / "result.json"
        result.parent.mkdir()
        result.write_text(json.dumps({"cost": {"spent": spent}}))

    monkeypatch.setattr(measure_start, "train", train)
    named = by_name(measure_start.measure_upkeep(6_000, effort))
    name = "6.1 M tokens, 2 evaluations of 131072"
    assert named[f"{name}: evaluation, of the steps' time"].value == 0.02
    total = named[f"{name}: all three, of the steps' time"]
    assert total.value == pytest.approx(0.026)
    assert (total.goal, total.sense) == (0.03, "max")
    (run,) = command.runs["upkeep"]
    assert len(evaluation_steps(run.plan.steps, run.config.eval.points)) == 2
    assert run.config.machine == MachineConfig()


def test_the_first_step_is_timed_in_a_new_process(effort):
    tiny = Effort(rounds=1, block_seconds=0.0, is_quick=False, is_tiny=True, folder=effort.folder)
    own, whole = measure_start.start_process(TINY, tiny, effort.folder / "cache")
    assert 0 < own < whole.wall
    assert whole.cpu > 0


def test_a_command_that_fails_is_left_out_with_its_error(tmp_path):
    with pytest.raises(LeftOutError) as left_out:
        train_command.train(["model.d_modle=3"], folder=tmp_path, cache=tmp_path / "cache")
    for words in ("-m train model.d_modle=3", "exit 2", "did you mean"):
        assert words in str(left_out.value)
