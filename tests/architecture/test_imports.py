"""Who may import whom (DESIGN, section 4), read from the source and checked in a fresh process."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("train", "analysis")
PURE = (
    "config",
    "counting",
    "errors",
    "identity",
    "planning",
    "plumbing",
    "ranges",
    "records",
    "schedule",
    "science",
    "shape",
)
HYDRA_MODULES = {
    "train.__main__",
    "train.config.compose",
    "train.plan.grid",
    "train.config.compose_cache",
    "train.config.hydra_node",
    "train.plugins.hydra_plugins.windtunnel.local",
    "train.plugins.hydra_plugins.windtunnel.sweeper",
}

WANDB_PROCESS = "analysis.intake.wandb_fetch"
"""A script that analysis starts; it imports wandb in its functions."""


def module_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for package in PACKAGES for path in (REPO / package).rglob("*.py")}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that `path` imports anywhere, functions included, as a dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in SOURCES else node.module for name in names)


IMPORTS = {module: set(imports_of(path)) for module, path in SOURCES.items()}


def importers_of(package: str) -> set[str]:
    return {
        module
        for module, names in IMPORTS.items()
        if any(name.split(".")[0] == package for name in names)
    }


def test_the_walk_sees_the_source() -> None:
    assert {"train.training.loop", "train.data.shards", "analysis.isoflop.fit"} <= set(SOURCES)
    assert "train.training.stack" in IMPORTS["train.training.loop"]
    assert "torch" in IMPORTS["train.model.transformer"]


def test_wandb_is_imported_in_two_processes_of_their_own_alone() -> None:
    assert importers_of("wandb") == {"train.tracking.wandb_run", WANDB_PROCESS}


def test_only_the_mirror_s_process_reaches_the_module_that_imports_wandb() -> None:
    users = {module for module, names in IMPORTS.items() if "train.tracking.wandb_run" in names}
    assert users == {"train.tracking.wandb_mirror"}
    assert not {
        module for module, names in IMPORTS.items() if "train.tracking.wandb_mirror" in names
    }


def test_nothing_imports_the_process_that_reads_wandb() -> None:
    assert not {module for module, names in IMPORTS.items() if WANDB_PROCESS in names}


def test_hydra_is_imported_at_the_entry_points_compose_grid_and_plugins_alone() -> None:
    assert importers_of("hydra") == HYDRA_MODULES


def test_analysis_takes_only_records_and_counting_from_train() -> None:
    taken = {
        name
        for module, names in IMPORTS.items()
        if module.split(".")[0] == "analysis"
        for name in names
        if name.split(".")[0] == "train"
    }
    assert taken <= {"train.storage.records", "train.plan.counting"}


def test_train_takes_nothing_from_analysis() -> None:
    assert not {module for module in importers_of("analysis") if module.startswith("train")}


def part_of(module: str) -> str:
    """The package of analysis that a module is in, or the module itself."""
    first = ".".join(module.split(".")[:2])
    return f"{first}/" if SOURCES[first].name == "__init__.py" else first


def test_the_parts_of_the_analysis_build_on_each_other_without_a_ring() -> None:
    edges: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        if module.startswith("analysis."):
            ours = {part_of(name) for name in names if name.startswith("analysis.")}
            edges.setdefault(part_of(module), set()).update(ours - {part_of(module)})
    assert "analysis.scrutiny/" in edges["analysis.fits"]
    while free := [part for part, below in edges.items() if not below]:
        for part in free:
            del edges[part]
        for below in edges.values():
            below.difference_update(free)
    assert edges == {}


@pytest.mark.parametrize("package", ["figures", "report"])
def test_figures_and_the_report_are_made_by_the_command_alone(package: str) -> None:
    users = {
        module
        for module, names in IMPORTS.items()
        if any(f"{name}.".startswith(f"analysis.{package}.") for name in names)
    }
    outside = {module for module in users if not module.startswith(f"analysis.{package}")}
    assert outside <= {"analysis.__main__", "analysis.report"}


@pytest.mark.parametrize("package", ["scripts", "tests", "configs"])
def test_nothing_imports_scripts_tests_or_configs(package: str) -> None:
    assert importers_of(package) == set()


@pytest.mark.parametrize("package", ["torch", "wandb", "hydra"])
def test_analysis_imports_no_trainer_s_package(package: str) -> None:
    importers = {module for module in importers_of(package) if module.startswith("analysis")}
    assert importers <= ({WANDB_PROCESS} if package == "wandb" else set())


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_leans_on_pure_modules_and_the_standard_library(module: str) -> None:
    """By what it reaches, not only by what it names."""
    reached, waiting = set(), {f"train.{module}"}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= IMPORTS.get(name, set()) - reached
    ours = {name for name in reached if name.split(".")[0] in PACKAGES}
    assert ours <= {f"train.{name}" for name in PURE}
    assert {name.split(".")[0] for name in reached - ours} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_module_is_a_drawer_for_odds_and_ends(module: str) -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    assert not drawers & set(module.split("."))


def loaded_after(statement: str, *packages: str) -> set[str]:
    """Which of `packages` a fresh process holds after `statement`."""
    code = f"import sys; {statement}; print(*({packages!r} & sys.modules.keys()))"
    code = code.replace(repr(packages), repr(set(packages)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_analysis_loads_no_torch_wandb_or_hydra() -> None:
    modules = ", ".join(
        name for name in sorted(SOURCES) if name.startswith("analysis") and "__main__" not in name
    )
    assert loaded_after(f"import {modules}", "torch", "wandb", "hydra") == set()


def test_no_command_of_the_analysis_waits_for_matplotlib() -> None:
    commands = "import analysis.__main__, analysis.predict, analysis.next"
    assert loaded_after(commands, "torch", "wandb", "hydra", "matplotlib", "scipy.stats") == set()


def test_a_prediction_loads_no_figures_and_no_other_approach() -> None:
    heavy = ("analysis.fits", "analysis.isoflop.fit", "analysis.parametric.fit", "matplotlib")
    assert loaded_after("import analysis.predict", *heavy) == set()


def test_importing_counting_and_records_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "hydra", "omegaconf", "wandb")
    assert (
        loaded_after(
            "import train.plan.counting, train.storage.records, train.plan.planning", *heavy
        )
        == set()
    )
    assert loaded_after("import numpy", *heavy) == {"numpy"}  # the probe sees what is there


def test_the_training_code_loads_without_wandb_and_datasets() -> None:
    extras = ("wandb", "datasets", "huggingface_hub")
    code = "import train.__main__, train.training.trainer, train.tracking.tracker"
    assert loaded_after(code, *extras) == set()


def test_the_mirror_s_process_loads_no_torch_and_wandb_only_in_its_worker() -> None:
    heavy = ("torch", "numpy", "hydra", "wandb")
    assert loaded_after("import train.tracking.wandb_mirror", *heavy) == set()
