"""Bars that nobody sees."""

from typing import Self

TaskID = int


class _Column:
    def __init__(self, *_: object, **__: object) -> None:
        pass


BarColumn = MofNCompleteColumn = TextColumn = TimeElapsedColumn = TimeRemainingColumn = _Column


class Progress:
    """Takes what a bar is told."""

    def __init__(self, *_: object, disable: bool = False, **__: object) -> None:
        self.disable = disable

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def start(self) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Leave nothing."""

    def add_task(self, *_: object, **__: object) -> TaskID:
        """Return a name for it."""
        return 0

    def update(self, *_: object, **__: object) -> None:
        """Move nothing."""

    def reset(self, *_: object, **__: object) -> None:
        """Begin nothing anew."""

    def advance(self, *_: object, **__: object) -> None:
        """Move nothing."""
