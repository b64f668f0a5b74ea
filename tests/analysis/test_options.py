import pytest

from analysis.config import Convention, Loss, Method, parse_options
from analysis.errors import OptionError


def test_words_become_typed_choices():
    options = parse_options(
        [
            "study=x",
            "isoflop.method=parabola",
            "parametric.loss=lad",
            "bootstrap=500",
            "convention=kaplan",
            "allow_incomplete=true",
            "where=flops<1e21",
            "parametric.delta=1e-2",
        ]
    )
    assert options.isoflop.method is Method.parabola
    assert options.parametric.loss is Loss.lad
    assert options.parametric.delta == 0.01
    assert options.convention is Convention.kaplan
    assert options.bootstrap == 500
    assert options.allow_incomplete is True
    assert options.where == "flops<1e21"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study=x", "bootstap=3"], "unknown key 'bootstap'; did you mean bootstrap"),
        (["study=x", "+isoflop.methd=cubic"], r"unknown key '\+isoflop.methd'; did you mean"),
        (["study=x", "isoflop=3"], "unknown key 'isoflop'"),
        (["study"], "'study' is not key=value"),
        (["study=x", "isoflop.method=cubik"], "isoflop.method=cubik .* did you mean cubic"),
        (["study=x", "bootstrap=many"], "bootstrap=many cannot be read"),
        (["study=x", "bootstrap=10"], "bootstrap=10 is too few"),
        (["study=x", "bootstrap=1000000000"], "bootstrap=1000000000 would take .* at most 1000000"),
        (["study=x", "seed=-1"], "seed=-1 must not be negative"),
        (["study=x", "parametric.delta=0"], "parametric.delta=0 is outside"),
        ([], "exactly one of .* got none"),
        (["study=x", "table=y.csv"], "exactly one of .* got study=x and table=y.csv"),
        (["wandb=me/p/g", "study=x"], "exactly one of .* got study=x and wandb=me/p/g"),
    ],
)
def test_bad_words_are_refused_with_value_and_rule(words, message):
    with pytest.raises(OptionError, match=message):
        parse_options(words)
