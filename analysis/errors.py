"""What a user can cause here, and how near names are suggested.

Every message gives the value, the rule and the nearest right value. Anything else that escapes is a
bug of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class AnalysisError(Exception):
    """Base of all errors that end the command with a message and no traceback."""

    exit_code = 2


class OptionError(AnalysisError):
    """A word of the command cannot be meant."""


class InputError(AnalysisError):
    """The table or the study cannot be read as runs."""


class RefusedError(AnalysisError):
    """These runs do not determine what was asked; the message says which runs would."""


def near_names(wrong: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the nearest known names, else the list of them."""
    names = sorted(set(known))
    lower = {name.lower(): name for name in names}
    near = [lower[word] for word in difflib.get_close_matches(wrong.lower(), lower, 3, 0.5)]
    near = near or [name for name in names if len(wrong) > 2 and wrong.lower() in name.lower()][:3]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(names)}" if names else ""
