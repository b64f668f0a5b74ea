"""The palette, axis labels, and vector figures that follow a page's theme."""

import re

import numpy as np
import pytest

from analysis import style


@pytest.mark.parametrize(
    ("value", "text"), [(331776, "332k"), (1.5e9, "1.5B"), (2e12, "2T"), (30, "30"), (0.5, "0.5")]
)
def test_counts_are_written_with_their_suffix(value, text):
    assert style.count_label(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e12, "$10^{12}$"), (3e17, "$3\\times10^{17}$"), (9.99e9, "$10\\times10^{9}$")],
)
def test_flops_are_written_as_powers_of_ten(value, text):
    assert style.power_label(value) == text


def luminance(color):
    parts = (int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
    r, g, b = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", sorted(set(style.THEME) - {"paper", "grid"}))
def test_every_colour_stands_out_from_the_paper_in_both_themes(name, theme):
    """Text 4.5 (WCAG AA); marks 1.9, since the sequential scale must go from dark to light."""
    paper, color = style.THEME["paper"][theme], style.THEME[name][theme]
    is_text = name in ("ink", "soft", "warn", "ours", "surface", "envelope", "kaplan", "chinchilla")
    assert contrast(paper, color) >= (4.5 if is_text else 1.9)


def test_no_two_colours_are_the_same_so_that_each_is_one_variable():
    light = [pair[0] for pair in style.THEME.values()]
    assert len(set(light)) == len(light)


def drawn(tmp_path, stamp=""):
    with style.house_style():
        figure = style.new_figure(4, 3)
        ax = figure.subplots()
        x = np.geomspace(1e18, 1e20, 5)
        colors = style.budget_colors(x)
        ax.scatter(x, x, c=colors[0](colors[1](x)))
        ax.plot(x, x, color=style.OURS)
        style.log_axis(ax.xaxis, "flops")
        style.color_bar(figure, ax, colors, "flops", "C")
        path = style.save(figure, tmp_path, "one", stamp)
    assert path.read_bytes()[:4] == b"\x89PNG"
    return path.with_suffix(".svg").read_text()


def test_a_themed_figure_names_variables_in_place_of_every_colour(tmp_path):
    svg = drawn(tmp_path)
    assert style.OURS in svg
    themed = style.themed(svg, "one", "What it shows")
    assert re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", themed) == []
    assert {"ours", "ink", "paper", "grid", "s0", "s23"} <= set(
        re.findall(r"var\(--f-(\w+)\)", themed)
    )
    light, dark = style.theme_css()
    for name in re.findall(r"var\((--f-\w+)\)", themed):
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_a_themed_figure_says_what_it_shows_and_scales(tmp_path):
    themed = style.themed(drawn(tmp_path), "one", "What it shows")
    head = themed[: themed.index(">")]
    assert head.startswith("<svg ")
    assert 'role="img"' in head
    assert "viewBox" in head
    assert " width=" not in head
    assert '<title id="one-title">What it shows</title>' in themed


def test_two_figures_in_one_page_share_no_id(tmp_path):
    svg = drawn(tmp_path)
    ids = [set(re.findall(r'\bid="([^"]+)"', style.themed(svg, name, ""))) for name in ("a", "b")]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', style.themed(svg, "a", "")))
    assert used <= ids[0]


def test_the_same_figure_is_the_same_file(tmp_path):
    assert drawn(tmp_path / "a") == drawn(tmp_path / "b")


def test_a_stamp_is_on_the_figure(tmp_path):
    assert "<!-- INCOMPLETE -->" in drawn(tmp_path, "INCOMPLETE")


def test_colours_of_one_value_do_not_collapse():
    _, norm = style.budget_colors(np.array([1e18, 1e18]))
    assert norm.vmin == 5e17
    assert norm.vmax == 2e18


def test_the_style_is_taken_back_afterwards():
    import matplotlib as mpl

    before = mpl.rcParams["axes.grid"]
    with style.house_style():
        assert mpl.rcParams["axes.grid"] is True
    assert mpl.rcParams["axes.grid"] == before


def test_a_user_s_words_are_shown_letter_by_letter(tmp_path):
    assert style.literal("run $x^2$") == r"run \$x^2\$"
    assert style.literal("run \u00e9\u03b1") == "run \u00e9\u03b1"
    assert style.literal("\u6a21 a\tb\n") == "? a?b?"
    with style.house_style():
        figure = style.new_figure(3, 2)
        figure.text(0.1, 0.5, style.literal("a$b_{$c \\frac{ $x^2$ \u6a21"))
        assert style.save(figure, tmp_path, "words", "").stat().st_size > 0
