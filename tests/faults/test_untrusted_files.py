"""Checkpoints, manifests and tables of somebody else: nothing is executed, nothing left or deleted
outside the folder that they are in. Row C7 of the fault catalogue, through the whole run.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
import torch
from markupsafe import Markup

from analysis.__main__ import main as analyse
from faults.damage import step_name, train_and_kill
from faults.runner import run_here
from faults.same_run import assert_same_run
from tests.analysis.study_folders import isoflop_table
from train import status
from train.config.schema import Config
from train.run_folder import checkpoint, manifest
from train.run_folder.checkpoint import load_newest, save_checkpoint
from train.run_folder.run_folder import RunFolder
from train.storage.records import canonical_json, read_json, write_json

Make = Callable[..., Config]


class Exploit:
    """Unpickled by the usual means, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def plant(folder: Path, name: str, target: Path) -> None:
    """Replace a checkpoint's file by an exploit that DONE.json vouches for."""
    torch.save({"w": Exploit(target)}, folder / name)
    done = read_json(folder / "DONE.json")
    content = (folder / name).read_bytes()
    done["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del done["sha256"]
    write_json(folder / "DONE.json", {**done, "sha256": checkpoint._digest(done)})


@pytest.fixture
def stopped(tiny: Make) -> tuple[Config, RunFolder]:
    """A run that was killed, with two checkpoints."""
    config = tiny()
    return config, train_and_kill(config)


@pytest.mark.parametrize("name", ["model.pt", "optim.pt"])
def test_c7_code_in_a_checkpoint_with_right_hashes_is_not_run_and_the_run_goes_on(
    tmp_path: Path, stopped: tuple[Config, RunFolder], reference_run: RunFolder, name: str
) -> None:
    config, folder = stopped
    target = tmp_path / "executed"
    newest = sorted(folder.checkpoints.glob("step_*"))[-1]
    plant(newest, name, target)
    with pytest.warns(UserWarning, match=newest.name):
        run_here(config)
    assert not target.exists()
    assert "weights_only" in read_json(folder.checkpoints / "bad" / f"{newest.name}.json")["reason"]
    assert_same_run(folder, reference_run)


def test_c7_control_without_weights_only_it_is_executed(
    tmp_path: Path, stopped: tuple[Config, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = stopped
    target = tmp_path / "executed"
    plant(sorted(folder.checkpoints.glob("step_*"))[-1], "model.pt", target)
    load = torch.load  # noqa: TID251

    def trusting(path: Path, **options: Any) -> Any:
        return load(path, **{**options, "weights_only": False})

    monkeypatch.setattr(torch, "load", trusting)
    with pytest.raises(Exception, match=r".+"):  # what it left is no state dict
        run_here(config)
    assert target.exists()


def save(root: Path, step: int) -> Path:
    weight = {"w": torch.tensor([float(step)])}
    return save_checkpoint(root, step, model=weight, optimizer={}, state={}, keep=2)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the run's, laid out as a trap."""
    folder = tmp_path / "outside"
    for name in ("", step_name(20), "step_00000020.partial", step_name(5)):
        (folder / name).mkdir(exist_ok=True, parents=True)
        (folder / name / "precious").write_text("x", encoding="utf-8")
    return folder


def precious(outside: Path) -> int:
    return len(list(outside.rglob("precious")))


def test_links_in_a_checkpoint_folder_delete_and_move_nothing_outside(
    tmp_path: Path, outside: Path
) -> None:
    root = tmp_path / "checkpoints"
    save(root, 10)
    newest = save(root, 20)
    (newest / "model.pt").write_bytes(b"damaged")
    (root / "bad").symlink_to(outside)
    (root / step_name(5)).symlink_to(outside / step_name(5))
    (root / "step_00000030.partial").symlink_to(outside / "step_00000020.partial")
    found = load_newest(root)
    assert found is not None
    assert found.step == 10
    save(root, 30)
    save(root, 40)
    assert precious(outside) == 4
    assert sorted(path.name for path in outside.iterdir()) == [
        "precious",
        step_name(5),
        step_name(20),
        "step_00000020.partial",
    ]
    assert (root / "bad" / step_name(20)).is_dir()


def test_control_a_bad_folder_that_is_a_link_would_delete_outside(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkpoints"
    save(root, 10)
    (save(root, 20) / "model.pt").write_bytes(b"damaged")
    (root / "bad").symlink_to(outside)
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    assert load_newest(root) is not None
    assert precious(outside) == 3


def test_a_partial_file_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (tmp_path / "status.json.partial").symlink_to(victim)
    write_json(tmp_path / "status.json", {"state": "running"})
    assert victim.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "status.json").is_symlink()


def study_of(runs: Path, run_id: str) -> Path:
    """A study whose manifest, with its right hash, names `run_id`."""
    plan = {"rung": "d32l2", "steps": 10, "flops": 100}
    entries = [{"run_id": run_id, "plan": plan, "overrides": [], "science": {}}]
    digest = hashlib.sha256(canonical_json(entries).encode()).hexdigest()
    (runs / "theirs").mkdir(parents=True)
    content = {"schema": 1, "study": "theirs", "sha256": digest, "runs": entries}
    write_json(runs / "theirs" / "manifest.json", content)
    return runs


@pytest.mark.parametrize(
    "run_id", ["../../elsewhere", "/elsewhere", "..", ".hidden", "a/b", "", "A"]
)
def test_a_run_id_that_leads_out_of_the_study_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_id: str
) -> None:
    runs = study_of(tmp_path / "runs", run_id)
    assert status.main(["study=theirs", f"runs={runs}"]) == 2
    assert "cannot name a folder of the study" in capsys.readouterr().err
    if run_id not in (".hidden", "A"):  # which stay in the study, where the analysis reads
        assert analyse(["study=theirs", f"runs={runs}"]) == 2
        assert "is not a folder's name" in capsys.readouterr().err


def test_control_without_the_look_at_ids_a_folder_elsewhere_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = study_of(tmp_path / "runs", "../../elsewhere")
    write_json_at(tmp_path / "elsewhere" / "status.json", {"state": "failed", "reason": "read"})
    monkeypatch.setattr(manifest, "refuse_hostile_manifest", lambda path, content: None)
    status.main(["study=theirs", f"runs={runs}"])
    assert "elsewhere" in capsys.readouterr().out


def write_json_at(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(value), encoding="utf-8")


SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"


def hostile_table(folder: Path) -> Path:
    """Names and ids that would act in a page, a shell, a spreadsheet or Python."""
    table = isoflop_table(noise=0.001)
    words = [SCRIPT, IMAGE, "'; rm -rf ~; '", "__import__('os').mkdir('executed')", "../../out"]
    table["run_id"] = [f"{words[row % len(words)]}{row}" for row in range(len(table))]
    table["state"] = ["diverged" if row < 5 else "completed" for row in range(len(table))]
    table["study"] = IMAGE
    table["rung"] = SCRIPT
    table[SCRIPT] = IMAGE
    path = folder / "table.csv"
    table.to_csv(path, index=False)
    return path


def test_a_hostile_table_is_shown_as_text_and_written_in_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    path = hostile_table(tmp_path)
    assert analyse([f"table={path}", "out=answer", "bootstrap=100"]) == 0
    page = (work / "answer" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert SCRIPT not in page
    assert IMAGE not in page
    assert not list(tmp_path.rglob("executed"))
    assert {entry.name for entry in tmp_path.rglob("*") if entry.is_file()} - {
        entry.name for entry in (work / "answer").rglob("*")
    } == {"table.csv"}
    assert (
        SCRIPT
        in json.loads((work / "answer" / "fits.json").read_text())["inputs"]["excluded"][0][
            "run_id"
        ]
    )  # told, as text


def test_control_without_escaping_the_script_is_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trusting(jinja2.Environment):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **{**options, "autoescape": False})

    monkeypatch.setattr(jinja2, "Environment", Trusting)
    typeset = sys.modules["analysis.report.typeset"]  # the function of that name hides it
    monkeypatch.setattr(typeset, "escape", Markup)
    path = hostile_table(tmp_path)
    assert analyse([f"table={path}", f"out={tmp_path / 'answer'}", "bootstrap=100"]) == 0
    assert SCRIPT in (tmp_path / "answer" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').mkdir('executed')",
        "@__import__('os').mkdir('executed') == 1",
        "flops < __import__('os').mkdir('executed')",
        "flops.__class__ == 1",
    ],
)
def test_a_filter_is_never_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    isoflop_table().to_csv("table.csv", index=False)
    assert analyse(["table=table.csv", f"where={where}", "bootstrap=100"]) == 2
    assert not (tmp_path / "executed").exists()


def test_control_pandas_own_filter_would_call(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    make = target.mkdir
    pd.DataFrame({"a": [1]}).eval("@make()", engine="python", local_dict={"make": make})
    assert target.exists()
