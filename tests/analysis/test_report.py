"""The page in a real browser, light and dark, wide and narrow."""

import json
import re

import pytest
from browser import chromium, visit
from study_folders import isoflop_table, write_study

from analysis.__main__ import main
from analysis.report.blocks import Plot
from analysis.report.provenance import code_version
from analysis.report.sections import placed

SCREENS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 420)]

FIGURES = """() => [...document.querySelectorAll("figure svg, figure img")].map(e => {
  const box = e.getBoundingClientRect();
  const ink = e.querySelectorAll("path, use, image").length;
  return {name: e.closest("figure").id, width: box.width, height: box.height, ink};
})"""

LOST = """() => [...document.querySelectorAll("use")].filter(e => {
  const target = e.getAttribute("xlink:href") || e.getAttribute("href");
  return !document.querySelector(target.replace(/[.:]/g, "\\\\$&"));
}).length"""

CONTRAST = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= .03928 ? v / 12.92 :
    ((v + .055) / 1.055) ** 2.4; return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c.length == 3 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const worst = [];
  const all = "h1, h2, h3, p, li, td, th, figcaption, a, .big, span";
  for (const e of document.querySelectorAll(all)) {
    if (!e.textContent.trim()) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    worst.push([(a + .05) / (b + .05), e.tagName + ": " + e.textContent.trim().slice(0, 40)]);
  }
  return worst.sort((x, y) => x[0] - y[0])[0];
}"""

INK = """() => [...document.querySelectorAll("figure svg")].map(svg => {
  const patch = svg.querySelector("[id$=patch_1] path");
  const label = svg.querySelector("[id*=text_] g, [id*=text_] use, [id*=text_] path");
  return [getComputedStyle(patch).fill, getComputedStyle(label.closest("g")).fill];
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the page of a study with every run's training curve."""
    runs = tmp_path_factory.mktemp("runs")
    write_study(runs, table=isoflop_table(noise=0.001))
    assert main(["study=tunnel", f"runs={runs}", "bootstrap=200"]) == 0
    return runs / "tunnel" / "analysis" / "report.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module", params=SCREENS, ids=lambda s: f"{s[0]}-{s[1]}")
def seen(request, browser, report):
    """Return the loaded page on one kind of screen."""
    scheme, width = request.param
    opened = visit(browser, report, scheme=scheme, width=width)
    yield opened
    opened.page.context.close()


def test_the_page_loads_alone_and_without_an_error(seen, report):
    assert seen.errors == []
    assert seen.failed == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [report.as_uri()]


def test_every_figure_is_there(seen, report):
    figures = seen.page.evaluate(FIGURES)
    drawn = {path.stem for path in (report.parent / "figures").glob("*.svg")} - {"overview"}
    assert {figure["name"] for figure in figures} == {f"figure-{name}" for name in drawn}
    for figure in figures:
        assert figure["width"] > 250, figure
        assert figure["height"] > 80, figure
        assert figure["ink"] > 20, figure
    assert seen.page.evaluate(LOST) == 0


def test_the_page_does_not_scroll_sideways(seen):
    width = seen.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]


def test_the_answer_is_above_the_fold(seen):
    answer = seen.page.locator(".big").first
    assert answer.inner_text().replace("\n", "").startswith("Nopt ~ C0.")
    box = answer.bounding_box()
    assert box["y"] + box["height"] < 400


def test_text_stands_out_from_its_ground(seen):
    ratio, where = seen.page.evaluate(CONTRAST)
    assert ratio >= 4.5, f"{where}: contrast {ratio:.2f}"


def test_figures_follow_the_theme(seen):
    dark = seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for paper, ink in seen.page.evaluate(INK):
        assert paper == ("rgb(27, 31, 39)" if dark else "rgb(255, 255, 255)")
        assert ink != paper


def test_wide_tables_and_figures_scroll_in_their_own_box(browser, report):
    narrow = visit(browser, report, scheme="light", width=420)
    inside = narrow.page.evaluate(
        "() => [...document.querySelectorAll('.scroll, .plot')].filter("
        "e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX !== 'auto').length"
    )
    assert inside == 0
    assert narrow.page.evaluate(
        "() => { const e = document.querySelector('#figure-residuals .plot');"
        "return e.scrollWidth > e.clientWidth }"
    )
    narrow.page.context.close()


def test_every_entry_of_the_contents_leads_to_a_section(browser, report):
    opened = visit(browser, report, scheme="light", width=1280)
    links = opened.page.eval_on_selector_all("a[href^='#']", "all => all.map(e => e.hash.slice(1))")
    assert {"exponents", "surface", "provenance"} <= set(links)
    missing = [link for link in links if opened.page.query_selector(f"[id='{link}']") is None]
    assert missing == []
    opened.page.context.close()


def test_no_formula_is_left_in_the_notation_of_a_program(browser, report):
    opened = visit(browser, report, scheme="light", width=1280)
    shown = opened.page.evaluate("document.querySelector('main').textContent")
    assert "**" not in shown
    assert not re.search(r"[ND]_opt|C\^|\de\+\d", shown.split("Provenance")[0])
    formula = opened.page.locator("#surface .formula").first
    assert formula.inner_text().replace("\n", "") == "L(N, D) = E + A / N\u03b1 + B / D\u03b2"
    opened.page.context.close()


def test_a_figure_without_a_neighbour_has_its_caption_beside_it(browser, report):
    opened = visit(browser, report, scheme="light", width=1280)
    alone = opened.page.locator("figure.alone")
    assert alone.count() > 0
    for k in range(alone.count()):
        plot = alone.nth(k).locator(".plot").bounding_box()
        caption = alone.nth(k).locator("figcaption").bounding_box()
        assert caption["x"] > plot["x"] + plot["width"]
    rows = opened.page.eval_on_selector_all(
        "figure:not(.wide):not(.alone)",
        "all => all.map(e => Math.round(e.getBoundingClientRect().y))",
    )
    assert all(rows.count(y) == 2 for y in rows)
    opened.page.context.close()


def test_the_page_says_where_it_comes_from(report):
    page = report.read_text()
    fits = json.loads(report.with_name("fits.json").read_text())
    assert fits["inputs"]["sha256"] in page
    assert "python -m analysis study=tunnel" in page
    assert code_version().split(" with")[0] in page


def test_only_the_last_of_an_odd_number_of_narrow_figures_stands_alone():
    plots = [Plot(name, "", "", wide) for name, wide in (("a", False), ("w", True), ("b", False))]
    assert not any(plot.alone for plot in placed(plots))
    assert [plot.alone for plot in placed(plots[:2])] == [True, False]
    assert [plot.alone for plot in placed([*plots, plots[0]])] == [False, False, False, True]


def test_a_page_without_an_answer_says_so_first(tmp_path):
    isoflop_table().head(2).to_csv(tmp_path / "two.csv", index=False)
    words = [f"table={tmp_path / 'two.csv'}", f"out={tmp_path / 'out'}", "bootstrap=100"]
    assert main(words) == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<strong>No exponent: every approach was refused." in page
    assert 'class="big"' not in page
