"""Study files of one's own, and the real command in this process."""

import sys
from collections.abc import Callable

import pytest

from train import __main__ as command

Command = Callable[..., tuple[int, str]]
"""Words of the command line to exit code and standard error."""

WORDS = (
    "study=mine",
    "data=synthetic",
    "machine=cpu",
    # refused by validate: nothing is trained
    "budget.tokens=3",
)


def study_words(folder, text):
    """Write the study `mine` below `folder` and return the words that start it."""
    (folder / "study").mkdir(parents=True, exist_ok=True)
    (folder / "study" / "mine.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
    return ["--config-dir", str(folder), *WORDS]


def files_in(folder):
    """Every file below `folder`, links not followed, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def train_command(monkeypatch, capsys, tmp_path):
    """Run `python -m train WORDS` in this process and in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["train", *words])
        capsys.readouterr()
        code = command.main()
        return code, capsys.readouterr().err

    return run
