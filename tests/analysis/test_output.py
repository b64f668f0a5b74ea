"""The files of an answer, beside those of an earlier one and of other people."""

import pytest

from analysis.output import FIGURES, PAGE, make_folder, remove_page, write_whole


def test_an_earlier_page_goes_and_other_files_stay(tmp_path):
    (tmp_path / "figures").mkdir()
    ours = [tmp_path / PAGE, *(tmp_path / "figures" / f"{name}.svg" for name in FIGURES)]
    others = [tmp_path / "notes.txt", tmp_path / "figures" / "mine.png", tmp_path / "fits.json"]
    for path in (*ours, *others):
        path.write_text("x")
    remove_page(tmp_path)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_a_folder_without_a_page_is_left_as_it_is(tmp_path):
    remove_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("old")

    def torn(partial):
        partial.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, torn)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_write_replaces_the_file(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("old")
    write_whole(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"out=.*file cannot be written \(File exists: .*another"):
        make_folder(tmp_path / "file")
    (tmp_path / "answer").mkdir()
    (tmp_path / "answer" / "figures").write_text("")
    with pytest.raises(OSError, match=r"cannot be written \(File exists: .*figures\)"):
        make_folder(tmp_path / "answer")


def test_a_new_folder_is_made_and_left_empty(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["figures"]
    assert list((tmp_path / "a" / "b" / "figures").iterdir()) == []
