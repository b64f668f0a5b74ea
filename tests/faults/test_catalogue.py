"""The table of docs/faults.md against the tests: every row once, shown by a test and a control."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "faults.md"

ROWS = {
    "K": 5,
    "S": 7,
    "C": 8,
    "D": 5,
    "L": 5,
    "N": 6,
    "O": 3,
    "T": 7,
    "W": 6,
    "H": 4,
    "E": 5,
    "A": 6,
}
"""The last number of each letter."""

CATALOGUE = [f"{letter}{number}" for letter, n in ROWS.items() for number in range(1, n + 1)]

ONLY_SLOW = {"K2"}
"""Rows without a test in the default suite."""


def table():
    """Rows of the page, and the files that each links to."""
    _, text = PAGE.read_text(encoding="utf-8").split("## Every fault and its test")
    rows = re.findall(r"^\| ([A-Z]\d) \| [^|]+ \| ([^|]+) \|$", text, flags=re.MULTILINE)
    return [(row, [PAGE.parent / link for link in links(cell)]) for row, cell in rows]


def links(cell):
    found = re.findall(r"\[([^]]+)\]\(([^)]+)\)", cell)
    assert all(Path(target).name == name for name, target in found), cell
    return [target for _, target in found]


def rows_of(name):
    """The rows at the beginning of a test's name: test_s1_s6_a_signal is of S1 and S6."""
    found = re.match(r"test((?:_[a-z]\d)+)_", name)
    return set(found[1].upper().split("_")[1:]) if found else set()


def cases_of(path):
    """Names of a file's tests, and whether each is marked slow."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    all_slow = any("mark.slow" in ast.unparse(node) for node in tree.body if is_pytestmark(node))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            yield node.name, all_slow or "mark.slow" in marks


def is_pytestmark(node):
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"


def faulty(rows):
    """What is wrong with a table."""
    names = [row for row, _ in rows]
    wrong = [f"{row} is not there once" for row in CATALOGUE if names.count(row) != 1]
    wrong += [f"{row} is no row of the catalogue" for row in names if row not in CATALOGUE]
    for row, paths in rows:
        if not paths or not all(path.is_file() for path in paths):
            wrong.append(f"{row} names no file, or one that is missing")
            continue
        shown = [[test for test in cases_of(path) if row in rows_of(test[0])] for path in paths]
        wrong += [
            f"{row} is not in {path}" for path, tests in zip(paths, shown, strict=True) if not tests
        ]
        tests = [test for some in shown for test in some]
        for kind, of_kind in (
            ("test", [slow for name, slow in tests if "control" not in name]),
            ("control", [slow for name, slow in tests if "control" in name]),
        ):
            if not of_kind:
                wrong.append(f"{row} has no {kind}")
            elif all(of_kind) and row not in ONLY_SLOW:
                wrong.append(f"{row} has no {kind} in the default suite")
    return wrong


def test_every_row_of_the_catalogue_has_a_test_and_a_control_in_the_file_that_the_page_names():
    assert len(CATALOGUE) == 67
    assert faulty(table()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "K1 is not there once"),
        (lambda rows: [*rows, rows[3]], "K4 is not there once"),
        (lambda rows: [*rows, ("Z1", rows[0][1])], "Z1 is no row of the catalogue"),
        (lambda rows: [("K1", []), *rows[1:]], "K1 names no file, or one that is missing"),
        (lambda rows: [("K1", [PAGE.parent / "none.py"]), *rows[1:]], "K1 names no file, or one"),
        (lambda rows: [("K1", rows[-1][1]), *rows[1:]], "K1 is not in "),
        (lambda rows: [("K1", rows[-1][1]), *rows[1:]], "K1 has no control"),
    ],
)
def test_control_a_page_that_rots_is_noticed(change, message):
    assert callable(change)
    assert any(wrong.startswith(message) for wrong in faulty(change(table())))
