"""Reading a file must not run code: pickles, eval and shells are banned.

Every ban is tried on a snippet, so that a rule that is switched off is noticed. The source is then
walked without the linter, because `noqa` comments could hide a use.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

BANS = {
    "import pickle": "TID251",
    "from pickle import loads": "TID251",
    "import dill": "TID251",
    "import joblib": "TID251",
    "import shelve": "TID251",
    "import marshal": "TID251",
    "import torch\ntorch.load('x')": "TID251",
    "import torch\ntorch.serialization.add_safe_globals([])": "TID251",
    "import torch\ntorch.hub.load('x', 'y')": "TID251",
    "import numpy as np\nnp.load('x')": "TID251",
    "import pandas as pd\npd.read_pickle('x')": "TID251",
    "import yaml\nyaml.load('x', Loader=yaml.Loader)": "TID251",
    "import yaml\nyaml.unsafe_load('x')": "TID251",
    "from hydra.utils import instantiate": "TID251",
    "import os\nos.system('ls')": "TID251",
    "import os\nos.popen('ls')": "TID251",
    "import subprocess\nsubprocess.getoutput('ls')": "TID251",
    "import subprocess\nsubprocess.run('ls', shell=True)": "S602",
    "def f(x: str) -> object:\n    return eval(x)": "S307",
    "def f(x: str) -> None:\n    exec(x)": "S102",
}

NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy"}
CALLS = {
    "torch.load",
    "torch.serialization.add_safe_globals",
    "torch.hub.load",
    "np.load",
    "numpy.load",
    "pd.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "hydra.utils.instantiate",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
}
CHECKPOINTS = "train/run_folder/checkpoint.py"
"""The module that may call torch.load, with weights_only=True."""

ALLOWED = {CHECKPOINTS: {"torch.load", "pickle.UnpicklingError"}}
"""The second is an exception that torch.load raises; nothing is unpickled with it."""


def lint(code, name):
    """Rows and codes of ruff's findings in `code`, as the file `name`."""
    words = ["check", "--output-format=json", "--stdin-filename", name, "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words],
        input=f'"""A module."""\n\n{code}\n',
        capture_output=True,
        text=True,
        cwd=REPO,
        check=False,
    )
    return [(found["location"]["row"], found["code"]) for found in json.loads(done.stdout)]


@pytest.mark.parametrize("package", ["train", "analysis", "scripts"])
def test_the_linter_refuses_each_way_to_run_foreign_code(package):
    found = lint("\n".join(BANS), f"{package}/new.py")
    row = 3
    for code, rule in BANS.items():
        rows = range(row, row := row + code.count("\n") + 1)
        assert any(each in rows and name == rule for each, name in found), code


@pytest.mark.parametrize(
    ("code", "name", "is_refused"),
    [
        ("import torch\n\ntorch.load('x')", CHECKPOINTS, False),
        ("import torch\n\ntorch.load('x')", "train/training/run_state.py", True),
        ('import json\n\nX = json.loads("{}")', "train/new.py", False),
    ],
)
def test_the_linter_allows_what_is_innocent(code, name, is_refused):
    assert ("TID251" in {rule for _, rule in lint(code, name)}) is is_refused


def offences(name, code):
    """Uses of what is banned in the file `name`, by a walk of the syntax tree."""
    allowed = ALLOWED.get(name, set())
    for node in ast.walk(ast.parse(code)):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            used = {module + alias.name for alias in node.names} - allowed
            if any(each in CALLS or each.split(".")[0] in MODULES for each in used):
                yield f"{place} imports {sorted(used)}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in NAMES or called in CALLS - allowed:
                yield f"{place} calls {called}"
            true = {
                keyword.arg
                for keyword in node.keywords
                if isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            }
            if true & {"shell", "allow_pickle", "trust_remote_code"}:
                yield f"{place} passes {sorted(true)} as True"
            if called == "torch.load" and "weights_only" not in true:
                yield f"{place} loads without weights_only=True"


def test_the_source_has_none_of_it_whatever_the_linter_is_told():
    paths = [
        path for name in ("train", "analysis", "scripts") for path in REPO.glob(f"{name}/**/*.py")
    ]
    assert len(paths) > 100
    found = []
    for path in paths:
        found += offences(path.relative_to(REPO).as_posix(), path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize("code", [*BANS, "f(allow_pickle=True)", "torch.load('x')"])
def test_control_the_walk_finds_each_as_well(code):
    assert list(offences("train/new.py", code))


def test_control_the_walk_sees_a_checkpoint_loaded_without_weights_only():
    assert "torch.load(" in (REPO / CHECKPOINTS).read_text(encoding="utf-8")
    for words in ("", ", weights_only=False"):
        assert list(offences(CHECKPOINTS, f"torch.load('x'{words})"))
    assert not list(offences(CHECKPOINTS, "torch.load('x', weights_only=True)"))
