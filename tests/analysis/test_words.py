from dataclasses import dataclass, field
from enum import Enum

import pytest

from analysis.errors import OptionError, RefusedError
from analysis.words import describe, read_words, run_command, wants_help


class Colour(Enum):
    red = "red"
    green = "green"


@dataclass(kw_only=True)
class Inner:
    """Nested choices."""

    colour: Colour = Colour.red
    """What it is
    painted with."""


@dataclass(kw_only=True)
class Outer:
    """A command."""

    name: str | None = None
    """Whose it is."""
    count: int = 3
    """How many."""
    quiet: bool = False
    """Say nothing."""
    inner: Inner = field(default_factory=Inner)
    """Nested."""


def read(*words):
    return read_words(Outer, words, "name=x")


def test_words_are_typed_by_their_fields():
    got = read("name=12", "count=4", "quiet=true", "inner.colour=green")
    assert got == Outer(name="12", count=4, quiet=True, inner=Inner(colour=Colour.green))


def test_a_value_may_hold_equal_signs_and_null_is_none():
    assert read("name=a=b==c").name == "a=b==c"
    assert read("name=x", "name=null").name is None


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("name", "'name' is not key=value, for example name=x"),
        ("nmae=3", "unknown key 'nmae'; did you mean name"),
        ("inner=3", "unknown key 'inner'; did you mean inner.colour"),
        ("count=many", "count=many cannot be read"),
        ("inner.colour=grene", "inner.colour=grene is not a choice; did you mean green"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(word, message):
    with pytest.raises(OptionError, match=message):
        read(word)


def test_the_help_shows_every_key_with_its_default_choices_and_text():
    assert describe(Outer).splitlines() == [
        "  name",
        "      Whose it is.",
        "  count=3",
        "      How many.",
        "  quiet=false",
        "      Say nothing.",
        "  inner.colour=red  (red|green)",
        "      What it is painted with.",
    ]


@pytest.mark.parametrize(
    ("words", "asked"),
    [(["--help"], True), (["a=b", "-h"], True), (["help=1"], False), ([], False)],
)
def test_help_is_asked_for_by_its_usual_names(words, asked):
    assert wants_help(words) is asked


def ending(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OptionError("seed=x"), 2, "error: seed=x\n"),
        (RefusedError("one size; add [b]sizes[/b]"), 2, "error: one size; add [b]sizes[/b]\n"),
        (OSError(28, "No space left on device"), 3, "error: storage: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_command_ends_with_a_line_and_a_code(error, code, said, capsys):
    assert run_command(["a=1"], "usage", ending(error)) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(said)
    assert bool(shown.err) is bool(said)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command([], "usage", ending(ZeroDivisionError()))


def test_help_is_the_usage_and_runs_nothing(capsys):
    assert run_command(["a=1", "--help"], "usage: [a]", ending(ZeroDivisionError())) == 0
    assert capsys.readouterr().out == "usage: [a]\n"
