"""What each figure shows, read back from the drawn axes."""

from dataclasses import replace

import numpy as np
import pytest
from study_folders import TRUTH, isoflop_table, optimal_n
from study_folders import surface as surface_loss

from analysis import style
from analysis.config import parse_options
from analysis.figures import compute, exponents, identified, multiverse, surface
from analysis.figures import influence as influence_figure
from analysis.figures import local as local_figure
from analysis.figures.recipes import exponent_rows, optimum_lines, recipes
from analysis.fits import analyse, survey
from analysis.intake.load import load_table
from analysis.output import FIGURES
from analysis.parametric.frontier import CostLaw, at_cost
from analysis.parametric.profile import Profile
from analysis.parametric.result import ParametricFit
from analysis.refusal import Refusal
from analysis.report.grids import parameters
from analysis.scrutiny.influence import InfluenceTable
from analysis.scrutiny.local import ComputeWindow, LocalExponent
from analysis.scrutiny.multiverse import Effect, Multiverse, Universe

A = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    isoflop_table(noise=0.001).to_csv(path, index=False)
    options = parse_options([f"table={path}", "bootstrap=200"])
    return analyse(
        survey(load_table(path, where=None, allow_incomplete=False), options), lambda done: None
    )


@pytest.fixture
def figure():
    with style.house_style():
        yield style.new_figure(6, 4)


def texts(figure):
    figure.draw_without_rendering()
    return [item.get_text() for item in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_every_recipe_draws_within_its_figure_and_has_a_caption(analysis):
    names = []
    with style.house_style():
        for recipe in recipes(analysis):
            drawn = style.new_figure(*recipe.size)
            recipe.draw(drawn)
            names.append(recipe.name)
            assert len(recipe.caption) > 30 or recipe.section == ""
            assert drawn.axes
    assert len(names) == len(set(names))
    assert set(names) <= set(FIGURES)
    assert {"exponents", "isoflop_curves", "n_opt", "contours", "residuals"} <= set(names)


def test_the_optimum_s_lines_carry_each_approach_s_exponent(analysis):
    n_lines, d_lines = optimum_lines(analysis, "N"), optimum_lines(analysis, "D")
    assert [line.name for line in n_lines][:2] == ["valleys", "surface"]
    for n_line, d_line in zip(n_lines, d_lines, strict=True):
        assert n_line.exponent == pytest.approx(A, abs=0.03)
        assert d_line.exponent == pytest.approx(1 - n_line.exponent, abs=1e-6)
        assert (n_line.low <= n_line.optimum).all()
        assert (n_line.optimum <= n_line.high).all()


def test_the_exponents_begin_with_the_headline_and_repeat_none(analysis):
    rows = exponent_rows(analysis)
    assert rows[0].approach == "isoflop"
    assert rows[0].a == analysis.isoflop.n_law.fit.exponent
    keys = [(row.convention, row.approach) for row in rows]
    assert len(keys) == len(set(keys))


def test_refused_exponents_are_not_drawn(figure):
    nan = float("nan")
    rows = [
        exponents.Exponent("standard", "isoflop", 0.5, (0.45, 0.55)),
        exponents.Exponent("kaplan", "isoflop", nan, (nan, nan), "no such column"),
    ]
    exponents.draw(figure.subplots(), rows)
    said = texts(figure)
    assert "0.500 [0.450, 0.550]" in said
    assert "kaplan" not in said


def test_an_absurd_interval_does_not_flatten_the_others(figure):
    rows = [
        exponents.Exponent("standard", "isoflop", 0.5, (0.45, 0.55)),
        exponents.Exponent("standard", "parametric", 0.6, (-40.0, 40.0)),
    ]
    ax = figure.subplots()
    exponents.draw(ax, rows)
    low, high = ax.get_xlim()
    assert low > -0.6
    assert high < 1.9


def test_the_contours_frontier_is_where_the_surface_is_lowest(analysis, figure):
    fit = analysis.parametric
    assert isinstance(fit, ParametricFit)
    runs = analysis.best
    columns = [runs[name].to_numpy(float) for name in ("n_params", "tokens", "flops")]
    ax = figure.subplots()
    surface.draw_contours(figure, ax, fit, *columns)
    line = next(item for item in ax.lines if item.get_label() == "efficient frontier")
    n, d = (np.asarray(values, float) for values in line.get_data())
    middle = len(n) // 2
    truth = optimal_n(6 * n[middle : middle + 1] * d[middle : middle + 1])
    assert n[middle] == pytest.approx(truth[0], rel=0.1)
    beside = fit.predict(n * 1.3, d / 1.3)
    assert (fit.predict(n, d) < beside).all()


def test_residuals_are_of_the_loss_and_wild_ones_stay_visible(analysis, figure):
    fit = analysis.parametric
    assert isinstance(fit, ParametricFit)
    runs = analysis.best
    n, d, c, nats = (runs[k].to_numpy(float) for k in ("n_params", "tokens", "flops", "loss"))
    wild = nats.copy()
    wild[3] *= 2.0
    surface.draw_residuals(figure, fit, n, d, c, wild)
    ax = figure.axes[0]
    heights = np.concatenate([np.asarray(dots.get_offsets())[:, 1] for dots in ax.collections])
    assert len(heights) == len(nats)
    expected = np.sort(
        100 * (np.delete(nats, 3) / fit.predict(np.delete(n, 3), np.delete(d, 3)) - 1)
    )
    assert np.sort(heights)[:-1] == pytest.approx(expected)
    assert heights.max() < ax.get_ylim()[1]


def test_parameters_without_an_end_get_an_arrow_and_are_named(analysis, figure):
    fit = analysis.parametric
    assert isinstance(fit, ParametricFit)
    open_a = {**fit.profiles, "A": Profile(None, fit.values["A"] * 2)}
    changed = ParametricFit(**{**vars(fit), "profiles": open_a})
    ax = figure.subplots()
    identified.draw(ax, changed)
    assert any("not identified" in text for text in texts(figure))
    assert sum(line.get_marker() == "<" for line in ax.lines) == 1


def test_parameters_of_a_fit_at_another_cost_of_a_run_are_drawn_and_listed(analysis, figure):
    fit = analysis.parametric
    assert isinstance(fit, ParametricFit)
    moved = at_cost(fit, CostLaw(40.0, 0.9))
    ax = figure.subplots()
    identified.draw(ax, moved)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(fit.names)
    rows = {row[0]: row for row in parameters(moved).rows}
    assert rows["a"][1] == f"{moved.values['a']:.6g}"
    assert rows["a"][3] != {row[0]: row for row in parameters(fit).rows}["a"][3]


def test_many_points_become_an_image_in_the_vector_file(tmp_path):
    rng = np.random.default_rng(0)
    flops, losses = 10 ** rng.uniform(17, 20, 100_000), rng.uniform(2, 4, 100_000)
    with style.house_style():
        drawn = style.new_figure(6, 4)
        compute.draw_loss(drawn.subplots(), flops, losses, (), None)
        svg = style.save(drawn, tmp_path, "many", "").with_suffix(".svg")
    assert "<image" in svg.read_text()
    assert svg.stat().st_size < 1_000_000


def test_a_drifting_exponent_is_called_so(figure):
    windows = tuple(
        ComputeWindow((c / 3, c * 3), c, 20, a, (a - 0.05, a + 0.05))
        for c, a in ((1e18, 0.7), (1e19, 0.55), (1e20, 0.4))
    )
    found = LocalExponent(
        "surface", windows, -0.15, (-0.2, -0.1), -6.0, 1e-6, False, 3.0, "It drifts."
    )
    ax = figure.subplots()
    local_figure.draw(ax, (found,), {"surface": 0.55})
    assert ax.get_title(loc="left") == "The exponent drifts with compute"
    line = ax.lines[[str(item.get_label()).startswith("drift") for item in ax.lines].index(True)]
    assert np.asarray(line.get_ydata(), float) == pytest.approx([0.7, 0.55, 0.4])


def test_the_multiverse_is_sorted_above_a_matrix_of_its_choices(figure):
    nan = float("nan")
    universes = (
        Universe({"approach": "valleys", "curve": "cubic"}, 0.52, ""),
        Universe({"approach": "surface", "form": "chinchilla"}, 0.48, ""),
        Universe({"approach": "surface", "form": "skaling"}, nan, "refused"),
        Universe({"approach": "surface", "form": "skaling"}, 0.61, ""),
    )
    effects = (Effect("form", 0.9, 0.13, {"chinchilla": 0.48, "skaling": 0.61}),)
    found = Multiverse(
        universes, 3, 0.48, 0.61, (0.5, 0.52, 0.56), (0.45, 0.55), 1 / 3, effects, "", ()
    )
    assert multiverse.matrix_rows(found) == [("form", "chinchilla"), ("form", "skaling")]
    multiverse.draw(figure, found)
    top, bottom = figure.axes
    dots = {
        round(float(x)): float(y)
        for line in top.lines
        if line.get_marker() == "o"
        for x, y in zip(*line.get_data(), strict=True)
    }
    assert [dots[k] for k in sorted(dots)] == [0.48, 0.52, 0.61]
    marks = [
        tuple(map(float, line.get_xydata()[0]))
        for line in bottom.lines
        if len(line.get_xdata()) == 1
    ]
    assert marks == [(0.0, 0.0), (2.0, 1.0)]
    assert any("3 fits, 1 refused" in text for text in texts(figure))


def test_influence_names_the_run_that_moves_the_exponent_most(analysis, figure):
    table = analysis.influence
    assert isinstance(table, InfluenceTable)
    influence_figure.draw(figure, table)
    said = texts(figure)
    assert table.runs[0].name in said
    assert len(figure.axes) == 2 + bool(table.budgets)


def test_captions_speak_of_what_is_drawn(analysis, tmp_path):
    with_valleys = {recipe.name: recipe.caption for recipe in recipes(analysis)}
    assert "diamond marks a valley" in with_valleys["isoflop_curves"]
    assert "loss at each valley" in with_valleys["loss_compute"]
    assert "Right: the foreseen optimal size" in with_valleys["rollout"]
    rng = np.random.default_rng(0)
    frame = isoflop_table(noise=0.001)
    frame["tokens"] *= np.exp(rng.uniform(-1, 1, len(frame)))
    frame["flops"] = 6 * frame["n_params"] * frame["tokens"]
    frame["loss"] = surface_loss(frame["n_params"].to_numpy(), frame["tokens"].to_numpy())
    frame.to_csv(tmp_path / "bare.csv", index=False)
    options = parse_options([f"table={tmp_path / 'bare.csv'}", "bootstrap=100"])
    table = load_table(tmp_path / "bare.csv", where=None, allow_incomplete=False)
    alone = replace(
        analyse(survey(table, options), lambda done: None), envelope=Refusal("no"), by_convention=()
    )
    bare = {recipe.name: recipe for recipe in recipes(alone)}
    assert bare["isoflop_curves"].caption.endswith("No budget has a valley.")
    assert "valley" not in bare["loss_compute"].caption
    assert "Right" not in bare["rollout"].caption
    assert bare["exponents"].section == "", "one exponent is its card again"
