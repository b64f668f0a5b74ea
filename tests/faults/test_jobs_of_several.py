"""Jobs of several runs, by the command and by launchers: each run is recorded as if alone."""

import pytest

from faults import fake_study
from faults.fake_job import STARTED
from faults.fake_study import run_fake_study, states, study_folder
from faults.overrides import as_overrides
from faults.runner import run_child
from faults.shared_jobs import plan_study
from tests.builders import changed
from train.storage.records import read_json, read_jsonl
from train.study.launch import STUDY_JOB
from train.study.study import StudyIncompleteError


def train_together(first, others):
    names = ",".join(f"'{folder.path.name}'" for folder in others)
    return run_child(first, arguments=[*as_overrides(first), f"together=[{names}]"])


def stack(tiny, **changes):
    config = changed(tiny(), {"budget.tokens": 20 * 256.0})
    second = changed(config, {"seed": 1, **changes})
    return [config, second, changed(config, {"seed": 2})]


def test_every_run_of_a_job_is_completed_and_said_to_be(tiny, monkeypatch):
    configs = stack(tiny)
    first, *others = plan_study(configs)
    done = train_together(configs[0], others)
    assert done.exit_code == 0, done
    folders = [first, *others]
    assert [folder.state() for folder in folders] == ["completed"] * 3
    for folder, line in zip(folders, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{folder.path}: completed, validation loss ")
        assert [row["step"] for row in read_jsonl(folder.metrics)] == list(range(1, 21))
        assert "together: []" in folder.config.read_text(encoding="utf-8")
    assert [read_json(folder.result)["row"]["seed"] for folder in folders] == [0, 1, 2]
    before = {path: path.read_bytes() for path in first.path.parent.glob("*/*.json*")}
    monkeypatch.setenv(STUDY_JOB, "1")
    again = train_together(configs[0], others)
    assert (again.exit_code, again.stdout) == (0, "")  # it went to job.log
    assert {path: path.read_bytes() for path in before} == before
    assert first.log.read_text(encoding="utf-8") == done.stdout
    pointer = f"trained along with {first.path.name}: see ../{first.path.name}/job.log\n"
    assert [folder.log.read_text(encoding="utf-8") for folder in others] == [pointer] * 2


def test_a_job_whose_second_run_is_held_elsewhere_is_refused(tiny):
    configs = stack(tiny)
    first, second, third = plan_study(configs)
    with second.locked():
        refused = train_together(configs[0], [second, third])
    assert refused.exit_code == 73, refused
    assert not second.attempts.exists()
    done = train_together(configs[0], [second, third])
    assert done.exit_code == 0, done
    assert [each.state() for each in (first, second, third)] == ["completed"] * 3


# Launchers


@pytest.mark.usefixtures("fake_jobs")
def test_a_killed_job_costs_no_other_and_its_runs_are_started_again_together(tiny):
    config = tiny(machine__stack=2)
    acts = {0: "killed,completed", 1: "completed", 2: "killed,killed,completed", 3: "completed"}
    run_fake_study(config, acts, workers=1)
    assert states(config) == ["completed"] * 4
    names = {seed: fake_study.folder_of(config, seed).path.name for seed in acts}
    log = (study_folder(config) / STARTED).read_text(encoding="utf-8").splitlines()
    assert sorted(log) == sorted(
        [f"{names[0]} {act} {names[1]}" for act in ("killed", "completed")]
        + [f"{names[2]} {act} {names[3]}" for act in ("killed", "killed", "completed")]
    )


@pytest.mark.usefixtures("fake_jobs")
def test_every_run_of_a_job_that_stays_dead_is_named(tiny):
    config = tiny(machine__stack=3)
    with pytest.raises(StudyIncompleteError) as raised:
        run_fake_study(config, {0: "killed", 1: "completed", 2: "completed"}, workers=1)
    lines = [
        f"  {fake_study.folder_of(config, seed).path.name}: stale killed by SIGKILL"
        for seed in range(3)
    ]
    assert str(raised.value).splitlines()[1:] == lines
    assert raised.value.exit_code == 75


def test_an_orphan_is_left_alone_with_all_its_runs(launchers, tmp_path):
    launchers.config = config = changed(launchers.config, {"machine.stack": 2})
    gate = tmp_path / "gate"
    gate.touch()
    acts = {0: f"wait:{gate}", 1: "completed", 2: "completed", 3: "completed"}
    first = launchers.start(acts)
    folders = [fake_study.folder_of(config, seed) for seed in acts]
    launchers.wait_until(lambda: [each.state() for each in folders[:2]] == ["running"] * 2)
    first.kill()
    first.join()
    second = launchers.start(acts)
    launchers.wait_until(lambda: "2 runs are trained by other processes" in launchers.said())
    launchers.wait_until(lambda: states(config).count("completed") == 2)
    assert [folder.state() for folder in folders[:2]] == ["running"] * 2
    gate.unlink()
    second.join(60)
    assert second.exitcode == 0, launchers.said()
    assert states(config) == ["completed"] * 4
    assert all(len(read_jsonl(folder.attempts)) == 2 for folder in folders)
