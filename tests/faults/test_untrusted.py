"""A study file of somebody else's: it executes nothing, writes nothing, and is no bomb.

The file is given by --config-dir, as a colleague's would be. The controls show that Hydra alone
does what these files ask.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.foreign import WORDS, Command, files_in, study_words
from faults.patches import Replace
from faults.runner import run_child
from train.config import yaml_limits
from train.config.schema import Config

CODE = {
    "a callback writes a file": (
        "hydra: {{callbacks: {{x: {{_target_: pathlib.Path.write_text, "
        "_args_: [{{_target_: pathlib.Path, _args_: ['{target}']}}, hi]}}}}}}"
    ),
    "a callback fetches a file": (
        "hydra: {{callbacks: {{x: {{_target_: urllib.request.urlretrieve, "
        "url: 'file:///etc/hostname', filename: '{target}'}}}}}}"
    ),
    "a callback makes a folder": (
        "hydra: {{callbacks: {{x: {{_target_: os.mkdir, path: '{target}'}}}}}}"
    ),
    "logging opens a file": (
        "hydra: {{job_logging: {{handlers: {{f: {{class: logging.FileHandler, "
        "filename: '{target}'}}}}, root: {{level: DEBUG, handlers: [f]}}}}}}"
    ),
    "logging calls a factory": (
        "hydra: {{hydra_logging: {{handlers: {{f: {{'()': os.mkdir, path: '{target}'}}}}, "
        "root: {{level: DEBUG, handlers: [f]}}}}}}"
    ),
}
"""What hydra-core 1.3.8 does when it is asked to."""


@pytest.mark.parametrize("name", CODE)
def test_code_in_a_study_file_is_refused_by_its_key(
    tmp_path: Path, train_command: Command, name: str
) -> None:
    target = tmp_path / "executed"
    words = study_words(tmp_path / "theirs", CODE[name].format(target=target))
    for multirun in ([], ["-m"]):
        code, said = train_command(*multirun, *words)
        assert code == 2
        assert said.startswith("error: hydra.")
        assert "not a config's to choose" in said
        assert not target.exists()
    assert files_in(tmp_path / "work") == {}


@pytest.mark.parametrize("name", CODE)
def test_control_without_the_guard_hydra_executes_it(
    tmp_path: Path, tiny: Callable[..., Config], name: str
) -> None:
    target = tmp_path / "executed"
    words = study_words(tmp_path / "theirs", CODE[name].format(target=target))
    outcome = run_child(
        tiny(), Replace("train.__main__:guarded", contextlib.nullcontext), arguments=words
    )
    assert target.exists(), outcome


def test_control_a_sweeper_s_node_is_instantiated_too(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    target = tmp_path / "executed"
    text = SWEEPER.format(target=target)
    words = ["-m", *study_words(tmp_path / "theirs", text)]
    unguarded = Replace("train.__main__:guarded", contextlib.nullcontext)
    outcome = run_child(tiny(), unguarded, arguments=words)
    assert target.exists(), outcome


SWEEPER = "hydra: {{sweeper: {{params: {{a: {{_target_: os.mkdir, path: '{target}'}}}}}}}}"

REFUSED = {
    SWEEPER.format(target="x"): "hydra.sweeper.params.a._target_: nothing is instantiated",
    "hydra: {sweeper: {params: {a: '${oc.env:HOME}'}}}": "hydra.sweeper.params.a=${oc.env:HOME}",
    "hydra: {launcher: {_target_: os.system}}": (
        "hydra.launcher._target_=os.system: not one of ours; use hydra/launcher=local"
    ),
    "hydra: {job: {chdir: true}}": "hydra.job.chdir=True",
    "hydra: {job: {env_set: {WANDB_BASE_URL: 'http://127.0.0.1'}}}": "hydra.job.env_set=",
    "hydra: {job: {env_copy: [HOME]}}": "hydra.job.env_set={'HOME':",
    "hydra: {searchpath: ['file:///tmp']}": "hydra.searchpath",
    "study: {name: ../../x}": "study.name='../../x': must start with a letter",
    "study: {name: /tmp/x}": "study.name='/tmp/x': must start",
    "data: {name: ..}": "data.name='..': must start",
    "study: {question: !!python/object/apply:os.mkdir [x]}": (
        "mine.yaml:2: the tag !!python/object/apply:os.mkdir is not read; write plain values"
    ),
    "study: {question: !unknown x}": "mine.yaml:2: the tag !unknown is not read",
    "study: [": "mine.yaml:2: not YAML (",
    "study: {question: *nobody}": "the alias *nobody has no whole anchor before it",
    "study: {grid: &g [*g]}": "the alias *g has no whole anchor before it",
    f"seed: {'9' * 6000}": "mine.yaml: cannot be read (",
    f"study: {{question: {'[' * 21}{']' * 21}}}": "mine.yaml: nested more than 20 levels deep",
    f"study: {{question: {'[' * 20_000}{']' * 20_000}}}": "mine.yaml: nested more than 20",
    "x" * 300_000: "300020 bytes, and a config file has at most 200000",
    "data: {files: [x"
    + "".join(f", '${{data.files.{i}}}${{data.files.{i}}}'" for i in range(40))
    + "]}": "the config has 80 interpolations (${...}), more than 20; write values instead",
}


def bomb(levels: int) -> str:
    """A list of ten, of ten, of ten: 10 ** levels nodes by aliases."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


REFUSED[bomb(9)] = "mine.yaml: its aliases expand to over 5000 nodes"


@pytest.mark.parametrize("text", REFUSED, ids=[message[:40] for message in REFUSED.values()])
def test_a_hostile_file_is_refused_by_name_and_at_once(
    tmp_path: Path, train_command: Command, text: str
) -> None:
    words = study_words(tmp_path / "theirs", text)
    began = time.monotonic()
    code, said = train_command(*words)
    assert time.monotonic() - began < 10.0
    assert code == 2
    assert REFUSED[text] in said
    assert "Traceback" not in said
    assert files_in(tmp_path / "work") == {}


def test_control_a_small_bomb_goes_off_without_the_limits(
    tmp_path: Path, train_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = study_words(tmp_path / "theirs", bomb(2))
    with monkeypatch.context() as lower:
        lower.setattr(yaml_limits, "MOST_NODES", 100)
        assert "aliases expand to over 100 nodes" in train_command(*words)[1]
    yaml_limits._check_text.cache_clear()
    code, said = train_command(*words)
    assert (code, "a0: unknown" in said) == (2, True)  # its 110 nodes were built


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("[{'hydra.run.dir': [/tmp]}]", "axis 'hydra.run.dir' is no config key"),
        ("[{'+hydra.callbacks.x': ['{_target_: os.mkdir}']}]", "axis '+hydra.callbacks.x' is no"),
        ("[{'--config-dir': [/tmp]}]", "axis '--config-dir' is no config key"),
        ("[{'~model': [x]}]", "axis '~model' is no config key"),
        ("[{seed: []}]", "study.grid: axis seed is []; it must be a list of at least one value"),
        (
            "[{" + ", ".join(f"k{i}: {list(range(50))}" for i in range(9)) + "}]",
            "the grid has 1953125000000000 runs; at most 100000 can be planned",
        ),
    ],
)
def test_a_grid_cannot_reach_the_command_s_options_nor_fill_the_memory(
    tmp_path: Path, train_command: Command, grid: str, message: str
) -> None:
    code, said = train_command("-m", *study_words(tmp_path / "theirs", f"study: {{grid: {grid}}}"))
    assert code == 2
    assert message in said


@pytest.mark.parametrize("kind", ["launcher", "sweeper"])
def test_a_launcher_or_sweeper_that_is_not_ours_is_refused(
    train_command: Command, kind: str
) -> None:
    code, said = train_command(f"hydra/{kind}=basic", "data=synthetic", "budget.tokens=3")
    assert code == 2
    assert f"hydra.{kind}._target_=hydra._internal.core_plugins.basic_" in said
    assert f"not one of ours; use hydra/{kind}=" in said


@pytest.mark.parametrize("option", ["--experimental-rerun", "--experimental-rerun=x", "--exp"])
def test_hydra_s_option_that_loads_a_pickle_is_refused(train_command: Command, option: str) -> None:
    code, said = train_command(option, "job.pickle", *WORDS)
    assert code == 2
    assert "loads a pickle, which can run any code" in said


def test_a_decent_study_of_somebody_else_s_is_read(tmp_path: Path, train_command: Command) -> None:
    """The guard lets pass what it should: the refusal is validate's own."""
    text = (
        "study: {name: theirs, grid: &g [{seed: [1, 2]}], question: 'a: b'}\nmachine: {threads: 1}"
    )
    code, said = train_command(*study_words(tmp_path / "theirs", text))
    assert code == 2
    assert said.startswith("error: the budget asks for 3 tokens, fewer than one batch")
