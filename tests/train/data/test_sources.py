import gzip
import json
from pathlib import Path

import pytest

from train.config.experiment import DataConfig, Source
from train.data import sources
from train.errors import ConfigError, DataError


def read(*patterns):
    data = DataConfig(source=Source.files, files=[str(pattern) for pattern in patterns])
    found = list(sources.documents(data, Path("unused")))
    assert all(document.read_bytes >= 0 for document in found)
    return [document.text for document in found]


def test_text_files_are_one_document_each_in_sorted_order(tmp_path):
    (tmp_path / "b.txt").write_text("B \u00e9", encoding="utf-8")
    (tmp_path / "a.txt").write_text("A", encoding="utf-8-sig")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"C"))
    assert read(tmp_path / "*.txt", tmp_path / "c.txt.gz") == ["A", "B \u00e9", "C"]
    # each once
    assert read(tmp_path / "b.txt", tmp_path / "*.txt") == ["B \u00e9", "A"]


def test_json_lines_give_their_text_field(tmp_path):
    lines = b'{"text": "one\\n\\u00e9", "id": 1}\n\n{"text": "two"}'
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    assert read(tmp_path / "a.jsonl") == ["one\n\u00e9", "two"]
    assert read(tmp_path / "b.jsonl.gz") == ["one\n\u00e9", "two"]


def test_a_long_text_is_cut_at_paragraphs_lines_words_or_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_CHARACTERS", 20)
    path = tmp_path / "a.txt"
    for text, first in (
        ("aaaa bbbb\ncccc\n\ndddd eeee ffff", "aaaa bbbb\ncccc\n\n"),
        ("aaaa bbbb cccc\ndddd eeee ffff", "aaaa bbbb cccc\n"),
        ("aaaa bbbb cccc dddd eeee ffff", "aaaa bbbb cccc dddd "),
        ("a" * 50, "a" * 20),
    ):
        path.write_text(text)
        pieces = read(path)
        assert pieces[0] == first
        assert "".join(pieces) == text
        assert max(map(len, pieces)) <= 20


def test_progress_adds_up_to_the_size_of_the_files(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * n}) + "\n" for n in range(100)))
    data = DataConfig(source=Source.files, files=[str(path)])
    read_bytes = sum(one.read_bytes for one in sources.documents(data, tmp_path))
    assert read_bytes == path.stat().st_size == sources.source_bytes(data, tmp_path)


def test_missing_files_are_named_with_what_is_near(tmp_path):
    (tmp_path / "corpus.txt").write_text("x")
    with pytest.raises(DataError, match=r"corpsu\.txt does not exist; did you mean corpus\.txt\?"):
        read(tmp_path / "corpsu.txt")
    with pytest.raises(DataError, match=r"no/where\.txt does not exist"):
        read(tmp_path / "no" / "where.txt")
    with pytest.raises(DataError, match=r"\*\.jsonl matches no file"):
        read(tmp_path / "*.jsonl")
    with pytest.raises(DataError, match=r"is a folder; use .*/\*\.txt"):
        read(tmp_path)


def test_files_that_are_not_read_are_refused(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ConfigError, match=r"a\.pdf ends in none of \.txt, \.txt\.gz, \.jsonl"):
        read(tmp_path / "a.pdf")
    with pytest.raises(ConfigError, match=r"needs data\.files=\[PATH or GLOB, \.\.\.\]"):
        read()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"a\.jsonl:2: not JSON \("),
        ('{"txet": "a"}', r"a\.jsonl:2: expected an object with a string field text; .* txet"),
        ('{"text": 7}', r"a\.jsonl:2: expected an object with a string field text"),
        ('["text"]', r"a\.jsonl:2: expected an object with a string field text"),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.jsonl")


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: not UTF-8 .*; convert it first"):
        read(tmp_path / "latin.txt")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(DataError, match=r"cut\.txt\.gz: not a whole gzip file"):
        read(tmp_path / "cut.txt.gz")
    (tmp_path / "plain.jsonl.gz").write_bytes(b"{}")
    with pytest.raises(DataError, match=r"plain\.jsonl\.gz: not a whole gzip file"):
        read(tmp_path / "plain.jsonl.gz")


def test_a_synthetic_source_has_no_documents(tmp_path):
    data = DataConfig(source=Source.synthetic)
    with pytest.raises(ConfigError, match=r"data\.source=synthetic gives tokens, not documents"):
        next(sources.documents(data, tmp_path))
