"""The README's tree is the real tree."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_every_module_has_its_line_in_the_tree() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    tree = text.split("## What is where", 1)[1]
    listed = set(re.findall(r"^  ([a-z0-9_/]+\.(?:py|html\.j2))  +\S", tree, flags=re.MULTILINE))
    real = {
        str(path.relative_to(REPO / package))
        for package in ("train", "analysis")
        for path in (REPO / package).rglob("*")
        if path.suffix in (".py", ".j2") and path.name not in ("__init__.py", "__main__.py")
    }
    assert listed == real


def test_nothing_is_left_to_fill_in_and_every_link_leads_somewhere() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:docs|configs)/[^` ]+)`", text)
    assert len(links) >= 3
    for link in links:
        assert (REPO / link).exists(), link


def test_the_readme_stays_short() -> None:
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) < 200
