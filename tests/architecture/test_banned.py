"""What can run foreign code is refused by the linter, and is not in the source.

Every ban is tried on a snippet, so that a rule that is switched off is noticed; then the source is
walked without the linter, whose `noqa` comments could hide a use.
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
    "torch.load": {"train/run_folder/checkpoint.py"},
    "torch.serialization.add_safe_globals": set(),
    "torch.hub.load": set(),
    "np.load": set(),
    "numpy.load": set(),
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "os.system": set(),
    "os.popen": set(),
    "subprocess.getoutput": set(),
}
ALLOWED_IMPORTS = {"train/run_folder/checkpoint.py": {"pickle.UnpicklingError"}}
"""An exception that torch.load raises; nothing is unpickled with it."""


def lint(code, name):
    """Codes that ruff finds in `code`, were it in the file `name`."""
    words = ["check", "--output-format=json", "--stdin-filename", name, "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words],
        input=code,
        capture_output=True,
        text=True,
        cwd=REPO,
        check=False,
    )
    return {found["code"] for found in json.loads(done.stdout)}


@pytest.mark.parametrize("code", BANS)
def test_the_linter_refuses_each_way_to_run_foreign_code(code):
    text = f'"""A module."""\n\n{code}\n'
    assert BANS[code] in lint(text, "train/new.py")


@pytest.mark.parametrize("package", ["analysis", "scripts"])
def test_the_linter_refuses_it_in_every_package(package):
    assert "TID251" in lint('"""A module."""\n\nimport pickle\n', f"{package}/new.py")


def test_torch_load_is_allowed_in_the_checkpoints_alone():
    text = '"""A module."""\n\nimport torch\n\ntorch.load("x")\n'
    assert "TID251" not in lint(text, "train/run_folder/checkpoint.py")
    assert "TID251" in lint(text, "train/training/run_state.py")


def test_an_innocent_module_is_not_refused():
    assert lint('"""A module."""\n\nimport json\n\nX = json.loads("{}")\n', "train/new.py") == set()


def offences(path, code):
    """Uses of what is banned, by a walk of the syntax tree."""
    name = path.relative_to(REPO).as_posix() if path.is_absolute() else path.as_posix()
    allowed = ALLOWED_IMPORTS.get(name, set())
    for node in ast.walk(ast.parse(code)):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in MODULES:
                    yield f"{place} imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names} - allowed
            if (node.module or "").split(".")[0] in MODULES and names:
                yield f"{place} imports {sorted(names)}"
            yield from (f"{place} imports {used}" for used in names & CALLS.keys())
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in NAMES or name not in CALLS.get(called, {name}):
                yield f"{place} calls {called}"
            is_weights_only = False
            for keyword in node.keywords:
                is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg in ("shell", "allow_pickle", "trust_remote_code") and is_true:
                    yield f"{place} passes {keyword.arg}=True"
                is_weights_only |= keyword.arg == "weights_only" and is_true
            if called == "torch.load" and not is_weights_only:
                yield f"{place} loads without weights_only=True"


SOURCES = [
    path for name in ("train", "analysis", "scripts") for path in (REPO / name).rglob("*.py")
]


def test_the_source_has_none_of_it_whatever_the_linter_is_told():
    assert len(SOURCES) > 100
    found = [
        offence for path in SOURCES for offence in offences(path, path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("code", [*BANS, "f(allow_pickle=True)", "torch.load('x')"])
def test_control_the_walk_finds_each_as_well(code):
    if code in ("from hydra.utils import instantiate", "import pandas as pd\npd.read_pickle('x')"):
        return  # the linter's alone
    assert list(offences(Path("train/new.py"), code))


def test_control_the_walk_sees_a_checkpoint_loaded_without_weights_only():
    path = Path("train/run_folder/checkpoint.py")
    assert "torch.load(" in (REPO / path).read_text(encoding="utf-8")
    for words in ("", ", weights_only=False"):
        assert list(offences(path, f"torch.load('x'{words})"))
    assert not list(offences(path, "torch.load('x', weights_only=True)"))
