"""The README's tree is the real tree."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def tree():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    return text.split("## What is where", 1)[1]


def modules(package):
    """Every module below a package, as a path; the packages' own files are left out."""
    root = REPO / package
    own = ("__init__.py", "__main__.py")
    return {str(p.relative_to(root)) for p in root.rglob("*.py") if p.name not in own}


def test_every_room_of_training_is_in_the_tree_and_nothing_else():
    part = tree().split("train/  ", 1)[1].split("\nanalysis/", 1)[0]
    named = set(re.findall(r"(?m)^  ([a-z_]+)/ ", part))
    rooms = {path.parent.name for path in (REPO / "train").glob("*/__init__.py")}
    assert named == rooms | {"plugins"}
    files = set(re.findall(r"\b([a-z_]+\.py)\b", part))
    assert files == {path.name for path in (REPO / "train").glob("*.py")} - {"__init__.py"}


def test_the_story_of_a_run_is_eight_files():
    story = tree().split("The story of a run", 1)[1].split("\n\n", 1)[0]
    files = re.findall(r"\]\((train/[a-z_/]+\.py)\)", story)
    assert len(files) == 8
    assert all((REPO / file).exists() for file in files)


def test_every_module_of_the_analysis_is_named_under_its_package():
    part = tree().split("\nanalysis/", 1)[1].split("\nscripts/", 1)[0]
    named = {".": set(re.findall(r"\b([a-z_]+)\.py\b", part.split("\n  intake/")[0]))}
    named["."] |= set(re.findall(r"^  ([a-z_]+)\.py", part, flags=re.MULTILINE))
    for block in re.split(r"\n  (?=\S)", part):
        found = re.match(r"([a-z_]+)/  +(.+)", block, flags=re.DOTALL)
        if found:
            named[found[1]] = set(re.findall(r"[a-z_]+", found[2]))
    for module in modules("analysis"):
        package, _, name = module.removesuffix(".py").rpartition("/")
        if package not in ("figures", "report"):  # one module a family of figures, or of sections
            assert name in named[package or "."], module
    assert named["."] <= {path.stem for path in (REPO / "analysis").glob("*.py")}


def test_nothing_is_left_to_fill_in_and_every_link_leads_somewhere():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:docs|configs)/[^` ]+)`", text)
    assert len(links) >= 3
    for link in links:
        assert (REPO / link).exists(), link


def test_the_readme_stays_short():
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) < 200
