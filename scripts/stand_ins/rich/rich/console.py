"""Lines without colour."""

import sys
from typing import TextIO


class Console:
    """Prints plain lines; never a terminal, so that nobody draws a bar."""

    is_terminal = False

    def __init__(self, *, file: TextIO | None = None, stderr: bool = False, **_: object) -> None:
        self._file = file or (sys.stderr if stderr else sys.stdout)

    def print(self, *words: object, **_: object) -> None:
        """Print words on a line."""
        print(*words, file=self._file)
