import itertools

import numpy as np
import pandas as pd
import pytest
from study_folders import isoflop_table

from analysis.errors import InputError
from analysis.intake.table import screen
from analysis.intake.units import check_units

COUNTS = ("n_params", "tokens", "flops")
ONE_OR_TWO = [names for k in (1, 2) for names in itertools.combinations(COUNTS, k)]


def check(frame):
    return check_units(screen(frame, None)[0])


@pytest.mark.parametrize("names", ONE_OR_TWO)
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_one_or_two_counts_off_by_a_thousand_are_caught(names, factor):
    frame = isoflop_table()
    frame[list(names)] *= factor
    with pytest.raises(InputError, match="tokens / n_params is"):
        check(frame)


@pytest.mark.parametrize("names", list(itertools.permutations(COUNTS, 2)))
def test_counts_off_in_opposite_directions_are_caught(names):
    frame = isoflop_table()
    frame[names[0]] *= 1e3
    frame[names[1]] *= 1e-3
    with pytest.raises(InputError, match="tokens / n_params is"):
        check(frame)


def test_tokens_and_flops_in_thousands_name_the_pair():
    frame = isoflop_table()
    frame[["tokens", "flops"]] *= 1e-3
    with pytest.raises(InputError, match=r"outside 0.5..4000: tokens and flops may both be in"):
        check(frame)


def tables(published):
    """Every published table of runs, one experiment each."""
    out = {"chinchilla": published("chinchilla_epoch.csv")}
    for name in ("datablations.csv", "steplaw_lr_batch.csv"):
        frame = published(name)
        out[name] = frame.assign(flops=6.0 * frame["n_params"] * frame["tokens"])
    for name, columns in (
        ("marin_isoflop.csv", ["experiment"]),
        ("porian_isoflop.csv", ["file", "hparams", "warmup", "decay", "param_count", "val"]),
    ):
        for key, rows in published(name).groupby(columns):
            out[f"{name} {key}"] = rows.reset_index(drop=True)
    return out


def test_published_tables_are_in_their_units(published):
    found = tables(published)
    assert len(found) == 21
    for name, frame in found.items():
        assert check(frame) == [], name


def test_published_tables_off_by_a_thousand_are_caught(published):
    for name, frame in tables(published).items():
        usable = screen(frame, None)[0]
        for names, factor in itertools.product(ONE_OR_TWO, (1e3, 1e-3)):
            wrong = usable.copy()
            wrong[list(names)] *= factor
            with pytest.raises(InputError):
                assert check_units(wrong) == f"{name}: {names} times {factor:g} passes"


def test_runs_far_beyond_20_tokens_a_parameter_pass():
    n = np.geomspace(1e6, 1e8, 12)
    frame = pd.DataFrame({"n_params": n, "tokens": 3000 * n, "flops": 18000 * n * n, "loss": 3.0})
    frame["loss"] += np.arange(12) / 100
    assert check(frame) == []


def test_what_this_program_wrote_may_have_any_tokens_per_parameter():
    frame = isoflop_table()
    frame["n_params"] /= 1e3
    frame["flops"] /= 1e3
    ours = frame.assign(
        flops_6nd=6 * frame["n_params"] * frame["tokens"],
        n_params_total=frame["n_params"],
        n_params_embedding=frame["n_params"] * 0.1,
        n_params_non_embedding=frame["n_params"] * 0.9,
    )
    with pytest.raises(InputError, match=r"outside 0.5..4000"):
        check(frame)
    assert check(ours) == []
    assert check_units(screen(frame, None)[0], recorded=True) == []
    with pytest.raises(InputError, match=r"outside 0.5..4000"):
        check(ours.assign(n_params=ours["n_params"] / 10, flops=ours["flops"] / 10))


def test_a_perplexity_is_no_loss():
    with pytest.raises(InputError, match=r"median loss is 8.72e[+]03, outside .*perplexity"):
        check(isoflop_table().assign(loss=np.geomspace(8e3, 9.5e3, 35)))


def test_a_loss_that_repeats_bits_per_byte_is_no_loss_in_nats():
    frame = isoflop_table().assign(bits_per_byte=lambda f: f["loss"])
    with pytest.raises(InputError, match="loss repeats bits_per_byte; give loss in nats"):
        check(frame)
    assert check(frame.assign(bits_per_byte=frame["loss"] / np.log(2) / 4)) == []


def test_losses_that_are_all_the_same_are_no_measurements():
    with pytest.raises(InputError, match=r"every one of 35 losses is 2\.5: .*give each its own"):
        check_units(isoflop_table().assign(loss=2.5))


def test_losses_in_thousands_of_nats_are_refused():
    frame = isoflop_table()
    with pytest.raises(InputError, match=r"the median loss is 0\.0029, outside 0\.02\.\.1000"):
        check_units(frame.assign(loss=frame["loss"] * 1e-3))
