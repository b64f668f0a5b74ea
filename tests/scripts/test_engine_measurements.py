"""scripts/measure_*.py: the commands that they run are accepted, and their ratios are right.

The commands themselves train for minutes; here a stand-in takes their words.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

from train.config.compose import CONFIG_ROOT, register_schema
from train.config.runtime import MachineConfig
from train.plan.counting import count_params
from train.plan.grid import expand_grid
from train.plan.planning import PlannedRun
from train.plan.schedule import evaluation_steps
from train.run_folder.manifest import register_runs
from train.study.study import plan_grid

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

import measure_stacks  # type: ignore[import-not-found]  # noqa: E402
import measure_start  # type: ignore[import-not-found]  # noqa: E402
import measure_study  # type: ignore[import-not-found]  # noqa: E402
import measure_trunks  # type: ignore[import-not-found]  # noqa: E402
import train_command  # type: ignore[import-not-found]  # noqa: E402
from engine_sizes import TINY  # type: ignore[import-not-found]  # noqa: E402
from measure_study import Grid, Sampled  # noqa: E402
from measurement import Effort, LeftOutError  # type: ignore[import-not-found]  # noqa: E402
from train_command import Spent  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    """Hydra with our configs and plugins, as python -m train starts it."""
    register_schema()
    plugins = str(CONFIG_ROOT.parent / "train" / "plugins")
    sys.path.insert(0, plugins)
    Plugins.instance()
    with initialize_config_dir(str(CONFIG_ROOT), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()
    sys.path.remove(plugins)


@pytest.fixture
def effort(tmp_path: Path) -> Effort:
    return Effort(rounds=5, block_seconds=1.0, is_quick=False, is_tiny=False, folder=tmp_path)


class Command:
    """Plans what `python -m train` would train, and says what it took."""

    def __init__(self, spent: dict[str, Spent]) -> None:
        self.spent = spent
        self.runs: dict[str, list[PlannedRun]] = {}
        self.caches: dict[str, Path] = {}

    def __call__(self, words: Sequence[str], *, folder: Path, cache: Path) -> Spent:
        overrides = [word for word in words if word != "-m"] + ["data=synthetic"]
        overrides += [f"paths.runs={folder}/runs", f"paths.data={folder}/data"]
        grid = expand_grid(overrides, [])
        runs = plan_grid(grid, lambda each: compose("train", overrides=each))
        study = runs[0].config.study.name
        self.runs[study], self.caches[study] = runs, cache
        register_runs(folder / "runs" / study, study, runs, extend=False)
        return self.spent.get(study, Spent(wall=0.0, cpu=0.0))


def by_name(figures: Sequence[Any]) -> dict[str, Any]:
    named = {figure.name: figure for figure in figures}
    assert len(named) == len(figures)
    return named


def test_shared_flops_are_those_of_hagele_et_al() -> None:
    for steps, goal in measure_trunks.HORIZONS.values():
        expected = (0.8 * max(steps) + 0.2 * sum(steps)) / sum(steps)
        assert measure_trunks.flops_ratio(steps) == pytest.approx(expected, abs=1e-4)
        assert expected < goal
    assert measure_trunks.flops_ratio([4096]) == 1.0


def test_a_trunk_is_timed_against_the_same_runs_one_by_one(
    effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Command({"alone": Spent(wall=10.0, cpu=8.0), "shared": Spent(wall=6.0, cpu=4.0)})
    monkeypatch.setattr(measure_trunks, "train", command)
    steps = [5120, 2560, 1280, 640, 320]
    named = by_name(measure_trunks.measure_trunk(steps, effort))
    name = "5 horizons x2 apart, the longest of 5120 steps"
    assert named[f"{name}: wall time, times separate runs"].value == 0.6
    assert named[f"{name}: CPU time, times separate runs"].value == 0.5
    assert named[f"{name}: separate runs"].value == 10.0
    assert list(command.runs) == ["warm", "alone", "shared"]
    for study, trunks in (("alone", False), ("shared", True)):
        assert [run.plan.steps for run in command.runs[study]] == steps
        assert {run.config.machine.trunks for run in command.runs[study]} == {trunks}
        assert {run.config.machine.stack for run in command.runs[study]} == {1}
    assert len({*command.caches.values()}) == 1  # what was compiled once is there


def test_the_study_is_the_one_asked_for(effort: Effort, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command({"whole": Spent(wall=7.0, cpu=9.0)})
    monkeypatch.setattr(measure_study, "train", command)
    corners = Grid(widths=(16, 64), tokens_per_param=(2, 32), lr_multipliers=(0.5, 4))
    spent, steps = measure_study.run_ours(corners, effort)
    assert spent == Spent(wall=7.0, cpu=9.0)
    assert {width: sorted(counts) for width, counts in steps.items()} == {
        16: [40, 40, 640, 640],
        64: [448, 448, 7168, 7168],
    }
    runs = command.runs["whole"]
    assert len({run.plan.lr for run in runs if run.plan.shape.d_model == 16}) == 2
    for run in runs:
        assert run.plan.shape == measure_study.gpt2_rung(run.plan.shape.d_model)
        assert run.plan.batch_tokens == measure_study.BATCH_TOKENS
        assert run.plan.schedule.fork_step
    assert command.caches["whole"] != command.caches["prepare"]  # compiled code starts cold


def test_every_run_of_the_study_has_whole_steps() -> None:
    grid = Grid()
    assert [len(axis) for axis in (grid.widths, grid.tokens_per_param, grid.lr_multipliers)] == [
        6, 5, 4,
    ]  # fmt: skip
    for width in grid.widths:
        n_params = count_params(measure_study.gpt2_rung(width)).standard
        for tokens_per_param in grid.tokens_per_param:
            assert n_params * tokens_per_param % measure_study.BATCH_TOKENS == 0


def test_the_reference_is_extrapolated_from_both_samples(
    effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = iter([Sampled(1.0, 10.0), Sampled(2.0, 20.0), Sampled(3.0, 30.0), Sampled(4.0, 40.0)])
    monkeypatch.setattr(measure_study, "sample_reference", lambda *given: next(samples))
    ours = Spent(wall=100.0, cpu=150.0), {16: [5, 10], 24: [20, 40]}
    monkeypatch.setattr(measure_study, "run_ours", lambda *given: ours)
    named = by_name(measure_study.measure(Grid(widths=(16, 24)), effort))
    at_16, at_24 = 2.0 * 15 + 20.0 * 2, 3.0 * 60 + 30.0 * 2
    assert named["study of 4 runs: reference, extrapolated"].value == at_16 + at_24
    assert named["study of 4 runs: times the reference"].value == (at_16 + at_24) / 100.0
    goals = [figure.goal for figure in named.values() if figure.is_judged]
    assert goals == [3.0, 5.0]


def test_the_faster_number_of_threads_counts(
    effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = iter([Sampled(1.0, 9.0), Sampled(2.0, 3.0)])
    monkeypatch.setattr(measure_study, "_sample", lambda *given: next(samples))
    assert measure_study.sample_reference(16, Grid(), effort) == Sampled(1.0, 3.0)


def test_the_reference_is_sampled(effort: Effort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_study, "EVAL_BATCH_TOKENS", 256)
    monkeypatch.setattr(measure_study, "THREADS", (1,))  # two crawl on a busy machine
    sampled = measure_study.sample_reference(16, Grid(sample_seconds=0.001), effort)
    assert sampled.step > 0
    assert sampled.evaluation > 0
    assert sampled.seconds([3, 4]) == 7 * sampled.step + 2 * sampled.evaluation


def test_upkeep_is_a_share_of_the_steps(effort: Effort, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command({})

    def train(words: Sequence[str], *, folder: Path, cache: Path) -> None:
        command(words, folder=folder, cache=cache)
        (run,) = command.runs["upkeep"]
        spent = {"train": 50.0, "logging": 0.1, "evaluation": 1.0, "checkpoint": 0.2, "data": 9.0}
        result = folder / "runs" / "upkeep" / run.plan.run_id / "result.json"
        result.parent.mkdir()
        result.write_text(json.dumps({"cost": {"spent": spent}}))

    monkeypatch.setattr(measure_start, "train", train)
    named = by_name(measure_start.measure_upkeep(6_000, effort))
    name = "6.1 M tokens, 2 evaluations of 131072"
    assert named[f"{name}: steps"].value == 50.0
    assert named[f"{name}: logging, of the steps' time"].value == 0.002
    assert named[f"{name}: evaluation, of the steps' time"].value == 0.02
    total = named[f"{name}: all three, of the steps' time"]
    assert total.value == pytest.approx(0.026)
    assert (total.goal, total.sense) == (0.03, "max")
    (run,) = command.runs["upkeep"]
    assert run.plan.steps == 6_000
    assert len(evaluation_steps(run.plan.steps, run.config.eval.points)) == 2
    assert run.config.machine == MachineConfig()


def test_a_stack_of_one_is_not_timed(effort: Effort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_stacks, "best_stack", lambda run, count: 1)
    replicas, rate = measure_stacks.measure_choice(TINY, effort)
    assert (replicas.value, rate.value) == (1, 1.0)
    assert (rate.goal, rate.sense) == (0.95, "min")
    assert list(effort.folder.iterdir()) == []


def test_a_gain_counts_every_replica(effort: Effort, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    monkeypatch.setattr(
        measure_stacks, "build_step", lambda *given, replicas=1, **_: built.append(replicas)
    )

    class Halves:
        def ratio(self, baseline: str, name: str) -> float:
            assert (baseline, name) == ("alone", "stacked")
            return 0.5  # a step of the stack takes twice as long as one alone

    monkeypatch.setattr(measure_stacks, "time_in_turn", lambda contenders, **_: Halves())
    assert measure_stacks.gain(TINY, 8, effort) == 4.0
    assert built == [1, 8]


def test_a_refused_command_says_why_and_ends_nothing(tmp_path: Path) -> None:
    with pytest.raises(LeftOutError) as left_out:
        train_command.train(["model.d_modle=3"], folder=tmp_path, cache=tmp_path / "cache")
    assert "-m train model.d_modle=3" in str(left_out.value)
    assert "exit 2" in str(left_out.value)
    assert "did you mean" in str(left_out.value)


def test_a_process_gets_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(train_command.TORCH_CACHE, "/elsewhere")
    own = train_command.environment(tmp_path)
    assert train_command.TORCH_CACHE not in own
    assert own["WINDTUNNEL_CACHE"] == str(tmp_path)
    assert own["PATH"] == os.environ["PATH"]


def test_the_first_step_is_taken_in_a_process_of_its_own(effort: Effort) -> None:
    tiny = Effort(rounds=1, block_seconds=0.0, is_quick=False, is_tiny=True, folder=effort.folder)
    own, whole = measure_start.start_process(TINY, tiny, effort.folder / "cache")
    assert 0 < own < whole.wall
    assert whole.cpu > 0
