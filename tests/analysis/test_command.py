"""The command as a user runs it: files, last lines, exit codes."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from study_folders import TRUTH, isoflop_table, write_study

from analysis import figures
from analysis.__main__ import main
from train.storage.records import RUNS_TABLE_COLUMNS

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
NAMES = [
    "exponents", "isoflop_curves", "n_opt", "d_opt", "overview", "loss_compute", "contours",
    "identified", "residuals", "training_curves", "local_exponent", "multiverse", "rollout",
    "influence",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the output folder of one analysed study."""
    runs = tmp_path_factory.mktemp("runs")
    write_study(runs, table=isoflop_table(noise=0.001))
    assert main(["study=tunnel", f"runs={runs}", "bootstrap=400"]) == 0
    return runs / "tunnel" / "analysis"


def test_fits_json_has_the_contract_s_fields(finished):
    fits = json.loads((finished / "fits.json").read_text())
    assert list(fits) == [
        "schema", "inputs", "conventions", "isoflop", "parametric", "envelope", "verdict",
        "by_convention", "multiverse", "forms", "rollout", "local", "counted", "influence",
        "learning_rate", "repetition", "measured", "draws",
    ]  # fmt: skip
    assert fits["inputs"]["rows"] == fits["inputs"]["used"] == 35
    assert fits["conventions"] == {"n_params": "standard", "flops": "6nd"}
    isoflop, surface = fits["isoflop"], fits["parametric"]
    assert isoflop["a"] == pytest.approx(A, abs=0.02)
    assert isoflop["a_ci"][0] < A < isoflop["a_ci"][1]
    assert isoflop["b"] == pytest.approx(1 - isoflop["a"], abs=1e-6)
    assert {"flops", "n_opt", "d_opt", "loss", "bracketed"} <= set(isoflop["valleys"][0])
    assert surface["a"] == pytest.approx(A, abs=0.02)
    assert surface["converged"] is True
    for name in ("E", "A", "B", "alpha", "beta", "a"):
        assert surface[f"{name}_ci"][0] <= surface[name] <= surface[f"{name}_ci"][1]
    assert fits["envelope"]["a_ci"][0] < A < fits["envelope"]["a_ci"][1]
    assert fits["verdict"]["agree"] is True


def test_fits_json_carries_the_certificate_and_what_questions_the_answer(finished):
    fits = json.loads((finished / "fits.json").read_text())
    surface = fits["parametric"]
    assert surface["gradient"] < 1e-8
    assert surface["condition"] > 1
    assert surface["starts_reached"] >= surface["starts_moved"] >= 1
    assert surface["not_identified"] == []
    low, high = surface["profile_ci"]["a"]
    assert low < surface["a"] < high
    counted = {(row["convention"], row["approach"]) for row in fits["by_convention"]}
    assert {("standard", "isoflop"), ("standard", "parametric")} <= counted
    assert "refused" in fits["learning_rate"]
    assert "refused" in fits["repetition"]
    assert len(fits["influence"]["runs"]) == 20
    assert fits["draws"]["parametric"]["names"] == ["E", "A", "B", "alpha", "beta"]
    assert len(fits["draws"]["isoflop"]["rows"]) <= 1000


@pytest.mark.usefixtures("no_figures")
def test_the_runs_table_is_written_in_order_and_read_back(finished, tmp_path):
    assert tuple(pd.read_csv(finished / "runs.csv").columns) == RUNS_TABLE_COLUMNS
    assert tuple(pd.read_parquet(finished / "runs.parquet").columns) == RUNS_TABLE_COLUMNS
    words = [f"table={finished / 'runs.parquet'}", f"out={tmp_path}", "bootstrap=400"]
    assert main(words) == 0
    again = json.loads((tmp_path / "fits.json").read_text())
    first = json.loads((finished / "fits.json").read_text())
    assert again["isoflop"]["a"] == pytest.approx(first["isoflop"]["a"], rel=1e-12)
    assert again["parametric"]["a_ci"] == pytest.approx(first["parametric"]["a_ci"], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_there_as_png_and_svg(finished, name):
    assert (finished / "figures" / f"{name}.png").stat().st_size > 10_000
    assert "</svg>" in (finished / "figures" / f"{name}.svg").read_text()[-50:]


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out the drawing, most of a run's time, where a test is about something else."""
    monkeypatch.setattr(figures, "draw_figures", lambda analysis, folder: [])


class Page(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self):
        super().__init__()
        self.sources = []
        self.figures = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.sources += [named[key] for key in ("src", "href", "xlink:href") if named.get(key)]
        self.figures += [named["id"]] if tag == "figure" else []

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_file_with_the_answer_first(finished):
    page = Page()
    page.feed((finished / "report.html").read_text())
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert page.figures == [f"figure-{name}" for name in NAMES if name != "overview"]
    text = page.text
    fits = json.loads((finished / "fits.json").read_text())
    assert text.index(f"{fits['isoflop']['a']:.3f}") < text.index("How far to trust this")
    assert fits["inputs"]["sha256"] in text
    assert "python -m analysis study=tunnel" in text


def test_the_report_adapts_to_dark_and_narrow_screens(finished):
    html = (finished / "report.html").read_text()
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


@pytest.mark.usefixtures("no_figures")
def test_standard_output_ends_with_one_line_an_approach(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    isoflop_table(noise=0.001).to_csv(path, index=False)
    assert main([f"table={path}", f"out={tmp_path / 'out'}", "bootstrap=200"]) == 0
    lines = capsys.readouterr().out.rstrip().split("\n")
    number = r"-?\d\.\d{3}"
    approaches = ("isoflop", "parametric", "envelope")
    for line, approach in zip(lines[-3:], approaches, strict=True):
        assert re.fullmatch(rf"N_opt ~ C\^{number} \[{number}, {number}\]  \({approach}\)", line)
    assert any("How far to trust this" in line for line in lines)


@pytest.mark.usefixtures("no_figures")
def test_one_refused_approach_is_said_and_the_other_answers(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    isoflop_table(budgets=(1e18, 1e19), noise=0.001).to_csv(path, index=False)
    assert main([f"table={path}", f"out={tmp_path / 'out'}", "bootstrap=200"]) == 0
    lines = capsys.readouterr().out.rstrip().split("\n")
    assert lines[-3].startswith("isoflop: refused: 2 bracketed valleys")
    assert lines[-2].endswith("(parametric)")
    fits = json.loads((tmp_path / "out" / "fits.json").read_text())
    assert list(fits["isoflop"]) == ["refused"]
    assert fits["verdict"]["agree"] is None


def test_refusing_everything_exits_2_and_says_which_runs_to_add(tmp_path, capsys):
    table = isoflop_table()
    table["tokens"] = 20 * table["n_params"]
    table["flops"] = 6 * table["n_params"] * table["tokens"]
    path = tmp_path / "runs.csv"
    table.drop_duplicates().to_csv(path, index=False)
    assert main([f"table={path}", f"out={tmp_path / 'out'}", "bootstrap=200"]) == 2
    out = capsys.readouterr().out
    assert "isoflop: refused" in out
    assert "parametric: refused: all runs are at D/N = 20" in out
    fits = json.loads((tmp_path / "out" / "fits.json").read_text())
    assert list(fits["parametric"]) == ["refused"]
    assert (tmp_path / "out" / "report.html").exists()


def test_missing_runs_are_stamped_when_allowed(tmp_path, capsys):
    ids = write_study(tmp_path)
    (tmp_path / "tunnel" / ids[0] / "result.json").unlink()
    words = ["study=tunnel", f"runs={tmp_path}", "bootstrap=200"]
    assert main(words) == 2
    assert "run the same train command again" in capsys.readouterr().err
    assert not (tmp_path / "tunnel" / "analysis").exists()
    assert main([*words, "allow_incomplete=true"]) == 0
    fits = json.loads((tmp_path / "tunnel" / "analysis" / "fits.json").read_text())
    assert fits["verdict"]["notes"][0].startswith("INCOMPLETE: 1 of 35")
    svg = (tmp_path / "tunnel" / "analysis" / "figures" / "overview.svg").read_text()
    assert "INCOMPLETE" in svg


@pytest.mark.usefixtures("no_figures")
def test_a_convention_that_does_not_share_c_refuses_valleys_and_fits_the_surface(tmp_path, capsys):
    table = isoflop_table(noise=0.001)
    table["n_params_non_embedding"] = table["n_params"] - 40 * table["n_params"] ** 0.75
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    words = [f"table={path}", f"out={tmp_path / 'out'}", "bootstrap=200", "convention=kaplan"]
    assert main(words) == 0
    lines = capsys.readouterr().out.rstrip().split("\n")
    assert "use the convention of their budgets" in lines[-3]
    assert lines[-2].endswith("(parametric)")


@pytest.mark.parametrize(
    "words", [["study=nothing"], ["tabel=x.csv"], ["table=x.csv"], ["wandb=a/b/c"], []]
)
def test_user_mistakes_exit_2_without_a_traceback(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_exits_3(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    isoflop_table().to_csv(path, index=False)
    assert main([f"table={path}", f"out={path}", "bootstrap=200"]) == 3
    assert "storage" in capsys.readouterr().err


def test_importing_the_analysis_does_not_import_torch_wandb_or_hydra():
    code = (
        "import sys, analysis, analysis.__main__, analysis.report\n"
        "bad = {'torch', 'wandb', 'hydra'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_command(tmp_path):
    path = tmp_path / "runs.csv"
    isoflop_table(noise=0.001).to_csv(path, index=False)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "analysis", f"table={path}", f"out={tmp_path}/o"]
    done = subprocess.run(
        [*command, "bootstrap=200"], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("(envelope)")
    assert done.stderr == ""
