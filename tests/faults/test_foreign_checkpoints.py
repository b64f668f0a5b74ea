"""C5 and C6: sound checkpoints of another run, or of another version of the format."""

import json
import shutil

import pytest

from faults.damage import NEWEST, PREVIOUS, contents, copy_of, names, step_name, vouch_again
from faults.runner import run_child, run_folder, run_here, start_steps
from faults.same_run import assert_same_run
from faults.spoil import crash
from train.config.experiment import DataConfig, Source
from train.errors import CheckpointError
from train.run_folder import checkpoint
from train.run_folder.checkpoint import SCHEMA
from train.storage.records import read_json, read_jsonl
from train.training import resume


def test_c5_a_checkpoint_of_another_config_is_refused_field_by_field(killed_run, tiny):
    # the last is plumbing, which is free to change
    config = tiny(seed=1, optimizer__lr=0.02, model__d_model=48, machine__log_every=3)
    folder = copy_of(killed_run, config)
    before = contents(folder.checkpoints)
    for _ in range(2):
        outcome = run_child(config)
        assert outcome.exit_code == 4
        for line in (
            "seed: 0 in the checkpoint, 1 asked for",
            "optimizer.lr: 0.01 in the checkpoint, 0.02 asked for",
            "model.d_model: 32 in the checkpoint, 48 asked for",
            "n_params: 31008 in the checkpoint, ",
        ):
            assert f"\n  {line}" in outcome.stderr
        assert outcome.stderr.count(" in the checkpoint, ") == 4
        assert "Traceback" not in outcome.stderr
        assert contents(folder.checkpoints) == before  # not quarantined, not deleted


@pytest.mark.parametrize("field", ["numerics_version", "tokenizer_sha256", "data_sha256"])
def test_c5_each_fact_of_a_run_s_identity_is_compared(stopped, field):
    config, folder = stopped
    newest = folder.checkpoints / step_name(NEWEST)
    state = read_json(newest / "state.json")
    here, state["identity"][field] = state["identity"][field], "another"
    (newest / "state.json").write_text(json.dumps(state), encoding="utf-8")
    vouch_again(newest, NEWEST)
    with pytest.raises(CheckpointError) as refused:
        run_here(config)
    assert f"\n  {field}: 'another' in the checkpoint, {here!r} asked for\n" in str(refused.value)
    assert names(folder.checkpoints) == [step_name(PREVIOUS), step_name(NEWEST)]


def test_c5_text_that_was_exchanged_under_the_same_name_is_noticed(tiny, tmp_path):
    """The config is the same to the letter, and so are the text's length and the token count."""
    text, data = tmp_path / "text.jsonl", tmp_path / "data"
    config = tiny(
        data=DataConfig(
            name="own", source=Source.files, files=[str(text)], seq_len=32, validation_tokens=4_000
        ),
        paths__data=str(data),
    )
    write_text(text, "abcdefghij")
    crash(config, after=9)
    shutil.rmtree(data)
    write_text(text, "klmnopqrst")
    with pytest.raises(CheckpointError, match=r"another run:\n  data_sha256: '\w+' in the .*") as e:
        run_here(config)
    assert str(e.value).count(" in the checkpoint, ") == 1
    run_here(tiny(data=config.data, paths__data=str(data), restart=True))
    assert start_steps(run_folder(config)) == [0]


def write_text(path, letters):
    lines = (letters[i % 10 :] + letters[: i % 7] for i in range(8_000))
    text = "".join(lines)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, 40_000, 500):
            file.write(json.dumps({"text": text[start : start + 500]}) + "\n")


def test_c5_control_without_the_comparison_two_runs_are_mixed_into_one(
    killed_run, tiny, monkeypatch
):
    config = tiny(optimizer__lr=0.02)
    folder = copy_of(killed_run, config)
    monkeypatch.setattr(resume, "_differences", lambda *values: iter(()))
    with pytest.warns(UserWarning, match="rows that were computed twice differ"):  # too late
        run_here(config)
    assert folder.state() == "completed"
    lrs = [row["lr"] for row in read_jsonl(folder.metrics)]
    assert lrs[NEWEST] > 1.5 * lrs[NEWEST - 1]  # half of the record is another run's


def as_version_one_wrote_it(folder):
    """The first schema: less in state.json, and no hash in DONE.json of its own content."""
    for step in (PREVIOUS, NEWEST):
        saved = folder.checkpoints / step_name(step)
        state = read_json(saved / "state.json")
        old = {key: state[key] for key in ("seconds", "window", "loss_train")}
        old["data_sha256"] = state["identity"]["data_sha256"]
        (saved / "state.json").write_text(json.dumps(old), encoding="utf-8")
        vouch_again(saved, step)
        done = read_json(saved / "DONE.json")
        del done["sha256"]
        (saved / "DONE.json").write_text(json.dumps({**done, "schema": 1}), encoding="utf-8")


def test_c6_a_checkpoint_of_an_older_version_is_refused_with_its_version(
    stopped, tiny, reference_run
):
    config, folder = stopped
    as_version_one_wrote_it(folder)
    before = contents(folder.checkpoints)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"has schema 1, and this .* reads {SCHEMA}"):
            run_here(config)
        assert contents(folder.checkpoints) == before
    run_here(tiny(restart=True))
    assert_same_run(reference_run, folder)


def test_c6_control_without_the_version_it_is_half_loaded(stopped, monkeypatch):
    config, folder = stopped
    as_version_one_wrote_it(folder)
    monkeypatch.setattr(checkpoint, "SCHEMA", 1)
    monkeypatch.setattr(checkpoint, "_digest", lambda facts: None)
    with pytest.raises(KeyError, match="identity"):  # deep inside, and no word on versions
        run_here(config)
