import json

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table, write_study

from analysis.intake.curves import BINS, envelope_curves, load_curves
from analysis.intake.study import load_study
from analysis.intake.table import RunsTable


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path, table=isoflop_table(budgets=(1e18, 1e19), sizes=3))
    return read(tmp_path)


def read(runs):
    return load_study(runs, "tunnel", where=None, allow_incomplete=False)


def evaluate(table, points):
    """Give every run that many evaluations."""
    assert table.folder is not None
    for row in table.frame.to_dict("records"):
        share = np.geomspace(0.01, 1, points)
        lines = [
            json.dumps({"tokens": row["tokens"] * s, "split": "validation", "loss": 3 * s**-0.1})
            for s in share
        ]
        (table.folder / row["run_id"] / "evals.jsonl").write_text("\n".join(lines) + "\n")


def as_table(frame):
    return RunsTable(frame, (), "t", "t.csv", "")


def test_training_curves_end_with_their_run(study):
    curves = load_curves(study)
    assert [c.run_id for c in curves] == study.frame["run_id"].tolist()
    for c, row in zip(curves, study.frame.to_dict("records"), strict=True):
        assert len(c.loss) == 30
        assert c.source == "training loss"
        assert c.schedule == "cosine"
        assert c.flops[-1] == pytest.approx(row["flops"])
        assert c.tokens[-1] == pytest.approx(row["tokens"])
        assert (c.final_flops, c.final_loss) == (row["flops"], row["loss"])
        assert (np.diff(c.flops) > 0).all()


def test_a_curve_counts_compute_as_its_row_does(study):
    counted = study.frame.assign(
        n_params=study.frame["n_params"] * 0.8, flops=study.frame["flops"] * 0.7
    )
    for c, plain in zip(load_curves(study, counted), load_curves(study), strict=True):
        assert c.flops == pytest.approx(plain.flops * 0.7)
        assert c.tokens == pytest.approx(plain.tokens)
        assert c.n_params == pytest.approx(plain.n_params * 0.8)


def test_long_metrics_are_averaged_in_bins(study):
    assert study.folder is not None
    row = study.frame.iloc[0]
    rng = np.random.default_rng(0)
    lines = [
        json.dumps({"tokens": row["tokens"] * k / 5000, "loss": 3.0 + rng.normal(0, 0.1)})
        for k in range(1, 5001)
    ]
    (study.folder / row["run_id"] / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    curve = load_curves(study)[0]
    assert len(curve.loss) <= BINS
    assert abs(curve.loss[-1] - 3.0) < 0.02


def test_rows_of_a_resumed_run_count_once_and_broken_ones_not(study):
    assert study.folder is not None
    row = study.frame.iloc[0]
    rows = [
        {"tokens": 0.5 * row["tokens"], "loss": 9.0},
        {"tokens": row["tokens"], "loss": 2.0},
        {"tokens": 0.5 * row["tokens"], "loss": 3.0},
        {"tokens": 0.7 * row["tokens"], "loss": None},
        {"tokens": -1, "loss": 3.0},
        {"loss": 3.0},
    ]
    text = "".join(json.dumps(r) + "\n" for r in rows) + '{"tokens": 1, "lo'
    (study.folder / row["run_id"] / "metrics.jsonl").write_text(text)
    assert load_curves(study)[0].loss.tolist() == [3.0, 2.0]


def test_runs_without_readable_metrics_are_left_out(study):
    assert study.folder is not None
    ids = study.frame["run_id"].tolist()
    (study.folder / ids[0] / "metrics.jsonl").unlink()
    (study.folder / ids[1] / "metrics.jsonl").write_text("garbage\n{}\n")
    (study.folder / ids[2] / "metrics.jsonl").write_text(
        '{"tokens": 1%s, "loss": 3}\n' % ("0" * 400)
    )
    (study.folder / ids[3] / "metrics.jsonl").write_text("[" * 100_000 + "\n")
    assert [c.run_id for c in load_curves(study)] == ids[4:]


def test_the_envelope_reads_validation_losses_where_there_are_enough(study):
    assert {c.source for c in envelope_curves(study)} == {"training loss"}
    evaluate(study, 9)
    for c in envelope_curves(study):
        assert c.source == "validation loss"
        assert len(c.loss) == BINS + 1
        assert c.loss == pytest.approx(3 * (c.flops / c.final_flops) ** -0.1, rel=1e-3)
    evaluate(study, 7)
    assert {c.source for c in envelope_curves(study)} == {"training loss"}


def test_a_study_without_any_curve_has_its_final_losses(study):
    assert study.folder is not None
    for path in study.folder.glob("*/*s.jsonl"):
        path.unlink()
    assert load_curves(study) == []
    assert [(c.source, len(c.loss)) for c in envelope_curves(study)] == [("final losses", 1)] * 6


def checkpoints():
    """Three checkpoints each of two runs, in no order."""
    return pd.DataFrame(
        {
            "run_id": ["b", "a", "a", "b", "a", "b"],
            "n_params": [2.0, 1.0, 1.0, 2.0, 1.0, 2.0],
            "tokens": [30.0, 20.0, 10.0, 10.0, 30.0, 20.0],
            "flops": [360.0, 120.0, 60.0, 120.0, 180.0, 240.0],
            "loss": [2.0, 3.5, 4.0, 4.5, 3.0, 3.0],
            "schedule": "constant",
        }
    )


def test_rows_of_one_run_are_its_curve():
    curves = envelope_curves(as_table(checkpoints()))
    assert [c.run_id for c in curves] == ["b", "a"]
    assert curves[1].tokens.tolist() == [10.0, 20.0, 30.0]
    assert curves[1].flops.tolist() == [60.0, 120.0, 180.0]
    assert curves[1].loss.tolist() == [4.0, 3.5, 3.0]
    assert (curves[1].final_flops, curves[1].final_loss) == (180.0, 3.0)
    assert {c.source for c in curves} == {"checkpoint rows"}
    assert [c.run_id for c in load_curves(as_table(checkpoints()))] == ["b", "a"]


def test_rows_of_their_own_runs_are_points_and_are_not_drawn():
    frame = isoflop_table().assign(run_id=[f"row {k}" for k in range(35)])
    curves = envelope_curves(as_table(frame))
    assert len(curves) == 35
    assert {c.source for c in curves} == {"final losses"}
    assert {c.schedule for c in curves} == {""}
    assert load_curves(as_table(frame)) == []


def test_a_lone_row_among_checkpoints_is_a_point():
    frame = pd.concat([checkpoints(), checkpoints().iloc[[0]].assign(run_id="c")])
    kinds = {c.run_id: c.source for c in envelope_curves(as_table(frame))}
    assert kinds == {"b": "checkpoint rows", "a": "checkpoint rows", "c": "final losses"}
