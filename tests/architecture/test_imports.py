"""Which room may import which, read from the source.

Imports inside functions count. What a fresh process loads is checked at the end.
"""

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

ROOMS = {
    "errors": set(),
    "secrets": {"errors"},
    "signals": {"errors"},
    "storage": {"errors"},
    "config": {"storage", "secrets"},
    "data": {"config"},
    "plan": {"config", "data"},
    "model": {"plan"},
    "distributed": {"signals"},
    "engine": {"model", "data", "distributed"},
    "run_folder": {"plan", "data"},
    "tracking": {"config", "run_folder"},
    "training": {"engine", "run_folder", "tracking"},
    "study": {"engine", "run_folder", "tracking"},
    "plugins": {"study"},
    "status": {"study"},
    "__main__": {"study", "training"},
}
"""Rooms of train/, and what each may import: the rooms named and what those may import.

study/ starts training as processes, so it must not import it.
"""

WITHOUT_TORCH = ("errors", "secrets", "signals", "storage", "config", "data", "plan")
"""Rooms that reach no torch, through whatever they import."""

WANDB_READER = "analysis.intake.wandb_fetch"
"""A script that the analysis starts as a process; it imports wandb in its functions."""

IMPORTERS = {
    "wandb": ("train.tracking.wandb_run", WANDB_READER),
    "hydra": ("train.__main__", "train.config", "train.plan.grid", "train.plugins"),
    "analysis": ("analysis",),
    "scripts": (),
    "tests": (),
    "configs": (),
}
"""Modules, or packages of modules, that may import a package."""

ANALYSIS_FROM_TRAIN = {"train.storage.records", "train.plan.counting"}


def module_of(path):
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_of(path): path
    for package in ("train", "analysis")
    for path in REPO.glob(f"{package}/**/*.py")
}


def imports_of(path):
    """Every module that `path` imports anywhere, functions included, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in SOURCES else node.module for name in names)


IMPORTS = {module: set(imports_of(path)) for module, path in SOURCES.items()}


def is_within(module, package):
    return f"{module}.".startswith(f"{package}.")


def users_of(package):
    """Modules that import `package` or a module of it."""
    return {
        module for module, names in IMPORTS.items() if any(is_within(n, package) for n in names)
    }


def reached_from(module):
    """Every module that `module` imports, and what those import."""
    reached, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= IMPORTS.get(name, set()) - reached
    return reached


def room_of(module):
    """Second part of a module's name: a folder, or a file at the top of train/ or analysis/."""
    return f"{module}.".split(".")[1]


def rooms_imported(package):
    """The imports between the rooms of a package."""
    edges = {}
    for module, names in IMPORTS.items():
        if module != package and is_within(module, package):
            ours = {room_of(name) for name in names if is_within(name, package) and name != package}
            edges.setdefault(room_of(module), set()).update(ours - {room_of(module)})
    return edges


def allowed(room):
    return ROOMS[room].union(*map(allowed, ROOMS[room]))


def test_the_walk_sees_the_source():
    assert {"train.training.loop", "train.data.shards", "analysis.isoflop.fit"} <= set(SOURCES)
    assert "train.engine.engine" in IMPORTS["train.training.loop"]
    assert "torch" in reached_from("train.training.loop") - IMPORTS["train.training.loop"]
    assert "errors" in allowed("study")


def test_every_room_imports_only_rooms_that_it_may():
    edges = rooms_imported("train")
    assert edges.keys() == ROOMS.keys()
    too_many = {room: names - allowed(room) for room, names in edges.items()}
    assert {room: names for room, names in too_many.items() if names} == {}


@pytest.mark.parametrize("package", ["train", "analysis"])
def test_rooms_import_each_other_without_a_cycle(package):
    assert list(TopologicalSorter(rooms_imported(package)).static_order())


def test_modules_import_each_other_without_a_cycle():
    ours = {module: names & SOURCES.keys() - {module} for module, names in IMPORTS.items()}
    assert list(TopologicalSorter(ours).static_order())


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_a_room_without_torch_reaches_none(room):
    modules = {module for module in SOURCES if is_within(module, f"train.{room}")}
    assert modules
    assert {m for m in modules if any(is_within(n, "torch") for n in reached_from(m))} == set()


@pytest.mark.parametrize("package", IMPORTERS)
def test_a_package_is_imported_only_where_it_may_be(package):
    may = IMPORTERS[package]
    users = users_of(package)
    assert {user for user in users if not any(is_within(user, place) for place in may)} == set()
    assert all(any(is_within(user, place) for user in users) for place in may)


def test_nothing_imports_the_processes_that_import_wandb():
    assert users_of("train.tracking.wandb_run") == {"train.tracking.wandb_mirror"}
    assert users_of("train.tracking.wandb_mirror") == users_of(WANDB_READER) == set()


def test_the_analysis_takes_only_records_and_counting_from_train():
    taken = set().union(*(names for name, names in IMPORTS.items() if is_within(name, "analysis")))
    assert {name for name in taken if is_within(name, "train")} <= ANALYSIS_FROM_TRAIN
    assert not taken & {"torch", "hydra"}


@pytest.mark.parametrize("package", ["figures", "report"])
def test_figures_and_the_report_are_made_by_the_command_alone(package):
    outside = {m for m in users_of(f"analysis.{package}") if room_of(m) != package}
    assert outside <= {"analysis.__main__", "analysis.report"}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_module_is_a_drawer_for_odds_and_ends(module):
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    assert not drawers & set(module.split("."))


@pytest.mark.parametrize("path", sorted((REPO / "train").glob("*/__init__.py")), ids=str)
def test_the_docstring_of_a_room_names_the_file_to_open_first(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.search(r"[Oo]pen\s(\w+\.py)\sfirst", docstring)
    assert first, f"{path}: say what the room owns, what it must not know, and `Open X.py first`"
    assert (path.parent / first[1]).is_file(), first[1]


def loaded_after(statement, *packages):
    """Which of `packages` a fresh process holds after `statement`."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{statement}; import sys; print(*set({packages}) & set(sys.modules))",
        ],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


ANALYSIS = ", ".join(m for m in sorted(SOURCES) if is_within(m, "analysis") and "__main__" not in m)


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        (f"import {ANALYSIS}", ("torch", "wandb", "hydra")),
        (
            "import analysis.__main__, analysis.predict, analysis.next",
            ("torch", "wandb", "hydra", "matplotlib", "scipy.stats"),
        ),
        (
            "import analysis.predict",
            ("analysis.fits", "analysis.isoflop.fit", "analysis.parametric.fit", "matplotlib"),
        ),
        (
            "import train.plan.counting, train.storage.records, train.plan.planning",
            ("torch", "numpy", "hydra", "omegaconf", "wandb"),
        ),
        (
            "import train.__main__, train.training.trainer, train.tracking.tracker",
            ("wandb", "datasets", "huggingface_hub"),
        ),
        ("import train.tracking.wandb_mirror", ("torch", "numpy", "hydra", "wandb")),
    ],
    ids=["analysis", "commands", "predict", "pure", "train", "mirror"],
)
def test_a_fresh_process_loads_nothing_heavy(statement, heavy):
    assert loaded_after(statement, *heavy) == set()


def test_control_the_probe_sees_what_is_loaded():
    assert loaded_after("import numpy", "numpy", "torch") == {"numpy"}
