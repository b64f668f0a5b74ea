"""What a study starts, what it locks, and what it says at its end."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.train.planned_runs import planned
from train.config.runtime import StudyConfig
from train.distributed import World
from train.errors import ConfigError, LockedError
from train.run_folder.manifest import read_manifest
from train.run_folder.run_folder import RunFolder
from train.storage.lock import hold, is_held
from train.study.job import JobEnd
from train.study.study import StudyIncompleteError, plan_grid, report_unfinished, run_study


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch):
    """Stacks are as large as machine.stack says, and of one run where it says nothing."""
    monkeypatch.setattr("train.study.packing.best_stack", lambda run, n: 1)


def folder_of(run):
    run.path.mkdir(parents=True, exist_ok=True)
    return RunFolder(run.path)


class Study:
    """run_study on `seed=...`, with jobs that only write that they are done."""

    def __init__(self, config):
        self.config = config
        self.composed = []
        self.launched = []
        self.was_locked = None

    @property
    def lock(self):
        return Path(self.config.paths.runs) / self.config.study.name / "study.lock"

    def compose(self, overrides):
        self.composed.append(overrides)
        tree = OmegaConf.merge(OmegaConf.structured(self.config), OmegaConf.from_dotlist(overrides))
        assert isinstance(tree, DictConfig)
        return tree

    def launch(self, jobs):
        self.was_locked = is_held(self.lock)
        for job in jobs:
            self.launched.append(" ".join(job.words))
            for run in job.runs:
                run.folder.path.mkdir(parents=True, exist_ok=True)
                run.folder.write_status("completed", step=40)
        return {}

    def run(self, *words):
        node = self.compose([]).study
        self.composed.clear()
        run_study(list(words), study=node, compose=self.compose, launch=self.launch)


@pytest.fixture
def study(make_config):
    return Study(make_config())


def test_a_named_study_is_locked_while_it_runs_and_free_afterwards(study):
    study.run("seed=0,1")
    assert study.was_locked
    assert not is_held(study.lock)
    assert study.launched == ["seed=0", "seed=1"]


def test_a_study_that_is_held_is_refused_before_it_is_planned(study):
    with hold(study.lock, task=""), pytest.raises(LockedError, match=r"is running this study$"):
        study.run("seed=0,1,2")
    assert study.composed == [["seed=0"]]
    assert read_manifest(study.lock.parent) is None
    assert study.launched == []


def test_scratch_is_never_locked(make_config):
    study = Study(make_config(study=StudyConfig(name="scratch")))
    study.run("seed=0")
    assert study.was_locked is False
    with hold(study.lock, task=""):
        study.run("seed=1")
    assert study.launched == ["seed=0", "seed=1"]


def test_a_plan_is_printed_whoever_runs_the_study(make_config, capsys):
    study = Study(make_config(dry_run=True))
    study.run("seed=0")
    assert not study.lock.exists()
    with hold(study.lock, task=""):
        study.run("seed=0")
    assert capsys.readouterr().out.count("planned") >= 2
    assert study.launched == []


def test_a_study_that_is_refused_leaves_no_folder(study):
    with pytest.raises(ConfigError):
        study.run("seed=0", "budget.tokens=1e12")
    assert not study.lock.parent.exists()


def test_replicas_are_launched_as_one_job_and_named_by_its_words(study, make_config):
    study.run("seed=0,1,2", "machine.stack=2", "machine.workers=1")
    names = [planned(make_config(seed=seed)).plan.run_id for seed in range(3)]
    assert study.launched == [
        f"seed=1 machine.stack=2 machine.workers=1 together=['{names[2]}']",
        "seed=0 machine.stack=2 machine.workers=1",
    ]


def test_runs_that_were_saved_at_other_steps_are_not_stacked(study, make_config):
    begun = planned(make_config(seed=1))
    (folder_of(begun).checkpoints / "step_00000010").mkdir(parents=True)
    study.run("seed=0,1", "machine.stack=2", "machine.workers=1")
    assert len(study.launched) == 2


def test_a_study_is_launched_by_one_process(study, monkeypatch):
    monkeypatch.setattr("train.study.study.this_world", lambda: World(rank=0, size=8))
    message = (
        "a study is launched by one process, not 8: start it without torchrun; torchrun trains "
        "one job"
    )
    with pytest.raises(ConfigError, match=f"^{message}$"):
        study.run("seed=0")
    assert study.launched == []


def test_a_study_names_no_company(make_config):
    other = planned(make_config(seed=7)).plan.run_id
    study = Study(make_config())
    with pytest.raises(ConfigError, match="together: is for one job, not for a study"):
        study.run("seed=0,1", f"together=[{other}]")
    assert study.launched == []


def test_a_restart_of_a_study_starts_what_diverged(study, make_config):
    study.run("seed=0,1")
    folder_of(planned(make_config(seed=1))).write_status("diverged", reason="loss nan")
    study.run("seed=0,1")
    assert study.launched == ["seed=0", "seed=1"]
    study.run("seed=0,1", "restart=true")
    assert study.launched[2:] == ["seed=1 restart=True"]


def test_another_grid_is_refused_and_extend_adds_to_it(study, make_config):
    study.run("seed=2")
    with pytest.raises(ConfigError, match=r"was planned with another grid; .* study\.extend=true"):
        study.run("seed=0,1,2")
    assert study.launched == ["seed=2"]
    study.run("seed=0,1,2", "study.extend=true")
    entries = read_manifest(study.lock.parent)["runs"]
    assert [run["science"]["seed"] for run in entries] == [2, 0, 1]


@pytest.fixture
def runs(make_config):
    return [planned(make_config(seed=seed)) for seed in range(3)]


def report(runs, ends=None):
    report_unfinished(folder_of(runs[0]).path.parent, runs, ends or {})


def test_the_last_line_counts_states_and_what_cut_attempts_short(runs, capsys):
    for run, state in zip(runs, ("completed", "diverged", "completed"), strict=True):
        folder_of(run).write_status(state, exit_code=5)
    for attempt in (1, 2, 3):
        folder_of(runs[0]).log_attempt("start", attempt=attempt)
    folder_of(runs[0]).log_attempt("end", attempt=3, state="completed", cause=None)
    folder_of(runs[1]).log_attempt("start", attempt=1)
    folder_of(runs[1]).log_attempt("end", attempt=1, state="failed", cause="infrastructure")
    report(runs)
    line = "2 completed, 1 diverged; attempts cut short: 2 killed, 1 infrastructure\n"
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize(
    ("status", "end", "words", "exit_code"),
    [
        (None, JobEnd(cause="bug", exit_code=1), "planned bug (exit 1)", 1),
        (None, JobEnd(cause="killed", exit_code=-9), "planned killed by SIGKILL", 75),
        (None, None, "planned", 75),
        (("running", "", None), JobEnd(cause="killed", exit_code=-9), "stale killed by SIG", 75),
        (("failed", "disk full", 3), JobEnd(cause="storage", exit_code=3), "failed disk full", 3),
        (("failed", "lost", 75), JobEnd(cause="infrastructure", exit_code=75), "failed lost", 75),
        (("preempted", "stopped", 130), None, "preempted stopped", 75),
    ],
)
def test_an_unfinished_run_is_named_with_its_reason_and_decides_the_exit_code(
    runs, status, end, words, exit_code
):
    for run in runs[1:]:
        folder_of(run).write_status("completed", step=40)
    if status:
        state, reason, code = status
        folder_of(runs[0]).write_status(state, reason=reason, exit_code=code)
    run_id = runs[0].plan.run_id
    with pytest.raises(StudyIncompleteError) as raised:
        report(runs, {run_id: end} if end else {})
    assert str(raised.value).startswith(
        f"unfinished runs (the same command continues):\n  {run_id}: {words}"
    )
    assert raised.value.exit_code == exit_code


def test_a_failure_that_needs_mending_goes_before_one_that_does_not(runs):
    for run, code in zip(runs, (75, 3, 1), strict=True):
        folder_of(run).write_status("failed", reason="why", exit_code=code)
    with pytest.raises(StudyIncompleteError) as raised:
        report(runs)
    assert raised.value.exit_code == 3


def test_a_long_list_of_unfinished_runs_is_cut(make_config):
    runs = [planned(make_config(seed=seed)) for seed in range(23)]
    with pytest.raises(StudyIncompleteError, match=r"\n  and 3 more$"):
        report(runs)


def test_a_refused_run_is_named_by_its_overrides(study):
    with pytest.raises(ConfigError, match=r"\n  in the run seed=1 optimizer.lr=-1$"):
        plan_grid([["seed=0"], ["seed=1", "optimizer.lr=-1"]], study.compose)
    with pytest.raises(ConfigError, match="two points of the grid are the same run"):
        plan_grid([["seed=0"], ["seed=0", "machine.log_every=3"]], study.compose)
