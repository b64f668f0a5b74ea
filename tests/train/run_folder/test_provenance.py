"""What can move a run's bits from one attempt to the next is told, and refused on request."""

from pathlib import Path

import pytest

from train.errors import ConfigError
from train.run_folder.provenance import changed_versions, git_state, refuse_changed_versions

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


def test_outside_a_checkout_git_has_nothing_to_say(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
