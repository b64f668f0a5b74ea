"""No secret in any file of a run: environment, netrc, git remote, config file and command line.

Canaries are put in each of these places, and then every byte below the workplace is read, wandb's
files included. The controls leave the protection out and find them.
"""

import os
import subprocess
from collections.abc import Callable

import pytest

from faults.foreign import files_in, study_words
from faults.overrides import as_overrides
from faults.patches import Replace
from faults.runner import run_child
from train import __main__ as command
from train.config.runtime import TrackerConfig, TrackerKind, WandbMode
from train.config.schema import Config
from train.run_folder.provenance import git_state

CANARIES = {
    "WANDB_API_KEY": "c0ffee" * 6 + "beef",  # the 40 characters that wandb asks for
    "HF_TOKEN": "hf_CanaryOfTheHub0123456789",
    "AWS_SECRET_ACCESS_KEY": "canary/of+the/cloud/0123456789abcdefghij",
}
NETRC = "canary-of-the-netrc-9876"
REMOTE = "canary-of-the-remote-5555"
WORD = "canary-of-the-override-7777"
ALL = (*CANARIES.values(), NETRC, REMOTE, WORD)

Make = Callable[..., Config]


@pytest.fixture(autouse=True)
def secrets(tmp_path, monkeypatch):
    """Every canary but the override's, where a machine would have it."""
    for name, canary in CANARIES.items():
        monkeypatch.setenv(name, canary)
    netrc = tmp_path / "home" / ".netrc"
    netrc.parent.mkdir()
    netrc.write_text(f"machine api.example.org login me password {NETRC}\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(netrc.parent))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git = ["git", "-C", str(checkout)]
    url = f"https://me:{REMOTE}@example.org/x.git"
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", url],
        [*author, "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))  # what git sees from anywhere


def found_in(*folders):
    """Canaries by the files below `folders` that hold them."""
    found = {}
    for folder in folders:
        for name, content in files_in(folder).items():
            for canary in ALL:
                if canary.encode() in content:
                    found.setdefault(canary, []).append(name)
    return found


def mirrored(tiny, **changes):
    return tiny(
        budget__tokens=10 * 256.0,
        schedule__warmup_steps=2,
        tracker=TrackerConfig(kind=TrackerKind.wandb, mode=WandbMode.offline),
        **changes,
    )


def test_a_whole_run_with_wandb_leaves_no_secret_behind(tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra windtunnel[wandb] is not installed")
    monkeypatch.setenv("WINDTUNNEL_STUDY_JOB", "1")  # it writes a job.log, as in a study
    assert git_state(tmp_path)["commit"] is not None  # the checkout with the canary is seen
    outcome = run_child(mirrored(tiny))
    assert outcome.exit_code == 0, outcome
    files = files_in(outcome.folder.path)
    assert {"job.log", "config.yaml", "run.json", "result.json"} <= set(files)
    (kept,) = [content for name, content in files.items() if name.endswith(".wandb")]
    assert outcome.folder.path.name.encode() in kept  # its text can be searched
    assert found_in(tmp_path / "runs") == {}
    assert not any(canary in outcome.stdout + outcome.stderr for canary in ALL)


SMUGGLED = [
    f"study.question='{CANARIES['HF_TOKEN']}'",
    "study.question='${oc.env:AWS_SECRET_ACCESS_KEY}'",
    f"study.question='git+https://me:{WORD}@example.org/x.git'",
    f"tracker.project='{NETRC}'",
]


@pytest.mark.parametrize("word", SMUGGLED)
def test_a_config_with_a_secret_is_refused_before_anything_is_written(
    tiny, tmp_path, train_command, word
):
    config = tiny()
    kept = [given for given in as_overrides(config) if given.split("=")[0] != word.split("=")[0]]
    code, said = train_command(*kept, word)
    assert code == 2
    assert said.startswith(f"error: {word.split('=')[0]}: holds ")
    assert not any(canary in said for canary in ALL)
    assert not (tmp_path / "runs").exists()
    assert found_in(tmp_path / "work") == {}


@pytest.mark.parametrize("word", SMUGGLED)
def test_control_without_the_refusal_the_secret_is_in_the_run_folder(tiny, tmp_path, word):
    config = tiny(budget__tokens=6 * 256.0, schedule__warmup_steps=2)
    kept = [given for given in as_overrides(config) if given.split("=")[0] != word.split("=")[0]]
    unprotected = [
        Replace("train.config.compose:refuse_secrets", _pass),
        Replace("train.secrets:refuse_secrets", _pass),
    ]
    outcome = run_child(config, *unprotected, arguments=[*kept, word])
    assert outcome.exit_code == 0, outcome
    assert found_in(tmp_path / "runs")


def _pass(values):
    """In the place of refuse_secrets."""


def test_a_secret_of_a_study_file_is_refused_without_repeating_it(tmp_path, train_command):
    for text in (
        "study: {question: '${oc.env:HF_TOKEN}'}",
        "study: {grid: [{study.question: ['${oc.env:HF_TOKEN}'], seed: [1]}]}",
        "study: {grid: [{seed: ['${oc.env:HF_TOKEN}']}]}",
        "seed: ${oc.env:HF_TOKEN}",
    ):
        for multirun in ([], ["-m"]):
            code, said = train_command(*multirun, *study_words(tmp_path / "theirs", text))
            assert code == 2, text
            assert not any(canary in said for canary in ALL), said
    assert files_in(tmp_path / "work") == {}


@pytest.mark.parametrize(
    "word",
    [
        f"+hub_token={WORD}",
        f"hub_token={WORD}",
        f"++tracker.api_key='{WORD}'",
        f"+tracker.password='{WORD}",  # not even when Hydra cannot read it
    ],
)
def test_an_unknown_key_that_is_named_like_a_secret_is_refused_without_its_value(
    train_command, word
):
    code, said = train_command(word, "data=synthetic", "budget.tokens=3")
    assert code == 2
    assert "unknown" in said
    assert "given in the environment only, such as WANDB_API_KEY" in said
    assert WORD not in said


def test_control_hydra_itself_repeats_the_value(train_command, monkeypatch):
    monkeypatch.setattr(command, "refuse_secret_words", lambda words, known: None)
    code, said = train_command(f"+tracker.password='{WORD}", "data=synthetic")
    assert code == 2
    assert WORD in said


def test_a_bug_s_traceback_has_no_secret(tiny, train_command, monkeypatch):
    def bug(config):
        raise KeyError(os.environ["HF_TOKEN"])

    monkeypatch.setattr(command, "validate", bug)
    code, said = train_command("data=synthetic", "budget.tokens=163840")
    assert code == 1
    assert "Traceback" in said
    assert "KeyError: '***'" in said
    monkeypatch.setattr(command, "mask", str)
    assert CANARIES["HF_TOKEN"] in train_command("data=synthetic", "budget.tokens=163840")[1]
