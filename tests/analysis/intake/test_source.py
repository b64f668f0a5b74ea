import pytest
from study_folders import isoflop_table, write_study

from analysis.config import parse_options
from analysis.intake import source
from analysis.intake.source import load_runs


def options(*words):
    return parse_options(list(words))


def test_a_study_and_its_table_are_the_same_runs(tmp_path):
    write_study(tmp_path, table=isoflop_table())
    of_study = load_runs(options("study=tunnel", f"runs={tmp_path}"))
    path = tmp_path / "runs.csv"
    of_study.frame.to_csv(path, index=False)
    of_table = load_runs(options(f"table={path}", "where=flops>2e18"))
    assert of_study.folder == tmp_path / "tunnel"
    assert of_table.folder is None
    assert len(of_study.frame) == 35
    assert sorted(of_table.frame["loss"]) == sorted(
        of_study.frame["loss"][of_study.frame["flops"] > 2e18]
    )


def test_a_table_without_flops_has_them_counted_when_asked(tmp_path):
    path = tmp_path / "runs.csv"
    table = isoflop_table()
    table.drop(columns="flops").to_csv(path, index=False)
    runs = load_runs(options(f"table={path}", "flops_6nd=true"))
    assert runs.frame["flops"].to_numpy() == pytest.approx(table["flops"].to_numpy(), rel=1e-9)


def test_a_project_is_read_with_the_same_choices(monkeypatch):
    seen = {}

    def load_wandb(path, **choices):
        seen.update(choices, path=path)
        return "runs"

    monkeypatch.setattr(source, "load_wandb", load_wandb)
    words = ("wandb=me/scaling/tunnel", "where=seed=0", "allow_incomplete=true", "flops_6nd=true")
    assert load_runs(options(*words)) == "runs"
    assert seen == {
        "path": "me/scaling/tunnel", "where": "seed=0", "allow_incomplete": True,
        "flops_6nd": True,
    }  # fmt: skip
