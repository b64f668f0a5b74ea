"""Formulas and numbers of the page, and words that must stay as they are."""

import pytest

from analysis.parametric.forms import FORMULAS
from analysis.report.typeset import formula, typeset


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("N_opt ~ C^0.497", "N<sub>opt</sub> ~ C<sup>0.497</sup>"),
        ("D^-0.02 and C^a by", "D<sup>&minus;0.02</sup> and C<sup>a</sup> by"),
        ("C = 4.8e+11 FLOPs", "C = 4.8&nbsp;&times;&nbsp;10<sup>11</sup> FLOPs"),
        ("beyond C = 1e+18.", "beyond C = 10<sup>18</sup>."),
        ("(1.56e+06, 1e-05)", "(1.56&nbsp;&times;&nbsp;10<sup>6</sup>, 10<sup>&minus;5</sup>)"),
        ("a +-0.180", "a &plusmn;0.180"),
    ],
)
def test_powers_and_optima_are_set_as_on_paper(text, shown):
    assert typeset(text) == shown


@pytest.mark.parametrize(
    "text", ["d48l2-1.18m-lr8.18e-03-s0-f28b700d", "budget.flops=1e+18", "row 12", "1e-03-s0"]
)
def test_names_and_words_to_copy_stay(text):
    assert typeset(text) == text


def test_markup_in_a_name_is_text():
    assert typeset("<script>1e+18</script>").startswith("&lt;script&gt;")
    assert formula("<b>**2") == '<span class="formula">&lt;b&gt;<sup>2</sup></span>'


def test_every_form_of_the_surface_loses_its_python():
    for form in FORMULAS.values():
        shown = formula(form.equation)
        assert "**" not in shown
        assert "alpha<" not in shown
        assert shown.count("<sup>") == form.equation.count("**")


def test_chinchilla_s_form_reads_as_in_the_paper():
    shown = formula("E + A / N**alpha + B / D**beta")
    assert "E + A / N<sup>&alpha;</sup> + B / D<sup>&beta;</sup>" in shown
    assert "(N<sup>&minus;&alpha;</sup> + R" in formula("(N**-alpha + R D**-beta)**k")
