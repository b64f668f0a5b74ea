"""scripts/fault_drill.py: comparison and counts on hand-made study folders; a real drill."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

import fault_drill
from bench.figures import read_figures, write_figures
from drill.compare_studies import compare_studies
from drill.random_kills import MARK, Kill, Process, Storm, Victim, kill_all, look_up
from drill.report import (
    Drill,
    figures,
    leftovers,
    print_report,
    replayed_rows,
    steps_repeated,
    write_markdown,
)
from train.run_folder.checkpoint import save_checkpoint
from train.storage.records import append_jsonl, read_json, read_jsonl, write_json

REPO = Path(__file__).resolve().parents[2]
RUNS = ("d8-a", "d16-b")
STEPS = 40


def write_study(folder, *, seconds):
    """Two finished runs of 40 steps as training writes them; `seconds` sets the time columns."""
    entries = [
        {"run_id": run_id, "plan": {"rung": "d8", "steps": STEPS, "flops": 10}} for run_id in RUNS
    ]
    folder.mkdir()
    write_json(folder / "manifest.json", {"schema": 1, "runs": entries})
    for run_id in RUNS:
        run = folder / run_id
        run.mkdir()
        rows = [
            {"step": step, "loss": 1 / step, "grad_norm": 0.1, "seconds": seconds * step}
            for step in range(10, STEPS + 1, 10)
        ]
        append_jsonl(run / "metrics.jsonl", rows)
        append_jsonl(run / "evals.jsonl", [{"step": STEPS, "split": "validation", "loss": 1.5}])
        row = {"loss": 1.5, "seconds": seconds, "study": folder.name, "device": "a CPU"}
        result = {"state": "completed", "data_sha256": "d", "row": row, "files": {}}
        write_json(run / "result.json", result)
        write_json(run / "status.json", {"state": "completed", "step": STEPS})
        save(run, torch.arange(4.0))
        log_attempts(run, [(1, 0, None), (2, 20, {"rows": 1, "differing": 0, "largest": 0.0})])
    return folder


def save(run, weights, step=STEPS, optimizer=None):
    model, optimizer = {"w": weights}, optimizer or {"state": [torch.ones(2), 3]}
    state = {"seconds": 1.0}
    save_checkpoint(
        run / "checkpoints", step, model=model, optimizer=optimizer, state=state, keep=2
    )


def log_attempts(run, attempts):
    """Log attempts (number, first step, replayed rows); one without replayed rows was killed."""
    for attempt, start_step, replayed in attempts:
        start = {"event": "start", "attempt": attempt, "start_step": start_step, "pid": attempt}
        append_jsonl(run / "attempts.jsonl", [start])
        if replayed:
            end = {"event": "end", "attempt": attempt, "state": "completed", "replayed": replayed}
            append_jsonl(run / "attempts.jsonl", [end])


@pytest.fixture
def studies(tmp_path):
    return write_study(tmp_path / "reference", seconds=1), write_study(tmp_path / "s0", seconds=7)


def drill_of(reference, study, *kills, wanted=1):
    storm = Storm(
        command=[],
        folder=study,
        mark="t",
        kills_wanted=wanted,
        seconds_alone=10.0,
        rng=Random(0),
        kills=list(kills),
        launches=2,
        seconds=16.0,
        share=1.0,
    )
    return Drill(
        study="tiny",
        kills_wanted=wanted,
        reference=reference,
        seconds_alone=10.0,
        storms=(storm,),
        compared=tuple(compare_studies(reference, study)),
        settings=("machine.checkpoint_steps=20",),
    )


KILL = Kill(
    kind="one job",
    seconds=5.0,
    victims=(Victim(run_id="d8-a", attempt=1, last_step=30),),
)


def values(drill):
    return {row.name: row.value for row in figures(drill)}


def test_studies_that_differ_in_their_clocks_alone_are_the_same(studies):
    compared = compare_studies(*studies)
    assert [run.run_id for run in compared] == list(RUNS)
    assert all(run.is_same for run in compared)
    assert [run.rows for run in compared] == [5, 5]
    assert all(row.meets for row in figures(drill_of(*studies, KILL)))


def edit_row(path, number, **changes):
    rows = read_jsonl(path)
    rows[number].update(changes)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def keep_lines(path, keep, before=""):
    path.write_text(before + "".join(path.read_text().splitlines(keepends=True)[keep]))


def edit_result(run, loss):
    result = read_json(run / "result.json")
    result["row"]["loss"] = loss
    write_json(run / "result.json", result)


def save_earlier(run):
    shutil.rmtree(run / "checkpoints")
    save(run, torch.arange(4.0), step=20)


DAMAGES = [
    (
        lambda run: edit_row(run / "metrics.jsonl", 2, loss=1 / 30 * (1 + 2**-52)),
        "curves that differ",
        "metrics.jsonl step 30: loss 0.0333",
    ),
    (
        lambda run: keep_lines(run / "metrics.jsonl", slice(0, 3)),
        "rows lost",
        "metrics.jsonl step 40 is lost",
    ),
    (lambda run: (run / "evals.jsonl").unlink(), "rows lost", "evals.jsonl step 40 is lost"),
    (
        lambda run: append_jsonl(run / "metrics.jsonl", read_jsonl(run / "metrics.jsonl")[1:2]),
        "rows surplus",
        "metrics.jsonl step 20 is there twice",
    ),
    (
        lambda run: keep_lines(run / "metrics.jsonl", slice(None), before="not JSON\n"),
        "curves that differ",
        "metrics.jsonl:1: not JSON",
    ),
    (lambda run: edit_result(run, 1.25), "results that differ", "result: loss 1.5 and 1.25"),
    (lambda run: (run / "result.json").unlink(), "results that differ", "no result"),
    (
        lambda run: save(run, torch.tensor([0.0, 1.0, 2.0000002, 3.0])),
        "final weights that differ",
        "model.w differs",
    ),
    (save_earlier, "final weights that differ", "are of steps 40 and 20"),
    (
        lambda run: shutil.rmtree(run / "checkpoints"),
        "final weights that differ",
        "no final checkpoint to compare",
    ),
]


@pytest.mark.parametrize(("damage", "figure", "expected"), DAMAGES)
def test_what_differs_is_reported(studies, capsys, damage, figure, expected):
    damage(studies[1] / "d16-b")
    drill = drill_of(*studies, KILL)
    rows = {row.name: row for row in figures(drill)}
    assert rows[figure].value >= 1
    assert not rows[figure].meets
    assert any(expected in line and "d16-b" in line for line in drill.problems), drill.problems
    assert not any("d8-a" in line for line in drill.problems)
    print_report(drill, list(rows.values()))
    printed = capsys.readouterr().out
    assert "FALLS SHORT" in printed
    assert figure in printed.partition("falls short: ")[2]


def test_checkpoints_with_other_bytes_and_the_same_tensors_are_the_same(studies):
    run = studies[1] / "d8-a"
    # a tuple where the reference has a list
    save(run, torch.arange(4.0), optimizer={"state": (torch.ones(2), 3)})
    hashes = [
        read_json(folder / "d8-a" / "checkpoints" / f"step_{STEPS:08d}" / "DONE.json")["files"]
        for folder in studies
    ]
    assert hashes[0]["optim.pt"]["sha256"] != hashes[1]["optim.pt"]["sha256"]
    assert all(run.is_same for run in compare_studies(*studies))


def test_repeated_steps_are_those_between_the_last_row_and_the_next_start(studies):
    starting = Victim(run_id=None)
    never_again = Victim(run_id="d8-a", attempt=2, last_step=40)
    saved_after_its_row = Victim(run_id="d16-b", attempt=1, last_step=10)
    for victims, repeated in (
        (KILL.victims, 30 - 20),
        ((*KILL.victims, starting), 10),
        ((never_again,), 0),
        ((*KILL.victims, saved_after_its_row), 10),
    ):
        kill = Kill(kind="one job", seconds=1.0, victims=victims)
        assert steps_repeated(studies[1], [kill]) == repeated


def test_replayed_rows_and_leftovers_are_counted(studies):
    study = studies[1]
    assert replayed_rows(study) == (2, 0)
    assert leftovers(study) == ([], [])
    # only the last comparison of each run counts
    log_attempts(study / "d8-a", [(3, 30, {"rows": 4, "differing": 1, "largest": 0.5})])
    (study / "d8-a" / "checkpoints" / "step_00000030.partial").mkdir()
    (study / "d16-b" / "result.json.partial").touch()
    (study / "d8-a" / "checkpoints" / "bad" / "step_00000020").mkdir(parents=True)
    found = values(drill_of(*studies, KILL))
    assert (found["replayed rows compared"], found["replayed rows that differ"]) == (5, 1)
    assert (found["partial files left"], found["checkpoints quarantined"]) == (2, 1)


def test_the_figures_and_the_page_of_a_drill(studies, tmp_path):
    power_cut = Kill(
        kind="launcher with all jobs", seconds=9.0, victims=(Victim(run_id=None), *KILL.victims)
    )
    drill = drill_of(*studies, KILL, power_cut, wanted=3)
    rows, found = figures(drill), values(drill)
    expected = {
        "kills survived": 2,
        "of one job": 1,
        "of launcher with all jobs": 1,
        "of launcher alone": 0,
        "runs whose job died": 3,
        "of which before their first step": 1,
        "steps trained": 80,
        "time lost": 6.0,
        "time lost per kill": 3.0,
    }
    assert {name: found[name] for name in expected} == expected
    assert len(found) == len(rows)
    write_figures(tmp_path / "figures.json", rows)
    assert read_figures(tmp_path / "figures.json") == rows
    write_markdown(tmp_path / "page.md", drill, rows, command="the command")
    page = (tmp_path / "page.md").read_text()
    for words in (
        "| kills survived | 2 | kills | at least 3: FALLS SHORT |",
        "2 runs, 20 FLOPs, on a CPU",
        "machine.checkpoint_steps=20",
    ):
        assert words in page
    # a study that did not finish has survived nothing
    drill.storms[0].share = 0.9
    assert values(drill)["kills survived"] == 0


def test_only_a_process_with_the_mark_is_killed():
    def sleeper(mark):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(60)"],
            env={**os.environ, MARK: mark},
            stdout=subprocess.PIPE,
        )
        child.stdout.readline()
        return child

    mine, other = sleeper("mine"), sleeper("other")
    try:
        found = look_up(mine.pid, "mine")
        assert found == Process(mine.pid, found.started, is_job=False)
        assert look_up(other.pid, "mine") is None
        # the pid of a process that has ended, given to another
        impostor = Process(mine.pid, found.started - 1, is_job=False)
        assert kill_all([impostor, Process(other.pid, found.started, is_job=False)], "mine") == []
        assert mine.poll() is None
        assert kill_all([found], "mine") == [found]
        assert mine.wait(timeout=10) == -9
        assert kill_all([found], "mine") == []
        assert other.poll() is None
    finally:
        for child in (mine, other):
            child.kill()
            child.communicate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "study=NAME is missing"),
        (["study=quickstart", "kills=0"], "kills=0: not a whole number"),
        (["study=quickstart", "seed=x"], "seed=x: not a whole number"),
        (["study=quickstart", "study.name=mine"], "the drill names its own folders"),
    ],
)
def test_a_wrong_request_is_refused(words, message, capsys):
    assert fault_drill.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_no_drill_made_is_left_alone(tmp_path):
    folder = tmp_path / "quickstart-drill-s0"
    folder.mkdir()
    (folder / "precious").touch()
    with pytest.raises(fault_drill.DrillError, match="no drill made it"):
        fault_drill.make_own_folder(folder, {"seed": 0})
    assert (folder / "precious").exists()
    fault_drill.make_own_folder(tmp_path / "new", {"seed": 0})
    (tmp_path / "new" / "old-run").touch()
    fault_drill.make_own_folder(tmp_path / "new", {"seed": 1})
    assert read_json(tmp_path / "new" / "fault_drill.json") == {"seed": 1}
    assert not (tmp_path / "new" / "old-run").exists()


def test_overrides_replace_the_drill_s_settings():
    request = fault_drill.Request(
        study="s", kills=1, seed=0, runs=Path("r"), overrides=("machine.log_every=1",)
    )
    command = " ".join(request.command("s-drill-s0"))
    assert command.endswith(
        "-m study=s study.name=s-drill-s0 paths.runs=r "
        "machine.checkpoint_steps=100 machine.log_every=1"
    )


@pytest.mark.slow
def test_a_drill_of_a_tiny_study_survives(tmp_path):
    words = [sys.executable, "scripts/fault_drill.py", "--quick", "kills=3", "budget.tokens=204800"]
    words += [f"runs={tmp_path}/runs", f"paths.data={tmp_path}/data", "machine.checkpoint_steps=40"]
    words += ["--json", f"{tmp_path}/figures.json", "--markdown", f"{tmp_path}/page.md"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "figures.json").read_text())}
    assert rows["kills survived"]["value"] == 3, done.stdout
    assert rows["rows compared"]["value"] > 100
    for name in ("rows lost", "rows surplus", "curves that differ", "final weights that differ"):
        assert rows[name]["value"] == 0, done.stdout
    assert "| kills survived | 3 |" in (tmp_path / "page.md").read_text()
