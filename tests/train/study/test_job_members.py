"""The other runs of a job: their science from the manifest, their plumbing from the job."""

import json

import pytest

from tests.train.planned_runs import planned
from train.config.experiment import BudgetConfig, EvalConfig, OptimizerConfig
from train.config.runtime import MachineConfig, StudyConfig
from train.errors import ConfigError, DataError
from train.run_folder.manifest import manifest_entry, read_manifest, register_runs
from train.run_folder.run_folder import RunFolder
from train.study.job_members import plan_together, point_to_log

WORDS = ["optimizer.lr=0.02"]


def registered(*runs):
    folder = runs[0].path.parent
    folder.mkdir(parents=True, exist_ok=True)
    register_runs(folder, "tiny", runs, extend=True)


@pytest.fixture
def other(make_config):
    """A run of the study's manifest."""
    optimizer = OptimizerConfig(lr=0.02, batch_tokens=256)
    run = planned(make_config(seed=3, optimizer=optimizer), *WORDS)
    registered(run)
    return run


def test_a_run_alone_needs_no_manifest(make_config):
    assert plan_together(planned(make_config())) == []


def test_others_have_the_science_of_the_manifest_and_the_plumbing_of_the_job(make_config, other):
    machine = MachineConfig(log_every=7, workers=3)
    again = planned(make_config(seed=4))
    registered(again)
    names = [again.plan.run_id, other.plan.run_id]
    first = planned(make_config(machine=machine, restart=True, together=names))
    found = plan_together(first)
    assert [run.plan for run in found] == [again.plan, other.plan]
    assert found[1].overrides == WORDS
    assert found[1].config == make_config(
        machine=machine,
        restart=True,
        seed=3,
        optimizer=OptimizerConfig(lr=0.02, batch_tokens=256),
    )
    assert found[1].path == other.path


def test_a_run_that_was_never_planned_is_refused(make_config, other):
    stranger = planned(make_config(seed=9)).plan.run_id
    near = other.plan.run_id[:-1] + ("0" if other.plan.run_id[-1] != "0" else "1")
    first = make_config(together=[near])
    with pytest.raises(ConfigError) as raised:
        plan_together(planned(first))
    path = other.path.parent / "manifest.json"
    assert f"together: {near} is not in {path}; did you mean {other.plan.run_id}?" in str(
        raised.value
    )
    empty = make_config(together=[stranger], study=StudyConfig(name="empty"))
    with pytest.raises(ConfigError, match=r"empty/manifest\.json; plan the study first"):
        plan_together(planned(empty))


def test_a_run_that_cannot_be_trained_along_is_refused(make_config, other):
    first = make_config(eval=EvalConfig(points=1, tokens=512), together=[other.plan.run_id])
    with pytest.raises(ConfigError, match=r"differs from .* in eval; one job trains runs"):
        plan_together(planned(first))


def test_another_horizon_may_be_trained_along(make_config, other):
    first = make_config(budget=BudgetConfig(tokens=80 * 256.0), together=[other.plan.run_id])
    assert [run.plan for run in plan_together(planned(first))] == [other.plan]


def test_a_damaged_manifest_is_named(make_config, other):
    path = other.path.parent / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.02", "0.03"), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: edited or damaged"):
        plan_together(planned(make_config(together=[other.plan.run_id])))


def without(science, group, key):
    return {**science, group: {name: v for name, v in science[group].items() if name != key}}


SPOILT = {
    "another version's science": (lambda s: without(s, "optimizer", "lr"), r"makes \S+ in this ve"),
    "another seed": (lambda s: {**s, "seed": 4}, r"its science in the manifest makes \S+-s4-"),
    "no science": (lambda s: None, "the manifest's science is 'None', no mapping"),
    "unknown key": (lambda s: {**s, "data": {"nmae": "x"}}, r"data\.nmae: unknown"),
    "unknown group": (lambda s: {**s, "optimiser": {}}, "optimiser"),
    "plumbing": (lambda s: {**s, "restart": True}, "the manifest's science has restart"),
    "wrong type": (lambda s: {**s, "seed": "x"}, "seed: Value 'x'"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_manifest_cannot_smuggle_another_run_in(make_config, other, monkeypatch, what):
    spoil, message = SPOILT[what]
    entry = manifest_entry(other)
    entry["science"] = spoil(json.loads(json.dumps(entry["science"])))
    monkeypatch.setattr("train.study.job_members.read_manifest", lambda folder: {"runs": [entry]})
    with pytest.raises(ConfigError, match=message):
        plan_together(planned(make_config(together=[other.plan.run_id])))


def test_the_manifest_is_left_as_it_is(make_config, other):
    before = read_manifest(other.path.parent)
    plan_together(planned(make_config(together=[other.plan.run_id])))
    assert read_manifest(other.path.parent) == before


def test_a_log_says_where_the_job_writes_and_keeps_what_it_had(tmp_path):
    folder, first = RunFolder(tmp_path / "b"), RunFolder(tmp_path / "a")
    for _ in range(2):
        point_to_log(folder, of=first)
    assert folder.log.read_text(encoding="utf-8") == "trained along with a: see ../a/job.log\n" * 2
