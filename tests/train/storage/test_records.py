"""Records are read back as written; torn lines are dropped; damage is named."""

import json
import re
from pathlib import Path

import pytest

from train.storage import records
from train.storage.records import append_jsonl, read_json, read_jsonl, write_json

NAN, INF = float("nan"), float("inf")


def test_json_comes_back_with_its_exact_floats(tmp_path):
    value = {"loss": 0.1 + 0.2, "tokens": 6 * 10**30, "none": None, "list": [1, [2.5e-300]]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_non_finite_numbers_are_written_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": NAN, "b": [INF, {"c": -INF}], "d": (1.0, NAN)})
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [None, {"c": None}], "d": [1.0, None]}


def test_a_row_says_which_of_its_numbers_were_not_finite(tmp_path):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, [{"loss": NAN, "step": 3, "norms": [1.0, INF], "of": {"b": -INF}}])
    (row,) = read_jsonl(path)
    assert row.pop("nonfinite") == {"loss": "nan", "norms.1": "inf", "of.b": "-inf"}
    assert row == {"loss": None, "step": 3, "norms": [1.0, None], "of": {"b": None}}
    (read,) = read_jsonl(path)
    # as when a run rewinds: nothing is forgotten
    append_jsonl(path, [read])
    assert read_jsonl(path) == [read, read]


def test_a_failed_write_leaves_the_old_file_and_no_partial_is_taken_for_it(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"kept": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"bad": object()})
    assert read_json(path) == {"kept": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"kept": 1})

    def crash(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", crash)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"kept": 1}
    monkeypatch.undo()
    # the partial file of the crash is no hindrance
    write_json(path, {"new": 2})
    assert read_json(path) == {"new": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "message"), [('{"a": 1', "not JSON"), ("[1]", "expected a JSON object, got list")]
)
def test_a_damaged_json_file_is_named(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {message}"):
        read_json(path)


def test_rows_are_appended_in_order(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, [{"step": 1}, {"step": 2}])
    append_jsonl(path, [{"step": 3}], sync=True)
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 3}]


WHOLE = '{"step": 1}\n{"step": 2, "text": "\\u00e9"}\n'


@pytest.mark.parametrize("cut", range(len('{"step": 1}\n'), len(WHOLE) - 1))
def test_a_line_torn_anywhere_is_dropped_by_readers_and_writers(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    path.write_text(WHOLE[:cut], encoding="utf-8")
    expected = [{"step": 1}]
    assert read_jsonl(path) == expected
    # the next process goes on after it
    append_jsonl(path, [{"step": 3}])
    assert read_jsonl(path) == [*expected, {"step": 3}]


def test_a_line_torn_inside_a_character_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"text": "\xc3')
    assert read_jsonl(path) == [{"step": 1}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{torn", "not JSON"),
        ("\x00\x00\x00", "not JSON"),
        ("nonsense", "not JSON"),
        ("[3]", "expected a JSON object"),
    ],
)
def test_damage_before_the_last_line_is_named_with_its_line(tmp_path, damage, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:2: {message}"):
        read_jsonl(path)


def test_a_row_that_cannot_be_written_leaves_whole_rows_only(tmp_path):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, [{"step": 1}])
    with pytest.raises(TypeError, match="not JSON serializable"):
        append_jsonl(path, [{"step": 2, "bad": object()}])
    assert read_jsonl(path) == [{"step": 1}]


def test_the_runs_table_has_the_agreed_columns_in_their_order():
    agreed = (
        "n_params, tokens, flops, loss, run_id, study, rung, lr, batch_tokens, schedule, seed, "
        "state, n_params_embedding, n_params_non_embedding, n_params_head, n_params_total, "
        "flops_6nd, flops_exact, flops_head, flops_attention, bits_per_byte, loss_train, "
        "unique_tokens, tokens_per_second, seconds, device"
    )
    assert ", ".join(records.RUNS_TABLE_COLUMNS) == agreed


def test_the_states_are_golden():
    assert " ".join(records.STATES) == "planned running preempted completed diverged failed"
    assert records.FINISHED_STATES == ("completed", "diverged")


def test_a_list_of_numbers_stands_on_one_line_and_text_is_left_alone(tmp_path):
    value = {"a_ci": [0.5, -1e-07, None], "rows": [[1, 2.5], [3, 4]], "text": "[\n 1,\n 2 ]"}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert '"a_ci": [0.5, -1e-07, null],' in text
    assert "  [1, 2.5],\n  [3, 4]\n" in text
    assert read_json(tmp_path / "x.json") == value


def test_a_rename_is_synced_unless_the_caller_says_otherwise(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(records, "sync_folder", synced.append)
    write_json(tmp_path / "a.json", {})
    records.write_text(tmp_path / "a.yaml", "a: 1\n")
    assert synced == [tmp_path, tmp_path]
    write_json(tmp_path / "status.json", {}, sync=False)
    assert len(synced) == 2
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8") == "a: 1\n"


def test_a_folder_whose_file_system_cannot_sync_it_is_no_error(tmp_path, monkeypatch):
    records.sync_folder(tmp_path)
    # EINVAL, EIO
    for number, is_told in ((22, False), (5, True)):

        def fail(descriptor, number=number):
            raise OSError(number, "no")

        monkeypatch.setattr(records.os, "fsync", fail)
        if is_told:
            with pytest.raises(OSError, match="no"):
                records.sync_folder(tmp_path)
        else:
            records.sync_folder(tmp_path)


def test_a_row_that_is_too_long_is_neither_written_nor_read(tmp_path):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, [{"step": 1}])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: a row of over 1000000 bytes"):
        append_jsonl(path, [{"text": "x" * 1_000_000}])
    assert read_jsonl(path) == [{"step": 1}]
    path.write_text(json.dumps({"text": "x" * 1_000_000}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:1: a line of 1000012 char"):
        read_jsonl(path)


def test_nesting_that_overflows_the_parser_names_the_file(tmp_path):
    text = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path = tmp_path / "deep.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: not JSON .nested too deeply"):
        read_json(path)
    lines = tmp_path / "deep.jsonl"
    lines.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(lines))}:1: not JSON .nested too deep"):
        read_jsonl(lines)
    with pytest.raises(RecursionError):
        # what a reader without the limit meets
        json.loads(text)


def test_a_json_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LARGEST_JSON_BYTES", 10)
    (tmp_path / "a.json").write_text('{"a": 12345}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: 12 bytes, more than the 10 that are read"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({}, "not a manifest (no list of runs)"),
        ({"runs": {}}, "not a manifest (no list of runs)"),
        ({"runs": [1]}, "run_id 'None' cannot name a folder"),
        ({"runs": [{"run_id": 3}]}, "run_id '3' cannot name a folder"),
        ({"runs": [{"run_id": "../../x"}]}, "run_id '../../x' cannot name a folder"),
        ({"runs": [{"run_id": "a" * 201}]}, "cannot name a folder of the study"),
        ({"runs": [{"run_id": "a"}] * 100_001}, "100001 runs, more than the 100000 that are read"),
    ],
)
def test_a_hostile_manifest_is_refused_by_name(manifest, message):
    with pytest.raises(ValueError, match=f"^m.json: .*{re.escape(message)}"):
        records.refuse_hostile_manifest(Path("m.json"), manifest)


def test_the_run_ids_that_we_make_are_no_alarm():
    runs = [{"run_id": "d32l2-10.2k-lr1.00e-02-s0-4cd61a36"}] * 100_000
    records.refuse_hostile_manifest(Path("m.json"), {"runs": runs})
