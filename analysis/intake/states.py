"""What became of a run, by the column `state`: our words, and those of other trainers."""

import pandas as pd

from analysis.errors import InputError, near_names
from train.storage.records import STATES

OTHER_WORDS = {
    "completed": "complete finished done success succeeded ok",
    "diverged": "nan exploded",
    "failed": "failure error oom out_of_memory",
    "preempted": "crashed killed cancelled canceled interrupted stopped timeout incomplete "
    "unfinished preempting",
    "running": "started in_progress",
    "planned": "pending queued scheduled",
}
"""Words that mean one of STATES, words apart by spaces. What was cut short may have no final loss,
so it counts as unfinished."""

_MEANING = {word: state for state, words in OTHER_WORDS.items() for word in words.split()}
_MEANING |= {state: state for state in STATES}


def read_states(column: pd.Series) -> pd.Series:
    """Return each row's state in our words; a row without one stays empty.

    Raises:
        InputError: A word is none of them, so that nobody knows whether the run finished.
    """
    given = column.where(column.notna(), "").astype(str).str.strip()
    plain = given.str.lower().str.replace(r"[\s-]+", "_", regex=True)
    states = plain.map(_MEANING)
    unknown = states.isna() & (plain != "")
    if unknown.any():
        word = str(given[unknown].iloc[0])[:40]
        raise InputError(
            f"column 'state' holds '{word}' in {int(unknown.sum())} rows"
            f"{near_names(word, STATES)}; if it is something else than what became of the run, "
            "rename the column"
        )
    return states.where(plain != "", "")
