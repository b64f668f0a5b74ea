"""What can move a run's bits from one attempt to the next is told, and refused on request."""

import re
from pathlib import Path

import pytest

from train.config.runtime import MachineConfig
from train.errors import ConfigError, PreemptedError
from train.plan.validate import validate
from train.run_folder.provenance import changed_versions, git_state, refuse_changed_versions
from train.run_folder.run_folder import RunFolder
from train.storage.records import read_json, read_jsonl, write_json
from train.training.trainer import train_run

FACTS = {
    "versions": {"torch": "2.13.0", "python": "3.11.7"},
    "device": "AMD EPYC, 1 thread",
    "git": {"commit": "ab12", "dirty": False},
}


def test_nothing_changed_is_nothing_told():
    assert changed_versions(FACTS, FACTS) == {}
    assert changed_versions({}, FACTS) == {}  # the first attempt left no facts


def test_facts_that_somebody_edited_count_as_unknown():
    changed = changed_versions({"versions": 3, "git": [], "device": FACTS["device"]}, FACTS)
    assert changed == {
        "torch": (None, "2.13.0"),
        "python": (None, "3.11.7"),
        "git commit": (None, "ab12"),
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"versions": {"torch": "2.12.0", "python": "3.11.7"}}, {"torch": ("2.12.0", "2.13.0")}),
        ({"versions": {"python": "3.11.7"}}, {"torch": (None, "2.13.0")}),
        ({"device": "NVIDIA H200"}, {"device": ("NVIDIA H200", "AMD EPYC, 1 thread")}),
        ({"git": {"commit": "cd34", "dirty": True}}, {"git commit": ("cd34", "ab12")}),
    ],
)
def test_each_change_is_told_with_both_values(change, expected):
    assert changed_versions({**FACTS, **change}, FACTS) == expected


def test_the_refusal_names_every_change_and_the_way_out():
    changed = {"torch": ("2.12.0", "2.13.0"), "device": ("a", "b")}
    with pytest.raises(ConfigError) as refused:
        refuse_changed_versions(Path("runs/x"), changed)
    assert "  torch: 2.12.0 before, 2.13.0 now\n  device: a before, b now\n" in str(refused.value)
    assert "resume with machine.strict_versions=false" in str(refused.value)


def stopped_under_other_torch(config, monkeypatch):
    """A run that was stopped at its first step, whose run.json tells of another torch."""

    def stop(*args, **kwargs):
        raise PreemptedError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("train.engine.engine.Engine.advance", stop)
        with pytest.raises(PreemptedError):
            train_run(config, validate(config))
    folder = RunFolder(next(Path(config.paths.runs, "tiny").glob("d*")))
    facts = read_json(folder.run)
    facts["versions"]["torch"] = "1.0"
    write_json(folder.run, facts)
    return folder


def test_a_resume_under_another_torch_is_told_and_recorded(make_config, monkeypatch):
    config = make_config()
    folder = stopped_under_other_torch(config, monkeypatch)
    with pytest.warns(UserWarning, match=r"changed since its last attempt: .*torch 1\.0 -> 2\."):
        train_run(config, validate(config))
    starts = [row for row in read_jsonl(folder.attempts) if row["event"] == "start"]
    assert "changed" not in starts[0]
    assert starts[1]["changed"]["torch"][0] == "1.0"
    assert re.match(r"2\.", starts[1]["versions"]["torch"])


def test_strict_versions_refuse_it_and_write_nothing_over(make_config, monkeypatch):
    config = make_config(machine=MachineConfig(log_every=10, strict_versions=True))
    folder = stopped_under_other_torch(config, monkeypatch)
    before = folder.run.read_bytes()
    with pytest.raises(ConfigError, match=r"torch: 1\.0 before, 2\.") as refused:
        train_run(config, validate(config))
    assert refused.value.exit_code == 2
    assert folder.run.read_bytes() == before


def test_outside_a_checkout_git_has_nothing_to_say(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
